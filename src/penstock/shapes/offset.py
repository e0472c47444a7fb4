"""
Places in a shape log.

A log offset is a pair (transaction part, operation part), written `t_o`. The transaction part of a change is the
commit LSN of its transaction; 0 is the virtual part that holds the initial snapshot, whose chunks end at
`0_0`, `0_1`, ... and which ends at `0_inf`. `-1` is before everything.

Pure values.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

OP_INFINITY: Final = 2**63 - 1
"""Stands for `inf`: greater than any operation position, and still a number that msgpack and SQLite can hold."""

_GRAMMAR: Final = re.compile(r"(\d{1,20})_(\d{1,20}|inf)", re.ASCII)
_TX_MAX: Final = 2**64 - 1


class LogOffset(NamedTuple):
    """
    A place in a shape log; ordered as a pair.

    Attributes:
        tx: commit LSN of the transaction as a number; 0 in the snapshot part, -1 before everything.
        op: position of the operation in its transaction, in steps of two; `OP_INFINITY` for `inf`.
    """

    tx: int
    op: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """
        Read the text form; None when it does not have the form of an offset (`now` is not one).
        """
        if text in {"-1", "-1_0"}:
            return cls(-1, 0)
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            return None
        tx = int(match[1])
        if tx > _TX_MAX:
            return None
        op = OP_INFINITY if match[2] == "inf" else min(int(match[2]), OP_INFINITY)
        return cls(tx, op)

    def __str__(self) -> str:
        if self.tx < 0:
            return "-1"
        return f"{self.tx}_inf" if self.op >= OP_INFINITY else f"{self.tx}_{self.op}"


BEFORE_ALL: Final = LogOffset(-1, 0)
SNAPSHOT_END: Final = LogOffset(0, OP_INFINITY)


def snapshot_chunk_end(chunk_index: int) -> LogOffset:
    """
    Name the end of the snapshot chunk with this index.
    """
    assert chunk_index >= 0
    return LogOffset(0, chunk_index)
