"""
The part of a shape log that is still in memory.

Elements are counted from the beginning of this life of the log: an element's *ordinal* never changes, while the tail
loses elements at its front (settled) and at its end (abandoned). Three ordinals matter, in this order or with the first
two exchanged: `base`, where the tail begins, `committed`, where the readable part ends, `past`, where it all ends.
`committed` lies before `base` while the files hold the first part of a transaction that is not complete.

Invariants: ordinals of `boundaries` are greater than `base`; places ascend.

A reducer without effects.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from penstock.shapes.offset import LogOffset

_OP: Final = itemgetter(0)
_JSON: Final = itemgetter(1)


class TailPart(NamedTuple):
    """
    Elements from the front of a tail.

    Attributes:
        elements: as (position, JSON).
        txs: the transactions they belong to.
        starts: index of the first element of each of these.
        boundaries: how many elements precede each chunk end.
    """

    elements: list[tuple[int, bytes]]
    txs: list[int]
    starts: list[int]
    boundaries: list[int]

    def place(self, index: int) -> LogOffset:
        """
        Tell the place of an element.
        """
        return LogOffset(self.txs[bisect_right(self.starts, index) - 1], self.elements[index][0])


def _bytes_of(elements: Iterable[tuple[int, bytes]]) -> int:
    return sum(map(len, map(_JSON, elements)))


class Tail:
    """
    Elements by transaction, with the ends of the chunks they fill.
    """

    __slots__ = (
        "_chunk_bytes",
        "_chunk_bytes_committed",
        "_chunk_bytes_max",
        "_elements",
        "_starts",
        "_txs",
        "base",
        "boundaries",
        "bytes_count",
        "committed",
        "open_bytes",
    )

    def __init__(self, chunk_bytes_max: int, chunk_bytes: int = 0) -> None:
        """
        Begin behind a chunk that holds this many bytes of elements already.
        """
        self._chunk_bytes_max: Final = chunk_bytes_max
        self._chunk_bytes = chunk_bytes
        self._chunk_bytes_committed = chunk_bytes
        self._elements: list[tuple[int, bytes]] = []
        self._txs: list[int] = []
        self._starts: list[int] = []
        self.base = 0
        self.committed = 0
        self.boundaries: list[int] = []
        """Ordinals just past the elements that close a chunk."""
        self.bytes_count = 0
        self.open_bytes = 0
        """Bytes of the elements that are not committed."""

    @property
    def past(self) -> int:
        """
        The ordinal that the next element gets.
        """
        return self.base + len(self._elements)

    def append(self, tx: int, elements: Sequence[tuple[int, bytes]]) -> int:
        """
        Add elements behind all others; tell how many bytes they have.
        """
        if not elements:
            return 0
        past = self.base + len(self._elements)
        if not self._txs or self._txs[-1] != tx:
            assert not self._txs or self._txs[-1] < tx, "transactions ascend"
            self._txs.append(tx)
            self._starts.append(past)
        else:
            assert self._elements[-1][0] < elements[0][0], "positions ascend"
        self._elements.extend(elements)
        added = _bytes_of(elements)
        chunk_bytes = self._chunk_bytes
        if chunk_bytes + added < self._chunk_bytes_max:
            self._chunk_bytes = chunk_bytes + added
        else:
            for _, element in elements:
                past += 1
                chunk_bytes += len(element)
                if chunk_bytes >= self._chunk_bytes_max:
                    self.boundaries.append(past)
                    chunk_bytes = 0
            self._chunk_bytes = chunk_bytes
        self.bytes_count += added
        self.open_bytes += added
        return added

    def append_whole(self, transactions: Iterable[tuple[int, Sequence[tuple[int, bytes]]]]) -> None:
        """
        Add transactions, each with elements, behind all others, of which none is half-way.
        """
        txs, starts, all_elements, boundaries = self._txs, self._starts, self._elements, self.boundaries
        newest = txs[-1] if txs else -1
        past = self.base + len(all_elements)
        chunk_bytes, bytes_max = self._chunk_bytes, self._chunk_bytes_max
        added = 0
        for tx, elements in transactions:
            assert newest < tx, "transactions ascend"
            newest = tx
            txs.append(tx)
            starts.append(past)
            all_elements += elements
            size = len(elements[0][1]) if len(elements) == 1 else _bytes_of(elements)
            added += size
            if chunk_bytes + size < bytes_max:
                past += len(elements)
                chunk_bytes += size
                continue
            for _, element in elements:
                past += 1
                chunk_bytes += len(element)
                if chunk_bytes >= bytes_max:
                    boundaries.append(past)
                    chunk_bytes = 0
        self._chunk_bytes = chunk_bytes
        self.bytes_count += added
        self.open_bytes += added

    def commit(self) -> tuple[int, int] | None:
        """
        Make everything readable; answers the last place, None when there is nothing new in memory.
        """
        elements = self._elements
        self.committed = self.base + len(elements)
        self.open_bytes = 0
        self._chunk_bytes_committed = self._chunk_bytes
        return (self._txs[-1], elements[-1][0]) if elements else None

    def abandon(self) -> None:
        """
        Forget everything that is not committed, also that which has left memory.
        """
        kept = max(0, self.committed - self.base)
        self.bytes_count -= _bytes_of(self._elements[kept:])
        del self._elements[kept:]
        self.base = min(self.base, self.committed)
        groups = bisect_left(self._starts, self.committed)
        del self._txs[groups:], self._starts[groups:]
        del self.boundaries[bisect_right(self.boundaries, self.committed) :]
        self.open_bytes = 0
        self._chunk_bytes = self._chunk_bytes_committed

    def drop(self, up_to_exclusive: int, bytes_count: int | None = None) -> None:
        """
        Forget the elements before this ordinal: the files have them.

        Args:
            up_to_exclusive: the ordinal.
            bytes_count: how many bytes they have, from who has counted them; looking at each anew takes nearly as long
                as making it did, because it has left the processor's caches.
        """
        count = up_to_exclusive - self.base
        assert 0 <= count <= len(self._elements)
        if count == 0:
            return
        freed = _bytes_of(self._elements[:count]) if bytes_count is None else bytes_count
        self.bytes_count -= freed
        if up_to_exclusive > self.committed:
            self.open_bytes = self.bytes_count
        del self._elements[:count]
        self.base = up_to_exclusive
        groups = bisect_right(self._starts, up_to_exclusive) - 1
        if not self._elements:
            groups += 1
        del self._txs[:groups], self._starts[:groups]
        if self._starts:
            self._starts[0] = max(self._starts[0], up_to_exclusive)
        del self.boundaries[: bisect_right(self.boundaries, up_to_exclusive)]

    def place(self, ordinal: int) -> LogOffset:
        """
        Tell the place of an element in memory.
        """
        tx = self._txs[bisect_right(self._starts, ordinal) - 1]
        return LogOffset(tx, self._elements[ordinal - self.base][0])

    def find(self, after: LogOffset) -> int:
        """
        Tell the ordinal of the first element in memory behind a place.
        """
        group = bisect_left(self._txs, after.tx)
        if group == len(self._txs):
            return self.past
        low = self._starts[group] - self.base
        if self._txs[group] > after.tx:
            return low + self.base
        high = self._starts[group + 1] - self.base if group + 1 < len(self._starts) else len(self._elements)
        return bisect_right(self._elements, after.op, low, high, key=_OP) + self.base

    def chunk_end(self, ordinal: int) -> int:
        """
        Tell where the readable part of the chunk ends to which this ordinal belongs; itself when nothing is readable.
        """
        index = bisect_right(self.boundaries, ordinal)
        end = min(self.boundaries[index], self.committed) if index < len(self.boundaries) else self.committed
        return max(ordinal, end)

    def join(self, from_inclusive: int, up_to_exclusive: int) -> bytes:
        """
        Give these elements, joined by commas.
        """
        part = self._elements[from_inclusive - self.base : up_to_exclusive - self.base]
        return b",".join([element for _, element in part])

    def front(self, up_to_exclusive: int) -> TailPart:
        """
        Give what is in memory before this ordinal; it stays as it is whatever happens to the tail.
        """
        count = up_to_exclusive - self.base
        groups = bisect_left(self._starts, up_to_exclusive)
        return TailPart(
            self._elements[:count],
            self._txs[:groups],
            [start - self.base for start in self._starts[:groups]],
            [end - self.base for end in self.boundaries[: bisect_right(self.boundaries, up_to_exclusive)]],
        )
