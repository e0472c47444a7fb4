"""
The shapes that there are, for operators.

Shell, in so far as it reads what is alive; makes no shape, opens no file, and wakes nobody. What it gives is bounded, and so is
the work: a look at each shape, and a description of those that are listed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Final

from penstock.consumers.entries import ShapeEntry
from penstock.postgres.quoting import quote_table
from penstock.shapes.reading import SHAPES_LISTED_MAX, SHAPES_SKIPPED_MAX, ShapeListed, ShapesListed, ShapesQuestion

WHERE_CHARS_MAX: Final = 500
"""So much of a condition is told."""

_NEVER: Final = float("-inf")


def list_shapes(entries: Iterable[ShapeEntry], question: ShapesQuestion, now: float) -> ShapesListed:
    """
    List some of the shapes.

    Args:
        entries: all there are.
        question: which of them.
        now: the time, on the clock of the entries.
    """
    wanted = [entry for entry in entries if not question.table or entry.definition.table.name == question.table]
    skip = min(question.skip, SHAPES_SKIPPED_MAX)
    first = heapq.nsmallest(skip + min(question.limit, SHAPES_LISTED_MAX), wanted, key=_ORDERS[question.order])
    return ShapesListed(len(wanted), [_describe(entry, now) for entry in first[skip:]])


# Those made earlier first where nothing else tells them apart, so that pages fit together.
_ORDERS: Final[dict[str, Callable[[ShapeEntry], tuple[Any, ...]]]] = {
    "bytes": lambda entry: (-(_bytes_of(entry) or 0), entry.incarnation),
    "read": lambda entry: (-(_NEVER if entry.read_at is None else entry.read_at), entry.incarnation),
    "table": lambda entry: (entry.definition.table.schema, entry.definition.table.name, entry.incarnation),
}


def _bytes_of(entry: ShapeEntry) -> int | None:
    log = None if entry.consumer is None else entry.consumer.log
    return entry.file_bytes if log is None else log.file_bytes + log.tail_bytes


def _describe(entry: ShapeEntry, now: float) -> ShapeListed:
    definition = entry.definition
    log = None if entry.consumer is None else entry.consumer.log
    where = definition.where
    if where is not None and len(where) > WHERE_CHARS_MAX:
        where = where[:WHERE_CHARS_MAX] + "…"
    return ShapeListed(
        handle=entry.handle,
        table=quote_table(definition.table),
        where=where,
        columns=list(definition.selected) if definition.is_explicit else None,
        replica=definition.replica.value,
        log=definition.log.value,
        state=_state_of(entry),
        bytes=_bytes_of(entry),
        last=str(entry.settled if log is None else log.last),
        read_s=None if entry.read_at is None else round(max(0.0, now - entry.read_at), 3),
    )


def _state_of(entry: ShapeEntry) -> str:
    if entry.condemned is not None:
        return "ending"
    return "idle" if entry.consumer is None else entry.consumer.state.value
