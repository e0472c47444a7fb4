"""
Shapes that are given up again and again: how long their definition has to rest, and when it is refused.

A client whose shape was given up asks for it anew at once, and if the cause is still there the same happens again: rows
are read, files are written, the boundary stands still for a while, each time. So each time the definition rests twice as
long, and one that was given up too often within an hour is refused until it has rested for the longest time; then one
attempt is let through, like any other.

Form: reducer. Its owner keeps what it knows on disk (`take_changes`) and gives it back after a restart (`remember`).

Limits: `DEFINITIONS_MAX` definitions are remembered; the one that was given up longest ago is forgotten first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HOUR_S: Final = 3600.0
DEFINITIONS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class BackoffLimits:
    """
    How long definitions rest.

    Attributes:
        rest_first_s: after the first time.
        rest_s_max: at most, and after `sheds_per_hour_max` times.
        sheds_per_hour_max: with so many within an hour a definition is refused.
    """

    rest_first_s: float = 1.0
    rest_s_max: float = 600.0
    sheds_per_hour_max: int = 5


@dataclass(frozen=True, slots=True)
class Rest:
    """
    Why a definition cannot be had now.

    Attributes:
        retry_after_s: when to ask again, whole seconds.
        reason: why it was given up last.
        count: how often within the hour.
    """

    retry_after_s: int
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Known:
    """
    What is remembered of one definition.

    Attributes:
        reason: why it was given up last.
        times: when, oldest first, by the clock that `record` was given.
    """

    reason: str
    times: tuple[float, ...]


class _History:
    __slots__ = ("reason", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque()
        self.reason = ""


class ShedBackoff:
    """
    Remembers what was given up because of a fault.
    """

    def __init__(self, limits: BackoffLimits | None = None) -> None:
        """
        Begin without memories.
        """
        self._limits: Final = limits or BackoffLimits()
        # In the order of the last time.
        self._histories: Final[dict[bytes, _History]] = {}
        self._changed: dict[bytes, None] = {}

    def record(self, key: bytes, reason: str, now: float) -> None:
        """
        Take notice that a shape with this definition was given up.
        """
        history = self._histories.pop(key, None) or _History()
        self._histories[key] = history
        history.times.append(now)
        while len(history.times) > self._limits.sheds_per_hour_max:
            history.times.popleft()
        history.reason = reason
        self._changed[key] = None
        while len(self._histories) > DEFINITIONS_MAX:
            self._forget(next(iter(self._histories)))

    def remember(self, key: bytes, reason: str, ages_s: Sequence[float], now: float) -> None:
        """
        Take back what was known before a restart: how long ago, at this moment, each time was, oldest first.

        Whoever was given up longest ago is remembered first.
        """
        history = self._histories[key] = _History()
        # A clock that was set back must not make a rest longer than it was.
        history.times.extend(now - max(0.0, age_s) for age_s in ages_s)
        history.reason = reason

    def take_changes(self) -> dict[bytes, Known | None]:
        """
        Give what has changed since this was asked last: what is known of a definition, or None when it is forgotten.
        """
        changed, self._changed = self._changed, {}
        found: dict[bytes, Known | None] = {}
        for key in changed:
            history = self._histories.get(key)
            found[key] = None if history is None else Known(history.reason, tuple(history.times))
        return found

    def put_back(self, keys: Iterable[bytes]) -> None:
        """
        Count these as changed again: they could not be written down.
        """
        self._changed.update(dict.fromkeys(keys))

    def _forget(self, key: bytes) -> None:
        del self._histories[key]
        self._changed[key] = None

    def find_rest(self, key: bytes, now: float) -> Rest | None:
        """
        Tell whether a definition has to rest; None when it may be made.
        """
        history = self._histories.get(key)
        if history is None:
            return None
        while history.times and history.times[0] <= now - HOUR_S:
            history.times.popleft()
        count = len(history.times)
        if not count:
            self._forget(key)
            return None
        limits = self._limits
        rest_s = limits.rest_s_max
        if count < limits.sheds_per_hour_max:
            rest_s = min(limits.rest_s_max, limits.rest_first_s * 2 ** (count - 1))
        left_s = history.times[-1] + rest_s - now
        return Rest(math.ceil(left_s), history.reason, count) if left_s > 0 else None

    def resting(self, now: float) -> dict[bytes, Rest]:
        """
        List the definitions that rest.
        """
        # The last of the order were given up last, and nobody rests for longer than the longest time.
        while self._histories:
            key, history = next(iter(self._histories.items()))
            if history.times and history.times[-1] > now - HOUR_S:
                break
            self._forget(key)
        recent: list[bytes] = []
        for key, history in reversed(self._histories.items()):
            if not history.times or history.times[-1] + self._limits.rest_s_max <= now:
                break
            recent.append(key)
        found = {key: self.find_rest(key, now) for key in reversed(recent)}
        return {key: rest for key, rest in found.items() if rest is not None}
