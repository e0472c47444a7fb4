"""
Several processes that answer clients, over one socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.http_server import Connection
from harness.service import Service
from harness.waiting import until

pytestmark = [pytest.mark.postgres]

CLIENTS = 1000
PATIENCE_S = 120.0


class Follower:
    """
    A client that waits for a row, and asks again when its connection breaks.
    """

    def __init__(self, service: Service, target: bytes) -> None:
        self._service = service
        self._target = target
        self.retries = 0

    async def follow(self, parked: asyncio.Semaphore) -> tuple[bytes, bytes]:
        """
        Give the first answer that holds something.
        """
        while True:
            client = None
            try:
                client = Connection(*await asyncio.open_connection("127.0.0.1", self._service.port))
                client.send(self._target)
                parked.release()
                head, body = await client.answer()
            except (ConnectionError, asyncio.IncompleteReadError):
                self.retries += 1
                continue
            finally:
                if client is not None:
                    client.close()
            if b"\r\nelectric-has-data: false\r\n" not in head:
                return head, body


async def web_pids(service: Service) -> list[int]:
    return [process["pid"] for process in (await service.status())["processes"] if process["role"] == "web"]


async def live_target(service: Service) -> bytes:
    first = await service.get("/v1/shape", table="items", offset="-1")
    handle, offset = first.headers["electric-handle"], first.headers["electric-offset"]
    end = await service.get("/v1/shape", table="items", offset=offset, handle=handle)
    return f"/v1/shape?table=items&handle={handle}&offset={end.headers['electric-offset']}&live=true".encode()


@contextlib.asynccontextmanager
async def connections(service: Service, count: int) -> AsyncIterator[list[Connection]]:
    """
    Open connections, and close them however the block ends.
    """
    opened: list[Connection] = []
    try:
        while len(opened) < count:
            opened.append(Connection(*await asyncio.open_connection("127.0.0.1", service.port)))
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def next_events(stream: Connection) -> bytes:
    """
    Read the next part of a stream that is not there to keep it alive only.
    """
    async with asyncio.timeout(PATIENCE_S):
        while (part := await stream.chunk()).startswith(b":"):
            pass
    return part


def rows_of(body: bytes) -> list[str]:
    return [message["value"]["id"] for message in json.loads(body) if "value" in message]


async def test_death_of_a_worker_costs_its_clients_a_retry(database: Any, tmp_path: Path) -> None:
    """
    A thousand wait when one of two workers is killed: who was connected to it asks again, the others notice nothing,
    and everybody gets the next change.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")
    env = {"PENSTOCK_LONG_POLL_TIMEOUT_S": "20"}
    async with Service(database.url, tmp_path, "--web-workers", "2", env=env) as service:
        target = await live_target(service)
        followers = [Follower(service, target) for _ in range(CLIENTS)]
        parked = asyncio.Semaphore(0)
        waiting = [asyncio.create_task(follower.follow(parked)) for follower in followers]
        for _ in followers:
            await parked.acquire()
        victims = await web_pids(service)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)

        async def is_replaced() -> bool:
            try:
                pids = await web_pids(service)
            except httpx.TransportError:
                return False
            # One that has not begun to serve cannot end in order either.
            log = await asyncio.to_thread(service.log_path.read_text)
            has_begun = all(f"Started server process [{pid}]" in log for pid in pids)
            return len(pids) == 2 and victims[0] not in pids and has_begun

        await until("another worker is there", is_replaced)
        database.execute("INSERT INTO items VALUES (2)")
        answers = await asyncio.gather(*waiting)
        assert {head.split(b"\r\n")[0] for head, _ in answers} == {b"HTTP/1.1 200 OK"}
        assert {tuple(rows_of(body)) for _, body in answers} == {("2",)}
        retries = [follower.retries for follower in followers]
        assert 0 < sum(map(bool, retries)) < CLIENTS


