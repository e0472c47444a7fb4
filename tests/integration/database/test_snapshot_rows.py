from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from harness.database import connected, define, drain, find, until
from penstock.database.queries import DISPLAY_SETTINGS, begin_snapshot, copy_snapshot
from penstock.database.snapshots import PostgresSnapshots
from penstock.errors import ConnectionLostError, RequestError, ShapeError
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import LogMode
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


def take(
    url: str, name: str, columns: tuple[str, ...] = (), schema: str = "public", **fields: Any
) -> tuple[list[dict[str, Any]], SnapshotBounds]:
    """
    The rows of a snapshot of a table, parsed.
    """

    async def scenario() -> tuple[list[dict[str, Any]], SnapshotBounds]:
        async with connected(url) as pool:
            definition = define(await find(pool, name, schema), columns, **fields)
            async with PostgresSnapshots(pool).open(definition) as snapshot:
                blocks = [block async for block in snapshot.blocks()]
            assert all(block.endswith(b"\n") for block in blocks)
            assert pool.in_use_count == 0
            assert pool.idle_count == 1, "the connection was not given back in order"
            return [json.loads(line) for line in b"".join(blocks).splitlines()], snapshot.bounds

    return asyncio.run(scenario())


TYPES = {
    "small": ("int2", ["'-32768'", "'1'"]),
    "number": ("int4", ["'-12'"]),
    "big": ("int8", ["'9223372036854775807'"]),
    "real": ("float4", ["'0.1'", "'NaN'", "'-Infinity'", "'1e-30'"]),
    "double": ("float8", ["'0.1'", "'NaN'", "'Infinity'", "'-0'", "'1e300'"]),
    "decimal": ("numeric", ["'1.50'", "'NaN'", "'123456789012345678901234567890.5'"]),
    "scaled": ("numeric(6,2)", ["'1.5'"]),
    "cash": ("money", ["'1234.5'"]),
    "txt": (
        "text",
        ["'it''s'", r"'a\"b\\c/d'", r"E'tab\tnl\ncr\rbs\\ \x01\x02\x1f\x7f'", "''", "'Ünïcode 😀 \u2028'", r"'\.'"],
    ),
    "vc": ("varchar(10)", ["'a,b'"]),
    "padded": ("char(5)", ["'ab'", "'ab  '", "''"]),
    "one": ('"char"', ["'x'"]),
    "title": ("name", ["'n\"q'"]),
    "bin": ("bytea", [r"'\x0001ff'", "''"]),
    "id128": ("uuid", ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"]),
    "js": ("json", ['\'{"a" :  "x\\"y"}\'', "'null'"]),
    "jb": ("jsonb", ['\'{"b": [1, null], "a": "ü"}\'']),
    "day": ("date", ["'2024-05-01'", "'infinity'", "'0044-03-15 BC'"]),
    "clock": ("time", ["'10:00:00.5'"]),
    "clockz": ("timetz", ["'10:00:00+02'"]),
    "stamp": ("timestamp", ["'2024-05-01 10:00:00'", "'-infinity'"]),
    "stampz": ("timestamptz(3)", ["'2024-05-01 10:00:00.1239+02'"]),
    "span": ("interval", ["'1 day 2 hours'", "'-1 mon'", "'0'"]),
    "net": ("cidr", ["'10.0.0.0/8'", "'::1/128'"]),
    "mac": ("macaddr", ["'08:00:2b:01:02:03'"]),
    "ints": ("int4[]", ["'{1,2,NULL}'", "'{}'", "'[0:1]={1,2}'", "'{{1,2},{3,4}}'"]),
    "texts": ("text[]", [r"""'{"a b","q\"q","b\\s",NULL,"NULL"}'"""]),
    "flags": ("bool[]", ["'{t,f}'"]),
    "mood": ("mood", ["'so so'", "'say \"hi\"'"]),
    "pair": ("pair", ["ROW(1.1, 'x \"y\"')", "ROW(NULL, NULL)"]),
    "pairs": ("pair[]", ["ARRAY[ROW(1, 'a')::pair]"]),
    "short": ("short", ["'abc'"]),
    "code": ("code", ["'ab'"]),
    "yes": ("yes", ["true", "false"]),
    "span4": ("int4range", ["'[1,5)'", "'empty'"]),
    "period": ("tstzrange", ["'[2024-01-01 00:00+00,)'"]),
    "spot": ("point", ["'(1.5,2)'"]),
    "words": ("tsvector", ["'a fat cat'"]),
    "bits": ("bit(3)", ["B'101'"]),
    "vbits": ("varbit", ["B''"]),
    "ident": ("oid", ["'4294967295'"]),
    "place": ("pg_lsn", ["'16/B374D848'"]),
}

MAKE_TYPES = """
CREATE TYPE mood AS ENUM ('so so', 'say "hi"');
CREATE TYPE pair AS (x numeric, y text);
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN code AS char(4);
CREATE DOMAIN yes AS boolean;
"""


def streamed_rows(database: ThrowawayDatabase, slot: str) -> Iterator[list[str | None]]:
    """
    The texts of all rows that the replication stream holds for inserts (protocol chapter "Logical Replication Message
    Formats").
    """
    with database.connect() as connection:
        for name, value in DISPLAY_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        messages = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes"
            "(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'p')",
            (slot,),
        ).fetchall()
    for (message,) in messages:
        if message[:1] != b"I":
            continue
        (count,) = struct.unpack_from(">H", message, 6)
        at = 8
        row: list[str | None] = []
        for _ in range(count):
            kind = message[at : at + 1]
            at += 1
            if kind == b"n":
                row.append(None)
                continue
            (length,) = struct.unpack_from(">I", message, at)
            row.append(message[at + 4 : at + 4 + length].decode())
            at += 4 + length
        yield row


