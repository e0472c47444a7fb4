"""
Batches of frames made into records: what is in order as it came, and of too large a transaction only a stub.

Theory of operation. A batch ends at a commit or lies inside one transaction, so at most one is open. Its frames are
written as they come, and lie beyond the published end until its commit does. When it has grown too large, the segment is
left and another begun, which takes back all that was written of it; from then on only the relations that it touches are
noted, and its commit becomes a stub.

A reducer in front of `segment_writer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.abc import FramesRecord, StubRecord
from penstock.relay.frames import description_frames, first_commit, touched
from penstock.relay.records import encode_frames, encode_frontier, encode_stub
from penstock.relay.segment_writer import SegmentWriter
from penstock.replication.abc import FrameBatch


@dataclass(slots=True)
class _OpenTransaction:
    """
    The transaction whose commit has not come.

    Once it is too large, `relations` and `descriptions` hold what its stub needs; before, they are None and empty.
    """

    commit_lsn: CommitLsn
    xid: int
    start: int
    size: int = 0
    relations: set[int] | None = None
    descriptions: dict[int, bytes] = field(default_factory=dict)


class BatchWriter:
    """
    Puts batches and frontiers in line as records.

    Methods raise `OSError` when the disk refuses, and `DecodeError` when a transaction that is too large is not made of
    frames; the segment writer is to be abandoned then.
    """

    def __init__(self, segment: SegmentWriter, *, transaction_bytes_max: int) -> None:
        """
        Write to `segment`, of transactions up to `transaction_bytes_max` bytes of frames.
        """
        self._segment = segment
        self._transaction_bytes_max = transaction_bytes_max
        self._open: _OpenTransaction | None = None

    @property
    def is_inside(self) -> bool:
        """
        Whether a transaction is open.
        """
        return self._open is not None

    def forget(self) -> None:
        """
        Forget the open transaction, if there is one: its connection is over, or its segment was abandoned.
        """
        self._open = None

    def add_frontier(self, end: EndLsn) -> None:
        """
        Keep a frontier, unless as much is known already.
        """
        assert self._open is None, "a frontier inside a transaction"
        if end > self._segment.end:
            self._segment.add((encode_frontier(end),), end)

    def add(self, batch: FrameBatch) -> None:
        """
        Keep a batch.
        """
        for oid, description in batch.descriptions:
            self._segment.describe(oid, description)
        if self._open is None and batch.commit is None and batch.transactions:
            commit_lsn, xid = batch.transactions[-1]
            self._open = _OpenTransaction(commit_lsn, xid, self._segment.position)
        transaction = self._open
        if transaction is not None and batch.commit is None:
            transaction.size += len(batch.frames)
            if transaction.relations is None and transaction.size > self._transaction_bytes_max:
                self._take_back(transaction)
        if transaction is not None and transaction.relations is not None:
            self._add_to_stub(transaction, batch)
            return
        self._add_frames(batch.frames, batch.commit)

    def _add_frames(self, frames: bytes, commit: tuple[CommitLsn, EndLsn] | None) -> None:
        if commit is None:
            self._segment.add(encode_frames(frames, None))
        else:
            self._segment.add(encode_frames(frames, commit), commit[1], commit[0])
            self._open = None

    def _take_back(self, transaction: _OpenTransaction) -> None:
        """
        Give up what is written of a transaction, but for the relations it touched; its stub goes to a new segment.
        """
        self._segment.flush()
        relations: set[int] = set()
        for stored in self._segment.scan(transaction.start):
            assert isinstance(stored.record, FramesRecord)
            relations |= touched(stored.record.frames)
        # Descriptions in what is taken back are in force, hence in the header of the new segment.
        self._segment.begin()
        transaction.start = self._segment.position
        transaction.relations = relations

    def _add_to_stub(self, transaction: _OpenTransaction, batch: FrameBatch) -> None:
        """
        Drop frames of a transaction that is too large; when its commit is among them, write the stub and go on.
        """
        assert transaction.relations is not None
        commit = first_commit(batch.frames) if batch.commit is not None else None
        frames = batch.frames[: commit.byte] if commit is not None else batch.frames
        transaction.relations |= touched(frames)
        transaction.descriptions.update(description_frames(frames))
        if commit is None:
            assert batch.commit is None, "a batch that ends at a commit holds one"
            return
        assert commit.commit_lsn == transaction.commit_lsn, "the commit is not that of the open transaction"
        if transaction.descriptions:
            self._add_frames(b"".join(transaction.descriptions.values()), None)
        stub = StubRecord(commit.commit_lsn, transaction.xid, tuple(sorted(transaction.relations)), commit.end)
        self._segment.add((encode_stub(stub),), stub.end, stub.commit_lsn)
        self._open = None
        if commit.byte < len(batch.frames):
            self._add_frames(batch.frames[commit.byte :], batch.commit)
