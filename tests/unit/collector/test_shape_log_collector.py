from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.snapshot import Snapshot
from penstock.replication.messages import Change, Frontier, Omitted, Operation, RelationSeen, StreamEvent
from stream_builder import (
    RecordedFacts,
    RecordingDelivery,
    definition,
    fragment,
    insert,
    relation,
    truncate,
    where_id_is,
)

ROOT, PART_A, PART_B, LONE = 10, 11, 12, 20
BOUNDARY = 1_000


class Bench:
    """
    A collector with everything around it to look at.
    """

    def __init__(self) -> None:
        self.facts = RecordedFacts(roots={ROOT: ROOT, PART_A: ROOT, PART_B: ROOT, LONE: LONE, 30: 30})
        self.shapes: dict[int, int] = {}
        self.survivors: set[int] = set()
        self.delivery = RecordingDelivery(on_spoiled=self.condemn)
        self.tracker = FlushTracker(EndLsn(BOUNDARY))
        self.xids = RoutedXids()
        self.collector = ShapeLogCollector(
            boundary=EndLsn(BOUNDARY),
            facts=self.facts,
            delivery=self.delivery,
            tracker=self.tracker,
            xids=self.xids,
        )

    def add(self, incarnation: int, table: int) -> CommitLsn:
        """
        Add a shape that owes.
        """
        self.shapes[incarnation] = table
        routed_behind = self.collector.add_shape(incarnation, definition(table), 0.0)
        assert self.tracker.start_owing(incarnation, self.tracker.last_seen_offset, 0.0)
        return routed_behind

    def condemn(self, tables: Sequence[int]) -> None:
        """
        Do what consumers do with shapes on spoiled tables.
        """
        for incarnation, table in self.shapes.items():
            if table in tables and incarnation not in self.survivors:
                self.collector.unroute(incarnation)

    def flushed(self, incarnation: int, commit: int, end: int) -> None:
        """
        Report a flush.
        """
        self.tracker.handle_flush_notification(incarnation, CommitLsn(commit), EndLsn(end), 0.0)

    @property
    def boundary(self) -> int:
        """
        The flush boundary.
        """
        return self.tracker.last_global_flushed_offset.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_transaction_reaches_every_shape_of_its_table_and_no_other(bench: Bench) -> None:
    """Both shapes of the table share one part; a shape elsewhere gets nothing."""
    bench.add(1, LONE)
    bench.add(2, LONE)
    bench.add(3, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0), insert(LONE, 2), end=1_110)], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0, 2], 1_110), (2, 1_100, [0, 2], 1_110)]
    assert bench.delivery.parts[0][1] is bench.delivery.parts[1][1]
    assert bench.boundary == BOUNDARY


def test_a_slice_is_published_at_once(bench: Bench) -> None:
    """Parts of all transactions of a slice come in one call, in commit order for each shape."""
    calls: list[int] = []
    bench.delivery.on_publish = lambda: calls.append(1)
    bench.add(1, LONE)
    bench.add(2, 30)
    bench.collector.handle(
        [
            fragment(1_100, insert(LONE, 0), end=1_110),
            fragment(1_200, insert(30, 0), insert(LONE, 2), end=1_210),
        ],
        0.0,
    )
    assert bench.delivery.told == [(1, 1_100, [0], 1_110), (1, 1_200, [2], 1_210), (2, 1_200, [0], 1_210)]
    assert len(calls) == 1


def test_a_transaction_nobody_asked_for_moves_the_boundary_at_once(bench: Bench) -> None:
    """
    Nothing to do is nothing owed.

    Scenario H8.
    """
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(30, 0), end=1_110)], 0.0)
    assert bench.delivery.told == []
    assert bench.boundary == 1_110
    assert bench.collector.last_seen_lsn == 1_100


def test_debts_are_registered_before_delivery(bench: Bench) -> None:
    """Whoever is called by publish already owes (S3)."""
    owed: list[int] = []
    bench.delivery.on_publish = lambda: owed.append(bench.tracker.pending_count)
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.handle([fragment(1_100, insert(LONE, 2), end=1_110, is_first=False)], 0.0)
    assert owed == [1, 1]


