"""
Help for a connection that waits: for the lock of a dead predecessor, or for a slot that an idle server does not finish.

Each attempt is made on a short-lived ordinary connection in a thread of its own, so that it can neither block nor
outlast the thread that waits; there is one at a time, and its failure is told and forgotten. Form: a shell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import psycopg
import structlog

from penstock.replication.handshake import Names
from penstock.replication.link import APPLICATION_NAME
from penstock.replication.state import ReceiverPhase

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_MS: Final = 5_000
LOCK_HOLDER_IDLE_S: Final = 5
"""A holder of the lock that did something within this time is alive and about to stream."""

_Target: TypeAlias = Callable[[psycopg.Connection[Any]], None]

_log: Final = structlog.get_logger(__name__)

# An advisory lock of one bigint shows as two halves, the upper in classid (chapter "pg_locks"). Who holds it while the
# slot is there but nobody streams from it is a dead predecessor, unless it was busy a moment ago.
_BREAK_LOCK: Final = """
    SELECT pg_catalog.pg_terminate_backend(l.pid), l.pid
    FROM pg_catalog.pg_locks AS l
    JOIN pg_catalog.pg_database AS d ON d.oid = l.database
    LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND d.datname = pg_catalog.current_database()
    AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtext(%(slot)s)::bigint
    AND coalesce(a.state_change < pg_catalog.clock_timestamp() - %(idle)s * interval '1 second', true)
    AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = %(slot)s AND NOT active)
"""

# Whoever holds the lock of our slot and is no former connection of ours is another instance.
_FOREIGN_HOLDER: Final = """
    SELECT l.pid
    FROM pg_catalog.pg_locks AS l
    JOIN pg_catalog.pg_database AS d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
    AND d.datname = pg_catalog.current_database()
    AND (l.classid::bigint << 32 | l.objid::bigint) = pg_catalog.hashtext(%(slot)s)::bigint
    AND l.pid <> ALL (%(own)s)
    AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = %(slot)s AND active_pid = l.pid)
"""

_OLD_TRANSACTIONS: Final = """
    SELECT count(*), coalesce(max(extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)), 0)::bigint
    FROM pg_catalog.pg_stat_activity
    WHERE backend_xid IS NOT NULL
"""

_SNAPSHOT_FUNCTION: Final = "SELECT pg_catalog.to_regprocedure('pg_catalog.pg_log_standby_snapshot()') IS NOT NULL"


class Unblocker:
    """
    Makes one attempt each time it is told that the wait goes on.
    """

    def __init__(self, conninfo: str, names: Names, own_pids: Sequence[int] = ()) -> None:
        """
        Take the connection string for ordinary connections, and the backends that were ours before in this run.
        """
        self._own_pids: Final = list(own_pids)
        self.foreign_pid: int | None = None
        """The backend of another instance that streams from our slot, once one was seen."""
        self._conninfo: Final = conninfo
        self._names: Final = names
        self._thread: threading.Thread | None = None
        self._has_told_unavailable = False

    def tick(self, phase: ReceiverPhase) -> None:
        """
        Warn that the wait goes on, and try to end it. Does not block.
        """
        if phase is ReceiverPhase.WAITING_FOR_LOCK:
            _log.warning("replication.lock_held_elsewhere", slot=self._names.slot)
            target = self._break_lock
        else:
            target = self._log_standby_snapshot
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._attempt, args=(target,), name="replication-unblock", daemon=True)
        self._thread.start()

    def _attempt(self, target: _Target) -> None:
        """
        Make a connection and one attempt on it.
        """
        try:
            with psycopg.connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name=APPLICATION_NAME,
                client_encoding="UTF8",
            ) as connection:
                connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
                target(connection)
        except psycopg.Error as failure:
            _log.warning("replication.unblocking_failed", slot=self._names.slot, error=str(failure))

    def _break_lock(self, connection: psycopg.Connection[Any]) -> None:
        """
        End the sessions of a predecessor that holds the lock but does not stream.
        """
        foreign = connection.execute(_FOREIGN_HOLDER, {"slot": self._names.slot, "own": self._own_pids}).fetchone()
        if foreign is not None:
            self.foreign_pid = foreign[0]
            return
        rows = connection.execute(_BREAK_LOCK, {"slot": self._names.slot, "idle": LOCK_HOLDER_IDLE_S}).fetchall()
        for is_ended, pid in rows:
            _log.warning("replication.lock_holder_terminated", slot=self._names.slot, pid=pid, is_ended=is_ended)

    def _log_standby_snapshot(self, connection: psycopg.Connection[Any]) -> None:
        """
        Say who is waited for, and write to the WAL what a new slot looks for on an idle server.
        """
        row = connection.execute(_OLD_TRANSACTIONS).fetchone()
        count, oldest_s = row if row is not None else (0, 0)
        _log.warning(
            "replication.slot_waits_for_transactions", slot=self._names.slot, transactions=count, oldest_s=oldest_s
        )
        row = connection.execute(_SNAPSHOT_FUNCTION).fetchone()
        try:
            if row is None or not row[0]:
                raise psycopg.errors.UndefinedFunction("the server has no pg_log_standby_snapshot()")
            connection.execute("SELECT pg_catalog.pg_log_standby_snapshot()")
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege) as unavailable:
            if not self._has_told_unavailable:
                self._has_told_unavailable = True
                _log.info("replication.standby_snapshot_unavailable", error=str(unavailable))
