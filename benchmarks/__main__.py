"""
The command `python -m benchmarks`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from benchmarks import http_serving
from benchmarks.backlog import LARGE, SMALL, measure_backlog
from benchmarks.idle_latency import NAME as LATENCY
from benchmarks.idle_latency import measure_idle_latency
from benchmarks.initial_sync import FIRST, SECOND, measure_initial_sync
from benchmarks.progress import say
from benchmarks.reference import find_tool
from benchmarks.report import Figure, make_report, render, write
from benchmarks.routing import ADDING, DISTINCT, HIT, MISS, SHARING, SORTED, measure_routing
from benchmarks.routing import NAMES as ROUTING
from benchmarks.shape_memory import MEMORY, RESTART, measure_shape_memory
from benchmarks.shape_memory import NAMES as SHAPE_MEMORY
from benchmarks.source import Source
from penstock.errors import PenstockError

SCENARIOS: Final = {
    SMALL.receiver_name: "receiver to synced relay log, transactions of one row",
    LARGE.receiver_name: "receiver to synced relay log, one large transaction",
    SMALL.service_name: "whole service into one shape, transactions of one row",
    LARGE.service_name: "whole service into one shape, one large transaction",
    FIRST: "a table to the first client of its shape",
    SECOND: "the same to the second client",
    LATENCY: "COMMIT to live client, nothing else to do",
    HIT: "a change to the shapes it concerns, by their number",
    MISS: "a change that concerns none of them",
    SORTED: "the same with conditions column > constant",
    SHARING: "the same, no index helps, alike but for constants",
    DISTINCT: "the same, no index helps, all different",
    ADDING: "adding and removing a shape next to many",
    MEMORY: "memory of an idle shape, of many",
    RESTART: "restart with many shapes",
    **http_serving.NAMES,
}
ROWS_DEFAULT: Final = 1_000_000
ROWS_MIN: Final = 1000

_EPILOG: Final = "\b\nScenarios:\n" + "\n".join(f"  {name:<16} {words}" for name, words in SCENARIOS.items())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.option(
    "--rows",
    type=click.IntRange(min=ROWS_MIN),
    envvar="PENSTOCK_BENCH_ROWS",
    default=ROWS_DEFAULT,
    show_default=True,
    help="How many rows; also PENSTOCK_BENCH_ROWS. With 100,000 everything takes about two minutes.",
)
@click.option(
    "--only",
    "names",
    type=click.Choice(list(SCENARIOS)),
    multiple=True,
    metavar="NAME",
    help="Measure this scenario; may be given several times. The report then holds only these.",
)
@click.option("--single-process", is_flag=True, help="Run the service in one process instead of several.")
def main(rows: int, names: Sequence[str], *, single_process: bool) -> None:
    """
    Measure what Penstock costs, and compare it with Postgres's own tools in the same run.

    Starts a throwaway Postgres, needs nothing else and leaves nothing behind but benchmarks/results/latest.md and
    latest.json. Progress goes to standard error, the table to standard output.

    Figures of different runs do not compare; ratios do, roughly. Run it on an idle machine: reference, server and
    Penstock share its cores.

    \b
    Everything, with a million rows (ten to fifteen minutes):
        make bench
    One scenario, quickly:
        python -m benchmarks --only receiver-small --rows 100000
    """  # noqa: D301 - \b is click's sign for "leave these lines alone"
    wanted = frozenset(names or SCENARIOS)
    try:
        figures, postgres = _measure(wanted, rows, single_process=single_process)
    except PenstockError as error:
        raise click.ClickException(error.message) from error
    order = list(SCENARIOS)
    figures.sort(key=lambda figure: order.index(figure.name))
    report = make_report(figures, postgres=postgres, row_count=rows)
    path = write(report)
    say(f"written to {path}")
    click.echo(render(report), nl=False)


def _measure(wanted: frozenset[str], rows: int, *, single_process: bool) -> tuple[list[Figure], str]:
    figures = measure_routing(wanted) if wanted & ROUTING else []
    if wanted & SHAPE_MEMORY:
        figures += measure_shape_memory(wanted)
    if wanted <= ROUTING | SHAPE_MEMORY:
        return figures, "none"
    with Source() as source, tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        for tool in ("pg_recvlogical", "psql"):
            find_tool(source.server, tool)
        folder = Path(name)
        for kind in (SMALL, LARGE):
            if wanted & {kind.receiver_name, kind.service_name}:
                figures += measure_backlog(source, kind, rows, folder, wanted, single_process=single_process)
        if wanted & {FIRST, SECOND}:
            figures += measure_initial_sync(source, rows, folder, wanted, single_process=single_process)
        if LATENCY in wanted:
            figures += measure_idle_latency(source, folder, single_process=single_process)
        if wanted & http_serving.NAMES.keys():
            figures += http_serving.measure_http(folder, wanted, http_serving.CLIENTS)
        return figures, source.version


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