@pytest.mark.parametrize("flavour", ["system", "bundled"])
def test_every_type_reads_as_in_the_stream(flavour: str, request: pytest.FixtureRequest) -> None:
    """
    The text of a value in a snapshot is the text that the replication stream carries for the same row (C14, C27).
    """
    if flavour == "bundled":
        server: ThrowawayPostgres = request.getfixturevalue("bundled_postgres")
        database = server.create_database("every_type")
    else:
        database = request.getfixturevalue("database")
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in TYPES.items())
    database.execute(MAKE_TYPES)
    database.execute(f"CREATE TABLE items (id int PRIMARY KEY, {columns}); CREATE PUBLICATION p FOR TABLE items")
    slot = f"slot_{database.name}"
    database.query("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
    try:
        row_count = max(len(values) for _, values in TYPES.values())
        for number in range(row_count):
            values = ", ".join(
                f"({values[number]})::{kind}" if number < len(values) else "NULL" for kind, values in TYPES.values()
            )
            database.execute(f"INSERT INTO items VALUES ({number}, {values})")
        database.execute(f"INSERT INTO items (id) VALUES ({row_count})")
        rows, _ = take(database.url, "items")
        expected = [dict(zip(["id", *TYPES], row, strict=True)) for row in streamed_rows(database, slot)]
    finally:
        if flavour == "bundled":
            database.drop()
    assert len(rows) == row_count + 1
    assert [row["value"] for row in rows] == expected
    assert [list(row["value"]) for row in rows] == [sorted(["id", *TYPES])] * len(rows)


def test_values_that_differ_from_the_stream_by_contract(database: ThrowawayDatabase) -> None:
    """
    Booleans are words and addresses carry their mask, as a cast to text writes them (C14).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, b bool, i inet)")
    database.execute("INSERT INTO items VALUES (1, true, '10.0.0.1'), (2, false, '::1/64'), (3, NULL, NULL)")
    rows, _ = take(database.url, "items")
    assert [(row["value"]["b"], row["value"]["i"]) for row in rows] == [
        ("true", "10.0.0.1/32"),
        ("false", "::1/64"),
        (None, None),
    ]


def test_an_element_has_exactly_the_bytes_of_the_protocol(database: ThrowawayDatabase) -> None:
    """
    Members come in the order that clients and caches know, without spaces.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, title text); INSERT INTO items VALUES (1, 'x')")

    async def scenario() -> bytes:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            return await drain(PostgresSnapshots(pool), definition)

    assert asyncio.run(scenario()) == (
        b'{"key":"\\"public\\".\\"items\\"/\\"1\\"","value":{"id":"1","title":"x"},'
        b'"headers":{"operation":"insert","relation":["public","items"]}}\n'
    )


