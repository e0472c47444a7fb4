from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from harness.evidence import assert_covered
from harness.oracle import Audience
from harness.service import Service
from harness.workload import SHAPES, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

KILLS = int(os.environ.get("PENSTOCK_KILLS", "50"))
SEED = int(os.environ.get("PENSTOCK_SEED") or "11")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "kill_count"), [("relay", KILLS), ("shapes", max(10, KILLS // 5))])
async def test_nothing_is_lost_doubled_or_changed_by_kills(
    database: Any, postgres_server: Any, tmp_path: Path, mode: str, kill_count: int
) -> None:
    """
    A1: Receiver, engine, web, all of it and Postgres are killed at random moments, under load.

    Handles survive; no client sees a missing, duplicate or changed entry; every commit at or below the confirmed
    position is on disk whenever nobody is left who could still write it.
    """
    draw = random.Random(SEED)
    workload = Workload(database.url, seed=SEED, writer_count=2, pause_s=0.01, large_rows=400)
    await workload.create_schema()
    # The restart budget is for services that cannot live; here every death is ours.
    env = {"PENSTOCK_RESTARTS_PER_HOUR_MAX": "100000"}
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode, env=env) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*SHAPES)
        await audience.agree()
        writers = group.create_task(workload.run(), name="workload")
        for number in range(kill_count):
            await asyncio.sleep(draw.random() * 0.25)  # the moment of the kill is what is random here
            victim = draw.choices(
                ("receiver", "engine", "web", "all", "postgres"), (4, 6, 2, 3, 1 if number % 10 == 9 else 0)
            )[0]
            match victim:
                case "all":
                    service.kill_all()
                    assert_covered(await database_confirmed(database, service), service, mode)
                    service.start()
                case "postgres":
                    postgres_server.stop("immediate")
                    postgres_server.start()
                case role:
                    await service.kill(role)
            if number % 5 == 4:
                async with workload.paused():
                    await audience.agree(timeout_s=90)
        workload.stop()
        await writers
        await audience.agree(timeout_s=90)
        assert set(audience.rotations) == {0}
        await service.stop()
        assert_covered(await database_confirmed(database, service), service, mode)


async def database_confirmed(database: Any, service: Service) -> str:
    """
    Ask Postgres how far the slot is confirmed.
    """
    rows = await asyncio.to_thread(
        database.query, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", service.slot
    )
    return str(rows[0][0])
