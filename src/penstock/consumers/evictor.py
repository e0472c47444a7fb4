"""
Gives shapes up when there are more, or larger ones, than there may be.

Which ones is decided by `eviction`. Shell: one task, which looks at each interval and only while the engine is active,
so that a service that cannot make shapes does not give any up either. The order of giving up is the registry's (O6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import structlog

from penstock.consumers.entries import ShapeEntry
from penstock.consumers.eviction import Readable, choose_victims
from penstock.consumers.registry import ConsumerRegistry
from penstock.errors import LogError

_log: Final = structlog.get_logger(__name__)


class Scales(Protocol):
    """
    Tells how large the files of shapes are.
    """

    async def weigh(self, shapes: Collection[tuple[str, int]]) -> Mapping[int, int]:
        """
        Give the bytes of these shapes, named by handle and incarnation; those without files are left out.
        """
        ...

    async def empty_trash(self) -> None:
        """
        Delete what was thrown away.
        """
        ...


class Evictor:
    """
    Looks after the number and the size of shapes.

    Attributes:
        evicted_count: shapes given up by it.
    """

    def __init__(
        self,
        registry: ConsumerRegistry,
        scales: Scales,
        *,
        count_max: int | None,
        bytes_max: int | None,
        interval_s: float,
        is_active: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """
        Take the limits; None is no limit. The clock is the one that dates readings.
        """
        self._clock: Final = clock
        self._registry: Final = registry
        self._scales: Final = scales
        self._count_max: Final = count_max
        self._bytes_max: Final = bytes_max
        self._interval_s: Final = interval_s
        self._is_active: Final = is_active
        self.evicted_count = 0

    async def run(self) -> None:
        """
        Look at each interval, until cancelled.
        """
        if self._count_max is None and self._bytes_max is None:
            return
        while True:
            await asyncio.sleep(self._interval_s)
            if self._is_active():
                try:
                    await self.look()
                except LogError as error:
                    _log.error("the sizes of shapes cannot be read", error=error.message)

    async def look(self) -> None:
        """
        Look once.
        """
        if self._bytes_max is not None:
            await self._weigh()
        entries = {entry.incarnation: entry for entry in self._registry if entry.is_live and entry.condemned is None}
        victims = choose_victims(
            [
                # Whoever is waited at is being read now, and so after all others.
                Readable(number, float("inf") if entry.waiters else entry.read_at, _bytes_of(entry))
                for number, entry in entries.items()
            ],
            count_max=self._count_max,
            bytes_max=self._bytes_max,
        )
        if not victims:
            return
        self.evicted_count += len(victims)
        _log.info("shapes are given up for others", count=len(victims), shape_count=len(entries))
        self._registry.condemn([entries[number] for number in victims], "least recently read of too many shapes")

    async def make_room(self, bytes_count: int) -> None:
        """
        Give so many bytes of the disk back, by shapes that nobody has read for an interval; fewer if there are none.

        What was given up before is deleted first: while that is under way nobody else has to go.

        Raises:
            LogError: the disk cannot be read.
        """
        await self._scales.empty_trash()
        if self._registry.is_burying or not self._is_active():
            return
        await self._weigh()
        before = self._clock() - self._interval_s
        entries = {
            entry.incarnation: entry
            for entry in self._registry
            if entry.is_live
            and entry.condemned is None
            and not entry.waiters
            and entry.read_at is not None
            and entry.read_at <= before
        }
        unread = [Readable(number, entry.read_at, _bytes_of(entry)) for number, entry in entries.items()]
        kept = sum(shape.bytes_count for shape in unread) - bytes_count
        victims = choose_victims(unread, count_max=None, bytes_max=max(0, kept))
        if victims:
            self.evicted_count += len(victims)
            _log.warning("shapes are given up for space on the disk", count=len(victims))
            self._registry.condemn([entries[number] for number in victims], "least recently read, and the disk is full")

    async def _weigh(self) -> None:
        """
        Learn the sizes that are not known since the start.
        """
        unknown = [entry for entry in self._registry if entry.is_live and _is_unknown(entry)]
        sizes = await self._scales.weigh([(entry.handle, entry.incarnation) for entry in unknown])
        for entry in unknown:
            entry.file_bytes = sizes.get(entry.incarnation)


def _is_unknown(entry: ShapeEntry) -> bool:
    return entry.file_bytes is None and (entry.consumer is None or entry.consumer.log is None)


def _bytes_of(entry: ShapeEntry) -> int:
    if entry.consumer is not None and entry.consumer.log is not None:
        return entry.consumer.log.file_bytes + entry.consumer.log.tail_bytes
    return entry.file_bytes or 0
