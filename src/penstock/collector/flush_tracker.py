"""
What each shape owes to durability, and the one number that follows from it: the flush boundary.

Owns the accounting of debts, the only one there is: liveness reads it and keeps no copy. Leaves to others who is
delivered what (`collector`), when files are settled (the consumers), and what the boundary is used for (the control
store, the trimming of the relay log, in `shapes` mode the confirmed position).

Form: reducer. It reads no clock (`now` is an argument, in seconds of a clock that does not step back) and does no I/O.
Its one effect is the boundary, which is read from `last_global_flushed_offset`.


Theory of operation
-------------------

A *debt* is a pair (incarnation, commit): the effect of the commit on this life of a shape must become durable, or the
incarnation must be tombstoned durably. Commits arrive in order, so the debts of one incarnation form a queue, and a
flush report "durable through commit c, which ends at e" pays a prefix of it. The tracker keeps for every incarnation
that owes anything one entry: how far it is flushed, and the queue in short form (`flush_entries`).

The boundary is

    the end last seen                                  when nobody owes
    min(flushed of every entry), and no more than that when somebody does

where the *end last seen* is the end of the last whole transaction, or a frontier behind it.

Three rules make the minimum right:

1. A new entry starts as flushed up to the end last seen, which is the end of the transaction *before* the one it now
   owes. (Started from the boundary itself, shapes that take turns would hold it still under load for ever.)
2. While a transaction is half-way, the end last seen stays before it. A debt begins with the first fragment that has
   something for the shape, before the fragment is delivered, and can be paid only once the end is known.
3. What is paid is paid by cover, never by equality: a report beyond all that was owed pays everything, and a report that
   names a commit nobody asked about pays what lies below it. A report ahead of the stream (from a catch-up reader, or
   from files that a restart found beyond the recorded boundary) is remembered, and commits it covers make no debt when
   they are seen.

An incarnation is in one of three states. *Added*: it gets parts but has no files a crash would spare, so it owes
nothing; what it gets is dated aside, so that nothing is forgotten when it starts to owe. *Owing*: past its snapshot;
everything it gets is a debt. *Gone*: removed after its tombstone was synced; its debts are void, and what a late report
says of it is ignored and counted. Numbers of incarnations never return, so a gone one cannot be mistaken for a living.


Invariants
----------

In the words of the flush-accounting model; B is the boundary. `docs/flush-boundary.md` says where each is tested.

==== ==========================================================================================================
S1   Durable before released: every commit that ends at or below B is durable in every owing incarnation it
     concerns, or that incarnation was removed. Follows from 1, 2, 3 and S2 to S4.
S2   No void without tombstone: only `handle_shape_removed` ends a debt unpaid; its caller has synced the tombstone.
     An incarnation that is routed no more holds the boundary until then, whether or not it owes anything: a power cut
     would bring it back without what was released meanwhile.
S3   Register before deliver: the collector calls `handle_txn_fragment` before it publishes the parts.
S4   Cover, not equality: `flushed >= owed` pays; both only grow.
S5   Sole confirmer: this class confirms nothing; one component reads B.
S6   Frontier guard: a frontier is behind everything in the stream when it is handled; it moves the end last seen
     and B only if nobody owes, which is computed anew each time and never latched. Half-way it is ignored.
S7   Fencing: reports of unknown incarnations change nothing and are counted.
S8   No silent skip: delivering is not the tracker's, but a debt stays whatever becomes of the delivery.
S9   Recovery floor: a new tracker starts at the recorded boundary; incarnations start to owe from there or beyond.
S10  Honest sync: a report is made only after every write and sync has succeeded; that is the reporter's word.
S11  Transitive effects: who passes the incarnations names those that owe through others as well.
S12  Snapshot barrier: parts are counted from the moment an incarnation is added, and it starts to owe at a place that
     is not below B.
B    never moves back, never passes a registered debt, and reaches the end last seen when nobody owes.
==== ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from penstock.collector.flush_entries import Entry, GrowingKeyHeap, Mark
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.replication.messages import Fragment


@dataclass(frozen=True, slots=True)
class Debt:
    """
    What one incarnation owes.

    Attributes:
        incarnation: who owes.
        since: when the oldest debt that is left was registered; at most a second or a little of its
            age too early, never too late.
        first_commit: the oldest commit owed, or one registered within a second before it.
        last_commit: the newest commit owed.
        progress_at: when the incarnation last reported progress, or began to owe.
        flushed: how far it is flushed.
    """

    incarnation: int
    since: float
    first_commit: CommitLsn
    last_commit: CommitLsn
    progress_at: float
    flushed: EndLsn


class RunDebt(NamedTuple):
    """
    What some of a run of whole transactions oblige.

    Attributes:
        incarnations: whom they concern.
        before: where the transaction ends that came before the first of them, whoever that concerns.
        first: the first that concerns them.
        last: the last.
    """

    incarnations: Iterable[int]
    before: EndLsn
    first: Fragment
    last: Fragment


class FlushTracker:
    """
    Keeps account of debts; see the module's text.
    """

    def __init__(self, boundary: EndLsn) -> None:
        """
        Start where the recorded boundary is: everything up to it is settled.
        """
        self._reset(boundary)
        self.stale_reports = 0
        """Reports of incarnations that are not known or given up (S7); a healthy system has few."""
        self.unknown_removals = 0
        """Removals of incarnations that are not known; a removal resumed after a restart makes some."""

    def begin_epoch(self, boundary: EndLsn) -> None:
        """
        Forget everything and start anew: every incarnation was tombstoned by the row that began the epoch.

        The boundary may be below the one before: positions of two epochs are not compared.
        """
        self._reset(boundary)

    def _reset(self, boundary: EndLsn) -> None:
        self._boundary = boundary
        self._seen_end = boundary
        self._seen_commit = ZERO_COMMIT
        self._open: int | None = None
        self._added: dict[int, Entry] = {}
        # By owing incarnation: the end it reported ahead of the stream, 0 for none.
        self._owing: dict[int, int] = {}
        # Those of them that get nothing more, and cannot pay any more either.
        self._unrouted: set[int] = set()
        self._entries: dict[int, Entry] = {}
        self._by_flushed = GrowingKeyHeap(lambda entry: entry.flushed)
        self._by_age = GrowingKeyHeap(lambda entry: entry.since)

    # --- the life of an incarnation ----------------------------------------------------------------------------------

    def handle_shape_added(self, incarnation: int, now: float) -> None:
        """
        Begin to count what an incarnation gets; it owes nothing yet.
        """
        assert incarnation not in self._added, incarnation
        assert incarnation not in self._owing, incarnation
        self._added[incarnation] = Entry(incarnation, 0, now)

    def start_owing(self, incarnation: int, flushed: EndLsn, now: float) -> bool:
        """
        Make an added incarnation owe what it got beyond `flushed` and all it will get.

        Args:
            incarnation: one that was added and does not owe.
            flushed: its files are synced through here; after a restart the recorded boundary, or more.
            now: its debts count as this old.

        Returns:
            False when the boundary has moved past `flushed` and nothing was done: settle again and call again.
        """
        if flushed < self.last_global_flushed_offset:
            return False
        entry = self._added.pop(incarnation)
        self._owing[incarnation] = flushed.value if flushed > self._seen_end else 0
        entry.pay(flushed.value)
        if entry.marks:
            entry.flushed = flushed.value
            entry.progress_at = now
            first, last = entry.marks[0], entry.marks[-1]
            entry.marks = [Mark(now, first.first, last.last, last.end)]
            self._enter(entry)
        return True

    def handle_shape_removed(self, incarnation: int) -> None:
        """
        Void all debts of an incarnation whose tombstone is synced (S2). Idempotent.
        """
        if self._added.pop(incarnation, None) is not None:
            return
        self._unrouted.discard(incarnation)
        if self._owing.pop(incarnation, None) is None:
            self.unknown_removals += 1
            return
        entry = self._entries.pop(incarnation, None)
        if entry is not None:
            self._end(entry)

    def handle_shape_unrouted(self, incarnation: int, now: float) -> None:
        """
        Hold the boundary for an incarnation that gets nothing more and is not tombstoned yet; only its removal ends that.

        Until then a power cut brings it back, and it would miss whatever is released meanwhile, also if it owes nothing
        now.
        """
        if incarnation not in self._owing:
            return
        self._unrouted.add(incarnation)
        if incarnation in self._entries:
            return
        entry = Entry(incarnation, max(self._seen_end.value, self._owing[incarnation]), now)
        # It owes whatever comes after all that was seen.
        entry.register(self._seen_commit.value + 1, None, now)
        self._enter(entry)

    def is_owing(self, incarnation: int) -> bool:
        """
        Tell whether what this incarnation gets is a debt.
        """
        return incarnation in self._owing

    # --- the stream --------------------------------------------------------------------------------------------------

    def handle_txn_fragment(
        self, commit_lsn: CommitLsn, incarnations: Iterable[int], end: EndLsn | None, now: float
    ) -> None:
        """
        Register what a fragment obliges, before it is delivered.

        Args:
            commit_lsn: the transaction; greater than all before it, or the one that is half-way.
            incarnations: those that the fragment concerns, each added and not removed; with the fragment that ends the
                transaction, all that any of its fragments concerned.
            end: given with the fragment that ends the transaction.
            now: when.
        """
        commit = commit_lsn.value
        assert self._open is None or self._open == commit, (self._open, commit_lsn)
        assert commit > self._seen_commit.value, (self._seen_commit, commit_lsn)
        ends_at = None if end is None else end.value
        entries = self._entries
        for incarnation in incarnations:
            entry = entries.get(incarnation)
            if entry is None:
                ahead = self._owing.get(incarnation)
                if ahead is None:
                    self._added[incarnation].register(commit, ends_at, now)
                    continue
                if ends_at is not None and ahead >= ends_at:
                    continue
                entry = Entry(incarnation, max(self._seen_end.value, ahead), now)
                entry.register(commit, ends_at, now)
                self._enter(entry)
                continue
            entry.register(commit, ends_at, now)
            if ends_at is not None and entry.flushed >= ends_at and incarnation not in self._unrouted:
                # Reported while the transaction was half-way here.
                del entries[incarnation]
                self._end(entry)
        if end is None:
            self._open = commit
        else:
            assert end.value > self._seen_end.value, (self._seen_end, end)
            self._open = None
            self._seen_end = end
            self._seen_commit = commit_lsn

    def handle_whole_txns(self, debts: Iterable[RunDebt], commit_lsn: CommitLsn, end: EndLsn, now: float) -> None:
        """
        Register what a run of whole transactions obliges, before they are delivered.

        The same as registering them one by one: debts of one moment share a mark, which names the first and the last.

        Args:
            debts: who is concerned by which of them; nobody is named twice.
            commit_lsn: the last transaction of the run, whoever it concerns.
            end: where that ends.
            now: when.
        """
        assert self._open is None, self._open
        entries = self._entries
        for incarnations, before, earliest, latest in debts:
            first, last = earliest.commit_lsn.value, latest.commit_lsn.value
            assert earliest.end is not None
            assert latest.end is not None
            assert first > self._seen_commit.value, (self._seen_commit, first)
            first_end, ends_at = earliest.end.value, latest.end.value
            for incarnation in incarnations:
                entry = entries.get(incarnation)
                is_new = entry is None
                if entry is None:
                    ahead = self._owing.get(incarnation)
                    if ahead is not None and ahead >= ends_at:
                        continue
                    entry = (
                        self._added[incarnation] if ahead is None else Entry(incarnation, max(before.value, ahead), now)
                    )
                entry.register(first, first_end, now)
                if last != first:
                    entry.register(last, ends_at, now)
                if is_new:
                    if incarnation in self._owing:
                        self._enter(entry)
                elif entry.flushed >= ends_at and incarnation not in self._unrouted:
                    # Reported while a transaction was half-way of which the rest was lost.
                    del entries[incarnation]
                    self._end(entry)
        assert end.value > self._seen_end.value, (self._seen_end, end)
        self._seen_end = end
        self._seen_commit = commit_lsn

    def handle_txn_void(self) -> None:
        """
        Take notice that the rest of the half-way transaction will not come.

        Its debts stay until their shapes are removed: nobody can pay them.
        """
        self._open = None

    def handle_frontier(self, end: EndLsn) -> None:
        """
        Take notice that nothing of concern is on its way up to here; ignored half-way through a transaction (S6).
        """
        if self._open is None and end > self._seen_end:
            self._seen_end = end

    def handle_flush_notification(self, incarnation: int, commit_lsn: CommitLsn, end: EndLsn, now: float) -> None:
        """
        Pay what is durable: all of the incarnation's commits up to and with this one, which ends at `end`.
        """
        if incarnation in self._unrouted:
            self.stale_reports += 1
            return
        entry = self._entries.get(incarnation)
        if entry is None:
            if incarnation in self._owing:
                if end > self._seen_end:
                    self._owing[incarnation] = max(end.value, self._owing[incarnation])
            elif incarnation in self._added:
                self._added[incarnation].pay(end.value)
            else:
                self.stale_reports += 1
            return
        if end.value <= entry.flushed:
            return
        newest = entry.marks[-1]
        if newest.end is not None and commit_lsn.value >= newest.last:
            del self._entries[incarnation]
            self._end(entry)
            self._owing[incarnation] = end.value if end > self._seen_end else 0
            return
        entry.flushed = end.value
        entry.progress_at = now
        entry.pay(end.value)
        assert entry.marks, "a report that does not cover the newest commit leaves it owed"

    # --- what follows ------------------------------------------------------------------------------------------------

    @property
    def last_seen_offset(self) -> EndLsn:
        """
        The end of the last whole transaction, or a frontier behind it.
        """
        return self._seen_end

    @property
    def last_seen_commit(self) -> CommitLsn:
        """
        The last whole transaction; zero before the first.
        """
        return self._seen_commit

    @property
    def last_global_flushed_offset(self) -> EndLsn:
        """
        The flush boundary.
        """
        lowest = self._by_flushed.smallest()
        seen = self._seen_end.value
        value = seen if lowest is None else min(seen, lowest.flushed)
        if value != self._boundary.value:
            assert value > self._boundary.value, "the boundary never moves back"
            self._boundary = EndLsn(value)
        return self._boundary

    @property
    def pending_count(self) -> int:
        """
        How many incarnations owe something.
        """
        return len(self._entries)

    def debt_of(self, incarnation: int) -> Debt | None:
        """
        Say what one incarnation owes.
        """
        entry = self._entries.get(incarnation)
        return None if entry is None else _debt(entry)

    def oldest_debts(self, limit: int) -> list[Debt]:
        """
        List those who have owed longest, oldest first, in O(limit log n).
        """
        return [_debt(entry) for entry in self._by_age.several(limit)]

    def pinning_debts(self, limit: int) -> list[Debt]:
        """
        List those who are flushed least, the holders of the boundary first, in O(limit log n).
        """
        return [_debt(entry) for entry in self._by_flushed.several(limit)]

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.incarnation] = entry
        self._by_flushed.push(entry)
        self._by_age.push(entry)

    def _end(self, entry: Entry) -> None:
        entry.is_ended = True
        self._by_flushed.note_ended()
        self._by_age.note_ended()


def _debt(entry: Entry) -> Debt:
    first, last = entry.marks[0], entry.marks[-1]
    return Debt(
        incarnation=entry.incarnation,
        since=first.since,
        first_commit=CommitLsn(first.first),
        last_commit=CommitLsn(last.last),
        progress_at=entry.progress_at,
        flushed=EndLsn(entry.flushed),
    )
