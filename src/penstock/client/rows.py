"""
The rows of a shape as users see them: whole states only.

Reducer: give it the events of each answer. What is visible moves from one place at which the server said that everything
was there to the next; in between, also while a log that has replaced another is being read, the rows of before stay.
Unlike `materialize` it forgives repetition, because servers may send what a stream of events had brought already. Values
are decoded, and rows made, when they are first looked at.

Pure. Invariant: `keys()` and `rows` are those of one moment of the database, as of the last `UpToDate`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Generic

from penstock.client.changes import Change, R, RowMaker, operation_of, read_change
from penstock.client.stream import Message, MustRefetch, StreamEvent, UpToDate
from penstock.client.subset import SubsetRows, Texts
from penstock.client.values import RowDecoder
from penstock.postgres.snapshot import Snapshot

REMEMBERED_XIDS_MAX: Final = 10_000
"""So many of the last transactions are remembered for `wait_until`."""

_XID_MASK: Final = (1 << 32) - 1


class SeenTransactions:
    """
    Which transactions the rows show.
    """

    def __init__(self) -> None:
        """
        Begin with none.
        """
        self._known: Final[set[int]] = set()
        self._order: Final[deque[int]] = deque()
        self.snapshot: Snapshot | None = None

    def note(self, xids: Sequence[int]) -> None:
        """
        Take in the transactions of a change.
        """
        for xid in xids:
            if xid not in self._known:
                self._known.add(xid)
                self._order.append(xid)
                if len(self._order) > REMEMBERED_XIDS_MAX:
                    self._known.discard(self._order.popleft())

    def shows(self, xid: int) -> bool:
        """
        Tell whether a transaction that has committed is among the rows. Ids of 64 bits are taken for their lower half.
        """
        xid &= _XID_MASK
        return xid in self._known or (self.snapshot is not None and self.snapshot.sees(xid))


class ShapeRows(Generic[R]):
    """
    The rows of one shape by key.
    """

    def __init__(self, maker: RowMaker[R]) -> None:
        """
        Begin without rows.
        """
        self.seen: Final = SeenTransactions()
        # Grows whenever the visible rows have changed.
        self.revision = 0
        self._maker: Final = maker
        self._texts: dict[str, Texts] = {}
        self._made: dict[str, R] = {}
        self._by_key: Mapping[str, R] | None = None
        # The rows of a log that has not been read to its end for the first time.
        self._loading: dict[str, Texts] | None = {}
        self._held: list[Message] = []
        self._was_reset = False
        self._subsets: list[SubsetRows] = []

    @property
    def is_loading(self) -> bool:
        """
        Whether a log is being read that has not been read to its end yet.
        """
        return self._loading is not None

    @property
    def texts(self) -> Mapping[str, Texts]:
        """
        The visible rows as text.
        """
        return self._texts

    def restore(self, texts: dict[str, Texts]) -> None:
        """
        Begin with rows that were kept.
        """
        self._texts, self._loading = texts, None

    def merge(self, subset: SubsetRows) -> list[Message]:
        """
        Take rows in that were read beside the log; gives them as inserts.

        Changes of these rows that come later and that the subset shows already are left out.
        """
        rows = self._texts if self._loading is None else self._loading
        for key, texts in subset.texts.items():
            rows[key] = texts
            self._made.pop(key, None)
        self._by_key = None
        self.revision += 1
        self._subsets.append(subset)
        return [{"key": key, "value": texts, "headers": {"operation": "insert"}} for key, texts in subset.texts.items()]

    def apply(self, events: Sequence[StreamEvent], snapshot: Snapshot | None) -> list[Message | MustRefetch] | None:
        """
        Take an answer in; gives what has become visible with it, None when nothing has.

        Args:
            events: what it brought.
            snapshot: which transactions the beginning of the log shows, if that is known.
        """
        for event in events:
            match event:
                case MustRefetch():
                    self._loading = {}
                    self._held.clear()
                    self._subsets.clear()
                    self._was_reset = True
                case UpToDate(last_seen_lsn=last_seen_lsn):
                    self._subsets = [each for each in self._subsets if each.lsn > last_seen_lsn]
                    return self._show(snapshot)
                case message:
                    operation_of(message)
                    if any(each.shows(message) for each in self._subsets):
                        self.seen.note(message["headers"].get("txids", ()))
                        continue
                    self._held.append(message)
                    if self._loading is not None:
                        _apply(self._loading, message)
        return None

    def by_key(self, decoder: RowDecoder) -> Mapping[str, R]:
        """
        Give the visible rows; the mapping never changes, later rows are in another one.
        """
        if self._by_key is None:
            made = self._made
            for key, texts in self._texts.items():
                if key not in made:
                    made[key] = self._maker.make(decoder.decode(texts))
            self._by_key = MappingProxyType({key: made[key] for key in self._texts})
        return self._by_key

    def read_changes(self, shown: Sequence[Message | MustRefetch], decoder: RowDecoder) -> list[Change[R]]:
        """
        Decode what `apply` gave.
        """
        return [
            Change("reset") if isinstance(each, MustRefetch) else read_change(each, decoder, self._maker)
            for each in shown
        ]

    def _show(self, snapshot: Snapshot | None) -> list[Message | MustRefetch]:
        shown: list[Message | MustRefetch] = [MustRefetch(None)] if self._was_reset else []
        shown += self._held
        if self._loading is not None:
            self._texts, self._loading = self._loading, None
            self._made.clear()
        else:
            for message in self._held:
                _apply(self._texts, message, self._forget)
        self._was_reset = False
        if shown:
            self._by_key = None
            self.revision += 1
        self.seen.snapshot = snapshot or self.seen.snapshot
        for message in self._held:
            self.seen.note(message["headers"].get("txids", ()))
        self._held.clear()
        return shown

    def _forget(self, key: str) -> None:
        self._made.pop(key, None)


def _apply(rows: dict[str, Texts], message: Message, forget: Callable[[str], None] | None = None) -> None:
    key = message["key"]
    match operation_of(message):
        case "insert":
            rows[key] = dict(message["value"])
        case "update":
            # One whose row is not there is of a log that began without rows.
            if key in rows:
                rows[key] = {**rows[key], **message["value"]}
        case _:
            rows.pop(key, None)
    if forget is not None:
        forget(key)