def test_keys_double_slashes_and_keep_quotes(database: ThrowawayDatabase) -> None:
    """
    A key names schema, table and the values of the primary key in the key's order.
    """
    database.execute("CREATE TABLE items (a text, b int, c text, PRIMARY KEY (c, a))")
    values = [("x/y", 1, 'q"r'), ("", 2, "s\\t"), ("ü", 3, "//")]
    for row in values:
        database.execute("INSERT INTO items VALUES (%s, %s, %s)", *row)
    rows, _ = take(database.url, "items")
    assert [row["key"] for row in rows] == [
        '"public"."items"/"q"r"/"x//y"',
        '"public"."items"/"s\\t"/""',
        '"public"."items"/"////"/"ü"',
    ]


def test_without_a_primary_key_all_columns_are_the_key(database: ThrowawayDatabase) -> None:
    """
    NULL is a bare underscore, so it differs from a text of one; a row of NULLs is not NULL (C18).
    """
    database.execute("CREATE TYPE pair AS (x int, y int); CREATE TABLE items (z text, a bool, p pair, n inet)")
    database.execute("INSERT INTO items VALUES ('_', true, ROW(NULL, NULL), '10.0.0.1'), (NULL, false, NULL, NULL)")
    rows, _ = take(database.url, "items")
    assert [row["key"] for row in rows] == [
        '"public"."items"/"_"/"t"/"(,)"/"10.0.0.1"',
        '"public"."items"/_/"f"/_/_',
    ]


def test_quoted_names_survive(database: ThrowawayDatabase) -> None:
    """
    Names with quotes, backslashes, percent signs, spaces and other scripts are names like others (C23).
    """
    database.execute(
        """
        CREATE SCHEMA "My ""Schema";
        CREATE TABLE "My ""Schema"."Weird\\ % 'Tablé" ("Id" int PRIMARY KEY, "a""b\\'c %s $1" text, "select" int);
        INSERT INTO "My ""Schema"."Weird\\ % 'Tablé" VALUES (1, 'x', 2);
        """
    )
    rows, _ = take(database.url, "Weird\\ % 'Tablé", schema='My "Schema')
    assert rows == [
        {
            "key": '"My ""Schema"."Weird\\ % \'Tablé"/"1"',
            "value": {"Id": "1", "a\"b\\'c %s $1": "x", "select": "2"},
            "headers": {"operation": "insert", "relation": ['My "Schema', "Weird\\ % 'Tablé"]},
        }
    ]