def test_a_change_of_a_partition_reaches_shapes_on_it_and_on_its_root(bench: Bench) -> None:
    """
    Each gets the changes of its own table and of those below it.

    Scenario H14.
    """
    bench.add(1, ROOT)
    bench.add(2, PART_A)
    bench.add(3, PART_B)
    bench.collector.handle([fragment(1_100, insert(PART_A, 0), insert(PART_B, 2), end=1_110)], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0, 2], 1_110), (2, 1_100, [0], 1_110), (3, 1_100, [2], 1_110)]
    by_shape = {incarnation: part.changes for incarnation, part in bench.delivery.parts}
    assert [change.relation.id.oid for change in by_shape[1]] == [PART_A, PART_B]
    assert [change.relation.id.oid for change in by_shape[2]] == [PART_A]


def test_who_got_a_part_gets_the_end(bench: Bench) -> None:
    """The shape of the first fragment is told the end of the transaction though the last has nothing for it."""
    bench.add(1, LONE)
    bench.add(2, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    assert bench.boundary == BOUNDARY
    bench.collector.handle([fragment(1_100, insert(30, 2), end=1_110, is_first=False)], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0], None), (1, 1_100, [], 1_110), (2, 1_100, [2], 1_110)]
    assert not bench.collector.is_half_way
    bench.flushed(1, 1_100, 1_110)
    assert bench.boundary == BOUNDARY
    bench.flushed(2, 1_100, 1_110)
    assert bench.boundary == 1_110


def test_a_shape_added_half_way_gets_none_of_the_transaction(bench: Bench) -> None:
    """Its snapshot has to see the commit, which add_shape names; the next one is routed."""
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    assert bench.add(2, LONE) == CommitLsn(1_100)
    bench.collector.handle([fragment(1_100, insert(LONE, 2), is_first=False)], 0.0)
    bench.collector.handle([fragment(1_100, insert(LONE, 4), end=1_110, is_first=False)], 0.0)
    assert bench.tracker.debt_of(2) is None
    bench.collector.handle([fragment(1_200, insert(LONE, 0), end=1_210)], 0.0)
    assert [told for told in bench.delivery.told if told[0] == 2] == [(2, 1_200, [0], 1_210)]
    assert bench.add(3, LONE) == CommitLsn(1_200)


def test_a_shape_condemned_half_way_gets_no_more_and_owes_on(bench: Bench) -> None:
    """Unrouting stops delivery at once; the debt pins until the removal."""
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    assert bench.collector.unroute(1)
    assert not bench.collector.unroute(1)
    bench.collector.handle([fragment(1_100, insert(LONE, 2), end=1_110, is_first=False)], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0], None)]
    assert bench.boundary == BOUNDARY
    bench.collector.remove_shape(1)
    assert bench.boundary == 1_110
    bench.collector.remove_shape(1)
    assert bench.tracker.unknown_removals == 1


def test_a_shape_removed_half_way_is_forgotten_by_the_end(bench: Bench) -> None:
    """The end of the transaction does not bring its debt back."""
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.remove_shape(1)
    bench.collector.handle([fragment(1_100, insert(LONE, 2), end=1_110, is_first=False)], 0.0)
    assert bench.boundary == 1_110


def test_what_is_sent_again_is_dropped(bench: Bench) -> None:
    """
    Whole transactions, fragments and omitted ones at or below the last commit or the boundary change nothing.

    Scenario H6.
    """
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0), end=1_110)], 0.0)
    told = list(bench.delivery.told)
    bench.collector.handle(
        [
            fragment(900, insert(LONE, 0), end=910),
            fragment(920, insert(LONE, 0)),
            fragment(920, insert(LONE, 2), end=930, is_first=False),
            Omitted(CommitLsn(940), 940, (LONE,), EndLsn(950)),
            fragment(1_100, insert(LONE, 0), end=1_110),
            fragment(1_100, insert(LONE, 0)),
            fragment(1_100, end=1_110, is_first=False),
            Frontier(EndLsn(990)),
        ],
        0.0,
    )
    assert bench.delivery.told == told
    assert bench.collector.last_seen_commit == CommitLsn(1_100)
    assert bench.collector.last_seen_end == EndLsn(1_110)


