"""
Which transactions a query saw.

Pure values. The comparison follows the Postgres documentation on `pg_current_snapshot()` (section "Transaction ID and
Snapshot Information Functions"); the stream carries 32-bit transaction ids, the snapshot 64-bit ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from penstock.errors import DecodeError
from penstock.postgres.lsn import InsertLsn

_NONE_RUNNING: Final[frozenset[int]] = frozenset()
_XID_BITS: Final = 32
_XID_MASK: Final = (1 << _XID_BITS) - 1
_XID_HALF: Final = 1 << (_XID_BITS - 1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    `xmin:xmax:xip_list` with 64-bit ids.

    Attributes:
        xmin: every transaction below it had ended.
        xmax: no transaction at or above it had.
        running: those in between that had not.
    """

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read the text form of `pg_snapshot`.

        Raises:
            DecodeError: the text is not a snapshot.
        """
        try:
            xmin, xmax, running = text.split(":")
            ids = frozenset(int(xid) for xid in running.split(",")) if running else _NONE_RUNNING
            snapshot = cls(int(xmin), int(xmax), ids)
        except ValueError as cause:
            message = f"not a snapshot: {text!r}"
            raise DecodeError(message) from cause
        if snapshot.xmin > snapshot.xmax:
            message = f"not a snapshot: {text!r}"
            raise DecodeError(message)
        return snapshot

    def widen(self, xid: int) -> int:
        """
        Give the 64-bit form of a 32-bit id from the stream: the one nearest to `xmax`.
        """
        assert 0 <= xid <= _XID_MASK, xid
        distance = (xid - self.xmax) & _XID_MASK
        if distance >= _XID_HALF:
            distance -= 1 << _XID_BITS
        return self.xmax + distance

    def sees(self, xid: int) -> bool:
        """
        Tell whether a committed transaction, named by its 32-bit id, is visible in this snapshot.
        """
        wide = self.widen(xid)
        return wide < self.xmin or (wide < self.xmax and wide not in self.running)


@dataclass(frozen=True, slots=True)
class SnapshotBounds:
    """
    What an initial snapshot saw.

    Attributes:
        snapshot: visibility by transaction id.
        horizon: only commits below it are asked about; all later ones are kept.
    """

    snapshot: Snapshot
    horizon: InsertLsn
