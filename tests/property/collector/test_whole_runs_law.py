"""Transactions that are handled together, compared with the same handled one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import Column, RelationDescription, StreamColumn, TableId
from penstock.replication.messages import Change, Fragment, Frontier, Operation, RelationSeen, StreamEvent
from penstock.shapes.condition import basis_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.where.clause import compile_where

COLUMNS = (Column("id", 20, -1, "int8", is_not_null=True, pk_index=0), Column("v", 20, -1, "int8"))
PARENT, CHILD, OTHER = 10, 11, 12


def relation(oid: int) -> RelationDescription:
    return RelationDescription(
        TableId(oid, "public", f"t{oid}"), "f", tuple(StreamColumn(each.name, 20, -1, True) for each in COLUMNS)
    )


RELATIONS = tuple(relation(oid) for oid in (PARENT, CHILD, OTHER))


@cache
def shape(oid: int, where: str | None) -> ShapeDefinition:
    clause = None if where is None else compile_where(where, (), COLUMNS)
    return ShapeDefinition(
        TableId(oid, "public", f"t{oid}"),
        shape_columns(COLUMNS),
        ("id",),
        has_primary_key=True,
        selected=("id", "v"),
        where=None if clause is None else clause.normalised,
        basis=None if clause is None else basis_of(clause, COLUMNS),
    )


# The last is on a partition of the first's table.
SHAPES = ((PARENT, None), (PARENT, "v = 1"), (PARENT, "v > 1"), (OTHER, None), (OTHER, "v = 2"), (CHILD, None))

ROWS = st.tuples(st.just(b"1"), st.sampled_from([b"1", b"2", b"3", None]))


class Facts:
    def ancestors_of(self, relation_oid: int) -> tuple[int, ...]:
        return (PARENT,) if relation_oid == CHILD else ()

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        return self.ancestors_of(relation_oid)


class Told:
    """
    What each shape was told, in order.
    """

    def __init__(self) -> None:
        self.by_shape: dict[int, list[object]] = {}

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        for incarnation, delivery in parts.items():
            assert delivery[0].commit_lsn <= delivery[-1].commit_lsn
            self.by_shape.setdefault(incarnation, []).extend(delivery)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        del table_oids
        self._tell_all(description)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        del table_oids
        self._tell_all((at, reason, xid))

    def _tell_all(self, what: object) -> None:
        for number in range(1, len(SHAPES) + 1):
            self.by_shape.setdefault(number, []).append(what)


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """
    Changes of one transaction, mostly of one relation.
    """
    described = draw(st.sampled_from(RELATIONS))
    made = []
    for place in range(draw(st.integers(0, 3))):
        if draw(st.integers(0, 9)) == 0:
            described = draw(st.sampled_from(RELATIONS))
        kind = draw(st.sampled_from("IIUDKT"))
        old = draw(ROWS) if kind in "UD" else None
        new = draw(ROWS) if kind in "IUK" else None
        operation = {"I": Operation.INSERT, "D": Operation.DELETE, "T": Operation.TRUNCATE}.get(kind, Operation.UPDATE)
        if kind == "T" and draw(st.booleans()):
            continue
        made.append(Change(operation, described, 2 * place, old, new, kind == "K"))
    return made


@st.composite
def streams(draw: st.DrawFn) -> list[StreamEvent]:
    """
    Transactions, most of them whole, some cut in two, some lost half-way and some sent again.
    """
    events: list[StreamEvent] = []
    for number in range(1, draw(st.integers(0, 10)) + 1):
        commit, end = CommitLsn(100 * number), EndLsn(100 * number + 50)
        held = draw(changes())
        kind = draw(st.sampled_from(["whole"] * 6 + ["cut", "lost", "again", "described", "frontier"]))
        if kind in {"cut", "lost"} and held:
            events.append(Fragment(commit, number, held[:1], True, None))
            if kind == "cut":
                events.append(Fragment(commit, number, held[1:], False, end))
            continue
        events.append(Fragment(commit, number, held, True, end))
        if kind == "again":
            events.append(Fragment(commit, number, held, True, end))
        elif kind == "described":
            events.append(RelationSeen(draw(st.sampled_from(RELATIONS))))
        elif kind == "frontier":
            events.append(Frontier(EndLsn(end.value + 10)))
    return events


def run(
    slices: Sequence[Sequence[StreamEvent]], owing: Sequence[int]
) -> tuple[dict[int, list[object]], EndLsn, list[Debt | None], bytes]:
    """
    Handle slices; tell what the shapes got and what they owe, and which transactions are remembered.
    """
    told, tracker, xids = Told(), FlushTracker(EndLsn(0)), RoutedXids()
    collector = ShapeLogCollector(boundary=EndLsn(0), facts=Facts(), delivery=told, tracker=tracker, xids=xids)
    for number, place in enumerate(SHAPES, start=1):
        collector.add_shape(number, shape(*place), 0.0)
        if owing[number - 1] >= 0:
            assert tracker.start_owing(number, EndLsn(owing[number - 1]), 0.0)
    for events in slices:
        collector.handle(events, 1.0)
    debts = [tracker.debt_of(number) for number in range(1, len(SHAPES) + 1)]
    return told.by_shape, tracker.last_global_flushed_offset, debts, xids.save(EndLsn(2**60))


@settings(max_examples=200)
@given(streams(), st.lists(st.sampled_from([-1, 0, 0, 0]), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_transactions_together_are_those_one_by_one(events: list[StreamEvent], owing: list[int]) -> None:
    """
    Every shape is told the same in the same order and owes the same, and the boundary is the same.
    """
    assert run([events], owing) == run([[event] for event in events], owing)


@settings(max_examples=100)
@given(streams(), st.lists(st.integers(0, 1100), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_reports_ahead_of_a_run_are_never_overrated(events: list[StreamEvent], owing: list[int]) -> None:
    """
    Of shapes whose files reach further than the stream, nothing counts as flushed that would not count one by one.
    """
    _, boundary, debts, _ = run([events], owing)
    _, plain_boundary, plain_debts, _ = run([[event] for event in events], owing)
    assert boundary <= plain_boundary
    for debt, plain in zip(debts, plain_debts, strict=True):
        assert (debt is None) == (plain is None)
        if debt is not None and plain is not None:
            assert debt.flushed <= plain.flushed
            assert debt.first_commit <= plain.first_commit
            assert debt.last_commit == plain.last_commit
