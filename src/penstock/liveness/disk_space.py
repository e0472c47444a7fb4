"""
How scarce the space on a disk is, and what is done without, step by step.

Owns the watermarks. Each is a share of one limit, so that there is one number to set, and each costs more than the one
above it::

    limit ─▶ no new shapes ─▶ 3/4 ─▶ shapes that nobody reads go ─▶ 1/2 ─▶ shapes that pin the relay log go
          ─▶ 1/4 ─▶ nothing more is read from Postgres

Pure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

LIMIT_SHARE: Final = 0.05
"""Of a disk, where no limit is set."""
LIMIT_BYTES_MAX: Final = 1 << 30
"""However large the disk, where no limit is set."""


class Scarcity(IntEnum):
    """
    What a disk is too full for; each step includes those before it.
    """

    NONE = 0
    CREATE = 1
    """Making shapes."""
    KEEP = 2
    """Shapes that nobody has read for a while, and trash."""
    PIN = 3
    """Shapes for which segments of the relay log must be kept."""
    READ = 4
    """Reading from Postgres."""


SHARES: Final = {Scarcity.CREATE: 1.0, Scarcity.KEEP: 0.75, Scarcity.PIN: 0.5, Scarcity.READ: 0.25}
"""Below which share of the limit each step begins."""


def limit_of(asked: int | None, total_bytes: int) -> int:
    """
    Give the bytes that should stay free: as set, else a share of the disk.
    """
    return min(LIMIT_BYTES_MAX, int(LIMIT_SHARE * total_bytes)) if asked is None else asked


def find_scarcity(free_bytes: int, limit_bytes: int) -> Scarcity:
    """
    Judge the free space on a disk against the limit.
    """
    return max((step for step, share in SHARES.items() if free_bytes < share * limit_bytes), default=Scarcity.NONE)


def missing_bytes(free_bytes: int, limit_bytes: int) -> int:
    """
    Tell how much has to go until shapes may be kept whoever reads them.
    """
    return max(0, int(SHARES[Scarcity.KEEP] * limit_bytes) - free_bytes)
