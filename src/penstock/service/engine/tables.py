"""
What becomes of the shapes on a table when the database says something new about it.

Shell between the publication, the watch over the catalog and the consumers; decides only whom a message concerns.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from penstock.consumers.stage import ConsumersStage
from penstock.database.publication import PublicationTables
from penstock.database.watch import CatalogEvent, TableChanged, TableGone
from penstock.errors import PenstockError
from penstock.service.engine.health import EngineHealth

_log: Final = structlog.get_logger(__name__)

RETRY_S: Final = 1.0
"""How long to wait before the database is asked again."""


class TableChanges:
    """
    Passes on what is learnt about tables.

    Attributes:
        are_generated_published: whether the stream brings generated columns, as far as is known.
    """

    def __init__(self, *, publication: PublicationTables, consumers: ConsumersStage, health: EngineHealth) -> None:
        """
        Take whom it asks and whom it tells.
        """
        self._publication: Final = publication
        self._consumers: Final = consumers
        self._health: Final = health
        self.are_generated_published = False

    async def learn_options(self) -> None:
        """
        Find out once it is there whether the publication brings generated columns.
        """
        while True:
            await self._health.wait_active()
            try:
                self.are_generated_published = await self._publication.publishes_generated()
            except PenstockError as error:
                _log.warning("the publication's options cannot be read", error=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def give_up(self, oid: int, reason: str, columns: frozenset[str] | None) -> None:
        """
        Give up, durably, the shapes on a table of which the stream did not tell all: those that read one of these
        columns, or with None all of them.
        """
        registry = self._consumers.registry
        entries = registry.on_table(oid)
        if columns is not None:
            entries = [entry for entry in entries if any(column.name in columns for column in entry.definition.columns)]
        registry.condemn(entries, reason)
        for entry in entries:
            await registry.wait_gone(entry)

    def handle(self, event: CatalogEvent) -> None:
        """
        The catalog has changed.
        """
        match event:
            case TableGone(oid):
                registry = self._consumers.registry
                registry.condemn(registry.on_table(oid), "its table has been dropped or renamed")
            case TableChanged(table):
                self._consumers.catalog.table_changed(table)
