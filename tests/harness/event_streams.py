"""
Clients that wait while there are writes all the time, and whether each is told everything, in order and soon.

Writers put numbers into a table; a shape is every so-manieth of them. So whoever follows one knows which number comes
next, without asking anybody.
"""

from __future__ import annotations

import asyncio
import random
import socket
from enum import Enum
from typing import Any, Final
from urllib.parse import urlencode

import psycopg

from harness.http_server import Connection
from penstock.client.stream import MustRefetch, ShapeStream, UpToDate

SCHEMA: Final = "CREATE TABLE numbers (writer int, number int, note text, PRIMARY KEY (writer, number))"
"""What the clients follow."""

KEPT_ROWS: Final = 300
"""How many numbers of a writer stay in the table."""

SILENCE_S_MAX: Final = 120.0
"""A client that hears nothing for so long, or not of a number that was committed so long ago, is forgotten."""

LOOK_EVERY_S: Final = 0.05
RETRY_S: Final = 0.1

SLOW_READ_S: Final = 0.003
"""What a slow reader takes for each part of a stream."""


class Numbers:
    """
    What the writers have committed, and when.
    """

    def __init__(self, url: str, writer_count: int, *, seed: int, note_bytes_max: int = 2000) -> None:
        """
        Write to the database at `url`.
        """
        self.committed_at: Final[list[list[float]]] = [[] for _ in range(writer_count)]
        self._url: Final = url
        self._seed: Final = seed
        self._note_bytes_max: Final = note_bytes_max

    async def write(self, writer: int, seconds: float) -> None:
        """
        Write in bursts for a while: single rows, many at once, and nothing for a moment.
        """
        draw = random.Random(f"{self._seed} {writer}")
        times = self.committed_at[writer]
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            while loop.time() < end:
                for _ in range(draw.choice([1, 1, 20])):
                    count = draw.choice([1, 1, 1, 2, 15])
                    first = len(times)
                    async with connection.transaction():
                        await connection.execute(
                            "INSERT INTO numbers SELECT %s, n, repeat('x', %s) FROM generate_series(%s::int, %s::int) n",
                            (writer, draw.randrange(self._note_bytes_max), first, first + count - 1),
                        )
                        await connection.execute(
                            "DELETE FROM numbers WHERE writer = %s AND number < %s", (writer, first - KEPT_ROWS)
                        )
                    # Streams may be told before the writer is.
                    times += [loop.time()] * count
                await asyncio.sleep(draw.choice([0.0, 0.002, 0.02, 0.2]))


class Manner(Enum):
    """
    How a client follows.
    """

    EVENTS = "by events"
    SLOW = "by events, taking its time"
    LEAVES = "by events, leaving now and then"
    POLLS = "by long polls"


