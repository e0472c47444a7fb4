"""Many random shapes over the same tables, while everything about the tables changes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from harness.oracle import Audience, OracleClient
from harness.service import Service
from harness.workload import ShapeUnderTest
from penstock.errors import ClientError
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

CHANGED: Final = ("alpha", "beta", "gamma")
"""Tables that are changed in every way."""
LEFT_ALONE: Final = ("calm", "quiet")
"""Tables with the same shapes and writers, that nobody changes."""
CHANGES: Final = 24
PAUSE_S: Final = 0.12

_TABLE: Final = "CREATE TABLE {0} (id int PRIMARY KEY, a int, b text, m mood)"
_FILL: Final = (
    "INSERT INTO {0} (id, a, b, m) SELECT g, g % 7, chr(97 + g % 5) || g, CASE g % 2 WHEN 0 THEN 'up'::mood ELSE 'down' END"
    " FROM generate_series(1, 30) g ON CONFLICT DO NOTHING"
)
_PARTED: Final = """
CREATE TABLE parted (id int, a int, b text, m mood, PRIMARY KEY (id, a)) PARTITION BY LIST (a);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_rest PARTITION OF parted FOR VALUES IN (1, 2, 3) PARTITION BY LIST (a);
CREATE TABLE parted_rest_1 PARTITION OF parted_rest FOR VALUES IN (1);
CREATE TABLE parted_rest_2 PARTITION OF parted_rest FOR VALUES IN (2, 3);
"""


class PersistentClient(OracleClient):
    """
    Goes on asking while its table, or a column of its shape, is not there.

    Until the catalog was looked at, a change may not fit the rows that a partition or a column took away: the shape begins
    anew then, so the client goes on as well, and must have the query's rows in the end.
    """

    async def follow(self) -> None:
        """
        Read for ever.
        """
        while True:
            with contextlib.suppress(ClientError):
                await super().follow()
            await asyncio.sleep(0.05)


def some_shapes(draw: random.Random, table: str, count: int) -> list[ShapeUnderTest]:
    """
    Draw shapes of one table: conditions that are looked up, that are evaluated, and none.
    """
    terms: list[Callable[[], str]] = [
        lambda: f"a = {draw.randrange(7)}",
        lambda: f"a IN ({draw.randrange(7)}, {draw.randrange(7)})",
        lambda: f"a % {draw.randint(2, 4)} = {draw.randrange(2)}",
        lambda: f"a BETWEEN {draw.randrange(4)} AND {draw.randrange(3, 8)}",
        lambda: f"b LIKE '{draw.choice('abcde')}%'",
        lambda: f"b > '{draw.choice('abcde')}'",
        lambda: "b IS NULL",
        lambda: f"m = '{draw.choice(('up', 'down'))}'",
        lambda: f"id % 3 <> {draw.randrange(3)}",
    ]
    shapes = [ShapeUnderTest(table)]
    while len(shapes) < count:
        where = draw.choice(terms)()
        if draw.random() < 0.6:
            where += f" {draw.choice(('AND', 'OR', 'AND NOT'))} {draw.choice(terms)()}"
        key = ("id", "a") if table.startswith("parted") else ("id",)
        columns = draw.choice(((), (), key, (*key, "b")))
        shapes.append(ShapeUnderTest(table, columns, where))
    return shapes


async def write(url: str, draw: random.Random, tables: tuple[str, ...], stopping: asyncio.Event) -> None:
    """
    Write to the tables until told to stop; what the tables do not take at the moment is forgotten.
    """
    async with await psycopg.AsyncConnection.connect(url) as connection:
        while not stopping.is_set():
            table = sql.Identifier(draw.choice(tables))
            first, second = draw.randrange(60), draw.randrange(7)
            statement, values = draw.choice(
                (
                    ("INSERT INTO {} (id, a, b, m) VALUES (%s, %s, chr(97 + %s), 'up')", (first, second % 4, second)),
                    ("UPDATE {} SET b = chr(97 + %s), m = 'down' WHERE id %% 5 = %s", (second, first % 5)),
                    ("UPDATE {} SET a = (a + 1) %% 4 WHERE id %% 7 = %s", (second,)),
                    ("UPDATE {} SET id = id + 100 WHERE id = %s", (first,)),
                    ("UPDATE {} SET b = NULL, m = 'up' WHERE id = %s", (first,)),
                    ("DELETE FROM {} WHERE id %% 11 = %s", (second,)),
                )
            )
            try:
                for _ in range(draw.choice((1, 1, 3))):
                    await connection.execute(sql.SQL(statement).format(table), values)
                await connection.commit()
            except psycopg.Error:
                await connection.rollback()
            await asyncio.sleep(0.01)


def some_change(draw: random.Random, number: int) -> list[str]:
    """
    Draw a change; more than one transaction where a table is something else in between.
    """
    t = draw.choice(CHANGED)
    return draw.choice(
        (
            [f"ALTER TABLE {t} ADD COLUMN more_{number} text DEFAULT 'new'"],
            [f"ALTER TABLE {t} ADD COLUMN brief int", f"ALTER TABLE {t} DROP COLUMN brief"],
            [
                f"ALTER TABLE {t} DROP COLUMN b, ADD COLUMN b varchar(30) DEFAULT 'b'",
                f"ALTER TABLE {t} ALTER b TYPE text",
            ],
            [f"ALTER TABLE {t} RENAME COLUMN b TO c", f"ALTER TABLE {t} RENAME COLUMN c TO b"],
            [f"ALTER TABLE {t} ALTER a TYPE bigint", f"ALTER TABLE {t} ALTER a TYPE int"],
            [f"ALTER TABLE {t} ALTER b TYPE varchar(20)", f"ALTER TABLE {t} ALTER b TYPE text"],
            [f"ALTER TABLE {t} RENAME TO away", f"ALTER TABLE away RENAME TO {t}"],
            [f"DROP TABLE {t}; {_TABLE.format(t)}; {_FILL.format(t)}"],
            [f"DROP TABLE {t}", f"{_TABLE.format(t)}; {_FILL.format(t)}"],
            [f"TRUNCATE {t}; {_FILL.format(t)}", f"TRUNCATE {t}", _FILL.format(t)],
            [f"ALTER TABLE {t} REPLICA IDENTITY DEFAULT; UPDATE {t} SET a = a + 1 WHERE id % 2 = 0"],
            [f"ALTER TYPE mood ADD VALUE 'other_{number}'"],
            ["ALTER TYPE shade RENAME VALUE 'light' TO 'bright'", "ALTER TYPE shade RENAME VALUE 'bright' TO 'light'"],
            [
                f"CREATE TABLE attached_{number} (LIKE parted INCLUDING ALL)",
                f"INSERT INTO attached_{number} SELECT g, {4 + number}, 'at', 'up' FROM generate_series(1, 5) g",
                f"ALTER TABLE parted ATTACH PARTITION attached_{number} FOR VALUES IN ({4 + number})",
                f"UPDATE parted SET b = 'later' WHERE a = {4 + number}",
                f"ALTER TABLE parted DETACH PARTITION attached_{number}",
            ],
            [
                f"CREATE TABLE born_{number} PARTITION OF parted FOR VALUES IN ({1000 + number})",
                f"INSERT INTO parted SELECT g, {1000 + number}, 'born', 'up' FROM generate_series(1, 5) g",
                f"DROP TABLE born_{number}",
            ],
            [
                "ALTER TABLE parted DETACH PARTITION parted_rest; UPDATE parted_rest SET b = 'alone'",
                "ALTER TABLE parted ATTACH PARTITION parted_rest FOR VALUES IN (1, 2, 3)",
            ],
            ["TRUNCATE parted_rest_1", "INSERT INTO parted VALUES (500, 1, 'x', 'up') ON CONFLICT DO NOTHING"],
        )
    )


async def change(url: str, draw: random.Random) -> None:
    """
    Change the tables, as somebody does who waits for no lock for long and tries again.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SET lock_timeout = '2s'")
        for number in range(CHANGES):
            for step in some_change(draw, number):
                while True:
                    try:
                        await connection.execute(sql.SQL(step))
                    except (
                        psycopg.errors.LockNotAvailable,
                        psycopg.errors.DeadlockDetected,
                        psycopg.errors.SerializationFailure,
                    ):
                        continue
                    break
                await asyncio.sleep(draw.random() * 2 * PAUSE_S)


