"""
A Postgres in memory: tables, transactions, a WAL, a slot, a walsender, snapshots.

Theory of operation. A transaction gets its id when it begins and its place in the WAL when it commits, so the orders
differ. A commit may be decoded before new snapshots see it (a standby is waited for) or be seen before it is flushed, and
so decoded (an asynchronous commit); both windows are drawn by whoever commits. The walsender sends what is flushed and
ends after the slot's confirmed position, in commit order, with a description before the first change of a relation on each
connection. A keepalive names what was sent, and stands in line. The confirmed position is memory first: when the server
crashes it steps back to what a checkpoint saved.

A connection is cut at any message; or it goes silent, and both ends find out by their timeouts. `Link` implements what
`penstock.replication.link.Link` offers; the ports for ordinary SQL are in `queries`. Shell.
"""

from __future__ import annotations

import contextvars
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias

from penstock.errors import ConnectionLostError, SourceError
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, Table
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.encode import (
    encode_begin,
    encode_commit,
    encode_delete,
    encode_insert,
    encode_relation,
    encode_truncate,
    encode_update,
)
from penstock.replication.failures import ServerRefusal
from penstock.replication.frames import Keepalive, XLogData, build_keepalive, build_xlog_data
from penstock.replication.handshake import Answer, Rows
from penstock.replication.waiting import StopRequestedError
from penstock.testing.simulation.loop import Life, SimulationLoop, current_life
from penstock.testing.simulation.threads import sleep
from penstock.testing.simulation.waiting import Descriptor, VirtualWaiter

Row: TypeAlias = tuple[bytes | None, ...]

WAL_SENDER_TIMEOUT_S: Final = 60.0
SOCKET_MESSAGES_MAX: Final = 200
"""So many messages fit into the buffers of a connection that is not read."""
ROUND_TRIP_S_MAX: Final = 0.004
NOTICED_S: Final = 0.05
"""How long the server takes to see that a process that was connected has died."""
_US: Final = 1_000_000
_OUTSIDE: Final = contextvars.Context()


@dataclass(frozen=True, slots=True)
class Op:
    """
    A change of one row, or a truncation.

    Attributes:
        oid: the table.
        kind: `insert`, `update`, `delete`, `truncate`.
        old: the row before.
        new: the row after.
    """

    oid: int
    kind: str
    old: Row | None = None
    new: Row | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """
    A committed transaction.
    """

    lsn: CommitLsn
    end: EndLsn
    xid: int
    ops: tuple[Op, ...]
    at_s: float


@dataclass
class Slot:
    """
    Our replication slot.
    """

    confirmed: EndLsn
    saved: EndLsn
    active: Session | None = None


@dataclass
class Wire:
    """
    How the network is.

    Attributes:
        latency_s: of each hop, besides the usual.
        is_refusing: whether nobody can connect.
    """

    latency_s: float = 0.0
    is_refusing: bool = False


