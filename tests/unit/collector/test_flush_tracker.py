from __future__ import annotations

import pytest

from penstock.collector.flush_entries import MARKS_MAX, Entry, GrowingKeyHeap
from penstock.collector.flush_tracker import FlushTracker
from penstock.postgres.lsn import CommitLsn, EndLsn


def tracker_with(*incarnations: int) -> FlushTracker:
    """
    Start at 1000 with these owing.
    """
    tracker = FlushTracker(EndLsn(1_000))
    for incarnation in incarnations:
        tracker.handle_shape_added(incarnation, 0.0)
        assert tracker.start_owing(incarnation, EndLsn(1_000), 0.0)
    return tracker


def commit(tracker: FlushTracker, lsn: int, *incarnations: int, now: float = 0.0) -> None:
    """
    See a whole transaction that ends ten bytes on.
    """
    tracker.handle_txn_fragment(CommitLsn(lsn), incarnations, EndLsn(lsn + 10), now)


def flushed(tracker: FlushTracker, incarnation: int, lsn: int, now: float = 0.0) -> None:
    """
    Report a transaction made by `commit` as flushed.
    """
    tracker.handle_flush_notification(incarnation, CommitLsn(lsn), EndLsn(lsn + 10), now)


def boundary(tracker: FlushTracker) -> int:
    """
    The flush boundary as a number.
    """
    return tracker.last_global_flushed_offset.value


def test_shapes_that_take_turns_do_not_hold_the_boundary_still() -> None:
    """
    A new entry starts behind the transaction before it, not at the boundary (B7).

    Scenario H8.
    """
    tracker = tracker_with(1, 2)
    commit(tracker, 1_100, 1)
    for lsn in range(1_200, 3_000, 200):
        commit(tracker, lsn, 2)
        flushed(tracker, 1, lsn - 100)
        assert boundary(tracker) == lsn - 100 + 10
        commit(tracker, lsn + 100, 1)
        flushed(tracker, 2, lsn)
        assert boundary(tracker) == lsn + 10


def test_a_flush_between_two_fragments_is_neither_lost_nor_too_much() -> None:
    """
    A report of the transaction before pays that one and leaves the half-way one owed (B1, B2).

    Scenario H10.
    """
    tracker = tracker_with(1)
    commit(tracker, 1_100, 1)
    tracker.handle_txn_fragment(CommitLsn(1_200), [1], None, 0.0)
    flushed(tracker, 1, 1_100)
    assert boundary(tracker) == 1_110
    tracker.handle_txn_fragment(CommitLsn(1_200), [1], EndLsn(1_210), 0.0)
    assert boundary(tracker) == 1_110
    flushed(tracker, 1, 1_200)
    assert boundary(tracker) == 1_210
    assert tracker.pending_count == 0


def test_a_report_of_a_half_way_transaction_pays_when_its_end_is_seen() -> None:
    """A catch-up reader may be ahead; the boundary stays before the transaction until it is whole."""
    tracker = tracker_with(1)
    tracker.handle_txn_fragment(CommitLsn(1_100), [1], None, 0.0)
    flushed(tracker, 1, 1_100)
    assert boundary(tracker) == 1_000
    assert tracker.pending_count == 1
    tracker.handle_txn_fragment(CommitLsn(1_100), [1], EndLsn(1_110), 0.0)
    assert boundary(tracker) == 1_110
    assert tracker.pending_count == 0


def test_a_report_beyond_what_was_sent_pays_everything() -> None:
    """Cover, not equality (B3), and the same report once more is nothing."""
    tracker = tracker_with(1)
    commit(tracker, 1_100, 1)
    commit(tracker, 1_200)
    flushed(tracker, 1, 1_200)
    assert boundary(tracker) == 1_210
    flushed(tracker, 1, 1_200)
    assert tracker.pending_count == 0
    assert tracker.stale_reports == 0


def test_a_restart_that_finds_files_ahead_makes_no_debts_below_them() -> None:
    """What the files hold beyond the recorded boundary is not owed again when it is replayed."""
    tracker = FlushTracker(EndLsn(1_000))
    tracker.handle_shape_added(1, 0.0)
    assert tracker.start_owing(1, EndLsn(1_210), 0.0)
    commit(tracker, 1_100, 1)
    commit(tracker, 1_200, 1)
    assert tracker.pending_count == 0
    assert boundary(tracker) == 1_210
    commit(tracker, 1_300, 1)
    assert boundary(tracker) == 1_210


