"""
How shapes come into memory and leave it.

Owns the tasks that open the files of shapes; what waited for that is then begun by `delivery`. Form: shell. A shape
leaves memory only with nothing in its hands: all it had is settled, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from penstock.consumers.abc import ShapeLog, ShapeLogStore
from penstock.consumers.burial import Burial
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.entries import ShapeEntries, ShapeEntry, ShapeGoneError
from penstock.consumers.limits import ConsumerLimits
from penstock.errors import PenstockError, Policy

_log: Final = structlog.get_logger(__name__)


class ShapeOpening:
    """
    Opens the files of shapes, a few at a time.
    """

    def __init__(
        self,
        *,
        entries: ShapeEntries,
        burial: Burial,
        store: ShapeLogStore,
        limits: ConsumerLimits,
        clock: Callable[[], float],
        begin: Callable[[ShapeEntry, ShapeLog], None],
    ) -> None:
        """
        Take the ports; `begin` is told when files are open, see `ConsumerRegistry` for the others.
        """
        self._entries: Final = entries
        self._burial: Final = burial
        self._store: Final = store
        self._limits: Final = limits
        self._clock: Final = clock
        self._begin: Final = begin
        self._loads: Final = asyncio.Semaphore(limits.loads_count_max)
        self._group: asyncio.TaskGroup | None = None

    def run_in(self, group: asyncio.TaskGroup | None) -> None:
        """
        Say which group owns the tasks; None for no more of them.
        """
        self._group = group

    def start(self, entry: ShapeEntry) -> Consumer:
        """
        Bring an idle shape into memory: deliveries wait while its files are opened.
        """
        assert entry.consumer is None
        consumer = Consumer(entry.incarnation, ConsumerState.LOADING, entry.done, entry.done_end, self._limits)
        entry.consumer = consumer
        self._burial.watch(entry)
        entry.active_at = self._clock()
        self._entries.in_memory[entry.incarnation] = entry
        assert self._group is not None, "the registry runs"
        entry.load = self._group.create_task(self._load(entry), name=f"load shape {entry.handle}")
        return consumer

    async def _load(self, entry: ShapeEntry) -> None:
        async with self._loads:
            while entry.condemned is None:
                try:
                    log = await self._store.load(entry.handle, entry.incarnation, entry.chunk_bytes_max, entry.settled)
                except PenstockError as error:
                    _log.error("shape log cannot be opened", handle=entry.handle, error=error.message)
                    if error.policy is Policy.ROTATE:
                        self._burial.condemn([entry], f"files cannot be opened: {error.message}", is_fault=True)
                        return
                    await asyncio.sleep(self._limits.retry_s)
                    continue
                except Exception as error:  # noqa: BLE001 - one shape's fault is nobody else's; it is judged, not swallowed
                    # A fault of ours in one shape's files is that shape's, and no reason to end all.
                    _log.exception("shape log cannot be opened", handle=entry.handle)
                    self._burial.condemn([entry], f"files cannot be opened: {type(error).__name__}", is_fault=True)
                    return
                if entry.condemned is None:
                    entry.load = None
                    self._begin(entry, log)
                return

    async def open_log(self, entry: ShapeEntry) -> ShapeLog:
        """
        Give the log of a shape, opening its files if need be.

        Raises:
            ShapeGoneError: the shape is being given up.
        """
        entry.active_at = self._clock()
        while entry.condemned is None:
            consumer = entry.consumer or self.start(entry)
            if consumer.log is not None:
                return consumer.log
            if entry.load is None:
                break
            await asyncio.wait([entry.load])
        raise ShapeGoneError("the shape is gone")

    def release_idle(self, is_busy: Callable[[ShapeEntry], bool]) -> int:
        """
        Let shapes leave memory that had nothing to do for a while, owe nothing and are waited for by nobody.

        Args:
            is_busy: whether something of the shape is not settled yet.

        Returns:
            How many left.
        """
        before = self._clock() - self._limits.idle_s
        idle = [
            entry
            for entry in self._entries.in_memory.values()
            if entry.active_at <= before and self._may_leave(entry) and not is_busy(entry)
        ]
        for entry in idle:
            consumer = entry.consumer
            assert consumer is not None
            entry.done, entry.done_end = consumer.done, consumer.done_end
            entry.file_bytes = None if consumer.log is None else consumer.log.file_bytes
            entry.is_compacting = consumer.log is not None and consumer.log.is_compacting
            # It goes with nothing in its hands, which is no reason for alarm.
            entry.monitor = None
            entry.consumer = None
            del self._entries.in_memory[entry.incarnation]
        return len(idle)

    @staticmethod
    def _may_leave(entry: ShapeEntry) -> bool:
        consumer = entry.consumer
        return (
            entry.is_live
            and entry.condemned is None
            and not entry.is_kept
            and not entry.waiters
            and consumer is not None
            and consumer.state is ConsumerState.LIVE
            and consumer.log is not None
            and consumer.log.tail_bytes == 0
            and not consumer.is_half_way
        )
