from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness.service import Service
from harness.waiting import until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def read_on(service: Service, params: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """
    Read to the end from some place; gives the changes and where to go on.
    """
    messages: list[dict[str, Any]] = []
    while True:
        answer = await service.get("/v1/shape", **params)
        assert answer.status_code == 200, answer.text
        messages += [message for message in answer.json() if "operation" in message["headers"]]
        params = {
            **params,
            "offset": answer.headers["electric-offset"],
            "handle": answer.headers["electric-handle"],
        }
        if "electric-up-to-date" in answer.headers:
            return messages, params


def update(database: Any, numbers: range) -> None:
    """
    Update five rows in turn, each time in a transaction of its own.
    """
    with database.connect() as connection:
        for number in numbers:
            connection.execute("UPDATE things SET n = %s WHERE id = %s", (number + 1, number % 5 + 1))


async def test_a_log_that_allows_it_is_compacted_while_clients_read(database: Any, tmp_path: Path) -> None:
    """
    A shape made with `experimental_compaction=true` sends less to whoever reads from the beginning, the same rows to
    whoever continues from an older place, and goes on behind it, also after a restart; its neighbour stays whole
    (C26).
    """
    database.execute("CREATE TABLE things (id int PRIMARY KEY, n int, t text)")
    database.execute("INSERT INTO things SELECT i, 0, repeat('x', 40) FROM generate_series(1, 5) i")
    async with Service(
        database.url,
        tmp_path,
        env={
            "PENSTOCK_COMPACTION_INTERVAL_S": "0.3",
            "PENSTOCK_FLUSH_STALL_GRACE_S": "5",
            "PENSTOCK_CHUNK_BYTES_MAX": "2000",
        },
    ) as service:
        asked = {"table": "things", "offset": "-1", "experimental_compaction": "true"}
        snapshot, start = await read_on(service, asked)
        _, other = await read_on(service, {"table": "things", "offset": "-1", "replica": "full"})
        await asyncio.to_thread(update, database, range(21))
        _, middle = await read_on(service, start)
        await asyncio.to_thread(update, database, range(21, 60))

        async def is_compacted() -> bool:
            return bool(
                (await service.status())["compacted_count"] > 0 and len((await read_on(service, start))[0]) < 60
            )

        await until("the log is compacted", is_compacted)
        rows = dict(database.query("SELECT id::text, n::text FROM things"))
        for place in (start, middle):
            assert await materialise(service, snapshot, place) == rows
        compacted, end = await read_on(service, start)
        assert any(set(message["headers"]) == {"operation", "relation"} for message in compacted)
        assert len((await read_on(service, other))[0]) == 60

        await service.stop()
        service.start()
        await service.wait_active()
        assert len((await read_on(service, start))[0]) < 60, "a compaction outlives a restart"
        await asyncio.to_thread(database.execute, "UPDATE things SET n = 1000 WHERE id = 3")
        live = await service.get("/v1/shape", **end, live="true")
        assert [message["value"] for message in live.json() if "value" in message] == [{"id": "3", "n": "1000"}]


async def materialise(service: Service, snapshot: list[dict[str, Any]], place: dict[str, str]) -> dict[str, str]:
    """
    Rows as a client has them that goes on from a place; what it had before does not matter, since all rows have changed.
    """
    rows = {message["key"]: dict(message["value"]) for message in snapshot}
    for message in (await read_on(service, place))[0]:
        rows[message["key"]].update(message["value"])
    return {row["id"]: row["n"] for row in rows.values()}
