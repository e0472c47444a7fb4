"""
The flush tracker against a naive model that keeps every single debt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.collector.flush_tracker import FlushTracker
from penstock.postgres.lsn import CommitLsn, EndLsn

START = 1_000


@dataclass
class NaiveShape:
    """
    One incarnation: what it was routed, what it has made durable, and whether that is owed.
    """

    routed: list[int] = field(default_factory=list)
    """Commits in order, including the one that is half-way."""
    floor: int = 0
    """End position its present run of debts began behind; meaningful only while it owes."""
    durable: int = 0
    """Greatest end reported."""
    is_owing: bool = False
    since: dict[int, float] = field(default_factory=dict)


class TrackerAgainstModel(RuleBasedStateMachine):
    """
    Any interleaving of fragments, frontiers, reports, removals and late owing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tracker = FlushTracker(EndLsn(START))
        self.shapes: dict[int, NaiveShape] = {}
        self.removed: list[int] = []
        self.ends: dict[int, int] = {}
        self.open: int | None = None
        self.open_concerned: set[int] = set()
        self.seen_end = START
        self.next_position = START + 1
        self.now = 0.0
        self.stale = 0
        self.boundary_before = START
        self.next_incarnation = 1

    # --- the naive rules ---

    def owed(self, shape: NaiveShape) -> list[int]:
        return [c for c in shape.routed if c not in self.ends or self.ends[c] > shape.durable]

    def expected_boundary(self) -> int:
        held = [max(s.floor, s.durable) for s in self.shapes.values() if s.is_owing and self.owed(s)]
        return min([self.seen_end, *held])

    def route(self, incarnation: int, commit: int, end: int | None) -> None:
        shape = self.shapes[incarnation]
        if not self.owed(shape):
            shape.floor = self.seen_end
        if commit not in shape.routed:
            shape.routed.append(commit)
            shape.since[commit] = self.now
        del end

    # --- actions ---

    @rule(step=st.floats(0, 3))
    def let_time_pass(self, step: float) -> None:
        self.now += step

    @rule(is_owing=st.booleans())
    def add_shape(self, *, is_owing: bool) -> None:
        if len(self.shapes) >= 5:
            return
        incarnation = self.next_incarnation
        self.next_incarnation += 1
        self.tracker.handle_shape_added(incarnation, self.now)
        self.shapes[incarnation] = NaiveShape(durable=0)
        if is_owing:
            self._start_owing(incarnation, self.seen_end)

    @precondition(lambda self: any(not s.is_owing for s in self.shapes.values()))
    @rule(data=st.data())
    def start_owing_late(self, data: st.DataObject) -> None:
        waiting = [i for i, s in self.shapes.items() if not s.is_owing]
        incarnation = data.draw(st.sampled_from(waiting))
        places = sorted({START, self.seen_end, *self.ends.values()})
        self._start_owing(incarnation, data.draw(st.sampled_from(places)))

    def _start_owing(self, incarnation: int, flushed: int) -> None:
        did = self.tracker.start_owing(incarnation, EndLsn(flushed), self.now)
        assert did == (flushed >= self.expected_boundary())
        if did:
            shape = self.shapes[incarnation]
            shape.is_owing = True
            shape.durable = max(shape.durable, flushed)
            shape.floor = shape.durable
            shape.since = dict.fromkeys(shape.routed, self.now)

    @precondition(lambda self: self.open is None)
    @rule(data=st.data(), is_whole=st.booleans(), gap=st.integers(1, 3))
    def begin_transaction(self, data: st.DataObject, *, is_whole: bool, gap: int) -> None:
        commit = self.next_position + gap
        self.next_position = commit + 1
        concerned = data.draw(st.sets(st.sampled_from(sorted(self.shapes)))) if self.shapes else set()
        self.open_concerned = set()
        self._fragment(commit, concerned, is_last=is_whole)

    @precondition(lambda self: self.open is not None)
    @rule(data=st.data(), is_last=st.booleans())
    def go_on_with_transaction(self, data: st.DataObject, *, is_last: bool) -> None:
        assert self.open is not None
        more = data.draw(st.sets(st.sampled_from(sorted(self.shapes)))) if self.shapes else set()
        self._fragment(self.open, more, is_last=is_last)

    def _fragment(self, commit: int, concerned: set[int], *, is_last: bool) -> None:
        self.open_concerned |= concerned
        end = self.next_position if is_last else None
        told = self.open_concerned if is_last else concerned
        for incarnation in told:
            self.route(incarnation, commit, end)
        self.tracker.handle_txn_fragment(
            CommitLsn(commit), sorted(told), None if end is None else EndLsn(end), self.now
        )
        if end is None:
            self.open = commit
        else:
            self.open = None
            self.ends[commit] = end
            self.seen_end = end
            self.next_position = end + 1

    @rule(distance=st.integers(0, 5))
    def see_frontier(self, distance: int) -> None:
        end = self.next_position + distance
        self.tracker.handle_frontier(EndLsn(end))
        if self.open is None:
            self.seen_end = end
            self.next_position = end + 1

    @precondition(lambda self: self.shapes and self.ends)
    @rule(data=st.data())
    def report_flushed(self, data: st.DataObject) -> None:
        """
        Any whole commit may be named: too old, partial, covering, or one that never concerned the shape.
        """
        incarnation = data.draw(st.sampled_from(sorted(self.shapes)))
        commit = data.draw(st.sampled_from(sorted(self.ends)[-6:]))
        self._report(incarnation, commit)

    def _report(self, incarnation: int, commit: int) -> None:
        end = self.ends[commit]
        self.tracker.handle_flush_notification(incarnation, CommitLsn(commit), EndLsn(end), self.now)
        shape = self.shapes[incarnation]
        if shape.is_owing or self.owed(shape):
            shape.durable = max(shape.durable, end)

    @precondition(lambda self: any(s.is_owing for s in self.shapes.values()) and self.open is None)
    @rule(data=st.data())
    def report_ahead_of_the_stream(self, data: st.DataObject) -> None:
        """
        A catch-up reader, or files found after a restart, can be ahead; the commit is then seen later.
        """
        incarnation = data.draw(st.sampled_from([i for i, s in self.shapes.items() if s.is_owing]))
        commit, end = self.next_position, self.next_position + 1
        self.next_position = end + 1
        self.tracker.handle_flush_notification(incarnation, CommitLsn(commit), EndLsn(end), self.now)
        self.shapes[incarnation].durable = max(self.shapes[incarnation].durable, end)
        if data.draw(st.booleans()):
            self.tracker.handle_txn_fragment(CommitLsn(commit), [incarnation], None, self.now)
            self.check_boundary()
        self.route(incarnation, commit, end)
        self.ends[commit] = end
        self.tracker.handle_txn_fragment(CommitLsn(commit), [incarnation], EndLsn(end), self.now)
        self.seen_end = end

    @precondition(lambda self: self.shapes)
    @rule(data=st.data())
    def remove_shape(self, data: st.DataObject) -> None:
        incarnation = data.draw(st.sampled_from(sorted(self.shapes)))
        del self.shapes[incarnation]
        self.open_concerned.discard(incarnation)
        self.removed.append(incarnation)
        self.tracker.handle_shape_removed(incarnation)

    @precondition(lambda self: self.removed and self.ends)
    @rule(data=st.data())
    def report_of_the_dead(self, data: st.DataObject) -> None:
        """
        S7: a late report changes nothing and is counted.
        """
        incarnation = data.draw(st.sampled_from(self.removed))
        commit = max(self.ends)
        self.tracker.handle_flush_notification(incarnation, CommitLsn(commit), EndLsn(self.ends[commit]), self.now)
        self.stale += 1

    @precondition(lambda self: self.open is None and self.ends)
    @rule()
    def everybody_flushes(self) -> None:
        """
        Quiescence implies no debts, and the boundary reaches the end.
        """
        newest = max(self.ends)
        for incarnation, shape in self.shapes.items():
            if shape.is_owing:
                self._report(incarnation, newest)
        assert self.tracker.pending_count == 0
        assert self.tracker.last_global_flushed_offset == EndLsn(self.seen_end)

    # --- laws ---

    @invariant()
    def check_boundary(self) -> None:
        boundary = self.tracker.last_global_flushed_offset.value
        assert boundary >= self.boundary_before
        assert boundary == self.expected_boundary()
        assert self.tracker.last_seen_offset == EndLsn(self.seen_end)
        self.boundary_before = boundary

    @invariant()
    def nothing_released_is_owed(self) -> None:
        """
        S1, from the other side: no whole commit at or below the boundary is owed by anybody.
        """
        boundary = self.tracker.last_global_flushed_offset.value
        for shape in self.shapes.values():
            if shape.is_owing:
                assert all(c >= boundary if c not in self.ends else self.ends[c] > boundary for c in self.owed(shape))

    @invariant()
    def debts_are_told_as_they_are(self) -> None:
        owing = {i: s for i, s in self.shapes.items() if s.is_owing and self.owed(s)}
        told = {debt.incarnation: debt for debt in self.tracker.oldest_debts(10)}
        assert told.keys() == owing.keys()
        for incarnation, shape in owing.items():
            debt = told[incarnation]
            owed = self.owed(shape)
            oldest = shape.since[owed[0]]
            assert oldest - 1.0 <= debt.since <= oldest
            assert debt.first_commit.value <= owed[0]
            assert debt.last_commit.value == owed[-1]
            assert debt == self.tracker.debt_of(incarnation)
        by_age = [debt.since for debt in self.tracker.oldest_debts(10)]
        assert by_age == sorted(by_age)
        by_place = [debt.flushed for debt in self.tracker.pinning_debts(10)]
        assert by_place == sorted(by_place)
        assert self.tracker.pending_count == len(owing)

    @invariant()
    def the_dead_are_counted(self) -> None:
        assert self.tracker.stale_reports == self.stale


TestTrackerAgainstModel = TrackerAgainstModel.TestCase
TestTrackerAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
