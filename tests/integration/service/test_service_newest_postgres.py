from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.workload import SHAPES, Workload
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

COMMITS = 150


@pytest.mark.parametrize("args", [("--acknowledge", "shapes"), ("--single-process",)], ids=" ".join)
async def test_clients_equal_the_query_on_the_newest_postgres_too(
    bundled_postgres: ThrowawayPostgres, tmp_path: Path, args: tuple[str, ...]
) -> None:
    """
    What holds on the system's Postgres holds on the bundled one: clients that join early and late equal the query.
    """
    database = bundled_postgres.create_database("newest_" + "".join(filter(str.isalnum, args[0])))
    workload = Workload(database.url, seed=18)
    await workload.create_schema()
    reached = asyncio.Event()

    async def count() -> None:
        if workload.commit_count >= COMMITS:
            reached.set()

    workload.on_commit = count
    async with (
        Service(database.url, tmp_path, *args) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*SHAPES, name="from the start")
        writers = group.create_task(workload.run(), name="workload")
        await reached.wait()
        workload.stop()
        await writers
        audience.join(*SHAPES, name="afterwards")
        await audience.agree()
        assert set(audience.rotations) == {0}
    database.drop()
