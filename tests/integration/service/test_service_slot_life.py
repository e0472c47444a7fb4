from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until, until_confirmed
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GOOD = ShapeUnderTest("good")


async def follow(database: ThrowawayDatabase, audience: Audience) -> None:
    """
    A table with a shape that has a change.
    """
    database.execute("CREATE TABLE good (id int PRIMARY KEY)")
    audience.join(GOOD)
    await audience.agree()
    database.execute("INSERT INTO good VALUES (0)")
    await audience.agree()


async def has_rotated(audience: Audience) -> bool:
    """
    Whether each client was sent away once.
    """
    return audience.rotations == [1]


async def start_again(database: ThrowawayDatabase, service: Service, audience: Audience, number: int) -> None:
    """
    The service comes up by itself, its clients start over once and have what the query gives, and the slot moves on.
    """
    service.start()
    await service.wait_active()
    # Positions of another life say nothing about what a client has of this one.
    await until("the clients started over", lambda: has_rotated(audience))
    database.execute("INSERT INTO good VALUES (%s)", number)
    await audience.agree()
    await until_confirmed(database, service.slot, database.query("SELECT pg_current_wal_lsn()::text")[0][0])


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_a_slot_that_a_stranger_moved_costs_the_shapes_and_no_row(
    database: Any, tmp_path: Path, mode: str
) -> None:
    """
    G6s, B15: Somebody else confirmed what the service never got: another epoch begins, and clients get everything.
    """
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode) as service,
        Audience(service.url, database.url) as audience,
    ):
        await follow(database, audience)
        await service.stop()
        database.execute("INSERT INTO good VALUES (1)")
        database.query("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", service.slot)
        await start_again(database, service, audience, 2)


async def test_a_slot_that_was_made_anew_costs_the_shapes_and_no_row(database: Any, tmp_path: Path) -> None:
    """
    G5s, G6s: A slot of the same name that begins later is another life.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await follow(database, audience)
        await service.stop()
        database.query("SELECT pg_drop_replication_slot(%s)", service.slot)
        database.execute("INSERT INTO good VALUES (1)")
        database.query("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", service.slot)
        await start_again(database, service, audience, 2)


async def test_a_slot_dropped_while_it_streams_is_made_anew(database: Any, tmp_path: Path) -> None:
    """
    G5s: The walsender is ended and the slot dropped under a running service; it goes on by itself.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await follow(database, audience)
        receiver = await service.kill("receiver", signal.SIGSTOP)
        database.query(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = %s",
            service.slot,
        )
        database.query("SELECT pg_drop_replication_slot(%s)", service.slot)
        database.execute("INSERT INTO good VALUES (1)")
        os.kill(receiver, signal.SIGCONT)
        await until("the clients started over", lambda: has_rotated(audience))
        database.execute("INSERT INTO good VALUES (2)")
        await audience.agree()


async def test_a_slot_invalidated_by_its_size_is_made_anew(tmp_path: Path) -> None:
    """
    G1s: The server gives the slot up because it holds too much; the service notices while it runs, and goes on.
    """
    limits = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with ThrowawayPostgres(settings=limits) as server:
        database = server.create_database("small")
        async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
            await follow(database, audience)
            receiver = await service.kill("receiver", signal.SIGSTOP)

            async def is_lost() -> bool:
                database.query("SELECT pg_switch_wal()")
                database.execute("CHECKPOINT")
                rows = database.query("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", service.slot)
                return bool(rows) and rows[0][0] == "lost"

            database.execute("CREATE TABLE neighbour AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
            database.execute("INSERT INTO good VALUES (1)")
            await until("the slot is lost", is_lost)
            os.kill(receiver, signal.SIGCONT)
            await until("the clients started over", lambda: has_rotated(audience))
            database.execute("INSERT INTO good VALUES (2)")
            await audience.agree()


@pytest.fixture
def own_server() -> Iterator[ThrowawayPostgres]:
    """
    A server that nobody shares.
    """
    with ThrowawayPostgres() as server:
        yield server


async def test_a_server_restored_from_a_backup_is_another_life(own_server: ThrowawayPostgres, tmp_path: Path) -> None:
    """
    G10s: The server forgets commits that clients have; all shapes start over, and have what the server has now.
    """
    database = own_server.create_database("restored")
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await follow(database, audience)
        await service.stop()
        own_server.stop()
        backup = tmp_path / "backup"
        shutil.copytree(own_server.data_folder, backup)
        owner = own_server.data_folder.stat()
        own_server.start()
        service.start()
        await service.wait_active()
        database.execute("INSERT INTO good SELECT generate_series(1, 100)")
        await audience.agree()
        await service.stop()
        own_server.stop()
        shutil.rmtree(own_server.data_folder)
        shutil.copytree(backup, own_server.data_folder)
        for folder, _, files in os.walk(own_server.data_folder):
            os.chown(folder, owner.st_uid, owner.st_gid)
            for name in files:
                os.chown(Path(folder, name), owner.st_uid, owner.st_gid)
        own_server.start()
        await start_again(database, service, audience, 200)
        assert database.query("SELECT count(*) FROM good") == [(2,)]
