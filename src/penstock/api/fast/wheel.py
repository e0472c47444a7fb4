"""
Deadlines of many connections with one timer.

Reducer. Theory of operation: time is cut into ticks, and every entry lies in the slot of some tick that is not later
than its deadline. Moving a deadline away only changes a number: when the slot comes up, the entry is put into the slot
of its present deadline. So the deadline that every request moves costs next to nothing, and what a slot holds is
looked at once for each time it comes up. A deadline is never reported early, and late by less than two ticks.

Times are seconds on any clock that only goes forward.
"""

from __future__ import annotations

from math import inf
from typing import Final, Generic, Protocol, TypeVar

TICK_S: Final = 0.05

NO_SLOT: Final = -1


class Timed(Protocol):
    """
    What a wheel keeps in its entries; both are the wheel's to change.

    Attributes:
        deadline_s: when it is due; infinity for never.
        slot: where it lies, `NO_SLOT` when nowhere.
    """

    deadline_s: float
    slot: int


_T = TypeVar("_T", bound=Timed)


class TimerWheel(Generic[_T]):
    """
    Entries with a deadline each.
    """

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s: Final = tick_s
        self._slots: dict[int, set[_T]] = {}

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._slots.values())

    @property
    def next_s(self) -> float | None:
        """
        When to call `advance` next; None when nothing is held.
        """
        return (min(self._slots) + 1) * self._tick_s if self._slots else None

    def arm(self, entry: _T, deadline_s: float) -> None:
        """
        Set the entry's deadline, whatever it was.
        """
        entry.deadline_s = deadline_s
        slot = int(deadline_s / self._tick_s)
        if entry.slot == NO_SLOT:
            self._put(entry, slot)
        elif slot < entry.slot:
            self.remove(entry, deadline_s)
            self._put(entry, slot)

    def disarm(self, entry: _T) -> None:
        """
        Let the entry have no deadline; it may be held for a while yet.
        """
        entry.deadline_s = inf

    def remove(self, entry: _T, deadline_s: float = inf) -> None:
        """
        Let go of the entry at once.
        """
        entry.deadline_s = deadline_s
        held = self._slots.get(entry.slot)
        if held is not None:
            held.discard(entry)
            if not held:
                del self._slots[entry.slot]
        entry.slot = NO_SLOT

    def advance(self, now_s: float) -> list[_T]:
        """
        Take out and give all entries that are due.
        """
        due: list[_T] = []
        current = int(now_s / self._tick_s)
        for slot in sorted(slot for slot in self._slots if slot < current):
            for entry in self._slots.pop(slot):
                entry.slot = NO_SLOT
                if entry.deadline_s <= now_s:
                    due.append(entry)
                elif entry.deadline_s < inf:
                    self._put(entry, int(entry.deadline_s / self._tick_s))
        return due

    def _put(self, entry: _T, slot: int) -> None:
        held = self._slots.get(slot)
        if held is None:
            held = self._slots[slot] = set()
        held.add(entry)
        entry.slot = slot
