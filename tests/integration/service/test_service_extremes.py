"""Positions at the ends of their range, and transactions at the ends of their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

BIG = ShapeUnderTest("big")
SMALL = ShapeUnderTest("small")


async def test_a_transaction_too_large_to_keep_costs_the_shapes_on_its_tables_only(
    database: Any, tmp_path: Path
) -> None:
    """
    A3, H2: Beyond `transaction_bytes_max` the shapes that it touched begin anew, with all of its rows, and their
    neighbours, the slot and the epoch stay.
    """
    database.execute("CREATE TABLE big (id int PRIMARY KEY, t text); CREATE TABLE small (id int PRIMARY KEY, t text)")
    async with (
        Service(database.url, tmp_path, env={"PENSTOCK_TRANSACTION_BYTES_MAX": "256KiB"}) as service,
        Audience(service.url, database.url) as audience,
    ):
        audience.join(BIG, SMALL)
        await audience.agree()
        database.execute("INSERT INTO big SELECT g, repeat('x', 1000) FROM generate_series(1, 4000) g")
        database.execute("INSERT INTO small VALUES (1, 'one')")
        await audience.agree()
        assert audience.rotations == [1, 0]
        database.execute("UPDATE big SET t = 'two' WHERE id = 2")
        await audience.agree()
        assert audience.rotations == [1, 0]
        status = await service.status()
        assert (status["epoch"], status["problems"]) == (1, [])


async def test_positions_are_unsigned_numbers_of_64_bits(tmp_path: Path) -> None:
    """
    A17: Snapshots, live rows and restarts work where the log of the database begins, and where it passes the 2^63rd byte.
    """
    with ThrowawayPostgres() as server:
        database = server.create_database("old")
        database.execute("CREATE TABLE small (id serial PRIMARY KEY, t text)")
        async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
            audience.join(SMALL)
            database.execute("INSERT INTO small (t) VALUES ('early')")
            await audience.agree()
            await service.stop()
            database.execute("SELECT pg_drop_replication_slot(%s)", service.slot)
            server.stop()
            server.run_tool("pg_resetwal", "-l", "000000017FFFFFFF000000FF", str(server.data_folder))
            server.start()
            service.start()
            await service.wait_active()
            for text in ("before", "behind"):
                database.execute("INSERT INTO small (t) VALUES (%s)", text)
                await audience.agree()
                # The next segment is the first beyond that byte.
                database.execute("SELECT pg_switch_wal()")
            assert audience.rotations == [1]
            await service.stop()
            database.execute("INSERT INTO small (t) VALUES ('restarted')")
            service.start()
            await service.wait_active()
            await audience.agree()
            assert audience.rotations == [1]
            answer = await service.get("/v1/shape", table="small", offset="now")
            assert int(answer.headers["electric-offset"].partition("_")[0]) > 1 << 63
