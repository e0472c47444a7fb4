"""
`penstock tail`: shows the rows of a table and then each change, until it is left.

Shell. Values come from tables that others write to: what a terminal would obey is written out instead.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec

from penstock.cli.following import follow, parse_since
from penstock.client.materialize import Materializer
from penstock.client.stream import Message, MustRefetch, Resume, ShapeStream, UpToDate

EXIT_INTERRUPTED: Final = 130
VALUE_LETTERS_MAX: Final = 40
"""How wide a column gets on a terminal; longer values are cut there, and nowhere else."""
WIDTH_ROWS_COUNT: Final = 200
"""Of how many rows of the first answer the widths of columns are taken."""
_MARKS: Final = {"insert": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}


@dataclass(frozen=True, kw_only=True)
class TailOptions:
    """
    What is to be followed, and how it is shown.

    Attributes:
        table, url, where, params, columns: the shape, and where it is served.
        output: `table`, `json` or `csv`.
        since: where to go on, as text; None for the beginning.
        is_snapshot_only: end when all rows have been shown.
        is_changes_only: leave the rows out that are there already.
    """

    table: str
    url: str
    where: str | None = None
    params: Sequence[str] = ()
    columns: Sequence[str] = ()
    output: str = "table"
    since: str | None = None
    is_snapshot_only: bool = False
    is_changes_only: bool = False

    def stream(self, secret: str | None) -> ShapeStream:
        """
        Subscribe. CSV has a line for each row, so it needs whole rows with every change.
        """
        return ShapeStream(
            self.table,
            columns=self.columns,
            where=self.where,
            params=self.params,
            replica="full" if self.output == "csv" else "default",
            secret=secret,
            resume=None if self.since is None else parse_since(self.since),
            is_from_now=self.is_changes_only,
        )

    def command(self, resume: Resume) -> str:
        """
        Give the command that goes on from a place.
        """
        words = ["penstock", "tail", self.table, "--url", self.url]
        for name, value in (("--where", self.where), *(("--param", value) for value in self.params)):
            words += [] if value is None else [name, value]
        words += ["--columns", ",".join(self.columns)] if self.columns else []
        words += [] if self.output == "table" else [f"--{self.output}"]
        words += ["--changes-only"] if self.is_changes_only else []
        return shlex.join([*words, "--since", f"{resume.handle}:{resume.offset}"])


def run_tail(options: TailOptions, secret: str | None) -> int:
    """
    Show until the end or Ctrl-C; gives the exit status.

    Raises:
        PenstockError: nobody answers, or the shape is refused.
    """
    stream = options.stream(secret)
    is_terminal = sys.stdout.isatty()
    printer = _PRINTERS[options.output](is_terminal)
    materializer = Materializer()
    shown: Resume | None = None
    try:
        for events in follow(options.url, stream, is_live=not options.is_snapshot_only, say=_note):
            printer.learn(list(stream.schema or {}), events)
            for event in events:
                match event:
                    case MustRefetch():
                        materializer.clear()
                        printer.reset()
                    case UpToDate():
                        pass
                    case message if options.is_snapshot_only and options.since is None:
                        materializer.apply(message)
                    case message:
                        printer.change(message)
            sys.stdout.flush()
            shown = stream.resume
    except KeyboardInterrupt:
        click.echo(err=True)
        if shown is not None and str(shown.offset) != "-1":
            _note(f"to go on from here: {options.command(shown)}")
        return EXIT_INTERRUPTED
    for key, row in materializer.rows.items():
        printer.change({"key": key, "value": row, "headers": {"operation": "insert"}})
    if options.output == "table":
        count = len(materializer.rows)
        if options.since is None and is_terminal:
            click.echo(f"({count} row{'' if count == 1 else 's'})")
    return 0


def _note(sentence: str) -> None:
    click.echo(
        click.style(f"penstock: {sentence}", dim=True) if sys.stderr.isatty() else f"penstock: {sentence}", err=True
    )


def visible(text: str) -> str:
    """
    Write out what a terminal would obey, line ends among it.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def csv_field(value: str | None) -> str:
    """
    Write a field as `COPY … CSV` does: NULL is empty, and empty text is quoted.
    """
    if value is None:
        return ""
    if value == "" or any(letter in value for letter in ',"\r\n') or value == "\\.":
        doubled = value.replace('"', '""')
        return f'"{doubled}"'
    return value


