from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.oracle import History, OracleClient
from harness.service import Service
from harness.workload import SHAPES, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@contextlib.asynccontextmanager
async def following(clients: list[OracleClient]) -> AsyncIterator[asyncio.TaskGroup]:
    """
    Let clients read for as long as the block lasts; the first that fails ends it.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.follow(), name=client.name) for client in clients]
        yield group
        for task in tasks:
            task.cancel()


def commits(workload: Workload, count: int) -> asyncio.Event:
    """
    An event that is set when the workload has committed so many more transactions.
    """
    reached = asyncio.Event()
    target = workload.commit_count + count

    async def look() -> None:
        if workload.commit_count >= target:
            reached.set()

    workload.on_commit = look
    return reached


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_clients_equal_the_query_whenever_they_joined(database: Any, tmp_path: Path, mode: str) -> None:
    """
    Under a concurrent random workload every client's rows equal the query at quiescence, whichever moment it joined.
    """
    workload = Workload(database.url, seed=20261122)
    await workload.create_schema()
    history = History()
    async with Service(database.url, tmp_path, "--acknowledge", mode) as service, asyncio.TaskGroup() as group:
        clients: list[OracleClient] = []
        followers: list[asyncio.Task[None]] = []

        def join(generation: int) -> None:
            for shape in SHAPES:
                client = OracleClient(service.url, shape, history, name=f"{shape.table} joined {generation}")
                clients.append(client)
                followers.append(group.create_task(client.follow(), name=client.name))

        join(0)
        writers = group.create_task(workload.run(), name="workload")
        for generation in (1, 2):
            await commits(workload, 150).wait()
            join(generation)
        await commits(workload, 200).wait()
        workload.stop()
        await writers
        join(3)
        for client in clients:
            await client.agree(database.url)
        for follower in followers:
            follower.cancel()
        assert all(client.rotation_count == 0 for client in clients), "a healthy run gives nothing up"
        status = (await httpx.AsyncClient().get(f"{service.url}/v1/status")).json()
        assert status["shed_count"] == 0


async def test_what_happens_in_one_process_is_the_same(database: Any, tmp_path: Path) -> None:
    """
    With everything in one process the clients' rows equal the query too.
    """
    workload = Workload(database.url, seed=7)
    await workload.create_schema()
    history = History()
    async with Service(database.url, tmp_path, "--single-process") as service:
        clients = [OracleClient(service.url, shape, history, name=shape.table) for shape in SHAPES]
        async with following(clients) as group:
            writers = group.create_task(workload.run(), name="workload")
            await commits(workload, 150).wait()
            workload.stop()
            await writers
            for client in clients:
                await client.agree(database.url)
        assert all(client.rotation_count == 0 for client in clients)
