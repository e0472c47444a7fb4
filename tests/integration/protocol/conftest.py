"""
One service for all of these tests: small chunks, short polls, removal allowed.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple

import httpx
import pytest

from harness.service import Service
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

CHUNK_BYTES: Final = 100_000
START_TIMEOUT_S: Final = 60.0


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
    service.start()
    try:
        wait_active(service)
        yield Served(database, service)
        asyncio.run(service.stop())
    finally:
        service.kill_all()
        database.drop()


def wait_active(service: Service) -> None:
    """
    Wait until a service can make shapes.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(base_url=service.url) as client:
        while time.monotonic() < deadline:
            try:
                if client.get("/v1/health").json() == {"status": "active"}:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise AssertionError(f"not active after {START_TIMEOUT_S} s:\n{service.log_tail()}")
