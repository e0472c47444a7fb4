"""
Which tails are settled when.

A tail is due when it is older than the age given, or larger than the size given, or asked for. A shape that owes
without having anything in its tail is due by age as well: its report costs nothing. A shape whose disk had no space
rests for a while.

Form: reducer over `now`, in seconds of a clock that does not step back. Pure.

Invariants: a shape is noted or in flight or neither, and a shape in flight is not due until `finish`; `total_bytes` is
the sum over all shapes of what a settle could take off memory.
"""

from __future__ import annotations

from typing import Final


class SettlePlan:
    """
    Shapes with something to settle, oldest first.
    """

    def __init__(self, *, shape_bytes: int, age_s: float) -> None:
        """
        Take the size and the age at which a tail is due.
        """
        self._shape_bytes: Final = shape_bytes
        self._age_s: Final = age_s
        # Since when, by shape; a dict keeps the order of noting, which is the order of age.
        self._since: dict[int, float] = {}
        self._large: dict[int, None] = {}
        self._resting: dict[int, float] = {}
        self._in_flight: set[int] = set()
        self._bytes: dict[int, int] = {}
        # What a settle left in memory: parts of transactions that are half-way.
        self._left: dict[int, int] = {}
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._since)

    @property
    def resting(self) -> list[int]:
        """
        The shapes whose disk had no space.
        """
        return list(self._resting)

    def is_noted(self, incarnation: int) -> bool:
        """
        Tell whether a shape has something to settle, or is being settled.
        """
        return incarnation in self._since or incarnation in self._in_flight

    def note(self, incarnation: int, tail_bytes: int, now: float) -> bool:
        """
        Take notice that a shape has something to settle; tells whether it has just become due by size.
        """
        self._since.setdefault(incarnation, now)
        size = max(0, tail_bytes - self._left.get(incarnation, 0))
        self.total_bytes += size - self._bytes.get(incarnation, 0)
        self._bytes[incarnation] = size
        if size < self._shape_bytes or incarnation in self._large:
            return False
        self._large[incarnation] = None
        return incarnation not in self._resting and incarnation not in self._in_flight

    def ask(self, incarnation: int, now: float) -> None:
        """
        Make a shape due now, resting or not.
        """
        self._since.setdefault(incarnation, now)
        self._large[incarnation] = None
        self._resting.pop(incarnation, None)

    def take_due(self, now: float, count_max: int, *, is_all: bool = False) -> list[int]:
        """
        Begin to settle: give the shapes that are due, the large ones first, at most `count_max`.

        Args:
            now: when.
            count_max: how many.
            is_all: whether all noted ones count as due.
        """
        for incarnation in [shape for shape, until in self._resting.items() if until <= now]:
            del self._resting[incarnation]
        due: list[int] = []
        for incarnation in self._large:
            if len(due) >= count_max:
                break
            if self._may_go(incarnation):
                due.append(incarnation)
        chosen = set(due)
        for incarnation, since in self._since.items():
            if len(due) >= count_max or (since + self._age_s > now and not is_all):
                break
            if incarnation not in chosen and self._may_go(incarnation):
                due.append(incarnation)
        for incarnation in due:
            del self._since[incarnation]
            self._large.pop(incarnation, None)
        self._in_flight.update(due)
        return due

    def _may_go(self, incarnation: int) -> bool:
        return incarnation in self._since and incarnation not in self._resting and incarnation not in self._in_flight

    def due_at(self) -> float | None:
        """
        Tell when the next shape is due by age or done with resting; None when nothing is noted.
        """
        if any(self._may_go(incarnation) for incarnation in self._large):
            return 0.0
        for incarnation, since in self._since.items():
            if self._may_go(incarnation):
                return since + self._age_s
        waiting = [until for incarnation, until in self._resting.items() if incarnation in self._since]
        return min(waiting, default=None)

    def finish(self, incarnation: int, tail_bytes: int) -> None:
        """
        Take notice that a shape was settled, all but what is left in memory of a transaction that is half-way.
        """
        if incarnation not in self._in_flight:
            return
        self._in_flight.discard(incarnation)
        if incarnation in self._since:
            # Noted again meanwhile: what is left may be whole transactions.
            self._left.pop(incarnation, None)
            self._set_bytes(incarnation, tail_bytes)
            return
        if tail_bytes:
            self._left[incarnation] = tail_bytes
        else:
            self._left.pop(incarnation, None)
        self._set_bytes(incarnation, 0)

    def postpone(self, incarnation: int, until: float, now: float) -> None:
        """
        Take notice that a shape in flight could not be settled, and let it rest.
        """
        if incarnation not in self._in_flight:
            return
        self._in_flight.discard(incarnation)
        self._since.setdefault(incarnation, now)
        self._resting[incarnation] = until

    def forget(self, incarnation: int) -> None:
        """
        A shape is gone.
        """
        self._since.pop(incarnation, None)
        self._large.pop(incarnation, None)
        self._resting.pop(incarnation, None)
        self._left.pop(incarnation, None)
        self._in_flight.discard(incarnation)
        self._set_bytes(incarnation, 0)

    def _set_bytes(self, incarnation: int, size: int) -> None:
        self.total_bytes += size - self._bytes.pop(incarnation, 0)
        if size:
            self._bytes[incarnation] = size
