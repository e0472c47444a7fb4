"""
One libpq connection in replication mode, used by one thread and never blocking in libpq.

psycopg has no replication API, but its `pq` layer has the calls. Most of them hold the interpreter lock while they
run, so a blocking one would stop every thread of the process: the connection is made by `connect_start` and
`connect_poll` with the addresses looked up before, is non-blocking from then on, and all waiting is ours. Form: a
shell; what the messages mean is decided elsewhere.

Two peculiarities of libpq are dealt with here. After START_REPLICATION a result of status COPY_BOTH is given for ever,
so only one is taken. And a TLS connection may hold bytes that its descriptor does not show as readable, so a reader
asks libpq until nothing comes before it waits.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from penstock.errors import ConnectionLostError, MisconfiguredSourceError, SourceError
from penstock.replication.failures import ServerRefusal, Stage, judge_connect, judge_refusal
from penstock.replication.handshake import Answer, Rows
from penstock.replication.waiting import POLL_S_MAX, Waiter

APPLICATION_NAME: Final = "penstock"

_KEEPALIVES: Final = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
_DEFAULT_PORT: Final = "5432"


def resolve(conninfo: str) -> str:
    """
    Complete a connection string for replication, with the addresses of its hosts looked up. Blocks.

    Raises:
        MisconfiguredSourceError: it is malformed, or names a host that does not exist.
        ConnectionLostError: the name service does not answer.
    """
    try:
        params = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    except psycopg.Error:
        # Without the cause: libpq repeats parts of what it could not read, and there is a password in it.
        raise MisconfiguredSourceError("DATABASE_URL is not a connection string. Check its syntax.") from None
    for name, value in _KEEPALIVES.items():
        params.setdefault(name, value)
    params |= {"replication": "database", "client_encoding": "UTF8", "application_name": APPLICATION_NAME}
    return make_conninfo("", **_look_up(params))


def _look_up(params: dict[str, str]) -> dict[str, str]:
    """
    Put addresses beside host names; a host with several addresses appears as often.
    """
    from_elsewhere = {"PGSERVICE", "PGHOSTADDR"} & os.environ.keys()
    hosts = (params.get("host") or os.environ.get("PGHOST", "")).split(",")
    if from_elsewhere or {"service", "hostaddr"} & params.keys() or all(_is_local(host) for host in hosts):
        return params
    ports = (params.get("port") or os.environ.get("PGPORT", _DEFAULT_PORT)).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise MisconfiguredSourceError("DATABASE_URL does not have as many ports as hosts.")
    found: list[tuple[str, str, str]] = []
    failure: SourceError | None = None
    for host, port in zip(hosts, ports, strict=True):
        if _is_local(host):
            found.append((host, "", port))
            continue
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as cause:
            is_known = cause.errno == socket.EAI_AGAIN
            failure = (
                ConnectionLostError(f"The name service does not answer for the host {host}.")
                if is_known
                else MisconfiguredSourceError(f"The host {host} in DATABASE_URL is not known. Correct it.")
            )
            continue
        except UnicodeError:
            failure = MisconfiguredSourceError(f"The host {host} in DATABASE_URL is not a name. Correct it.")
            continue
        found += [(host, address, port) for address in dict.fromkeys(str(answer[4][0]) for answer in answers)]
    if not found:
        assert failure is not None
        raise failure
    names, addresses, numbers = (",".join(column) for column in zip(*found, strict=True))
    return {**params, "host": names, "hostaddr": addresses, "port": numbers}


def _is_local(host: str) -> bool:
    """
    Tell whether it is the folder of a Unix socket, or libpq's choice.
    """
    return not host or host[0] in "/@"


class Link:
    """
    A connection in replication mode.
    """

    def __init__(self, pgconn: pq.abc.PGconn, waiter: Waiter, clock: Callable[[], float]) -> None:
        """
        Take over a connection that was made.
        """
        self._pgconn: Final = pgconn
        self._waiter: Final = waiter
        self._clock: Final = clock
        self._blocked_at: float | None = None
        self.is_ended = False

    @classmethod
    def open(cls, conninfo: str, *, waiter: Waiter, clock: Callable[[], float], timeout_s: float) -> Link:
        """
        Make a connection.

        Args:
            conninfo: as `resolve` gave it.
            waiter: how to wait.
            clock: tells the time in seconds.
            timeout_s: how long it may take.

        Raises:
            SourceError: it was not made.
            StopRequestedError: a stop was asked for.
        """
        deadline = clock() + timeout_s
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            while True:
                if pgconn.status == pq.ConnStatus.BAD:
                    raise judge_connect(pgconn.get_error_message())
                state = pgconn.connect_poll()
                if state == pq.PollingStatus.OK:
                    break
                if state == pq.PollingStatus.FAILED:
                    raise judge_connect(pgconn.get_error_message())
                events = select.POLLIN if state == pq.PollingStatus.READING else select.POLLOUT
                left_s = deadline - clock()
                if left_s <= 0:
                    raise ConnectionLostError(f"Postgres did not answer within {timeout_s:g} s.")
                # The descriptor may be another one each time: libpq tries several addresses.
                waiter.wait({pgconn.socket: events}, min(left_s, POLL_S_MAX))
            pgconn.nonblocking = 1
        except BaseException:
            pgconn.finish()
            raise
        return cls(pgconn, waiter, clock)

    def close(self) -> None:
        """
        End the connection; the server frees the slot and the lock when it notices.
        """
        self._pgconn.finish()

    @property
    def socket(self) -> int:
        """
        Its descriptor.

        Raises:
            ConnectionLostError: there is none any more.
        """
        try:
            return self._pgconn.socket
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause

    @property
    def is_encrypted(self) -> bool:
        """
        Whether TLS is in use.
        """
        return bool(self._pgconn.ssl_in_use)

    def ask(
        self,
        sql: str,
        *,
        timeout_s: float | None,
        tick_s: float = POLL_S_MAX,
        on_tick: Callable[[], None] | None = None,
    ) -> Answer:
        """
        Send a command and wait for its end.

        Args:
            sql: the command.
            timeout_s: how long it may take; None for as long as it takes.
            tick_s: how often to call `on_tick`.
            on_tick: called while waiting.

        Raises:
            ConnectionLostError: the connection ended, or it took too long.
            StopRequestedError: a stop was asked for.
        """
        rows: list[tuple[str | None, ...]] = []
        refusal: ServerRefusal | None = None
        deadline = None if timeout_s is None else self._clock() + timeout_s
        try:
            self._send(sql, deadline)
            while (result := self._next_result(deadline, tick_s, on_tick)) is not None:
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    # A connection that ends says why and then, in a second result, that it is gone.
                    refusal = refusal or _refusal(result)
                else:
                    rows += _rows_of(result)
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.SET_UP) from cause
        if refusal is None:
            return Rows(tuple(rows))
        if not refusal.sqlstate or self._pgconn.status == pq.ConnStatus.BAD:
            raise judge_refusal(refusal, Stage.SET_UP)
        return refusal

    def start_streaming(self, sql: str, *, timeout_s: float) -> None:
        """
        Send START_REPLICATION and wait until the stream is open.

        Raises:
            SourceError: the server refused.
            StopRequestedError: a stop was asked for.
        """
        deadline = self._clock() + timeout_s
        try:
            self._send(sql, deadline)
            result = self._next_result(deadline, POLL_S_MAX, None)
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.START) from cause
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            refusal = ServerRefusal("", "no stream was opened") if result is None else _refusal(result)
            raise judge_refusal(refusal, Stage.START)

    def take(self, count_max: int) -> list[memoryview]:
        """
        Take payloads that libpq has whole; fewer than asked for when there are no more.

        Afterwards `is_ended` tells whether the server ended the stream.

        Raises:
            ConnectionLostError: the connection ended.
        """
        payloads: list[memoryview] = []
        get = self._pgconn.get_copy_data
        try:
            for _ in range(count_max):
                length, data = get(1)
                if length <= 0:
                    self.is_ended = length < 0
                    break
                payloads.append(data)
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause
        return payloads

    def consume(self) -> None:
        """
        Let libpq read what has arrived.

        Raises:
            ConnectionLostError: the connection ended.
        """
        try:
            self._pgconn.consume_input()
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause

    @property
    def blocked_at(self) -> float | None:
        """
        Since when something that was put could not be sent; None when all is sent.
        """
        return self._blocked_at

    def put(self, payload: bytes) -> None:
        """
        Send a copy message, as far as the socket takes it now; `flush` sends the rest.

        Raises:
            ConnectionLostError: the connection ended.
        """
        try:
            if not self._pgconn.put_copy_data(payload):
                raise ConnectionLostError("A standby status could not be sent.")
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause
        self.flush()

    def flush(self) -> None:
        """
        Send what could not be sent before.

        Raises:
            ConnectionLostError: the connection ended.
        """
        try:
            if not self._pgconn.flush():
                self._blocked_at = None
            elif self._blocked_at is None:
                self._blocked_at = self._clock()
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause

    def reason_of_end(self) -> SourceError:
        """
        Tell why the server ended the stream.
        """
        refusal: ServerRefusal | None = None
        try:
            # Whatever comes without waiting: an error, and perhaps the end of the connection.
            for _ in range(4):
                if self._pgconn.is_busy():
                    break
                result = self._pgconn.get_result()
                if result is None:
                    break
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    refusal = _refusal(result)
                    break
        except psycopg.Error as cause:
            return self._lost(cause, Stage.STREAM)
        if refusal is None or not refusal.sqlstate:
            # A fast shutdown looks like a clean end.
            return ConnectionLostError("The server ended the stream; it is probably shutting down.")
        return judge_refusal(refusal, Stage.STREAM)

    def finish(self, timeout_s: float) -> None:
        """
        End the stream from our side: say so, then read on until the server agrees.

        Raises:
            ConnectionLostError: the connection ended first, or it took too long.
        """
        deadline = self._clock() + timeout_s
        try:
            self._pgconn.put_copy_end()
            while True:
                is_blocked = bool(self._pgconn.flush())
                while not self.is_ended and self.take(1024):
                    pass
                if self.is_ended and not self._pgconn.is_busy() and self._pgconn.get_result() is None:
                    return
                left_s = deadline - self._clock()
                if left_s <= 0:
                    raise ConnectionLostError("The server did not end the stream in time.")
                if self.is_ended and not self._pgconn.is_busy():
                    continue
                events = select.POLLIN | (select.POLLOUT if is_blocked else 0)
                self._waiter.wait({self._pgconn.socket: events}, min(left_s, POLL_S_MAX), is_finishing=True)
                self._pgconn.consume_input()
        except psycopg.Error as cause:
            raise self._lost(cause, Stage.STREAM) from cause

    def _send(self, sql: str, deadline: float | None) -> None:
        """
        Send a command whole.
        """
        self._pgconn.send_query(sql.encode())
        while self._pgconn.flush():
            self._await(select.POLLIN | select.POLLOUT, self._left_s(deadline))
            self._pgconn.consume_input()

    def _next_result(
        self, deadline: float | None, tick_s: float, on_tick: Callable[[], None] | None
    ) -> pq.abc.PGresult | None:
        """
        Wait for a result.
        """
        tick_at = self._clock() + tick_s
        while self._pgconn.is_busy():
            self._await(select.POLLIN, min(self._left_s(deadline), max(0.0, tick_at - self._clock())))
            self._pgconn.consume_input()
            if self._clock() >= tick_at:
                tick_at += tick_s
                if on_tick is not None:
                    on_tick()
        return self._pgconn.get_result()

    def _await(self, events: int, timeout_s: float) -> None:
        self._waiter.wait({self._pgconn.socket: events}, min(timeout_s, POLL_S_MAX))

    def _left_s(self, deadline: float | None) -> float:
        """
        Give the time that is left.

        Raises:
            ConnectionLostError: none.
        """
        if deadline is None:
            return POLL_S_MAX
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise ConnectionLostError("Postgres did not answer a command in time.")
        return left_s

    def _lost(self, cause: psycopg.Error, stage: Stage) -> SourceError:
        """
        Make an error of one that libpq told without an answer of the server.
        """
        return judge_refusal(ServerRefusal(cause.sqlstate or "", str(cause)), stage)


def _refusal(result: pq.abc.PGresult) -> ServerRefusal:
    """
    Read an error.
    """
    sqlstate, message, detail = (
        (result.error_field(field) or b"").decode(errors="replace")
        for field in (
            pq.DiagnosticField.SQLSTATE,
            pq.DiagnosticField.MESSAGE_PRIMARY,
            pq.DiagnosticField.MESSAGE_DETAIL,
        )
    )
    return ServerRefusal(sqlstate, message or result.get_error_message(), detail)


def _rows_of(result: pq.abc.PGresult) -> list[tuple[str | None, ...]]:
    """
    Read the rows of a result as text.
    """
    return [
        tuple(
            None if value is None else value.decode()
            for value in (result.get_value(row, column) for column in range(result.nfields))
        )
        for row in range(result.ntuples)
    ]
