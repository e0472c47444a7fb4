"""
What a heartbeat says, and when its absence means that a process stands still. A pure reducer.

Judged is only whether the count moves, by the clock of the one who looks. The looker may itself have been kept from
looking: suspended, starved, stopped together with everything else. What it missed that way is given to the watched as
extra time before anything is concluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec


class Heartbeat(msgspec.Struct, frozen=True, array_like=True):
    """
    A sign of life of one process.

    Attributes:
        pid: the process.
        count: grows with each beat.
        at_s: when, by the machine's monotonic clock.
        is_ready: whether it does what it is there for.
        state: what it is doing, in words for operators; never holds row values or secrets.
    """

    pid: int
    count: int
    at_s: float
    is_ready: bool = False
    state: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """
    How long a process has been still.

    Attributes:
        silent_s: time without progress, less what the looker itself missed.
        is_past_limit: whether that is longer than allowed.
    """

    silent_s: float
    is_past_limit: bool


class HeartbeatWatch:
    """
    Judges one process. `look` is to be called about every `period_s`.

    Attributes:
        is_ready: whether the process said in its last beat that it does what it is there for.
    """

    def __init__(self, *, limit_s: float, start_limit_s: float, period_s: float, now: float) -> None:
        """
        Begin to watch a process that is being started now.

        Args:
            limit_s: how long it may be silent.
            start_limit_s: how long until its first beat.
            period_s: how often the looker means to look.
            now: the looker's monotonic clock.
        """
        assert limit_s > period_s, (limit_s, period_s)
        self._limit_s: Final = limit_s
        self._start_limit_s: Final = max(start_limit_s, limit_s)
        self._period_s: Final = period_s
        self._looked_at = now
        self._moved_at = now
        self._beat: tuple[int, int] | None = None
        self.is_ready = False

    def look(self, beat: Heartbeat | None, pid: int, now: float) -> Silence:
        """
        Take the latest beat on the board (which may still be a predecessor's) and judge the process `pid`.
        """
        missed_s = now - self._looked_at - 2 * self._period_s
        if missed_s > 0:
            self._moved_at = min(now, self._moved_at + missed_s)
        self._looked_at = now
        if beat is not None and beat.pid == pid:
            self.is_ready = beat.is_ready
            if self._beat != (beat.pid, beat.count):
                self._beat = (beat.pid, beat.count)
                self._moved_at = now
        silent_s = now - self._moved_at
        limit_s = self._limit_s if self._beat is not None else self._start_limit_s
        return Silence(silent_s, is_past_limit=silent_s > limit_s)
