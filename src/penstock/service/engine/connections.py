"""
The engine's ordinary connections to the database: three pools, because none may wait for another's work.

Shell; opens nothing before somebody asks for a connection.
"""

from __future__ import annotations

from typing import Final

import structlog

from penstock.database.inspector import CatalogInspector
from penstock.database.pool import ConnectionPool
from penstock.database.urls import parse_database_url
from penstock.service.settings import Settings

_log: Final = structlog.get_logger(__name__)


class Connections:
    """
    The pools, and what answers questions about the catalog over them.

    Attributes:
        admin: for the catalog, the publication and polls.
        snapshots: for initial snapshots and subsets; may go through a pooler.
        budget: for the look at the server's log, which must not wait behind the others.
        inspector: the catalog.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Read the addresses.

        Raises:
            ConfigError: an address cannot be read.
        """
        ca_file = settings.database_ca_certificate_file
        certificates = None if ca_file is None else str(ca_file)
        tcp = settings.tcp_options()
        url = pooled = parse_database_url(settings.database_url, ca_file=certificates, defaults=tcp)
        if settings.pooled_database_url is not None:
            pooled = parse_database_url(settings.pooled_database_url, ca_file=certificates, defaults=tcp)
        for warning in url.warnings:
            _log.warning(warning)
        self.admin: Final = ConnectionPool(url, size=settings.admin_pool_size)
        self.snapshots: Final = ConnectionPool(pooled, size=settings.snapshot_pool_size)
        self.budget: Final = ConnectionPool(url, size=1, application_name="penstock budget")
        self.inspector: Final = CatalogInspector(self.admin)

    @property
    def pools(self) -> tuple[ConnectionPool, ...]:
        """
        All of them.
        """
        return self.admin, self.snapshots, self.budget

    @property
    def in_use_count(self) -> int:
        """
        How many connections are lent to somebody.
        """
        return sum(pool.in_use_count for pool in self.pools)

    async def close(self) -> None:
        """
        End all connections.
        """
        for pool in self.pools:
            await pool.close()
