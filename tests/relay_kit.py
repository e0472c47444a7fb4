"""
A source of replication frames, and an oracle for what a relay log must give back.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.relay.abc import FramesRecord, FrontierRecord, PublishedEnd, RelayRecord, SessionRecord, StubRecord
from penstock.relay.epochs import Acknowledge, RecordedBoundary
from penstock.relay.frames import messages
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from penstock.relay.reader import RelayReader
from penstock.replication.abc import FrameBatch, SessionStart, SlotIdentity
from penstock.replication.encode import encode_begin, encode_commit, encode_insert, encode_relation, encode_truncate
from penstock.replication.frames import XLogData, build_xlog_data, frame
from penstock.replication.messages import Fragment, Frontier, Omitted
from penstock.replication.transactions import TransactionAssembler
from relay_disk import FaultyDisk

OPTIONS = {"proto_version": "1"}
START = EndLsn(1000)

Kept: TypeAlias = tuple[CommitLsn, tuple[bytes, ...], EndLsn]
"""A transaction as the oracle sees it: its commit, its values in order, its end."""


def identity(confirmed: EndLsn = START, *, is_new: bool = False, slot: str = "penstock") -> SlotIdentity:
    """
    What the server says of its slot.
    """
    return SlotIdentity("7000000000000000001", 1, slot, is_new, confirmed if is_new else None, confirmed)


def session(found: SlotIdentity | None = None) -> SessionStart:
    """
    A connection that is about to stream.
    """
    return SessionStart(found if found is not None else identity(), OPTIONS)


def recorded(boundary: EndLsn = START, *, epoch: int = 0, trim_below: EndLsn | None = None) -> RecordedBoundary:
    """
    What the engine recorded.
    """
    return RecordedBoundary(boundary, boundary if trim_below is None else trim_below, epoch)


def describe(oid: int) -> bytes:
    """
    A Relation message of a table with one text column.
    """
    columns = (StreamColumn("value", 25, -1, is_key=True),)
    return encode_relation(RelationDescription(TableId(oid, "public", f"table{oid}"), "f", columns))


def framed(message: bytes, position: int) -> bytes:
    """
    A message as a frame.
    """
    return frame(build_xlog_data(XLogData(position, position, 0, message)))


@dataclass(frozen=True, slots=True)
class Transaction:
    """
    A transaction as the server keeps it: rows are (relation, value).
    """

    commit_lsn: CommitLsn
    end: EndLsn
    xid: int
    rows: tuple[tuple[int, bytes], ...]

    @property
    def kept(self) -> Kept:
        """
        What must come out of the log.
        """
        return (self.commit_lsn, tuple(value for _, value in self.rows), self.end)


@dataclass(slots=True)
class Source:
    """
    A server with a slot: it has committed transactions, and sends them to one connection at a time.
    """

    transactions: list[Transaction] = field(default_factory=list)
    confirmed: EndLsn = START
    end: EndLsn = START
    _described: set[int] = field(default_factory=set)
    _carried: list[tuple[int, bytes]] = field(default_factory=list)
    _next: int = 0
    _last_kept: CommitLsn = ZERO_COMMIT

    def commit(self, rows: Sequence[tuple[int, bytes]]) -> Transaction:
        """
        Commit a transaction.
        """
        xid = len(self.transactions) + 1
        transaction = Transaction(CommitLsn(self.end.value + 10), EndLsn(self.end.value + 18), xid, tuple(rows))
        self.transactions.append(transaction)
        self.end = transaction.end
        return transaction

    def connect(self, last_kept: CommitLsn) -> None:
        """
        Send again all that the slot has not been confirmed.
        """
        self._described = set()
        self._carried = []
        self._last_kept = last_kept
        self._next = next(
            (index for index, each in enumerate(self.transactions) if each.end > self.confirmed), len(self.transactions)
        )

    def is_drained(self) -> bool:
        """
        Whether everything has been sent on this connection.
        """
        return self._next == len(self.transactions)

    def send(self, parts: int = 1) -> list[FrameBatch]:
        """
        Send the next transaction, in so many batches at most; none when it is dropped as kept already.
        """
        transaction = self.transactions[self._next]
        self._next += 1
        frames: list[tuple[bytes, tuple[tuple[int, bytes], ...]]] = []
        position = transaction.commit_lsn.value
        for oid, value in transaction.rows:
            if oid not in self._described:
                self._described.add(oid)
                frames.append((framed(describe(oid), position), ((oid, describe(oid)),)))
            message = encode_insert(oid, [value]) if value != b"TRUNCATE" else encode_truncate([oid])
            frames.append((framed(message, position), ()))
        if transaction.commit_lsn <= self._last_kept:
            self._carried += [described for _, each in frames for described in each]
            return []
        begin = framed(encode_begin(transaction.commit_lsn, 0, transaction.xid), position)
        commit = framed(encode_commit(transaction.commit_lsn, transaction.end, 0), position)
        carried = [(framed(message, position), ((oid, message),)) for oid, message in self._carried]
        self._carried = []
        frames = [*carried, (begin, ()), *frames, (commit, ())]
        # The first batch must hold the Begin message, so the descriptions carried over go with it.
        least = len(carried) + 1
        count = max(1, min(parts, len(frames) - least + 1))
        cuts = [least + (len(frames) - least) * index // count for index in range(1, count)]
        bounds = [0, *cuts, len(frames)]
        batches = []
        for index in range(count):
            mine = frames[bounds[index] : bounds[index + 1]]
            batches.append(
                FrameBatch(
                    frames=b"".join(data for data, _ in mine),
                    transactions=((transaction.commit_lsn, transaction.xid),) if index == 0 else (),
                    descriptions=tuple(described for _, each in mine for described in each),
                    commit=(transaction.commit_lsn, transaction.end) if index == count - 1 else None,
                )
            )
        return batches


def merge(batches: Iterable[FrameBatch]) -> FrameBatch:
    """
    Make one batch of several that follow each other.
    """
    merged = FrameBatch(b"", (), (), None)
    for batch in batches:
        merged = replace(
            batch,
            frames=merged.frames + batch.frames,
            transactions=merged.transactions + batch.transactions,
            descriptions=merged.descriptions + batch.descriptions,
        )
    return merged


class Published(list[PublishedEnd]):
    """
    Remembers every move of the published end.
    """

    def publish(self, end: PublishedEnd) -> None:
        """
        See `Publisher`.
        """
        self.append(end)


def make_log(
    folder: Path,
    disk: FaultyDisk,
    *,
    acknowledge: Acknowledge = Acknowledge.RELAY,
    limits: RelayLimits | None = None,
    publisher: Published | None = None,
) -> RelayLog:
    """
    A relay log with clocks that stand still.
    """
    return RelayLog(
        folder=folder,
        publisher=publisher if publisher is not None else Published(),
        acknowledge=acknowledge,
        limits=limits or RelayLimits(),
        disk=disk,
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
    )


def read_all(reader: RelayReader, up_to: PublishedEnd, bytes_max: int = 1000) -> list[RelayRecord]:
    """
    Read up to a published end.
    """
    records: list[RelayRecord] = []
    while got := reader.read(up_to.place, bytes_max):
        records += got
    return records


def decode(records: Iterable[RelayRecord]) -> tuple[list[Kept], list[Omitted], list[EndLsn]]:
    """
    Decode records with the product's own assembler: transactions, stubs, and positions in between.
    """
    assembler = TransactionAssembler()
    kept: list[Kept] = []
    stubs: list[Omitted] = []
    positions: list[EndLsn] = []
    values: list[bytes] = []
    for record in records:
        match record:
            case SessionRecord(descriptions):
                assembler.begin_session(descriptions)
                values = []
            case FramesRecord(frames):
                for event in assembler.feed(frames):
                    if isinstance(event, Fragment):
                        values = [] if event.is_first else values
                        for change in event.changes:
                            values.append(change.new[0] or b"" if change.new is not None else b"TRUNCATE")
                        if event.end is not None:
                            kept.append((event.commit_lsn, tuple(values), event.end))
                            positions.append(event.end)
            case FrontierRecord(end):
                positions.append(Frontier(end).end)
            case StubRecord(commit_lsn, xid, oids, end):
                stubs.append(Omitted(commit_lsn, xid, oids, end))
                positions.append(end)
    return kept, stubs, positions


def read_kept(folder: Path, published: PublishedEnd, boundary: EndLsn) -> list[Kept]:
    """
    What an engine that recorded this boundary would see: the transactions that end after it.
    """
    with RelayReader(folder, published.epoch) as reader:
        reader.seek(boundary)
        kept, _, positions = decode(read_all(reader, published))
    assert positions == sorted(set(positions), key=lambda position: position.value), "positions do not grow"
    return [each for each in kept if each[2] > boundary]


def rows(chance: random.Random, count: int, size: int = 20) -> list[tuple[int, bytes]]:
    """
    Some rows of a few relations.
    """
    return [(chance.randint(1, 4), chance.randbytes(chance.randint(0, size))) for _ in range(count)]


def message_kinds(frames: bytes) -> bytes:
    """
    The kinds of messages in a run of frames.
    """
    return bytes(frames[message] for _, message, _ in messages(frames))
