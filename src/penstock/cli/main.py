"""
The command `penstock`: what it can do, and how it says that something is wrong.

Commands import what they need when they run: a role that is restarted should not wait for the others' libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.service.faults import EngineFaults
    from penstock.service.settings import Settings

EXIT_CANNOT_START: Final = 2


class Sentence(click.ClickException):
    """
    What went wrong, in one sentence on standard error.
    """

    def __init__(self, message: str, exit_code: int = EXIT_CANNOT_START) -> None:
        """
        Say it and end with this status.
        """
        super().__init__(message)
        self.exit_code: int = exit_code  # type: ignore[misc]  # click reads it from the instance, and says so

    def show(self, file: IO[Any] | None = None) -> None:
        """
        Print it.
        """
        click.echo(f"penstock: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    """
    A group whose commands end with a sentence where they meet an error of ours.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PenstockError as error:
            raise Sentence(error.message) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`penstock COMMAND --help` says more about each command.",
)
def cli() -> None:
    """
    Penstock follows a Postgres database and serves live subsets of its tables over HTTP, without ever making its
    write-ahead log pile up.

    \b
    See it work, with a Postgres of its own:
        penstock demo
    Serve your database (wal_level = logical, a user that may replicate):
        penstock serve postgresql://user:password@localhost:5432/shop --insecure
    Ask for a table, and then for what changes:
        curl 'http://127.0.0.1:3000/v1/shape?table=items&offset=-1'
    """  # noqa: D301 - \b is click's sign for "leave these lines alone"


@cli.command()
@click.argument("database_url", required=False)
@click.option("--port", metavar="NUMBER", help="Where clients are served.  [default: 3000]")
@click.option("--host", metavar="ADDRESS", help="Address to listen on.  [default: 0.0.0.0]")
@click.option("--data-dir", metavar="FOLDER", help="Where everything is kept.  [default: persistent]")
@click.option("--relay-dir", metavar="FOLDER", help="The relay log, best on another disk.  [default: DATA-DIR/relay]")
@click.option(
    "--acknowledge",
    metavar="relay|shapes",
    help="Confirm to Postgres what is durable in the relay log, or in the logs of all shapes.  [default: relay]",
)
@click.option("--web-workers", metavar="NUMBER", help="Processes that answer clients.  [default: 1]")
@click.option("--insecure", is_flag=True, help="Serve without a secret: who reaches the port reads every table.")
@click.option("--single-process", is_flag=True, help="All in one process: for development.")
@click.option("--demo-page", is_flag=True, help="Serve a page at /demo that shows a table changing.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.  [default: info]")
@click.option("--config", metavar="FILE", help="Settings in TOML.  [default: penstock.toml, if it is there]")
def serve(database_url: str | None, config: str | None, **flags: str | bool | None) -> None:
    """
    Serve the tables of a database.

    DATABASE_URL may be given in the environment instead, where other users of the machine cannot see the password.
    Every setting is also a variable: --data-dir is PENSTOCK_DATA_DIR; `penstock settings` lists them all. Flags win
    over variables, and those over penstock.toml.

    \b
    Try it on a database of your own:
        penstock serve postgresql://postgres:password@localhost/shop --insecure
    In production:
        DATABASE_URL=postgresql://… PENSTOCK_SECRET=… penstock serve --data-dir /var/lib/penstock

    Ctrl-C or SIGTERM ends it in order, within ten seconds. Exit status: 0 ended in order, 1 in haste (the next start
    replays), 2 could not start, 70 a part of it ended again and again, 78 only a person can help; the reason is on
    standard error.
    """  # noqa: D301
    from penstock.cli.serve import run_service  # noqa: PLC0415

    given = {name: value for name, value in flags.items() if value not in {None, False}}
    texts = {name: "true" if value is True else str(value) for name, value in given.items()}
    if database_url is not None:
        texts["database_url"] = database_url
    outcome = run_service(texts, config)
    if outcome.status:
        raise Sentence(outcome.sentence, outcome.status)


