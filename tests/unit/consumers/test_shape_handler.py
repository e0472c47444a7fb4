from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consumer_kit import DESCRIPTION, ITEMS, row
from penstock.collector.abc import RoutedPart
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.projection import Element, Projections, Rotate
from penstock.consumers.visibility import is_kept
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.messages import Change, Operation, Row
from penstock.shapes.definition import LogMode, Replica, ShapeColumn, ShapeDefinition

DEFINITION = ShapeDefinition(
    ITEMS.id,
    tuple(ShapeColumn(column.name, column.type_oid, column.typmod) for column in ITEMS.columns),
    ("id",),
    has_primary_key=True,
    selected=("body", "id", "n", "title"),
)
BOUNDS = SnapshotBounds(Snapshot(10, 14, frozenset({12})), InsertLsn(1000))
LATER = 2000


def change(operation: str, position: int, old: Row | None = None, new: Row | None = None) -> Change:
    return Change(Operation(operation), DESCRIPTION, position, old, new)


def part(changes: Sequence[Change], *, commit: int = LATER, xid: int = 20, is_end: bool = True) -> RoutedPart:
    return RoutedPart(CommitLsn(commit), xid, changes, EndLsn(commit + 8) if is_end else None)


def handler(definition: ShapeDefinition = DEFINITION) -> ShapeHandler:
    return ShapeHandler(Projections().of(definition), BOUNDS)


def taken(answer: Sequence[Element] | Rotate) -> list[Element]:
    assert not isinstance(answer, Rotate), answer
    return list(answer)


def lasts(elements: Sequence[Element]) -> list[tuple[int, bool]]:
    loaded: list[tuple[int, dict[str, Any]]] = [(op, json.loads(element)) for op, element in elements]
    return [(op, "last" in element["headers"]) for op, element in loaded]


@pytest.mark.parametrize(
    ("commit", "xid", "kept"),
    [(900, 9, False), (900, 11, False), (900, 12, True), (900, 14, True), (1000, 9, True), (999, 2**32 - 5, False)],
)
def test_visibility_is_asked_below_the_horizon_only(commit: int, xid: int, kept: bool) -> None:  # noqa: FBT001
    """
    What the snapshot saw is dropped, by transaction id and only for commits below the horizon; ids may have wrapped.

    Scenario H7.
    """
    assert is_kept(BOUNDS, CommitLsn(commit), xid) is kept
    answer = handler().handle(part([change("insert", 0, new=row(1))], commit=commit, xid=xid), {})
    assert bool(taken(answer)) is kept


def test_only_the_last_message_of_a_transaction_is_marked() -> None:
    """
    Of two inserts the second one is the last.
    """
    answer = handler().handle(part([change("insert", 0, new=row(1)), change("insert", 4, new=row(2))]), {})
    assert lasts(taken(answer)) == [(0, False), (4, True)]


def test_a_silent_end_marks_the_message_before_it() -> None:
    """
    When the end of a transaction adds nothing, the element held back before is the last.
    """
    reducer = handler()
    assert taken(reducer.handle(part([change("insert", 0, new=row(1))], is_end=False), {})) == []
    silent = change("update", 2, row(5), row(5))
    assert lasts(taken(reducer.handle(part([silent]), {}))) == [(0, True)]
    assert taken(reducer.handle(part([], commit=LATER + 50), {})) == []


CHANGES = [
    change("insert", 0, new=row(1)),
    change("update", 2, row(1), row(1)),
    change("update", 4, row(1), row(2, b"z")),
    change("delete", 6, row(2)),
    change("insert", 8, new=row(3)),
    change("update", 10, row(3), row(3)),
]


