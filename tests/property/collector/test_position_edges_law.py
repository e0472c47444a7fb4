from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.collector.flush_tracker import FlushTracker
from penstock.postgres.lsn import LSN_MAX, CommitLsn, EndLsn

SEGMENT = 16 << 20
EDGES = [SEGMENT, 2**31, 2**32, 2**32 + SEGMENT, 2**63 - 1, 2**63, LSN_MAX - 100]


@given(st.sampled_from(EDGES), st.lists(st.integers(min_value=1, max_value=3), min_size=1, max_size=6))
def test_nothing_happens_at_the_edges_of_numbers(edge: int, sizes: list[int]) -> None:
    """
    Commits that end exactly at a segment's end, at 2**32 or 2**63, or begin there, are owed and paid like any other.
    """
    tracker = FlushTracker(EndLsn(edge - 10))
    tracker.handle_shape_added(1, 0.0)
    assert tracker.start_owing(1, EndLsn(edge - 10), 0.0)
    at = edge - 9
    ends: list[int] = []
    for size in [*sizes, 9 - sum(sizes) if sum(sizes) < 9 else 1, 2]:
        tracker.handle_txn_fragment(CommitLsn(at), [1], EndLsn(at + size), 0.0)
        ends.append(at + size)
        assert tracker.last_global_flushed_offset == EndLsn(edge - 10)
        at += size
    for index, end in enumerate(ends):
        start = edge - 9 if index == 0 else ends[index - 1]
        tracker.handle_flush_notification(1, CommitLsn(start), EndLsn(end), 1.0)
        assert tracker.last_global_flushed_offset == EndLsn(end)
    assert tracker.pending_count == 0


@given(st.integers(min_value=0, max_value=LSN_MAX), st.integers(min_value=0, max_value=LSN_MAX))
def test_positions_are_unsigned_in_text_and_in_order(first: int, second: int) -> None:
    """
    A position beyond 2**63 is greater than one below it, also when it was written down and read again.
    """
    one, other = EndLsn(first), EndLsn(second)
    assert (one < other) == (first < second)
    assert EndLsn.parse(str(one)) == one
