from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from harness.database import FormsInMemory, connected, find, until
from penstock.database.pool import ConnectionPool
from penstock.database.publication import PublicationTables
from penstock.errors import RequestError
from penstock.postgres.relation import Table
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = pytest.mark.postgres

LOCKED = "Snapshot timed out while waiting for a table lock"


class FactsInMemory(FormsInMemory):
    """
    Barrier facts without a disk, in the order in which they were recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memberships: dict[int, int] = {}
        self.history: list[tuple[str, int]] = []

    async def passed(self, oid: int) -> int | None:
        """
        As the port says.
        """
        return self.memberships.get(oid)

    async def record(self, oid: int, membership: int | None) -> None:
        """
        As the port says.
        """
        self.history.append(("forgotten" if membership is None else "passed", oid))
        if membership is None:
            self.memberships.pop(oid, None)
        else:
            self.memberships[oid] = membership


@asynccontextmanager
async def kept(
    pool: ConnectionPool, facts: FactsInMemory, name: str = "p", **options: Any
) -> AsyncIterator[PublicationTables]:
    """
    The publication's tables, closed at the end. Lost tables go to the facts' history.
    """

    async def on_lost(oid: int, reason: str, columns: frozenset[str] | None) -> None:
        del reason, columns
        facts.history.append(("lost", oid))

    tables = PublicationTables(pool, name, facts, on_lost=on_lost, **options)
    try:
        yield tables
    finally:
        await tables.close()


def members(database: ThrowawayDatabase) -> list[tuple[Any, ...]]:
    """
    Listed tables of the publication with their replica identity.
    """
    return database.query(
        "SELECT c.relname, c.relreplident FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid ORDER BY 1"
    )


def make(database: ThrowawayDatabase) -> None:
    """
    A table and an empty publication.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text); CREATE PUBLICATION p")


async def refusal(tables: PublicationTables, table: Table) -> str:
    """
    The text with which a table is refused.
    """
    with pytest.raises(RequestError) as caught:
        await tables.ensure(table)
    assert caught.value.status == 503
    assert caught.value.is_known
    return caught.value.message


def test_a_table_joins_with_full_identity(database: ThrowawayDatabase) -> None:
    """
    After `ensure` the table is a member with replica identity full, and the barrier is on record.
    """
    make(database)

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url) as pool, kept(pool, facts) as tables:
            table = await find(pool, "items")
            await tables.ensure(table)
            await tables.ensure(table)
            assert facts.history == [("passed", table.id.oid)]

    asyncio.run(scenario())
    assert members(database) == [("items", "f")]


def test_a_partitioned_table_joins_with_its_partitions(database: ThrowawayDatabase) -> None:
    """
    The root is the member; identity is set on it and on every partition below, at all levels.
    """
    database.execute(
        """
        CREATE TABLE items (id int, region text) PARTITION BY LIST (region);
        CREATE TABLE items_eu PARTITION OF items FOR VALUES IN ('eu') PARTITION BY RANGE (id);
        CREATE TABLE items_eu_1 PARTITION OF items_eu FOR VALUES FROM (0) TO (10);
        CREATE TABLE items_us PARTITION OF items FOR VALUES IN ('us');
        CREATE PUBLICATION p;
        """
    )

    async def scenario() -> None:
        async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
            await tables.ensure(await find(pool, "items"))

    asyncio.run(scenario())
    assert members(database) == [("items", "f")]
    identities = database.query(
        "SELECT DISTINCT relreplident FROM pg_class WHERE relname LIKE 'items%%' AND relkind IN ('r', 'p')"
    )
    assert identities == [("f",)]


def test_inheriting_tables_do_not_join_with_their_parent(database: ThrowawayDatabase) -> None:
    """
    A child table is a table of its own.
    """
    make(database)
    database.execute("CREATE TABLE more () INHERITS (items)")

    async def scenario() -> None:
        async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
            await tables.ensure(await find(pool, "items"))

    asyncio.run(scenario())
    assert members(database) == [("items", "f")]


