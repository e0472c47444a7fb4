"""
`penstock demo`: a throwaway Postgres, a small fleet of turbines, and the whole service on top of it.

This process is the supervisor, so its end is the end of everything: the roles see end-of-file on their pipes, Postgres
is ended by its guard, and all files lie in the one folder that goes with it.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import shutil
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import psycopg
from rich.console import Console

from penstock.dashboard.page import PATH
from penstock.service.settings import Settings
from penstock.service.supervisor import EXIT_IN_ORDER, Outcome, serve
from penstock.telemetry import logs
from penstock.testing.postgres import ThrowawayPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOST: Final = "127.0.0.1"
_PORT: Final = 3000
_START_TIMEOUT_S: Final = 60.0
_POLL_INTERVAL_S: Final = 0.1
_STEP_INTERVAL_S: Final = 0.3
_FLEET: Final = range(8, 17)

_SCHEMA: Final = """
CREATE TABLE turbines (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    river text NOT NULL,
    status text NOT NULL,
    gate_percent int NOT NULL,
    output_mw numeric(6, 1) NOT NULL,
    read_at timestamptz(0) NOT NULL DEFAULT now()
)
"""
_RIVERS: Final = ("Aare", "Drava", "Durance", "Inn", "Kemijoki", "Rhône", "Skellefte", "Tagliamento")
_NAMES: Final = (
    *("Ada", "Bertha", "Clara", "Dora", "Edith", "Frieda", "Greta", "Hedy", "Irma", "Johanna", "Klara", "Lise"),
    *("Marie", "Nelly", "Olga", "Paula", "Rosa", "Sonja", "Thea", "Ursula", "Vera", "Wanda"),
)


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
    with console.status("Starting Postgres"), contextlib.ExitStack() as until_started:
        postgres = until_started.enter_context(ThrowawayPostgres(flavour="bundled" if bundled else None))
        database = postgres.create_database("demo")
        database.execute(_SCHEMA)
        everything = until_started.pop_all()
    with everything:
        settings = Settings(
            database_url=database.url,
            insecure=True,
            data_dir=postgres.folder / "penstock",
            host=_HOST,
            port=_choose_port(port),
            demo_page=True,
            log_level="error",
        )
        ending = threading.Event()
        beside = [
            threading.Thread(target=_keep_turning, args=(database.url, ending), name="workload"),
            threading.Thread(target=_announce, args=(console, settings, postgres, ending), name="announce"),
        ]
        for thread in beside:
            thread.start()
        try:
            outcome = serve(settings)
        except KeyboardInterrupt:
            # Before the supervisor listened to signals: nothing has been served yet.
            outcome = Outcome(EXIT_IN_ORDER)
        finally:
            ending.set()
            for thread in beside:
                thread.join()
    if outcome.status == EXIT_IN_ORDER:
        console.print("\nGone without a trace.")
    return outcome


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
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _is_active(base):
        if ending.wait(_POLL_INTERVAL_S):
            return
        if time.monotonic() > deadline:
            console.print("[red]The service is taking long to start.[/] Its log is silent below errors; waiting on.")
            deadline = float("inf")
    change = "UPDATE turbines SET status = 'hello' WHERE id = 1"
    psql = postgres.tool_path("psql") if shutil.which("psql") is None else "psql"
    console.print("[bold]Penstock is serving a table that changes all the time.[/]\n")
    console.print("  See it change:    ", f"[bold cyan]{base}{PATH}[/]", soft_wrap=True)
    console.print("  Ask for its rows: ", f"curl '{base}/v1/shape?table=turbines&offset=-1'", soft_wrap=True)
    console.print(
        "  Change it:        ",
        f'{shlex.quote(str(psql))} {postgres.url_for("demo")} -c "{change}"',
        soft_wrap=True,
        markup=False,
    )
    console.print("\n[dim]Ctrl-C ends it and removes everything.[/]")


def _is_active(base: str) -> bool:
    """
    Ask the service whether it serves.
    """
    try:
        return httpx.get(f"{base}/v1/health", timeout=5.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _keep_turning(url: str, ending: threading.Event) -> None:
    """
    Change the table a few times a second until the end.
    """
    draw = random.Random(1)  # noqa: S311 - a show
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
        steps = _steps(connection, draw)
        while not ending.wait(_STEP_INTERVAL_S):
            next(steps)


def _steps(connection: psycopg.Connection[Any], draw: random.Random) -> Iterator[None]:
    """
    Make one change after another, for ever. The first brings the fleet.
    """
    names = list(_NAMES)
    draw.shuffle(names)
    fleet: list[int] = []
    while True:
        with connection.transaction():
            while len(fleet) < _FLEET.start or (len(fleet) < _FLEET.stop - 1 and draw.random() < 0.04):
                fleet.append(_commission(connection, draw, names.pop(0)))
            if len(fleet) > _FLEET.start and draw.random() < 0.03:
                gone = connection.execute(
                    "DELETE FROM turbines WHERE id = %s RETURNING name", (fleet.pop(draw.randrange(len(fleet))),)
                ).fetchone()
                assert gone is not None
                names.append(gone[0])
            for turbine in draw.sample(fleet, draw.choice((1, 1, 2))):
                _turn(connection, draw, turbine)
        yield


def _commission(connection: psycopg.Connection[Any], draw: random.Random, name: str) -> int:
    """
    Add a turbine; give its number.
    """
    added = connection.execute(
        "INSERT INTO turbines (name, river, status, gate_percent, output_mw) VALUES (%s, %s, 'starting', 0, 0) RETURNING id",
        (name, draw.choice(_RIVERS)),
    ).fetchone()
    assert added is not None
    number: int = added[0]
    return number


def _turn(connection: psycopg.Connection[Any], draw: random.Random, turbine: int) -> None:
    """
    Move a gate, and with it what comes out.
    """
    gate = min(100, max(0, round(draw.gauss(70, 22))))
    connection.execute(
        "UPDATE turbines SET gate_percent = %s, output_mw = %s, status = %s, read_at = now() WHERE id = %s",
        (
            gate,
            round(gate * 1.4 + draw.random() * 3, 1) if gate else 0,
            "running" if gate > 15 else "idle" if gate else "closed",
            turbine,
        ),
    )
