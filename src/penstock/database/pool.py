"""
A bounded set of connections. A shell.

Connections are made when they are needed and kept while they are good, the latest used first; there is no task in the
background, so an idle pool that was emptied by `close_idle` costs the server nothing. A connection whose query was
abandoned is disposed of by a task of the pool's own, so that giving up a query takes no time.

Limits: `size` connections, `wait_s_max` in line for one. While the database is away, attempts follow each other by at
least `_RETRY_S`; in between everyone is told what the last attempt was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from penstock.database.failures import PoolBusyError
from penstock.database.session import CANCEL_S_MAX, Row, Session
from penstock.database.urls import DatabaseUrl
from penstock.errors import ConnectionLostError

QUERY_S_MAX: Final = 5.0
CONNECT_S_MAX: Final = 10.0
WAIT_S_MAX: Final = 5.0
_RETRY_S: Final = 0.5


class ConnectionPool:
    """
    Up to `size` connections to one database.
    """

    def __init__(
        self,
        url: DatabaseUrl,
        *,
        size: int,
        application_name: str = "penstock",
        wait_s_max: float = WAIT_S_MAX,
        connect_s_max: float = CONNECT_S_MAX,
    ) -> None:
        """
        Take the parameters; nothing is connected yet.
        """
        assert size > 0, size
        self.size: Final = size
        self._url: Final = url
        self._application_name: Final = application_name
        self._wait_s_max: Final = wait_s_max
        self._connect_s_max: Final = connect_s_max
        self._free: Final = asyncio.Semaphore(size)
        self._idle: Final[list[Session]] = []
        self._burials: Final[set[asyncio.Task[None]]] = set()
        self._failure: tuple[float, ConnectionLostError] | None = None
        self._in_use_count = 0
        self._is_closed = False

    @property
    def in_use_count(self) -> int:
        """
        Connections that are lent out now.
        """
        return self._in_use_count

    @property
    def idle_count(self) -> int:
        """
        Connections that are open and lent to nobody.
        """
        return len(self._idle)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """
        Lend a connection. It comes back to the pool if it is idle by then, otherwise it is ended.

        Raises:
            PoolBusyError: none was free in time.
            ConnectionLostError: none could be made.
        """
        try:
            async with asyncio.timeout(self._wait_s_max):
                await self._free.acquire()
        except TimeoutError as cause:
            raise PoolBusyError("every connection to the database stayed in use") from cause
        try:
            session = await self._take()
            self._in_use_count += 1
            try:
                yield session
            finally:
                self._in_use_count -= 1
                self._take_back(session)
        finally:
            self._free.release()

    async def query(self, sql: str, params: Sequence[str | None] = (), *, timeout_s: float = QUERY_S_MAX) -> list[Row]:
        """
        Run one statement outside any transaction, on any connection. See `Session.query`.
        """
        async with self.session() as session:
            return await session.query(sql, params, timeout_s=timeout_s)

    async def script(self, sql: str, *, timeout_s: float = QUERY_S_MAX) -> list[list[Row]]:
        """
        Run statements in one round trip, on any connection. See `Session.script`.
        """
        async with self.session() as session:
            try:
                return await session.script(sql, timeout_s=timeout_s)
            finally:
                await session.roll_back()

    def close_idle(self) -> None:
        """
        End the connections that are lent to nobody.
        """
        while self._idle:
            self._idle.pop().close()

    async def close(self) -> None:
        """
        End all connections; those that are lent out, when they come back.
        """
        self._is_closed = True
        self.close_idle()
        if self._burials:
            await asyncio.wait(self._burials, timeout=CANCEL_S_MAX)

    async def _take(self) -> Session:
        """
        Give an idle connection that still lives, or make one.
        """
        if self._is_closed:
            raise ConnectionLostError("the pool of connections is closed")
        while self._idle:
            session = self._idle.pop()
            if session.is_reusable:
                return session
            session.close()
        now = asyncio.get_running_loop().time()
        if self._failure is not None and now < self._failure[0] + _RETRY_S:
            raise ConnectionLostError(self._failure[1].message)
        try:
            session = await Session.connect(
                self._url, application_name=self._application_name, timeout_s=self._connect_s_max
            )
        except ConnectionLostError as failure:
            self._failure = (asyncio.get_running_loop().time(), failure)
            raise
        self._failure = None
        return session

    def _take_back(self, session: Session) -> None:
        """
        Keep a connection that is idle, end any other.
        """
        if session.is_reusable:
            if self._is_closed:
                session.close()
            else:
                self._idle.append(session)
            return
        burial = asyncio.get_running_loop().create_task(session.abort(), name="abandoned query")
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
