"""
`penstock demo`: a throwaway Postgres, a small fleet of turbines, and the whole service on top of it.

This process is the supervisor, so its end is the end of everything: the roles see end-of-file on their pipes, Postgres
is ended by its guard, and all files lie in the one folder that goes with it. Whatever a visitor does to the table, the
fleet goes on as well as it can: rows that are gone are forgotten, locks are not waited for.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shlex
import shutil
import socket
import threading
import time
from typing import Any, Final

import httpx
import psycopg
from rich.console import Console

from penstock.dashboard.page import PATH
from penstock.service.settings import Settings
from penstock.service.supervisor import EXIT_IN_ORDER, Outcome, serve
from penstock.telemetry import logs
from penstock.testing.postgres import ThrowawayPostgres

_HOST: Final = "127.0.0.1"
_PORT: Final = 3000
_START_TIMEOUT_S: Final = 60.0
_POLL_INTERVAL_S: Final = 0.1
_STEP_INTERVAL_S: Final = 0.3
_STATEMENT_MS_MAX: Final = 1000
_FLEET: Final = range(8, 17)

_SCHEMA: Final = """
CREATE TABLE turbines (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    river text NOT NULL DEFAULT 'Danube',
    status text NOT NULL DEFAULT 'starting',
    gate_percent int NOT NULL DEFAULT 0,
    output_mw numeric(6, 1) NOT NULL DEFAULT 0,
    read_at timestamptz(3) NOT NULL DEFAULT now()
)
"""
_RIVERS: Final = ("Aare", "Drava", "Durance", "Inn", "Kemijoki", "Rhône", "Skellefte", "Tagliamento")
_NAMES: Final = (
    *("Ada", "Bertha", "Clara", "Dora", "Edith", "Frieda", "Greta", "Hedy", "Irma", "Johanna", "Klara", "Lise"),
    *("Marie", "Nelly", "Olga", "Paula", "Rosa", "Sonja", "Thea", "Ursula", "Vera", "Wanda"),
)
_EXAMPLE: Final = "INSERT INTO turbines (name) VALUES ('Yours')"


def run_demo(*, port: int | None, bundled: bool) -> Outcome:
    """
    Run it until Ctrl-C.

    Args:
        port: where to serve; None for the usual port, or any other if that is taken.
        bundled: whether to use the bundled Postgres in any case.

    Raises:
        PostgresMissingError: there is no Postgres to start.
        ConfigError: the service cannot start.
    """
    console = Console(highlight=False)
    logs.configure(level="error", process="demo")
    try:
        with contextlib.ExitStack() as everything:
            postgres = ThrowawayPostgres(flavour="bundled" if bundled else None)
            everything.callback(postgres.close)
            with _waiting(console, "Starting a Postgres of its own"):
                postgres.start()
                postgres.create_database("demo").execute(_SCHEMA)
            outcome = _serve(console, postgres, _choose_port(port))
    except KeyboardInterrupt:
        # Before the supervisor listened to signals, or while we were cleaning up after it: what is left goes with us.
        outcome = Outcome(EXIT_IN_ORDER)
    if outcome.status == EXIT_IN_ORDER:
        console.print("\nGone without a trace.")
    return outcome


def _serve(console: Console, postgres: ThrowawayPostgres, port: int) -> Outcome:
    """
    Serve the demo's database, with the workload and the announcement beside it.
    """
    settings = Settings(
        database_url=postgres.url_for("demo"),
        insecure=True,
        data_dir=postgres.folder / "penstock",
        host=_HOST,
        port=port,
        demo_page=True,
        log_level="error",
    )
    ending = threading.Event()
    beside = [
        threading.Thread(target=_keep_turning, args=(settings.database_url, ending), name="workload"),
        threading.Thread(target=_announce, args=(console, settings, postgres, ending), name="announce"),
    ]
    for thread in beside:
        thread.start()
    try:
        return serve(settings)
    finally:
        ending.set()
        for thread in beside:
            thread.join()


def _waiting(console: Console, what: str) -> contextlib.AbstractContextManager[object]:
    """
    Show what is waited for: on a terminal for as long as it takes, elsewhere as a line.
    """
    if console.is_terminal:
        return console.status(what)
    console.print(f"{what} ...")
    return contextlib.nullcontext()


def _choose_port(asked: int | None) -> int:
    """
    Give the port asked for; else the usual one, or any if that is taken.
    """
    if asked:
        return asked
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, _PORT if asked is None else 0))
        except OSError:
            probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _announce(console: Console, settings: Settings, postgres: ThrowawayPostgres, ending: threading.Event) -> None:
    """
    Say where to look, once there is something to see.
    """
    base = f"http://{_HOST}:{settings.port}"
    with _waiting(console, "Starting Penstock"):
        if not _wait_active(console, base, ending):
            return
    version = postgres.query("SHOW server_version")[0][0].split()[0]
    psql = "psql" if shutil.which("psql") else shlex.quote(str(postgres.tool_path("psql")))
    # A line for each, however long: they are there to be copied.
    say = functools.partial(console.print, soft_wrap=True)
    say(f"[bold]Penstock follows a Postgres {version} with a table that changes all the time.[/]\n")
    say(f"  See it change     [bold cyan]{base}{PATH}[/]")
    say(f"  Ask for its rows  curl '{base}/v1/shape?table=turbines&offset=-1'")
    say(f'  Change it         {psql} {settings.database_url} -c "{_EXAMPLE}"')
    say("\n[dim]Ctrl-C ends it and removes everything.[/]")


def _wait_active(console: Console, base: str, ending: threading.Event) -> bool:
    """
    Wait until the service serves; False when it ends before.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    # A proxy of the user's is not for us.
    with httpx.Client(base_url=base, timeout=5.0, trust_env=False) as client:
        while not _is_active(client):
            if ending.wait(_POLL_INTERVAL_S):
                return False
            if time.monotonic() > deadline:
                console.print("[yellow]The service takes long to start; errors would be shown here. Waiting on.[/]")
                deadline = float("inf")
    return True


