"""
How settings are written: durations, sizes, truth values, whole numbers. Pure.

Each function reads text and raises ValueError with words that follow "is not".
"""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)", re.ASCII)
_DURATION_UNITS: Final = {"ms": 0.001, "msec": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "kib": 2**10,
    "mb": 10**6,
    "mib": 2**20,
    "gb": 10**9,
    "gib": 2**30,
    "tb": 10**12,
    "tib": 2**40,
}
_TRUE: Final = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE: Final = frozenset({"false", "0", "no", "off", "f", "n"})


def parse_duration_s(text: str, *, bare_unit: str) -> float:
    """
    Read a duration such as `1.5s`, `20000`, `10min`; give seconds.

    Args:
        text: the duration.
        bare_unit: the unit of a number without one: `ms` or `s`.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or (found[2] or bare_unit) not in _DURATION_UNITS:
        raise ValueError("a duration: write a number with ms, s, min or h, such as 500ms or 1.5s")
    # Through the nearest millisecond, so that 20000 ms are exactly 20 s.
    return round(float(found[1]) * _DURATION_UNITS[found[2] or bare_unit], 6)


def parse_size(text: str) -> int:
    """
    Read a size such as `10485760`, `64MiB`, `1.5 GB`; give bytes.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _SIZE_UNITS:
        raise ValueError("a size: write a number of bytes, or one with KB, KiB, MB, MiB, GB or GiB, such as 64MiB")
    return round(float(found[1]) * _SIZE_UNITS[found[2]])


def parse_truth(text: str) -> bool:
    """
    Read true or false.
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("true or false")


def parse_whole(text: str) -> int:
    """
    Read a whole number.
    """
    digits = text.strip().replace("_", "")
    if re.fullmatch(r"-?\d+", digits, re.ASCII) is None:
        raise ValueError("a whole number")
    return int(digits)
