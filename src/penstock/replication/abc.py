"""
What the replication connection needs of whoever keeps its frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from penstock.postgres.lsn import CommitLsn, EndLsn


@dataclass(frozen=True, slots=True)
class SlotIdentity:
    """
    What identifies one life of one slot, as the server told it on connecting.

    Attributes:
        system_id: the cluster's system identifier.
        timeline: the timeline it is on.
        slot_name: the slot.
        is_new: whether the slot was created on this connection (or had to be, because it was lost or its publication
            was missing).
        consistent_point: where decoding of a new slot begins; None when the slot was there already.
        confirmed: the slot's confirmed position.
        reason: why the slot is new, in words; empty when it is not.
        flushed: the server's own end of WAL (`IDENTIFY_SYSTEM`); a server that was restored to a point before what we
            keep shows it here and nowhere else. None when it was not asked.
    """

    system_id: str
    timeline: int
    slot_name: str
    is_new: bool
    consistent_point: EndLsn | None
    confirmed: EndLsn
    reason: str = ""
    flushed: EndLsn | None = None


@dataclass(frozen=True, slots=True)
class SessionStart:
    """
    A new connection is about to stream.

    Attributes:
        identity: of the slot.
        options: stream options and session settings, for the record.
    """

    identity: SlotIdentity
    options: dict[str, str]


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """
    Frames in stream order, either up to the end of a commit or a part of one transaction.

    Attributes:
        frames: each frame as a 4-byte big-endian length and the `w` payload as received, end to end.
        transactions: Begin messages in it that opened a transaction, as (commit LSN, 32-bit xid) in order.
        descriptions: Relation messages in it: oid and the message from its `R`, in order.
        commit: commit LSN and end of the last transaction that ends with this batch, None when it ends inside one.
    """

    frames: bytes
    transactions: tuple[tuple[CommitLsn, int], ...]
    descriptions: tuple[tuple[int, bytes], ...]
    commit: tuple[CommitLsn, EndLsn] | None


class FrameSink(Protocol):
    """
    Keeps frames durably, in a thread of its own. No call blocks on a disk.
    """

    def begin_session(self, start: SessionStart) -> CommitLsn:
        """
        Tell that a new connection streams from here; answer the last commit that is kept.

        Blocks until everything submitted before is kept or given up (bounded by the sink's own deadline). Transactions
        at or below the answer that the server sends again are to be dropped, but for the descriptions inside them.
        """
        ...

    def submit(self, batch: FrameBatch) -> None:
        """
        Hand over frames.
        """
        ...

    def submit_frontier(self, end: EndLsn) -> None:
        """
        Hand over a position reached outside a transaction.
        """
        ...

    @property
    def is_full(self) -> bool:
        """
        Whether the reader of the socket should stop until told otherwise (through its wake-up pipe).
        """
        ...

    @property
    def confirmable(self) -> EndLsn:
        """
        The position that may be confirmed to Postgres now.
        """
        ...

    @property
    def has_failed(self) -> bool:
        """
        Whether a write or sync failed since the session began: the connection must be made anew.
        """
        ...