def test_a_transaction_read_again_goes_on_where_it_was(bench: Bench) -> None:
    """
    After a lost connection the same operations come again; each is delivered once.

    Scenario H6.
    """
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0), insert(LONE, 2))], 0.0)
    bench.collector.handle([fragment(1_050, insert(LONE, 0), end=1_060)], 0.0)
    bench.collector.handle([Omitted(CommitLsn(1_060), 1_060, (LONE,), EndLsn(1_070))], 0.0)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.handle(
        [fragment(1_100, insert(LONE, 2), insert(LONE, 4), end=1_110, is_first=False)],
        0.0,
    )
    assert bench.delivery.told == [(1, 1_100, [0, 2], None), (1, 1_100, [4], 1_110)]


def test_a_transaction_lost_half_way_spoils_what_it_touched(bench: Bench) -> None:
    """When another one follows, the shapes that got a part cannot be right."""
    bench.add(1, LONE)
    bench.add(2, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.handle([fragment(1_200, insert(LONE, 0), insert(30, 2), end=1_210)], 0.0)
    assert bench.delivery.told == [
        (1, 1_100, [0], None),
        ("spoiled", [LONE], 1_100, "transaction lost half-way"),
        (2, 1_200, [2], 1_210),
    ]
    bench.flushed(2, 1_200, 1_210)
    assert bench.boundary == BOUNDARY
    bench.collector.remove_shape(1)
    assert bench.boundary == 1_210


def test_a_transaction_lost_half_way_without_shapes_spoils_nothing(bench: Bench) -> None:
    """Only the half-way state goes; an omitted transaction may be what follows."""
    bench.add(1, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.handle([Omitted(CommitLsn(1_200), 1_200, (LONE,), EndLsn(1_210))], 0.0)
    assert bench.delivery.told == []
    assert bench.boundary == 1_210


def test_a_truncate_spoils_and_the_shape_gets_nothing_more_of_it(bench: Bench) -> None:
    """Above all not the end, which it could flush; it owes the commit until it is removed."""
    bench.add(1, LONE)
    bench.add(2, 30)
    bench.collector.handle(
        [
            fragment(1_100, insert(LONE, 0), end=1_110),
            fragment(1_200, insert(LONE, 0), insert(30, 2), truncate(LONE, 4), insert(LONE, 6), end=1_210),
            fragment(1_300, insert(30, 0), end=1_310),
        ],
        0.0,
    )
    assert bench.delivery.told == [
        (1, 1_100, [0], 1_110),
        ("spoiled", [LONE], 1_200, "truncate"),
        (2, 1_200, [2], 1_210),
        (2, 1_300, [0], 1_310),
    ]
    bench.flushed(1, 1_100, 1_110)
    bench.flushed(2, 1_300, 1_310)
    assert bench.boundary == 1_110
    bench.collector.remove_shape(1)
    assert bench.boundary == 1_310


def test_a_truncate_half_way_stops_the_fragments_behind_it(bench: Bench) -> None:
    """A shape that got fragments before gets no end of the transaction, and its debt has one all the same."""
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.handle([fragment(1_100, truncate(LONE, 2), is_first=False)], 0.0)
    bench.collector.handle([fragment(1_100, insert(LONE, 4), end=1_110, is_first=False)], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0], None), ("spoiled", [LONE], 1_100, "truncate")]
    debt = bench.tracker.debt_of(1)
    assert debt is not None
    assert debt.last_commit == CommitLsn(1_100)
    assert bench.boundary == BOUNDARY


