"""
What became of the faults: one row for each, a verdict, and the table. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from rich.table import Table

from penstock.testing.torture.catalogue import NOT_HELD_S, Cost, FaultSpec

HEADINGS: Final = (
    "fault",
    "mode",
    "WAL held",
    "released after",
    "bound",
    "shed: guilty",
    "innocent",
    "diverged",
    "verdict",
    "note",
)


class Row(msgspec.Struct, kw_only=True):
    """
    What became of one fault in one mode.

    Attributes:
        fault: its name.
        mode: how the service acknowledged.
        held_bytes: most bytes between the position confirmed and the end of the log, at any time of it.
        released_s: until the log written at the moment of the fault was confirmed; None if it never was.
        bound_s: how long that may take.
        guilty: shapes struck by the fault that had to start over.
        innocent: others that had to.
        diverged: shapes whose rows at a client are not those of the query, or that were told nonsense.
        broken: the promises that were broken, in words; empty when all were kept.
        skipped: why it could not be staged; empty when it was.
        note: what else is worth knowing.
    """

    fault: str
    mode: str
    held_bytes: int = 0
    released_s: float | None = None
    bound_s: float = 0.0
    guilty: int = 0
    innocent: int = 0
    diverged: int = 0
    broken: list[str] = msgspec.field(default_factory=list)
    skipped: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """
        One word.
        """
        if self.skipped:
            return "skipped"
        return "broken" if self.broken else "kept"


def judge(row: Row, spec: FaultSpec, *, patience: float = 1.0) -> None:
    """
    Add to a row the promises that it breaks.

    Args:
        row: what was measured.
        spec: what was promised.
        patience: the bounds are multiplied by it, for machines whose load says nothing about the service.
    """
    if row.released_s is None:
        row.broken.append("the log was not released")
    elif row.released_s > row.bound_s * patience:
        row.broken.append(f"released after {row.released_s:.1f} s instead of {row.bound_s:.0f} s")
    if row.innocent and spec.cost is not Cost.ALL:
        row.broken.append(f"{row.innocent} innocent shapes had to start over")
    if spec.cost is Cost.GUILTY and not row.guilty:
        row.broken.append("the shape at fault was not given up")
    if spec.cost is Cost.NOBODY and row.guilty:
        row.broken.append("a shape had to start over")
    if spec.cost is Cost.ALL and not (row.guilty or row.innocent):
        row.broken.append("no shape was told to start over")
    if row.diverged:
        row.broken.append(f"{row.diverged} shapes differ from the query")


def cells(row: Row) -> tuple[str, ...]:
    """
    Write a row for people, in the order of `HEADINGS`.
    """
    if row.skipped:
        return row.fault, row.mode, "", "", "", "", "", "", row.verdict, row.skipped
    bound = "not held" if row.bound_s <= NOT_HELD_S else f"{row.bound_s:.0f} s"
    released = "never" if row.released_s is None else f"{row.released_s:.1f} s"
    return (
        row.fault,
        row.mode,
        format_bytes(row.held_bytes),
        released,
        bound,
        str(row.guilty),
        str(row.innocent),
        "none" if not row.diverged else str(row.diverged),
        row.verdict,
        "; ".join([*row.broken, *filter(None, [row.note])]),
    )


def make_table(rows: Sequence[Row]) -> Table:
    """
    Make the table for a terminal.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEADINGS:
        is_number = name in {"WAL held", "released after", "bound", "shed: guilty", "innocent", "diverged"}
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=name != "note")
    colours = {"kept": "green", "broken": "red", "skipped": "yellow"}
    for row in rows:
        *first, verdict, note = cells(row)
        table.add_row(*first, f"[{colours[verdict]}]{verdict}[/]", note)
    return table


def make_markdown(rows: Sequence[Row]) -> str:
    """
    Make the table for a document.
    """
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_bytes(count: int) -> str:
    """
    Write a number of bytes for people.
    """
    if count < 1 << 20:
        return f"{count / (1 << 10):.0f} KiB"
    return f"{count / (1 << 20):.1f} MiB"
