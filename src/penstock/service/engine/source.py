"""
The engine as whoever serves clients sees it.

Shell; wakes a service that sleeps before it asks anything of it that needs the database.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from penstock.consumers.stage import ConsumersStage
from penstock.consumers.subsets import SubsetReader
from penstock.service.engine.health import EngineHealth
from penstock.service.engine.listing import list_shapes
from penstock.service.engine.status import EngineStatus
from penstock.service.sleep import EndedWaits, Sleeper
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import (
    Health,
    LogRange,
    Opened,
    OpenReply,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)

ROUSE_S_MAX: Final = 5.0
"""How long a request waits for a service that slept to be up again, before it is answered with what there is."""


class EngineSource:
    """
    Implements `penstock.api.abc.ShapeSource`.
    """

    def __init__(
        self,
        *,
        consumers: ConsumersStage,
        subsets: SubsetReader,
        health: EngineHealth,
        status: EngineStatus,
        sleeper: Sleeper,
        ended_waits: EndedWaits,
    ) -> None:
        """
        Take who answers.

        Args:
            consumers: the shapes.
            subsets: answers of the database itself.
            health: whether the engine is active.
            status: for operators.
            sleeper: is woken.
            ended_waits: live requests that have waited in vain while it slept.
        """
        self._consumers: Final = consumers
        self._subsets: Final = subsets
        self._health: Final = health
        self._status: Final = status
        self._sleeper: Final = sleeper
        self._ended_waits: Final = ended_waits

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        See `ShapeSource.open`.
        """
        if self._ended_waits.take(request.handle, request.offset) and request.is_live:
            unchanged = self._find_unchanged(request)
            if unchanged is not None:
                return unchanged
        else:
            await self._rouse()
        return await self._consumers.catalog.open(request)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        See `ShapeSource.wait`.
        """
        try:
            return await self._consumers.catalog.wait(handle, after)
        except asyncio.CancelledError:
            self._ended_waits.note(handle, after)
            raise

    async def health(self) -> Health:
        """
        See `ShapeSource.health`.
        """
        return self._health.health()

    async def status(self) -> dict[str, object]:
        """
        See `ShapeSource.status`.
        """
        return self._status.tell()

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        """
        See `ShapeSource.list_shapes`.
        """
        return list_shapes(self._consumers.registry, question, time.monotonic())

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        See `ShapeSource.load_subset`.
        """
        await self._rouse()
        return await self._subsets.load(question)

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        See `ShapeSource.remove`.
        """
        await self._rouse()
        return await self._consumers.catalog.remove(request)

    async def _rouse(self) -> None:
        await self._sleeper.rouse(ROUSE_S_MAX)

    def _find_unchanged(self, request: ShapeRequest) -> Opened | None:
        """
        Answer for a shape that has nothing new without asking the database; None when that cannot be done.
        """
        entry = None if request.handle is None else self._consumers.registry.find(request.handle)
        log = None if entry is None or entry.condemned is not None or entry.consumer is None else entry.consumer.log
        if entry is None or log is None or request.offset is None or log.last > request.offset:
            return None
        if self._consumers.catalog.is_behind(entry):
            return None
        # What ends a wait in vain has no schema.
        seen = self._health.health().last_seen_lsn
        return Opened(entry.handle, "", LogRange(request.offset, log.last), seen)
