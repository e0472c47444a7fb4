"""
What is said on standard error while something takes long.
"""

from __future__ import annotations

import sys
import time
from typing import Final

_BEGAN_S: Final = time.monotonic()


def say(text: str) -> None:
    """
    Print a line with the seconds since the start.
    """
    print(f"[{time.monotonic() - _BEGAN_S:6.1f} s] {text}", file=sys.stderr, flush=True)
