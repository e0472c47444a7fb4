"""
Ordinary SQL as the engine sees it, answered by a `VirtualPostgres`.

Each class stands for the one that the engine would make: pool, inspector, publication, snapshots, catalog watch. A server
that is down, or a network that refuses, is met by all of them. Shell.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from penstock.errors import ConnectionLostError
from penstock.postgres.relation import Table
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.testing.simulation.postgres import ROUND_TRIP_S_MAX, Row, VirtualPostgres
from penstock.where.facts import NO_FACTS, DatabaseFacts
from penstock.wire.messages import json_value, row_key

ROWS_PER_BLOCK: Final = 3


@dataclass
class SqlTrouble:
    """
    What ails ordinary queries.

    Attributes:
        is_hanging: snapshots do not go on while this lasts.
    """

    is_hanging: bool = False


class VirtualSql:
    """
    A connection's way to the server.
    """

    def __init__(self, server: VirtualPostgres, trouble: SqlTrouble) -> None:
        """
        Ask this server.
        """
        self.server: Final = server
        self.trouble: Final = trouble

    async def round_trip(self) -> None:
        """
        Let a query take its time.

        Raises:
            ConnectionLostError: the server is away.
        """
        server = self.server
        await asyncio.sleep(server.loop.chance.random() * ROUND_TRIP_S_MAX + 2 * server.wire.latency_s)
        if not server.is_up or server.wire.is_refusing:
            raise ConnectionLostError("the database is away")


class VirtualPool:
    """
    Stands for `ConnectionPool`; answers the one query of the WAL budget.
    """

    def __init__(self, sql: VirtualSql) -> None:
        """
        Ask this server.
        """
        self.sql: Final = sql
        self.in_use_count = 0
        self.idle_count = 0

    def close_idle(self) -> None:
        """
        Nothing is held.
        """

    async def query(self, text: str, params: Sequence[str | None] = (), **options: Any) -> list[list[str | None]]:
        """
        Tell how much WAL the slot holds.
        """
        del params, options
        assert "pg_replication_slots" in text
        await self.sql.round_trip()
        server = self.sql.server
        if server.slot is None:
            return []
        at = str(server.slot.confirmed.value)
        return [[str(server.insert_lsn), at, at, None, "reserved", "-1", "", ""]]

    async def close(self) -> None:
        """
        Nothing is held.
        """


class VirtualInspector:
    """
    Stands for `CatalogInspector`.
    """

    def __init__(self, sql: VirtualSql) -> None:
        """
        Ask this server.
        """
        self._sql: Final = sql

    async def find_table(self, schema: str, name: str) -> Table | None:
        """
        See `Inspector`.
        """
        await self._sql.round_trip()
        tables = self._sql.server.tables
        return next((each for each in tables if (each.id.schema, each.id.name) == (schema, name)), None)

    async def find_facts(self, table: Table, *, with_letters: bool = False) -> DatabaseFacts:
        """
        See `Inspector`.
        """
        del table, with_letters
        await self._sql.round_trip()
        return NO_FACTS

    async def find_ancestors(self, oid: int) -> tuple[int, ...]:
        """
        Nothing lies above any table.
        """
        del oid
        await self._sql.round_trip()
        return ()

    def forget(self, oid: int) -> None:
        """
        Nothing is remembered.
        """


class VirtualPublication:
    """
    Stands for `PublicationTables`: every table is published.
    """

    def __init__(self, sql: VirtualSql) -> None:
        """
        Ask this server.
        """
        self._sql: Final = sql

    async def ensure(self, table: Table) -> None:
        """
        See `PublicationKeeper`.
        """
        del table
        await self._sql.round_trip()

    async def release(self, oid: int) -> None:
        """
        See `PublicationKeeper`.
        """

    async def welcome(self, partition: int, above: Collection[int]) -> None:
        """
        There are no partitions.
        """

    async def publishes_generated(self) -> bool:
        """
        It does not.
        """
        await self._sql.round_trip()
        return False

    async def close(self) -> None:
        """
        Nothing is held.
        """


class _Snapshot:
    """
    A query under way.
    """

    def __init__(self, sql: VirtualSql, definition: ShapeDefinition) -> None:
        self._sql: Final = sql
        self._definition: Final = definition
        self.bounds, rows = sql.server.snapshot()
        self._rows: Final[list[Row]] = list(rows[definition.table.oid].values())

    async def blocks(self) -> AsyncIterator[bytes]:
        definition = self._definition
        accepts = self._sql.server.conditions[definition.where]
        names = [column.name for column in self._sql.server.table(definition.table.oid).columns]
        heading = json.dumps({"operation": "insert", "relation": [definition.table.schema, definition.table.name]})
        lines: list[bytes] = []
        for row in self._rows:
            texts = dict(zip(names, (None if each is None else each.decode() for each in row), strict=True))
            if not accepts(texts):
                continue
            key = row_key(definition.table.schema, definition.table.name, [row[0]]).decode()
            values = {name: json_value(row[names.index(name)]).decode() for name in definition.selected}
            value = "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in values.items()) + "}"
            lines.append(f'{{"key":{json.dumps(key)},"value":{value},"headers":{heading}}}\n'.encode())
        for start in range(0, len(lines), ROWS_PER_BLOCK):
            await self._sql.round_trip()
            yield b"".join(lines[start : start + ROWS_PER_BLOCK])
        while self._sql.trouble.is_hanging:  # noqa: ASYNC110 - whoever lets it go on tells nobody
            await asyncio.sleep(0.05)


class VirtualSnapshots:
    """
    Stands for `PostgresSnapshots`.
    """

    def __init__(self, sql: VirtualSql) -> None:
        """
        Ask this server.
        """
        self._sql: Final = sql

    @asynccontextmanager
    async def open(self, definition: ShapeDefinition) -> AsyncIterator[_Snapshot]:
        """
        See `SnapshotSource`.
        """
        await self._sql.round_trip()
        snapshot = _Snapshot(self._sql, definition)
        await self._sql.round_trip()
        yield snapshot


class VirtualWatch:
    """
    Stands for `CatalogWatch`: no table ever changes, and what snapshots see is told once a second.
    """

    def __init__(self, sql: VirtualSql, on_snapshot: Callable[[SnapshotBounds], None]) -> None:
        """
        Ask this server, and tell.
        """
        self._sql: Final = sql
        self._on_snapshot: Final = on_snapshot
        self.polls_count = 0

    async def run(self) -> None:
        """
        Poll until cancelled.
        """
        while True:
            try:
                await self._sql.round_trip()
                bounds, _ = self._sql.server.snapshot()
                await self._sql.round_trip()
            except ConnectionLostError:
                await asyncio.sleep(1.0)
                continue
            self.polls_count += 1
            self._on_snapshot(bounds)
            await asyncio.sleep(1.0)


def make_connections(sql: VirtualSql) -> dict[str, Callable[..., Any]]:
    """
    Give what stands for the classes of the engine's connections, by their names.
    """
    return {
        "ConnectionPool": lambda *_, **__: VirtualPool(sql),
        "CatalogInspector": lambda _: VirtualInspector(sql),
    }


def make_parts(sql: VirtualSql) -> dict[str, Callable[..., Any]]:
    """
    Give what stands for the classes over those connections that the engine names, by their names.
    """

    def watch(*_: object, on_snapshot: Callable[[SnapshotBounds], None], **__: object) -> VirtualWatch:
        return VirtualWatch(sql, on_snapshot)

    return {
        "PublicationTables": lambda *_, **__: VirtualPublication(sql),
        "PostgresSnapshots": lambda _: VirtualSnapshots(sql),
        "CatalogWatch": watch,
    }
