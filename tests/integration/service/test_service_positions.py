from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import History, OracleClient
from harness.service import Service
from harness.waiting import until_confirmed
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

KEYLESS = ShapeUnderTest("keyless")


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_a_busy_neighbour_does_not_hold_the_slot(database: Any, tmp_path: Path, mode: str) -> None:
    """
    While only tables outside the publication are written, the slot's confirmed position follows the WAL.
    """
    database.execute("CREATE TABLE keyless (a int)")
    database.execute("CREATE TABLE neighbour (t text)")
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode) as service,
        OracleClient(service.url, KEYLESS, History()) as client,
    ):
        follower = asyncio.create_task(client.follow())
        await client.agree(database.url)
        for _ in range(3):
            database.execute("INSERT INTO neighbour SELECT repeat('x', 1000) FROM generate_series(1, 500)")
            await until_confirmed(database, service.slot, database.query("SELECT pg_current_wal_lsn()::text")[0][0])
        follower.cancel()


@pytest.mark.timeout(300)
async def test_no_timeout_of_the_walsender_while_the_engine_is_stopped(tmp_path: Path) -> None:
    """
    With `wal_sender_timeout` of 5 s, the engine stopped for 30 s and the relay log full, the connection stays.

    The receiver does not read the socket then; status updates go on by timer.
    """
    with ThrowawayPostgres(settings={"wal_sender_timeout": "5s"}) as server:
        database = server.create_database("pressed")
        database.execute("CREATE TABLE keyless (a int, b text, c timestamptz)")
        env = {"PENSTOCK_ENGINE_HANG_S": "300s", "PENSTOCK_RELAY_BYTES_MAX": "4MiB"}
        async with (
            Service(database.url, tmp_path, env=env) as service,
            OracleClient(service.url, KEYLESS, History()) as client,
        ):
            follower = asyncio.create_task(client.follow())
            await client.agree(database.url)
            before = database.query("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", service.slot)
            engine = await service.kill("engine", signal.SIGSTOP)
            for number in range(30):
                database.execute(
                    "INSERT INTO keyless SELECT g, repeat('y', 900), now() FROM generate_series(%s::int, %s::int) g",
                    number * 500,
                    number * 500 + 499,
                )
            await asyncio.sleep(30)  # the length of the stop is what is tested: six timeouts
            after = database.query("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", service.slot)
            assert before == after
            os.kill(engine, signal.SIGCONT)
            await client.agree(database.url)
            assert client.rotation_count == 0
            follower.cancel()


async def test_sigterm_drains_in_time_with_clients_parked(database: Any, tmp_path: Path) -> None:
    """
    Asked to end while clients wait, the service settles and leaves with status 0 within 10 s, and loses nothing.
    """
    database.execute("CREATE TABLE keyless (a int, b text, c timestamptz)")
    async with Service(database.url, tmp_path) as service:
        clients = [OracleClient(service.url, KEYLESS, History(), name=f"client {n}") for n in range(20)]
        followers = [asyncio.create_task(client.follow()) for client in clients]
        database.execute("INSERT INTO keyless VALUES (1, 'one', now())")
        for client in clients:
            await client.agree(database.url)
        await service.stop(timeout_s=10.0)
        database.execute("INSERT INTO keyless VALUES (2, 'two', now())")
        service.start()
        await service.wait_active()
        for client in clients:
            await client.agree(database.url)
            assert client.rotation_count == 0
            assert len(client.handles) == 1
        for follower in followers:
            follower.cancel()
