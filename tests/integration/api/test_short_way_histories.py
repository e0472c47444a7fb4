"""
Histories of clients and a log, drawn by chance: changes, rotations, an engine that goes and comes, connections that are
cut, all of them in any turn of the event loop. Whoever follows has every row in the end.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec
import pytest

from conformance.scripted_source import in_file, row
from harness.http_server import SETTINGS, Connection, Running, play
from harness.reach import directly, remotely
from penstock.client.events import KEEP_ALIVE, EventFeeder
from penstock.client.stream import MustRefetch, ShapeStream, StreamEvent, UpToDate
from penstock.shapes.reading import Piece

HISTORIES: Final = int(os.environ.get("PENSTOCK_HISTORIES", "20"))
FIRST: Final = int(os.environ.get("PENSTOCK_SEED") or "1")
STEPS: Final = 60
FOLLOWERS: Final = 6
TURNS_MAX: Final = 8
"""So many turns of the loop at most lie between two steps; often there are none."""
PATIENT: Final = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=3600.0)
"""Whoever is forgotten stays so."""


class Follower:
    """
    Reads a shape, and asks again whenever its connection is gone.
    """

    def __init__(self, server: Running, *, has_events: bool) -> None:
        self.rows: set[str] = set()
        self._server: Final = server
        self._has_events: Final = has_events
        self._stream: Final = ShapeStream("items")
        self._connection: Connection | None = None

    def cut(self) -> None:
        """
        Lose the connection, in whatever state it is.
        """
        if self._connection is not None:
            self._connection.writer.transport.abort()

    async def follow(self) -> None:
        """
        Read for ever.
        """
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            self._connection = Connection(reader, writer)
            try:
                await self._use(self._connection)
            except (ConnectionError, asyncio.IncompleteReadError):
                self._stream.cut_events()
            finally:
                self._connection = None
                writer.close()

    async def _use(self, client: Connection) -> None:
        stream = self._stream
        while True:
            query = stream.next_request(has_events=self._has_events)
            client.send(b"/v1/shape?" + urlencode(query).encode())
            head = await client.head()
            lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
            headers = {name.lower(): value for name, _, value in lines}
            if headers.get("content-type", "").startswith("text/event-stream"):
                stream.begin_events(headers)
                feeder = EventFeeder()
                while chunk := await client.chunk():
                    for event in feeder.feed(chunk):
                        if event != KEEP_ALIVE:
                            self._take(stream.handle_event(event))
                self._take(stream.end_events())
                continue
            body = await client.body(head)
            if not head.startswith(b"HTTP/1.1 503 "):
                self._take(stream.handle_response(int(head[9:12]), headers, body))

    def _take(self, events: list[StreamEvent]) -> None:
        for event in events:
            match event:
                case UpToDate():
                    continue
                case MustRefetch():
                    self.rows.clear()
                case _:
                    assert event["key"] not in self.rows, "it was told before"
                    self.rows.add(event["key"])


class History:
    """
    One log and those who follow it.
    """

    def __init__(self, server: Running, folder: Path, seed: int) -> None:
        self._server: Final = server
        self._folder: Final = folder
        self._draw: Final = random.Random(seed)
        self._number = 1
        self._rows: set[str] = {_key(1)}

    async def play(self) -> None:
        """
        Let things happen, then see that everybody was told of everything.
        """
        followers = [Follower(self._server, has_events=number % 2 == 0) for number in range(FOLLOWERS)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follower.follow()) for follower in followers]
            for _ in range(STEPS):
                self._step(followers)
                for _ in range(self._draw.choice([0, 0, 1, 2, TURNS_MAX])):
                    await asyncio.sleep(0)
                if self._draw.random() < 0.05:
                    # Now and then everybody gets to where all wait.
                    await self._settle(followers)
            await self._settle(followers)
            self._change(1)
            await self._settle(followers)
            for task in tasks:
                task.cancel()

    def _step(self, followers: list[Follower]) -> None:
        match self._draw.choices(["change", "cut", "rotate", "away"], [10, 10, 1, 1])[0]:
            case "change":
                self._change(self._draw.choice([1, 1, 2, 5]))
            case "cut":
                for follower in self._draw.sample(followers, self._draw.choice([1, 2, FOLLOWERS])):
                    follower.cut()
            case "rotate":
                self._number += 1
                self._server.source.add("items", row(self._number))
                self._rows = {_key(self._number)}
            case _:
                self._server.source.is_away = not self._server.source.is_away

    def _change(self, count: int) -> None:
        source = self._server.source
        first = self._number + 1
        self._number += count
        tx = 1000 + first
        elements: list[bytes | Piece] = []
        for place, number in enumerate(range(first, first + count)):
            # Whoever is cut off within a transaction goes on from the place of the last change that it was told.
            at = b'"headers":{"lsn":"%d","op_position":%d,' % (tx, 2 * place)
            element = row(number).replace(b'"headers":{', at)
            is_in_file = self._draw.random() < 0.2
            elements.append(in_file(self._folder, f"piece{number}", element) if is_in_file else element)
        source.append("items", tx, *elements)
        self._rows |= {_key(number) for number in range(first, first + count)}
        # Logs end somewhere, and who reads on gets to the next part.
        source.shapes["items"].chunk_changes_max = self._draw.choice([2, 7, 1_000_000])

    async def _settle(self, followers: list[Follower]) -> None:
        self._server.source.is_away = False
        while any(follower.rows != self._rows for follower in followers):  # noqa: ASYNC110  a state, not an event
            await asyncio.sleep(0.001)


def _key(number: int) -> str:
    return f'"public"."items"/"{number}"'


@pytest.mark.parametrize("seed", range(FIRST, FIRST + HISTORIES))
def test_whoever_follows_has_every_row_in_the_end(tmp_path: Path, seed: int) -> None:
    """
    By long polls and by events, whatever happens in whichever order (C5, C7).
    """

    async def test(server: Running) -> None:
        await History(server, tmp_path, seed).play()

    play(test, tmp_path, PATIENT, has_short_way=seed % 4 != 0, reach=directly if seed % 3 == 0 else remotely)