def test_concurrent_calls_share_the_work(database: ThrowawayDatabase) -> None:
    """
    Many requests for one table alter it once; many tables do not hinder each other.

    Scenario H12.
    """
    database.execute("CREATE PUBLICATION p")
    for number in range(5):
        database.execute(f"CREATE TABLE items{number} (id int PRIMARY KEY)")

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url, size=4) as pool, kept(pool, facts, wait_s_max=30.0) as tables:
            found = [await find(pool, f"items{number}") for number in range(5)]
            await asyncio.gather(*(tables.ensure(table) for table in found * 10))
            assert sorted(facts.history) == sorted(("passed", table.id.oid) for table in found)

    asyncio.run(scenario())
    assert len(members(database)) == 5


async def assert_waits_for(
    database: ThrowawayDatabase, writer: psycopg.Connection[Any], table_name: str, finish: str
) -> None:
    """
    The barrier waits, request after request, until the writer's transaction ends, and then passes.
    """
    facts = FactsInMemory()
    async with connected(database.url) as pool, kept(pool, facts, wait_s_max=0.3) as tables:
        table = await find(pool, table_name)
        # Identity is full already, so no DDL waits for the writer: only the barrier can.
        assert await refusal(tables, table) == LOCKED
        assert await refusal(tables, table) == LOCKED
        assert members(database), "the table is a member while the barrier waits"
        assert facts.history == []
        writer.execute(finish.encode())
        # The work goes on by itself.
        await until(lambda: facts.history)
        await tables.ensure(table)
        assert facts.history == [("passed", table.id.oid)]


