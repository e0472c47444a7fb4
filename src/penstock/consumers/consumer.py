"""
The one writer of one shape log, for one incarnation.

Owns the state of an incarnation in the stream: what it has, what waits for it, whether it is behind. It is an object
whose handler is a plain call, once for each delivery: what cannot await cannot hang. Whatever must wait (snapshot, loading, settling,
catching up) is a task of somebody else, who tells the consumer when it is done.

Form: shell, but without waiting, clock or I/O of its own; the log appends in memory.

States::

    CREATING ──(snapshot written)──▶ LIVE ◀──(files opened)── LOADING
        │                            │  ▲                        │
        └──────(buffer full)──▶ BEHIND ─┘◀────(buffer full)──────┘
                                     caught up
    any ──▶ ENDED

Invariants:

* the log gets every transaction delivered after `done`, once, in order, and nothing of one at or before `done`;
* while behind, what is delivered is not taken, and `missed` names the newest transaction not taken. The shape may take
  deliveries again once the catch-up reader has passed that one whole: what it passed beyond is at or before `done`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from penstock.collector.abc import RoutedPart, WholeRun
from penstock.consumers.abc import ShapeLog
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Element, Rotate, Shared
from penstock.errors import ShapeError
from penstock.postgres.lsn import CommitLsn, EndLsn

_CHANGE_OVERHEAD_BYTES: Final = 200
"""What a routed change weighs besides its values, roughly."""


class ConsumerState(Enum):
    """
    How a consumer stands to the stream.
    """

    CREATING = "creating"
    """Its snapshot is not there yet; deliveries wait in its buffer."""
    LOADING = "loading"
    """Its files are being opened; deliveries wait in its buffer."""
    LIVE = "live"
    BEHIND = "behind"
    """Deliveries are not taken; the catch-up reader brings them from the relay log."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Spoil:
    """
    A commit that cannot be followed, told while the snapshot's bounds were not known.
    """

    at: CommitLsn
    xid: int | None
    reason: str


_Waiting: TypeAlias = RoutedPart | _Spoil


def part_bytes(part: RoutedPart) -> int:
    """
    Estimate what a part weighs in memory.
    """
    total = _CHANGE_OVERHEAD_BYTES
    for change in part.changes:
        rows = [row for row in (change.old, change.new) if row is not None]
        total += _CHANGE_OVERHEAD_BYTES + sum(len(value) for row in rows for value in row if value is not None)
    return total


