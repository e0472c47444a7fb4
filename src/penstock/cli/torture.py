"""
`penstock torture`: tries the promise on the user's database, and prints what became of each fault.

Asks before it begins, and removes what it made however it ends. What is staged and measured is in
`penstock.testing.torture`; here is only what a person sees of it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from penstock.errors import ConfigError
from penstock.service.settings import describe_database
from penstock.testing.torture.catalogue import BY_NAME, CATALOGUE, DEFAULTS, MODES, NOT_HELD_S, SHORT, FaultSpec
from penstock.testing.torture.report import Row, cells, make_markdown, make_table
from penstock.testing.torture.runner import Torture

EXIT_KEPT: Final = 0
EXIT_BROKEN: Final = 1
EXIT_INTERRUPTED: Final = 130
MODE_CHOICES: Final = (*MODES, "both")
FORMATS: Final = ("table", "json", "markdown")


def print_list(console: Console) -> None:
    """
    Say which faults there are, what is done, and what must come of it.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("fault", "what is done", "what must come of it", "relay", "shapes"):
        table.add_column(name, no_wrap=name in {"fault", "relay", "shapes"})
    for spec in CATALOGUE:
        bounds = (spec.bound(DEFAULTS, mode) for mode in MODES)
        held = ("not held" if bound <= NOT_HELD_S else f"{bound:.0f} s" for bound in bounds)
        table.add_row(spec.name, spec.what, spec.promise, *held)
    console.print(table)
    console.print("\nThe last two columns: for how long the log may be held at most, with default deadlines, by mode.")


def choose_faults(names: Sequence[str]) -> list[FaultSpec]:
    """
    Find faults by name; all without any.

    Raises:
        ConfigError: there is no such fault.
    """
    for name in names:
        if name not in BY_NAME:
            raise ConfigError(f"there is no fault {name!r}; there are {', '.join(BY_NAME)}")
    return [spec for spec in CATALOGUE if not names or spec.name in names]


def question(url: str) -> str:
    """
    What the user must agree to.
    """
    return (
        f"This makes a schema, a publication and a slot of its own in {describe_database(url)}, writes to tables of its "
        "own, and makes the slot hold write-ahead log for up to a few minutes. Your tables are not touched, and all of "
        "it is removed at the end. Go on?"
    )


def run_torture(
    url: str, specs: Sequence[FaultSpec], *, mode: str, is_default: bool, output: str, patience: float = 1.0
) -> int:
    """
    Stage the faults one after the other; gives the exit status.

    Raises:
        PenstockError: nothing can be said of the promise.
    """
    modes = MODES if mode == "both" else (mode,)
    console = Console(stderr=output != "table", highlight=False)
    view = _View(console, len(specs) * len(modes))
    deadlines = DEFAULTS if is_default else SHORT
    torture = Torture(url, specs, deadlines=deadlines, patience=patience, on_stage=view.on_stage, on_row=view.on_row)
    try:
        with view:
            asyncio.run(_run(torture, modes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nInterrupted; what was made in the database is removed.")
        return EXIT_INTERRUPTED
    rows = view.rows
    if output == "json":
        sys.stdout.write(msgspec.json.encode([_as_object(row) for row in rows]).decode() + "\n")
    elif output == "markdown":
        sys.stdout.write(make_markdown(rows) + "\n")
    else:
        console.print(make_table(rows))
    broken = [row for row in rows if row.broken]
    if broken:
        console.print(f"\n[bold red]{len(broken)} promises broken.[/]")
        return EXIT_BROKEN
    console.print(f"\n[bold green]All promises kept[/], {sum(not row.skipped for row in rows)} faults staged.")
    return EXIT_KEPT


async def _run(torture: Torture, modes: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    # Whoever ends us gets the database back as it was, as with Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    for mode in modes:
        await torture.run(mode)


def _as_object(row: Row) -> dict[str, object]:
    return {**msgspec.to_builtins(row), "verdict": row.verdict}


class _View:
    """
    What is going on: a line that moves on a terminal, and one line for each fault that is over.
    """

    def __init__(self, console: Console, count: int) -> None:
        self.rows: Final[list[Row]] = []
        self._console: Final = console
        self._count: Final = count
        self._spinner: Final = Spinner("dots", "Starting the service ...")
        self._live: Final = Live(self._spinner, console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> None:
        if self._console.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_stage(self, spec: FaultSpec, mode: str) -> None:
        """
        A fault begins.
        """
        self._spinner.update(text=f"{len(self.rows) + 1} of {self._count}  {spec.name} ({mode}): {spec.what}")

    def on_row(self, row: Row) -> None:
        """
        A fault is over.
        """
        self.rows.append(row)
        fault, mode, held, released, *_, verdict, note = cells(row)
        colour = {"kept": "green", "broken": "red", "skipped": "yellow"}[verdict]
        facts = "  ".join(filter(None, [held and f"{held} held", released and f"released after {released}", note]))
        self._console.print(f"[{colour}]{verdict:8}[/] {fault} ({mode})  [dim]{facts}[/]", soft_wrap=True)
