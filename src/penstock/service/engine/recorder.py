"""
What the engine records about itself: the epoch of its shapes, the flush boundary, and what its successor must know.

Keeps two of the orders that matter (O2, O7): every debt up to a boundary is discharged before the boundary is in the
control store, and it is there before it is on the board; the row that begins an epoch is there before anything of that
epoch is read. One lock keeps a boundary of one epoch from being recorded in another. Shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.replay import REPLAY_VERSION, is_foreign, version_at_start
from penstock.control.records import Recovered
from penstock.control.store import SqliteControlStore
from penstock.errors import PenstockError
from penstock.liveness.breadcrumb import Inherited
from penstock.postgres.lsn import EndLsn
from penstock.relay.epochs import RecordedBoundary
from penstock.service.cells import RecordedBoundaryCell
from penstock.service.engine.control_health import ControlHealth
from penstock.service.facts import RecordedFacts
from penstock.service.sweep import Casualties
from penstock.service.trail import BoardTrail
from penstock.shapes.offset import LogOffset

_log: Final = structlog.get_logger(__name__)

RECORD_INTERVAL_S: Final[Mapping[str, float]] = {"relay": 5.0, "shapes": 1.0}
"""How often a moving boundary is recorded."""
XIDS: Final = "routed xids"
"""Kind of the fact that holds the transactions decoded below the boundary that no snapshot has shown yet."""
TRAIL: Final = "engine deaths"
"""Kind of the fact that holds what engines were busy with when they died."""
SETTLED_NOTED_SLACK: Final = 1000
"""So many shapes that are gone may be remembered beside those that are there."""
RETRY_S: Final = 1.0
"""How long to wait before the control store is asked again."""


class BoundaryRecorder:
    """
    Records the boundary while it moves, and tells the receiver.

    Attributes:
        epoch: the one our shapes belong to; 0 before the first.
        boundary: what the control store has, and so the least that a restart goes back to.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        control: SqliteControlStore,
        control_health: ControlHealth,
        tracker: FlushTracker,
        xids: RoutedXids,
        collector: ShapeLogCollector,
        registry: ConsumerRegistry,
        facts: RecordedFacts,
        trail: BoardTrail,
        casualties: Casualties,
        cell: RecordedBoundaryCell,
        damaged_segment: Callable[[], int],
        wake_receiver: Callable[[], None],
    ) -> None:
        """
        Take the ports; nothing is known before `take_over`.

        Args:
            interval_s: how often it records, at most.
            control: where.
            control_health: told whether that works.
            tracker: computes the boundary.
            xids: transactions that snapshots may not show yet.
            collector: begins a new epoch with us.
            registry: the shapes, likewise.
            facts: of partitions, likewise.
            trail: what engines died of.
            casualties: shapes that were given up because of a fault.
            cell: where the receiver reads what is recorded.
            damaged_segment: of the relay log; told to the receiver too.
            wake_receiver: hints to the receiver that it should look.
        """
        self._interval_s: Final = interval_s
        self._control: Final = control
        self._control_health: Final = control_health
        self._tracker: Final = tracker
        self._xids: Final = xids
        self._collector: Final = collector
        self._registry: Final = registry
        self._facts: Final = facts
        self._trail: Final = trail
        self._casualties: Final = casualties
        self._cell: Final = cell
        self._damaged_segment: Final = damaged_segment
        self._wake_receiver: Final = wake_receiver
        self._recording: Final = asyncio.Lock()
        self.epoch = 0
        self.boundary = EndLsn(0)
        self._trim_below = EndLsn(0)
        self._xids_saved = b""
        self._replay_version = REPLAY_VERSION
        self._trail_kept = b""
        self._settled_noted: dict[int, LogOffset] = {}

    async def take_over(self, recovered: Recovered) -> Inherited:
        """
        Go on where the engine before this one has ended; tells what it may have died of.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        self.epoch = recovered.epoch or 0
        self.boundary = self._trim_below = recovered.boundary
        self._collector.begin_epoch(recovered.boundary)
        self._facts.restore(recovered.facts)
        self._xids_saved = recovered.facts.get((XIDS, ""), b"")
        self._xids.restore(self._xids_saved)
        self.tell()
        self._casualties.restore(recovered.sheds)
        self._registry.is_replay_foreign = is_foreign(
            recorded_version=recovered.replay_version, was_clean=recovered.was_clean
        )
        self._replay_version = version_at_start(
            recorded_version=recovered.replay_version, was_clean=recovered.was_clean
        )
        if self._replay_version != recovered.replay_version:
            await self._control.record_replay_version(self._replay_version)
        self._trail_kept = recovered.facts.get((TRAIL, ""), b"")
        inherited = self._trail.take_over(self.epoch, self._trail_kept)
        await self._keep_trail()
        return inherited

    async def run(self) -> None:
        """
        Record the boundary while it moves, no more often than the mode says, until cancelled.
        """
        while True:
            try:
                await self.record()
                await self._casualties.save(self._control)
                await self._record_version()
                await self._keep_trail()
                self._control_health.handle_success()
            except PenstockError as error:
                if not self._control_health.failure:
                    _log.error("the flush boundary cannot be recorded", error=error.message)
                self._control_health.handle_failure(error.message)
            await asyncio.sleep(self._interval_s)

    async def begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        """
        Give up all shapes and begin anew; returns when that is durable, however long it takes.
        """
        count = len(self._registry)
        async with self._recording:
            while True:
                try:
                    await self._control.begin_epoch(epoch, boundary, reason)
                    break
                except PenstockError as error:
                    self._control_health.handle_failure(error.message)
                    _log.error("a new epoch cannot be recorded", error=error.message)
                    await asyncio.sleep(RETRY_S)
            self._control_health.handle_success()
            self.epoch, self.boundary, self._trim_below = epoch, boundary, boundary
            self._settled_noted.clear()
            self._registry.forget_all(reason)
            self._collector.begin_epoch(boundary)
            self._facts.forget_all()
            self._xids_saved = self._trail_kept = b""
            self._registry.is_replay_foreign = False
            self._trail.begin_epoch(epoch)
        self.tell()
        _log.warning("a new epoch has begun", epoch=epoch, start=str(boundary), reason=reason, rotated_shapes=count)

    async def record(self) -> None:
        """
        Record the boundary once, if it has moved, and tell the receiver.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        async with self._recording:
            if self.epoch == 0:
                return
            registry = self._registry
            boundary = self._tracker.last_global_flushed_offset
            oldest = registry.oldest_creating()
            trim_below = boundary if oldest is None else min(boundary, oldest)
            if boundary == self.boundary and trim_below == self._trim_below:
                return
            moved = {
                entry.incarnation: entry.settled
                for entry in registry
                if entry.is_live and self._settled_noted.get(entry.incarnation) != entry.settled
            }
            if boundary != self.boundary:
                # What lies below the boundary is not decoded again: whether snapshots see it must be known after a crash.
                xids = self._xids.save(boundary)
                if xids != self._xids_saved:
                    await self._control.record_fact(XIDS, "", xids)
                    self._xids_saved = xids
                await self._control.checkpoint(boundary, moved)
                self._settled_noted.update(moved)
                if len(self._settled_noted) > 2 * len(registry) + SETTLED_NOTED_SLACK:
                    alive = {entry.incarnation for entry in registry}
                    self._settled_noted = {key: at for key, at in self._settled_noted.items() if key in alive}
            self.boundary, self._trim_below = boundary, trim_below
            self._trail.forget_below(boundary.value)
        self.tell()

    def tell(self) -> None:
        """
        Show the receiver what the control store has.
        """
        self._cell.write(RecordedBoundary(self.boundary, self._trim_below, self.epoch, self._damaged_segment()))
        self._wake_receiver()

    async def _record_version(self) -> None:
        """
        Once nothing is left that code of another version was handed, what is served is ours.
        """
        registry = self._registry
        if self._replay_version != REPLAY_VERSION and not registry.is_replay_foreign and not registry.is_burying:
            await self._control.record_replay_version(REPLAY_VERSION)
            self._replay_version = REPLAY_VERSION

    async def _keep_trail(self) -> None:
        """
        Let what engines died on outlive the supervisor and its board.
        """
        found = self._trail.save()
        if found == self._trail_kept:
            return
        try:
            await self._control.record_fact(TRAIL, "", found)
        except PenstockError as error:
            _log.warning("what the engine before died on cannot be kept", error=error.message)
        else:
            self._trail_kept = found
