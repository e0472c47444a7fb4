"""
The catalogue's table, a service that follows its database, and the question whether shapes are what queries are.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest
import sqlalchemy as sa

import penstock
from harness import catalogue
from harness.service import Service, serving
from penstock.models import ModelShape
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

PATIENCE_S: Final = 60.0


@dataclass
class Ground:
    """
    A database with the catalogue, and a service on it.
    """

    database: ThrowawayDatabase
    engine: sa.Engine
    service: Service

    def fill(self, seed: int) -> None:
        """
        Have other rows in the table.
        """
        with self.engine.begin() as connection:
            connection.execute(sa.delete(catalogue.Thing))
            connection.execute(sa.insert(catalogue.Thing), catalogue.rows(seed))

    def rotate(self) -> None:
        """
        Give each row the values of the next one.
        """
        with self.engine.begin() as connection:
            connection.execute(catalogue.ROTATE)

    async def agree(self, shapes: Sequence[ModelShape], ask: Callable[[int], set[int]]) -> None:
        """
        Hold shapes to the queries that they were made of, before and after all rows have changed.

        Args:
            shapes: what to follow.
            ask: gives the keys of the rows that the query of such a number has.
        """
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(penstock.AsyncClient(self.service.url))
            followed = [await stack.enter_async_context(client.shape(shape)) for shape in shapes]

            async def compare() -> None:
                wanted = [await asyncio.to_thread(ask, number) for number in range(len(shapes))]
                for shape, of, keys in zip(followed, shapes, wanted, strict=True):

                    def is_same(rows: tuple[dict[str, Any], ...], keys: set[int] = keys) -> bool:
                        return {row["id"] for row in rows} == keys

                    try:
                        await shape.wait_for(is_same, timeout_s=PATIENCE_S)
                    except TimeoutError:
                        have = sorted(row["id"] for row in shape.rows)
                        raise AssertionError(f"{of.definition}: {have} and not {sorted(keys)}") from None

            await compare()
            await asyncio.to_thread(self.rotate)
            await compare()


@pytest.fixture(scope="session")
def ground(postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """
    A running service with short polls.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    engine = catalogue.engine_of(database.url)
    service = Service(
        database.url, tmp_path_factory.mktemp("models"), "--single-process", env={"PENSTOCK_LONG_POLL_TIMEOUT_S": "1"}
    )
    try:
        catalogue.Base.metadata.create_all(engine)
        with serving(service):
            yield Ground(database, engine, service)
    finally:
        engine.dispose()
        database.drop()
