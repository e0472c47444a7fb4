from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.oracle import Audience
from harness.service import PYTHON, Service
from harness.waiting import until, until_confirmed
from harness.workload import SHAPES, ShapeUnderTest, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GOOD = ShapeUnderTest("good")
SICK = ShapeUnderTest("sick")


@asynccontextmanager
async def hurt(
    database: Any,
    folder: Path,
    fault: str,
    *,
    mode: str = "shapes",
    shapes: tuple[ShapeUnderTest, ...] = (GOOD, SICK),
    **env: str,
) -> AsyncIterator[tuple[Service, Audience]]:
    """
    A service that follows two tables, with deadlines of a few seconds, whose shape on `sick` has a fault in store.
    """
    for table in ("good", "sick"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, t text)")
        database.execute(f"INSERT INTO {table} VALUES (1, 'one')")
    settings = {
        "PENSTOCK_FAULTS": fault,
        "PENSTOCK_ENABLE_FAULT_INJECTION": "true",
        "PENSTOCK_FLUSH_STALL_GRACE_S": "2",
        "PENSTOCK_ENGINE_HANG_S": "2",
        **env,
    }
    async with (
        Service(database.url, folder, "--acknowledge", mode, env=settings) as service,
        Audience(service.url, database.url) as audience,
    ):
        audience.join(*shapes)
        await audience.agree()
        yield service, audience


def write(database: Any, word: str, start: int) -> str:
    """
    Write to both tables, the sick one with a word; gives the position behind it.
    """
    database.execute("INSERT INTO sick VALUES (%s, %s)", start, word)
    for number in range(20):
        database.execute("INSERT INTO good VALUES (%s, 'row')", start + number)
    return str(database.query("SELECT pg_current_wal_lsn()::text")[0][0])


def records(service: Service) -> list[dict[str, Any]]:
    """
    What the black box holds.
    """
    path = service.data_dir / "black-box" / "sheds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_shape_whose_files_never_open_is_given_up_alone(database: Any, tmp_path: Path) -> None:
    """
    A shape that had left memory and cannot come back is given up in the same time; others go on.
    """
    idle = {"PENSTOCK_CONSUMER_IDLE_S": "0.5"}
    fault = "consumer-hung-opening:sick:poison"
    async with (
        hurt(database, tmp_path, fault, shapes=(GOOD,), **idle) as (service, audience),
        httpx.AsyncClient(base_url=service.url, timeout=30) as client,
    ):
        # Nobody follows it: a parked client would keep it in memory.
        opened = await client.get("/v1/shape", params={"table": "sick", "offset": "-1"})
        write(database, "poison", 100)
        await audience.agree()
        await asyncio.sleep(2)  # to be settled and to leave memory; nothing tells when it has
        began = time.monotonic()
        await until_confirmed(database, service.slot, write(database, "late", 500), timeout_s=12)
        assert 2 < time.monotonic() - began < 8
        await audience.agree()
        assert audience.rotations == [0]
        params = {"table": "sick", "offset": "0_inf", "handle": opened.headers["electric-handle"]}
        assert (await client.get("/v1/shape", params=params)).status_code in {409, 503}
        (record,) = records(service)
        assert record["table"] == "public.sick"


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_a_healthy_service_under_load_gives_nobody_up(database: Any, tmp_path: Path, mode: str) -> None:
    """
    With deadlines as short as in the other tests, ordinary traffic raises no suspicion at all.
    """
    workload = Workload(database.url, seed=11)
    await workload.create_schema()
    env = {"PENSTOCK_FLUSH_STALL_GRACE_S": "2", "PENSTOCK_ENGINE_HANG_S": "5"}
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode, env=env) as service,
        Audience(service.url, database.url) as audience,
    ):
        audience.join(*SHAPES)
        writing = asyncio.create_task(workload.run())
        await asyncio.sleep(6)  # three times the grace
        workload.stop()
        await writing
        await audience.agree()
        status = await service.status()
        assert (status["shed_count"], status["accounting_defect_count"], status["resting"]) == (0, 0, [])
        assert status["unready"] == ""
        assert records(service) == []
        assert set(audience.rotations) == {0}