class Consumer:
    """
    One incarnation in the stream.

    Attributes:
        incarnation: whose consumer this is.
        state: see `ConsumerState`.
        done: the last transaction taken whole, or known to be of no concern.
        done_end: everything of concern up to here was taken.
        missed: the newest transaction not taken while behind; zero when none was.
        log: where it appends; None until there is one. Until `is_begun`, only its snapshot is being written.
    """

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_buffer_bytes",
        "_floor",
        "_handler",
        "_limits",
        "_open",
        "_open_bytes",
        "current",
        "done",
        "done_end",
        "incarnation",
        "log",
        "missed",
        "state",
    )

    def __init__(
        self, incarnation: int, state: ConsumerState, done: CommitLsn, done_end: EndLsn, limits: ConsumerLimits
    ) -> None:
        """
        Begin without a log, after `done`.
        """
        assert state in {ConsumerState.CREATING, ConsumerState.LOADING}, state
        self.incarnation: Final = incarnation
        self.state: ConsumerState = state
        self.done = done
        self.done_end = done_end
        self.missed = 0
        self.log: ShapeLog | None = None
        self.current = 0
        """The transaction being handled, for whoever finds out that handling it failed."""
        self._floor = done.value
        self._limits: Final = limits
        self._handler: ShapeHandler | None = None
        self._buffer: list[_Waiting] = []
        self._buffer_bytes = 0
        # The transaction of which a part was taken and the end was not; 0 between transactions.
        self._open = 0
        self._open_bytes = 0

    @property
    def is_begun(self) -> bool:
        """
        Whether snapshot or files are there, so that it can append.
        """
        return self._handler is not None

    @property
    def is_half_way(self) -> bool:
        """
        Whether a part of a transaction was taken and its end was not.
        """
        return self._open != 0

    @property
    def waiting_commits(self) -> tuple[int, int] | None:
        """
        The first and the last commit that wait in its buffer; None when nothing does.
        """
        if not self._buffer:
            return None
        places = [item.at if isinstance(item, _Spoil) else item.commit_lsn for item in self._buffer]
        return min(places).value, max(places).value

    # --- deliveries --------------------------------------------------------------------------------------------------

    def handle(self, parts: Sequence[RoutedPart], shared: Shared) -> Rotate | None:
        """
        Take a delivery of the main reader.

        Returns:
            Why the log ends, if it does.
        """
        match self.state:
            case ConsumerState.LIVE:
                return self._take(parts, shared)
            case ConsumerState.CREATING | ConsumerState.LOADING:
                for part in parts:
                    self._wait(part, part_bytes(part))
            case ConsumerState.BEHIND:
                for part in parts:
                    self._miss(part)
            case ConsumerState.ENDED:
                pass
        return None

    def handle_caught_up(self, parts: Sequence[RoutedPart], shared: Shared) -> Rotate | None:
        """
        Take a delivery of the catch-up reader.
        """
        assert self.state is ConsumerState.BEHIND, self.state
        return self._take(parts, shared)

    def _take(self, parts: Sequence[RoutedPart], shared: Shared) -> Rotate | None:
        log, handler = self.log, self._handler
        assert log is not None
        assert handler is not None
        if isinstance(parts, WholeRun) and self._take_run(parts, log, handler):
            return None
        done = self.done.value
        # Transactions that came in one part each: converted one by one, handed to the log together.
        whole: list[tuple[int, Sequence[Element]]] = []
        last: RoutedPart | None = None
        try:
            for part in parts:
                commit = part.commit_lsn.value
                if commit <= done:
                    continue
                self.current = commit
                answer = handler.handle(part, shared)
                if isinstance(answer, Rotate):
                    return answer
                if part.end is not None and not self._open:
                    if answer:
                        whole.append((commit, answer))
                    last = part
                    done = commit
                    continue
                if last is not None:
                    self._commit_whole(log, whole, last)
                    whole, last = [], None
                added = log.append(commit, answer) if answer else 0
                if part.end is None:
                    self._open = commit
                    self._open_bytes += added
                    if self._open_bytes > self._limits.open_bytes_max:
                        return Rotate(
                            f"a transaction holds more than {self._limits.open_bytes_max} bytes for the shape"
                        )
                    continue
                log.commit(part.commit_lsn, part.end)
                self.done = part.commit_lsn
                self.done_end = part.end
                done = commit
                self._open = 0
                self._open_bytes = 0
        finally:
            # Whatever became of the one behind them, these are the shape's.
            if last is not None:
                self._commit_whole(log, whole, last)
        return None

    def _take_run(self, run: WholeRun, log: ShapeLog, handler: ShapeHandler) -> bool:
        """
        Take whole transactions at once; tells whether it did, and otherwise did nothing.
        """
        # A handler of another kind (tests have some) wants to see each part.
        fragments = run.fragments
        if self._open or type(handler) is not ShapeHandler or fragments[0].commit_lsn.value <= self.done.value:
            return False
        try:
            made = handler.handle_run(run)
        except Exception:  # noqa: BLE001 - it is raised again, part by part, where it is known of which transaction
            return False
        if made is None:
            return False
        newest = fragments[-1]
        assert newest.end is not None
        self.current = newest.commit_lsn.value
        log.append_whole(made, newest.commit_lsn, newest.end)
        self.done = newest.commit_lsn
        self.done_end = newest.end
        return True

    def _commit_whole(self, log: ShapeLog, whole: Sequence[tuple[int, Sequence[Element]]], last: RoutedPart) -> None:
        """
        Hand whole transactions to the log, of which `last` is the newest, and take them as done.
        """
        assert last.end is not None
        log.append_whole(whole, last.commit_lsn, last.end)
        self.done = last.commit_lsn
        self.done_end = last.end

    def spoil(self, at: CommitLsn, xid: int | None, reason: str) -> Rotate | None:
        """
        Take notice that the shape's table cannot be followed past this commit.

        Returns:
            Why the log ends, if that is known already.
        """
        if at.value <= self._floor or self.state is ConsumerState.ENDED:
            # What the files held when they were opened was written by a consumer that survived this commit.
            return None
        if self._handler is None:
            self._wait(_Spoil(at, xid, reason), _CHANGE_OVERHEAD_BYTES)
            return None
        return self._handler.spoil(at, xid, reason)

    # --- waiting and being behind ------------------------------------------------------------------------------------

    def _wait(self, item: _Waiting, size_bytes: int) -> None:
        if self.missed and isinstance(item, RoutedPart):
            self._miss(item)
            return
        self._buffer.append(item)
        self._buffer_bytes += size_bytes
        if self._buffer_bytes > self._limits.buffer_bytes_max:
            self._drop_buffer()

    def _drop_buffer(self) -> None:
        """
        Give the buffer up, but for what is said to have spoiled the shape: the catch-up reader would not bring it.
        """
        for item in self._buffer:
            if isinstance(item, RoutedPart):
                self._miss(item)
        self._buffer = [item for item in self._buffer if isinstance(item, _Spoil)]
        self._buffer_bytes = 0

    def _miss(self, part: RoutedPart) -> None:
        commit = part.commit_lsn.value
        if commit > self.done.value:
            self.missed = max(self.missed, commit)

    def fall_behind(self, parts: Sequence[RoutedPart] = ()) -> None:
        """
        Stop taking deliveries, from these on, and forget the transaction that is half-way.
        """
        assert self.state is ConsumerState.LIVE, self.state
        assert self.log is not None
        assert self._handler is not None
        self.state = ConsumerState.BEHIND
        self.log.abandon_part()
        self._handler.abandon()
        self.missed = max(self.missed, self._open)
        self._open = 0
        self._open_bytes = 0
        for part in parts:
            self._miss(part)

    def replacement(self, parts: Sequence[RoutedPart], handler: ShapeHandler) -> Consumer:
        """
        Make a consumer that goes on where this one's last whole transaction ended, and is behind.

        Of this object nothing is trusted but `done`, which it set after the log had taken the transaction.

        Args:
            parts: what this one failed to take, or a part of it.
            handler: a fresh one.

        Raises:
            ShapeError: something that waited says that the log ends.
        """
        log = self.log
        assert log is not None
        other = Consumer(self.incarnation, ConsumerState.LOADING, self.done, self.done_end, self._limits)
        other.state = ConsumerState.BEHIND
        other.log = log
        other._handler = handler
        other._floor = self._floor
        other.missed = max(self.missed, self._open)
        for part in parts:
            other._miss(part)
        for item in self._buffer:
            if isinstance(item, RoutedPart):
                other._miss(item)
            elif (answer := handler.spoil(item.at, item.xid, item.reason)) is not None:
                raise ShapeError(answer.reason)
        log.abandon_part()
        return other

    def begin(self, log: ShapeLog, handler: ShapeHandler) -> Rotate | None:
        """
        End the wait for a snapshot or for files: take what waited, then deliveries.

        Returns:
            Why the log ends, if it does.
        """
        assert self.state in {ConsumerState.CREATING, ConsumerState.LOADING}, self.state
        self.log = log
        self._handler = handler
        settled = log.settled
        if settled is not None and settled[0] > self.done:
            self.done, self.done_end = settled[0], max(settled[1], self.done_end)
            self._floor = self.done.value
        self.state = ConsumerState.BEHIND if self.missed else ConsumerState.LIVE
        shared: Shared = {}
        # The buffer is given up only when all of it was taken: what follows a failure is missed by the replacement.
        for item in self._buffer:
            answer = (
                handler.spoil(item.at, item.xid, item.reason)
                if isinstance(item, _Spoil)
                else self._take((item,), shared)
            )
            if answer is not None:
                return answer
        self._buffer, self._buffer_bytes = [], 0
        return None

    def return_to_commit(self) -> None:
        """
        While behind, forget the transaction that is half-way: the catch-up reader begins anew before it.
        """
        assert self.state is ConsumerState.BEHIND, self.state
        assert self.log is not None
        assert self._handler is not None
        if self._open:
            self.log.abandon_part()
            self._handler.abandon()
            self._open = 0
            self._open_bytes = 0

    def pass_commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Take notice that the catch-up reader has passed a transaction whole, whether or not it was of concern.
        """
        assert self.state is ConsumerState.BEHIND, self.state
        if commit_lsn > self.done:
            self.done = commit_lsn
            self.done_end = max(end, self.done_end)

    def rejoin(self) -> bool:
        """
        Take deliveries again if everything that was not taken has been brought; tells whether it does.
        """
        assert self.state is ConsumerState.BEHIND, self.state
        if self.missed > self.done.value or self._open:
            return False
        self.state = ConsumerState.LIVE
        self.missed = 0
        return True

    def end(self) -> None:
        """
        Take nothing any more.
        """
        self.state = ConsumerState.ENDED
        self._buffer = []
        self._buffer_bytes = 0
