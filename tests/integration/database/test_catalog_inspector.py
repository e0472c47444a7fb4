from __future__ import annotations

import asyncio

import pytest

from harness.database import connected, find
from penstock.database.inspector import CatalogInspector
from penstock.errors import ConnectionLostError
from penstock.postgres.relation import Column
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres
from penstock.where.clause import compile_where
from penstock.where.facts import maps_letter_by_letter

pytestmark = pytest.mark.postgres


def test_describes_a_table(database: ThrowawayDatabase) -> None:
    """
    Every field of a column is what the catalog says; dropped columns are not there.
    """
    database.execute(
        """
        CREATE TYPE mood AS ENUM ('a', 'b');
        CREATE TABLE items (
          gone int, b text COLLATE "C" NOT NULL, a int, v varchar(9), m mood, ms mood[], t int[][],
          g int GENERATED ALWAYS AS (a + 1) STORED, n numeric(6,2), extra int, PRIMARY KEY (b, a)
        );
        ALTER TABLE items DROP COLUMN gone;
        """
    )
    ((mood, moods),) = database.query("SELECT oid::int8, typarray::int8 FROM pg_type WHERE typname = 'mood'")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            table = await find(pool, "items")
            assert table.columns == (
                Column("b", 25, -1, "text", is_not_null=True, pk_index=0, collation="C"),
                Column("a", 23, -1, "int4", is_not_null=True, pk_index=1),
                Column("v", 1043, 13, "varchar"),
                Column("m", mood, -1, "mood", is_enum=True),
                Column("ms", moods, -1, "mood", dims=1, is_enum=True),
                Column("t", 1007, -1, "int4", dims=2),
                Column("g", 23, -1, "int4", is_generated=True),
                Column("n", 1700, 393222, "numeric"),
                Column("extra", 23, -1, "int4"),
            )
            assert table.pk_columns == ("b", "a")
            assert (table.replica_identity, table.is_partitioned, table.root_oid) == ("d", False, table.id.oid)

    asyncio.run(scenario())


def test_a_covering_key_has_only_its_key_columns(database: ThrowawayDatabase) -> None:
    """
    Columns that an index merely includes are no part of the key.
    """
    database.execute("CREATE TABLE items (a int, b int, PRIMARY KEY (b) INCLUDE (a))")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            assert (await find(pool, "items")).pk_columns == ("b",)

    asyncio.run(scenario())


def test_finds_what_lies_above_partitions(database: ThrowawayDatabase) -> None:
    """
    The partitioned tables through all levels, the nearest first; for anything else, also what is gone, none.
    """
    database.execute(
        """
        CREATE TABLE items (id int) PARTITION BY RANGE (id);
        CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
        CREATE TABLE items_1_1 PARTITION OF items_1 FOR VALUES FROM (0) TO (5);
        CREATE TABLE parent (id int);
        CREATE TABLE child () INHERITS (parent);
        """
    )

    async def scenario() -> None:
        async with connected(database.url) as pool:
            inspector = CatalogInspector(pool)
            root = await find(pool, "items")
            middle = await find(pool, "items_1")
            leaf = await find(pool, "items_1_1")
            child = await find(pool, "child")
            assert root.is_partitioned
            assert root.root_oid == leaf.root_oid == root.id.oid
            assert child.root_oid == child.id.oid
            for oid, expected in [
                (leaf.id.oid, (middle.id.oid, root.id.oid)),
                (middle.id.oid, (root.id.oid,)),
                (root.id.oid, ()),
                (child.id.oid, ()),
                (4_294_967_000, ()),
            ]:
                assert await inspector.find_ancestors(oid) == expected

    asyncio.run(scenario())


def test_waits_for_a_partition_that_others_do_not_see_yet(database: ThrowawayDatabase) -> None:
    """
    The stream may bring a commit before it is to be seen: the answer is not "nothing above it" then.
    """
    database.execute("CREATE TABLE items (id int) PARTITION BY RANGE (id)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            inspector = CatalogInspector(pool)
            root = await find(pool, "items")
            with database.connect() as maker, maker.transaction():
                maker.execute("CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (10)")
                row = maker.execute("SELECT 'items_1'::regclass::oid::int8").fetchone()
                assert row is not None
                asked = asyncio.create_task(inspector.find_ancestors(row[0]))
                while not asked.done():
                    with database.connect() as onlooker:
                        found = onlooker.execute(
                            "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_locks%' AND pid <> pg_backend_pid()"
                        ).fetchone()
                    if found is not None:
                        break
                    await asyncio.sleep(0)
                assert not asked.done()
            assert await asked == (root.id.oid,)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["a_view", "a_sequence", "an_index", "nothing", "empty", "a_foreign_table"])
def test_only_tables_with_columns_count(database: ThrowawayDatabase, name: str) -> None:
    """
    Views, indexes, foreign tables and tables without columns are not found.
    """
    database.execute(
        """
        CREATE TABLE items (id int); CREATE INDEX an_index ON items (id); CREATE VIEW a_view AS SELECT * FROM items;
        CREATE SEQUENCE a_sequence; CREATE TABLE empty ();
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
        CREATE FOREIGN TABLE a_foreign_table (id int) SERVER s;
        """
    )

    async def scenario() -> None:
        async with connected(database.url) as pool:
            assert await CatalogInspector(pool).find_table("public", name) is None

    asyncio.run(scenario())


