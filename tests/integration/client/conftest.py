"""
One service for all of these tests, and both clients behind one face.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import pytest

import penstock
from harness.service import Service, serving
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

CHUNK_BYTES: Final = 20_000


@dataclass
class Ground:
    """
    A database and a service on it.
    """

    database: ThrowawayDatabase
    service: Service

    @property
    def url(self) -> str:
        return self.service.url

    def make_table(self, count: int = 3, *, columns: str = "n int, word text") -> str:
        """
        Make a table with so many rows that nobody else uses.
        """
        name = f"t_{uuid.uuid4().hex[:12]}"
        self.database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, {columns})")
        if count:
            self.write(name, 1, count)
        return name

    def write(self, table: str, first: int, last: int) -> int:
        """
        Insert rows in one transaction; gives its id.
        """
        query = (
            f"WITH w AS (INSERT INTO {table} (id, n, word) SELECT i, i * 10, repeat('w', 100)"
            f" FROM generate_series({first}, {last}) i RETURNING id) SELECT pg_current_xact_id()::text FROM w LIMIT 1"
        )
        return int(self.database.query(query)[0][0])


@pytest.fixture(scope="session")
def ground(postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """
    A running service with short polls and small chunks.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    service = Service(
        database.url,
        tmp_path_factory.mktemp("followed"),
        env={
            "PENSTOCK_CHUNK_BYTES_MAX": str(CHUNK_BYTES),
            "PENSTOCK_LONG_POLL_TIMEOUT_S": "1",
            "PENSTOCK_ENABLE_INTEGRATION_TESTING": "true",
        },
    )
    try:
        with serving(service):
            yield Ground(database, service)
    finally:
        database.drop()


class Awaited:
    """
    An object of the blocking client, with the face of its counterpart: what waits there is awaited here.
    """

    WAITING: Final = frozenset({"wait_for", "wait_until", "load", "next_batch", "subset"})

    def __init__(self, blocking: Any) -> None:
        self._blocking: Final = blocking

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._blocking.__enter__)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await asyncio.to_thread(self._blocking.__exit__, kind)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._blocking, name)
        if name in self.WAITING:

            async def call(*args: Any, **options: Any) -> Any:
                return await asyncio.to_thread(found, *args, **options)

            return call
        if name in {"shape", "stream"}:
            return lambda *args, **options: Awaited(found(*args, **options))
        return found


@dataclass(frozen=True)
class Kind:
    """
    A client and a way to receive changes.
    """

    is_blocking: bool
    sse: bool

    def connect(self, url: str, **options: Any) -> Any:
        """
        Make a client.
        """
        return Awaited(penstock.Client(url, **options)) if self.is_blocking else penstock.AsyncClient(url, **options)


KINDS: Final = [Kind(is_blocking, sse) for is_blocking in (False, True) for sse in (False, True)]


@pytest.fixture(
    params=KINDS, ids=lambda kind: f"{'blocking' if kind.is_blocking else 'async'}-{'events' if kind.sse else 'polls'}"
)
def kind(request: pytest.FixtureRequest) -> Kind:
    """
    Each client, by long polls and by events.
    """
    assert isinstance(request.param, Kind)
    return request.param


async def of_each_kind(test: Callable[[Kind], Coroutine[Any, Any, None]]) -> None:
    """
    Run something for each kind at the same time, because most of it is waiting.
    """
    async with asyncio.TaskGroup() as group:
        for kind in KINDS:
            group.create_task(test(kind))


@pytest.fixture(params=[False, True], ids=["async", "blocking"])
async def each_client(ground: Ground, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """
    Each client of the service, for what does not depend on how changes come.
    """
    async with Kind(is_blocking=request.param, sse=False).connect(ground.url) as connected:
        yield connected


@pytest.fixture
async def client(ground: Ground, kind: Kind) -> AsyncIterator[Any]:
    """
    A client of the service.
    """
    async with kind.connect(ground.url) as connected:
        yield connected
