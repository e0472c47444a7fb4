"""
Clients that follow every shape while the service is tortured, and the question whether their rows equal the query.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, LiteralString, Self

import httpx

from penstock.client.aio import ShapeSubscription
from penstock.client.stream import ShapeStream, UpToDate
from penstock.errors import ClientError
from penstock.testing.torture.ground import Ground

ANSWER_TIMEOUT_S: Final = 30.0
COMPARE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Followed:
    """
    A shape that is followed.

    Attributes:
        table: on which.
        condition: its where clause; empty for all rows.
    """

    table: str
    condition: LiteralString = ""


class Follower:
    """
    One client.

    Attributes:
        shape: what it follows.
        rotation_count: how often it had to start over.
        failure: what it was told that a client must never be told; empty while all is well.
        handle: of the shape that it follows now.
    """

    def __init__(self, base_url: str, ground: Ground, shape: Followed, client: httpx.AsyncClient) -> None:
        """
        Ask nothing yet.
        """
        self.shape: Final = shape
        self.failure = ""
        self._ground: Final = ground
        self._subscription: Final = ShapeSubscription(
            base_url, ShapeStream(f"{ground.name}.{shape.table}", where=shape.condition or None), client=client
        )
        self.seen_lsn = 0

    @property
    def rotation_count(self) -> int:
        """
        How often it had to start over.
        """
        return self._subscription.rotation_count

    @property
    def handle(self) -> str:
        """
        The shape that it follows now; empty before the first answer.
        """
        resume = self._subscription.stream.resume
        return "" if resume is None else resume.handle

    async def follow(self) -> None:
        """
        Read until cancelled, or until it is told nonsense.
        """
        try:
            async for events in self._subscription.batches():
                for event in events:
                    if isinstance(event, UpToDate):
                        self.seen_lsn = max(self.seen_lsn, event.last_seen_lsn)
        except ClientError as error:
            self.failure = error.message

    def rows(self) -> list[tuple[str | None, ...]]:
        """
        What it has, as the query would give it.
        """
        rows = self._subscription.rows.values()
        return sorted(((row["id"], row["word"], row["n"]) for row in rows), key=repr)

    async def agrees(self, timeout_s: float) -> bool:
        """
        Tell whether its rows come to equal the query in time. Nobody writes meanwhile.
        """
        expected = await self._ground.query_rows(self.shape.table, self.shape.condition)
        deadline = time.monotonic() + timeout_s
        while not self.failure and time.monotonic() < deadline:
            if self.rows() == expected:
                return True
            await asyncio.sleep(COMPARE_S)
        return False


class Crowd:
    """
    All clients; an asynchronous context manager.
    """

    def __init__(self, base_url: str, ground: Ground, shapes: list[Followed]) -> None:
        """
        Let one client follow each of these shapes.
        """
        self._http: Final = httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, trust_env=False)
        self.followers: Final = [Follower(base_url, ground, shape, self._http) for shape in shapes]
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(follower.follow()) for follower in self.followers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._http.aclose()

    def on(self, table: str) -> Follower:
        """
        Find the client of a table.
        """
        return next(follower for follower in self.followers if follower.shape.table == table)

    async def disagreeing(self, timeout_s: float) -> list[str]:
        """
        Name the tables at which a client's rows do not come to equal the query, with what it was told if that is why.
        """
        answers = await asyncio.gather(*(follower.agrees(timeout_s) for follower in self.followers))
        return [
            f"{follower.shape.table}{f' ({follower.failure})' if follower.failure else ''}"
            for follower, agrees in zip(self.followers, answers, strict=True)
            if not agrees
        ]