@given(st.sets(st.integers(0, len(CHANGES))), st.booleans())
def test_cutting_a_transaction_changes_nothing(cuts: set[int], ends_empty: bool) -> None:  # noqa: FBT001 - drawn
    """
    However a transaction is cut into parts, its elements are the same.

    Scenario H5.
    """
    expected = taken(handler().handle(part([replace(change, encoded=None) for change in CHANGES]), {}))
    places = sorted({0, *cuts, len(CHANGES)})
    reducer = handler()
    found: list[Element] = []
    for start, past in pairwise(places):
        is_end = past == len(CHANGES) and not ends_empty
        piece = [replace(change, encoded=None) for change in CHANGES[start:past]]
        found += taken(reducer.handle(part(piece, is_end=is_end), {}))
    if ends_empty:
        found += taken(reducer.handle(part([]), {}))
    assert found == expected
    assert [op for op, _ in found] == [0, 4, 5, 6, 8]


def test_shapes_of_one_projection_share_their_elements() -> None:
    """
    The second shape of a projection gets the very same objects, whatever its kind of log; another projection does not.
    """
    projections = Projections()
    first = ShapeHandler(projections.of(DEFINITION), BOUNDS)
    quiet = replace_definition(log=LogMode.CHANGES_ONLY)
    second = ShapeHandler(projections.of(quiet), BOUNDS)
    other = ShapeHandler(projections.of(replace_definition(replica=Replica.FULL)), BOUNDS)
    piece = part([change("insert", 0, new=row(1)), change("delete", 2, old=row(2))])
    shared: dict[Any, Any] = {}
    elements = taken(first.handle(piece, shared))
    assert [id(element) for element in elements] == [id(element) for element in taken(second.handle(piece, shared))]
    assert taken(other.handle(piece, shared))[1] != elements[1]


def replace_definition(**changes: Any) -> ShapeDefinition:
    fields = {name: getattr(DEFINITION, name) for name in DEFINITION.__struct_fields__}
    return ShapeDefinition(**(fields | changes))


def test_projections_are_forgotten_with_their_shapes() -> None:
    """
    A projection that no shape holds is not kept.
    """
    projections = Projections()
    held = projections.of(DEFINITION)
    projections.of(replace_definition(replica=Replica.FULL))
    assert len(projections) == 1
    assert projections.of(DEFINITION) is held


def test_what_cannot_be_followed_ends_the_log() -> None:
    """
    A row without its old values, a truncate, a table that changed: each says why.

    Scenario H2.
    """
    missing = replace(change("delete", 0), is_old_missing=True)
    assert handler().handle(part([missing]), {}) == Rotate(
        "a row came without its old values: replica identity is not full"
    )
    assert handler().handle(part([change("truncate", 0)]), {}) == Rotate("table was truncated")
    renamed = replace(
        change("insert", 0, new=row(1)), relation=DESCRIPTION._replace(id=TableId(100, "public", "renamed"))
    )
    assert handler().handle(part([renamed]), {}) == Rotate("table was renamed")


def test_visibility_comes_before_complaints() -> None:
    """
    What the snapshot holds cannot end the log, whatever is wrong with it.
    """
    missing = replace(change("delete", 0), is_old_missing=True)
    assert taken(handler().handle(part([missing], commit=900, xid=9), {})) == []


@pytest.mark.parametrize(
    ("commit", "xid", "survives"), [(900, 9, True), (900, 12, False), (900, None, False), (1000, 9, False)]
)
def test_a_spoiled_commit_is_survived_if_the_snapshot_holds_it(
    commit: int,
    xid: int | None,
    survives: bool,  # noqa: FBT001 - parametrised
) -> None:
    """
    A truncate that the snapshot saw is of no concern; one whose id nobody knows is.
    """
    answer = handler().spoil(CommitLsn(commit), xid, "truncate")
    assert answer == (None if survives else Rotate("truncate"))


def test_a_spoiled_commit_is_known_by_its_parts() -> None:
    """
    Without an id the parts that came before tell whether the snapshot holds the commit.
    """
    reducer = handler()
    reducer.handle(part([change("insert", 0, new=row(1))], commit=900, xid=9, is_end=False), {})
    assert reducer.spoil(CommitLsn(900), None, "truncate") is None
