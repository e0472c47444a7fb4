"""
One ordinary connection to Postgres, spoken to through libpq's asynchronous calls. A shell.

It owns the waiting: no call blocks the event loop, and each has a deadline in seconds. Answers are text, as the server
wrote them. psycopg makes the connection (name resolution, TLS, authentication); queries and copies go to its `pq`
layer directly, because a snapshot of a million rows must not cost a coroutine for each of them.

A copy on a connection without encryption goes past libpq, which makes an object for each row. Between two queries the
server says nothing that matters and libpq holds nothing; so the query is written to the socket and its answer read from
there (`copy_frames`), up to where the server waits for the next query. libpq notices nothing of it. Should it hold a part of a
message after all (a notice that the server was just sending), the rest of it is no beginning of an answer, and the
session is given up.

Invariants:

* A session whose call did not end (deadline, cancellation) is never used again: `is_reusable` says no, and its owner
  disposes of it with `abort`, which also ends the query on the server.
* Nothing is kept in the session on the server outside a transaction, so PgBouncer may stand in between in transaction
  mode. Queries are unnamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import psycopg
from psycopg import pq

from penstock.database.copy_frames import CopyAnswer
from penstock.database.failures import DeadlineError, ServerRefusedError
from penstock.database.urls import DatabaseUrl
from penstock.errors import ConnectionLostError, DecodeError, SourceError

Row: TypeAlias = tuple[str | None, ...]

CANCEL_S_MAX: Final = 5.0
_WAKE_S_MAX: Final = 1.0  # a poll may sleep on bytes that the TLS library already holds: look again by then
_ROLL_BACK_S_MAX: Final = 1.0
_LINGER_S: Final = 0.02
_GATHER_S: Final = 0.001
_SEVERITIES_OF_THE_END: Final = frozenset({"FATAL", "PANIC"})
_GSSAPI_TOLD_SINCE: Final = 160000
"""The version of libpq since which it tells whether it uses GSSAPI, which may encrypt the connection."""


class Session:
    """
    A connection in autocommit mode. One task at a time.

    Attributes:
        server_version: as libpq gives it, 150018 for 15.18. Behind a pooler, what the pooler says.
    """

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """
        Take over an open connection.
        """
        self._connection: Final = connection
        self._pgconn: Final = connection.pgconn
        self._is_abandoned = False
        self._is_copying = False
        self._answer: CopyAnswer | None = None
        self._is_plain: Final = _is_plain(self._pgconn)
        self.server_version: Final = self._pgconn.server_version

    @classmethod
    async def connect(cls, url: DatabaseUrl, *, application_name: str, timeout_s: float) -> Session:
        """
        Open a connection.

        Raises:
            ConnectionLostError: it could not be made in time.
        """
        parameters = {"application_name": application_name, **url.parameters, "client_encoding": "UTF8"}
        try:
            async with asyncio.timeout(timeout_s):
                connection = await psycopg.AsyncConnection.connect(
                    "",
                    autocommit=True,
                    prepare_threshold=None,
                    **parameters,  # type: ignore[arg-type] # libpq's parameters, all of them text
                )
        except TimeoutError as cause:
            raise ConnectionLostError(f"no connection to {url.redacted} within {timeout_s:g} s") from cause
        except (psycopg.Error, OSError, UnicodeError) as cause:
            raise ConnectionLostError(f"no connection to {url.redacted}: {cause}") from cause
        return cls(connection)

    @property
    def is_reusable(self) -> bool:
        """
        Whether the connection lives and is idle outside a transaction.
        """
        pgconn = self._pgconn
        if self._is_abandoned or self._is_copying or pgconn.status != pq.ConnStatus.OK:
            return False
        if pgconn.transaction_status != pq.TransactionStatus.IDLE:
            return False
        try:
            # The first call finds a last message of the server, the second the end of the stream behind it.
            pgconn.consume_input()
            pgconn.consume_input()
        except psycopg.OperationalError:
            return False
        return pgconn.status == pq.ConnStatus.OK

    async def query(self, sql: str, params: Sequence[str | None] = (), *, timeout_s: float) -> list[Row]:
        """
        Run one statement with its parameters (`$1` …) and give its rows.

        Raises:
            ServerRefusedError: the server answered with an error.
            DeadlineError: it did not answer in time.
            ConnectionLostError: the connection ended.
        """
        values = [None if value is None else value.encode() for value in params]
        results = await self._run(sql, values, timeout_s)
        return results[-1] if results else []

    async def script(self, sql: str, *, timeout_s: float) -> list[list[Row]]:
        """
        Run statements separated by semicolons in one round trip; give the rows of each.

        Raises: as `query`.
        """
        return await self._run(sql, None, timeout_s)

    async def roll_back(self) -> None:
        """
        End an open transaction if the server waits for a statement in one; never fails, the session may be used up.
        """
        is_open = self._pgconn.transaction_status in {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}
        if is_open and not self._is_abandoned and not self._is_copying:
            with contextlib.suppress(SourceError):
                await self.script("ROLLBACK", timeout_s=_ROLL_BACK_S_MAX)

    async def start_copy(self, sql: str, *, timeout_s: float) -> None:
        """
        Start a `COPY … TO STDOUT`; returns when the first rows or the end have arrived.

        Raises: as `query`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        if self._is_plain:
            with self._abandoned_on_failure():
                await self._start_plain_copy(sql, deadline)
            return
        with self._abandoned_on_failure():
            await self._send(sql, None, deadline)
            result = await self._next_result(deadline)
        assert result is not None
        if result.status == pq.ExecStatus.COPY_OUT:
            self._is_copying = True
            return
        with self._abandoned_on_failure():
            await self._drain(deadline)
        assert result.status == pq.ExecStatus.FATAL_ERROR, result.status
        raise self._refusal(result)

    async def read_copy(self, bytes_min: int, *, silence_s: float) -> bytes:
        """
        Read on in a copy: rows joined as they came, about `bytes_min` bytes or what came in a moment; empty at the end.

        Args:
            bytes_min: how much makes a block.
            silence_s: how long the server may say nothing.

        Raises: as `query`.
        """
        if not self._is_copying:
            return b""
        with self._abandoned_on_failure():
            if self._answer is not None:
                return await self._read_plain_copy(self._answer, bytes_min, silence_s)
            return await self._read_copy(bytes_min, silence_s)

    async def abort(self) -> None:
        """
        End what the server does for us, and the connection. Takes `CANCEL_S_MAX` at most.
        """
        self._is_abandoned = True
        try:
            if self._is_copying or self._pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                    async with asyncio.timeout(CANCEL_S_MAX):
                        await self._connection.cancel_safe(timeout=CANCEL_S_MAX)
        finally:
            self.close()

    def close(self) -> None:
        """
        Close the socket at once.
        """
        self._is_abandoned = True
        self._pgconn.finish()

    # --- the inside --------------------------------------------------------------------------------------------------

    async def _run(self, sql: str, params: list[bytes | None] | None, timeout_s: float) -> list[list[Row]]:
        """
        Send, take all results, raise the first error among them.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        answers: list[list[Row]] = []
        refusal: pq.abc.PGresult | None = None
        with self._abandoned_on_failure():
            await self._send(sql, params, deadline)
            while (result := await self._next_result(deadline)) is not None:
                if result.status == pq.ExecStatus.TUPLES_OK:
                    answers.append(_rows(result))
                elif result.status == pq.ExecStatus.FATAL_ERROR:
                    refusal = refusal or result
                else:
                    answers.append([])
        if refusal is not None:
            raise self._refusal(refusal)
        return answers

    async def _send(self, sql: str, params: list[bytes | None] | None, deadline: float) -> None:
        """
        Send a statement, by the simple protocol when there are no parameters to pass.
        """
        assert "\0" not in sql
        if params is None:
            self._pgconn.send_query(sql.encode())
        else:
            self._pgconn.send_query_params(sql.encode(), params)
        while self._pgconn.flush():
            await self._wait(deadline, is_writing=True)
            # What the server says while it does not take more must be read, or both wait for ever.
            self._pgconn.consume_input()

    async def _next_result(self, deadline: float) -> pq.abc.PGresult | None:
        """
        Wait for the next result; None after the last.
        """
        while self._pgconn.is_busy():
            await self._wait(deadline)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    async def _drain(self, deadline: float) -> None:
        """
        Take the remaining results and drop them.
        """
        while await self._next_result(deadline) is not None:
            pass

    async def _read_copy(self, bytes_min: int, silence_s: float) -> bytes:
        """
        Take rows until a block is full. The loop over rows is all that a row costs here.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # others' turn, whether or not there is something to wait for
        get_copy_data = self._pgconn.get_copy_data
        parts: list[bytes | memoryview] = []
        size = 0
        deadline = loop.time() + silence_s
        fruitless = 0  # readings of the socket since the last row
        while True:
            count, data = get_copy_data(1)
            if count > 0:
                fruitless = 0
                parts.append(data)
                size += count
                if size < bytes_min:
                    continue
                break
            if count < 0:
                self._is_copying = False
                result = await self._next_result(deadline)
                await self._drain(deadline)
                assert result is not None
                if result.status != pq.ExecStatus.COMMAND_OK:
                    raise self._refusal(result)
                break
            # Read until nothing comes before going to sleep; see `_WAKE_S_MAX`. Then, with a block begun, let packets of
            # the server gather for a moment instead of waking for each of them.
            fruitless += 1
            if fruitless == 2 and parts:
                await asyncio.sleep(_GATHER_S)
            elif fruitless > 1 and not parts:
                await self._wait(deadline)
            elif fruitless > 2 and not await self._wait_until(min(deadline, loop.time() + _LINGER_S)):
                break
            self._pgconn.consume_input()
        return b"".join(parts)

    async def _start_plain_copy(self, sql: str, deadline: float) -> None:
        """
        Send a query past libpq, and wait until rows or the end have arrived.
        """
        assert "\0" not in sql
        assert self._pgconn.transaction_status != pq.TransactionStatus.ACTIVE
        text = sql.encode()
        message = memoryview(struct.pack(">ci", b"Q", len(text) + 5) + text + b"\0")
        answer = self._answer = CopyAnswer()
        self._is_copying = True
        while message:
            try:
                message = message[os.write(self._pgconn.socket, message) :]
            except BlockingIOError:
                await self._wait(deadline, is_writing=True)
        while not answer.has(1):
            if not self._receive_plain(answer):
                await self._wait(deadline)
        if not answer.rows_bytes and answer.refusal is not None:
            self._end_plain_copy(answer)

    async def _read_plain_copy(self, answer: CopyAnswer, bytes_min: int, silence_s: float) -> bytes:
        """
        Do what `_read_copy` does, past libpq; nothing here is done for each row.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # others' turn, whether or not there is something to wait for
        deadline = loop.time() + silence_s
        while not answer.has(bytes_min):
            # Packets of the server gather for a moment, instead of waking us for each of them.
            if self._receive_plain(answer):
                if not answer.has(bytes_min):
                    await asyncio.sleep(_GATHER_S)
            elif not answer.rows_bytes:
                await self._wait(deadline)
            elif not await self._wait_until(min(deadline, loop.time() + _LINGER_S)):
                break
        if answer.is_complete and (answer.refusal is not None or not answer.rows_bytes):
            self._end_plain_copy(answer)
        return answer.take()

    def _receive_plain(self, answer: CopyAnswer) -> bool:
        """
        Take what there is; tell whether there was anything.
        """
        try:
            count = os.readv(self._pgconn.socket, [answer.room()])
        except BlockingIOError:
            return False
        if count == 0:
            if answer.refusal is not None:
                raise self._as_error(answer.refusal)
            raise ConnectionLostError("the connection to the database ended: the server closed it")
        answer.feed(count)
        return True

    def _end_plain_copy(self, answer: CopyAnswer) -> None:
        """
        Go back to libpq; raise what the server reported.
        """
        self._is_copying = False
        self._answer = None
        if answer.refusal is not None:
            raise self._as_error(answer.refusal)

    async def _wait(self, deadline: float, *, is_writing: bool = False) -> None:
        """
        Wait for the socket.

        Raises:
            DeadlineError: the deadline passed.
        """
        now = asyncio.get_running_loop().time()
        if now >= deadline:
            raise DeadlineError("the database did not answer in time")
        await self._wait_until(min(deadline, now + _WAKE_S_MAX), is_writing=is_writing)

    async def _wait_until(self, until: float, *, is_writing: bool = False) -> bool:
        """
        Wait for the socket up to a time of the loop's clock; tell whether it woke us.
        """
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        descriptor = self._pgconn.socket
        timer = loop.call_at(until, _resolve, woken, False)
        loop.add_reader(descriptor, _resolve, woken, True)
        if is_writing:
            loop.add_writer(descriptor, _resolve, woken, True)
        try:
            return await woken
        finally:
            timer.cancel()
            loop.remove_reader(descriptor)
            if is_writing:
                loop.remove_writer(descriptor)

    @contextlib.contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """
        Mark the session as used up when a conversation does not come to its end.

        An error that the server answered with is an end like any other.
        """
        try:
            yield
        except ServerRefusedError:
            raise
        except (psycopg.Error, OSError, DecodeError) as cause:
            self._is_abandoned = True
            raise ConnectionLostError(f"the connection to the database ended: {str(cause).strip()}") from cause
        except BaseException:
            self._is_abandoned = True
            raise

    def _refusal(self, result: pq.abc.PGresult) -> SourceError:
        """
        Make our error of the server's; the end of the connection is an error of its own kind.
        """
        codes = (
            pq.DiagnosticField.SQLSTATE,
            pq.DiagnosticField.MESSAGE_PRIMARY,
            pq.DiagnosticField.SEVERITY_NONLOCALIZED,
        )
        fields = {chr(code).encode(): result.error_field(code) or b"" for code in codes}
        return self._as_error({**fields, b"M": fields[b"M"] or result.error_message.strip()})

    def _as_error(self, fields: dict[bytes, bytes]) -> SourceError:
        """
        Make our error of the fields of the server's, named as in its messages.
        """
        sqlstate = fields.get(b"C", b"").decode() or None
        message = fields.get(b"M", b"").decode(errors="replace")
        severity = fields.get(b"V", b"").decode()
        if sqlstate is None or severity in _SEVERITIES_OF_THE_END:
            self._is_abandoned = True
            return ConnectionLostError(message, sqlstate=sqlstate)
        return ServerRefusedError(message, sqlstate=sqlstate)


def _is_plain(pgconn: pq.abc.PGconn) -> bool:
    """
    Tell whether the bytes on the connection are those of the protocol, encrypted neither by TLS nor by GSSAPI.
    """
    if os.name != "posix" or pgconn.ssl_in_use:
        return False
    if pq.version() >= _GSSAPI_TOLD_SINCE:
        return not pgconn.used_gssapi
    return pgconn.host.startswith(b"/")


def _rows(result: pq.abc.PGresult) -> list[Row]:
    """
    Read all values of a result as text.
    """
    columns = range(result.nfields)
    return [
        tuple(None if (value := result.get_value(row, column)) is None else value.decode() for column in columns)
        for row in range(result.ntuples)
    ]


def _resolve(future: asyncio.Future[bool], value: bool) -> None:  # noqa: FBT001 - a callback of the loop
    """
    Give a future its value, once.
    """
    if not future.done():
        future.set_result(value)
