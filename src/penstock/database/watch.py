"""
Compares the tables that have shapes with the catalog, again and again. A shell.

The stream tells of a changed table only with its next row, and of a dropped one never, so the catalog is asked each
second, by one query for all tables. Each poll also reads a snapshot and the insert LSN: what that snapshot shows
visible need not be remembered as routed but not yet visible.

A table that the watch sees for the first time is reported like a changed one: whatever happened to it while nobody
watched, also before a restart, is found by comparing it with the definitions of its shapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from penstock.database.inspector import CatalogInspector
from penstock.database.pool import QUERY_S_MAX, ConnectionPool
from penstock.database.publication import PublicationTables
from penstock.database.queries import BOUNDS, Row, catalog_poll, parse_bounds, write_oids
from penstock.errors import SourceError
from penstock.postgres.relation import Table
from penstock.postgres.snapshot import SnapshotBounds

_REST_MIN: Final = 9.0  # pauses are at least so many times as long as polls: with very many tables we look less often

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TableGone:
    """
    A table was dropped, or is no table any more. Told once.
    """

    oid: int


@dataclass(frozen=True, slots=True)
class TableChanged:
    """
    A table as it is now: it differs from what was told last, or is told of for the first time.

    The difference may be in something that concerns no shape: a default, the replica identity, a key.
    """

    table: Table


CatalogEvent: TypeAlias = TableGone | TableChanged


class CatalogWatch:
    """
    Polls the catalog. Owned by one task that runs `run`.

    Attributes:
        polls_count: polls that came to an end.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        inspector: CatalogInspector,
        publication: PublicationTables,
        *,
        tables: Callable[[], Collection[int]],
        on_event: Callable[[CatalogEvent], None],
        on_snapshot: Callable[[SnapshotBounds], None],
        interval_s: float = 1.0,
        repair_interval_s: float = 60.0,
        may_poll: asyncio.Event | None = None,
    ) -> None:
        """
        Take what to watch and whom to tell.

        Args:
            pool: connections for catalog queries.
            inspector: its entries are kept fresh, or dropped.
            publication: told of the memberships that were found, and asked to repair what somebody undid.
            tables: gives the oids of the tables that have shapes.
            on_event: called for each event, in the loop.
            on_snapshot: called at each poll.
            interval_s: time between two polls.
            repair_interval_s: time between two attempts at one table's replica identity, and between two clearings of
                the publication.
            may_poll: polls wait until it is set; None for always.
        """
        self._may_poll: Final = may_poll
        self.polls_count = 0
        self._pool: Final = pool
        self._inspector: Final = inspector
        self._publication: Final = publication
        self._tables: Final = tables
        self._on_event: Final = on_event
        self._on_snapshot: Final = on_snapshot
        self._interval_s: Final = interval_s
        self._repair_interval_s: Final = repair_interval_s
        self._digests: Final[dict[int, str | None]] = {}
        self._repaired_at: Final[dict[int, float]] = {}
        self._cleared_at: float | None = None

    async def run(self) -> None:
        """
        Poll until cancelled. While the database is away, go on trying.
        """
        is_failing = False
        while True:
            if self._may_poll is not None:
                await self._may_poll.wait()
            begun_at = asyncio.get_running_loop().time()
            try:
                await self.poll()
            except SourceError as error:
                if not is_failing:
                    _log.warning("the catalog cannot be watched", error=error.message, sqlstate=error.sqlstate)
                is_failing = True
            else:
                if is_failing:
                    _log.info("the catalog is watched again")
                is_failing = False
            took_s = asyncio.get_running_loop().time() - begun_at
            await asyncio.sleep(max(self._interval_s, took_s * _REST_MIN))

    async def poll(self) -> None:
        """
        Compare once.

        Raises:
            SourceError: the database is away, or refuses.
        """
        wanted = frozenset(self._tables())
        partitions = {oid: self._publication.partitions_of(oid) for oid in wanted}
        async with self._pool.session() as session:
            bounds = parse_bounds(*await session.script(BOUNDS, timeout_s=QUERY_S_MAX))
            rows: list[Row] = []
            if wanted:
                params = [self._publication.name, write_oids(sorted(wanted))]
                rows = await session.query(catalog_poll(session.server_version), params, timeout_s=QUERY_S_MAX)
        self._on_snapshot(bounds)
        for oid in self._digests.keys() - wanted:
            del self._digests[oid]
        found = {int(row[0]): row for row in rows if row[0] is not None}
        unchanged = [oid for oid, row in found.items() if self._digests.get(oid) == row[1]]
        self._inspector.confirm(unchanged)
        for oid in wanted - found.keys():
            self._tell_gone(oid)
        for oid in found.keys() - unchanged:
            table = await self._inspector.refresh(oid)
            if table is None:
                self._tell_gone(oid)
            else:
                self._digests[oid] = found[oid][1]
                self._on_event(TableChanged(table))
        for oid, (_, _, membership, is_identity_full, form) in found.items():
            assert form is not None
            await self._publication.observe(
                oid, int(membership) if membership is not None else None, form, partitions[oid]
            )
            if is_identity_full != "t":
                await self._repair(oid)
        await self._clear(wanted)
        self.polls_count += 1

    def _tell_gone(self, oid: int) -> None:
        """
        Tell once that a table is gone.
        """
        self._inspector.forget(oid)
        if oid not in self._digests or self._digests[oid] is not None:
            self._digests[oid] = None
            self._on_event(TableGone(oid))

    async def _repair(self, oid: int) -> None:
        """
        Have replica identity full restored, now and then: somebody reset it, or a partition was added without.
        """
        now = asyncio.get_running_loop().time()
        if now < self._repaired_at.get(oid, now):
            return
        # What is due again says no more than nothing would, and its table may be gone.
        for each in [each for each, due in self._repaired_at.items() if due <= now]:
            del self._repaired_at[each]
        self._repaired_at[oid] = now + self._repair_interval_s
        table = await self._inspector.find_by_oid(oid)
        if table is not None:
            self._publication.repair(table)

    async def _clear(self, wanted: frozenset[int]) -> None:
        """
        Now and then have tables without shapes taken out of the publication.
        """
        now = asyncio.get_running_loop().time()
        if self._cleared_at is None:
            # Not at once: after a start not every shape may be known yet.
            self._cleared_at = now
        elif now >= self._cleared_at + self._repair_interval_s:
            self._cleared_at = now
            await self._publication.drop_superfluous(wanted)
