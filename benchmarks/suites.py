"""
How benchmarks are registered: a suite names its scenarios and measures those that are wanted.

A module of benchmarks makes a `Suite` and is added to `benchmarks.__main__.SUITES`; order there is the order of running
and of the table. What it measures comes back as `benchmarks.report.Figure`; a figure with a `point` also becomes a part
of a growth curve, and one whose name has an aim in `benchmarks.report.AIMS` is held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.report import Figure
from benchmarks.source import Source


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What a suite may use, and how much it is to measure.

    Attributes:
        wanted: names of scenarios; a suite looks at its own.
        row_count: how many rows, for what is measured in rows.
        folder: empty, and removed at the end.
        single_process: whether services run in one process.
        source: a running server; only suites with `needs_server` may ask for it.
    """

    wanted: frozenset[str]
    row_count: int
    folder: Path
    single_process: bool
    source: Source


Measure: TypeAlias = Callable[[Setting], list[Figure]]


@dataclass(frozen=True, slots=True)
class Suite:
    """
    Scenarios that are measured together.

    Attributes:
        names: of the scenarios, each with what it is in words.
        measure: measures the wanted ones.
        needs_server: whether it needs a Postgres.
    """

    names: Mapping[str, str]
    measure: Measure
    needs_server: bool = True
