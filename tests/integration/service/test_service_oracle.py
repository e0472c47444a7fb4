from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.workload import SHAPES, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_clients_equal_the_query_whenever_they_joined(database: Any, tmp_path: Path, mode: str) -> None:
    """
    Under a concurrent random workload every client's rows equal the query at quiescence, whichever moment it joined
    (C14, C24).
    """
    workload = Workload(database.url, seed=20261122)
    await workload.create_schema()
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*SHAPES, name="from the start")
        writers = group.create_task(workload.run(), name="workload")
        for name in ("early", "late"):
            await workload.committed(150).wait()
            audience.join(*SHAPES, name=name)
        await workload.committed(200).wait()
        workload.stop()
        await writers
        audience.join(*SHAPES, name="afterwards")
        await audience.agree()
        assert set(audience.rotations) == {0}, "a healthy run gives nothing up"
        assert (await service.status())["shed_count"] == 0


@pytest.mark.parametrize("env", [{}, {"PENSTOCK_COMPILED_CORE": "false"}], ids=["compiled", "pure"])
async def test_what_happens_in_one_process_is_the_same(database: Any, tmp_path: Path, env: dict[str, str]) -> None:
    """
    With everything in one process the clients' rows equal the query too, also where nothing is compiled.
    """
    workload = Workload(database.url, seed=7)
    await workload.create_schema()
    async with (
        Service(database.url, tmp_path, "--single-process", env=env) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*SHAPES)
        writers = group.create_task(workload.run(), name="workload")
        await workload.committed(150).wait()
        workload.stop()
        await writers
        await audience.agree()
        assert set(audience.rotations) == {0}