def test_selected_columns_and_clause(database: ThrowawayDatabase) -> None:
    """
    Only the rows of the clause and the columns asked for leave the database.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, a text, b text)")
    database.execute("INSERT INTO items SELECT i, 'a' || i, 'b%' FROM generate_series(1, 5) i")
    rows, _ = take(database.url, "items", columns=("id", "a"), where="id > 3 AND b LIKE 'b\\%' -- the end")
    assert [row["value"] for row in rows] == [{"a": "a4", "id": "4"}, {"a": "a5", "id": "5"}]


def test_a_wide_table(database: ThrowawayDatabase) -> None:
    """
    More columns than a function takes arguments.
    """
    names = [f"c{number:04}" for number in range(1200)]
    database.execute(f"CREATE TABLE items (id int PRIMARY KEY, {', '.join(f'{name} text' for name in names)})")
    database.execute("INSERT INTO items (id, c0000, c1199) VALUES (1, 'first', 'last')")
    rows, _ = take(database.url, "items")
    expected = dict.fromkeys(names) | {"id": "1", "c0000": "first", "c1199": "last"}
    assert rows[0]["value"] == expected


def test_partitions_are_read_through_their_root(database: ThrowawayDatabase) -> None:
    """
    A partitioned table has the rows of all partitions under its own name; a partition is a table of its own.
    """
    database.execute(
        """
        CREATE TABLE items (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE items_eu PARTITION OF items FOR VALUES IN ('eu') PARTITION BY RANGE (id);
        CREATE TABLE items_eu_1 PARTITION OF items_eu FOR VALUES FROM (0) TO (10);
        CREATE TABLE items_us PARTITION OF items FOR VALUES IN ('us');
        INSERT INTO items VALUES (1, 'eu'), (2, 'us');
        """
    )
    rows, _ = take(database.url, "items")
    assert sorted(row["key"] for row in rows) == ['"public"."items"/"1"/"eu"', '"public"."items"/"2"/"us"']
    rows, _ = take(database.url, "items_us")
    assert [row["headers"]["relation"] for row in rows] == [["public", "items_us"]]


def test_inheriting_tables_are_not_read(database: ThrowawayDatabase) -> None:
    """
    Rows of a child table belong to the child, as in the stream.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE more () INHERITS (items)")
    database.execute("INSERT INTO items VALUES (1); INSERT INTO more VALUES (2)")
    rows, _ = take(database.url, "items")
    assert [row["value"]["id"] for row in rows] == ["1"]


def test_generated_columns_are_rendered(database: ThrowawayDatabase) -> None:
    """
    A stored generated column is a column like others for a snapshot.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    database.execute("INSERT INTO items VALUES (4)")
    rows, _ = take(database.url, "items")
    assert rows[0]["value"] == {"id": "4", "twice": "8"}


def test_display_settings_of_the_database_do_not_matter(database: ThrowawayDatabase) -> None:
    """
    The texts do not depend on how the database or the role is set up, nor is the user's timeout ours.
    """
    database.execute(
        f"""
        ALTER DATABASE "{database.name}" SET DateStyle = 'SQL, MDY';
        ALTER DATABASE "{database.name}" SET TimeZone = 'Asia/Tokyo';
        ALTER DATABASE "{database.name}" SET IntervalStyle = 'sql_standard';
        ALTER DATABASE "{database.name}" SET bytea_output = 'escape';
        ALTER DATABASE "{database.name}" SET extra_float_digits = -5;
        ALTER DATABASE "{database.name}" SET standard_conforming_strings = off;
        ALTER DATABASE "{database.name}" SET client_encoding = 'LATIN1';
        ALTER DATABASE "{database.name}" SET statement_timeout = '300ms';
        CREATE FUNCTION slow() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT pg_sleep(0.5); SELECT 0.1';
        CREATE TABLE items (id int PRIMARY KEY, t timestamptz, i interval, b bytea, f float8, s text);
        INSERT INTO items VALUES (1, '2024-05-01 10:00:00+00', '1 day', '\\x01', '0.30000000000000004', '😀');
        """
    )
    rows, _ = take(database.url, "items", where="public.slow() < 1")
    assert rows[0]["value"] == {
        "id": "1",
        "t": "2024-05-01 10:00:00+00",
        "i": "P1D",
        "b": "\\x01",
        "f": "0.30000000000000004",
        "s": "😀",
    }


def test_changes_only_reads_bounds_and_no_rows(database: ThrowawayDatabase) -> None:
    """
    A log that begins with nothing still needs to know where it begins.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")
    rows, bounds = take(database.url, "items", log=LogMode.CHANGES_ONLY)
    assert rows == []
    assert bounds.horizon.value > 0


def test_bounds_say_what_is_seen(database: ThrowawayDatabase) -> None:
    """
    A transaction that runs while the snapshot is taken is not visible by its bounds, and not among the rows.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    with database.connect() as running:
        running.execute("BEGIN")
        running.execute("INSERT INTO items VALUES (1)")
        (xid,) = running.execute("SELECT pg_current_xact_id()::text::int8 & 4294967295").fetchone() or (0,)
        database.execute("INSERT INTO items VALUES (2)")
        rows, bounds = take(database.url, "items")
        running.execute("COMMIT")
    assert [row["value"]["id"] for row in rows] == ["2"]
    assert not bounds.snapshot.sees(int(xid))


@pytest.mark.usefixtures("each_core")
def test_a_copy_is_read_as_libpq_reads_it(database: ThrowawayDatabase) -> None:
    """
    Rows of every type, short and long, arrive byte for byte as libpq's own reader has them.
    """
    names = [name for name in TYPES if name != "txt"]
    database.execute(MAKE_TYPES)
    database.execute(
        f"CREATE TABLE items (id int PRIMARY KEY, txt text, {', '.join(f'{n} {TYPES[n][0]}' for n in names)})"
    )
    values = ", ".join(f"({TYPES[name][1][0]})::{TYPES[name][0]}" for name in names)
    database.execute(
        "INSERT INTO items SELECT i, repeat(chr(32 + i % 90) || E'\"\\n', CASE i % 97 WHEN 0 THEN 60000 ELSE i % 50 END), "
        f"{values} FROM generate_series(1, 3000) i"
    )

    async def scenario() -> tuple[bytes, bytes]:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            async with PostgresSnapshots(pool).open(definition) as snapshot:
                ours = b"".join([block async for block in snapshot.blocks()])
            command = begin_snapshot(definition, 150000), copy_snapshot(definition, is_partitioned=False)
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
            await connection.execute(command[0].encode())
            async with connection.cursor().copy(command[1].encode()) as copy:
                return ours, b"".join([bytes(row) async for row in copy])

    ours, theirs = asyncio.run(scenario())
    assert ours == theirs
    assert ours.count(b"\n") == 3000


def test_many_rows_come_in_large_blocks(database: ThrowawayDatabase) -> None:
    """
    Blocks hold whole lines and are many rows long; none is missing.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO items SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i")

    async def scenario() -> list[bytes]:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            async with PostgresSnapshots(pool).open(definition) as snapshot:
                return [block async for block in snapshot.blocks()]

    blocks = asyncio.run(scenario())
    assert all(block.endswith(b"\n") for block in blocks)
    ids = [json.loads(line)["value"]["id"] for line in b"".join(blocks).splitlines()]
    assert ids == [str(number) for number in range(1, 20001)]
    assert len(blocks) < 1000


def test_a_single_large_row(database: ThrowawayDatabase) -> None:
    """
    A row larger than any buffer arrives whole (C15).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO items VALUES (1, repeat('\"x', 4000000))")
    rows, _ = take(database.url, "items")
    assert rows[0]["value"]["t"] == '"x' * 4_000_000


def test_a_missing_privilege_is_told(database: ThrowawayDatabase) -> None:
    """
    The client learns what the database refuses, as a 503 of a known kind (B21).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); DROP ROLE IF EXISTS snapshot_reader")
    database.execute("CREATE ROLE snapshot_reader LOGIN")
    try:
        with pytest.raises(RequestError) as caught:
            take(database.url.replace("postgres@", "snapshot_reader@"), "items")
    finally:
        database.execute("DROP ROLE snapshot_reader")
    assert caught.value.status == 503
    assert caught.value.message == "Unable to create initial snapshot: permission denied for table items"


