from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
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
        Audience(service.url, database.url) as audience,
    ):
        audience.join(KEYLESS)
        await audience.agree()
        for _ in range(3):
            database.execute("INSERT INTO neighbour SELECT repeat('x', 1000) FROM generate_series(1, 500)")
            await until_confirmed(database, service.slot, database.query("SELECT pg_current_wal_lsn()::text")[0][0])


@pytest.mark.timeout(300)
async def test_no_timeout_of_the_walsender_while_the_engine_is_stopped(tmp_path: Path) -> None:
    """
    A16: With `wal_sender_timeout` of 5 s, the engine stopped for 30 s and the relay log full, the connection stays.

    The receiver does not read the socket then; status updates go on by timer.
    """
    with ThrowawayPostgres(settings={"wal_sender_timeout": "5s"}) as server:
        database = server.create_database("pressed")
        database.execute("CREATE TABLE keyless (a int, b text, c timestamptz)")
        env = {"PENSTOCK_ENGINE_HANG_S": "300s", "PENSTOCK_RELAY_BYTES_MAX": "4MiB"}
        async with (
            Service(database.url, tmp_path, env=env) as service,
            Audience(service.url, database.url) as audience,
        ):
            audience.join(KEYLESS)
            await audience.agree()
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
            await audience.agree()
            assert audience.rotations == [0]


async def test_sigterm_drains_in_time_with_clients_parked(database: Any, tmp_path: Path) -> None:
    """
    H21: Asked to end while clients wait, the service settles and leaves with status 0 within 10 s, and loses nothing.
    """
    database.execute("CREATE TABLE keyless (a int, b text, c timestamptz)")
    async with (
        Service(database.url, tmp_path) as service,
        Audience(service.url, database.url) as audience,
    ):
        for number in range(20):
            audience.join(KEYLESS, name=f"client {number}")
        database.execute("INSERT INTO keyless VALUES (1, 'one', now())")
        await audience.agree()
        await service.stop(timeout_s=10.0)
        database.execute("INSERT INTO keyless VALUES (2, 'two', now())")
        service.start()
        await service.wait_active()
        await audience.agree()
        assert set(audience.rotations) == {0}
        assert {len(client.handles) for client in audience.clients} == {1}