def test_the_barrier_waits_for_who_wrote_before(database: ThrowawayDatabase) -> None:
    """
    A row written before the table joined, and committed afterwards, is in the snapshot taken behind the barrier.

    The stream never carries it: decoding looks at the publication as it was when the row was written.
    """
    make(database)
    database.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    database.query("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"slot_{database.name}")
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items VALUES (1)")
        asyncio.run(assert_waits_for(database, writer, "items", "COMMIT"))
    assert database.query("SELECT id FROM items") == [(1,)]
    database.execute("INSERT INTO items VALUES (2)")
    changes = database.query(
        "SELECT get_byte(data, 0), data FROM pg_logical_slot_peek_binary_changes"
        "(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'p')",
        f"slot_{database.name}",
    )
    inserts = [data for kind, data in changes if kind == ord("I")]
    assert len(inserts) == 1, "the stream carries the second row alone, which is why there is a barrier"


def test_the_barrier_waits_for_writers_of_partitions(database: ThrowawayDatabase) -> None:
    """
    A row written straight into a partition counts.
    """
    database.execute(
        """
        CREATE TABLE items (id int, region text) PARTITION BY LIST (region);
        CREATE TABLE items_eu PARTITION OF items FOR VALUES IN ('eu');
        ALTER TABLE items REPLICA IDENTITY FULL;
        ALTER TABLE items_eu REPLICA IDENTITY FULL;
        CREATE PUBLICATION p;
        """
    )
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items_eu VALUES (1, 'eu')")
        asyncio.run(assert_waits_for(database, writer, "items", "ROLLBACK"))


def test_the_barrier_waits_for_prepared_transactions(database: ThrowawayDatabase) -> None:
    """
    A transaction that was prepared, before the barrier began or while it waits, has not ended.
    """
    make(database)
    database.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    gid = database.name
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items VALUES (1)")
        writer.execute(f"PREPARE TRANSACTION '{gid}_1'")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items VALUES (2)")

        async def scenario() -> None:
            facts = FactsInMemory()
            async with connected(database.url) as pool, kept(pool, facts, wait_s_max=0.2) as tables:
                table = await find(pool, "items")
                assert await refusal(tables, table) == LOCKED
                writer.execute(f"PREPARE TRANSACTION '{gid}_2'")
                writer.execute(f"COMMIT PREPARED '{gid}_1'")
                assert await refusal(tables, table) == LOCKED
                assert facts.history == []
                writer.execute(f"COMMIT PREPARED '{gid}_2'")
                await until(lambda: facts.history)

        asyncio.run(scenario())


def test_the_barrier_does_not_wait_for_others(database: ThrowawayDatabase) -> None:
    """
    Readers, writers of other tables, and writers that come later are nobody's business.
    """
    make(database)
    database.execute("ALTER TABLE items REPLICA IDENTITY FULL; CREATE TABLE others (id int)")
    with database.connect() as reader, database.connect() as writer, database.connect() as idle:
        for connection in (reader, writer, idle):
            connection.execute("BEGIN")
        reader.execute("SELECT * FROM items")
        writer.execute("INSERT INTO others VALUES (1)")
        idle.execute("UPDATE items SET t = 'nothing there'")  # holds the lock, has written nothing

        async def scenario() -> None:
            async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
                await tables.ensure(await find(pool, "items"))

        asyncio.run(scenario())


def test_later_writers_do_not_prolong_the_barrier(database: ThrowawayDatabase) -> None:
    """
    Only who held the lock when the table had joined is waited for.
    """
    make(database)
    database.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    with database.connect() as early, database.connect() as late:
        early.execute("BEGIN")
        early.execute("INSERT INTO items VALUES (1)")

        async def scenario() -> None:
            async with connected(database.url) as pool, kept(pool, FactsInMemory(), wait_s_max=30.0) as tables:
                working = asyncio.create_task(tables.ensure(await find(pool, "items")))
                looked = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%ANY ($1::text[])%%' AND datname = current_database() AND pid <> pg_backend_pid()"
                await until(lambda: members(database) and database.query(looked))
                late.execute("BEGIN")
                late.execute("INSERT INTO items VALUES (2)")
                early.execute("COMMIT")
                await working

        asyncio.run(scenario())
        late.execute("ROLLBACK")


def test_a_locked_table_is_refused_and_passes_later(database: ThrowawayDatabase) -> None:
    """
    A lock held by somebody else is not queued for any longer than the deadline (C25).
    """
    make(database)
    with database.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")

        async def scenario() -> None:
            async with connected(database.url) as pool, kept(pool, FactsInMemory(), wait_s_max=0.3) as tables:
                # Found by name through the catalog alone, which no lock of others hides.
                table = await find(pool, "items")
                assert await refusal(tables, table) == LOCKED
                holder.execute("ROLLBACK")
                await until(lambda: members(database))
                await tables.ensure(table)

        asyncio.run(scenario())


def test_leaving_and_returning_passes_the_barrier_anew(database: ThrowawayDatabase) -> None:
    """
    `release` ends the membership and its record; identity stays full.
    """
    make(database)

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url) as pool, kept(pool, facts) as tables:
            table = await find(pool, "items")
            oid = table.id.oid
            await tables.ensure(table)
            await tables.release(oid)
            assert members(database) == []
            await tables.release(oid)
            await tables.ensure(table)
            assert [what for what, _ in facts.history if what == "passed"] == ["passed", "passed"]
            assert members(database) == [("items", "f")]

    asyncio.run(scenario())


def test_release_and_ensure_at_once_end_with_a_member(database: ThrowawayDatabase) -> None:
    """
    Whoever asks for a table while it leaves gets it back behind a barrier of its own.

    Scenarios H12, H13.
    """
    make(database)

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url) as pool, kept(pool, facts) as tables:
            table = await find(pool, "items")
            for _ in range(10):
                await tables.ensure(table)
                leaving = asyncio.create_task(tables.release(table.id.oid))
                await asyncio.sleep(0)
                await tables.ensure(table)
                await leaving
                assert len(members(database)) == 1
                assert facts.memberships == dict(
                    database.query("SELECT prrelid::int8, oid::int8 FROM pg_publication_rel")
                )

    asyncio.run(scenario())


