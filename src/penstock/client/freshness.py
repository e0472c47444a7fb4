"""
How old what a client has may be: the watchdog against being silently stale.

Reducer: it is told when the server confirmed that we have everything, when it gave any good answer, and what failed; asked
with the time, it gives a `Freshness`. Pure: the time comes as an argument, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from penstock.errors import StaleShapeError

STALE_AFTER_S: Final = 120.0
"""Default of `stale_after_s`. Servers confirm about every 20 s even when nothing changes."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """
    What is known about how current the rows are.

    Attributes:
        is_up_to_date: whether the last answer said that we have everything, and nothing has failed since.
        age_s: seconds since the server last confirmed that; infinite before the first time. While nothing changes it
            grows to the server's long-poll timeout (20 s by default) and falls back to 0.
        is_stale: whether that is more than `stale_after_s`.
        failure: what went wrong with the last attempt; empty when nothing did.
        failed_count: attempts that failed in a row.
    """

    is_up_to_date: bool
    age_s: float
    is_stale: bool
    failure: str
    failed_count: int


class FreshnessWatch:
    """
    Keeps the times of one subscription.
    """

    def __init__(self, now: float, *, stale_after_s: float | None) -> None:
        """
        Begin without a confirmation.

        Args:
            now: the time.
            stale_after_s: the age from which on rows are stale; None for never.
        """
        self.stale_after_s: Final = math.inf if stale_after_s is None else stale_after_s
        self._confirmed = -math.inf
        self._answered = now
        self._is_up_to_date = False
        self._failure = ""
        self._failed_count = 0

    def answered(self, now: float, *, is_up_to_date: bool) -> None:
        """
        Note a good answer, and whether it said that we have everything.
        """
        self._answered = now
        self._is_up_to_date = is_up_to_date
        if is_up_to_date:
            self._confirmed = now
        self._failure = ""
        self._failed_count = 0

    def failed(self, failure: str) -> None:
        """
        Note an attempt that failed, and why.
        """
        self._is_up_to_date = False
        self._failure = failure
        self._failed_count += 1

    def at(self, now: float) -> Freshness:
        """
        Say how current the rows are.
        """
        age_s = now - self._confirmed
        return Freshness(self._is_up_to_date, age_s, age_s > self.stale_after_s, self._failure, self._failed_count)

    def require_fresh(self, now: float) -> None:
        """
        Fail when the last confirmation is too long ago.

        Raises:
            StaleShapeError: it is.
        """
        if now - self._confirmed > self.stale_after_s:
            raise self._stale(now - self._confirmed, "confirmed that the rows are current")

    def require_answers(self, now: float) -> None:
        """
        Fail when the last good answer of any kind is too long ago: for those who still read what there was.

        Raises:
            StaleShapeError: it is.
        """
        if now - self._answered > self.stale_after_s:
            raise self._stale(now - self._answered, "answered")

    def patience_s(self, now: float) -> float:
        """
        Give the seconds until `require_answers` would fail if nothing came.
        """
        return self._answered + self.stale_after_s - now

    def _stale(self, age_s: float, what: str) -> StaleShapeError:
        why = f"; last failure: {self._failure}" if self._failure else ""
        return StaleShapeError(
            f"the server has not {what} for {age_s:.0f} s{why}. Reading goes on; `stale_after_s` says after how long to"
            " raise this, None never, and `last_rows` gives the rows whatever their age",
            age_s=age_s,
            failure=self._failure,
        )