@cli.command()
@click.option("--port", type=click.IntRange(0, 65_535), help="Where to serve.  [default: 3000, or any that is free]")
@click.option("--bundled", is_flag=True, help="Use the bundled Postgres even where one is installed.")
def demo(port: int | None, *, bundled: bool) -> None:
    """
    Show a table changing live, with a Postgres of its own.

    Starts a throwaway Postgres with a small fleet of turbines whose readings change a few times a second, and serves
    them. Everything is gone after Ctrl-C.

    \b
    Where port 3000 is taken, or on any that is free:
        penstock demo --port 3100

    Exit status: 0 ended by Ctrl-C, 2 there is no Postgres to start, or it cannot serve; 70 and 78 as for `serve`.
    """  # noqa: D301
    from penstock.cli.demo import run_demo  # noqa: PLC0415

    outcome = run_demo(port=port, bundled=bundled)
    if outcome.status:
        raise Sentence(outcome.sentence, outcome.status)


@cli.command()
@click.option("--markdown", is_flag=True, help="As a table in Markdown.")
def settings(*, markdown: bool) -> None:
    """
    List all settings: names, defaults, meanings.

    \b
    Which are about the relay log?
        penstock settings | grep -A 1 RELAY

    Exit status: 0.
    """  # noqa: D301
    from penstock.service.declarations import describe_all  # noqa: PLC0415

    rows = describe_all()
    if markdown:
        click.echo("| Setting | Variable | Default | Meaning |\n|---|---|---|---|")
        for row in rows:
            names = ", ".join(f"`{name}`" for name in row.variables)
            click.echo(f"| `{row.name}` | {names} | {row.default} | {row.meaning} |")
        return
    for row in rows:
        click.echo(click.style(row.variables[0], bold=True) + (f"  [{row.default}]" if row.default else ""))
        click.echo(f"    {row.meaning}")
        if row.variables[1:]:
            click.echo(f"    also {', '.join(row.variables[1:])}")


@cli.command()
def version() -> None:
    """
    Say which version this is.

    \b
    For a report of what went wrong:
        penstock version

    Exit status: 0.
    """  # noqa: D301
    from importlib.metadata import version as version_of  # noqa: PLC0415

    click.echo(version_of("penstock"))


@cli.command()
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Where the service is.")
@click.pass_context
def explain(ctx: click.Context, url: str) -> None:
    """
    Say who holds the write-ahead log, since when, how many bytes and why.

    Asks a running service; its secret is taken from the variable PENSTOCK_SECRET.

    \b
    Why does the disk of the primary fill up?
        penstock explain --url http://sync.internal:3000

    Exit status: 0 it is ready, 1 it is not, 2 nobody answers.
    """  # noqa: D301
    from penstock.cli.explain import run_explain  # noqa: PLC0415

    ctx.exit(run_explain(url, os.environ.get("PENSTOCK_SECRET") or os.environ.get("ELECTRIC_SECRET")))


@cli.command()
@click.argument("database_url", envvar="DATABASE_URL")
@click.option("--stream", metavar="ID", envvar="PENSTOCK_REPLICATION_STREAM_ID", default="default", show_default=True)
@click.option("--slot", metavar="NAME", envvar="PENSTOCK_SLOT_NAME", help="If not penstock_slot_STREAM.")
@click.option(
    "--publication", metavar="NAME", envvar="PENSTOCK_PUBLICATION_NAME", help="If not penstock_publication_STREAM."
)
@click.pass_context
def doctor(ctx: click.Context, database_url: str, stream: str, slot: str | None, publication: str | None) -> None:
    """
    Say whether a database is fit to be followed, and which statements mend it.

    Changes nothing.

    \b
    Before the first `penstock serve`, and after changes of roles or settings:
        DATABASE_URL=postgresql://… penstock doctor

    Exit status: 0 it is fit, perhaps with warnings; 1 something must be mended; 2 it cannot be asked.
    """  # noqa: D301
    from penstock.cli.doctor import run_doctor  # noqa: PLC0415

    slot_name = slot or f"penstock_slot_{stream}"
    publication_name = publication or f"penstock_publication_{stream}"
    ctx.exit(run_doctor(database_url, slot_name=slot_name, publication_name=publication_name))


@cli.group(cls=_Commands)
def relay() -> None:
    """
    Look after the relay log, the copy of the stream that the service keeps on disk.
    """