def test_a_late_start_below_the_boundary_is_refused() -> None:
    """The shape has to settle once more: what lies between would be released though it is not durable (S12)."""
    tracker = tracker_with(1)
    tracker.handle_shape_added(2, 0.0)
    commit(tracker, 1_100, 2)
    assert not tracker.start_owing(2, EndLsn(1_050), 0.0)
    assert not tracker.is_owing(2)
    assert tracker.start_owing(2, EndLsn(1_110), 0.0)
    assert tracker.is_owing(2)


def test_a_late_start_owes_what_was_delivered_beyond() -> None:
    """Parts that came before the shape owed are debts from then on, as old as the start."""
    tracker = tracker_with(1)
    tracker.handle_shape_added(2, 0.0)
    commit(tracker, 1_100, 1, 2, now=1.0)
    commit(tracker, 1_200, 2, now=3.0)
    flushed(tracker, 2, 1_100, now=4.0)
    assert tracker.start_owing(2, EndLsn(1_110), 60.0)
    debt = tracker.debt_of(2)
    assert debt is not None
    assert (debt.since, debt.first_commit, debt.flushed) == (60.0, CommitLsn(1_200), EndLsn(1_110))
    flushed(tracker, 1, 1_200)
    assert boundary(tracker) == 1_110


def test_reports_and_removals_of_unknown_incarnations_are_counted() -> None:
    """S7: they change nothing."""
    tracker = tracker_with(1)
    commit(tracker, 1_100, 1)
    flushed(tracker, 2, 1_100)
    tracker.handle_shape_removed(2)
    assert (tracker.stale_reports, tracker.unknown_removals) == (1, 1)
    assert boundary(tracker) == 1_000
    tracker.handle_shape_removed(1)
    flushed(tracker, 1, 1_100)
    assert tracker.stale_reports == 2
    assert boundary(tracker) == 1_110


def test_an_incarnation_that_owes_nothing_yet_can_be_removed() -> None:
    """
    A creation that failed leaves nothing behind.

    Scenario H8.
    """
    tracker = tracker_with()
    tracker.handle_shape_added(1, 0.0)
    commit(tracker, 1_100, 1)
    tracker.handle_shape_removed(1)
    assert boundary(tracker) == 1_110
    assert tracker.unknown_removals == 0


def test_partial_progress_neither_resets_nor_keeps_the_age() -> None:
    """The age is that of the oldest debt that is left; the time of progress is told apart."""
    tracker = tracker_with(1)
    for second in range(10):
        commit(tracker, 1_000 + 100 * second, 1, now=float(2 * second)) if second else None
    flushed(tracker, 1, 1_400, now=30.0)
    debt = tracker.debt_of(1)
    assert debt is not None
    assert (debt.since, debt.progress_at) == (10.0, 30.0)
    assert (debt.first_commit, debt.last_commit) == (CommitLsn(1_500), CommitLsn(1_900))
    assert debt.flushed == EndLsn(1_410)


def test_ages_stay_true_in_bounded_space() -> None:
    """Hours of debts fit in the marks, and after any partial progress the age is overstated by little."""
    entry = Entry(1, 0, 0.0)
    count = 5_000
    for index in range(count):
        entry.register(index * 10, index * 10 + 5, float(index * 2))
        assert len(entry.marks) <= MARKS_MAX
    for paid in range(0, count - 1, 97):
        entry.pay(paid * 10 + 5)
        true_since = float((paid + 1) * 2)
        assert true_since - 2 * count / (MARKS_MAX / 2) <= entry.since <= true_since


def test_the_oldest_and_the_pinning_debts_are_listed_in_order() -> None:
    """Who has owed longest need not be who is flushed least."""
    tracker = tracker_with(1, 2, 3)
    commit(tracker, 1_100, 1, now=1.0)
    commit(tracker, 1_200, 2, now=5.0)
    commit(tracker, 1_300, 1, 3, now=9.0)
    flushed(tracker, 1, 1_100, now=10.0)
    assert [debt.incarnation for debt in tracker.oldest_debts(2)] == [2, 1]
    assert [debt.incarnation for debt in tracker.pinning_debts(3)] == [1, 2, 3]
    assert [debt.incarnation for debt in tracker.oldest_debts(9)] == [2, 1, 3]
    assert tracker.oldest_debts(0) == []


