"""
When to start a part of the service again, and when to give up. A pure reducer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_HOUR_S: Final = 3600.0


class RestartBudget:
    """
    The restarts of one part: soon after its first end, later after each that follows too quickly, and not for ever.
    """

    def __init__(
        self,
        *,
        per_hour_max: int,
        delay_first_s: float = 0.1,
        delay_s_max: float = 5.0,
        healthy_after_s: float = 10.0,
    ) -> None:
        """
        Begin with a full budget.

        Args:
            per_hour_max: how many restarts any hour may see.
            delay_first_s: the pause before the first restart; each further one doubles it.
            delay_s_max: but to no more than this.
            healthy_after_s: a part that lived so long starts over with the first pause.
        """
        self._per_hour_max: Final = per_hour_max
        self._delay_first_s: Final = delay_first_s
        self._delay_s_max: Final = delay_s_max
        self._healthy_after_s: Final = healthy_after_s
        self._ends: Final[deque[float]] = deque()
        self._delay_s = delay_first_s

    def record_end(self, *, lived_s: float, now: float) -> float | None:
        """
        Take note that the part has ended; give the pause before its restart, None when the budget is used up.
        """
        while self._ends and self._ends[0] <= now - _HOUR_S:
            self._ends.popleft()
        if len(self._ends) >= self._per_hour_max:
            return None
        self._ends.append(now)
        if lived_s >= self._healthy_after_s:
            self._delay_s = self._delay_first_s
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._delay_s_max)
        return delay_s