@relay.command()
@click.option(
    "--data-dir",
    metavar="FOLDER",
    envvar="PENSTOCK_DATA_DIR",
    default="persistent",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The service's data folder.",
)
@click.option(
    "--relay-dir",
    metavar="FOLDER",
    envvar="PENSTOCK_RELAY_DIR",
    type=click.Path(path_type=Path),
    help="The relay log, if it is elsewhere.  [default: DATA-DIR/relay]",
)
@click.option("--quiet", is_flag=True, help="Print faults only.")
@click.pass_context
def verify(ctx: click.Context, data_dir: Path, relay_dir: Path | None, *, quiet: bool) -> None:
    """
    Read a relay log and say which of it can be read.

    Checks every checksum, the order of the segments and their joints, oldest epoch first. Changes nothing, and may run
    beside the service: what lies behind the end that counts is noted and is no fault.

    \b
    After a crash, or when a disk is suspected:
        penstock relay verify --data-dir /var/lib/penstock
    In a script:
        penstock relay verify --quiet && echo well

    Exit status: 0 all of it can be read, 1 something that counted cannot, 2 there is no relay log, or this user may not
    read it.
    """  # noqa: D301
    from penstock.cli.relay import find_relay_folder, run_verify  # noqa: PLC0415

    ctx.exit(run_verify(find_relay_folder(data_dir, relay_dir), is_quiet=quiet))


@cli.command()
@click.argument("database_url", envvar="DATABASE_URL", required=False)
@click.option("--fault", "faults", metavar="NAME", multiple=True, help="Only this one; may be said several times.")
@click.option("--mode", type=click.Choice(["relay", "shapes", "both"]), default="both", show_default=True)
@click.option("--defaults", is_flag=True, help="With the deadlines of production, not a tenth of them: takes longer.")
@click.option("--patience", type=click.FloatRange(1.0), default=1.0, help="Multiply the bounds, on a loaded machine.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--list", "is_list", is_flag=True, help="Say which faults there are, and end.")
@click.option("--json", "output", flag_value="json", help="Print the table as JSON.")
@click.option("--markdown", "output", flag_value="markdown", help="Print the table in Markdown.")
@click.pass_context
def torture(
    ctx: click.Context,
    database_url: str | None,
    *,
    faults: tuple[str, ...],
    mode: str,
    patience: float,
    output: str | None,
    defaults: bool,
    yes: bool,
    is_list: bool,
) -> None:
    """
    Break a service of its own on your database in every way there is, and show what became of it.

    Starts a throwaway service on the database, lets clients follow tables that it makes for this, stages one fault after
    the other, and measures how much write-ahead log was held, for how long, who had to start over, and whether every
    client has what the query gives. Makes a schema, a publication and a slot of its own and removes them at the end,
    also after Ctrl-C; touches nothing else. Not for a database in production.

    \b
    Which promises hold on this kind of Postgres?
        penstock torture postgresql://postgres@localhost/scratch --mode relay
    One fault only, as JSON:
        penstock torture postgresql://postgres@localhost/scratch --fault engine-stopped --yes --json

    Exit status: 0 all promises were kept, 1 one was broken, 2 it could not be tried, 130 interrupted.
    """  # noqa: D301
    from rich.console import Console  # noqa: PLC0415

    from penstock.cli import torture as command  # noqa: PLC0415

    if is_list:
        command.print_list(Console(highlight=False))
        return
    if not database_url:
        raise click.UsageError("Missing argument 'DATABASE_URL'.")
    specs = command.choose_faults(faults)
    if not yes and not _is_confirmed(command.question(database_url)):
        raise Sentence("not confirmed, nothing was done")
    ctx.exit(
        command.run_torture(
            database_url, specs, mode=mode, is_default=defaults, output=output or "table", patience=patience
        )
    )


def _complete_tables(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """
    Give names of tables for a shell, where DATABASE_URL says of which database; nothing when that does not answer at once.
    """
    from penstock.cli.completing import complete_tables  # noqa: PLC0415

    return complete_tables(os.environ.get("DATABASE_URL", ""), incomplete)


def _url_option(command: Any) -> Any:
    return click.option(
        "--url",
        envvar="PENSTOCK_URL",
        default="http://127.0.0.1:3000",
        show_default=True,
        help="Where the service is; or PENSTOCK_URL.",
    )(command)


def _shape_options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--where", metavar="CONDITION", help="Only these rows, as in SQL; $1, $2 … are parameters."),
            click.option("--param", "params", metavar="VALUE", multiple=True, help="The next parameter of --where."),
            click.option("--columns", metavar="A,B,…", help="Only these columns; the primary key must be among them."),
        )
    ):
        command = option(command)
    return command


