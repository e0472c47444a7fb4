"""
How the engine reads the relay log: which epoch, from where, and whether what it handles was served before.

Owns the intake and its reader. The row that begins an epoch is in the control store before the first read of that
epoch's log (O7). Shell; decoding and the pace are the intake's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.intake import Intake
from penstock.consumers.stage import ConsumersStage
from penstock.errors import CorruptLogError, DecodeError
from penstock.liveness.breadcrumb import Inherited
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.abc import PublishedEnd
from penstock.relay.reader import RelayReader, read_epoch
from penstock.replication.state import ReceiverPhase
from penstock.service.cells import ReceiverReport
from penstock.service.engine.recorder import BoundaryRecorder
from penstock.service.facts import RecordedFacts

_log: Final = structlog.get_logger(__name__)


class RelayReading:
    """
    The engine's place in the relay log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        acknowledge: str,
        published: Callable[[], PublishedEnd | None],
        report: Callable[[], ReceiverReport | None],
        recorder: BoundaryRecorder,
        collector: ShapeLogCollector,
        consumers: ConsumersStage,
        facts: RecordedFacts,
        on_slice: Callable[[float], None],
    ) -> None:
        """
        Take the ports; nothing is read before `run`.

        Args:
            folder: of the relay log.
            acknowledge: the mode; with `shapes` the log is not synced.
            published: the published end, of whatever epoch.
            report: what the receiver said last.
            recorder: the epoch of the shapes and the boundary, where reading begins.
            collector: handles what is read.
            consumers: the shapes.
            facts: of partitions.
            on_slice: called with the time after each slice.
        """
        self._folder: Final = folder
        self._published: Final = published
        self._report: Final = report
        self._recorder: Final = recorder
        self._collector: Final = collector
        self._consumers: Final = consumers
        self._reader: RelayReader | None = None
        self._level_at: int | None = None
        self._is_level = acknowledge == "relay"
        self._intake: Final = Intake(
            collector,
            published=self._published_not_older,
            open_epoch=self._open_epoch,
            find_ancestors=facts.find_ancestors,
            on_broken=self._on_broken,
            on_slice=on_slice,
            may_read=consumers.settler.may_read,
        )

    async def run(self, inherited: Inherited) -> None:
        """
        Give up the shape of which engines have died, if there is one, then read until cancelled.
        """
        registry = self._consumers.registry
        convict = registry.entry(inherited.convicted)
        if convict is not None:
            reason = f"the engine died twice while it handled commit {CommitLsn(inherited.commit)} for this shape"
            registry.condemn([convict], reason, is_fault=True)
        await self._intake.run()

    def wake(self) -> None:
        """
        Hint that more was published.
        """
        self._intake.wake()
        if self._consumers.registry.behind():
            self._consumers.catch_up.wake()

    # --- where it stands ---------------------------------------------------------------------------------------------

    @property
    def is_caught_up(self) -> bool:
        """
        Whether everything that was published when this engine began has been handled.
        """
        return self._intake.is_caught_up

    @property
    def is_broken(self) -> bool:
        """
        Whether the stream cannot be decoded at present.
        """
        return self._intake.is_broken

    @property
    def is_paused(self) -> bool:
        """
        Whether nothing is read because memory is full.
        """
        return self._intake.is_paused

    @property
    def damaged_segment(self) -> int:
        """
        The segment after which the receiver must begin another one; 0 for none.
        """
        return 0 if self._reader is None else self._reader.damaged_segment

    def is_replaying(self) -> bool:
        """
        Tell whether clients may have been served more by an engine before this one than this one has handled.

        In `shapes` mode the relay log is not synced, so after a power cut that is not in it and comes from Postgres
        again: all that the server had written by the time the receiver found it.
        """
        if not self._intake.is_caught_up:
            return True
        if self._is_level:
            return False
        report = self._report()
        if self._level_at is None and report is not None and report.phase == ReceiverPhase.STREAMING.value:
            self._level_at = report.server_end
        self._is_level = self._level_at is not None and self._collector.last_seen_end.value >= self._level_at
        return not self._is_level

    # --- epochs ------------------------------------------------------------------------------------------------------

    def published_here(self) -> PublishedEnd | None:
        """
        Read the published end, if it is of the epoch that our shapes belong to.
        """
        published = self._published()
        return None if published is None or published.epoch != self._recorder.epoch else published

    async def open_source(self, published: PublishedEnd) -> RelayReader:
        """
        Open another reader, for shapes that are behind.
        """
        return RelayReader(self._folder, published.epoch)

    def _published_not_older(self) -> PublishedEnd | None:
        """
        Read the published end, but wait for the receiver while it goes on in an epoch before that of our shapes: the
        folder of the newer one is lost, and as soon as the receiver learns of it, it begins another.
        """
        published = self._published()
        return None if published is None or published.epoch < self._recorder.epoch else published

    async def _open_epoch(self, published: PublishedEnd) -> RelayReader:
        if published.epoch != self._recorder.epoch:
            header = await asyncio.to_thread(read_epoch, self._folder, published.epoch)
            await self._recorder.begin_epoch(published.epoch, header.start, header.reason)
        reader = self._reader = RelayReader(self._folder, published.epoch)
        try:
            reader.seek(self._recorder.boundary)
        except CorruptLogError as error:
            # The shapes are known to be complete only up to the boundary, and what follows it is not there.
            _log.error("the relay log does not reach back to the recorded boundary", error=error.message)
            await self._recorder.begin_epoch(published.epoch, EndLsn(published.end), error.message)
            reader.seek(self._recorder.boundary)
        return reader

    async def _on_broken(self, error: CorruptLogError | DecodeError) -> None:
        _log.error("the relay log cannot be followed; every shape starts over", error=error.message)
        # What follows the damage can be decoded only from where a segment begins.
        self._recorder.tell()
        await self._consumers.registry.condemn_all(f"relay log: {error.message}")
