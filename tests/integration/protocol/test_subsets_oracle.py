"""
A client that loads subsets at any moment and follows the log has, when all is quiet, what the query says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import psycopg
import pytest

from harness.subsets import SubsetClient
from integration.protocol.conftest import Served

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GROUPS: Final = 5
COMMITS: Final = 240
CLIENTS: Final = 3
DEADLINE_S: Final = 90.0


async def _write(url: str, seed: int, commits: int, done: asyncio.Event) -> None:
    """
    Insert, update and delete in transactions of different length that overlap those of others.
    """
    draw = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for number in range(commits):
            for _ in range(draw.choice([1, 1, 2, 5])):
                key = draw.randrange(60) * 10 + seed
                match draw.randrange(5):
                    case 0:
                        await connection.execute("DELETE FROM tasks WHERE id = %s", (key,))
                    case 1:
                        await connection.execute(
                            "INSERT INTO tasks VALUES (%s, %s, 'new', %s) ON CONFLICT (id) DO NOTHING",
                            (key, key % GROUPS, number),
                        )
                    case _:
                        await connection.execute(
                            "UPDATE tasks SET n = %s, v = %s WHERE id = %s", (number, f"{seed}-{number}", key)
                        )
                if draw.random() < 0.2:
                    # Stay open while others commit and pictures are taken.
                    await connection.execute("SELECT pg_sleep(0.01)")
            await connection.commit()
    done.set()


async def _browse(client: SubsetClient, writing: Sequence[asyncio.Event]) -> set[int]:
    """
    Load subsets and read the log in turns for as long as somebody writes; gives the groups that were loaded whole.
    """
    loaded: set[int] = set()
    while not all(event.is_set() for event in writing):
        match client.draw.randrange(4):
            case 0:
                group = client.draw.randrange(GROUPS - 1)
                await client.load(where="grp = $1", params={"1": str(group)})
                loaded.add(group)
            case 1:
                await client.load(order_by="n DESC NULLS LAST, id", limit=5, offset=client.draw.randrange(10))
            case way:
                if client.handle is None:
                    await client.load(where="id < 20")
                await client.read(is_live=way == 2)
    return loaded


async def test_subsets_and_the_log_together_equal_the_query(served: Served) -> None:
    """
    Under concurrent writes, whatever was loaded when: every row held is the table's, every group loaded is whole
    (E1, E2, E8, E9, E11, I7).
    """
    served.database.execute("CREATE TABLE tasks (id int PRIMARY KEY, grp int, v text, n int)")
    served.database.execute(
        f"INSERT INTO tasks SELECT i, i % {GROUPS}, 'old', NULL FROM generate_series(1, 600) AS i",
    )
    clients = [SubsetClient(served.url, "tasks", random.Random(seed)) for seed in range(CLIENTS)]
    writing = [asyncio.Event() for _ in range(3)]
    try:
        async with asyncio.timeout(DEADLINE_S):
            async with asyncio.TaskGroup() as group:
                for seed, event in enumerate(writing):
                    group.create_task(_write(served.database.url, seed, COMMITS // len(writing), event))
                browsing = [group.create_task(_browse(client, writing)) for client in clients]
            ((end,),) = served.database.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
            expected = {
                str(row[0]): {
                    "id": str(row[0]),
                    "grp": str(row[1]),
                    "v": row[2],
                    "n": None if row[3] is None else str(row[3]),
                }
                for row in served.database.query("SELECT id, grp, v, n FROM tasks")
            }
            for client in clients:
                while not (client.is_current and client.last_seen_lsn >= int(end)):
                    await client.read()
                    await asyncio.sleep(0.02)
        for client, task in zip(clients, browsing, strict=True):
            held = {str(row["id"]): row for row in client.rows.values()}
            assert {key: row for key, row in held.items() if expected.get(key) != row} == {}
            loaded = task.result()
            whole: dict[str, Any] = {key: row for key, row in expected.items() if int(row["grp"]) in loaded}
            assert whole.keys() <= held.keys()
        assert sum(client.left_out for client in clients) > 0, "some changes were shown already"
    finally:
        for client in clients:
            await client.close()
