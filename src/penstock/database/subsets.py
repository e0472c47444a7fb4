"""
Asks for the rows of a subset. A shell.

Each is one transaction on a connection of the snapshots' pool, repeatable read and read only, with the same order as an
initial snapshot: first the transaction ids it sees, then the insert LSN, so that every commit it shows is below that;
then the rows, already JSON. After the last row it is verified that the table was not replaced meanwhile.

Limits: `count_max` at a time, so that subsets cannot keep initial snapshots from their connections; `timeout_s` for the
whole query, which the server knows too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from penstock.database.failures import (
    DeadlineError,
    PoolBusyError,
    ServerRefusedError,
    judge,
    refuse_subset,
    snapshot_too_slow,
)
from penstock.database.pool import QUERY_S_MAX, ConnectionPool
from penstock.database.queries import (
    begin_snapshot,
    copy_subset,
    parse_bounds,
    parse_table,
    verify_snapshot,
)
from penstock.database.session import Session
from penstock.database.snapshots import BLOCK_BYTES_MIN, is_as_defined
from penstock.errors import PenstockError, RequestError, ShapeError, SourceError
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.subset import Subset

TIMEOUT_S: Final = 30.0
WAIT_S_MAX: Final = 5.0


class TakenSubset:
    """
    A query under way in its own transaction.

    Attributes:
        bounds: what it sees.
    """

    def __init__(self, session: Session, bounds: SnapshotBounds, *, query: str, verify: str, deadline: float) -> None:
        """
        Take over a session in whose transaction nothing has been asked yet.
        """
        self.bounds = bounds
        self._session: Final = session
        self._query: Final = query
        self._verify: Final = verify
        self._deadline: Final = deadline

    async def blocks(self) -> AsyncIterator[bytes]:
        """
        The rows as blocks of whole lines, each line a JSON element ended by a newline.

        Raises:
            SourceError: as the session says; whoever opened the subset says what the client is told.
            ShapeError: the table changed meanwhile.
        """
        await self._session.start_copy(self._query, timeout_s=self._left_s())
        while block := await self._session.read_copy(BLOCK_BYTES_MIN, silence_s=self._left_s()):
            yield block
        (verdict,) = await self._session.query(self._verify, timeout_s=QUERY_S_MAX)
        if verdict[0] != "t":
            raise ShapeError("the table was replaced while a subset of it was read")

    def _left_s(self) -> float:
        left_s = self._deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlineError("the subset took too long")
        return left_s


class PostgresSubsets:
    """
    Asks for subsets on a bounded pool of connections; these may go through PgBouncer in transaction mode.
    """

    def __init__(self, pool: ConnectionPool, *, count_max: int, timeout_s: float = TIMEOUT_S) -> None:
        """
        Take the pool, of which at most `count_max` connections are used.
        """
        self._pool: Final = pool
        self._free: Final = asyncio.Semaphore(count_max)
        self._timeout_s: Final = timeout_s

    @asynccontextmanager
    async def open(self, definition: ShapeDefinition, subset: Subset, *, mark: int) -> AsyncIterator[TakenSubset]:
        """
        Begin a repeatable-read transaction and read its bounds; the rows are asked for with the first block.

        Leaving the context before the last block ends the query on the server.

        Args:
            definition: of the shape.
            subset: which of its rows.
            mark: a number that all rows carry.

        Raises:
            RequestError: the database refused or is away, or no connection was free in time.
            ShapeError: the table or a column is gone, or changed.
        """
        try:
            async with self._turn(), self._pool.session() as session:
                try:
                    yield await self._begin(session, definition, subset, mark)
                finally:
                    await session.roll_back()
        except SourceError as cause:
            raise _judge(cause, snapshot_too_slow(self._timeout_s)) from cause

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await self._free.acquire()
        except TimeoutError as cause:
            raise PoolBusyError("as many subsets as may be are being read") from cause
        try:
            yield
        finally:
            self._free.release()

    async def _begin(self, session: Session, definition: ShapeDefinition, subset: Subset, mark: int) -> TakenSubset:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        script = begin_snapshot(
            definition, session.server_version, statement_timeout_ms=max(1, round(self._timeout_s * 1000))
        )
        *_, seen, horizon, tables = await session.script(script, timeout_s=self._timeout_s)
        bounds = parse_bounds(seen, horizon)
        table = parse_table(tables[0]) if tables else None
        if table is None or not is_as_defined(table, definition):
            raise ShapeError(f'Database table "{definition.table.schema}.{definition.table.name}" has changed')
        query = copy_subset(definition, subset, mark=mark, is_partitioned=table.is_partitioned)
        return TakenSubset(session, bounds, query=query, verify=verify_snapshot(definition.table), deadline=deadline)


def _judge(error: SourceError, too_slow: RequestError) -> PenstockError:
    if isinstance(error, ServerRefusedError):
        refused = refuse_subset(error)
        if refused is not None:
            return refused
    return judge(error, when_late=too_slow)
