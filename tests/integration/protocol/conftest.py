"""
One service for all of these tests: small chunks, short polls, removal allowed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from harness.service import Service, serving
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

CHUNK_BYTES: Final = 100_000


class Served(NamedTuple):
    """
    A database and a service on it.
    """

    database: ThrowawayDatabase
    service: Service

    @property
    def url(self) -> str:
        return self.service.url


@pytest.fixture(scope="session")
def served(postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """
    A running service with a database of its own.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    service = Service(
        database.url,
        tmp_path_factory.mktemp("served"),
        env={
            "PENSTOCK_ENABLE_INTEGRATION_TESTING": "true",
            "PENSTOCK_CHUNK_BYTES_MAX": str(CHUNK_BYTES),
            "PENSTOCK_LONG_POLL_TIMEOUT_S": "2",
        },
    )
    try:
        with serving(service):
            yield Served(database, service)
    finally:
        database.drop()
