"""
The copy messages of a replication stream: what they hold, and how a drained run of them becomes batches of frames.

It owns the two payloads that the server sends (`w`, WAL data, and `k`, a keepalive), the one that we send (`r`, the
standby status) and `FrameScanner`, which cuts the stream into batches for whoever keeps it. It looks into a frame just
far enough to find the ends of transactions and the descriptions of relations; decoding is left to
`replication.pgoutput`.

Form: pure functions, and `FrameScanner` as a feeder. Layouts are those of the chapters "Streaming Replication
Protocol" and "Logical Replication Message Formats" of the Postgres documentation.

Theory of operation of the scanner:

* Outside a transaction the only message that is kept is the description of a relation. A transaction is *kept* or,
  when it is sent again although it was kept before, *dropped*; which of the two, its Begin message says, because it
  names the commit LSN. Descriptions inside dropped transactions are kept as frames: the server sends a description
  only once in a connection, and it may choose a transaction that we drop for it.
* Frames gather in one buffer. Everything up to the last commit in it may leave at any time, as one batch. What
  follows is a part of one open transaction; it stays until its commit comes, or until it is so much that it leaves as
  a batch inside that transaction. Descriptions of dropped transactions wait in the buffer for the next transaction.
* A frontier is a position with nothing before it that is still on its way to the keeper. It exists only outside
  transactions, it is forgotten when the next one begins (its commit is farther), and `drain` gives it after the batch
  that holds everything received before it.

Invariants: a batch ends at a commit or lies inside one transaction; frames leave in the order in which they came; a
frontier never passes a change that has not left, and never moves back within a connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.replication.abc import FrameBatch

FRAME_BATCH_BYTES: Final = 256 * 1024
"""A batch is cut when its frames reach this many bytes; one frame may be larger and is never cut."""

FRONTIER_INTERVAL_S: Final = 1.0
"""At most one frontier leaves in this time, unless the server asks for a reply."""

BEHIND_US: Final = 5_000
"""A transaction sent longer than this after it committed means that the stream lags behind the server."""

MESSAGE_AT: Final = 25
"""Where the logical message begins in a `w` payload."""

FRAME_LENGTH_BYTES: Final = 4

Buffer: TypeAlias = bytes | bytearray | memoryview
Drained: TypeAlias = FrameBatch | EndLsn

_XLOG_DATA: Final = ord("w")
_KEEPALIVE: Final = ord("k")
_BEGIN: Final = ord("B")
_COMMIT: Final = ord("C")
_RELATION: Final = ord("R")
_NAMELESS: Final = frozenset(b"YOM")

_XLOG_DATA_HEAD: Final = struct.Struct(">BQQq")
_KEEPALIVE_BODY: Final = struct.Struct(">BQqB")
_STATUS: Final = struct.Struct(">BQQQqB")
_LENGTH: Final = struct.Struct(">I")
# From the send time of the `w` payload on: it is compared with the commit time, both of the server's clock.
_BEGIN_TAIL: Final = struct.Struct(">qBQqI")
_COMMIT_TAIL: Final = struct.Struct(">qBBQQq")
_OID: Final = struct.Struct(">I")
_TAIL_AT: Final = 17

_PREFIXES: Final = tuple(_LENGTH.pack(length) for length in range(2048))
_OUTSIDE: Final = 0
_KEEPING: Final = 1
_DROPPING: Final = 2


@dataclass(frozen=True, slots=True)
class XLogData:
    """
    A `w` payload.

    Attributes:
        start: WAL position of the message as a number; in logical replication equal to `end`.
        end: see `start`.
        sent_us: the server's clock, microseconds since 2000-01-01.
        message: the logical message.
    """

    start: int
    end: int
    sent_us: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """
    A `k` payload.

    Attributes:
        wal_end: how far the server has sent, as a number.
        sent_us: the server's clock, microseconds since 2000-01-01.
        is_reply_requested: whether it wants a standby status at once.
    """

    wal_end: int
    sent_us: int
    is_reply_requested: bool


def build_xlog_data(payload: XLogData) -> bytes:
    """
    Build a `w` payload.
    """
    return _XLOG_DATA_HEAD.pack(_XLOG_DATA, payload.start, payload.end, payload.sent_us) + payload.message


def build_keepalive(payload: Keepalive) -> bytes:
    """
    Build a `k` payload.
    """
    return _KEEPALIVE_BODY.pack(_KEEPALIVE, payload.wal_end, payload.sent_us, payload.is_reply_requested)


def encode_standby_status(received: int, confirmed: EndLsn, at_us: int, *, is_reply_requested: bool = False) -> bytes:
    """
    Build the 34 bytes of a standby status.

    Args:
        received: how far the stream was read, as a number; never reported as less than `confirmed`.
        confirmed: reported as flushed and as applied.
        at_us: our clock, microseconds since 2000-01-01.
        is_reply_requested: whether the server is to answer at once.
    """
    flushed = confirmed.value
    return _STATUS.pack(ord("r"), max(received, flushed), flushed, flushed, at_us, is_reply_requested)


def frame(payload: Buffer) -> bytes:
    """
    Put the length before a `w` payload, as in `FrameBatch.frames`.
    """
    return _LENGTH.pack(len(payload)) + bytes(payload)


class FrameScanner:
    """
    Cuts the payloads of one connection into batches of frames.

    Attributes:
        received: how far the stream was read, as a number: the end of the last commit, or what a keepalive outside a
            transaction named.
        server_end: the greatest WAL position that the server has named, as a number.
        is_behind: whether the last transaction was sent noticeably after its commit.
        is_reply_requested: whether the server asked for a standby status; cleared by whoever sends one.
    """

    __slots__ = (
        "_batches",
        "_begin_at",
        "_begin_end",
        "_begun",
        "_buffer",
        "_commit",
        "_commit_end",
        "_committed_counts",
        "_descriptions",
        "_frontier",
        "_frontier_at",
        "_is_frontier_urgent",
        "_last_kept",
        "_passed",
        "_state",
        "_transactions",
        "is_behind",
        "is_reply_requested",
        "received",
        "server_end",
    )

    def __init__(self, last_kept: CommitLsn) -> None:
        """
        Begin at the start of a connection.

        Args:
            last_kept: transactions with this or a lower commit LSN were kept before and are dropped.
        """
        self.received = 0
        self.server_end = 0
        self.is_behind = False
        self.is_reply_requested = False
        self._last_kept = last_kept.value
        self._state = _OUTSIDE
        self._begun = 0
        self._buffer = bytearray()
        self._batches: list[Drained] = []
        # Where in the buffer the Begin message of the open transaction lies; -1 once it has left.
        self._begin_at = -1
        self._begin_end = -1
        # What of the buffer and of the two lists belongs to the transactions that have ended.
        self._commit_end = 0
        self._commit = (0, 0)
        self._committed_counts = (0, 0)
        self._transactions: list[tuple[CommitLsn, int]] = []
        self._descriptions: list[tuple[int, bytes]] = []
        self._frontier = 0
        self._frontier_at = float("-inf")
        self._is_frontier_urgent = False
        self._passed = last_kept.value

    @property
    def is_inside_transaction(self) -> bool:
        """
        Whether a transaction has begun and not ended.
        """
        return self._state != _OUTSIDE

    @property
    def has_full_batch(self) -> bool:
        """
        Whether so much came that a batch was cut.
        """
        return bool(self._batches)

    @property
    def frontier_due_at(self) -> float | None:
        """
        When `drain` will give a frontier, on the clock of its argument; None when there is none to give.
        """
        if not self._frontier:
            return None
        return float("-inf") if self._is_frontier_urgent else self._frontier_at + FRONTIER_INTERVAL_S

    def feed(self, payloads: Iterable[Buffer]) -> None:
        """
        Take payloads as they came; none of them is referred to afterwards.

        Raises:
            DecodeError: this is not a logical replication stream of protocol version 1. The scanner is of no use then.
        """
        try:
            self._feed(payloads)
        except (IndexError, struct.error) as cause:
            raise DecodeError("a message of the replication stream is too short") from cause

    def _feed(self, payloads: Iterable[Buffer]) -> None:
        """
        Do what `feed` says; short messages raise whatever they raise.
        """
        buffer = self._buffer
        state = self._state
        for payload in payloads:
            if payload[0] != _XLOG_DATA:
                self._state = state
                self._take_keepalive(payload)
                continue
            kind = payload[MESSAGE_AT]
            length = len(payload)
            if kind == _BEGIN:
                if state != _OUTSIDE:
                    raise DecodeError("a transaction begins inside another one")
                sent_us, _, commit_lsn, committed_us, xid = _BEGIN_TAIL.unpack_from(payload, _TAIL_AT)
                self.is_behind = sent_us - committed_us > BEHIND_US
                self._begun = commit_lsn
                if commit_lsn <= self._last_kept:
                    state = _DROPPING
                    continue
                state = _KEEPING
                self._frontier = 0
                self._transactions.append((CommitLsn(commit_lsn), xid))
                self._begin_at = len(buffer)
                buffer += _PREFIXES[length]
                buffer += payload
                self._begin_end = len(buffer)
                continue
            if kind == _COMMIT:
                state = self._take_commit(payload, state)
                continue
            if kind == _RELATION:
                self._descriptions.append((_OID.unpack_from(payload, MESSAGE_AT + 1)[0], bytes(payload[MESSAGE_AT:])))
            elif state == _DROPPING:
                continue
            elif state == _OUTSIDE:
                if kind in _NAMELESS:
                    continue
                raise DecodeError("a change came outside a transaction")
            buffer += _PREFIXES[length] if length < 2048 else _LENGTH.pack(length)
            buffer += payload
            if len(buffer) >= FRAME_BATCH_BYTES:
                self._state = state
                self._cut()
        self._state = state

    def drain(self, now: float) -> list[Drained]:
        """
        Give what is ready to be kept, in order: batches, and at most one frontier at the end.

        The part of a transaction that is still open stays back until it is `FRAME_BATCH_BYTES`.

        Args:
            now: seconds on a clock that does not jump.
        """
        self._cut()
        ready, self._batches = self._batches, []
        due_at = self.frontier_due_at
        if due_at is not None and now >= due_at:
            assert self._state != _KEEPING, "a frontier inside a transaction"
            assert self._frontier > self._passed, "a frontier that moves back"
            ready.append(EndLsn(self._frontier))
            self._passed = self._frontier
            self._frontier = 0
            self._frontier_at = now
            self._is_frontier_urgent = False
        return ready

    def _take_keepalive(self, payload: Buffer) -> None:
        """
        Note a position, and whether the server waits.
        """
        if payload[0] != _KEEPALIVE:
            raise DecodeError(f"not a copy message of the replication stream: it begins with {payload[0]:#04x}")
        _, wal_end, _, reply = _KEEPALIVE_BODY.unpack(payload)
        if reply:
            self.is_reply_requested = True
        self.server_end = max(self.server_end, wal_end)
        if self._state == _OUTSIDE:
            self.is_behind = False
            self._reach(wal_end, is_urgent=reply != 0)

    def _reach(self, position: int, *, is_urgent: bool) -> None:
        """
        Note a position reached outside a transaction.
        """
        self.received = max(self.received, position)
        if position > self._passed:
            self._frontier = max(self._frontier, position)
            self._is_frontier_urgent |= is_urgent

    def _take_commit(self, payload: Buffer, state: int) -> int:
        """
        End the open transaction; give the new state.
        """
        if state == _OUTSIDE:
            raise DecodeError("a transaction ends that did not begin")
        sent_us, _, _, commit_lsn, end, committed_us = _COMMIT_TAIL.unpack_from(payload, _TAIL_AT)
        if commit_lsn != self._begun:
            raise DecodeError("a transaction ends that is not the one that began")
        self.is_behind = sent_us - committed_us > BEHIND_US
        self.received = max(self.received, end)
        self.server_end = max(self.server_end, end)
        if state == _DROPPING:
            self._passed = max(self._passed, end)
            return _OUTSIDE
        buffer = self._buffer
        if len(buffer) == self._begin_end:
            # Nothing happened in it, so a position says all there is to keep.
            del buffer[self._begin_at :]
            self._transactions.pop()
            self._state = _OUTSIDE
            self._reach(end, is_urgent=False)
        else:
            buffer += _PREFIXES[len(payload)]
            buffer += payload
            self._commit_end = len(buffer)
            self._commit = (commit_lsn, end)
            self._committed_counts = (len(self._transactions), len(self._descriptions))
            self._passed = max(self._passed, end)
        self._begin_at = self._begin_end = -1
        if len(buffer) >= FRAME_BATCH_BYTES:
            self._state = _OUTSIDE
            self._cut()
        return _OUTSIDE

    def _cut(self) -> None:
        """
        Move what may leave out of the buffer: up to the last commit, then a large rest of an open transaction.
        """
        if self._commit_end:
            commit_lsn, end = self._commit
            self._emit(self._commit_end, *self._committed_counts, (CommitLsn(commit_lsn), EndLsn(end)))
            self._commit_end = 0
        if self._state == _KEEPING and len(self._buffer) >= FRAME_BATCH_BYTES:
            self._emit(len(self._buffer), len(self._transactions), len(self._descriptions), None)

    def _emit(self, length: int, transactions: int, descriptions: int, commit: tuple[CommitLsn, EndLsn] | None) -> None:
        """
        Make a batch of the first bytes of the buffer and the first entries of the lists.
        """
        buffer = self._buffer
        if length == len(buffer):
            frames = bytes(buffer)
            buffer.clear()
        else:
            with memoryview(buffer) as view:
                frames = bytes(view[:length])
            del buffer[:length]
        self._batches.append(
            FrameBatch(
                frames, tuple(self._transactions[:transactions]), tuple(self._descriptions[:descriptions]), commit
            )
        )
        del self._transactions[:transactions]
        del self._descriptions[:descriptions]
        if self._begin_at >= length:
            self._begin_at -= length
            self._begin_end -= length
        else:
            self._begin_at = self._begin_end = -1
