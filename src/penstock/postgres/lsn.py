"""
Positions in the write-ahead log.

Every commit has two: where its record starts and where it ends. Offsets in shape logs and the dropping of
transactions sent again use the first, which the Begin message already names; what is confirmed to Postgres, the
flush boundary and the published end use the second, which only the Commit message names. Confusing them loses or
repeats a transaction, so they are different types that refuse to be compared and have no conversion.

Pure values.
"""

from __future__ import annotations

from typing import Final, Self

from penstock.errors import DecodeError

LSN_MAX: Final = 2**64 - 1


class Lsn:
    """
    A position in the WAL: an unsigned 64-bit byte count, written as two hexadecimal halves (`16/B374D848`).

    Ordered only against its own concrete type.
    """

    __slots__ = ("value",)

    value: int

    def __init__(self, value: int) -> None:
        """
        Wrap a byte count between 0 and 2**64 - 1.
        """
        assert 0 <= value <= LSN_MAX, value
        self.value = value

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read the text form `X/X`.

        Raises:
            DecodeError: the text is not two hexadecimal numbers of at most eight digits joined by a slash.
        """
        high, slash, low = text.partition("/")
        try:
            if not slash or not (0 < len(high) <= 8 and 0 < len(low) <= 8):
                raise ValueError(text)
            return cls((int(high, 16) << 32) | int(low, 16))
        except ValueError as cause:
            message = f"not a log sequence number: {text!r}"
            raise DecodeError(message) from cause

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value == other.value

    def __lt__(self, other: Self) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value < other.value

    def __le__(self, other: Self) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value <= other.value

    def __gt__(self, other: Self) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value > other.value

    def __ge__(self, other: Self) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.value >= other.value


class EndLsn(Lsn):
    """
    A position just past something: a commit record, or all that a keepalive says was sent.

    The type of everything that is confirmed, published or recorded as a boundary.
    """

    __slots__ = ()


class CommitLsn(Lsn):
    """
    Where the commit record of a transaction starts; identifies the transaction and orders it.
    """

    __slots__ = ()

    def is_below(self, horizon: InsertLsn) -> bool:
        """
        Tell whether this commit was in the WAL before `horizon` was read.
        """
        return self.value < horizon.value


class InsertLsn(Lsn):
    """
    What `pg_current_wal_insert_lsn()` answered: every commit that was visible by then is below it.
    """

    __slots__ = ()


ZERO_END: Final = EndLsn(0)
ZERO_COMMIT: Final = CommitLsn(0)
