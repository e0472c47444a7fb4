"""
Takes initial snapshots. A shell.

Each is one transaction on a connection of its own: repeatable read; first the snapshot's transaction ids, then the
insert LSN, so that every commit the snapshot shows is below it; then the rows, already JSON (see `queries.py`), handed
on in blocks as they came. After the last row it is verified that the table was not replaced or rewritten between the
taking of the snapshot and of the table's lock.

Limits: the pool's size; `first_data_s_max` from the start of the query to its first rows; `silence_s_max` without any
row later on. The consumer's pace is the query's: what it does not take stays with the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from penstock.database.failures import DeadlineError, judge, snapshot_too_slow
from penstock.database.pool import QUERY_S_MAX, ConnectionPool
from penstock.database.queries import begin_snapshot, copy_snapshot, parse_bounds, parse_table, verify_snapshot
from penstock.database.session import Session
from penstock.errors import ConnectionLostError, RequestError, ShapeError, SourceError
from penstock.postgres.relation import Table, TableId
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import LogMode, ShapeDefinition

FIRST_DATA_S_MAX: Final = 30.0
SILENCE_S_MAX: Final = 600.0
BLOCK_BYTES_MIN: Final = 128 * 1024


class TakenSnapshot:
    """
    A query under way in its own transaction.

    Attributes:
        bounds: what it sees.
    """

    def __init__(self, session: Session, bounds: SnapshotBounds, table: TableId, *, too_slow: RequestError) -> None:
        """
        Take over a session in whose transaction the copy has begun, or in which there is nothing to copy.
        """
        self.bounds = bounds
        self._session: Final = session
        self._table: Final = table
        self._too_slow: Final = too_slow

    async def blocks(self) -> AsyncIterator[bytes]:
        """
        The rows as blocks of whole lines, each line a JSON element ended by a newline.

        Raises:
            RequestError: the database refused, with the status and text for the client.
            ConnectionLostError: the database is away.
        """
        try:
            while block := await self._session.read_copy(BLOCK_BYTES_MIN, silence_s=SILENCE_S_MAX):
                yield block
            (verdict,) = await self._session.query(verify_snapshot(self._table), timeout_s=QUERY_S_MAX)
        except ConnectionLostError:
            raise
        except SourceError as cause:
            raise _as_request_error(cause, self._too_slow) from cause
        if verdict[0] != "t":
            raise _create_anew()


class PostgresSnapshots:
    """
    Takes snapshots on a bounded pool of connections; these may go through PgBouncer in transaction mode.
    """

    def __init__(self, pool: ConnectionPool, *, first_data_s_max: float = FIRST_DATA_S_MAX) -> None:
        """
        Take the pool for snapshots.
        """
        self._pool: Final = pool
        self._first_data_s_max: Final = first_data_s_max

    @asynccontextmanager
    async def open(self, definition: ShapeDefinition) -> AsyncIterator[TakenSnapshot]:
        """
        Begin a repeatable-read transaction, read its bounds and start the query; returns when its first rows are there.

        Leaving the context before the last block ends the query on the server.

        Raises:
            RequestError: the database refused or is away, or no connection was free in time.
            ShapeError: the table or a column is gone.
        """
        too_slow = snapshot_too_slow(self._first_data_s_max)
        is_open = False
        try:
            async with self._pool.session() as session:
                try:
                    snapshot = await self._begin(session, definition, too_slow)
                    is_open = True
                    yield snapshot
                finally:
                    await session.roll_back()
        except SourceError as cause:
            if is_open:
                raise
            raise judge(cause, when_late=too_slow) from cause

    async def _begin(self, session: Session, definition: ShapeDefinition, too_slow: RequestError) -> TakenSnapshot:
        """
        Open the transaction, compare the table with the definition, start the copy.
        """
        deadline = asyncio.get_running_loop().time() + self._first_data_s_max
        script = begin_snapshot(definition, session.server_version)
        *_, seen, horizon, tables = await session.script(script, timeout_s=self._first_data_s_max)
        bounds = parse_bounds(seen, horizon)
        table = parse_table(tables[0]) if tables else None
        if table is None or not is_as_defined(table, definition):
            raise ShapeError(f'Database table "{definition.table.schema}.{definition.table.name}" has changed')
        if definition.log is LogMode.FULL:
            remaining_s = deadline - asyncio.get_running_loop().time()
            await session.start_copy(
                copy_snapshot(definition, is_partitioned=table.is_partitioned), timeout_s=remaining_s
            )
        return TakenSnapshot(session, bounds, definition.table, too_slow=too_slow)


def is_as_defined(table: Table, definition: ShapeDefinition) -> bool:
    """
    Tell whether a table is what a definition was made for, as far as it matters to the shape.

    Columns may have been added when the client listed its own.
    """
    if table.id != definition.table or table.key_columns != definition.key_columns:
        return False
    now = {column.name: (column.type_oid, column.typmod) for column in table.columns}
    if any(now.get(column.name) != (column.type_oid, column.typmod) for column in definition.columns):
        return False
    return definition.is_explicit or len(now) == len(definition.columns)


def _as_request_error(error: SourceError, too_slow: RequestError) -> RequestError:
    """
    Say what a client is told about an error among the rows.
    """
    if isinstance(error, DeadlineError):
        return too_slow
    judged = judge(error, when_late=too_slow)
    return judged if isinstance(judged, RequestError) else _create_anew()


def _create_anew() -> RequestError:
    """
    Make the answer for a snapshot of a table that changed under it.
    """
    return RequestError(503, "Failed to create shape, please retry", retry_after_s=1)
