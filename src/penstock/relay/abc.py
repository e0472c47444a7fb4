"""
What the relay log offers to its reader, and what it needs of whoever tells others about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from penstock.postgres.lsn import CommitLsn, EndLsn


class RelayPlace(NamedTuple):
    """
    A place in the relay log of one epoch: a segment and a byte in its file.
    """

    segment: int
    byte: int


class PublishedEnd(msgspec.Struct, frozen=True, array_like=True):
    """
    How far the relay log may be read.

    Attributes:
        epoch: the epoch whose folder is meant; greater ones are newer.
        place: read up to here, exclusively; always just past a commit or a mark between transactions.
        end: the WAL position that corresponds to it, as a number.
    """

    epoch: int
    place: RelayPlace
    end: int


@dataclass(frozen=True, slots=True)
class FramesRecord:
    """
    Frames as in `FrameBatch.frames`.
    """

    frames: bytes


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """
    A new connection begins: a transaction that was open is void, descriptions are forgotten.

    Attributes:
        descriptions: Relation messages in force from here, each from its `R` (those of a segment's header).
    """

    descriptions: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class FrontierRecord:
    """
    A position reached outside a transaction.
    """

    end: EndLsn


@dataclass(frozen=True, slots=True)
class StubRecord:
    """
    A transaction that was too large to keep.
    """

    commit_lsn: CommitLsn
    xid: int
    relation_oids: tuple[int, ...]
    end: EndLsn


RelayRecord: TypeAlias = FramesRecord | SessionRecord | FrontierRecord | StubRecord


class Publisher(Protocol):
    """
    Tells the readers of the relay log how far they may go. Called from the disk thread; must not block.
    """

    def publish(self, end: PublishedEnd) -> None:
        """
        Move the published end.
        """
        ...


class RelaySource(Protocol):
    """
    The relay log of one epoch, as a file reader with a position.
    """

    def seek(self, boundary: EndLsn) -> None:
        """
        Go to the newest place from which everything ending after `boundary` can be decoded.

        Raises:
            CorruptLogError: the log does not reach back that far.
        """
        ...

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[RelayRecord]:
        """
        Read on, at least one record and about `bytes_max` bytes; nothing at `up_to_exclusive`.

        Each segment opens with a `SessionRecord` that holds the descriptions of its header; where the connection goes on,
        they equal those in force.

        Raises:
            CorruptLogError: a record below the published end does not verify. The reader stands after it.
        """
        ...

    @property
    def place(self) -> RelayPlace:
        """
        Where the next read begins.
        """
        ...