def test_rights_on_columns_are_enough(database: ThrowawayDatabase) -> None:
    """
    Somebody who may read some columns can have a shape of these.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, s text); INSERT INTO items VALUES (1, 'x')")
    database.execute("CREATE ROLE column_reader LOGIN; GRANT SELECT (id) ON items TO column_reader")
    try:
        rows, _ = take(database.url.replace("postgres@", "column_reader@"), "items", columns=("id",))
    finally:
        database.execute("DROP OWNED BY column_reader; DROP ROLE column_reader")
    assert [row["value"] for row in rows] == [{"id": "1"}]


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE items",
        "ALTER TABLE items RENAME TO others",
        "ALTER TABLE items RENAME COLUMN a TO b",
        "ALTER TABLE items ALTER a TYPE varchar(7)",
        "ALTER TABLE items ADD COLUMN c int",
        "DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, a text)",
    ],
)
def test_a_changed_table_ends_the_shape(database: ThrowawayDatabase, change: str) -> None:
    """
    A table that is not what the definition was made for is not read.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, a text)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            database.execute(change)
            with pytest.raises(ShapeError):
                async with PostgresSnapshots(pool).open(definition):
                    pass

    asyncio.run(scenario())


def test_an_error_among_the_rows_shows_no_values(database: ThrowawayDatabase) -> None:
    """
    What fails at some row is told by its code; the message would quote the row.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO items SELECT i, repeat('9', 100) FROM generate_series(1, 20000) i")
    database.execute("INSERT INTO items VALUES (20001, 'secret')")

    async def scenario() -> RequestError:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"), where="a::numeric > 0")
            with pytest.raises(RequestError) as caught:
                await drain(PostgresSnapshots(pool), definition)
            return caught.value

    refused = asyncio.run(scenario())
    assert (refused.status, refused.message) == (500, "Unexpected error while creating snapshot: SQLSTATE 22P02")


def test_a_slow_first_row_is_given_up_and_cancelled(database: ThrowawayDatabase) -> None:
    """
    Without data in time the request is told so, and the query ends on the server (B21).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"), where="pg_sleep(600) IS NULL")
            with pytest.raises(RequestError, match=r"cancelled after 300ms"):
                async with PostgresSnapshots(pool, first_data_s_max=0.3).open(definition):
                    pass
            sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%%' AND state = 'active'"
            await until(lambda: not database.query(sql))

    asyncio.run(scenario())


