"""
What the database's shells need of the stages around them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class BarrierFacts(Protocol):
    """
    Which publication barriers have been passed, and for tables of which form, kept durably and forgotten with their epoch.
    """

    async def passed(self, oid: int) -> int | None:
        """
        Answer the membership of the table behind which the barrier was passed; None when none was.
        """
        ...

    async def record(self, oid: int, membership: int | None) -> None:
        """
        Record that it was passed for this membership, or with None that it was not; returns when that is durable.
        """
        ...

    async def form(self, oid: int) -> str | None:
        """
        Answer the form of a table (`forms.py`) that the snapshots of its shapes depend on; None when none was recorded.
        """
        ...

    async def record_form(self, oid: int, form: str | None) -> None:
        """
        Record it, or with None forget it; returns when that is durable.
        """
        ...

    def partitions_of(self, oid: int) -> frozenset[int]:
        """
        Answer the relations that are recorded to lie below a partitioned table.
        """
        ...

    def is_elsewhere(self, partition: int, oid: int) -> bool:
        """
        Tell whether a relation is recorded, and not as one below this table.
        """
        ...

    async def find_again(self, oids: Collection[int]) -> None:
        """
        Find anew what lies above those of these relations of which it is recorded; returns when that is durable.
        """
        ...
