"""
The words and formats of shape log files.

Pure.
"""

from __future__ import annotations

from enum import Enum


class SettleOutcome(Enum):
    """
    How a settle ended for one shape.
    """

    SETTLED = "settled"
    NO_SPACE = "no space"
    """A write found no space: nothing of the tail is lost, it may be tried again."""
    FAILED = "failed"
    """A sync or write failed otherwise: the files are not to be trusted any more."""
