"""
What the collector hands to the consumers, and what it needs of them.

The two that are made for every row and for every transaction are structs that the collector of cyclic garbage does not
look at: they hold what was there before them, and nothing that could hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Operation, Row


class RoutedChange(msgspec.Struct, gc=False):
    """
    One operation of a transaction on its way to the shapes it may concern.

    Shared by all of them, and so are its encodings.

    Attributes:
        operation: what happened.
        relation: describes the columns of the rows; the table the stream named, which may be a partition.
        table_oid: the table of the shapes it is routed to: `relation`'s own, or a partitioned table above it.
        op_position: place in its transaction.
        old: as in `replication.messages.Change`.
        new: as there.
        is_old_missing: as there.
        encoded: what a projection made of it; filled and read by whoever encodes.
    """

    operation: Operation
    relation: RelationDescription
    table_oid: int
    op_position: int
    old: Row | None
    new: Row | None
    is_old_missing: bool = False
    encoded: dict[object, tuple[tuple[int, bytes], ...]] = msgspec.field(default_factory=dict)


INCLUDES_NEW: Final = 1
"""A bit of a verdict: the new row satisfies the condition."""
INCLUDES_OLD: Final = 2
"""A bit of a verdict: the old row does."""
UNKNOWN: Final = -1
"""A verdict: whoever gets the change has to find out."""


class RoutedPart(msgspec.Struct, gc=False):
    """
    What a published transaction, or a fragment of one, holds for one shape. Lists may be shared between shapes.

    A shape that got any part of a transaction gets the part that ends it, if need be without changes.

    Attributes:
        commit_lsn: names the transaction.
        xid: its 32-bit id.
        changes: in order of their positions.
        end: set on the part that ends the transaction.
        verdicts: for a shape with a condition, what of each change satisfies it; None when nobody can tell of any.
            `INCLUDES_NEW` and `INCLUDES_OLD` added up, or `UNKNOWN`. One that is known says also that the columns the
            condition reads are in the change's relation as they were.
    """

    commit_lsn: CommitLsn
    xid: int
    changes: Sequence[RoutedChange]
    end: EndLsn | None
    verdicts: Sequence[int] | None = None


class ConsumerDelivery(Protocol):
    """
    The live consumers, as the collector sees them. No call waits.
    """

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Deliver, by incarnation, what a slice of the stream holds for each shape, in commit order.

        Whatever cannot be delivered makes its shape behind or condemned; nothing is dropped and nothing raised.
        """
        ...

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        A description came into force; shapes on these tables (the relation's own and those above it) may not survive it.
        """
        ...

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """
        Shapes on these tables cannot be followed past this commit: rotate them, but for those whose snapshot holds it.

        A truncate, a transaction too large to keep, or one whose rest was lost. The debt of the commit has been
        registered. Those that do not survive are unrouted before the call returns; what is delivered to the others goes
        on, the end of this transaction included.

        Args:
            table_oids: the tables.
            at: the commit.
            reason: why.
            xid: the transaction's 32-bit id.
        """
        ...


class CatalogFacts(Protocol):
    """
    What must be asked of the database while a commit is processed; recorded durably before it is answered.
    """

    def ancestors_of(self, relation_oid: int) -> tuple[int, ...] | None:
        """
        Answer the recorded partitioned tables above a relation (none for most); None when not known yet.
        """
        ...

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        """
        Ask and record them; retried until the database answers. A relation that is gone has none.
        """
        ...
