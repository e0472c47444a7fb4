"""
Figures and how they are shown: one table, in Markdown and JSON.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

NO_SERVER: Final = "none"
"""The version of Postgres in a report of scenarios that need none."""
RESULTS: Final = Path(__file__).parent / "results"

AIMS: Final[Mapping[str, float]] = {
    "receiver-small": 1.0,
    "receiver-large": 1.0,
    "receiver-updates": 1.0,
    "service-small": 0.9,
    "service-small-pure": 0.5,
    "service-large": 0.9,
    "service-large-pure": 0.5,
    "service-updates": 0.8,
    "service-unwanted": 1.0,
    "routing-hit": 0.9,
    "pipeline-many": 1.0,
    "idle-added": 1.0,
    "initial-sync": 0.8,
    "syncs-many": 0.83,
    "catch-up": 0.7,
    "shape-memory": 1.0,
    "wal-held": 1.0,
}
"""Which ratio a scenario ought to reach, by its name."""

_SMALL_RATIO: Final = 0.05
"""Below it two digits say nothing."""

_HEAD: Final = ("Scenario", "Penstock", "Reference", "Ratio", "Aim", "CPU µs/row", "Peak MiB")
_LEGEND: Final = (
    "Ratio: how many times as fast as the reference in the same run, the median of the rounds and [least to most]; above "
    "1 Penstock is faster. CPU: Penstock's (the reference's). Peak: of all its processes, added up."
)


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One run of one contestant.

    Attributes:
        wall_s: how long it took.
        cpu_s: user and system time.
        peak_mib: the most memory it held.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float


class Point(msgspec.Struct, frozen=True):
    """
    Where a figure stands in a growth curve.

    Attributes:
        plot: a name of `benchmarks.plots.PLOTS`.
        series: the curve, in words.
        x: the place on the axis.
    """

    plot: str
    series: str
    x: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """
    A line of the table.

    Attributes:
        name: of the scenario, as for `--only`.
        scenario: in words.
        unit: of the two values.
        penstock, reference: medians, in that unit.
        reference_name: what Penstock is compared with.
        ratios: how many times as fast as the reference, a number for each round, paired; above 1 Penstock is faster.
        cpu_us: CPU of a row, in microseconds; None where rows are not what is measured.
        reference_cpu_us: the same of the reference.
        peak_mib: the most memory held, of all processes together.
        point: its place in a growth curve, if it has one.
        measured_at: when, in UTC; filled in by the report.
        row_count: how many rows were asked for; filled in by the report.
    """

    name: str
    scenario: str
    unit: str
    penstock: float
    reference: float
    reference_name: str
    ratios: tuple[float, ...]
    cpu_us: float | None = None
    reference_cpu_us: float | None = None
    peak_mib: float | None = None
    point: Point | None = None
    measured_at: str = ""
    row_count: int = 0

    @property
    def ratio(self) -> float:
        """
        The median of the ratios.
        """
        return statistics.median(self.ratios)

    @property
    def aim(self) -> float | None:
        """
        The ratio it ought to reach; None when nobody said.
        """
        return AIMS.get(self.name)

    @property
    def key(self) -> tuple[str, str]:
        """
        What names the line in every report.
        """
        return self.name, self.scenario


def figure_of_rates(  # noqa: PLR0917 - a line has as many
    name: str,
    scenario: str,
    reference_name: str,
    row_count: int,
    rounds: Sequence[tuple[Sample, Sample]],
    point: Point | None = None,
) -> Figure:
    """
    Make a line from rounds of (Penstock, reference) over the same rows.
    """
    ours = [sample for sample, _ in rounds]
    others = [sample for _, sample in rounds]
    return Figure(
        name=name,
        scenario=scenario,
        unit="rows/s",
        penstock=row_count / statistics.median(sample.wall_s for sample in ours),
        reference=row_count / statistics.median(sample.wall_s for sample in others),
        reference_name=reference_name,
        ratios=tuple(other.wall_s / own.wall_s for own, other in rounds),
        cpu_us=statistics.median(sample.cpu_s for sample in ours) / row_count * 1e6,
        reference_cpu_us=statistics.median(sample.cpu_s for sample in others) / row_count * 1e6,
        peak_mib=max(sample.peak_mib for sample in ours),
        point=point,
    )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """
    One run of the benchmarks, and what is left of earlier ones.

    Attributes:
        measured_at: in UTC.
        machine: what it ran on, in words.
        postgres: version of the server.
        row_count: as asked for.
        figures: the lines.
    """

    measured_at: str
    machine: str
    postgres: str
    row_count: int
    figures: tuple[Figure, ...]


def make_report(figures: Sequence[Figure], *, postgres: str, row_count: int, stolen: float | None) -> Report:
    """
    Put figures together with what they depend on.

    Args:
        figures: the lines.
        postgres: version of the server.
        row_count: as asked for.
        stolen: the part of the processors' time that the host gave to others; None where nobody says.
    """
    busy = f"load {os.getloadavg()[1]:.0f}" + ("" if stolen is None else f", {stolen * 100:.0f} % taken by the host")
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    measured_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Report(
        measured_at=measured_at,
        machine=f"{len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {sys.version.split()[0]}, {busy}",
        postgres=postgres,
        row_count=row_count,
        figures=tuple(
            msgspec.structs.replace(figure, measured_at=measured_at, row_count=row_count) for figure in figures
        ),
    )


def merge(report: Report, before: Report | None, order: Sequence[str]) -> Report:
    """
    Keep of an earlier report the scenarios that were not measured now.

    Args:
        report: of this run.
        before: the earlier one.
        order: names of scenarios; those that do not exist any more are dropped.
    """
    if before is None:
        return report
    names = {figure.name for figure in report.figures}
    kept = [
        msgspec.structs.replace(
            figure,
            measured_at=figure.measured_at or before.measured_at,
            row_count=figure.row_count or before.row_count,
        )
        for figure in before.figures
        if figure.name not in names and figure.name in order
    ]
    figures = sorted([*report.figures, *kept], key=lambda figure: order.index(figure.name))
    postgres = before.postgres if report.postgres == NO_SERVER else report.postgres
    return msgspec.structs.replace(report, figures=tuple(figures), postgres=postgres)


def render(report: Report) -> str:
    """
    Write a report as Markdown.
    """
    older = [figure for figure in report.figures if figure.measured_at != report.measured_at]
    is_mixed = any(figure.row_count != report.row_count for figure in older)
    rows = [_HEAD, *(_cells(figure) for figure in report.figures)]
    if older:
        rows[0] = (*_HEAD, "Measured")
        rows[1:] = [
            (*row, f"{figure.measured_at}, {figure.row_count:,}" if is_mixed else figure.measured_at)
            for row, figure in zip(rows[1:], report.figures, strict=True)
        ]
    lines = _table(rows)
    return "\n".join(
        [
            f"{report.row_count:,} rows; {report.machine}, Postgres {report.postgres}; {report.measured_at}.",
            _LEGEND,
            "",
            *lines,
            "",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def write(report: Report, folder: Path = RESULTS, more: Iterable[str] = ()) -> Path:
    """
    Write `latest.md` and `latest.json`; gives the first.

    Args:
        report: what was measured.
        folder: where.
        more: lines for the end of the first.
    """
    folder.mkdir(exist_ok=True)
    (folder / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    path = folder / "latest.md"
    path.write_text("\n".join([render(report), *more]))
    return path


def _cells(figure: Figure) -> tuple[str, ...]:
    ratios = figure.ratios
    digits = 2 if figure.ratio >= _SMALL_RATIO else 4
    spread = f" [{min(ratios):.{digits}f} to {max(ratios):.{digits}f}]" if len(ratios) > 1 else ""
    cpu = "" if figure.cpu_us is None else f"{figure.cpu_us:.1f}"
    if figure.reference_cpu_us is not None:
        cpu += f" ({figure.reference_cpu_us:.1f})"
    aim = figure.aim
    return (
        figure.scenario,
        _amount(figure.penstock, figure.unit),
        f"{_amount(figure.reference, figure.unit)}, {figure.reference_name}",
        f"{figure.ratio:.{digits}f}{spread}",
        "" if aim is None else f"≥ {aim:g}{'' if figure.ratio >= aim else ', missed'}",
        cpu,
        "" if figure.peak_mib is None else f"{figure.peak_mib:.0f}",
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"
