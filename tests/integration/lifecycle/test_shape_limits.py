from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until
from harness.workload import ShapeUnderTest, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def test_more_shapes_than_allowed_cost_only_those_read_least_recently(database: Any, tmp_path: Path) -> None:
    """
    H20: under load the shapes that nobody reads any more go, with a 409 for whoever comes back, and no follower of
    another one notices; what is over the limit afterwards is what is being read.
    """
    workload = Workload(database.url, seed=5)
    await workload.create_schema()
    followed = (ShapeUnderTest("items"), ShapeUnderTest("toasted"), ShapeUnderTest("keyless"))
    async with (
        Service(
            database.url,
            tmp_path,
            env={"ELECTRIC_MAX_SHAPES": "4", "PENSTOCK_EVICTION_INTERVAL_S": "0.3"},
        ) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        writers = group.create_task(workload.run(), name="workload")
        handles: list[str] = []
        for number in range(12):
            answer = await service.get("/v1/shape", table="items", offset="-1", where=f"id > {number}")
            assert answer.status_code == 200
            handles.append(answer.headers["electric-handle"])

        # Whoever follows reads later than any of these was read.
        audience.join(*followed)

        async def is_within() -> bool:
            status = await service.status()
            return bool(status["evicted_count"] >= 11 and status["shape_count"] <= 4)

        await until("no more shapes than allowed", is_within)
        stale = await service.get("/v1/shape", table="items", offset="0_0", handle=handles[0], where="id > 0")
        assert stale.status_code == 409
        assert stale.headers["electric-handle"] != handles[0]
        workload.stop()
        await writers
        await audience.agree()
        assert set(audience.rotations) == {0}, "whoever is being read is not given up"
        status = await service.status()
        assert status["shed_count"] == 0