def test_a_transaction_whose_rest_is_lost_is_owed_until_it_is_covered() -> None:
    """A later report covers it, a removal voids it, and it does not stand in the way of what follows."""
    tracker = tracker_with(1, 2)
    tracker.handle_txn_fragment(CommitLsn(1_100), [1, 2], None, 0.0)
    tracker.handle_txn_void()
    commit(tracker, 1_200, 1, now=5.0)
    commit(tracker, 1_300, 1, now=10.0)
    flushed(tracker, 1, 1_200)
    assert boundary(tracker) == 1_000
    debt = tracker.debt_of(1)
    assert debt is not None
    assert debt.since == 10.0
    tracker.handle_shape_removed(2)
    assert boundary(tracker) == 1_210


def test_who_is_routed_no_more_holds_the_boundary_until_the_tombstone() -> None:
    """Also one that owes nothing: a power cut brings it back, and what is released meanwhile it would miss."""
    tracker = tracker_with(1, 2)
    commit(tracker, 1_100, 1)
    flushed(tracker, 1, 1_100)
    tracker.handle_shape_unrouted(1, 5.0)
    commit(tracker, 1_200)
    assert boundary(tracker) == 1_110
    flushed(tracker, 1, 1_200)
    assert boundary(tracker) == 1_110, "no report ends it"
    assert [(debt.incarnation, debt.since) for debt in tracker.oldest_debts(5)] == [(1, 5.0)]
    tracker.handle_shape_removed(1)
    assert boundary(tracker) == 1_210


def test_a_transaction_that_ends_lets_nobody_go_who_is_routed_no_more() -> None:
    """Also one whose files were found ahead of the stream: it is given up half-way, and misses what comes behind that."""
    tracker = FlushTracker(EndLsn(1_000))
    tracker.handle_shape_added(1, 0.0)
    assert tracker.start_owing(1, EndLsn(1_110), 0.0)
    tracker.handle_txn_fragment(CommitLsn(1_100), [1], None, 0.0)
    tracker.handle_shape_unrouted(1, 0.0)
    tracker.handle_txn_fragment(CommitLsn(1_100), [1], EndLsn(1_110), 0.0)
    commit(tracker, 1_200)
    assert boundary(tracker) == 1_110
    tracker.handle_shape_removed(1)
    assert boundary(tracker) == 1_210


def test_only_who_owes_can_hold() -> None:
    """A shape that a crash makes void anyway, or one that nobody knows, is let go at once."""
    tracker = tracker_with()
    tracker.handle_shape_added(3, 0.0)
    tracker.handle_shape_unrouted(3, 0.0)
    tracker.handle_shape_unrouted(4, 0.0)
    commit(tracker, 1_100)
    assert boundary(tracker) == 1_110


def test_a_new_epoch_forgets_everything() -> None:
    """Debts, shapes and positions of the old one are gone; the boundary may be lower."""
    tracker = tracker_with(1)
    commit(tracker, 1_100, 1)
    tracker.begin_epoch(EndLsn(500))
    assert boundary(tracker) == 500
    assert tracker.pending_count == 0
    commit(tracker, 600)
    assert tracker.last_seen_commit == CommitLsn(600)


@pytest.mark.parametrize("lsn", [1_100, 1_099])
def test_commits_out_of_order_are_a_bug(lsn: int) -> None:
    """Whoever passes them has lost their place: better to stop than to account wrongly."""
    tracker = tracker_with(1)
    commit(tracker, 1_100, 1)
    with pytest.raises(AssertionError):
        commit(tracker, lsn, 1)


def test_ended_entries_do_not_pile_up() -> None:
    """While one entry stands at the top for ever, thousands come and go below it in bounded space."""
    heap = GrowingKeyHeap(lambda entry: entry.flushed)
    stuck = Entry(0, 0, 0.0)
    heap.push(stuck)
    for incarnation in range(1, 5_000):
        entry = Entry(incarnation, incarnation, 0.0)
        heap.push(entry)
        entry.is_ended = True
        heap.note_ended()
        assert len(heap) <= 200
        assert heap.smallest() is stuck
    stuck.is_ended = True
    heap.note_ended()
    assert heap.smallest() is None
    assert heap.several(3) == []