@dataclass
class VirtualPostgres:
    """
    The server; survives every process of ours.

    Attributes:
        tables: what there is.
        conditions: what the conditions of shapes mean, by their normalised text.
        rows: what is committed, by table and key.
        wal: every commit, in order.
        is_up: whether it answers.
        slot: ours; None when there is none.
        has_publication: whether it is there.
        on_confirm: told of every status: the position before, and the one it confirms.
    """

    loop: SimulationLoop
    tables: tuple[Table, ...]
    conditions: Mapping[str | None, Callable[[Mapping[str, str | None]], bool]]
    rows: dict[int, dict[bytes, Row]] = field(default_factory=dict)
    wal: list[Commit] = field(default_factory=list)
    hidden: dict[int, Commit] = field(default_factory=dict)
    running: list[int] = field(default_factory=list)
    wire: Wire = field(default_factory=Wire)
    is_up: bool = True
    slot: Slot | None = None
    has_publication: bool = True
    lock_holder: Session | None = None
    timeline: int = 1
    on_confirm: Callable[[EndLsn, EndLsn], None] = lambda _, __: None
    sessions: list[Session] = field(default_factory=list)
    insert_lsn: int = 10_000
    flushed_lsn: int = 10_000
    next_xid: int = 700
    descriptors: dict[int, Descriptor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Make the tables, empty.
        """
        for table in self.tables:
            self.rows.setdefault(table.id.oid, {})

    # --- writing -----------------------------------------------------------------------------------------------------

    def begin(self) -> int:
        """
        Begin a transaction that commits later or never; gives its id.
        """
        xid, self.next_xid = self.next_xid, self.next_xid + 1
        self.running.append(xid)
        return xid

    def commit(
        self, ops: Sequence[Op], *, xid: int | None = None, hidden_s: float = 0.0, unflushed_s: float = 0.0
    ) -> Commit:
        """
        Commit changes.

        Args:
            ops: the changes.
            xid: of a transaction that has begun; None to begin it now.
            hidden_s: how long it can be decoded and not be seen.
            unflushed_s: how long it can be seen and not be decoded.
        """
        if xid is None:
            xid = self.begin()
        self.running.remove(xid)
        self.insert_lsn += 8 + 16 * len(ops)
        lsn = CommitLsn(self.insert_lsn)
        self.insert_lsn += 24
        commit = Commit(lsn, EndLsn(self.insert_lsn), xid, tuple(ops), self.loop.time())
        self.wal.append(commit)
        _replay(self.rows, commit)
        if hidden_s > 0:
            self.hidden[xid] = commit
            self.loop.call_later(hidden_s, lambda: self.hidden.pop(xid, None), context=_OUTSIDE)
        end = self.insert_lsn
        if unflushed_s > 0:
            self.loop.call_later(unflushed_s, lambda: self._flush(end), context=_OUTSIDE)
        else:
            self._flush(end)
        return commit

    def roll_back(self, xid: int) -> None:
        """
        End a transaction without effect.
        """
        self.running.remove(xid)

    def write_elsewhere(self, count: int) -> None:
        """
        Write WAL that is not for us.
        """
        self.insert_lsn += count
        self._flush(self.insert_lsn)

    def reveal_all(self) -> None:
        """
        Let new snapshots see, and the walsender send, everything.
        """
        self.hidden.clear()
        self._flush(self.insert_lsn)

    def locked(self) -> set[tuple[int, bytes]]:
        """
        List the rows whose transaction is not over for others, by table and key.
        """
        return {
            (op.oid, row[0])
            for commit in self.hidden.values()
            for op in commit.ops
            for row in (op.old, op.new)
            if row is not None and row[0] is not None
        }

    def is_table_locked(self, oid: int) -> bool:
        """
        Tell whether a transaction that is not over for others has written to a table.
        """
        return any(op.oid == oid for commit in self.hidden.values() for op in commit.ops)

    def _flush(self, end: int) -> None:
        if end > self.flushed_lsn:
            self.flushed_lsn = end
            for session in self.sessions:
                session.pump_soon()

    # --- reading -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[SnapshotBounds, dict[int, dict[bytes, Row]]]:
        """
        Take a snapshot: its bounds, and the rows it sees.
        """
        running = frozenset([*self.running, *self.hidden])
        ended = [commit.xid for commit in self.wal if commit.xid not in running]
        xmax = max([*ended, 699]) + 1
        below = frozenset(xid for xid in running if xid < xmax)
        rows: dict[int, dict[bytes, Row]] = {table.id.oid: {} for table in self.tables}
        if not self.hidden:
            rows = {oid: dict(each) for oid, each in self.rows.items()}
        else:
            for commit in self.wal:
                if commit.xid not in self.hidden:
                    _replay(rows, commit)
        return SnapshotBounds(Snapshot(min(below, default=xmax), xmax, below), InsertLsn(self.insert_lsn)), rows

    def table(self, oid: int) -> Table:
        """
        Find a table.
        """
        return next(table for table in self.tables if table.id.oid == oid)

    # --- the server's life -------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """
        Stop at once; whoever was connected is not any more.
        """
        self.is_up = False
        for session in list(self.sessions):
            session.end("the server crashed")
        for xid in list(self.running):
            self.roll_back(xid)
        self.reveal_all()
        if self.slot is not None:
            self.slot.confirmed = self.slot.saved

    def start(self) -> None:
        """
        Come back.
        """
        self.is_up = True
        # Recovery and its checkpoint write WAL of their own.
        self.write_elsewhere(120)

    def checkpoint(self) -> None:
        """
        Save the slot's position.
        """
        if self.slot is not None:
            self.slot.saved = self.slot.confirmed

    def move_slot(self) -> None:
        """
        Do what somebody else must not: confirm everything.
        """
        if self.slot is not None:
            self.slot.confirmed = self.slot.saved = EndLsn(self.flushed_lsn)
            for session in list(self.sessions):
                session.end("somebody ended it to move the slot")

    def drop_slot(self) -> None:
        """
        Do what somebody else must not: drop it.
        """
        for session in list(self.sessions):
            session.end("somebody ended it to drop the slot")
        self.slot = None


def _replay(rows: dict[int, dict[bytes, Row]], commit: Commit) -> None:
    for op in commit.ops:
        table = rows[op.oid]
        if op.kind == "truncate":
            table.clear()
        if op.old is not None:
            assert op.old[0] is not None
            table.pop(op.old[0], None)
        if op.new is not None:
            assert op.new[0] is not None
            table[op.new[0]] = op.new


class Session:
    """
    One connection, as the server has it.
    """

    def __init__(self, server: VirtualPostgres, life: Life | None) -> None:
        """
        Accept it.
        """
        self.server: Final = server
        self.life: Final = life
        self.arrived: Final[deque[bytes]] = deque()
        self.statuses: Final[deque[tuple[EndLsn, bool]]] = deque()
        self.descriptor: Final = Descriptor()
        self.is_over = False
        self.is_silent = False
        self.is_streaming = False
        self.is_finishing = False
        self.reason = ""
        self.cut_after: int | None = None
        self.awaited: list[int] | None = None
        self._described: Final[set[int]] = set()
        self._next = 0
        self._unsent: Final[deque[bytes]] = deque()
        self._in_flight = 0
        self._sent_to = 0
        self._named_to = 0
        self._heard_at = server.loop.time()
        self._is_reply_due = False
        self._is_pumping = False
        server.sessions.append(self)

    # --- the server's side -------------------------------------------------------------------------------------------

    def begin_streaming(self) -> None:
        """
        Begin after the slot's confirmed position.
        """
        server = self.server
        assert server.slot is not None
        server.slot.active = self
        confirmed = server.slot.confirmed
        self.is_streaming = True
        wal = server.wal
        self._next = next((index for index, commit in enumerate(wal) if commit.end > confirmed), len(wal))
        self._sent_to = confirmed.value
        self._heard_at = server.loop.time()
        self._watch()
        self.pump_soon()

    def pump_soon(self) -> None:
        """
        Send more, a moment later.
        """
        if self.is_streaming and not self.is_over and not self._is_pumping:
            self._is_pumping = True
            chance = self.server.loop.chance
            delay_s = chance.random() * ROUND_TRIP_S_MAX / 2 + self.server.wire.latency_s
            self.server.loop.call_later(delay_s, self._pump, context=_OUTSIDE)

    def _pump(self) -> None:
        self._is_pumping = False
        server = self.server
        if self.is_over or self.is_silent:
            return
        count = 1 + int(server.loop.chance.random() * 40)
        while count and len(self.arrived) < SOCKET_MESSAGES_MAX:
            if not self._unsent and not self._decode_next():
                break
            count -= 1
            self.arrived.append(self._unsent.popleft())
            if self.cut_after is not None:
                self.cut_after -= 1
                if self.cut_after <= 0:
                    self.end("the connection was cut")
                    return
        self.descriptor.changed()
        if len(self.arrived) < SOCKET_MESSAGES_MAX and (self._unsent or self._has_more()):
            self.pump_soon()

    def _has_more(self) -> bool:
        server = self.server
        is_more = self._next < len(server.wal) and server.wal[self._next].end.value <= server.flushed_lsn
        return is_more or self._is_reply_due

    def _decode_next(self) -> bool:
        """
        Have the next transaction or keepalive ready to be sent; tells whether there is one.
        """
        server = self.server
        if self._next < len(server.wal) and server.wal[self._next].end.value <= server.flushed_lsn:
            commit = server.wal[self._next]
            self._next += 1
            self._unsent.extend(self._encode(commit))
            self._sent_to = commit.end.value
            return True
        self._sent_to = max(self._sent_to, server.flushed_lsn)
        is_news = self._sent_to > self._named_to and server.loop.chance.random() < 0.5
        if self._is_reply_due or is_news:
            self._is_reply_due = False
            self._name(is_reply_requested=False)
            return True
        return False

    def _name(self, *, is_reply_requested: bool) -> None:
        self._named_to = self._sent_to
        self._unsent.append(build_keepalive(Keepalive(self._sent_to, self._now_us(), is_reply_requested)))

    def _encode(self, commit: Commit) -> list[bytes]:
        messages = [encode_begin(commit.lsn, self._now_us(commit.at_s), commit.xid & 0xFFFF_FFFF)]
        for op in commit.ops:
            if op.oid not in self._described:
                self._described.add(op.oid)
                messages.append(encode_relation(describe(self.server.table(op.oid))))
            if op.kind == "insert":
                assert op.new is not None
                messages.append(encode_insert(op.oid, op.new))
            elif op.kind == "update":
                assert op.new is not None
                messages.append(encode_update(op.oid, op.new, old=op.old))
            elif op.kind == "delete":
                messages.append(encode_delete(op.oid, old=op.old))
            else:
                messages.append(encode_truncate([op.oid]))
        messages.append(encode_commit(commit.lsn, commit.end, self._now_us(commit.at_s)))
        at = commit.lsn.value
        return [build_xlog_data(XLogData(at, at, self._now_us(), message)) for message in messages]

    def _now_us(self, at_s: float | None = None) -> int:
        return int((self.server.loop.time() if at_s is None else at_s) * _US)

    def _watch(self) -> None:
        """
        See now and then whether the client is alive, and ask.
        """
        if self.is_over:
            return
        server = self.server
        silent_s = server.loop.time() - self._heard_at
        if self.life is not None and self.life.is_over:
            self.end("the client is gone")
            return
        if silent_s >= WAL_SENDER_TIMEOUT_S:
            self.end("terminating walsender process due to replication timeout")
            return
        if silent_s >= WAL_SENDER_TIMEOUT_S / 2 and not self.is_silent and not self._unsent:
            self._name(is_reply_requested=True)
            self.pump_soon()
        server.loop.call_later(5.0, self._watch, context=_OUTSIDE)

    def take_status(self) -> None:
        """
        Take the standby status that was sent first.
        """
        flushed, is_reply_requested = self.statuses.popleft()
        server = self.server
        if self.is_over or self.is_silent or not server.is_up:
            return
        self._heard_at = server.loop.time()
        slot = server.slot
        if slot is not None and slot.active is self:
            server.on_confirm(slot.confirmed, flushed)
            slot.confirmed = max(slot.confirmed, flushed)
        if is_reply_requested:
            self._is_reply_due = True
            self.pump_soon()

    def end(self, reason: str) -> None:
        """
        End it from the server's side.
        """
        if self.is_over:
            return
        self.is_over = True
        self.reason = reason
        server = self.server
        if self in server.sessions:
            server.sessions.remove(self)
        if server.slot is not None and server.slot.active is self:
            server.slot.active = None
        if server.lock_holder is self:
            server.lock_holder = None
        self.descriptor.changed()

    def go_silent(self) -> None:
        """
        Let no byte pass any more, and tell nobody.
        """
        self.is_silent = True


def describe(table: Table) -> RelationDescription:
    """
    Describe a table as the stream does.
    """
    columns = tuple(StreamColumn(each.name, each.type_oid, each.typmod, is_key=True) for each in table.columns)
    return RelationDescription(table.id, "f", columns)


class Link:
    """
    The client's side of a connection; see `penstock.replication.link.Link`.
    """

    server: ClassVar[VirtualPostgres]
    """Which one answers; there is one machine at a time."""

    def __init__(self, session: Session, waiter: VirtualWaiter) -> None:
        """
        Take over an accepted connection.
        """
        self._session: Final = session
        self._waiter: Final = waiter
        self._taken: Final[deque[bytes]] = deque()
        self.is_ended = False
        self.is_encrypted = False
        self.blocked_at: float | None = None
        self.socket: Final = waiter.register(session.descriptor)

    @classmethod
    def open(cls, conninfo: str, *, waiter: VirtualWaiter, clock: Callable[[], float], timeout_s: float) -> Link:
        """
        Connect.
        """
        del conninfo, clock, timeout_s
        server = cls.server
        _round_trip(server, waiter)
        if not server.is_up or server.wire.is_refusing:
            raise ConnectionLostError("the server does not accept connections")
        return cls(Session(server, current_life()), waiter)

    def close(self) -> None:
        """
        Close it.
        """
        self._waiter.forget(self.socket)
        session = self._session
        if not session.is_over:
            # A silent one is not heard to be closed.
            if not session.is_silent:
                session.server.loop.call_later(
                    session.server.loop.chance.random() * NOTICED_S, session.end, "closed", context=_OUTSIDE
                )
            elif not session.is_streaming:
                session.end("closed")

    def ask(
        self,
        sql: str,
        *,
        timeout_s: float | None,
        tick_s: float = 1.0,
        on_tick: Callable[[], None] | None = None,
    ) -> Answer:
        """
        Ask one thing of the handshake.
        """
        del tick_s, on_tick
        waited_s = 0.0
        while True:
            _round_trip(self._session.server, self._waiter)
            if self._session.is_over or self._session.is_silent:
                raise ConnectionLostError("the server closed the connection")
            answer = _answer(self._session, sql)
            if answer is not None:
                return answer
            sleep(0.1)
            waited_s += 0.1
            if timeout_s is not None and waited_s > timeout_s:
                raise ConnectionLostError("Postgres did not answer a command in time.")

    def start_streaming(self, sql: str, *, timeout_s: float) -> None:
        """
        Start.
        """
        del sql, timeout_s
        _round_trip(self._session.server, self._waiter)
        session = self._session
        if session.is_over or session.is_silent or session.server.slot is None:
            raise ConnectionLostError("the server closed the connection")
        session.begin_streaming()

    def take(self, count_max: int) -> list[memoryview]:
        """
        Take what was read.
        """
        taken = [memoryview(self._taken.popleft()) for _ in range(min(count_max, len(self._taken)))]
        self.is_ended = not self._taken and not self._session.arrived and self._session.is_over
        return taken

    def consume(self) -> None:
        """
        Read what has come.
        """
        session = self._session
        if session.arrived:
            self._taken.extend(session.arrived)
            session.arrived.clear()
            session.pump_soon()

    def put(self, payload: bytes) -> None:
        """
        Send a standby status.
        """
        session = self._session
        if session.is_over:
            raise ConnectionLostError("the server closed the connection")
        flushed = EndLsn(int.from_bytes(payload[9:17], "big"))
        server = session.server
        delay_s = server.loop.chance.random() * ROUND_TRIP_S_MAX / 2 + server.wire.latency_s
        session.statuses.append((flushed, payload[33] != 0))
        server.loop.call_later(delay_s, session.take_status, context=_OUTSIDE)

    def flush(self) -> None:
        """
        All is sent.
        """

    def reason_of_end(self) -> SourceError:
        """
        Tell why the server ended the stream.
        """
        return ConnectionLostError(self._session.reason)

    def finish(self, timeout_s: float) -> None:
        """
        End the stream from our side.
        """
        del timeout_s
        sleep(2 * ROUND_TRIP_S_MAX + self._session.server.wire.latency_s)
        if self._session.is_silent:
            raise ConnectionLostError("The server did not end the stream in time.")
        self._session.end("ended by the client")


def _round_trip(server: VirtualPostgres, waiter: VirtualWaiter) -> None:
    sleep(server.loop.chance.random() * ROUND_TRIP_S_MAX + 2 * server.wire.latency_s)
    if waiter.is_stopping:
        raise StopRequestedError


def _answer(session: Session, sql: str) -> Answer | None:
    """
    Answer a command; None while it must wait.
    """
    server = session.server
    slot = server.slot
    answer: Answer | None = Rows()
    if sql == "IDENTIFY_SYSTEM":
        answer = Rows((("7000", str(server.timeline), str(EndLsn(server.flushed_lsn)), "sim"),))
    elif "server_version_num" in sql:
        answer = Rows((("150018", "logical", str(int(WAL_SENDER_TIMEOUT_S * 1000)), "4711"),))
    elif "pg_advisory_lock" in sql:
        if server.lock_holder is None or server.lock_holder is session or server.lock_holder.is_over:
            server.lock_holder = session
            answer = Rows((("",),))
        else:
            holder = server.lock_holder
            is_dead = holder.life is not None and holder.life.is_over
            if (is_dead and not holder.is_silent) or (holder.is_silent and not holder.is_streaming):
                holder.end("the client is gone")
            answer = None
    elif "pg_replication_slots" in sql:
        if slot is not None:
            answer = Rows((("logical", "pgoutput", "sim", str(slot.confirmed), "reserved", "f", None),))
    elif "pg_publication" in sql:
        answer = Rows((("t", "t", "t", "t"),)) if server.has_publication else Rows()
    elif sql.startswith("CREATE PUBLICATION"):
        server.has_publication = True
    elif sql.startswith("DROP_REPLICATION_SLOT"):
        server.slot = None
    elif sql.startswith("CREATE_REPLICATION_SLOT"):
        if slot is not None:
            return ServerRefusal("42710", "the slot exists")
        # Like the server, wait for whoever is writing; one that was decoded by nobody must be seen by every snapshot.
        session.awaited = [*server.running] if session.awaited is None else session.awaited
        if server.hidden or set(session.awaited) & set(server.running):
            return None
        server.reveal_all()
        server.write_elsewhere(56)
        point = EndLsn(server.flushed_lsn)
        server.slot = Slot(point, point)
        name = re.findall(r'"([^"]+)"', sql)[0]
        answer = Rows(((name, str(point), None, "pgoutput"),))
    else:
        assert "set_config" in sql, sql
        answer = Rows((("",),))
    return answer