def _is_active(client: httpx.Client) -> bool:
    """
    Ask the service whether it serves.
    """
    try:
        return client.get("/v1/health").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _keep_turning(url: str, ending: threading.Event) -> None:
    """
    Change the table a few times a second until the end, or until it is not the table it was.
    """
    options = f"-c statement_timeout={_STATEMENT_MS_MAX}"
    fleet = _Fleet(random.Random(1))  # noqa: S311 - a show
    with contextlib.suppress(psycopg.Error), psycopg.connect(url, autocommit=True, options=options) as connection:
        while True:
            # A visitor may hold a lock in an open transaction; nobody waits for that for long.
            with contextlib.suppress(psycopg.errors.QueryCanceled), connection.transaction():
                fleet.step(connection)
            if ending.wait(_STEP_INTERVAL_S):
                return


class _Fleet:
    """
    The turbines that the workload moves: its own, not those that a visitor adds.
    """

    def __init__(self, draw: random.Random) -> None:
        """
        Begin without any; the first step brings them.
        """
        self._draw: Final = draw
        self._names: Final = draw.sample(_NAMES, len(_NAMES))
        self._name_of: Final[dict[int, str]] = {}

    def step(self, connection: psycopg.Connection[Any]) -> None:
        """
        Make one change, or two.
        """
        fleet, draw = self._name_of, self._draw
        while len(fleet) < _FLEET.start or (len(fleet) < _FLEET.stop - 1 and draw.random() < 0.04):
            self._commission(connection)
        if len(fleet) > _FLEET.start and draw.random() < 0.03:
            number = draw.choice(list(fleet))
            connection.execute("DELETE FROM turbines WHERE id = %s", (number,))
            self._forget(number)
        for number in draw.sample(list(fleet), draw.choice((1, 1, 2))):
            self._turn(connection, number)

    def _commission(self, connection: psycopg.Connection[Any]) -> None:
        """
        Add a turbine.
        """
        name = self._names[0]
        added = connection.execute(
            "INSERT INTO turbines (name, river) VALUES (%s, %s) RETURNING id", (name, self._draw.choice(_RIVERS))
        ).fetchone()
        assert added is not None
        self._name_of[added[0]] = self._names.pop(0)

    def _forget(self, number: int) -> None:
        """
        Give the name of a turbine that is gone to a later one.
        """
        self._names.append(self._name_of.pop(number))

    def _turn(self, connection: psycopg.Connection[Any], number: int) -> None:
        """
        Move a gate, and with it what comes out.
        """
        gate = min(100, max(0, round(self._draw.gauss(70, 22))))
        output_mw = round(gate * 1.4 + self._draw.random() * 3, 1) if gate else 0
        status = "running" if gate > 15 else "idle" if gate else "closed"
        changed = connection.execute(
            "UPDATE turbines SET gate_percent = %s, output_mw = %s, status = %s, read_at = clock_timestamp() WHERE id = %s",
            (gate, output_mw, status, number),
        )
        if not changed.rowcount:
            # Deleted by a visitor, or in a step that was taken back.
            self._forget(number)