@pytest.mark.parametrize("is_found_by_watch", [False, True])
def test_a_membership_ended_by_hand_is_noticed(database: ThrowawayDatabase, *, is_found_by_watch: bool) -> None:
    """
    Shapes lose what was written meanwhile: they are given up before the new membership is recorded.
    """
    make(database)

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url) as pool, kept(pool, facts) as tables:
            table = await find(pool, "items")
            oid = table.id.oid
            await tables.ensure(table)
            await tables.observe(oid, facts.memberships[oid], facts.forms[oid])
            database.execute("ALTER PUBLICATION p DROP TABLE items; ALTER PUBLICATION p ADD TABLE items")
            if is_found_by_watch:
                ((membership,),) = database.query("SELECT oid::int8 FROM pg_publication_rel")
                await tables.observe(oid, membership, facts.forms[oid])
                await tables.observe(oid, membership, facts.forms[oid])
            await tables.ensure(table)
            assert facts.history == [("passed", oid), ("lost", oid), ("forgotten", oid), ("passed", oid)]

    asyncio.run(scenario())


def test_a_row_filter_is_replaced(database: ThrowawayDatabase) -> None:
    """
    A member of which only some rows or columns are published is no member for us.
    """
    make(database)
    database.execute("ALTER PUBLICATION p ADD TABLE items (id) WHERE (id > 3)")

    async def scenario() -> None:
        async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
            await tables.ensure(await find(pool, "items"))
        async with connected(database.url) as pool, kept(pool, FactsInMemory(), is_manual=True) as tables:
            database.execute("ALTER PUBLICATION p SET TABLE items WHERE (id > 3)")
            message = await refusal(tables, await find(pool, "items"))
            assert message.startswith('Database table "public.items" is listed with a row filter or column list in')

    asyncio.run(scenario())


@pytest.mark.parametrize("publication", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"])
def test_wide_publications_need_no_addition(database: ThrowawayDatabase, publication: str) -> None:
    """
    A table that is a member by its schema, or because all are, is not listed on its own.
    """
    database.execute(f"CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION p {publication}")

    async def scenario() -> None:
        facts = FactsInMemory()
        async with connected(database.url) as pool, kept(pool, facts) as tables:
            table = await find(pool, "items")
            await tables.ensure(table)
            await tables.ensure(table)
            assert facts.history == [("passed", table.id.oid)]
            await tables.release(table.id.oid)

    asyncio.run(scenario())
    assert members(database) == []
    assert database.query("SELECT relreplident FROM pg_class WHERE relname = 'items'") == [("f",)]


def test_manual_publishing_says_what_is_missing(database: ThrowawayDatabase) -> None:
    """
    A9: Nothing is altered; the operator is told step by step.
    """
    make(database)

    async def scenario() -> None:
        async with connected(database.url) as pool, kept(pool, FactsInMemory(), is_manual=True) as tables:
            table = await find(pool, "items")
            assert await refusal(tables, table) == (
                'Database table "public.items" is missing from the publication "p" and'
                " the PENSTOCK_MANUAL_TABLE_PUBLISHING setting prevents Penstock from adding it."
                ' Run: ALTER PUBLICATION "p" ADD TABLE ONLY "public"."items"'
            )
            database.execute("ALTER PUBLICATION p ADD TABLE items")
            message = (
                'Database table "public.items" does not have its replica identity set to FULL.'
                ' Run: ALTER TABLE ONLY "public"."items" REPLICA IDENTITY FULL'
            )
            assert await refusal(tables, table) == message
            database.execute("ALTER TABLE items REPLICA IDENTITY FULL")
            await tables.ensure(table)
            await tables.release(table.id.oid)
            assert len(members(database)) == 1

    asyncio.run(scenario())


def test_rights_that_are_missing_are_named(database: ThrowawayDatabase) -> None:
    """
    Not the owner of the publication, not the owner of the table: each has its text.

    Scenarios A11, H12.
    """
    make(database)
    role = f"role_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")

    async def scenario() -> None:
        url = database.url.replace("postgres@", f"{role}@")
        async with connected(url) as pool, kept(pool, FactsInMemory()) as tables:
            table = await find(pool, "items")
            assert await refusal(tables, table) == (
                'Database table "public.items" is missing from the publication "p" and'
                " Penstock lacks privileges to add it."
                ' Run: ALTER PUBLICATION "p" ADD TABLE ONLY "public"."items"'
            )
            database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO {role}')
            database.execute(f"ALTER PUBLICATION p OWNER TO {role}")
            message = "Unable to create initial snapshot: must be owner of table items"
            assert await refusal(tables, table) == message
            database.execute(f"ALTER TABLE items OWNER TO {role}")
            await tables.ensure(table)

    try:
        asyncio.run(scenario())
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_unfit_publication_is_named(database: ThrowawayDatabase) -> None:
    """
    A missing publication, one without all operations, a table that is gone: each has its text.

    Scenario H12.
    """
    make(database)
    database.execute("CREATE PUBLICATION narrow WITH (publish = 'insert')")

    async def scenario() -> None:
        async with connected(database.url) as pool:
            table = await find(pool, "items")
            async with kept(pool, FactsInMemory(), name="none") as tables:
                assert await refusal(tables, table) == 'Publication "none" not found in the database'
            async with kept(pool, FactsInMemory(), name="narrow") as tables:
                assert await refusal(tables, table) == (
                    'Publication "narrow" does not publish all required operations: INSERT, UPDATE, DELETE, TRUNCATE'
                )
            async with kept(pool, FactsInMemory()) as tables:
                assert not await tables.publishes_generated()
                database.execute("ALTER TABLE items RENAME TO others")
                message = 'Database table "public.items" has been dropped or renamed'
                assert await refusal(tables, table) == message
                database.execute("DROP TABLE others")
                assert await refusal(tables, table) == message

    asyncio.run(scenario())


