"""A service that the tests of one module share, each with tables of its own names."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from harness.oracle import Audience
from harness.service import Service
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres


@pytest.fixture(scope="module")
def source(postgres_server: ThrowawayPostgres) -> Iterator[ThrowawayDatabase]:
    """
    The database of the shared service.
    """
    fresh = postgres_server.create_database(f"schema_{uuid.uuid4().hex[:12]}")
    yield fresh
    fresh.drop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(source: ThrowawayDatabase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """
    A running service, and at its end the proof that no test made it take a change of a table for a fault.
    """
    folder: Path = tmp_path_factory.mktemp("service")
    async with Service(source.url, folder) as running:
        yield running
        status = await running.status()
        assert (status["shed_count"], status["epoch"]) == (0, 1)
        assert status["problems"] == []


@pytest_asyncio.fixture(loop_scope="module")
async def audience(service: Service, source: ThrowawayDatabase) -> AsyncIterator[Audience]:
    """
    Clients for one test.
    """
    async with Audience(service.url, source.url) as clients:
        yield clients
