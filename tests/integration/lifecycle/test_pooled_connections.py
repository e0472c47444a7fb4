from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.pooler import Pooler
from harness.service import Service
from harness.waiting import until
from harness.workload import WHERE_SHAPES, Workload
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def test_snapshots_may_come_through_a_pooler(
    database: Any, postgres_server: ThrowawayPostgres, tmp_path: Path
) -> None:
    """
    A13: with `pooled_database_url` naming PgBouncer in transaction mode, with fewer connections than snapshots at a time,
    every client's rows equal the query, values in the agreed text included, and the rest goes to the server itself.
    """
    workload = Workload(database.url, seed=13)
    await workload.create_schema()
    with Pooler(postgres_server) as pooler:
        async with (
            Service(database.url, tmp_path, env={"ELECTRIC_POOLED_DATABASE_URL": pooler.url(database.name)}) as service,
            Audience(service.url, database.url) as audience,
            asyncio.TaskGroup() as group,
        ):
            writers = group.create_task(workload.run(), name="workload")
            audience.join(*WHERE_SHAPES[:8])

            async def is_enough() -> bool:
                return workload.commit_count >= 60

            await until("enough was written", is_enough)
            workload.stop()
            await writers
            await audience.agree()
            assert set(audience.rotations) == {0}
            assert (await service.status())["shed_count"] == 0
        assert f"{database.name}/postgres@127.0.0.1" in pooler.log()
