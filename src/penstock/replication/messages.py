"""
What comes out of the replication stage: transactions in fragments, and the marks between them.

Values are slotted classes and not frozen ones, because one is made per changed row; treat them as constants. The two
made most often are structs, which are made in a third of the time, and which the collector of cyclic garbage does not
look at, because they hold only what was there before them.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import msgspec

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription

Row: TypeAlias = tuple[bytes | None, ...]
"""Text values in the order of the relation's columns; None is NULL."""


class Operation(Enum):
    """
    What happened to a row or a table.
    """

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"


class Change(msgspec.Struct, gc=False):
    """
    One operation of a transaction.

    Attributes:
        operation: what happened.
        relation: the table it names in the stream: a partition, not its root.
        op_position: place in its transaction, counted over all tables in steps of two from 0.
        old: the complete old row of an update or delete; None for others, or when the replica identity was too weak
            (then `is_old_missing`).
        new: the new row of an insert or update, unchanged TOAST values filled in from `old`.
        is_old_missing: whether an update or delete came without its complete old row.
        encoded: what was made of it for those who are served it, by whoever made it; filled and read by them.
    """

    operation: Operation
    relation: RelationDescription
    op_position: int
    old: Row | None
    new: Row | None
    is_old_missing: bool = False
    encoded: dict[object, tuple[tuple[int, bytes], ...]] | None = None


class Fragment(msgspec.Struct, gc=False):
    """
    A run of changes of one published transaction, in order.

    Attributes:
        commit_lsn: names the transaction.
        xid: its 32-bit transaction id.
        changes: may be empty only in a fragment that ends a transaction.
        is_first: whether the transaction begins with it.
        end: set on the fragment that ends the transaction: the position just past its commit.
        relation: describes the rows of all changes; None when nobody has looked, when they are of several relations, when
            a truncate is among them, and when there are none.
    """

    commit_lsn: CommitLsn
    xid: int
    changes: list[Change]
    is_first: bool
    end: EndLsn | None
    relation: RelationDescription | None = None


@dataclass(slots=True)
class RelationSeen:
    """
    A description that came into force; delivered at once, in stream order.
    """

    description: RelationDescription


@dataclass(slots=True)
class Frontier:
    """
    Nothing that concerns us is on its way up to this position.
    """

    end: EndLsn


@dataclass(slots=True)
class Omitted:
    """
    A transaction too large to be kept: only the relations it touched are known.
    """

    commit_lsn: CommitLsn
    xid: int
    relation_oids: tuple[int, ...]
    end: EndLsn


StreamEvent: TypeAlias = Fragment | RelationSeen | Frontier | Omitted

FRAGMENT_BYTES_MAX: Final = 1 << 20
"""A transaction is handed on in fragments of about this many bytes of frames."""
