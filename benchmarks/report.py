"""
Figures and how they are shown: one table, in Markdown and JSON.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

RESULTS: Final = Path(__file__).parent / "results"
_HEAD: Final = ("Scenario", "Penstock", "Reference", "Ratio", "CPU µs/row", "Peak MiB")
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

    @property
    def ratio(self) -> float:
        """
        The median of the ratios.
        """
        return statistics.median(self.ratios)


def figure_of_rates(
    name: str, scenario: str, reference_name: str, row_count: int, rounds: Sequence[tuple[Sample, Sample]]
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
    )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """
    One run of the benchmarks.

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


def make_report(figures: Sequence[Figure], *, postgres: str, row_count: int) -> Report:
    """
    Put figures together with what they depend on.
    """
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Report(
        measured_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        machine=f"{len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.machine()}, Python {sys.version.split()[0]}",
        postgres=postgres,
        row_count=row_count,
        figures=tuple(figures),
    )


def render(report: Report) -> str:
    """
    Write a report as Markdown.
    """
    rows = [_HEAD, *(_cells(figure) for figure in report.figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(
        [
            f"{report.row_count:,} rows; {report.machine}, Postgres {report.postgres}; {report.measured_at}.",
            _LEGEND,
            "",
            *lines,
            "",
        ]
    )


def write(report: Report, folder: Path = RESULTS) -> Path:
    """
    Write `latest.md` and `latest.json`; gives the first.
    """
    folder.mkdir(exist_ok=True)
    (folder / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    path = folder / "latest.md"
    path.write_text(render(report))
    return path


def _cells(figure: Figure) -> tuple[str, ...]:
    ratios = figure.ratios
    spread = f" [{min(ratios):.2f} to {max(ratios):.2f}]" if len(ratios) > 1 else ""
    cpu = "" if figure.cpu_us is None else f"{figure.cpu_us:.1f}"
    if figure.reference_cpu_us is not None:
        cpu += f" ({figure.reference_cpu_us:.1f})"
    return (
        figure.scenario,
        _amount(figure.penstock, figure.unit),
        f"{_amount(figure.reference, figure.unit)}, {figure.reference_name}",
        f"{figure.ratio:.2f}{spread}",
        cpu,
        "" if figure.peak_mib is None else f"{figure.peak_mib:.0f}",
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"