class _TablePrinter:
    """
    A line for each change: columns under each other on a terminal, `name=value` otherwise.
    """

    def __init__(self, is_terminal: bool) -> None:  # noqa: FBT001 - printers are alike
        self._is_terminal: Final = is_terminal
        self._widths: dict[str, int] = {}

    def learn(self, columns: Sequence[str], events: Sequence[object]) -> None:
        """
        Take the names of the columns, and their widths from the first rows; print them as a head.
        """
        if not self._is_terminal or self._widths or not columns:
            return
        widths = {name: len(visible(name)) for name in columns}
        rows = [event["value"] for event in events[:WIDTH_ROWS_COUNT] if isinstance(event, dict)]
        for row in rows:
            for name, value in row.items():
                widths[name] = min(max(widths.get(name, 0), len(_shown(value))), VALUE_LETTERS_MAX)
        self._widths = widths
        click.secho("  " + " │ ".join(visible(name).ljust(width) for name, width in widths.items()), bold=True)
        click.secho("──" + "─┼─".join("─" * width for width in widths.values()), dim=True)

    def reset(self) -> None:
        """
        The log is over.
        """
        self._widths = {}
        click.secho("* the log began anew: the rows come again", fg="magenta" if self._is_terminal else None)

    def change(self, message: Message) -> None:
        """
        Print a change.
        """
        operation = message["headers"].get("operation", "")
        value: Mapping[str, str | None] = message.get("value", {})
        if not self._is_terminal:
            told = " ".join(f"{visible(name)}={_quoted(text)}" for name, text in value.items())
            click.echo(f"{operation} {told}")
            return
        mark, colour = _MARKS.get(operation, ("?", "white"))
        cells = [
            (_shown(value[name])[:width] if name in value else "·").ljust(width) for name, width in self._widths.items()
        ]
        click.secho(f"{mark} " + " │ ".join(cells).rstrip(), fg=colour)


def _shown(value: str | None) -> str:
    return "∅" if value is None else visible(value)


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    text = visible(value)
    return text if text and not any(letter in " '\"=" for letter in text) and text != "NULL" else shlex.quote(text)


class _JsonPrinter:
    """
    An object on a line for each change.
    """

    def __init__(self, is_terminal: bool) -> None:  # noqa: ARG002, FBT001 - printers are alike
        self._encoder: Final = msgspec.json.Encoder()

    def learn(self, columns: Sequence[str], events: Sequence[object]) -> None:
        """
        Nothing to learn.
        """

    def reset(self) -> None:
        """
        The log is over: whoever reads drops all rows.
        """
        self._print({"operation": "reset"})

    def change(self, message: Message) -> None:
        """
        Print a change.
        """
        headers = message["headers"]
        told = {"operation": headers.get("operation"), "key": message["key"], "value": message.get("value", {})}
        self._print(told | {name: headers[name] for name in ("lsn", "txids") if name in headers})

    def _print(self, told: dict[str, Any]) -> None:
        click.echo(self._encoder.encode(told).decode())


class _CsvPrinter:
    """
    A line for each change, after a head: the operation, and the row.
    """

    def __init__(self, is_terminal: bool) -> None:  # noqa: ARG002, FBT001 - printers are alike
        self._columns: list[str] = []

    def learn(self, columns: Sequence[str], events: Sequence[object]) -> None:  # noqa: ARG002 - printers are alike
        """
        Take the columns and print them as a head.
        """
        if columns and not self._columns:
            self._columns = list(columns)
            click.echo(",".join(csv_field(name) for name in ("operation", *columns)))

    def reset(self) -> None:
        """
        The log is over: whoever reads drops all rows. The columns may be others now, so the head comes again.
        """
        self._columns = []
        click.echo("reset")

    def change(self, message: Message) -> None:
        """
        Print a change.
        """
        value = message.get("value", {})
        fields = [message["headers"].get("operation", ""), *(csv_field(value.get(name)) for name in self._columns)]
        click.echo(",".join(fields))


_PRINTERS: Final[Mapping[str, Callable[[bool], _TablePrinter | _JsonPrinter | _CsvPrinter]]] = {
    "table": _TablePrinter,
    "json": _JsonPrinter,
    "csv": _CsvPrinter,
}