@pytest.mark.parametrize("seed", [2])
async def test_shapes_equal_the_query_whatever_becomes_of_their_tables(
    database: ThrowawayDatabase, tmp_path: Path, seed: int
) -> None:
    """
    In the end every client's rows are the query's; nothing counts as a fault, and shapes on other tables never notice.

    Scenarios H13, H14, H15, H16, H22.
    """
    draw = random.Random(seed)
    database.execute("CREATE TYPE mood AS ENUM ('up', 'down'); CREATE TYPE shade AS ENUM ('light', 'dark')")
    for table in (*CHANGED, *LEFT_ALONE):
        database.execute(f"{_TABLE.format(table)}; {_FILL.format(table)}")
    database.execute("ALTER TABLE gamma ADD COLUMN s shade DEFAULT 'light'")
    database.execute(f"{_PARTED}; INSERT INTO parted SELECT g, g % 4, 'p', 'up' FROM generate_series(1, 20) g")
    stopping = asyncio.Event()
    async with (
        Service(database.url, tmp_path) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        shapes = {table: some_shapes(draw, table, 5) for table in (*CHANGED, "parted", "parted_rest", "parted_rest_2")}
        for some in shapes.values():
            audience.join(*some[:3], make_client=PersistentClient)
        undisturbed = [shape for table in LEFT_ALONE for shape in some_shapes(draw, table, 4)]
        audience.join(*undisturbed, name="undisturbed")
        tables = (*CHANGED, *LEFT_ALONE, "parted", "parted_rest")
        writers = [
            group.create_task(write(database.url, random.Random(f"{seed}/{number}"), tables, stopping))
            for number in range(2)
        ]
        await change(database.url, draw)
        for some in shapes.values():
            audience.join(*some[3:], name="late", make_client=PersistentClient)
        stopping.set()
        await asyncio.gather(*writers)
        await audience.agree(timeout_s=150.0, is_patient=True)
        assert {client.rotation_count for client in audience.clients if client.name == "undisturbed"} == {0}
        status = await service.status()
        assert (status["shed_count"], status["epoch"], status["problems"]) == (0, 1, [])