async def test_a_consumer_that_hangs_once_is_replaced_and_nobody_notices(database: Any, tmp_path: Path) -> None:
    """
    When a wait never returns and a second attempt does, the shape lives on with the same handle.
    """
    async with hurt(database, tmp_path, "consumer-hung-once:sick:poison") as (service, audience):
        await until_confirmed(database, service.slot, write(database, "poison", 100), timeout_s=12)
        await audience.agree()
        assert audience.rotations == [0, 0]
        status = await service.status()
        assert status["shed_count"] == 0
        assert status["replaced_consumer_count"] >= 1


async def test_a_row_that_kills_the_engine_costs_its_shape_only(database: Any, tmp_path: Path) -> None:
    """
    A death of the process at one row ends with the second strike: that shape starts over alone.
    """
    async with hurt(database, tmp_path, "consumer-exits:sick:poison", mode="relay") as (service, audience):
        end = write(database, "poison", 100)
        await until_confirmed(database, service.slot, end, timeout_s=5)

        async def is_convicted() -> bool:
            return bool(records(service))

        await until("the breadcrumb convicts the shape", is_convicted, 30)
        await audience.agree()
        assert audience.rotations == [0, 1]
        (record,) = records(service)
        assert "died twice" in record["reason"]
        # What comes later finds everybody in health.
        write(database, "harmless", 500)
        await audience.agree()
        engines = [p for p in (await service.status())["processes"] if p["role"] == "engine"]
        assert engines[0]["restart_count"] == 2


async def test_a_shape_that_fails_again_and_again_is_refused_with_its_reason(database: Any, tmp_path: Path) -> None:
    """
    Each time the definition rests longer; requests meanwhile get a 503 that says when to come again and why.
    """
    async with hurt(database, tmp_path, "consumer-fails:sick:poison") as (service, audience):
        for number in range(2):
            write(database, "poison", 100 * (number + 1))
            await audience.agree()
            assert audience.rotations == [0, number + 1]
        write(database, "poison", 900)

        async def is_resting() -> bool:
            return any(rest["count"] == 3 for rest in (await service.status())["resting"])

        await until("the definition rests", is_resting, 10)
        async with httpx.AsyncClient(base_url=service.url) as client:
            answer = await client.get("/v1/shape", params={"table": "sick", "offset": "-1"})
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 4
        assert "consumer failed: InjectedFaultError" in answer.text
        await audience.agree()


async def test_many_that_hang_together_are_an_alarm_and_cost_no_shape(database: Any, tmp_path: Path) -> None:
    """
    When most debtors stand still at once nobody is given up; readiness fails, and `explain` says who holds what.
    """
    columns = [("id", *some) for count in (1, 2) for some in itertools.combinations("abcd", count)]
    shapes = [ShapeUnderTest("wide", names) for names in columns]
    database.execute("CREATE TABLE wide (id int PRIMARY KEY, a text, b text, c text, d text)")
    async with hurt(database, tmp_path, "consumer-hung:wide:poison") as (service, audience):
        audience.join(*shapes)
        await audience.agree()
        database.execute("INSERT INTO wide VALUES (1, 'poison', 'poison', 'poison', 'poison')")
        await audience.agree()

        async with httpx.AsyncClient(base_url=service.url) as client:

            async def is_unready() -> bool:
                return (await client.get("/v1/ready")).status_code == 503

            await until("readiness fails", is_unready, 20)
            told = (await client.get("/v1/ready")).json()
            assert "flush boundary does not move" in told["reason"]
            assert "wide" not in told["reason"]
            assert (await client.get("/v1/health")).status_code == 200
        status = await service.status()
        assert status["shed_count"] == 0
        assert any("it is the disk" in problem for problem in status["problems"])
        said = await asyncio.to_thread(
            subprocess.run,
            [PYTHON, "-m", "penstock", "explain", "--url", service.url],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert said.returncode == 1, said.stderr
        assert "not ready" in said.stdout
        assert "on public.wide" in said.stdout
        assert set(audience.rotations) == {0}
        service.kill_all()
