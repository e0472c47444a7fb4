"""
What one shape owes, and two orders over all that owe.

Owns the bookkeeping below `FlushTracker`: entries with the marks that date their debts, and a heap whose keys only grow.
Leaves to the tracker what the numbers mean together. Pure; positions are plain numbers here, because they are compared
on every transaction; the tracker alone turns them into LSNs.

Marks. An entry must say since when it has owed what it *still* owes: partial progress must neither reset that age nor
leave it at the age of what was paid. So each debt is dated, debts registered within a second share a mark, and when an
entry has more than `MARKS_MAX` marks, neighbours are joined two by two and from then on marks span twice the time. A
joined mark keeps the older date. The age of a debt is hence never understated, and overstated by at most a second or a
thirty-second part of the longest time the entry has owed, whichever is more.

Heap. Both keys of an entry, how far it is flushed and since when it owes, only grow. An entry therefore stands once in
each heap under a key that may be too small; the top is corrected when it is read. Ended entries stay until they reach
the top or outnumber the living, when the heap is built anew: rubbish is bounded, and every operation is O(log n)
amortised.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

MARKS_MAX: Final = 64
"""Marks of one entry; at the limit neighbours are joined."""

MARK_SPAN_S: Final = 1.0
"""Debts registered within this time share a mark, as long as there are few."""

_RUBBISH_MIN: Final = 64


class Mark:
    """
    A run of debts of one entry.

    Attributes:
        since: when the first of them was registered.
        first: commit LSN of the first.
        last: commit LSN of the last.
        end: where the last ends; None while it is half-way.
    """

    __slots__ = ("end", "first", "last", "since")

    def __init__(self, since: float, first: int, last: int, end: int | None) -> None:
        self.since = since
        self.first = first
        self.last = last
        self.end = end


class Entry:
    """
    A shape that owes, or would owe if it were past its snapshot.

    Attributes:
        incarnation: of the shape.
        flushed: end position up to which all it owed is durable.
        marks: what it owes, oldest first; never empty while the entry stands in the books.
        progress_at: when `flushed` last moved, at first when the entry was made.
        span_s: debts registered within this time share a mark.
        is_ended: whether it has left the books (heaps still hold it for a while).
    """

    __slots__ = ("flushed", "incarnation", "is_ended", "marks", "progress_at", "span_s")

    def __init__(self, incarnation: int, flushed: int, now: float) -> None:
        self.incarnation = incarnation
        self.flushed = flushed
        self.marks: list[Mark] = []
        self.progress_at = now
        self.span_s = MARK_SPAN_S
        self.is_ended = False

    def register(self, commit: int, end: int | None, now: float) -> None:
        """
        Owe a commit, or learn where one ends that is owed already.
        """
        marks = self.marks
        if marks:
            newest = marks[-1]
            assert newest.last <= commit, "debts come in commit order"
            # A mark without an end before a later commit is that of a transaction whose rest was lost.
            if newest.last == commit or newest.end is None or now - newest.since < self.span_s:
                newest.last = commit
                newest.end = end
                return
        marks.append(Mark(now, commit, commit, end))
        if len(marks) > MARKS_MAX:
            self._join_neighbours()

    def pay(self, end: int) -> None:
        """
        Drop the marks that are wholly durable at this position.
        """
        marks = self.marks
        paid = 0
        for mark in marks:
            if mark.end is None or mark.end > end:
                break
            paid += 1
        if paid:
            del marks[:paid]

    @property
    def since(self) -> float:
        """
        When the oldest debt that is left was registered.
        """
        return self.marks[0].since

    def _join_neighbours(self) -> None:
        marks = self.marks
        joined = [Mark(a.since, a.first, b.last, b.end) for a, b in zip(marks[0:-1:2], marks[1::2], strict=False)]
        if len(marks) % 2:
            joined.append(marks[-1])
        self.marks = joined
        self.span_s *= 2


class GrowingKeyHeap:
    """
    Entries ordered by a key that only grows, smallest first.
    """

    __slots__ = ("_heap", "_key", "_rubbish", "_sequence")

    def __init__(self, key: Callable[[Entry], float]) -> None:
        """
        Order by `key`.
        """
        self._key: Final = key
        self._heap: list[tuple[float, int, Entry]] = []
        # Breaks ties, so that entries themselves are never compared.
        self._sequence = 0
        self._rubbish = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry) -> None:
        """
        Add an entry that is not in the heap.
        """
        self._sequence += 1
        heapq.heappush(self._heap, (self._key(entry), self._sequence, entry))

    def note_ended(self) -> None:
        """
        Take notice that one of the entries in the heap has ended.
        """
        self._rubbish += 1
        if self._rubbish > _RUBBISH_MIN and self._rubbish * 2 > len(self._heap):
            self._heap = [
                (self._key(entry), sequence, entry) for _, sequence, entry in self._heap if not entry.is_ended
            ]
            heapq.heapify(self._heap)
            self._rubbish = 0

    def smallest(self) -> Entry | None:
        """
        Give the entry with the smallest key.
        """
        heap = self._heap
        while heap:
            key, sequence, entry = heap[0]
            if entry.is_ended:
                heapq.heappop(heap)
                self._rubbish -= 1
                continue
            current = self._key(entry)
            if current == key:
                return entry
            assert current > key, "keys only grow"
            heapq.heapreplace(heap, (current, sequence, entry))
        return None

    def several(self, limit: int) -> list[Entry]:
        """
        Give at most `limit` entries, smallest key first.
        """
        taken: list[tuple[float, int, Entry]] = []
        while len(taken) < limit and self.smallest() is not None:
            taken.append(heapq.heappop(self._heap))
        for item in taken:
            heapq.heappush(self._heap, item)
        return [entry for _, _, entry in taken]