@pytest.mark.parametrize(
    ("truncated", "spoiled"),
    [(ROOT, [ROOT, PART_A]), (PART_A, [ROOT, PART_A]), (PART_B, [ROOT]), (30, [])],
)
def test_a_truncate_in_a_partitioned_table_spoils_both_ways(bench: Bench, truncated: int, spoiled: list[int]) -> None:
    """
    Truncating the root empties its partitions, truncating a partition takes rows from the root.

    Scenario H14.
    """
    bench.add(1, ROOT)
    bench.add(2, PART_A)
    bench.add(3, LONE)
    bench.collector.handle([fragment(1_100, truncate(truncated, 0), end=1_110)], 0.0)
    told = [("spoiled", spoiled, 1_100, "truncate")] if spoiled else []
    assert bench.delivery.told == told
    assert bench.tracker.pending_count == len(spoiled)


def test_a_shape_that_survives_a_truncate_gets_the_rest(bench: Bench) -> None:
    """One whose snapshot holds the commit is still routed after the call: it needs the end to pay its debt."""
    bench.survivors = {1, 3}
    bench.add(1, LONE)
    bench.add(2, LONE)
    bench.add(3, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0), truncate(LONE, 2), truncate(30, 4))], 0.0)
    bench.collector.handle([fragment(1_100, insert(LONE, 6), end=1_110, is_first=False)], 0.0)
    bench.collector.handle([Omitted(CommitLsn(1_200), 1_200, (LONE,), EndLsn(1_210))], 0.0)
    assert bench.delivery.told == [
        ("spoiled", [LONE, 30], 1_100, "truncate"),
        (1, 1_100, [0], None),
        (1, 1_100, [6], 1_110),
        (3, 1_100, [], 1_110),
        ("spoiled", [LONE], 1_200, "transaction too large"),
        (1, 1_200, [], 1_210),
    ]


def test_an_omitted_transaction_spoils_what_it_touched(bench: Bench) -> None:
    """
    The debt is registered first and paid by removal only; others go on.

    Scenario H2.
    """
    owed: list[int] = []

    def spoiled(tables: Sequence[int]) -> None:
        owed.append(bench.tracker.pending_count)
        bench.condemn(tables)

    bench.delivery.on_spoiled = spoiled
    bench.add(1, ROOT)
    bench.add(2, LONE)
    bench.collector.handle(
        [
            fragment(1_100, insert(LONE, 0), end=1_110),
            Omitted(CommitLsn(1_200), 1_200, (PART_A, PART_B), EndLsn(1_210)),
        ],
        0.0,
    )
    assert bench.delivery.told == [(2, 1_100, [0], 1_110), ("spoiled", [ROOT], 1_200, "transaction too large")]
    assert owed == [2]
    assert bench.collector.last_seen_lsn == 1_200


def test_a_transaction_that_turns_out_too_large_spoils_what_was_handed_on(bench: Bench) -> None:
    """Its stub ends the half-way state, and nobody is told that the transaction is complete."""
    bench.add(1, LONE)
    bench.add(2, 30)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.add(3, LONE)
    bench.collector.handle([Omitted(CommitLsn(1_100), 1_100, (30,), EndLsn(1_110))], 0.0)
    assert bench.delivery.told == [(1, 1_100, [0], None), ("spoiled", [LONE, 30], 1_100, "transaction too large")]
    assert not bench.collector.is_half_way
    assert bench.tracker.debt_of(3) is None
    assert bench.tracker.pending_count == 2


def test_descriptions_are_told_in_stream_order(bench: Bench) -> None:
    """
    What was collected before is published first; the root is named with the partition.

    Scenario H1.
    """
    bench.collector.handle([RelationSeen(relation(99))], 0.0)
    bench.add(1, ROOT)
    bench.collector.handle(
        [
            fragment(1_100, insert(PART_A, 0), end=1_110),
            RelationSeen(relation(PART_A)),
            fragment(1_200, insert(PART_A, 0), end=1_210),
        ],
        0.0,
    )
    assert bench.delivery.told == [
        ("seen", 99, [99]),
        (1, 1_100, [0], 1_110),
        ("seen", PART_A, [PART_A, ROOT]),
        (1, 1_200, [0], 1_210),
    ]


