"""
The limits of a relay log.

Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """
    The limits of a relay log.

    Attributes:
        segment_bytes_max: a segment that has reached it is followed by another at the next commit.
        queue_bytes_max: frames waiting for the disk; when reached, the socket is not read.
        group_bytes_max: frames written and synced at once.
        relay_bytes_max: all segments; when reached, the socket is not read between transactions.
        transaction_bytes_max: a larger transaction is not kept, a stub takes its place; None for a quarter of
            `relay_bytes_max`. A transaction that came in one batch is kept whatever its size.
        session_wait_s_max: how long a new connection waits for the disk thread.
        disk_hung_s: a disk call that takes longer is reported as hanging.
        look_s: how often the disk thread looks at the recorded boundary without being told.
    """

    segment_bytes_max: int = 64 * _MIB
    queue_bytes_max: int = 64 * _MIB
    group_bytes_max: int = 16 * _MIB
    relay_bytes_max: int = 10 * _GIB
    transaction_bytes_max: int | None = None
    session_wait_s_max: float = 30.0
    disk_hung_s: float = 10.0
    look_s: float = 1.0

    @property
    def kept_transaction_bytes_max(self) -> int:
        """
        The largest transaction that is kept, in bytes of frames.
        """
        return self.relay_bytes_max // 4 if self.transaction_bytes_max is None else self.transaction_bytes_max