def _names(columns: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else ()


def _secret() -> str | None:
    return os.environ.get("PENSTOCK_SECRET") or os.environ.get("ELECTRIC_SECRET")


@cli.command()
@click.argument("table", shell_complete=_complete_tables)
@_url_option
@_shape_options
@click.option("--json", "output", flag_value="json", help="An object on a line for each change.")
@click.option("--csv", "output", flag_value="csv", help="A line for each change: the operation, then the whole row.")
@click.option("--since", metavar="HANDLE:OFFSET", help="Go on from here, as Ctrl-C prints it.")
@click.option("--snapshot-only", is_flag=True, help="Show the rows there are, and end.")
@click.option("--changes-only", is_flag=True, help="Show only what changes from now on.")
@click.pass_context
def tail(
    ctx: click.Context,
    table: str,
    *,
    url: str,
    where: str | None,
    params: tuple[str, ...],
    columns: str | None,
    output: str | None,
    since: str | None,
    snapshot_only: bool,
    changes_only: bool,
) -> None:
    """
    Show the rows of a table, and then each change, live.

    On a terminal in columns and colours, + for rows that came, ~ for what changed and - for rows that went; a plain
    line for each when piped. The secret is taken from the variable PENSTOCK_SECRET.

    \b
    See what becomes of open orders:
        penstock tail orders --where 'status = $1' --param open
    Into another program, from now on:
        penstock tail orders --changes-only --json | jq .value

    Ctrl-C ends it, and prints the command that goes on where it stopped. Exit status: 0 all rows were shown, 2 nobody
    answers or the shape is refused, 130 ended by Ctrl-C.
    """  # noqa: D301
    from penstock.cli.tail import TailOptions, run_tail  # noqa: PLC0415

    if snapshot_only and changes_only:
        raise click.UsageError("--snapshot-only and --changes-only leave nothing to show: give one of them.")
    options = TailOptions(
        table=table,
        url=url,
        where=where,
        params=params,
        columns=_names(columns),
        output=output or "table",
        since=since,
        is_snapshot_only=snapshot_only,
        is_changes_only=changes_only,
    )
    ctx.exit(run_tail(options, _secret()))


@cli.command()
@click.argument("table", shell_complete=_complete_tables)
@click.option(
    "--to",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="Ends with .csv, .jsonl or .parquet.",
)
@_url_option
@_shape_options
@click.option("--text", metavar="A,B,…", help="Columns that Parquet is to have as the text that Postgres writes.")
def snapshot(
    table: str,
    *,
    path: Path,
    url: str,
    where: str | None,
    params: tuple[str, ...],
    columns: str | None,
    text: str | None,
) -> None:
    """
    Write the rows of a table, as they are now, into a file.

    The end of the file's name says the format; Parquet needs penstock[arrow], and has typed columns: one that holds what
    its type cannot, such as infinity in a timestamp, is to be named with --text. The rows must fit into memory. The secret
    is taken from the variable PENSTOCK_SECRET.

    \b
    Take open orders into a notebook:
        penstock snapshot orders --where 'status = $1' --param open --to orders.parquet

    Exit status: 0 written, 2 nobody answers, the shape is refused or the file cannot be written.
    """  # noqa: D301
    from penstock.cli.snapshot import check_target, run_snapshot  # noqa: PLC0415
    from penstock.client.stream import ShapeStream  # noqa: PLC0415

    check_target(path)
    stream = ShapeStream(table, where=where, params=params, columns=_names(columns), secret=_secret())
    run_snapshot(url, stream, path, text=_names(text))


@cli.command()
@click.argument("database_url", envvar="DATABASE_URL")
@click.option("--json", "is_json", is_flag=True, help="Print them as JSON.")
@click.pass_context
def slots(ctx: click.Context, database_url: str, *, is_json: bool) -> None:
    """
    List the replication slots of a server: whose they are, what they keep, and why.

    Changes nothing. Below each slot of Penstock that nobody reads stands the statement that drops it.

    \b
    Who keeps the disk full?
        DATABASE_URL=postgresql://… penstock slots

    Exit status: 0 well, 1 a slot of Penstock has no reader, 2 the server cannot be asked.
    """  # noqa: D301
    from penstock.cli.slots import run_slots  # noqa: PLC0415

    ctx.exit(run_slots(database_url, is_json=is_json))


@cli.command()
@click.argument("tables", nargs=-1, shell_complete=_complete_tables)
@click.option("--database-url", envvar="DATABASE_URL", required=True, help="The database; or DATABASE_URL.")
@click.option(
    "--style",
    type=click.Choice(["dataclass", "typeddict", "msgspec", "pydantic"]),
    default="dataclass",
    show_default=True,
    help="What kind of classes.",
)
@click.option(
    "--enums",
    type=click.Choice(["literal", "enum"]),
    default="literal",
    show_default=True,
    help="Enums as Literal, or as classes.",
)
@click.option("--columns", metavar="A,B,…", help="Only these columns, for a shape that has no others; of one table.")
@click.option(
    "--to", "path", metavar="FILE", type=click.Path(path_type=Path), help="Write there and not to the output."
)
def codegen(
    tables: tuple[str, ...], *, database_url: str, style: str, enums: str, columns: str | None, path: Path | None
) -> None:
    """
    Write classes for the rows of tables, to be the `row_type` of shapes.

    TABLES are written as in SQL; without any it is all of the schema public. The same tables give the same text, so that
    it can be kept in the repository and checked.

    \b
    A module of dataclasses for all tables:
        DATABASE_URL=postgresql://… penstock codegen --to rows.py
    For a shape with two columns, with pydantic:
        penstock codegen orders --columns id,status --style pydantic

    Exit status: 0 written, 2 the database cannot be asked, or something is not there or cannot be written.
    """  # noqa: D301
    from penstock.cli.codegen import run_codegen  # noqa: PLC0415

    text = run_codegen(database_url, tables, columns=_names(columns), style=style, enums=enums, path=path)
    if path is None:
        click.echo(text, nl=False)


@cli.command()
@_url_option
@click.option(
    "--order",
    type=click.Choice(["bytes", "read", "table"]),
    default="bytes",
    show_default=True,
    help="The largest first, the one that was read last first, or by table.",
)
@click.option("--table", default="", help="Only shapes on tables of this name, without its schema.")
@click.option("--limit", type=click.IntRange(1, 1000), default=25, show_default=True, help="How many at most.")
@click.option("--skip", type=click.IntRange(0, 100_000), default=0, help="How many to leave out before them.")
@click.option("--json", "is_json", is_flag=True, help="Print them as JSON, with all that is told of each.")
def shapes(*, url: str, order: str, table: str, limit: int, skip: int, is_json: bool) -> None:
    """
    List the shapes of a running service: tables and conditions, who waits, how large their logs are.

    Under `waiting` stands how many requests wait for changes now, of the web worker that answers; there is one if nobody
    has changed that. Conditions are shown with the values in them. The secret is taken from the variable PENSTOCK_SECRET.

    \b
    What fills the disk?
        penstock shapes --limit 10
    Who reads orders?
        penstock shapes --table orders --order read

    Exit status: 0 listed, 2 nobody answers.
    """  # noqa: D301
    from penstock.cli.shapes import run_shapes  # noqa: PLC0415

    question = {"order": order, "table": table, "limit": str(limit), "skip": str(skip)}
    run_shapes(url, _secret(), question, is_json=is_json)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print what makes a shell complete the commands and options of penstock, and names of tables where DATABASE_URL says of
    which database.

    \b
    In ~/.bashrc, or ~/.zshrc with zsh:
        eval "$(penstock completion bash)"
    For fish:
        penstock completion fish > ~/.config/fish/completions/penstock.fish

    Exit status: 0.
    """  # noqa: D301
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(cli, {}, "penstock", "_PENSTOCK_COMPLETE").source())


@cli.command(hidden=True)
@click.argument("name", expose_value=False)
@click.pass_context
def role(ctx: click.Context) -> None:
    """
    Be a child of `penstock serve`. NAME is for those who list processes; the orders come on standard input.
    """
    from penstock.service.lifecycle import run_role  # noqa: PLC0415

    ctx.exit(run_role(find_faults=_find_faults))


def _is_confirmed(question: str) -> bool:
    """
    Ask; whoever cannot be asked has not agreed.
    """
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        return False


def _find_faults(settings: Settings) -> EngineFaults | None:
    """
    Find what tests want to fail; imported only where the settings allow such tests.
    """
    from penstock.testing.faults import find_faults  # noqa: PLC0415

    return find_faults(settings)


def main() -> None:
    """
    Run the command line.
    """
    cli(prog_name="penstock")
