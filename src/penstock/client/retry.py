"""
How long to wait before asking again.

Reducer: `failed()` after each attempt that failed gives the pause, `succeeded()` begins anew. Pauses double up to a limit,
with chance in them, so that clients that were cut off together do not come back together; what the server asks for with
`retry-after` is the least. Pure: chance comes as an argument, and dates are compared with the answer's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_DELAY_MIN_S: Final = 0.1
RETRY_DELAY_MAX_S: Final = 10.0
RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one next time; all others from 400 on but 409 are final."""


class Backoff:
    """
    The pauses of one subscription.
    """

    def __init__(self) -> None:
        """
        Begin with the shortest pause.
        """
        self.failed_count = 0

    def succeeded(self) -> None:
        """
        Begin with the shortest pause again.
        """
        self.failed_count = 0

    def failed(self, chance: float, *, asked_s: float = 0.0) -> float:
        """
        Give the seconds to wait.

        Args:
            chance: a number from 0 to 1, drawn anew for each call.
            asked_s: what the server asks for at least.
        """
        full = min(RETRY_DELAY_MIN_S * 2.0 ** min(self.failed_count, 32), RETRY_DELAY_MAX_S)
        self.failed_count += 1
        return asked_s + full * (0.5 + chance / 2)


def read_retry_after(headers: Mapping[str, str]) -> float:
    """
    Give the seconds that `retry-after` asks for, as a number or as a date (RFC 9110, 10.2.3); 0 without a valid one.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until, sent = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, float(until.timestamp() - sent.timestamp()))
    except (ValueError, TypeError):
        return 0.0
