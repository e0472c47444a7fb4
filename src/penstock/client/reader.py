"""
What a subscription reads: its requests one after the other, and what each brings.

Shell around `Following`: it sends, waits and closes. It stands being cancelled at any await: what was not complete is asked
for again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx

from penstock.client.connection import Connection
from penstock.client.follow import Batch, Following, Pause


class Reader:
    """
    Sends the requests of one subscription and gives what they bring.
    """

    def __init__(self, connection: Connection, following: Following) -> None:
        """
        Ask nothing yet.
        """
        self.following: Final = following
        self._connection: Final = connection
        self._open: httpx.Response | None = None
        self._parts: AsyncIterator[bytes] | None = None
        self._ready: Final[deque[Batch]] = deque()
        self._pause_s = 0.0
        # Told whenever something has failed, so that those who wait can look at the watchdog.
        self.on_failure: Callable[[], None] = lambda: None

    async def next(self) -> Batch:
        """
        Give the next thing that came, however long that takes; may be cancelled, and called again.
        """
        following = self.following
        while not self._ready:
            if self._pause_s:
                # The rest of a pause that was interrupted is not made up for: whoever interrupted wants something now.
                pause_s, self._pause_s = self._pause_s, 0.0
                await asyncio.sleep(pause_s)
            try:
                await (self._ask() if self._parts is None else self._read_on(self._parts))
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}".rstrip(": ")
                self._pause_s = following.failed(failure, chance=random.random()).seconds  # noqa: S311  not for secrets
                self.on_failure()
        batch = self._ready.popleft()
        self._pause_s = batch.pause_s
        return batch

    async def close(self) -> None:
        """
        Close the connection of a stream of events, if there is one.
        """
        answer, self._open, self._parts = self._open, None, None
        if answer is not None:
            await answer.aclose()

    async def _ask(self) -> None:
        request = self.following.next_request()
        headers = {"accept": "text/event-stream"} if request.has_events else None
        answer = await self._connection.send(request.query, headers)
        try:
            if request.has_events and answer.headers.get("content-type", "").startswith("text/event-stream"):
                self.following.begin_events(answer.headers, now=time.monotonic())
                self._open, self._parts = answer, answer.aiter_bytes()
                return
            body = await answer.aread()
        finally:
            if self._open is None:
                await answer.aclose()
        outcome = self.following.handle(
            answer.status_code,
            answer.headers,
            body,
            now=time.monotonic(),
            chance=random.random(),  # noqa: S311  not for secrets
        )
        if isinstance(outcome, Pause):
            self._pause_s = outcome.seconds
            self.on_failure()
        else:
            self._ready.append(outcome)

    async def _read_on(self, parts: AsyncIterator[bytes]) -> None:
        try:
            async for part in parts:
                chance = random.random()  # noqa: S311  not for secrets
                self._ready.extend(self.following.feed(part, now=time.monotonic(), chance=chance))
                if self._ready:
                    return
            batch = self.following.end_events(now=time.monotonic(), chance=random.random())  # noqa: S311  likewise
        except BaseException:
            self.following.stream.cut_events()
            await self.close()
            raise
        self._open = self._parts = None
        if batch.events:
            self._ready.append(batch)
