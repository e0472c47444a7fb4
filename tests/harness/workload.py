"""
A random workload over tables of every kind, and what each shape on them should hold.

Everything is drawn from one seeded generator per writer, so a failing history can be looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, LiteralString

import psycopg
from psycopg import sql

SCHEMA: Final[LiteralString] = """
CREATE TYPE mood AS ENUM ('calm', 'wild', 'so-so');
CREATE TYPE point3 AS (x int, y int, label text);
CREATE TABLE items (
    id bigint PRIMARY KEY, i2 smallint, i4 int, n numeric(12, 3), f4 real, f8 double precision, b boolean, t text,
    v varchar(40), c char(6), by bytea, d date, ti time, tz timestamptz, ts timestamp, iv interval, u uuid, j json,
    jb jsonb, ai int[], at text[], m mood, am mood[], p point3, ip inet, r int4range, mo money
);
CREATE TABLE "Odd, Table" ("Key A" text, "key/b" int, "va""lue" text, PRIMARY KEY ("key/b", "Key A"));
CREATE TABLE keyless (a int, b text, c timestamptz);
CREATE TABLE toasted (id int PRIMARY KEY, big text, small int);
ALTER TABLE toasted ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE parted (id int, region text, amount int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_north PARTITION OF parted FOR VALUES IN ('north');
CREATE TABLE parted_south (amount int, region text NOT NULL, id int NOT NULL, PRIMARY KEY (id, region));
ALTER TABLE parted ATTACH PARTITION parted_south FOR VALUES IN ('south');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
CREATE TABLE noise (id bigserial PRIMARY KEY, t text);
"""


@dataclass(frozen=True, slots=True)
class ShapeUnderTest:
    """
    A shape and the query it must equal.
    """

    table: str
    columns: tuple[str, ...] = ()
    where: str | None = None
    params: tuple[str, ...] = ()


SHAPES: Final = (
    ShapeUnderTest("items"),
    ShapeUnderTest("items", ("id", "t", "n")),
    ShapeUnderTest('"Odd, Table"'),
    ShapeUnderTest("keyless"),
    ShapeUnderTest("toasted"),
    ShapeUnderTest("parted"),
    ShapeUnderTest("parted_north"),
)

WHERE_SHAPES: Final = (
    ShapeUnderTest("items", where="i4 % 2 = 0"),
    ShapeUnderTest("items", ("id", "t"), "i4 > $1 AND (b OR v IS NULL)", ("0",)),
    ShapeUnderTest("items", where="id % 3 = 1"),
    ShapeUnderTest("items", where="m = 'calm'"),
    ShapeUnderTest("items", where="m IN ('wild', 'so-so') AND i4 < 1000000"),
    ShapeUnderTest("items", where="n = 0.5 OR n > -123456789.125"),
    ShapeUnderTest("items", where="t LIKE '%a%' AND t NOT LIKE $1", params=("%\\%",)),
    ShapeUnderTest("items", where="upper(t) LIKE '%Ä%' OR v ILIKE '%z%'"),
    ShapeUnderTest("items", ("id",), "b IS NOT TRUE"),
    ShapeUnderTest("items", where="1 = ANY (ai) AND c IN ('a', 'abc')"),
    ShapeUnderTest("items", where="ai @> '{3}' OR d = '2024-02-29'"),
    ShapeUnderTest("items", where="tz < '2000-01-01 00:00:00Z' OR f8 > 3"),
    ShapeUnderTest("items", where="i2 IS NULL AND i4 IS NOT NULL"),
    ShapeUnderTest("items", where="100 / i2 < 1 AND i2 <> 0"),
    ShapeUnderTest('"Odd, Table"', where='"key/b" IN (1, 3, 5, 7, 9, 11, 13)'),
    ShapeUnderTest('"Odd, Table"', where="\"Key A\" LIKE '%a%'"),
    ShapeUnderTest('"Odd, Table"', where='"va""lue" <> \'\''),
    ShapeUnderTest("keyless", where="b IS NULL AND a % 2 = 1"),
    ShapeUnderTest("keyless", ("a", "b", "c"), "c > $1", ("2026-01-01T00:00:00Z",)),
    ShapeUnderTest("toasted", where="small > 2"),
    ShapeUnderTest("toasted", where="big LIKE 'xyz%' AND small % 3 <> 1"),
    ShapeUnderTest("parted", where="region = 'north'"),
    ShapeUnderTest("parted", where="region IN ('south', 'elsewhere') AND amount > 1"),
    ShapeUnderTest("parted_south", where="amount % 2 = 0"),
)
"""Conditions of every kind that is looked up differently, most of which updates of the workload move rows in and out of."""

_ALPHABET: Final = string.ascii_letters + string.digits + " '\"\\/\t\n\r\x01{}[],äß漢🙂"


def _text(draw: random.Random, length_max: int = 20) -> str:
    return "".join(draw.choices(_ALPHABET, k=draw.randrange(length_max)))


@dataclass
class Workload:
    """
    Writers that change the tables until told to stop.

    Attributes:
        url: of the database.
        seed: of everything random in it.
        writer_count: how many connections write at once.
        pause_s: how long a writer rests between two transactions, on average.
        large_rows: rows of the occasional large transaction.
    """

    url: str
    seed: int
    writer_count: int = 3
    pause_s: float = 0.005
    large_rows: int = 1500
    commit_count: int = 0
    on_commit: Callable[[], Awaitable[None]] | None = None
    _next_id: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._writing = asyncio.Semaphore(self.writer_count)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """
        Hold all writers between two transactions for as long as the block lasts.
        """
        for _ in range(self.writer_count):
            await self._writing.acquire()
        try:
            yield
        finally:
            for _ in range(self.writer_count):
                self._writing.release()

    async def create_schema(self) -> None:
        """
        Make the tables, with a few rows each.
        """
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(SCHEMA)
        draw = random.Random(self.seed)
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            for _ in range(40):
                await self._operation(connection, draw)
            await connection.commit()

    def committed(self, count: int) -> asyncio.Event:
        """
        Give an event that is set when so many more transactions have been committed.
        """
        reached = asyncio.Event()
        target = self.commit_count + count

        async def look() -> None:
            if self.commit_count >= target:
                reached.set()

        self.on_commit = look
        return reached

    def stop(self) -> None:
        """
        Let the writers end after their transaction.
        """
        self._stopping.set()

    async def run(self) -> None:
        """
        Write until stopped; a lost connection is made anew, its transaction is forgotten.
        """
        async with asyncio.TaskGroup() as group:
            for index in range(self.writer_count):
                group.create_task(self._write(random.Random(f"{self.seed}/{index}")), name=f"writer {index}")

    async def _write(self, draw: random.Random) -> None:
        while not self._stopping.is_set():
            try:
                async with await psycopg.AsyncConnection.connect(self.url) as connection:
                    while not self._stopping.is_set():
                        try:
                            async with self._writing:
                                await self._transaction(connection, draw)
                        except psycopg.errors.OperationalError:
                            raise
                        except psycopg.Error:
                            await connection.rollback()
                        if self.on_commit is not None:
                            await self.on_commit()
                        await self._rest(draw)
            except psycopg.OperationalError:
                await self._rest(draw)

    async def _rest(self, draw: random.Random) -> None:
        try:
            async with asyncio.timeout(draw.random() * 2 * self.pause_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _transaction(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        if draw.random() < 0.02:
            first = self._take_ids(self.large_rows)
            await connection.execute(
                "INSERT INTO items (id, t, i4) SELECT g, repeat('x', 50) || g, g FROM generate_series(%s::bigint, %s::bigint) g",
                (first, first + self.large_rows - 1),
            )
            await connection.execute(
                "DELETE FROM items WHERE id >= %s AND id %% 3 <> 0 AND id < %s", (first, first + self.large_rows)
            )
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            if draw.random() < 0.1:
                await connection.execute("SAVEPOINT here")
                await self._operation(connection, draw)
                if draw.random() < 0.5:
                    await connection.execute("ROLLBACK TO SAVEPOINT here")
                else:
                    await connection.execute("RELEASE SAVEPOINT here")
            else:
                await self._operation(connection, draw)
        if draw.random() < 0.08:
            await connection.rollback()
        else:
            await connection.commit()
            self.commit_count += 1

    def _take_ids(self, count: int) -> int:
        first = self._next_id + 1
        self._next_id += count
        return first

    async def _operation(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        operation = draw.choice(
            (self._items, self._items, self._odd, self._keyless, self._toasted, self._parted, self._noise)
        )
        await operation(connection, draw)

    async def _items(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        some_id = draw.randint(1, max(1, self._next_id))
        match draw.randrange(7):
            case 0 | 1 | 2:
                await self._insert_item(connection, draw)
            case 3:
                await connection.execute(
                    "UPDATE items SET i4 = coalesce(i4, 0) + 1, t = %s, n = n + 1.5 WHERE id = %s",
                    (_text(draw), some_id),
                )
            case 4:
                await connection.execute("UPDATE items SET d = d WHERE id BETWEEN %s AND %s", (some_id, some_id + 3))
            case 5:
                await connection.execute("UPDATE items SET id = %s WHERE id = %s", (self._take_ids(1), some_id))
            case _:
                await connection.execute("DELETE FROM items WHERE id BETWEEN %s AND %s", (some_id, some_id + 2))

    async def _insert_item(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        def maybe(value: object) -> object:
            return None if draw.random() < 0.25 else value

        values: dict[str, object] = {
            "id": self._take_ids(1),
            "i2": maybe(draw.randint(-32768, 32767)),
            "i4": maybe(draw.randint(-(2**31), 2**31 - 1)),
            "n": maybe(draw.choice(("0.5", "-123456789.125", "NaN", "0.000"))),
            "f4": maybe(draw.choice(("1.5", "1e-30", "Infinity", "0.1"))),
            "f8": maybe(draw.choice(("3.141592653589793", "-Infinity", "NaN", "1e300"))),
            "b": maybe(draw.random() < 0.5),
            "t": maybe(_text(draw, 60)),
            "v": maybe(_text(draw, 39)),
            "c": maybe(draw.choice(("a", "abc", "", "sechs6"))),
            "by": maybe(draw.randbytes(draw.randrange(40))),
            "d": maybe(draw.choice(("2024-02-29", "0044-03-15 BC", "infinity"))),
            "ti": maybe("10:00:00.5"),
            "tz": maybe(draw.choice(("2024-05-01 10:00:00+02", "1999-12-31 23:59:59.999999Z", "-infinity"))),
            "ts": maybe("2024-05-01 10:00:00.123"),
            "iv": maybe(draw.choice(("1 day 2 hours", "-1 year 3 mons", "00:00:00.001"))),
            "u": maybe(f"{draw.getrandbits(128):032x}"),
            "j": maybe('{"b":  1, "a": [null, "x\\ny"]}'),
            "jb": maybe('{"b":  1, "a": [null, "x\\ny"], "ü": "\\u00e9"}'),
            "ai": maybe([1, None, 3]),
            "at": maybe([_text(draw), None, "NULL", 'a"b\\c,{}']),
            "m": maybe(draw.choice(("calm", "wild", "so-so"))),
            "am": maybe("{calm,so-so,NULL}"),
            "p": maybe('(1,,"a ""b"", c")'),
            "ip": maybe(draw.choice(("10.0.0.0/8", "2001:db8::/32"))),
            "r": maybe("[1,5)"),
            "mo": maybe("12.34"),
        }
        statement = sql.SQL("INSERT INTO items ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, values)), sql.SQL(", ").join([sql.Placeholder()] * len(values))
        )
        await connection.execute(statement, list(values.values()))

    async def _odd(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        key = (_text(draw, 4), draw.randrange(20))
        match draw.randrange(4):
            case 0 | 1:
                await connection.execute(
                    'INSERT INTO "Odd, Table" VALUES (%s, %s, %s) ON CONFLICT ("Key A", "key/b") '
                    'DO UPDATE SET "va""lue" = excluded."va""lue"',
                    (*key, _text(draw)),
                )
            case 2:
                await connection.execute(
                    'UPDATE "Odd, Table" SET "Key A" = "Key A" || %s WHERE "key/b" = %s', (draw.choice("ab/"), key[1])
                )
            case _:
                await connection.execute('DELETE FROM "Odd, Table" WHERE "key/b" = %s', (key[1],))

    async def _keyless(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        # Rows are distinct, because a row is named by all its columns.
        match draw.randrange(4):
            case 0 | 1:
                unique = self._take_ids(1)
                other = None if draw.random() < 0.3 else f"{_text(draw)}{unique}"
                await connection.execute("INSERT INTO keyless VALUES (%s, %s, now())", (unique, other))
            case 2:
                await connection.execute(
                    "UPDATE keyless SET c = c + interval '1 day' WHERE a %% 5 = %s", (draw.randrange(5),)
                )
            case _:
                await connection.execute("DELETE FROM keyless WHERE a %% 7 = %s", (draw.randrange(7),))

    async def _toasted(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        some_id = draw.randrange(30)
        match draw.randrange(4):
            case 0:
                await connection.execute(
                    "INSERT INTO toasted VALUES (%s, repeat(%s, 3000), 0) ON CONFLICT (id) DO NOTHING",
                    (some_id, draw.choice(("xyz", 'a"\\'))),
                )
            case 1 | 2:
                await connection.execute(
                    "UPDATE toasted SET small = small + 1 WHERE id BETWEEN %s AND %s", (some_id, some_id + 2)
                )
            case _:
                await connection.execute("DELETE FROM toasted WHERE id = %s", (some_id,))

    async def _parted(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        some_id = draw.randrange(60)
        region = draw.choice(("north", "south", "elsewhere"))
        match draw.randrange(5):
            case 0 | 1:
                await connection.execute(
                    "INSERT INTO parted VALUES (%s, %s, 1) ON CONFLICT (id, region) DO UPDATE SET amount = parted.amount + 1",
                    (some_id, region),
                )
            case 2:
                await connection.execute("UPDATE parted SET amount = amount + 1 WHERE id = %s", (some_id,))
            case 3:
                # Moves rows between partitions: a delete in one and an insert in the other.
                await connection.execute(
                    "UPDATE parted SET region = %s WHERE id = (SELECT min(id) FROM parted WHERE id >= %s AND region <> %s)"
                    " AND NOT EXISTS (SELECT FROM parted p WHERE p.id = parted.id AND p.region = %s) AND region <> %s",
                    (region, some_id, region, region, region),
                )
            case _:
                await connection.execute("DELETE FROM parted WHERE id = %s AND region = %s", (some_id, region))

    async def _noise(self, connection: psycopg.AsyncConnection, draw: random.Random) -> None:
        await connection.execute("INSERT INTO noise (t) VALUES (%s)", (_text(draw),))


DISPLAY_SETTINGS: Final[LiteralString] = (
    "SET bytea_output = 'hex'; SET DateStyle = 'ISO, DMY'; SET TimeZone = 'UTC';"
    " SET extra_float_digits = 1; SET IntervalStyle = 'iso_8601'"
)


async def expected_rows(url: str, shape: ShapeUnderTest) -> tuple[int, list[tuple[tuple[str, str | None], ...]]]:
    """
    Query what the shape should hold.

    Returns:
        A WAL position by which every row in the result was written, and the rows as sorted (column, text) pairs.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(DISPLAY_SETTINGS)
        position = await (await connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")).fetchone()
        assert position is not None
        described = await connection.execute(f"SELECT * FROM {shape.table} LIMIT 0")
        assert described.description is not None
        names = shape.columns or tuple(column.name for column in described.description)
        # char(n) keeps its padding, which a plain cast to text would remove; booleans come as the stream prints them.
        fields = ", ".join(
            f"""CASE pg_typeof("{name.replace('"', '""')}")::text
                WHEN 'character' THEN rpad("{name.replace('"', '""')}"::text, 6)
                ELSE "{name.replace('"', '""')}"::text END"""
            for name in names
        )
        where = "" if shape.where is None else f" WHERE {_with_literals(shape.where, shape.params)}"
        rows = await (await connection.execute(f"SELECT {fields} FROM {shape.table}{where}")).fetchall()
    return int(position[0]), sorted((normalise(dict(zip(names, row, strict=True))) for row in rows), key=repr)


def _with_literals(where: str, params: tuple[str, ...]) -> str:
    """
    Put the parameters into a condition as literals of unknown type, as which they are meant.
    """
    literals = ["'{}'".format(value.replace("'", "''")) for value in params]
    return re.sub(r"\$(\d+)", lambda match: literals[int(match[1]) - 1], where)


def normalise(row: dict[str, str | None]) -> tuple[tuple[str, str | None], ...]:
    """
    Bring a row into a form in which equal rows are equal: booleans have two spellings on the wire.
    """
    spelled = {
        name: {"t": "true", "f": "false"}.get(value, value) if name == "b" and value else value
        for name, value in row.items()
    }
    return tuple(sorted(spelled.items()))
