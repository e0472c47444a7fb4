"""
Transactions that a consumer takes together, and what it does when one of them is out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from harness.stream import INT_OID, TEXT_OID
from penstock.collector.abc import WholeRun
from penstock.compiled import choice
from penstock.consumers.abc import ShapeLog
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Projection, Rotate
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.messages import Change, Fragment, Operation, Row
from penstock.shapes.definition import ShapeColumn, ShapeDefinition

TABLE = TableId(1, "public", "t")
RELATION = RelationDescription(
    TABLE, "f", (StreamColumn("id", INT_OID, -1, True), StreamColumn("v", TEXT_OID, -1, False))
)
DEFINITION = ShapeDefinition(
    TABLE,
    (ShapeColumn("id", INT_OID, -1), ShapeColumn("v", TEXT_OID, -1)),
    ("id",),
    has_primary_key=True,
    selected=("id", "v"),
)


class Log:
    """
    A log that shows what it took.
    """

    settled = None

    def __init__(self) -> None:
        self.elements: list[tuple[int, int, bytes]] = []
        self.calls = 0
        self.end = (CommitLsn(0), EndLsn(0))

    def append_whole(
        self, transactions: Sequence[tuple[int, Sequence[tuple[int, bytes]]]], commit_lsn: CommitLsn, end: EndLsn
    ) -> None:
        """
        Take transactions.
        """
        self.calls += 1
        self.elements += [(tx, op, element) for tx, elements in transactions for op, element in elements]
        self.end = (commit_lsn, end)


def insert(commit: int, *values: bytes | None) -> Fragment:
    rows: list[Row] = [(b"%d" % number, value) for number, value in enumerate(values)]
    changes = [Change(Operation.INSERT, RELATION, 2 * place, None, row) for place, row in enumerate(rows)]
    return Fragment(CommitLsn(commit), commit, changes, True, EndLsn(commit + 5))


def update(commit: int, old: Row | None, new: Row) -> Fragment:
    changes = [Change(Operation.UPDATE, RELATION, 0, old, new, old is None)]
    return Fragment(CommitLsn(commit), commit, changes, True, EndLsn(commit + 5))


def run_of(*fragments: Fragment) -> WholeRun:
    run = WholeRun(RELATION)
    run.fragments += fragments
    return run


def live_consumer(horizon: int = 0) -> tuple[Consumer, Log]:
    consumer = Consumer(1, ConsumerState.CREATING, CommitLsn(0), EndLsn(0), ConsumerLimits())
    log = Log()
    bounds = SnapshotBounds(Snapshot(1, 2**31, frozenset()), InsertLsn(horizon))
    consumer.begin(cast("ShapeLog", log), ShapeHandler(Projection(DEFINITION), bounds))
    return consumer, log


RUNS = (
    (insert(10, b"a"), insert(20, b'b "quoted"', None), update(30, (b"1", b"a"), (b"1", b"b"))),
    # One that says nothing, and one that changes a key.
    (update(10, (b"1", b"a"), (b"1", b"a")), update(20, (b"1", b"a"), (b"2", b"a")), insert(30, b"c")),
)


@pytest.mark.usefixtures("each_core")
@pytest.mark.parametrize("fragments", RUNS)
def test_a_run_is_taken_at_once(fragments: tuple[Fragment, ...]) -> None:
    """The log gets in one call what it gets of the parts one by one, to the byte."""
    consumer, log = live_consumer()
    assert consumer.handle(run_of(*fragments), {}) is None
    single, plain = live_consumer()
    for part in run_of(*fragments).parts:
        assert single.handle([part], {}) is None
    assert log.elements == plain.elements
    assert log.calls == 1
    assert log.end == plain.end == (CommitLsn(30), EndLsn(35))
    assert (consumer.done, consumer.done_end) == (single.done, single.done_end)


@pytest.mark.usefixtures("each_core")
def test_what_was_taken_or_is_in_the_snapshot_is_not_taken_again() -> None:
    """A run that begins before what the shape has is looked at part by part."""
    consumer, log = live_consumer(horizon=15)
    assert consumer.handle(run_of(insert(10, b"seen"), insert(20, b"a")), {}) is None
    assert consumer.handle(run_of(insert(20, b"a"), insert(30, b"b")), {}) is None
    assert [tx for tx, _, _ in log.elements] == [20, 30]


@pytest.mark.usefixtures("each_core")
def test_a_row_without_its_old_values_ends_the_log_behind_those_before_it() -> None:
    """The transactions before it are the shape's."""
    consumer, log = live_consumer()
    answer = consumer.handle(run_of(insert(10, b"a"), update(20, None, (b"1", b"b")), insert(30, b"c")), {})
    assert isinstance(answer, Rotate)
    assert [tx for tx, _, _ in log.elements] == [10]
    assert consumer.done == CommitLsn(10)


def test_a_failure_is_that_of_its_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever judges the failure finds the commit, and what came before it was taken."""
    consumer, log = live_consumer()
    encode = Projection._encode

    def fail(projection: Projection, change: Change, end: bytes) -> object:
        if change.new == (b"0", b"fatal"):
            raise ZeroDivisionError
        return encode(projection, change, end)

    monkeypatch.setattr(Projection, "_encode", fail)
    choice.want(False)
    try:
        with pytest.raises(ZeroDivisionError):
            consumer.handle(run_of(insert(10, b"a"), insert(20, b"fatal"), insert(30, b"c")), {})
    finally:
        choice.want(True)
    assert consumer.current == 20
    assert [tx for tx, _, _ in log.elements] == [10]
