"""
An offset never runs ahead of the body: whoever follows, however, gets every row of a transaction larger than a chunk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from integration.protocol.conftest import Served

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROWS: Final = 50_000
DEADLINE_S: Final = 90.0


class Follower:
    """
    Follows a log by its own rules and notes the ids of the rows in the order they came.
    """

    def __init__(self, url: str, table: str) -> None:
        self.ids: list[int] = []
        self.responses = 0
        self._params = {"table": table}
        self._http = httpx.AsyncClient(base_url=url, timeout=30)

    async def plain(self) -> None:
        """
        Ask again and again without waiting.
        """
        while len(self.ids) < ROWS:
            if self._take(await self._get()):
                await asyncio.sleep(0.02)

    async def long_poll(self) -> None:
        """
        Wait for changes when up to date.
        """
        is_current = False
        while len(self.ids) < ROWS:
            is_current = self._take(await self._get(**({"live": "true"} if is_current else {})))

    async def events(self) -> None:
        """
        Take a stream of events when up to date; after its end go on behind the last change it brought.
        """
        while not self._take(await self._get()):
            pass
        while len(self.ids) < ROWS:
            params = {**self._params, "live": "true", "live_sse": "true"}
            async with self._http.stream("GET", "/v1/shape", params=params) as response:
                assert response.status_code == 200
                self.responses += 1
                async for message in _messages(response):
                    self._note([message])
                    headers = message["headers"]
                    if "lsn" in headers:
                        self._params["offset"] = f"{headers['lsn']}_{headers['op_position']}"
                    if len(self.ids) >= ROWS:
                        return

    async def close(self) -> None:
        await self._http.aclose()

    async def _get(self, **more: str) -> httpx.Response:
        response = await self._http.get("/v1/shape", params={"offset": "-1", **self._params, **more})
        assert response.status_code == 200, response.text
        self.responses += 1
        return response

    def _take(self, response: httpx.Response) -> bool:
        messages = response.json()
        places = [f"{m['headers']['lsn']}_{m['headers']['op_position']}" for m in messages if "lsn" in m["headers"]]
        offset = response.headers["electric-offset"]
        if places:
            assert offset == places[-1], "the offset is that of the last change in the body"
        self._params |= {"handle": response.headers["electric-handle"], "offset": offset}
        self._note(messages)
        return "electric-up-to-date" in response.headers

    def _note(self, messages: list[dict[str, Any]]) -> None:
        self.ids += [int(message["value"]["id"]) for message in messages if "key" in message]


async def _messages(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def test_every_follower_gets_every_row_of_a_large_transaction(served: Served) -> None:
    """
     Plain requests, long polls and events, from before the transaction and from the middle of it: each row once, in order
    (C15, C22, C29, I8).
    """
    served.database.execute("CREATE TABLE bulk (id int PRIMARY KEY, t text)")
    early = [Follower(served.url, "bulk") for _ in range(3)]
    ways = [early[0].plain, early[1].long_poll, early[2].events]
    late = [Follower(served.url, "bulk") for _ in range(2)]
    try:
        # Once the shape is there, the rows are changes and not its beginning.
        async with httpx.AsyncClient(base_url=served.url) as client:
            assert (await client.get("/v1/shape", params={"table": "bulk", "offset": "-1"})).status_code == 200
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            following = [group.create_task(way()) for way in ways]
            await asyncio.to_thread(
                served.database.execute,
                f"INSERT INTO bulk SELECT i, repeat('x', 20) FROM generate_series(1, {ROWS}) AS i",
            )
            following += [group.create_task(late[0].long_poll()), group.create_task(late[1].events())]
            await asyncio.gather(*following)
        for follower in early + late:
            assert follower.ids == list(range(1, ROWS + 1))
            assert follower.responses > 1
    finally:
        for follower in early + late:
            await follower.close()


async def test_a_backlog_of_many_chunks_comes_in_one_stream(served: Served) -> None:
    """
    A stream of events brings chunk after chunk up to the end, then the word that this was all, and ends (C29, I16).
    """
    served.database.execute("CREATE TABLE backlog (id int PRIMARY KEY, t text)")
    params = {"table": "backlog", "offset": "-1"}
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        first = await client.get("/v1/shape", params=params)
        handle = first.headers["electric-handle"]
        await asyncio.to_thread(
            served.database.execute,
            "INSERT INTO backlog SELECT i, repeat('x', 400) FROM generate_series(1, 2000) AS i",
        )
        at = {"table": "backlog", "handle": handle, "offset": "0_inf"}
        # The last change is in the log.
        while (await client.get("/v1/shape", params=at | {"live": "true"})).headers["electric-has-data"] != "true":
            pass
        async with client.stream("GET", "/v1/shape", params=at | {"live": "true", "live_sse": "true"}) as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert "electric-up-to-date" not in response.headers, "the first chunk is not the last"
            messages = [message async for message in _messages(response)]
    assert [int(message["value"]["id"]) for message in messages[:-1]] == list(range(1, 2001))
    end = messages[-2]["headers"]
    assert messages[-1]["headers"] == {"control": "up-to-date", "global_last_seen_lsn": end["lsn"]}