def test_superfluous_tables_leave(database: ThrowawayDatabase) -> None:
    """
    Members that nobody wants are taken out, unless somebody has just asked for them.
    """
    make(database)
    database.execute("CREATE TABLE others (id int); ALTER PUBLICATION p ADD TABLE others; CREATE TABLE third (id int)")

    async def scenario() -> None:
        async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
            items, third = await find(pool, "items"), await find(pool, "third")
            await tables.ensure(items)
            await tables.ensure(third)
            await tables.drop_superfluous([items.id.oid])
            assert [name for name, _ in members(database)] == ["items", "third"]

    asyncio.run(scenario())


def test_closing_refuses_who_waits(database: ThrowawayDatabase) -> None:
    """
    The end of the service is no cancellation of the request.
    """
    make(database)
    database.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items VALUES (1)")

        async def scenario() -> None:
            async with connected(database.url) as pool, kept(pool, FactsInMemory(), wait_s_max=30.0) as tables:
                table = await find(pool, "items")
                waiting = asyncio.create_task(refusal(tables, table))
                await until(lambda: members(database))
                await tables.close()
                assert await waiting == "Database connection not available"

        asyncio.run(scenario())


def test_generated_columns_on_a_new_server(bundled_postgres: Any) -> None:
    """
    Postgres 18 publishes stored generated columns if it is told to; a table with virtual ones is refused unaltered (B12).
    """
    database = bundled_postgres.create_database("generated_columns")
    try:
        database.execute(
            """
            CREATE TABLE items (id int PRIMARY KEY, s int GENERATED ALWAYS AS (id) STORED);
            CREATE TABLE harmed (id int PRIMARY KEY, s int GENERATED ALWAYS AS (id) STORED, v int GENERATED ALWAYS AS (id));
            CREATE PUBLICATION p WITH (publish_generated_columns = stored);
            """
        )

        async def scenario() -> None:
            async with connected(database.url) as pool, kept(pool, FactsInMemory()) as tables:
                table = await find(pool, "items")
                assert [(column.name, column.is_generated) for column in table.columns] == [("id", False), ("s", True)]
                await tables.ensure(table)
                assert await tables.publishes_generated()
                with pytest.raises(RequestError) as caught:
                    await tables.ensure(await find(pool, "harmed"))
                assert caught.value.status == 400
                assert caught.value.errors is not None
                assert "not published: v." in str(caught.value.errors["table"])
                assert [name for name, _ in members(database)] == ["items"]

        asyncio.run(scenario())
    finally:
        database.drop()
