"""
What the database's shells need of the stages around them.
"""

from __future__ import annotations

from typing import Protocol


class BarrierFacts(Protocol):
    """
    Which publication barriers have been passed, kept durably and forgotten with their epoch.
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
