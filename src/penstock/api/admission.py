"""
How many requests may be under way, and of which kind.

Requests for shapes that this worker has served before and those for shapes that may have to be made are counted apart,
so that a rush of new shapes cannot keep out clients that follow old ones. A permit is given back exactly once.

Reducer: plain calls, no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Final


class Kind(Enum):
    """
    What a request may cost.
    """

    INITIAL = "initial"
    """It may make a shape and query the database."""
    EXISTING = "existing"
    """It reads a log that is there."""

    # Members are equal to themselves only; the enumeration's own hash is a call of Python for each look-up.
    __hash__ = object.__hash__


class Admission:
    """
    Counts of requests under way, with their limits, and the handles that were served before.
    """

    def __init__(self, *, initial_max: int, existing_max: int, known_handles_max: int) -> None:
        self.limits: Final = {Kind.INITIAL: initial_max, Kind.EXISTING: existing_max}
        self._counts = dict.fromkeys(Kind, 0)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._known_max = known_handles_max

    def classify(self, handle: str | None) -> Kind:
        """
        Tell the kind of a request by nothing but the handle it brings.
        """
        return Kind.EXISTING if handle is not None and handle in self._known else Kind.INITIAL

    def admit(self, kind: Kind) -> Permit | None:
        """
        Count a request; None when the limit is reached.
        """
        if self._counts[kind] >= self.limits[kind]:
            return None
        self._counts[kind] += 1
        return Permit(self._counts, self.limits, kind)

    def under_way(self, kind: Kind) -> int:
        """
        Tell how many requests of a kind hold a permit.
        """
        return self._counts[kind]

    def remember(self, handle: str) -> None:
        """
        Take a handle as served; the one not seen for longest is forgotten when there are too many.
        """
        self._known[handle] = None
        self._known.move_to_end(handle)
        if len(self._known) > self._known_max:
            self._known.popitem(last=False)

    def forget(self, handle: str) -> None:
        """
        Take a handle as unknown.
        """
        self._known.pop(handle, None)


class Permit:
    """
    The right to be under way; counted as the kind it currently has.
    """

    __slots__ = ("_counts", "_kind", "_limits")

    def __init__(self, counts: dict[Kind, int], limits: dict[Kind, int], kind: Kind) -> None:
        self._counts = counts
        self._limits = limits
        self._kind: Kind | None = kind

    def become_existing(self) -> None:
        """
        The shape is there now. Kept as it is when there is no room among the existing ones.
        """
        if self._kind is Kind.INITIAL and self._counts[Kind.EXISTING] < self._limits[Kind.EXISTING]:
            self._counts[Kind.INITIAL] -= 1
            self._counts[Kind.EXISTING] += 1
            self._kind = Kind.EXISTING

    def release(self) -> None:
        """
        Give it back; more than once has no effect.
        """
        if self._kind is not None:
            self._counts[self._kind] -= 1
            assert self._counts[self._kind] >= 0
            self._kind = None
