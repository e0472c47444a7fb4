"""
What the suites on ordinary SQL connections share: pools, definitions, and waiting for the server to get somewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

from penstock.database.inspector import CatalogInspector
from penstock.database.pool import ConnectionPool
from penstock.database.snapshots import PostgresSnapshots
from penstock.database.urls import parse_database_url
from penstock.postgres.relation import Table
from penstock.shapes.definition import ShapeColumn, ShapeDefinition

DEADLINE_S: Final = 60.0


def define(table: Table, columns: tuple[str, ...] = (), **fields: Any) -> ShapeDefinition:
    """
    A shape of all columns of a table, or of some.
    """
    return ShapeDefinition(
        table=table.id,
        columns=tuple(ShapeColumn(column.name, column.type_oid, column.typmod) for column in table.columns),
        key_columns=table.key_columns,
        has_primary_key=bool(table.pk_columns),
        selected=tuple(sorted(columns or [column.name for column in table.columns])),
        is_explicit=bool(columns),
        **fields,
    )


class FormsInMemory:
    """
    The part of `BarrierFacts` that is about forms and partitions.

    Attributes:
        forms: by table.
        above: what lies above relations, by relation; what is to be found anew is forgotten.
    """

    def __init__(self) -> None:
        self.forms: dict[int, str] = {}
        self.above: dict[int, tuple[int, ...]] = {}

    async def form(self, oid: int) -> str | None:
        """
        As the port says.
        """
        return self.forms.get(oid)

    async def record_form(self, oid: int, form: str | None) -> None:
        """
        As the port says.
        """
        if form is None:
            self.forms.pop(oid, None)
        else:
            self.forms[oid] = form

    def partitions_of(self, oid: int) -> frozenset[int]:
        """
        As the port says.
        """
        return frozenset(relation for relation, above in self.above.items() if oid in above)

    def is_elsewhere(self, partition: int, oid: int) -> bool:
        """
        As the port says.
        """
        return partition in self.above and oid not in self.above[partition]

    async def find_again(self, oids: Collection[int]) -> None:
        """
        As the port says.
        """
        for oid in oids:
            self.above.pop(oid, None)


@asynccontextmanager
async def connected(url: str, *, size: int = 2, **options: Any) -> AsyncIterator[ConnectionPool]:
    """
    A small pool on a database, for as long as a test may take.
    """
    pool = ConnectionPool(parse_database_url(url), size=size, **options)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield pool
    finally:
        await pool.close()


async def find(pool: ConnectionPool, name: str, schema: str = "public") -> Table:
    """
    A table that must be there.
    """
    table = await CatalogInspector(pool).find_table(schema, name)
    assert table is not None
    return table


async def drain(snapshots: PostgresSnapshots, definition: ShapeDefinition) -> bytes:
    """
    All rows of a snapshot as they came.
    """
    async with snapshots.open(definition) as snapshot:
        return b"".join([block async for block in snapshot.blocks()])


async def until(condition: Callable[[], object]) -> None:
    """
    Wait for something that only asking tells; the test's deadline ends it.
    """
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - the server sends no event
        await asyncio.sleep(0.01)
