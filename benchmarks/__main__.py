"""
The command `python -m benchmarks`.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from benchmarks import (
    catch_up,
    http_serving,
    idle_latency,
    initial_sync,
    many_syncs,
    pipeline,
    plots,
    restart,
    routing,
    shape_logs,
    shape_memory,
    wal_held,
)
from benchmarks.backlog import GROWTH, LARGE, SMALL, UNWANTED, UPDATES, make_suite
from benchmarks.measure import StolenTime
from benchmarks.progress import say
from benchmarks.reference import find_tool
from benchmarks.regression import find_moves, read_committed, read_latest, tell
from benchmarks.report import NO_SERVER, Figure, make_report, merge, render, write
from benchmarks.source import Source
from benchmarks.suites import Setting, Suite
from penstock.errors import PenstockError

SUITES: Final[Sequence[Suite]] = (
    make_suite(SMALL, ("receiver", "service", "pure")),
    make_suite(LARGE, ("receiver", "service", "pure")),
    make_suite(UPDATES, ("receiver", "service")),
    make_suite(UNWANTED, ("service",)),
    initial_sync.SUITE,
    many_syncs.SUITE,
    catch_up.SUITE,
    idle_latency.SUITE,
    wal_held.SUITE,
    pipeline.SUITE,
    routing.SUITE,
    shape_memory.SUITE,
    restart.SUITE,
    shape_logs.SUITE,
    http_serving.SUITE,
    GROWTH,
)
"""All there is, in the order of running and of the table. Add what you write here."""

SCENARIOS: Final = {name: words for suite in SUITES for name, words in suite.names.items()}
ROWS_DEFAULT: Final = 1_000_000
ROWS_MIN: Final = 1000
MINUTES_DEFAULT: Final = 45

_EPILOG: Final = "\b\nScenarios:\n" + "\n".join(f"  {name:<20} {words}" for name, words in SCENARIOS.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.option(
    "--rows",
    type=click.IntRange(min=ROWS_MIN),
    envvar="PENSTOCK_BENCH_ROWS",
    default=ROWS_DEFAULT,
    show_default=True,
    help="How many rows; also PENSTOCK_BENCH_ROWS.",
)
@click.option(
    "--only",
    "names",
    type=click.Choice(list(SCENARIOS)),
    multiple=True,
    metavar="NAME",
    help="Measure this scenario; may be given several times. Nothing is written then, unless --write is given.",
)
@click.option(
    "--write", "is_writing", is_flag=True, help="With --only: put the lines into the results beside the others."
)
@click.option(
    "--minutes",
    type=click.IntRange(min=1),
    envvar="PENSTOCK_BENCH_MINUTES",
    default=MINUTES_DEFAULT,
    show_default=True,
    help="No further suite is begun after so long; what is left out is said.",
)
@click.option(
    "--check", "is_checking", is_flag=True, help="End with an error if a ratio is worse than in the last commit."
)
@click.option("--single-process", is_flag=True, help="Run the service in one process instead of several.")
def main(
    rows: int, names: Sequence[str], minutes: int, *, is_writing: bool, is_checking: bool, single_process: bool
) -> None:
    """
    Measure what Penstock costs, and compare it with Postgres's own tools in the same run.

    Starts a throwaway Postgres, needs nothing else and leaves nothing behind but benchmarks/results: latest.md,
    latest.json and pictures. Progress goes to standard error, the table to standard output, and what moved since the
    last committed results.

    Figures of different runs do not compare; ratios do, roughly. Run it on an idle machine: reference, server and
    Penstock share its cores.

    \b
    Everything, with a million rows, and shorter:
        make bench
        make bench ROWS=100000
    One scenario, quickly:
        python -m benchmarks --only receiver-small --rows 100000
    """  # noqa: D301 - \b is click's sign for "leave these lines alone"
    wanted = frozenset(names or SCENARIOS)
    before = read_committed()
    stolen = StolenTime()
    try:
        figures, postgres, failures = _measure(wanted, rows, minutes * 60.0, single_process=single_process)
    except PenstockError as error:
        raise click.ClickException(error.message) from error
    order = list(SCENARIOS)
    figures.sort(key=lambda figure: order.index(figure.name))
    report = make_report(figures, postgres=postgres, row_count=rows, stolen=stolen.share())
    moves = [] if before is None else find_moves(report.figures, before)
    moved = tell(report, before, moves)
    click.echo("\n".join([render(report), *moved]))
    if is_writing or not names:
        merged = merge(report, read_latest(), order)
        say(f"written to {write(merged, more=moved)}")
        try:
            plots.draw(merged.figures)
        except ImportError as error:
            say(f"no pictures: {error}")
    if failures:
        raise click.ClickException(f"not measured to its end: {'; '.join(failures)}")
    if is_checking and any(move.is_worse for move in moves):
        raise click.ClickException("Some ratios are worse than in the last commit.")


def _measure(
    wanted: frozenset[str], rows: int, s_max: float, *, single_process: bool
) -> tuple[list[Figure], str, list[str]]:
    """
    Run the suites that are wanted; gives the figures, the version of Postgres, and what failed.

    Raises:
        ToolMissingError: what is compared with is not installed.
    """
    began = time.monotonic()
    suites = [suite for suite in SUITES if wanted & suite.names.keys()]
    figures: list[Figure] = []
    failures: list[str] = []
    version = NO_SERVER
    with ExitStack() as stack:
        source = Source()
        if any(suite.needs_server for suite in suites):
            stack.enter_context(source)
            version = source.version
            for tool in ("pg_recvlogical", "psql"):
                find_tool(source.server, tool)
        for number, suite in enumerate(suites):
            if time.monotonic() - began > s_max:
                left = ", ".join(name for other in suites[number:] for name in other.names if name in wanted)
                say(f"time is up; left out: {left}")
                break
            suite_began = time.monotonic()
            names = ", ".join(name for name in suite.names if name in wanted)
            try:
                with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
                    figures += suite.measure(Setting(wanted, rows, Path(name), single_process, source))
            except Exception as error:  # noqa: BLE001 - whatever fails in one is told, and costs the others nothing
                traceback.print_exception(error)
                failures.append(f"{names} ({error})")
            say(f"{names}: {time.monotonic() - suite_began:.0f} s")
    return figures, version, failures


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
