from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from harness.database import FormsInMemory, connected, until
from penstock.database.inspector import CatalogInspector
from penstock.database.publication import PublicationTables
from penstock.database.watch import CatalogEvent, CatalogWatch, TableChanged, TableGone
from penstock.postgres.relation import Table
from penstock.postgres.snapshot import SnapshotBounds
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


@dataclass
class Watched(FormsInMemory):
    """
    A watch and all that it tells; also the barrier facts of its publication.
    """

    wanted: set[int] = field(default_factory=set)
    events: list[CatalogEvent] = field(default_factory=list)
    bounds: list[SnapshotBounds] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    reasons: list[tuple[str, frozenset[str] | None]] = field(default_factory=list)
    memberships: dict[int, int] = field(default_factory=dict)

    async def passed(self, oid: int) -> int | None:
        """
        As the port of facts says.
        """
        return self.memberships.get(oid)

    async def record(self, oid: int, membership: int | None) -> None:
        """
        As the port of facts says.
        """
        if membership is None:
            self.memberships.pop(oid, None)
        else:
            self.memberships[oid] = membership

    def __post_init__(self) -> None:
        super().__init__()

    async def lose(self, oid: int, reason: str, columns: frozenset[str] | None) -> None:
        """
        Take note of a lost table.
        """
        self.lost.append(oid)
        self.reasons.append((reason, columns))

    def take_events(self) -> list[CatalogEvent]:
        """
        What was told since the last call.
        """
        events = self.events.copy()
        self.events.clear()
        return events

    watch: CatalogWatch = field(init=False)
    inspector: CatalogInspector = field(init=False)
    tables: PublicationTables = field(init=False)

    async def want(self, name: str) -> Table:
        """
        Find a table, make it a member and watch it.
        """
        table = await self.inspector.find_table("public", name)
        assert table is not None
        await self.tables.ensure(table)
        self.wanted.add(table.id.oid)
        return table


@asynccontextmanager
async def watching(url: str, *, repair_interval_s: float = 60.0) -> AsyncIterator[Watched]:
    """
    A watch that polls when it is told to.
    """
    watched = Watched()
    async with connected(url) as pool:
        watched.inspector = CatalogInspector(pool)
        watched.tables = PublicationTables(pool, "p", watched, on_lost=watched.lose)
        watched.watch = CatalogWatch(
            pool,
            watched.inspector,
            watched.tables,
            tables=lambda: watched.wanted,
            on_event=watched.events.append,
            on_snapshot=watched.bounds.append,
            interval_s=0.01,
            repair_interval_s=repair_interval_s,
        )
        try:
            yield watched
        finally:
            await watched.tables.close()


@pytest.fixture
def prepared(database: ThrowawayDatabase) -> ThrowawayDatabase:
    """
    A table and an empty publication.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, a text); CREATE PUBLICATION p")
    return database


def test_tells_of_a_table_at_first_and_then_when_it_changes(prepared: ThrowawayDatabase) -> None:
    """
    An unchanged table is told of once; each kind of change brings the table as it is then.

    Scenario H15.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            await watched.watch.poll()
            ((first),) = watched.take_events()
            assert isinstance(first, TableChanged)
            assert first.table.id == table.id
            await watched.watch.poll()
            assert watched.take_events() == []
            for change in [
                "ALTER TABLE items ADD COLUMN b int",
                "ALTER TABLE items RENAME COLUMN b TO c",
                "ALTER TABLE items ALTER c TYPE int8",
                "ALTER TABLE items DROP COLUMN c",
                "ALTER TABLE items ALTER a SET NOT NULL",
                "ALTER TABLE items RENAME TO others",
                "CREATE SCHEMA s; ALTER TABLE others SET SCHEMA s",
                "ALTER TABLE s.others DROP CONSTRAINT items_pkey",
            ]:
                prepared.execute(change)
                await watched.watch.poll()
                (event,) = watched.take_events()
                assert isinstance(event, TableChanged)
                current = await watched.inspector.find_by_oid(table.id.oid)
                assert event.table == current, change
                await watched.watch.poll()
                assert watched.take_events() == [], change

    asyncio.run(scenario())


def test_tells_once_that_a_table_is_gone(prepared: ThrowawayDatabase) -> None:
    """
    A table that was dropped and made anew is gone: the new one is another.

    Scenario H15.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            await watched.watch.poll()
            watched.take_events()
            prepared.execute("DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, a text)")
            await watched.watch.poll()
            await watched.watch.poll()
            assert watched.take_events() == [TableGone(table.id.oid)]
            assert watched.lost == []
            watched.wanted.clear()
            await watched.watch.poll()
            again = await watched.want("items")
            assert again.id.oid != table.id.oid
            await watched.watch.poll()
            assert [type(event) for event in watched.take_events()] == [TableChanged]

    asyncio.run(scenario())


def test_a_table_gone_before_the_first_look_is_told(prepared: ThrowawayDatabase) -> None:
    """
    What happened while nobody watched is found.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            prepared.execute("DROP TABLE items")
            await watched.watch.poll()
            assert watched.take_events() == [TableGone(table.id.oid)]

    asyncio.run(scenario())