def test_a_missing_old_row_is_left_to_the_consumer(bench: Bench) -> None:
    """The mark is passed on: visibility is asked first."""
    bench.add(1, LONE)
    change = Change(Operation.DELETE, relation(LONE), 0, None, None, is_old_missing=True)
    bench.collector.handle([fragment(1_100, change, end=1_110)], 0.0)
    assert bench.delivery.parts[0][1].changes[0].is_old_missing


def test_a_frontier_moves_what_is_seen_but_not_half_way(bench: Bench) -> None:
    """
    Idle, the boundary follows it; inside a transaction it is ignored (S6).

    Scenario H9.
    """
    bench.add(1, LONE)
    bench.collector.handle([Frontier(EndLsn(1_050))], 0.0)
    assert bench.boundary == bench.collector.last_seen_lsn == 1_050
    bench.collector.handle([fragment(1_100, insert(LONE, 0)), Frontier(EndLsn(1_105))], 0.0)
    assert bench.collector.last_seen_end == EndLsn(1_050)
    assert bench.boundary == 1_050


def test_missing_facts_are_named_before_they_are_needed(bench: Bench) -> None:
    """Relations of changes, descriptions and stubs, and for a truncate the tables with shapes; nothing without shapes."""
    bench.facts.roots.clear()
    events: list[StreamEvent] = [
        fragment(1_100, insert(PART_A, 0), truncate(30, 2), end=1_110),
        RelationSeen(relation(PART_B)),
        Frontier(EndLsn(1_150)),
    ]
    stub = Omitted(CommitLsn(1_200), 1_200, (31,), EndLsn(1_210))
    assert bench.collector.missing_facts([*events, stub]) == []
    bench.add(1, ROOT)
    assert bench.collector.missing_facts(events) == [PART_A, 30, ROOT, PART_B]
    assert bench.collector.missing_facts([stub]) == [31, ROOT]
    bench.facts.to_find = {PART_A: ROOT, PART_B: ROOT}
    for oid in bench.collector.missing_facts([*events, stub]):
        asyncio.run(bench.facts.find_ancestors(oid))
    assert bench.collector.missing_facts([*events, stub]) == []
    bench.collector.handle([*events, stub], 0.0)
    assert bench.delivery.told[0] == (1, 1_100, [0], 1_110)


def test_decoded_transactions_are_remembered_for_snapshots(bench: Bench) -> None:
    """Also those dropped and those nobody asked for; a shape added half-way may miss that one."""
    bench.collector.handle([fragment(900, end=910), fragment(1_100, insert(LONE, 0))], 0.0)
    behind = bench.add(1, LONE)
    waiting = Snapshot.parse("1100:1200:1100")
    assert bench.xids.unseen_before(waiting, behind)
    assert not bench.xids.unseen_before(Snapshot.parse("1200:1200:"), behind)
    bench.collector.handle([Omitted(CommitLsn(1_100), 1_100, (LONE,), EndLsn(1_110))], 0.0)
    assert len(bench.xids) == 2


def test_a_shape_added_at_the_start_is_not_routed_what_lies_below_the_boundary(bench: Bench) -> None:
    """A commit below the boundary, decoded once more, counts as not routed to a new shape."""
    behind = bench.add(1, LONE)
    bench.collector.handle([fragment(900, end=910)], 0.0)
    assert bench.xids.unseen_before(Snapshot.parse("900:1200:900"), behind)


def test_a_new_epoch_starts_with_nothing(bench: Bench) -> None:
    """Positions of another epoch may be lower, and no shape of the old one is left."""
    bench.add(1, LONE)
    bench.collector.handle([fragment(1_100, insert(LONE, 0))], 0.0)
    bench.collector.begin_epoch(EndLsn(500))
    assert not bench.collector.is_half_way
    assert 1 not in bench.collector._index
    assert bench.boundary == 500
    bench.add(2, LONE)
    bench.collector.handle([fragment(600, insert(LONE, 0), end=610)], 0.0)
    assert bench.delivery.told[-1] == (2, 600, [0], 610)


