"""
Has the logs compacted that allow it.

Shell: one task, which visits such logs one after the other, at an interval that is never twice the same, so that many
services on one disk do not work at the same time. A log that has not grown since it was last visited is left alone, and
one that rests is opened for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from penstock.consumers.abc import ShapeLog
from penstock.consumers.entries import ShapeEntry, ShapeGoneError
from penstock.consumers.registry import ConsumerRegistry
from penstock.errors import PenstockError, Policy

_log: Final = structlog.get_logger(__name__)

JITTER: Final = 0.5
"""An interval is so much of itself shorter or longer, at random."""


class CompactingStore(Protocol):
    """
    Compacts.
    """

    async def compact_log(self, log: ShapeLog) -> bool:
        """
        Compact what can be compacted of a log now; tells whether anything was.

        Raises:
            LogError: its files do not verify, or the disk refused.
        """
        ...


class LogCompactor:
    """
    Visits the logs.

    Attributes:
        compacted_count: compactions made.
    """

    def __init__(
        self,
        registry: ConsumerRegistry,
        store: CompactingStore,
        *,
        interval_s: float,
        chance: Callable[[], float],
    ) -> None:
        """
        Take the ports; `chance` gives numbers from 0 to 1.
        """
        self._registry: Final = registry
        self._store: Final = store
        self._interval_s: Final = interval_s
        self._chance: Final = chance
        self._visited_bytes: dict[int, int] = {}
        self.compacted_count = 0

    async def run(self) -> None:
        """
        Visit at each interval, until cancelled.
        """
        while True:
            await asyncio.sleep(self._interval_s * (1 - JITTER + 2 * JITTER * self._chance()))
            await self.visit_all()

    async def visit_all(self) -> None:
        """
        Visit every log once.
        """
        entries = [entry for entry in self._registry if entry.is_live and _may_be_compacted(entry)]
        self._visited_bytes = {entry.incarnation: self._visited_bytes.get(entry.incarnation, 0) for entry in entries}
        for entry in entries:
            if entry.condemned is None and _bytes_of(entry) != self._visited_bytes[entry.incarnation]:
                await self._visit(entry)

    async def _visit(self, entry: ShapeEntry) -> None:
        try:
            log = await self._registry.open_log(entry)
            # A large log takes minutes. Had it left memory meanwhile, what comes for it could not be taken in time.
            entry.is_kept = True
            if await self._store.compact_log(log):
                self.compacted_count += 1
                _log.info("shape log compacted", handle=entry.handle)
            self._visited_bytes[entry.incarnation] = log.file_bytes
        except ShapeGoneError:
            return
        except PenstockError as error:
            _log.error("shape log cannot be compacted", handle=entry.handle, error=error.message)
            if error.policy is Policy.ROTATE:
                self._registry.condemn([entry], f"files cannot be read: {error.message}", is_fault=True)
        finally:
            entry.is_kept = False


def _may_be_compacted(entry: ShapeEntry) -> bool:
    if entry.consumer is not None and entry.consumer.log is not None:
        return entry.consumer.log.is_compacting
    return entry.is_compacting


def _bytes_of(entry: ShapeEntry) -> int:
    if entry.consumer is not None and entry.consumer.log is not None:
        return entry.consumer.log.file_bytes
    return entry.file_bytes or 0