def test_an_entry_is_believed_while_fresh(database: ThrowawayDatabase) -> None:
    """
    A known table is given without asking until somebody forgets it; a missing one is asked for each time.
    """
    database.execute("CREATE TABLE items (id int)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            inspector = CatalogInspector(pool, fresh_s=3600)
            before = await inspector.find_table("public", "items")
            assert before is not None
            database.execute("ALTER TABLE items ADD COLUMN t text; ALTER TABLE items RENAME TO others")
            assert await inspector.find_table("public", "items") == before
            assert await inspector.find_by_oid(before.id.oid) == before
            assert await inspector.find_table("public", "more") is None
            database.execute("CREATE TABLE more (id int)")
            assert await inspector.find_table("public", "more") is not None
            inspector.forget(before.id.oid)
            inspector.forget(before.id.oid)
            assert await inspector.find_table("public", "items") is None
            after = await inspector.find_by_oid(before.id.oid)
            assert after is not None
            assert (after.id.name, len(after.columns)) == ("others", 2)
            assert await inspector.find_table("public", "others") == after

    asyncio.run(scenario())


def test_without_trust_each_question_is_asked(database: ThrowawayDatabase) -> None:
    """
    An entry that is not fresh is read anew, also when its table was replaced by another of the same name.
    """
    database.execute("CREATE TABLE items (id int)")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            inspector = CatalogInspector(pool, fresh_s=0)
            before = await inspector.find_table("public", "items")
            database.execute("DROP TABLE items; CREATE TABLE items (id int, t text)")
            after = await inspector.find_table("public", "items")
            assert before is not None
            assert after is not None
            assert before.id.oid != after.id.oid
            assert await inspector.find_by_oid(before.id.oid) is None
            assert await inspector.find_table("public", "items") == after

    asyncio.run(scenario())


def test_equal_questions_at_once_share_the_answer(database: ThrowawayDatabase) -> None:
    """
    A crowd of requests costs the catalog one query, and a cancelled one takes nobody with it.
    """
    database.execute("CREATE TABLE items (id int)")

    async def scenario() -> None:
        async with connected(database.url, size=1, wait_s_max=0.5) as pool:
            inspector = CatalogInspector(pool)
            crowd = [asyncio.create_task(inspector.find_table("public", "items")) for _ in range(500)]
            await asyncio.sleep(0)
            crowd[0].cancel()
            found = await asyncio.gather(*crowd[1:])
            assert len({table.id.oid for table in found if table is not None}) == 1
            assert pool.idle_count == 1

    asyncio.run(scenario())


def test_what_is_known_outlives_the_connection() -> None:
    """
    While the database is away a known table is given as it was; an unknown one cannot be.

    Scenario H15.
    """
    with ThrowawayPostgres() as server:
        server.execute("CREATE TABLE items (id int)")

        async def scenario() -> None:
            async with connected(server.url) as pool:
                inspector = CatalogInspector(pool, fresh_s=0)
                known = await inspector.find_table("public", "items")
                assert known is not None
                await asyncio.to_thread(server.stop)
                assert await inspector.find_table("public", "items") == known
                with pytest.raises(ConnectionLostError):
                    await inspector.find_table("public", "others")
                with pytest.raises(ConnectionLostError):
                    await inspector.find_ancestors(known.id.oid)
                await asyncio.to_thread(server.start)

        asyncio.run(scenario())


def test_tells_what_conditions_depend_on(database: ThrowawayDatabase) -> None:
    """
    Labels of enums, also under arrays and domains, types under domains, and how the database treats text.
    """
    database.execute(
        """
        CREATE TYPE mood AS ENUM ('wild', 'calm');
        CREATE DOMAIN small AS int CHECK (VALUE < 10);
        CREATE DOMAIN smaller AS small;
        CREATE DOMAIN humour AS mood;
        CREATE TABLE items (id int PRIMARY KEY, m mood, ms mood[], s smaller, h humour);
        CREATE TABLE plain (id int PRIMARY KEY);
        """
    )
    ((encoding,),) = database.query(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )

    async def scenario() -> None:
        async with connected(database.url) as pool:
            inspector = CatalogInspector(pool)
            table = await inspector.find_table("public", "items")
            assert table is not None
            facts = await inspector.find_facts(table)
            oids = {column.name: column.type_oid for column in table.columns}
            assert facts.encoding == encoding
            assert {facts.enums[oids[name]].labels for name in ("m", "ms")} == {("wild", "calm")}
            assert facts.domains == {oids["s"]: 23, oids["h"]: oids["m"]}
            assert await inspector.find_facts(table) is facts, "asked once"
            clause = compile_where(
                "m = $1 AND 'calm' = ANY (ms) AND s = 3 AND h = 'wild'", ["calm"], table.columns, facts
            )
            assert clause.columns == ("h", "m", "ms", "s")

            database.execute("ALTER TYPE mood ADD VALUE 'new'")
            inspector.forget(table.id.oid)
            table = await inspector.find_table("public", "items")
            assert table is not None
            assert "new" in ((await inspector.find_facts(table)).enums[oids["m"]].labels or ())
            plain = await inspector.find_table("public", "plain")
            assert plain is not None
            assert (await inspector.find_facts(plain)).enums == {}

            ((provider,),) = database.query("SELECT datlocprovider FROM pg_database WHERE datname = current_database()")
            case = (await inspector.find_facts(plain, with_letters=True)).case
            assert (case is not None) == maps_letter_by_letter(encoding, provider)
            for letter in "aBßÄäŁłİ":
                ((lower, upper),) = database.query("SELECT lower(%s::text), upper(%s::text)", letter, letter)
                if case is not None:
                    assert letter.translate(dict(case.lower)) == lower
                    assert letter.translate(dict(case.upper)) == upper

    asyncio.run(scenario())
