"""
The ground on which a database is tortured: a schema, a publication and a slot of its own, and nothing else. A shell.

Owns what is made in the user's database and its removal, the writing that goes on all the while, and the look at the
slot. No table of the user's is touched. What is made carries the prefix `penstock_torture_`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from penstock.errors import ConfigError, SourceError
from penstock.testing.torture.catalogue import FaultSpec

PREFIX: Final = "penstock_torture_"
WORD: Final = "poison"
LOOK_S: Final = 0.05
"""How often the slot is looked at."""
WRITE_PAUSE_S: Final = 0.03
DROP_TIMEOUT_S: Final = 20.0

_TABLE: Final[LiteralString] = "CREATE TABLE {} (id bigint PRIMARY KEY, word text, n int)"
_LOOK: Final[LiteralString] = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint,
       pg_wal_lsn_diff(restart_lsn, '0/0')::bigint
FROM (SELECT 1) AS one LEFT JOIN pg_replication_slots ON slot_name = %s
"""


class Ground:
    """
    The database while it is tortured.

    Attributes:
        url: of the database.
        name: of the schema, and of what else is made.
        held_bytes: most that was seen between the confirmed position and the end of the log since `forget_held`.
        server_bytes: likewise, between the place from which the server keeps log and the confirmed position.
    """

    def __init__(self, url: str, name: str) -> None:
        """
        Touch nothing yet.
        """
        self.url: Final = url
        self.name: Final = name
        self.slot: Final = f"{name}_slot"
        self.publication: Final = name
        self.held_bytes = 0
        self.server_bytes = 0
        self._confirmed = 0
        self._looked: Final = asyncio.Condition()
        self._may_write: Final = asyncio.Event()
        self._has_paused: Final = asyncio.Event()
        self._number = 1000

    # --- making and removing -----------------------------------------------------------------------------------------

    def make(self, specs: Sequence[FaultSpec]) -> None:
        """
        Make schema and tables.

        Raises:
            ConfigError: the user may not, or the server keeps too little log.
            SourceError: the database cannot be reached.
        """
        tables = ["bystander", "conditional", "unwatched", *(spec.table for spec in specs)]
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                found = connection.execute("SHOW wal_level").fetchone()
                if found is None or found[0] != "logical":
                    raise ConfigError("wal_level is not logical: `penstock doctor` says how to mend it")
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.name)))
                for table in tables:
                    connection.execute(sql.SQL(_TABLE).format(self.identifier(table)))
                    connection.execute(
                        sql.SQL("INSERT INTO {} SELECT i, 'before', i FROM generate_series(1, 5) AS i").format(
                            self.identifier(table)
                        )
                    )
        except psycopg.errors.InsufficientPrivilege as cause:
            raise ConfigError(f"the database user may not make a schema: {cause.diag.message_primary}") from cause
        except psycopg.OperationalError as cause:
            raise SourceError(f"the database cannot be reached: {str(cause).strip()}") from cause

    def remove(self) -> None:
        """
        Remove all that was made. Blocks; safe to call again.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            self.drop_slot(connection)
            connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(self.publication)))
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(self.name)))

    def drop_slot(self, connection: psycopg.Connection[Any]) -> None:
        """
        Drop the slot under whoever uses it.
        """
        deadline = time.monotonic() + DROP_TIMEOUT_S
        while True:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                "WHERE slot_name = %s AND active_pid IS NOT NULL",
                (self.slot,),
            )
            try:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                    (self.slot,),
                )
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                # Its user has just come back, or somebody was faster.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def identifier(self, table: str) -> sql.Identifier:
        """
        Name a table in a statement.
        """
        return sql.Identifier(self.name, table)

    # --- asking and writing ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """
        A connection that commits each statement.
        """
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            yield connection

    async def strike(self, table: str) -> int:
        """
        Write the word that faults wait for; gives the position behind it.
        """
        async with self.connected() as connection:
            statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, 0)").format(self.identifier(table))
            await connection.execute(statement, (self._next(), WORD))
            return await _position(connection)

    async def write_bytes(self, table: str, bytes_count: int, word: str = "much") -> int:
        """
        Write about so much log in transactions of half a megabyte; gives the position behind it.
        """
        statement = sql.SQL(
            "INSERT INTO {} SELECT %s + i, %s || (SELECT string_agg(md5(random()::text || k || i), '') "
            "FROM generate_series(1, 64) AS k), i FROM generate_series(1, 256) AS i"
        ).format(self.identifier(table))
        async with self.connected() as connection:
            start = end = await _position(connection)
            while end < start + bytes_count:
                # Others take numbers meanwhile: these are taken first.
                first, self._number = self._number, self._number + 1000
                await connection.execute(statement, (first, word))
                end = await _position(connection)
            return end

    async def position(self) -> int:
        """
        Give the end of the log.
        """
        async with self.connected() as connection:
            return await _position(connection)

    async def query_rows(self, table: str, condition: LiteralString = "") -> list[tuple[str | None, ...]]:
        """
        Give the rows that a shape must have, as text.
        """
        query = sql.SQL("SELECT id::text, word, n::text FROM {}").format(self.identifier(table))
        if condition:
            query += sql.SQL(" WHERE ") + sql.SQL(condition)
        async with self.connected() as connection:
            rows = await (await connection.execute(query)).fetchall()
        return sorted((tuple(row) for row in rows), key=repr)

    def _next(self) -> int:
        self._number += 1
        return self._number

    # --- what goes on all the while ----------------------------------------------------------------------------------

    async def keep_writing(self) -> None:
        """
        Change the innocent tables and one that nobody watches, until cancelled.
        """
        async with self.connected() as connection:
            while True:
                if not self._may_write.is_set():
                    self._has_paused.set()
                    await self._may_write.wait()
                self._has_paused.clear()
                await self._write_once(connection)
                await asyncio.sleep(WRITE_PAUSE_S)

    async def _write_once(self, connection: psycopg.AsyncConnection[Any]) -> None:
        number = 1_000_000_000 + self._next()
        async with connection.transaction():
            for table in ("bystander", "conditional", "unwatched"):
                name = self.identifier(table)
                await connection.execute(
                    sql.SQL("INSERT INTO {} VALUES (%s, repeat('x', 200), 0)").format(name), (number,)
                )
                await connection.execute(
                    sql.SQL("UPDATE {} SET n = n + 1, word = 'after' WHERE id IN (%s, %s)").format(name),
                    (number % 5 + 1, number - 3),
                )
                await connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(name), (number - 200,))

    def write_on(self) -> None:
        """
        Let writing go on.
        """
        self._may_write.set()

    async def pause_writing(self) -> None:
        """
        Hold it, and wait until it holds.
        """
        self._may_write.clear()
        self._has_paused.clear()
        await self._has_paused.wait()

    async def keep_looking(self) -> None:
        """
        Look at the slot until cancelled.
        """
        async with self.connected() as connection:
            while True:
                row = await (await connection.execute(_LOOK, (self.slot,))).fetchone()
                assert row is not None
                end, confirmed, restart = row
                if confirmed is not None:
                    self.held_bytes = max(self.held_bytes, end - confirmed)
                    self.server_bytes = max(self.server_bytes, confirmed - (restart or confirmed))
                async with self._looked:
                    self._confirmed = confirmed or 0
                    self._looked.notify_all()
                await asyncio.sleep(LOOK_S)

    def forget_held(self) -> None:
        """
        Measure what is held afresh.
        """
        self.held_bytes = self.server_bytes = 0

    async def wait_confirmed(self, position: int, timeout_s: float) -> float | None:
        """
        Wait until the slot is confirmed up to a position; gives the time, None when it was not in time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._looked:
                await self._looked.wait_for(lambda: self._confirmed >= position)
                return time.monotonic()
        return None


async def _position(connection: psycopg.AsyncConnection[Any]) -> int:
    row = await (await connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")).fetchone()
    assert row is not None
    return int(row[0])
