"""
A timer wheel that turns: one timer of the loop for all connections. Shell.
"""

from __future__ import annotations

import asyncio
import traceback
from math import inf
from typing import Final, Protocol

import structlog

from penstock.api.fast.wheel import TICK_S, Timed, TimerWheel

_log = structlog.get_logger("penstock.api")


class Expiring(Timed, Protocol):
    """
    What has a deadline.
    """

    def expire(self) -> None:
        """
        Learn that it is over; there is none any more then.
        """
        ...


class Deadlines:
    """
    Deadlines on the clock of the running loop.
    """

    def __init__(self) -> None:
        """
        Begin without any; must be called in the loop.
        """
        self._loop: Final = asyncio.get_running_loop()
        self._wheel: Final[TimerWheel[Expiring]] = TimerWheel()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = inf

    def arm_in(self, entry: Expiring, delay_s: float) -> None:
        """
        Set the entry's deadline from now on, whatever it was.
        """
        self.arm(entry, self._loop.time() + delay_s)

    def arm(self, entry: Expiring, deadline_s: float) -> None:
        """
        Set the entry's deadline, whatever it was.
        """
        if 0 <= entry.slot * TICK_S <= deadline_s:
            # The wheel would do no more: nothing is moved but when its slot comes up, and the timer knows of that.
            entry.deadline_s = deadline_s
            return
        self._wheel.arm(entry, deadline_s)
        turn_at_s = (entry.slot + 1) * TICK_S
        if turn_at_s < self._timer_at_s:
            self._schedule(turn_at_s)

    def disarm(self, entry: Expiring) -> None:
        """
        Let the entry have no deadline.
        """
        self._wheel.disarm(entry)

    def remove(self, entry: Expiring) -> None:
        """
        Let go of the entry.
        """
        self._wheel.remove(entry)

    def close(self) -> None:
        """
        Turn no more.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_at(at_s, self._turn)

    def _turn(self) -> None:
        self._timer_at_s, turned_at_s = inf, self._timer_at_s
        # The loop may call a little early; the slot must be over.
        for entry in self._wheel.advance(max(self._loop.time(), turned_at_s)):
            try:
                entry.expire()
            except Exception as error:  # noqa: BLE001 - one entry must not keep the others from their deadlines
                # As text: with other settings of the log than ours a traceback would show what variables hold.
                _log.error("a deadline could not be kept", exception="".join(traceback.format_exception(error)))
        next_s = self._wheel.next_s
        if next_s is not None and next_s < self._timer_at_s:
            self._schedule(next_s)