async def test_worker_that_stands_still_slows_nobody(database: Any, tmp_path: Path) -> None:
    """
    The engine goes on, clients of the other worker are served, and when it goes on its own clients catch up.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (0)")
    env = {"PENSTOCK_LONG_POLL_TIMEOUT_S": "20"}
    async with Service(database.url, tmp_path, "--web-workers", "2", env=env) as service:
        target = await live_target(service)
        followers = [Follower(service, target) for _ in range(40)]
        parked = asyncio.Semaphore(0)
        waiting = [asyncio.create_task(follower.follow(parked)) for follower in followers]
        for _ in followers:
            await parked.acquire()
        still, _ = await web_pids(service)
        os.kill(still, signal.SIGSTOP)
        try:
            for number in range(1, 41):
                database.execute(f"INSERT INTO items VALUES ({number})")
            # Nobody new is accepted by the one that stands still.
            seen: list[str] = []
            client = Connection(*await asyncio.open_connection("127.0.0.1", service.port))
            while len(seen) < 40:
                head, body = await client.ask(target)
                assert head.startswith(b"HTTP/1.1 200 ")
                seen = rows_of(body)
            client.close()
            assert seen == [str(number) for number in range(1, 41)]
        finally:
            os.kill(still, signal.SIGCONT)
        answers = await asyncio.gather(*waiting)
        assert {head.split(b"\r\n")[0] for head, _ in answers} == {b"HTTP/1.1 200 OK"}
        assert {rows_of(body)[0] for _, body in answers} == {"1"}
        assert sum(follower.retries for follower in followers) == 0


async def test_death_of_the_engine_costs_clients_nothing(database: Any, tmp_path: Path) -> None:
    """
    What was served and cannot change is served on, who asks whether there is more waits, and who is parked, on a long
    poll or a stream, gets the next change on the connection it has.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, note text)")
    database.execute("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, 40) i")
    env = {"PENSTOCK_LONG_POLL_TIMEOUT_S": "110", "ELECTRIC_SHAPE_CHUNK_BYTES_THRESHOLD": "10000"}
    async with Service(database.url, tmp_path, "--web-workers", "1", env=env) as service:
        bodies: list[bytes] = []
        params = {"table": "items", "offset": "-1"}
        places = [params]
        while True:
            answer = await service.get("/v1/shape", **params)
            bodies.append(answer.content)
            params = {"table": "items", "offset": answer.headers["electric-offset"]}
            params["handle"] = answer.headers["electric-handle"]
            if "electric-up-to-date" in answer.headers:
                break
            places.append(params)
        assert len(bodies) > 3
        target = f"/v1/shape?table=items&handle={params['handle']}&offset={params['offset']}&live=true".encode()
        async with connections(service, 2) as (poll, events):
            poll.send(target)
            events.send(target + b"&live_sse=true")
            assert b"text/event-stream" in await events.head()
            old = await service.kill("engine")
            # The last answer says that there is no more, which nobody can say now.
            again = [(await service.get("/v1/shape", **place)).content for place in places[:-1]]
            assert again == bodies[:-1]
            while (end := await service.get("/v1/shape", **params)).status_code == 503:
                assert end.headers["retry-after"] == "5"
            assert end.status_code == 200
            assert "electric-up-to-date" in end.headers
            await service.pid("engine", other_than=old)
            database.execute("INSERT INTO items VALUES (41, 'new')")
            async with asyncio.timeout(PATIENCE_S):
                head, body = await poll.answer()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert rows_of(body) == ["41"]
            assert b'"41"' in await next_events(events)


async def test_an_engine_that_stays_away_is_said_to_be(database: Any, tmp_path: Path) -> None:
    """
    The engine is killed while nobody can start another, since the supervisor stands still: what needs it is a 503 with
    the condition, from each worker and on polls that were parked, and health and readiness say so. When it is back all
    are answered again, and a stream that was open brings what happened meanwhile (B3, B20, C6).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")
    async with Service(database.url, tmp_path, "--web-workers", "2") as service:
        target = await live_target(service)
        assert service.process is not None
        supervisor, engine = service.process.pid, await service.pid("engine")
        async with connections(service, 21) as (stream, *clients):
            stream.send(target + b"&live_sse=true")
            assert b"text/event-stream" in await stream.head()
            os.kill(supervisor, signal.SIGSTOP)
            try:
                os.kill(engine, signal.SIGKILL)
                database.execute("INSERT INTO items VALUES (2)")
                plain = target.replace(b"&live=true", b"")
                asked = [
                    plain,
                    target,
                    b"/v1/shape?table=items&columns=id&offset=-1",
                    b"/v1/shape?table=other&offset=-1",
                ]
                for number, client in enumerate(clients):
                    client.send(asked[number % len(asked)])
                for client in clients:
                    head, body = await client.answer()
                    assert head.startswith(b"HTTP/1.1 503 "), (head, body)
                    assert json.loads(body) == {"message": "Timeout waiting for stack restart"}
                    assert re.search(rb"\r\nretry-after: (5|10)\r\n", head)
                assert (await service.get("/v1/health")).json() == {"status": "starting"}
                ready = await service.get("/v1/ready")
                assert ready.status_code == 503
                assert "reason" in ready.json(), ready.text
            finally:
                os.kill(supervisor, signal.SIGCONT)
            assert b'"2"' in await next_events(stream)
            for client in clients:
                head, body = await client.ask(plain)
                assert head.startswith(b"HTTP/1.1 200 "), (head, body)
                assert rows_of(body) == ["2"]
