"""
Who waits for a shape: to pass a place, to be behind no more, to be gone.

Nobody is told that a shape is gone before its tombstone is synced; `burial` calls `tell_gone` then. Form: shell of
futures; no call that tells waits.
"""

from __future__ import annotations

import asyncio
from typing import Final

from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntries, ShapeEntry, Waiter
from penstock.shapes.offset import LogOffset

_NEVER: Final = LogOffset(2**64, 0)
"""A place that no shape ever passes."""


class ShapeWaiters:
    """
    Parks who waits and tells them.
    """

    def __init__(self, entries: ShapeEntries) -> None:
        """
        Take the shapes.
        """
        self._entries: Final = entries

    async def wait_past(self, entry: ShapeEntry, after: LogOffset) -> bool:
        """
        Wait until the shape has passed a place; False when it is gone.
        """
        if entry not in self._entries:
            return False
        waiter = Waiter(after, asyncio.get_running_loop().create_future())
        entry.waiters.append(waiter)
        try:
            return await waiter.future
        finally:
            if waiter in entry.waiters:
                entry.waiters.remove(waiter)

    async def wait_gone(self, entry: ShapeEntry) -> None:
        """
        Wait until the tombstone of a condemned shape is synced.
        """
        while entry in self._entries:
            if not await self.wait_past(entry, _NEVER):
                return

    async def wait_rejoined(self, entry: ShapeEntry) -> None:
        """
        Wait until a shape with open files is not behind, or condemned.
        """
        while entry.condemned is None and entry.consumer is not None and entry.consumer.state is ConsumerState.BEHIND:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry.rejoin_waiters.append(future)
            await future

    @staticmethod
    def tell_passed(entry: ShapeEntry, last: LogOffset) -> None:
        """
        The shape has got as far as this.
        """
        kept: list[Waiter] = []
        for waiter in entry.waiters:
            if waiter.after < last and entry.condemned is None:
                if not waiter.future.done():
                    waiter.future.set_result(True)
            else:
                kept.append(waiter)
        entry.waiters[:] = kept

    @staticmethod
    def tell_rejoined(entry: ShapeEntry) -> None:
        """
        The shape is behind no more, or condemned.
        """
        for future in entry.rejoin_waiters:
            if not future.done():
                future.set_result(None)
        entry.rejoin_waiters.clear()

    @staticmethod
    def tell_gone(entry: ShapeEntry) -> None:
        """
        The shape's tombstone is synced.
        """
        for waiter in entry.waiters:
            if not waiter.future.done():
                waiter.future.set_result(False)
        entry.waiters.clear()
