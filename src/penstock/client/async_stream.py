"""
`AsyncChangeStream`: the changes of a shape, with asyncio.

Shell: the stream is read by whoever iterates it. It stands being cancelled at any await.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self

from penstock.client.changes import Change, R
from penstock.client.connection import Connection
from penstock.client.faces import StreamFace, ask_here
from penstock.client.kept import KeptStream
from penstock.client.reader import Reader


class AsyncChangeStream(StreamFace[R]):
    """
    The changes of a shape, one after the other, without end; made by `AsyncClient.stream()`.

    Iterate it for changes, or `batches()` for whole lists of them. Lost connections are made again, for as long as
    `stale_after_s` allows; iterating on after a `StaleShapeError` tries again.
    """

    def __init__(self, kept: KeptStream[R], connection: Connection) -> None:
        """
        Ask nothing yet.
        """
        super().__init__(kept, ask_here)
        self._reader: Final = Reader(connection, kept.following)
        self._ready: Final[deque[Change[R]]] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close the connection; iterating on would make another.
        """
        await self._reader.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[R]:
        while not self._ready:
            self._ready.extend(await self.next_batch())
        return self._ready.popleft()

    async def batches(self) -> AsyncIterator[list[Change[R]]]:
        """
        Yield the changes of each answer together; an empty list says that nothing is new.
        """
        while True:
            yield await self.next_batch()

    async def next_batch(self) -> list[Change[R]]:
        """
        Give the changes of the next answer; none when it said that nothing is new.

        Raises:
            StaleShapeError: the server has not answered for longer than `stale_after_s`.
            ClientError: it answered something that ends the subscription.
        """
        kept = self._kept
        kept.mark_done()
        try:
            async with asyncio.timeout(kept.patience_s()):
                batch = await self._reader.next()
        except TimeoutError:
            kept.following.watch.require_answers(kept.clock())
            return []
        return kept.read_changes(batch)
