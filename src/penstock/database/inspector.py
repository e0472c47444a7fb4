"""
The catalog of the database, with a cache. A shell.

A table that was looked up is believed for `fresh_s`, then asked for again; the watch (`watch.py`), which compares the
tables that have shapes with the catalog each second, keeps their entries fresh without a query. While the database is
away the last known entry is given, so that existing shapes can go on being served. "No such table" is never kept.

Limit: `TABLES_MAX` entries, the oldest leave first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

from penstock.database.failures import DeadlineError, ServerRefusedError
from penstock.database.pool import QUERY_S_MAX, ConnectionPool
from penstock.database.queries import (
    ANCESTORS_OF,
    MAKERS_OF,
    TABLE_BY_NAME,
    TABLE_BY_OID,
    database_facts,
    parse_table,
    write_oids,
)
from penstock.errors import ConnectionLostError, SourceError
from penstock.postgres.relation import Table
from penstock.where.facts import (
    CASES,
    DOMAINS,
    ENUMS,
    CaseMapping,
    DatabaseFacts,
    maps_letter_by_letter,
    parse_cases,
    parse_database,
    parse_domains,
    parse_enums,
)
from penstock.where.types import TYPE_BY_OID

TABLES_MAX: Final = 10_000
CASES_S_MAX: Final = 30.0
UNSEEN_S_MAX: Final = 5.0
_UNSEEN_PAUSE_S: Final = 0.02
_STALE_S: Final = 5.0  # how long an old entry is given without asking when asking failed


@dataclass(slots=True)
class _Entry:
    """
    What was found, and until when it is believed (time of the loop's clock).

    `facts` are what conditions depend on besides; read when they are first asked for, and kept as long as the table is.
    """

    table: Table
    fresh_until: float
    facts: DatabaseFacts | None = None


class CatalogInspector:
    """
    Looks tables up by name and by oid.
    """

    def __init__(self, pool: ConnectionPool, *, fresh_s: float = 1.0) -> None:
        """
        Take the pool to ask through.
        """
        self._pool: Final = pool
        self._fresh_s: Final = fresh_s
        self._entries: Final[dict[int, _Entry]] = {}
        self._oids: Final[dict[tuple[str, str], int]] = {}
        self._lookups: Final[dict[tuple[str, ...], asyncio.Task[Table | None]]] = {}
        self._database: DatabaseFacts | None = None
        self._maps_letters = False
        self._case: CaseMapping | None = None

    async def find_table(self, schema: str, name: str) -> Table | None:
        """
        Look a table up by name; only ordinary and partitioned tables with columns count.

        Raises:
            ConnectionLostError: the database is away and the table is not known.
        """
        oid = self._oids.get((schema, name))
        return await self._find(oid, (schema, name), lambda: self._ask(TABLE_BY_NAME, schema, name))

    async def find_by_oid(self, oid: int) -> Table | None:
        """
        Look a table up by oid. Otherwise as `find_table`.
        """
        return await self._find(oid, (str(oid),), lambda: self._ask(TABLE_BY_OID, str(oid)))

    async def find_facts(self, table: Table, *, with_letters: bool = False) -> DatabaseFacts:
        """
        Find what conditions on this table depend on besides its columns: the database's text, enums and domains.

        With letters, also how the database maps them to their cases: a second of work for it, once.

        Raises:
            ConnectionLostError: the database is away.
        """
        try:
            facts = await self._find_facts(table)
            if with_letters and self._maps_letters:
                if self._case is None:
                    self._case = parse_cases(await self._pool.query(CASES, timeout_s=CASES_S_MAX))
                return replace(facts, case=self._case)
        except (ServerRefusedError, DeadlineError) as cause:
            raise ConnectionLostError(cause.message, sqlstate=cause.sqlstate) from cause
        return facts

    async def _find_facts(self, table: Table) -> DatabaseFacts:
        entry = self._entries.get(table.id.oid)
        if entry is not None and entry.table is table and entry.facts is not None:
            return entry.facts
        facts = await self._ask_facts(table)
        if entry is not None and entry.table is table:
            entry.facts = facts
        return facts

    async def _ask_facts(self, table: Table) -> DatabaseFacts:
        if self._database is None:
            async with self._pool.session() as session:
                rows = await session.query(database_facts(session.server_version), timeout_s=QUERY_S_MAX)
            encoding, _, _, provider, _ = rows[0]
            self._maps_letters = maps_letter_by_letter(encoding or "", provider or "")
            self._database = parse_database(rows[0])
        oids = {column.type_oid for column in table.columns if column.type_oid not in TYPE_BY_OID}
        if not oids:
            return self._database
        domains = parse_domains(await self._pool.query(DOMAINS, [write_oids(sorted(oids))]))
        oids.update(domains.values())
        enums = parse_enums(await self._pool.query(ENUMS, [write_oids(sorted(oids))]))
        return replace(self._database, enums=enums, domains=domains)

    async def find_ancestors(self, oid: int) -> tuple[int, ...]:
        """
        Ask for the partitioned tables above a relation that the stream names, the nearest first; none when it is gone.

        The stream may bring a commit before other sessions see it: between the two lie the work of the commit and, with
        synchronous replication, the wait for a standby. So a relation that is not in the catalog is either dropped or
        not to be seen yet; then whoever made it still holds its lock, which is waited for, up to `UNSEEN_S_MAX`.

        Raises:
            ConnectionLostError: the database is away.
        """
        deadline = asyncio.get_running_loop().time() + UNSEEN_S_MAX
        try:
            rows = await self._pool.query(ANCESTORS_OF, [str(oid)])
            is_being_made = True
            while not rows and is_being_made and asyncio.get_running_loop().time() < deadline:
                # In this order: a lock that is gone by now means that the next look sees all there is to see.
                is_being_made = bool(await self._pool.query(MAKERS_OF, [str(oid)]))
                if is_being_made:
                    await asyncio.sleep(_UNSEEN_PAUSE_S)
                rows = await self._pool.query(ANCESTORS_OF, [str(oid)])
        except (ServerRefusedError, DeadlineError) as cause:
            raise ConnectionLostError(cause.message, sqlstate=cause.sqlstate) from cause
        return tuple(json.loads(rows[0][0])) if rows and rows[0][0] is not None else ()

    async def refresh(self, oid: int) -> Table | None:
        """
        Read a table anew and keep what was found.

        Raises:
            ConnectionLostError: the database is away.
        """
        self.forget(oid)
        return await self.find_by_oid(oid)

    def confirm(self, oids: Collection[int]) -> None:
        """
        Take somebody's word that these tables are in the catalog as they were when they were last read.
        """
        until = asyncio.get_running_loop().time() + self._fresh_s
        for oid in oids:
            entry = self._entries.get(oid)
            if entry is not None:
                entry.fresh_until = max(entry.fresh_until, until)

    def forget(self, oid: int) -> None:
        """
        Read the table, and the facts about it, anew when they are next asked for.
        """
        entry = self._entries.pop(oid, None)
        if entry is not None and self._oids.get((entry.table.id.schema, entry.table.id.name)) == oid:
            del self._oids[entry.table.id.schema, entry.table.id.name]

    async def _find(
        self, oid: int | None, key: tuple[str, ...], ask: Callable[[], Awaitable[Table | None]]
    ) -> Table | None:
        """
        Give the kept entry while it is fresh, else ask; who asks for the same at the same time shares the answer.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.get(oid) if oid is not None else None
        if entry is not None and loop.time() < entry.fresh_until:
            return entry.table
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = loop.create_task(self._look_up(key, ask), name="catalog lookup")
            self._lookups[key] = lookup
            lookup.add_done_callback(lambda done: self._finish(key, done))
        try:
            return await asyncio.shield(lookup)
        except SourceError as cause:
            if entry is not None:
                entry.fresh_until = loop.time() + _STALE_S
                return entry.table
            raise ConnectionLostError(cause.message, sqlstate=cause.sqlstate) from cause

    def _finish(self, key: tuple[str, ...], lookup: asyncio.Task[Table | None]) -> None:
        """
        Make room for the next lookup; whoever waited has been told of an error, the loop need not be.
        """
        self._lookups.pop(key, None)
        if not lookup.cancelled():
            lookup.exception()

    async def _look_up(self, key: tuple[str, ...], ask: Callable[[], Awaitable[Table | None]]) -> Table | None:
        """
        Ask, and keep what was found.
        """
        asked_at = asyncio.get_running_loop().time()
        table = await ask()
        known_oid = self._oids.get((key[0], key[1])) if len(key) == 2 else int(key[0])
        if known_oid is not None:
            self.forget(known_oid)
        if table is not None:
            self.forget(table.id.oid)
            while len(self._entries) >= TABLES_MAX:
                self.forget(next(iter(self._entries)))
            self._entries[table.id.oid] = _Entry(table, asked_at + self._fresh_s)
            self._oids[table.id.schema, table.id.name] = table.id.oid
        return table

    async def _ask(self, sql: str, *params: str) -> Table | None:
        """
        Ask the catalog.
        """
        rows = await self._pool.query(sql, params)
        return parse_table(rows[0]) if rows else None
