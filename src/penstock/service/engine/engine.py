"""
The life of the engine: takes over what a restart found, runs its parts, settles and records at the end.

Keeps the last of the orders that matter (O8): everything is settled and the boundary recorded before the mark of a clean
stop. Shell.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from penstock.compiled import choice
from penstock.control.records import Recovered
from penstock.errors import PenstockError
from penstock.liveness.board import Board
from penstock.liveness.breadcrumb import Inherited
from penstock.service.engine.parts import EngineParts
from penstock.service.engine.source import EngineSource
from penstock.service.faults import EngineFaults, NoFaults
from penstock.service.settings import Settings
from penstock.shapes.reading import Health

_log: Final = structlog.get_logger(__name__)


class Engine:
    """
    Everything between the relay log and the clients' requests, in one event loop.

    Attributes:
        parts: what it is made of, for those who look into it in tests.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        wake_receiver: Callable[[], None],
        beat: Callable[[], None] = lambda: None,
        faults: EngineFaults | None = None,
    ) -> None:
        """
        Build the parts; nothing is opened before `run`.

        Args:
            settings: of the service.
            board: where the published end is read and the recorded boundary is written.
            wake_receiver: hints to the receiver that a boundary was recorded.
            beat: the heartbeat; called after each slice of work and at least once a second.
            faults: what is made to fail on purpose; nothing but in tests.
        """
        self._settings: Final = settings
        self.parts: Final = EngineParts(
            settings, board, wake_receiver=wake_receiver, beat=beat, faults=faults or NoFaults()
        )

    @property
    def source(self) -> EngineSource:
        """
        What serves clients.
        """
        return self.parts.source

    def health(self) -> Health:
        """
        Tell where the engine stands.
        """
        return self.parts.health.health()

    def wake(self) -> None:
        """
        Hint that more was published.
        """
        self.parts.reading.wake()

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Work until `stopping` is set, then settle, record and leave.

        Raises:
            PenstockError: what only a person can mend.
        """
        parts = self.parts
        choice.want(self._settings.compiled_core)
        _log.info("rows are decoded and encoded", core=choice.describe())
        await asyncio.to_thread(self._settings.state_folder.mkdir, 0o700, exist_ok=True)
        await asyncio.to_thread(parts.spool.clear)
        await parts.control.open()
        if parts.control.was_set_aside:
            _log.error("the control store could not be read and was set aside; every shape starts over")
        is_clean = False
        try:
            is_clean = await self._run(await parts.control.load(), stopping)
        finally:
            await parts.publication.close()
            await parts.connections.close()
            await parts.control.close(is_clean=is_clean)
            parts.store.close()
            parts.spool.close()
            parts.black_box.close()

    async def _run(self, recovered: Recovered, stopping: asyncio.Event) -> bool:
        parts = self.parts
        inherited = await parts.recorder.take_over(recovered)
        is_clean = False
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(parts.consumers.run(recovered, self._restored), name="consumers"),
                group.create_task(self._when_restored(parts.watch.run), name="catalog watch"),
                group.create_task(parts.recorder.run(), name="recorder"),
                group.create_task(parts.pulse.run(), name="heartbeat"),
                group.create_task(parts.tables.learn_options(), name="publication options"),
                group.create_task(parts.sweep.run(), name="progress sweep"),
                group.create_task(parts.budget.run(), name="budget of bytes"),
                group.create_task(parts.evictor.run(), name="eviction"),
                group.create_task(parts.disks.run(), name="space on the disks"),
                group.create_task(parts.sleeper.run(), name="sleep"),
                group.create_task(parts.compactor.run(), name="compaction"),
                group.create_task(parts.handover.run(), name="handover"),
            ]
            reading = group.create_task(self._read(inherited), name="intake")
            stopped = group.create_task(stopping.wait(), name="stop")
            await asyncio.wait([stopped, reading], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                reading.cancel()
                is_clean = await self._drain()
            for task in (*tasks, stopped, reading):
                task.cancel()
        return is_clean

    def _restored(self) -> None:
        """
        Every live shape is routed. They are many objects that stay: the collector of cyclic garbage, which would stop
        everything for a second to look at those of a hundred thousand shapes, need not look at them again.
        """
        gc.collect()
        gc.freeze()
        self.parts.health.is_restored.set()

    async def _when_restored(self, work: Callable[[], Awaitable[None]]) -> None:
        """
        Begin what must see all shapes: what becomes of a table concerns those too that are still to be taken over.
        """
        await self.parts.health.is_restored.wait()
        await work()

    async def _read(self, inherited: Inherited) -> None:
        await self.parts.health.is_restored.wait()
        await self.parts.reading.run(inherited)

    async def _drain(self) -> bool:
        """
        Settle everything and record it; tells whether a restart will find all of it.
        """
        parts = self.parts
        parts.health.drain()
        parts.consumers.catalog.close()
        settler = parts.consumers.settler
        await settler.settle_all()
        try:
            await parts.recorder.record()
        except PenstockError as error:
            _log.warning("the boundary could not be recorded at the end", error=error.message)
            return False
        published = parts.reading.published_here()
        is_all_handled = published is None or published.end <= parts.collector.last_seen_end.value
        if parts.reading.is_replaying() and not is_all_handled:
            # What is left was served once already, perhaps by other code than the next.
            return False
        # Whoever still owes (it is behind, or its disk hangs) will be fed again: that is no clean stop.
        return not settler.without_space and not settler.failed_together and parts.tracker.pending_count == 0