class Follower:
    """
    A client that follows every `step`-th number of each writer, and fails when one is missing or comes twice.

    Attributes:
        name: what it does, for messages.
        last: the newest number of each writer that it was told.
        streams: how many streams of events it has had.
        slowest_s: the longest time from a commit to its number.
        heard_at: when it last read anything.
    """

    def __init__(self, port: int, numbers: Numbers, step: int, manner: Manner) -> None:
        """
        Read at the port.
        """
        self.name: Final = f"client of every {step}. number, {manner.value}"
        self.step: Final = step
        self.last: Final[dict[int, int]] = {}
        self.streams = 0
        self.slowest_s = 0.0
        self.heard_at = asyncio.get_running_loop().time()
        self._port: Final = port
        self._numbers: Final = numbers
        self._manner: Final = manner
        self._draw: Final = random.Random(self.name)
        self._stream: Final = ShapeStream("numbers", where=f"number % {step} = 0" if step > 1 else None)
        self._has_all_rows = False

    async def follow(self) -> None:
        """
        Read for ever; what is broken off or not to be had at the moment is asked for again.
        """
        while True:
            client = await self._connect()
            try:
                await self._use(client)
            except (ConnectionError, asyncio.IncompleteReadError):
                self._stream.cut_events()
            finally:
                client.close()

    async def _use(self, client: Connection) -> None:
        """
        Ask over a connection until it is broken or left.
        """
        while True:
            query = self._stream.next_request(has_events=self._manner is not Manner.POLLS)
            client.send(b"/v1/shape?" + urlencode(query).encode())
            head = await client.head()
            is_stream = b"content-type: text/event-stream" in head
            body = b"" if is_stream else await client.body(head)
            self._hear()
            if head.startswith(b"HTTP/1.1 503 "):
                await asyncio.sleep(RETRY_S)
            elif not is_stream:
                self._take_answer(head, body)
            else:
                self.streams += 1
                self._stream.begin_events(_headers(head))
                if not await self._read_events(client):
                    return

    async def _connect(self) -> Connection:
        sock = socket.socket()
        sock.setblocking(False)
        if self._manner is Manner.SLOW:
            # So that a reader that takes its time is felt at the other end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        return Connection(
            *await asyncio.open_connection(sock=sock, limit=4096 if self._manner is Manner.SLOW else 1 << 16)
        )

    def _take_answer(self, head: bytes, body: bytes) -> None:
        status = int(head.split(b" ", 2)[1])
        for event in self._stream.handle_response(status, _headers(head), body):
            assert not isinstance(event, MustRefetch), f"{self.name}: the log is over"
            if isinstance(event, UpToDate):
                self._has_all_rows = True
            else:
                self._take(event)

    async def _read_events(self, client: Connection) -> bool:
        """
        Read a stream to its end; False when it was left before.
        """
        buffer = b""
        parts_left = self._draw.randrange(1, 40) if self._manner is Manner.LEAVES else -1
        while part := await client.chunk():
            self._hear()
            buffer += part
            *events, buffer = buffer.split(b"\n\n")
            for event in events:
                if event.startswith(b"data: "):
                    for told in self._stream.handle_event(event[6:]):
                        if not isinstance(told, UpToDate | MustRefetch):
                            self._take(told)
                else:
                    assert event == b": keep-alive", event
            parts_left -= 1
            if parts_left == 0:
                self._stream.cut_events()
                return False
            if self._manner is Manner.SLOW:
                await asyncio.sleep(SLOW_READ_S)
        assert not buffer
        for told in self._stream.end_events():
            if not isinstance(told, UpToDate | MustRefetch):
                self._take(told)
        return True

    def _hear(self) -> None:
        self.heard_at = asyncio.get_running_loop().time()

    def _take(self, message: dict[str, Any]) -> None:
        if message["headers"]["operation"] == "delete":
            return
        value = message["value"]
        writer, number = int(value["writer"]), int(value["number"])
        before = self.last.get(writer)
        if not self._has_all_rows and "lsn" not in message["headers"]:
            # Rows of the beginning are in no order.
            self.last[writer] = number if before is None else max(before, number)
            return
        if before is not None and number != before + self.step:
            raise AssertionError(f"{self.name}: {number} of writer {writer} after {before}")
        self.last[writer] = number
        times = self._numbers.committed_at[writer]
        if number < len(times):
            self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - times[number])

    @property
    def has_waited(self) -> bool:
        """
        Whether it has had a stream, if it is to follow by events.
        """
        return self.streams > 0 or self._manner is Manner.POLLS

    def missing(self, before: float | None = None) -> list[str]:
        """
        Tell what it has not been told, of what was committed before some time.
        """
        due = {writer: self._newest_due(times, before) for writer, times in enumerate(self._numbers.committed_at)}
        return [
            f"{self.name}: writer {writer} at {number}, told {self.last.get(writer)}"
            for writer, number in due.items()
            if self.last.get(writer, -1) < number
        ]

    def _newest_due(self, times: list[float], before: float | None) -> int:
        number = (len(times) - 1) // self.step * self.step if times else -1
        while number >= 0 and before is not None and times[number] > before:
            number -= self.step
        return number


async def follow_writes(numbers: Numbers, followers: list[Follower], seconds: float) -> None:
    """
    Write for a while with everybody following.

    Raises:
        AssertionError: somebody was told too much or too little, or was forgotten.
    """
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            before = loop.time() - SILENCE_S_MAX
            forgotten = [missing for follower in followers for missing in follower.missing(before)]
            forgotten += [f"{follower.name}: silence" for follower in followers if follower.heard_at < before]
            assert not forgotten, "; ".join(forgotten)
            are_done = all(task.done() for task in writing) and all(follower.has_waited for follower in followers)
            if are_done and not any(follower.missing() for follower in followers):
                return

    async with asyncio.TaskGroup() as group:
        following = [group.create_task(follower.follow(), name=follower.name) for follower in followers]
        writing = [group.create_task(numbers.write(n, seconds)) for n in range(len(numbers.committed_at))]
        await group.create_task(watch(), name="watch")
        for task in following:
            task.cancel()


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