def test_a_new_epoch_does_not_wait_for_transactions_of_the_old_one(bench: Bench) -> None:
    """A transaction of a history that was given up never becomes visible; no snapshot is taken again for it."""
    bench.collector.handle([fragment(1_100, end=1_110)], 0.0)
    behind = bench.add(1, LONE)
    assert bench.xids.unseen_before(Snapshot.parse("900:1000:"), behind)
    bench.collector.begin_epoch(EndLsn(1_500))
    behind = bench.add(2, LONE)
    assert not bench.xids.unseen_before(Snapshot.parse("900:1000:"), behind)


def test_a_catch_up_reader_routes_without_keeping_debts() -> None:
    """The same class without a tracker, over the shapes that are behind."""
    delivery = RecordingDelivery()
    collector = ShapeLogCollector(
        boundary=EndLsn(BOUNDARY), facts=RecordedFacts(roots={LONE: LONE, 30: 30}), delivery=delivery
    )
    assert collector.add_shape(1, definition(LONE), 0.0) == CommitLsn(BOUNDARY - 1)
    collector.handle(
        [
            fragment(1_100, insert(LONE, 0)),
            fragment(1_100, insert(30, 2), end=1_110, is_first=False),
            fragment(1_200, insert(LONE, 0), end=1_210),
            fragment(1_300, insert(LONE, 0)),
            fragment(1_400, insert(LONE, 0)),
            Omitted(CommitLsn(1_500), 1_500, (LONE,), EndLsn(1_510)),
            Frontier(EndLsn(1_600)),
        ],
        0.0,
    )
    assert delivery.told[:3] == [(1, 1_100, [0], None), (1, 1_100, [], 1_110), (1, 1_200, [0], 1_210)]
    collector.remove_shape(1)
    assert 1 not in collector._index
    collector.begin_epoch(EndLsn(2_000))
    assert collector.last_seen_lsn == 2_000


def row_change(oid: int, position: int, value: int) -> Change:
    return Change(Operation.INSERT, relation(oid), position, None, (b"%d" % value,))


def test_a_shape_with_a_condition_gets_and_owes_only_what_may_concern_it() -> None:
    """
    It is not handed other rows and does not owe their commits, but for the end of a transaction it got a part of.

    Scenario F8.
    """
    bench = Bench()
    bench.add(1, LONE)
    where = where_id_is(LONE, 7)
    bench.collector.add_shape(2, where, 0.0)
    assert bench.tracker.start_owing(2, bench.tracker.last_seen_offset, 0.0)
    bench.collector.handle([fragment(1100, row_change(LONE, 0, 6), end=1110)], 0.0)
    assert bench.delivery.told == [(1, 1100, [0], 1110)]
    assert {debt.incarnation for debt in bench.tracker.oldest_debts(9)} == {1}
    bench.delivery.told.clear()
    bench.collector.handle(
        [
            fragment(1200, row_change(LONE, 0, 7), row_change(LONE, 2, 8)),
            fragment(1200, row_change(LONE, 4, 9), end=1210, is_first=False),
        ],
        0.0,
    )
    assert bench.delivery.told == [
        (1, 1200, [0, 2], None),
        (1, 1200, [4], 1210),
        (2, 1200, [0], None),
        (2, 1200, [], 1210),
    ]
    assert {debt.incarnation for debt in bench.tracker.oldest_debts(9)} == {1, 2}


def test_a_truncate_spoils_shapes_whatever_their_condition() -> None:
    """
    Also one that no row of the transaction concerns; it owes the commit until its tombstone is synced.

    Scenario F8.
    """
    bench = Bench()
    bench.shapes[2] = LONE
    bench.collector.add_shape(2, where_id_is(LONE, 7), 0.0)
    assert bench.tracker.start_owing(2, bench.tracker.last_seen_offset, 0.0)
    bench.collector.handle([fragment(1100, row_change(LONE, 0, 6), truncate(LONE, 2), end=1110)], 0.0)
    assert ("spoiled", [LONE], 1100, "truncate") in bench.delivery.told
    assert 2 not in bench.collector._index
    assert [debt.incarnation for debt in bench.tracker.oldest_debts(9)] == [2]
