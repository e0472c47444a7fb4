from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import harness.impatient
from harness.service import Service
from harness.waiting import until, until_confirmed

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

COMMAND = (harness.impatient.__file__,)


def connections(database: Any) -> int:
    """
    How many connections the service has to its database.
    """
    rows = database.query(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'penstock%%'"
    )
    return int(rows[0][0])


async def until_asleep(database: Any) -> None:
    async def is_alone() -> bool:
        return await asyncio.to_thread(connections, database) == 0

    await until("no connection is left", is_alone)


async def test_an_idle_service_leaves_the_database_alone_until_somebody_asks(database: Any, tmp_path: Path) -> None:
    """
    A2, H24: without requests and changes every connection is closed, while a live request under way ends up to date without
    what is written meanwhile; health stays active, readiness and `explain` say asleep; the next request wakes the service,
    and what was written during the nap arrives under the same handle (B3).
    """
    database.execute("CREATE TABLE naps (id int PRIMARY KEY)")
    async with Service(
        database.url,
        tmp_path,
        env={
            "ELECTRIC_REPLICATION_IDLE_TIMEOUT": "800",
            "PENSTOCK_LONG_POLL_TIMEOUT_S": "4",
            "PENSTOCK_NAP_S_MAX": "600",
        },
        command=COMMAND,
    ) as service:
        first = await service.get("/v1/shape", table="naps", offset="-1")
        handle = first.headers["electric-handle"]
        at_end = {"table": "naps", "offset": "0_inf", "handle": handle}
        pending = asyncio.create_task(service.get("/v1/shape", **at_end, live="true"))
        await until_asleep(database)
        await asyncio.to_thread(database.execute, "INSERT INTO naps VALUES (1)")
        answer = await pending
        assert answer.status_code == 200
        assert answer.headers["electric-offset"] == "0_inf"
        assert "electric-up-to-date" in answer.headers
        assert [message["headers"].get("control") for message in answer.json()] == ["up-to-date"]

        health, ready = await service.get("/v1/health"), await service.get("/v1/ready")
        assert (health.status_code, health.json()) == (200, {"status": "active"})
        assert (ready.status_code, ready.json()) == (200, {"status": "asleep"})
        assert (await service.status())["explain"]["verdict"].startswith("Asleep for ")
        assert await asyncio.to_thread(connections, database) == 0, "looking at it does not wake it"

        live = await service.get("/v1/shape", **at_end, live="true")
        [message] = [message for message in live.json() if "value" in message]
        assert message["value"] == {"id": "1"}
        assert (message["headers"]["op_position"], message["headers"]["last"]) == (0, True)
        assert live.headers["electric-handle"] == handle
        assert live.headers["electric-offset"] == f"{message['headers']['lsn']}_0"
        assert await asyncio.to_thread(connections, database) > 0
        assert (await service.status())["shed_count"] == 0


async def test_a_nap_keeps_no_log_for_ever(database: Any, tmp_path: Path) -> None:
    """
    A service that nobody asks wakes by itself after the longest nap, confirms what was written meanwhile, so that the
    database can drop its log, and sleeps again.
    """
    database.execute("CREATE TABLE naps (id int PRIMARY KEY)")
    async with Service(
        database.url,
        tmp_path,
        env={"PENSTOCK_REPLICATION_IDLE_TIMEOUT_S": "0.5", "PENSTOCK_NAP_S_MAX": "1.5"},
        command=COMMAND,
    ) as service:
        await service.get("/v1/shape", table="naps", offset="-1")
        await until_asleep(database)
        await asyncio.to_thread(database.execute, "INSERT INTO naps SELECT generate_series(1, 2000)")
        position = str(database.query("SELECT pg_current_wal_insert_lsn()")[0][0])
        await until_confirmed(database, service.slot, position)
        await until_asleep(database)
        answer = await service.get("/v1/shape", table="naps", offset="now")
        assert answer.status_code == 200


async def test_a_table_that_was_replaced_during_a_nap_is_not_served(database: Any, tmp_path: Path) -> None:
    """
    The request that wakes the service is answered after the catalog was compared: a table dropped and made anew while it
    slept costs the old shape its handle at once.
    """
    database.execute("CREATE TABLE naps (id int PRIMARY KEY)")
    async with Service(
        database.url,
        tmp_path,
        env={"PENSTOCK_REPLICATION_IDLE_TIMEOUT_S": "0.5", "PENSTOCK_NAP_S_MAX": "600"},
        command=COMMAND,
    ) as service:
        first = await service.get("/v1/shape", table="naps", offset="-1")
        await until_asleep(database)
        await asyncio.to_thread(
            database.execute, "DROP TABLE naps; CREATE TABLE naps (id int PRIMARY KEY); INSERT INTO naps VALUES (5)"
        )
        answer = await service.get("/v1/shape", table="naps", offset="0_inf", handle=first.headers["electric-handle"])
        assert answer.status_code == 409