def test_leaving_early_ends_the_query(database: ThrowawayDatabase) -> None:
    """
    Whoever stops reading leaves neither a query nor a used connection behind.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            async with PostgresSnapshots(pool).open(definition) as snapshot:
                blocks = snapshot.blocks()
                assert await anext(blocks)
                await blocks.aclose()  # type: ignore[attr-defined]
            assert pool.in_use_count == 0
            await until(lambda: not database.query("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%%'"))
            assert (await drain(PostgresSnapshots(pool), definition)).count(b"\n") == 50000

    asyncio.run(scenario())


def test_a_table_rewritten_under_the_snapshot_is_noticed(database: ThrowawayDatabase) -> None:
    """
    A rewrite between the taking of the snapshot and of the lock hides all rows: that must not pass for an empty table.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            definition = msgspec.structs.replace(define(await find(pool, "items")), is_explicit=True)
            with database.connect() as migration:
                migration.execute("BEGIN")
                migration.execute("ALTER TABLE items ADD COLUMN token uuid DEFAULT gen_random_uuid()")
                reading = asyncio.create_task(drain(PostgresSnapshots(pool), definition))
                await until(
                    lambda: database.query("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'")
                )
                migration.execute("COMMIT")
            with pytest.raises(RequestError, match="please retry"):
                await reading
            assert (await drain(PostgresSnapshots(pool), definition)).count(b"\n") == 1

    asyncio.run(scenario())


def test_no_free_connection_is_told(database: ThrowawayDatabase) -> None:
    """
    A snapshot that finds all connections in use is refused after the pool's wait (B21).
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")

    async def scenario() -> None:
        async with connected(database.url, wait_s_max=0.1) as pool:
            definition = define(await find(pool, "items"))
            async with pool.session(), pool.session():
                with pytest.raises(RequestError) as caught:
                    async with PostgresSnapshots(pool).open(definition):
                        pass
            assert caught.value.message == "Snapshot creation failed because of a connection pool queue timeout"

    asyncio.run(scenario())


def test_a_lost_connection_is_told_as_such(database: ThrowawayDatabase) -> None:
    """
    When the server ends the connection among the rows, it is not taken for their end.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            definition = define(await find(pool, "items"))
            async with PostgresSnapshots(pool).open(definition) as snapshot:
                blocks = snapshot.blocks()
                await anext(blocks)
                database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%%'")
                with pytest.raises(ConnectionLostError):
                    _ = [block async for block in blocks]

    asyncio.run(scenario())


def test_every_character_survives_in_values_and_keys(database: ThrowawayDatabase) -> None:
    """
    Whatever character a text holds, its line is one line of JSON with exactly that text.
    """
    database.execute(
        """
        CREATE TABLE items (c text PRIMARY KEY, n int);
        INSERT INTO items SELECT chr(i), i FROM generate_series(1, 70000) i WHERE i NOT BETWEEN 55296 AND 57343;
        """
    )
    rows, _ = take(database.url, "items")
    assert len(rows) == 70000 - 2048
    for row in rows:
        character = chr(int(row["value"]["n"]))
        assert row["value"]["c"] == character
        assert row["key"] == f'"public"."items"/"{character.replace("/", "//")}"'
