"""
Which decoded transactions a snapshot may not see yet.

A commit can be decoded before new snapshots see it: it is in the WAL, but while its session waits for a synchronous
standby its transaction still counts as running. A shape made in between gets the commit neither from the stream, where
it is past, nor from its snapshot. So the ids of decoded transactions are remembered until a snapshot has shown them
visible, and a snapshot that does not see one of those decoded before the shape was routed is taken again.

Limit. At `XIDS_MAX` the older half is folded into a range of ids (its lowest, its highest, its oldest commit). A snapshot
then counts as not seeing them all when any running id lies in the range, or its `xmax` does: too careful, never too
careless. Whoever can ask for a snapshot does so every now and then (`SELECT pg_current_snapshot()` is enough) and calls
`confirm_visible`.

Form: reducer. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot

XIDS_MAX: Final = 65_536
"""Transactions remembered one by one."""

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class _Folded(NamedTuple):
    """
    Transactions no longer known one by one: ids between two bounds, inclusive, and their oldest commit.
    """

    low: int
    high: int
    oldest: CommitLsn


class _Saved(msgspec.Struct, frozen=True, array_like=True):
    """
    What is kept over a restart: (id, commit LSN) pairs, and what was folded.
    """

    commits: list[tuple[int, int]]
    folded: tuple[int, int, int] | None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


def _is_after(xid: int, other: int) -> bool:
    """
    Compare 32-bit ids, which wrap.
    """
    return 0 < ((xid - other) & _MASK) < _HALF


class RoutedXids:
    """
    Decoded transactions that no snapshot has shown visible.
    """

    def __init__(self, xids_max: int = XIDS_MAX) -> None:
        """
        Remember at most `xids_max` one by one.
        """
        assert xids_max >= 2
        self._xids_max: Final = xids_max
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """
        Forget everything: ids of another server, or of a history that was given up, may never become visible.
        """
        self._commits: dict[int, CommitLsn] = {}
        self._highest: int | None = None
        self._folded: _Folded | None = None

    def __len__(self) -> int:
        return len(self._commits)

    def note(self, xid: int, commit_lsn: CommitLsn) -> None:
        """
        Remember a transaction, by its 32-bit id, when its first fragment is decoded.
        """
        commits = self._commits
        if xid in commits:
            del commits[xid]
        commits[xid] = commit_lsn
        if self._highest is None or 0 < ((xid - self._highest) & _MASK) < _HALF:
            self._highest = xid
        if len(commits) > self._xids_max:
            self._fold(len(commits) // 2)

    def confirm_visible(self, snapshot: Snapshot, horizon: InsertLsn) -> None:
        """
        Forget what a snapshot sees.

        Args:
            snapshot: the snapshot.
            horizon: the insert position read after it was taken.
        """
        unseen = self._unseen(snapshot)
        kept = {xid: commit for xid, commit in self._commits.items() if xid in unseen or not commit.is_below(horizon)}
        self._commits = kept
        self._highest = None
        for xid in kept:
            if self._highest is None or _is_after(xid, self._highest):
                self._highest = xid
        if self._folded is not None and not self._may_hide(self._folded, snapshot):
            self._folded = None

    def unseen_before(self, snapshot: Snapshot, up_to_inclusive: CommitLsn) -> bool:
        """
        Tell whether a snapshot misses a commit that the shape will not get from the stream either.

        Args:
            snapshot: the snapshot the shape's rows come from.
            up_to_inclusive: the last commit that is not routed to the shape, as `ShapeLogCollector.add_shape` answered.
        """
        folded = self._folded
        if folded is not None and folded.oldest <= up_to_inclusive and self._may_hide(folded, snapshot):
            return True
        commits = self._commits
        return any(commits[xid] <= up_to_inclusive for xid in self._unseen(snapshot))

    def save(self, boundary: EndLsn) -> bytes:
        """
        Give what a restart at this boundary will not decode again and so cannot know; empty when there is nothing.
        """
        commits = [(xid, commit.value) for xid, commit in self._commits.items() if commit.value < boundary.value]
        folded = self._folded
        if not commits and folded is None:
            return b""
        return _ENCODER.encode(
            _Saved(commits, None if folded is None else (folded.low, folded.high, folded.oldest.value))
        )

    def restore(self, data: bytes) -> None:
        """
        Remember what was saved before a restart.
        """
        if not data:
            return
        saved = _DECODER.decode(data)
        for xid, commit in saved.commits:
            self.note(xid, CommitLsn(commit))
        if saved.folded is not None:
            low, high, oldest = saved.folded
            self._folded = _Folded(low, high, CommitLsn(oldest))

    def _unseen(self, snapshot: Snapshot) -> set[int]:
        """
        Find the remembered transactions that a snapshot does not see: those running in it, and those at or above `xmax`.
        """
        commits = self._commits
        unseen = {
            narrow for xid in snapshot.running if (narrow := xid & _MASK) in commits and not snapshot.sees(narrow)
        }
        # Only if the highest is at or above `xmax` can any be.
        if self._highest is not None and snapshot.widen(self._highest) >= snapshot.xmax:
            unseen.update(xid for xid in commits if snapshot.widen(xid) >= snapshot.xmax)
        return unseen

    @staticmethod
    def _may_hide(folded: _Folded, snapshot: Snapshot) -> bool:
        low, high = snapshot.widen(folded.low), snapshot.widen(folded.high)
        return high >= snapshot.xmax or any(low <= xid <= high for xid in snapshot.running)

    def _fold(self, count: int) -> None:
        remembered = list(self._commits.items())
        folded = remembered[:count]
        low, high, oldest = self._folded or (folded[0][0], folded[0][0], folded[0][1])
        for xid, _ in folded:
            if 0 < ((low - xid) & _MASK) < _HALF:
                low = xid
            if 0 < ((xid - high) & _MASK) < _HALF:
                high = xid
        self._folded = _Folded(low, high, oldest)
        self._commits = dict(remembered[count:])
