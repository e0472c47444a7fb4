"""
What the collector hands to the consumers, and what it needs of them.

What is made for every transaction is a struct that the collector of cyclic garbage does not look at: it holds what was
there before it, and nothing that could hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol, overload

import msgspec

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Change, Fragment

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
    changes: Sequence[Change]
    end: EndLsn | None
    verdicts: Sequence[int] | None = None


class WholeRun(Sequence[RoutedPart]):
    """
    Whole transactions, one after the other, for the shapes that want all changes of one table. Shared by all of them.

    It is the sequence of their parts, which are made when somebody asks for one: whoever can takes the transactions as
    they are (`fragments`), which is most of what is saved by having them together.

    Attributes:
        relation: describes all rows of all changes; None when they are of several relations.
        fragments: the transactions, in commit order. Each begins and ends in its fragment, none is empty, no truncate is
            among the changes.
        before: of each, where the transaction before it in the stream ends, whoever that concerned.
        encoded: what a projection made of all of them; filled and read by whoever encodes.
    """

    __slots__ = ("_first", "_last", "_parts", "before", "encoded", "fragments", "relation")

    def __init__(self, relation: RelationDescription | None) -> None:
        """
        Begin with no transactions; whoever makes it adds them before it is handed on.
        """
        self.relation = relation
        self.fragments: list[Fragment] = []
        self.before: list[EndLsn] = []
        self.encoded: dict[object, object] = {}
        self._parts: list[RoutedPart] | None = None
        self._first: RoutedPart | None = None
        self._last: RoutedPart | None = None

    def __len__(self) -> int:
        return len(self.fragments)

    @overload
    def __getitem__(self, index: int) -> RoutedPart: ...

    @overload
    def __getitem__(self, index: slice) -> list[RoutedPart]: ...

    def __getitem__(self, index: int | slice) -> RoutedPart | list[RoutedPart]:
        if self._parts is None:
            # The two that are asked for only to see which transactions these are.
            if index == -1:
                if self._last is None:
                    self._last = self._make(self.fragments[-1])
                return self._last
            if index == 0:
                if self._first is None:
                    self._first = self._make(self.fragments[0])
                return self._first
        return self.parts[index]

    def __iter__(self) -> Iterator[RoutedPart]:
        return iter(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.parts == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of other sequences that change

    @property
    def parts(self) -> list[RoutedPart]:
        """
        The transactions as parts of a delivery.
        """
        if self._parts is None:
            self._parts = [self._make(fragment) for fragment in self.fragments]
        return self._parts

    def _make(self, fragment: Fragment) -> RoutedPart:
        return RoutedPart(fragment.commit_lsn, fragment.xid, fragment.changes, fragment.end)


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
