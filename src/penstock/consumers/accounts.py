"""
The collector as the consumers see it: one object that routes, owes and tells positions.

Form: adapter over two reducers; the clock is an argument of the constructor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition


class CollectorAccounts:
    """
    Implements `ShapeAccounts` on the main collector.
    """

    def __init__(
        self, collector: ShapeLogCollector, tracker: FlushTracker, xids: RoutedXids, clock: Callable[[], float]
    ) -> None:
        """
        Speak for this collector, its tracker and its transaction ids.
        """
        self._collector: Final = collector
        self._tracker: Final = tracker
        self._xids: Final = xids
        self._clock: Final = clock
        self._last_snapshot = 0
        self._snapshots: Final[set[int]] = set()
        self._confirming: tuple[SnapshotBounds, set[int]] | None = None

    def add_shape(self, incarnation: int, definition: ShapeDefinition) -> CommitLsn:
        """
        Route to the shape from the next transaction on.
        """
        return self._collector.add_shape(incarnation, definition, self._clock())

    def start_owing(self, incarnation: int) -> None:
        """
        Let the shape owe, from the boundary as it stands.

        The claim that it is flushed up to the boundary may come before the fact: as long as the shape is not recorded
        live, a crash makes it void, and what it owes beyond holds the boundary meanwhile.
        """
        has_begun = self._tracker.start_owing(incarnation, self._tracker.last_global_flushed_offset, self._clock())
        assert has_begun, "the boundary is not past itself"

    def unroute(self, incarnation: int) -> None:
        """
        Deliver nothing more to the shape, which holds the boundary until it is removed.
        """
        self._collector.unroute(incarnation)
        self._tracker.handle_shape_unrouted(incarnation, self._clock())

    def remove_shape(self, incarnation: int) -> None:
        """
        Void what the shape owes.
        """
        self._collector.remove_shape(incarnation)

    def flushed(self, incarnation: int, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Report what is durable.
        """
        self._tracker.handle_flush_notification(incarnation, commit_lsn, end, self._clock())

    def is_early(self, bounds: SnapshotBounds, routed_after: CommitLsn) -> bool:
        """
        Tell whether the snapshot misses a commit that the shape does not get from the stream either.
        """
        return self._xids.unseen_before(bounds.snapshot, routed_after)

    def begin_snapshot(self) -> int:
        """
        A snapshot is about to be taken.
        """
        self._last_snapshot += 1
        self._snapshots.add(self._last_snapshot)
        return self._last_snapshot

    def end_snapshot(self, number: int) -> None:
        """
        The snapshot will not be asked about any more.
        """
        self._snapshots.discard(number)
        if self._confirming is not None:
            bounds, older = self._confirming
            older.discard(number)
            if not older:
                self._confirming = None
                self._xids.confirm_visible(bounds.snapshot, bounds.horizon)

    def confirm_visible(self, bounds: SnapshotBounds) -> None:
        """
        Forget what this snapshot shows, once no snapshot can be asked about that may be older.

        Of two snapshots under way, the one heard of first may be the later one; what it shows the other may not. One
        waits at a time; the next to come after it is as good as those passed over.
        """
        if self._confirming is not None:
            return
        if self._snapshots:
            self._confirming = (bounds, set(self._snapshots))
        else:
            self._xids.confirm_visible(bounds.snapshot, bounds.horizon)

    @property
    def boundary(self) -> EndLsn:
        """
        The flush boundary.
        """
        return self._tracker.last_global_flushed_offset

    @property
    def seen(self) -> tuple[CommitLsn, EndLsn]:
        """
        How far the stream was handled.
        """
        return self._collector.last_seen_commit, self._collector.last_seen_end

    @property
    def last_seen_lsn(self) -> int:
        """
        What up-to-date messages say.
        """
        return self._collector.last_seen_lsn