def test_reads_bounds_at_each_poll(prepared: ThrowawayDatabase) -> None:
    """
    Snapshots and positions move on, with tables to watch or without.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            await watched.watch.poll()
            prepared.execute("INSERT INTO items VALUES (1)")
            await watched.watch.poll()
            before, after = watched.bounds
            assert before.horizon < after.horizon
            assert before.snapshot.xmax < after.snapshot.xmax

    asyncio.run(scenario())


def test_keeps_entries_of_watched_tables_fresh(prepared: ThrowawayDatabase) -> None:
    """
    After a poll a watched table is known without a query, and a changed one is known as it is.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            await watched.watch.poll()
            prepared.execute("ALTER TABLE items ADD COLUMN b int")
            await watched.watch.poll()
            found = await watched.inspector.find_table("public", "items")
            assert found is not None
            assert len(found.columns) == len(table.columns) + 1

    asyncio.run(scenario())


def test_notices_that_a_table_left_the_publication(prepared: ThrowawayDatabase) -> None:
    """
    Its shapes are given up once, however often one looks.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            await watched.watch.poll()
            assert watched.lost == []
            prepared.execute("ALTER PUBLICATION p DROP TABLE items")
            await watched.watch.poll()
            await watched.watch.poll()
            assert watched.lost == [table.id.oid]

    asyncio.run(scenario())


def test_notices_that_the_publication_is_gone(prepared: ThrowawayDatabase) -> None:
    """
    A dropped publication is the loss of all its tables.

    Scenario H12.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            table = await watched.want("items")
            prepared.execute("DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE items")
            await watched.watch.poll()
            assert watched.lost == [table.id.oid]

    asyncio.run(scenario())


def test_restores_replica_identity(prepared: ThrowawayDatabase) -> None:
    """
    An identity that somebody reset is set to full again.
    """

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            await watched.want("items")
            await watched.watch.poll()
            prepared.execute("ALTER TABLE items REPLICA IDENTITY DEFAULT")
            await watched.watch.poll()
            identity = "SELECT 1 FROM pg_class WHERE relname = 'items' AND relreplident = 'f'"
            await until(lambda: prepared.query(identity))
            assert watched.lost == []

    asyncio.run(scenario())


def test_gives_new_partitions_full_identity(database: ThrowawayDatabase) -> None:
    """
    A partition does not inherit the identity of its parent, so it is set when the partition is noticed.
    """
    database.execute("CREATE TABLE items (id int) PARTITION BY RANGE (id); CREATE PUBLICATION p")

    async def scenario() -> None:
        async with watching(database.url) as watched:
            await watched.want("items")
            await watched.watch.poll()
            database.execute("CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (10)")
            await watched.watch.poll()
            identity = "SELECT 1 FROM pg_class WHERE relname = 'items_1' AND relreplident = 'f'"
            await until(lambda: database.query(identity))

    asyncio.run(scenario())


def test_a_lock_on_a_table_does_not_hold_the_watch(prepared: ThrowawayDatabase) -> None:
    """
    The catalog is read without locks on what it describes.
    """
    prepared.execute("CREATE TABLE parted (id int) PARTITION BY RANGE (id)")
    prepared.execute("CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)")

    async def scenario() -> None:
        async with watching(prepared.url) as watched:
            await watched.want("items")
            await watched.want("parted")
            with prepared.connect() as holder:
                holder.execute("BEGIN")
                holder.execute("LOCK TABLE items, parted, parted_1 IN ACCESS EXCLUSIVE MODE")
                await watched.watch.poll()
                await watched.watch.poll()
                holder.execute("ROLLBACK")
            assert len(watched.take_events()) == 2

    asyncio.run(scenario())


def test_takes_superfluous_tables_out(prepared: ThrowawayDatabase) -> None:
    """
    A11: A member without shapes leaves at the next clearing, whoever added it.
    """
    prepared.execute("CREATE TABLE others (id int); ALTER PUBLICATION p ADD TABLE others")

    async def scenario() -> None:
        async with watching(prepared.url, repair_interval_s=0.0) as watched:
            table = await watched.want("items")
            await watched.watch.poll()
            await watched.watch.poll()
            assert prepared.query("SELECT prrelid::int8 FROM pg_publication_rel") == [(table.id.oid,)]

    asyncio.run(scenario())


def test_goes_on_when_the_database_is_back() -> None:
    """
    The running watch outlives a restart of the server.
    """
    with ThrowawayPostgres() as server:
        server.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION p")

        async def scenario() -> None:
            async with watching(server.url) as watched:
                table = await watched.want("items")
                running = asyncio.create_task(watched.watch.run())
                await until(lambda: watched.events)
                await asyncio.to_thread(server.restart)
                server.execute("DROP TABLE items")
                await until(lambda: TableGone(table.id.oid) in watched.events)
                running.cancel()

        asyncio.run(scenario())
