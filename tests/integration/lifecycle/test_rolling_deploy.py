from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest

from harness.oracle import Audience
from harness.service import Service, started
from harness.waiting import until
from harness.workload import ShapeUnderTest, Workload
from penstock.service.handover import CATALOG_NAME
from penstock.service.lifecycle import EXIT_YIELDED

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SHAPES: Final = (ShapeUnderTest("items"), ShapeUnderTest("toasted"), ShapeUnderTest("keyless", where="a % 2 = 0"))


class Front:
    """
    One address in front of the instances, as a load balancer is: what comes goes to the newest one that takes it.
    """

    def __init__(self) -> None:
        self.targets: list[int] = []
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_close, writer)
            for port in reversed(self.targets):
                try:
                    upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                stack.push_async_callback(_close, upstream_writer)
                pumps = [
                    asyncio.create_task(_pump(reader, upstream_writer)),
                    asyncio.create_task(_pump(upstream_reader, writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
                return


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def instance(database: Any, tmp_path: Path, name: str) -> Service:
    """
    One more instance on the data folder that all share.
    """
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "data").mkdir(mode=0o700, exist_ok=True)
    (folder / "data").symlink_to(tmp_path / "data")
    return Service(database.url, folder)


async def until_waiting(service: Service) -> None:
    async def is_waiting() -> bool:
        try:
            health = await service.get("/v1/health")
        except httpx.TransportError:
            return False
        return health.status_code == 202 and health.json() == {"status": "waiting"}

    await until("the second instance waits", is_waiting)


async def test_rolling_restarts_under_load_lose_nothing(database: Any, tmp_path: Path) -> None:
    """
    A19: instances on one data folder replace each other under load, in order and after a kill; while the next one waits it
    serves what the owner has flushed, and nothing of its own; every client keeps its handle and its rows, and no shape is
    given up (C31).
    """
    workload = Workload(database.url, seed=19, pause_s=0.02)
    await workload.create_schema()
    async with (
        Front() as front,
        contextlib.AsyncExitStack() as instances,
        Audience(front.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        owner = await instances.enter_async_context(started(instance(database, tmp_path, "instance 0")))
        await owner.wait_active()
        front.targets.append(owner.port)
        audience.join(*SHAPES)
        writers = group.create_task(workload.run(), name="workload")
        for number in (1, 2):
            await until_followed(audience)
            standby = await instances.enter_async_context(started(instance(database, tmp_path, f"instance {number}")))
            await until_waiting(standby)
            await check_standby(owner, standby)
            front.targets.append(standby.port)
            # New connections go to the standby from now on, as in any rolling deploy.
            await asyncio.sleep(0.5)
            if number == 1:
                await owner.stop()
            else:
                owner.kill_all()
            await standby.wait_active()
            owner = standby
        workload.stop()
        await writers
        await audience.agree()
        assert set(audience.rotations) == {0}, "handles survive"
        assert (await owner.status())["shed_count"] == 0


async def until_followed(audience: Audience) -> None:
    async def is_followed() -> bool:
        return all(client.handles and client.last_seen_lsn for client in audience.clients)

    await until("all clients follow", is_followed)


async def check_standby(owner: Service, standby: Service) -> None:
    """
    What a standby answers while somebody else owns the folder.
    """
    known = {"table": "items", "offset": "-1"}

    async def is_served() -> bool:
        return (await standby.get("/v1/shape", **known)).status_code == 200

    await until("the standby knows the shape", is_served)
    mine, theirs = await standby.get("/v1/shape", **known), await owner.get("/v1/shape", **known)
    assert mine.headers["electric-handle"] == theirs.headers["electric-handle"]
    assert mine.headers["electric-schema"] == theirs.headers["electric-schema"]
    assert (mine.headers["electric-offset"], mine.content) == (theirs.headers["electric-offset"], theirs.content)
    invalid = await standby.get("/v1/shape", table="nowhere", offset="-1")
    assert invalid.status_code == 400
    ready = await standby.get("/v1/ready")
    assert ready.status_code == 503
    end = await owner.get("/v1/shape", table="items", offset="now")
    live = await standby.get(
        "/v1/shape",
        table="items",
        offset=end.headers["electric-offset"],
        handle=end.headers["electric-handle"],
        live="true",
    )
    assert live.status_code in {200, 503}, "what is not flushed in time is waited for, then sent away"


async def test_what_a_standby_cannot_know_is_sent_away(database: Any, tmp_path: Path) -> None:
    """
    H24: a shape nobody has and another handle are answered 503 with `retry-after` and the reason by a standby, never 409
    or 400; data that the owner flushes reach a live request there; when the owner is killed the standby takes over with
    the same handle (C31).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    async with contextlib.AsyncExitStack() as instances:
        owner = await instances.enter_async_context(started(instance(database, tmp_path, "first")))
        await owner.wait_active()
        standby = await instances.enter_async_context(started(instance(database, tmp_path, "second")))
        first = await owner.get("/v1/shape", table="items", offset="-1")
        handle = first.headers["electric-handle"]
        await until_waiting(standby)

        async def is_published() -> bool:
            return (tmp_path / "data" / CATALOG_NAME).exists()

        await until("the owner has published its catalog", is_published)
        at_end = {"table": "items", "offset": "0_inf", "handle": handle}
        live = asyncio.create_task(standby.get("/v1/shape", **at_end, live="true"))
        await asyncio.to_thread(database.execute, "INSERT INTO items VALUES (1)")
        answer = await live
        assert answer.status_code == 200
        if len(answer.json()) == 1:
            # The row came after the long poll: the next one has it.
            answer = await standby.get("/v1/shape", **at_end, live="true")
        assert [message["value"] for message in answer.json() if "value" in message] == [{"id": "1"}]
        for refused in (
            await standby.get("/v1/shape", table="items", offset="-1", where="id > 7"),
            await standby.get("/v1/shape", table="items", offset="0_inf", handle="1-1"),
        ):
            assert refused.status_code == 503, refused.text
            assert "retry-after" in refused.headers
            assert "Postgres lock acquisition" in refused.text
        owner.kill_all()
        await standby.wait_active()
        again = await standby.get("/v1/shape", **at_end)
        assert again.status_code == 200
        assert again.headers["electric-handle"] == handle


async def test_a_successor_with_a_disk_of_its_own_starts_over(database: Any, tmp_path: Path) -> None:
    """
    With separate data folders the successor waits for the lock in the database, takes the slot over when the first one
    leaves, and gives every client a new handle: nothing of what the other one served is known to it.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with started(Service(database.url, tmp_path / "first")) as first:
        await first.wait_active()
        async with started(Service(database.url, tmp_path / "second")) as second:
            answer = await first.get("/v1/shape", table="items", offset="-1")
            await until_waiting(second)
            await asyncio.to_thread(database.execute, "INSERT INTO items VALUES (1)")
            await first.stop()
            await second.wait_active()
            stale = await second.get(
                "/v1/shape", table="items", offset="0_inf", handle=answer.headers["electric-handle"]
            )
            assert stale.status_code == 409
            fresh = await second.get("/v1/shape", table="items", offset="-1")
            assert [message["value"] for message in fresh.json() if "value" in message] == [{"id": "1"}]


async def test_an_owner_that_lost_the_lock_leaves(database: Any, tmp_path: Path) -> None:
    """
    When the connection breaks and another instance, which was in line for the lock, streams now, the one before does not
    fight for the slot: it drains, and ends with a status and a sentence of its own.
    """
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    async with started(Service(database.url, tmp_path / "first")) as first:
        await first.wait_active()
        async with started(Service(database.url, tmp_path / "second")) as second:
            await until_waiting(second)
            await asyncio.to_thread(
                database.query,
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
                first.slot,
            )
            await second.wait_active()
            assert first.process is not None
            assert await asyncio.to_thread(first.process.wait, 30) == EXIT_YIELDED
            assert "Another instance" in first.log_tail()
