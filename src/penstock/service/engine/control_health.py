"""
Whether the control store answers: it is the one thing that must work, because nothing is let go of without it.

A reducer: hears of failures and successes, and is told the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

ANSWER_S_MAX: Final = 5.0
"""A commit in the control store that takes longer is an alarm: its disk hangs."""


class ControlHealth:
    """
    What is not well with the control store.

    Attributes:
        failure: what went wrong last; empty while nothing does.
    """

    def __init__(self, *, waiting_since: Callable[[], float | None], answer_s_max: float, now: float) -> None:
        """
        Begin well.

        Args:
            waiting_since: since when the store has been waiting for its disk; None while it is not.
            answer_s_max: longer than this, it counts as hanging.
            now: the time.
        """
        self._waiting_since: Final = waiting_since
        self._answer_s_max: Final = answer_s_max
        self._well_at = now
        self._is_hung = False
        self.failure = ""

    def handle_failure(self, failure: str) -> None:
        """
        The store refused something.
        """
        self.failure = failure

    def handle_success(self) -> None:
        """
        The store did as it was told.
        """
        self.failure = ""

    def look(self, now: float) -> None:
        """
        See whether it answers at all: a disk that hangs raises nothing.
        """
        waiting_since = self._waiting_since()
        if waiting_since is not None and now - waiting_since > self._answer_s_max:
            self.failure = "its disk does not answer"
            self._is_hung = True
        elif self._is_hung:
            self.failure = ""
            self._is_hung = False
        if not self.failure:
            self._well_at = now

    def failing_s(self, now: float) -> float:
        """
        Tell for how long it has been failing, by the looks.
        """
        return now - self._well_at
