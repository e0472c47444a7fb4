"""
From the stream to the shapes: who gets what, what that obliges, and in which order others hear of it.

Owns routing: the filter index, the transaction that is half-way, and the positions up to which the stream was handled.
Debts are kept by `FlushTracker`, decoded transaction ids by `RoutedXids`; both may be absent, as in the catch-up reader
for shapes that are behind, whose debts the main collector keeps.

Form: reducer with ports. `handle` is synchronous and takes a slice of the stream; what must be asked of the database
first is named by `missing_facts`, so that the shell can wait and `handle` need not.

Order. Within `handle`, per fragment, or for a run of whole transactions at once: debts are registered, then the parts are
put aside; at the end of the slice, or before anything else is told, they are published. So whoever listens sees deliveries, descriptions and spoiled tables in
stream order, and nothing is delivered that is not owed.

Rules for a transaction in several fragments:

* A shape that got any part of it gets the part that ends it, if need be an empty one.
* A shape added half-way gets none of it, whatever comes; `add_shape` answers the transaction's commit LSN, and its
  snapshot has to see that commit (`RoutedXids` tells if it does not).
* A shape that does not survive a truncate or an omitted transaction is unrouted while the delivery is told, and gets
  nothing more, above all not the part that ends the transaction: it could flush, and so pay the very debt that keeps it
  from surviving a crash as if nothing had been. It owes the commit until its tombstone is synced. A shape that is still
  routed after the call, because its snapshot holds the commit or nobody can tell yet, gets the rest.
* When the connection was lost half-way and the same transaction is read again from its beginning, it goes on where it
  was: the operations of a transaction have the same positions whenever it is decoded.
* When another transaction follows instead (part of the log was lost), the tables it touched so far are spoiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from penstock.collector.abc import CatalogFacts, ConsumerDelivery, RoutedPart, WholeRun
from penstock.collector.filter.conditions import ConditionIndex
from penstock.collector.filter.index import FilterIndex
from penstock.collector.flush_tracker import FlushTracker, RunDebt
from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Change, Fragment, Frontier, Omitted, Operation, RelationSeen, StreamEvent
from penstock.shapes.definition import ShapeDefinition

_TRUNCATE: Final = Operation.TRUNCATE

REASON_TRUNCATE: Final = "truncate"
REASON_OMITTED: Final = "transaction too large"
REASON_CUT_OFF: Final = "transaction lost half-way"


class _OpenTransaction:
    """
    A transaction between its first fragment and its end.

    Attributes:
        commit_lsn: names it.
        xid: its 32-bit id.
        position: of the last operation handled.
        is_read_again: whether operations up to `position` may come a second time.
        concerned: incarnations that owe it, in the order they were found.
        excluded: incarnations that get nothing more of it.
        tables: those whose shapes got something.
    """

    __slots__ = ("commit_lsn", "concerned", "excluded", "is_read_again", "position", "tables", "xid")

    def __init__(self, commit_lsn: CommitLsn, xid: int) -> None:
        self.commit_lsn: Final = commit_lsn
        self.xid: Final = xid
        self.position = -1
        self.is_read_again = False
        self.concerned: dict[int, None] = {}
        self.excluded: set[int] = set()
        self.tables: set[int] = set()


class ShapeLogCollector:
    """
    Routes a stream to the shapes it may concern.
    """

    def __init__(
        self,
        *,
        boundary: EndLsn,
        facts: CatalogFacts,
        delivery: ConsumerDelivery,
        tracker: FlushTracker | None = None,
        xids: RoutedXids | None = None,
    ) -> None:
        """
        Start behind `boundary`: transactions that begin below it are dropped as sent again.

        Args:
            boundary: the recorded flush boundary, or for a catch-up reader where it begins.
            facts: of partitions.
            delivery: who gets the parts.
            tracker: keeps the debts, starting at the same boundary; absent when others keep them.
            xids: remembers decoded transactions; absent when others do.
        """
        self._facts: Final = facts
        self._delivery: Final = delivery
        self.tracker: Final = tracker
        self.xids: Final = xids
        self._index = FilterIndex()
        self._collected: dict[int, list[RoutedPart] | WholeRun] = {}
        # By table, whole transactions that are put aside; only within a call of `handle`.
        self._runs: dict[int, WholeRun] = {}
        self._is_in_run = False
        # By relation; holds within one call of `handle`, as long as nobody else was called.
        self._tables_of: dict[int, Sequence[int]] = {}
        self._reset(boundary)

    def begin_epoch(self, boundary: EndLsn) -> None:
        """
        Forget all shapes and positions: every shape was tombstoned by the row that began the epoch.
        """
        self._index = FilterIndex()
        self._reset(boundary)
        if self.tracker is not None:
            self.tracker.begin_epoch(boundary)
        if self.xids is not None:
            self.xids.begin_epoch()

    def _reset(self, boundary: EndLsn) -> None:
        self._open: _OpenTransaction | None = None
        self._runs = {}
        self._is_in_run = False
        # Two kinds of positions are compared here and nowhere else: the boundary is the end of a record, so a commit
        # record that starts below it also ends at or below it, and was handled before we started.
        self._last_commit = max(boundary.value - 1, 0)
        self.last_seen_commit: CommitLsn = CommitLsn(self._last_commit)
        """The last whole transaction handled; at first the greatest position one below the boundary can have."""
        self.last_seen_end: EndLsn = boundary
        """Its end, or a frontier behind it; at first the boundary."""
        self.last_seen_lsn: int = boundary.value
        """What up-to-date messages say: commit LSN of the last transaction, or the frontier behind it, as a number."""

    # --- shapes ------------------------------------------------------------------------------------------------------

    def add_shape(self, incarnation: int, definition: ShapeDefinition, now: float) -> CommitLsn:
        """
        Route to an incarnation from the next transaction on; it owes nothing until the tracker is told so.

        Returns:
            The last commit that is not routed to it, which may be half-way.
        """
        self._index.add(incarnation, definition)
        self._tables_of.clear()
        if self.tracker is not None:
            self.tracker.handle_shape_added(incarnation, now)
        if self._open is None:
            return self.last_seen_commit
        self._open.excluded.add(incarnation)
        return self._open.commit_lsn

    def unroute(self, incarnation: int) -> bool:
        """
        Stop routing to an incarnation that is condemned; it goes on owing. Tells whether it was routed.

        May be called from within the delivery's calls.
        """
        if self._open is not None:
            self._open.excluded.add(incarnation)
        self._tables_of.clear()
        return self._index.remove(incarnation)

    def remove_shape(self, incarnation: int) -> None:
        """
        Void what an incarnation owes. Its tombstone is synced, or it never came to owe anything. Idempotent.
        """
        self.unroute(incarnation)
        if self._open is not None:
            self._open.concerned.pop(incarnation, None)
        if self.tracker is not None:
            self.tracker.handle_shape_removed(incarnation)

    @property
    def is_half_way(self) -> bool:
        """
        Whether a transaction has begun and not ended. Shapes are handed over only when it is not.
        """
        return self._open is not None

    # --- the stream --------------------------------------------------------------------------------------------------

    def missing_facts(self, events: Sequence[StreamEvent]) -> list[int]:
        """
        Name the relations of which must be found what is above them before `handle` is called with these events.

        Ask again when they are found: shapes may have been added meanwhile.
        """
        if not len(self._index):
            return []
        missing: dict[int, None] = {}
        known: RelationDescription | None = None
        for event in events:
            if isinstance(event, Fragment):
                # Nearly all that comes is of the relation that was asked about a moment ago.
                if event.relation is known is not None:
                    continue
                for change in event.changes if event.relation is None else event.changes[:1]:
                    if change.relation is not known:
                        known = change.relation
                        if self._facts.ancestors_of(known.id.oid) is None:
                            missing[known.id.oid] = None
                    if change.operation is _TRUNCATE:
                        missing.update(dict.fromkeys(self._unknown(self._index.tables())))
            else:
                missing.update(dict.fromkeys(self._unknown(self._relations_asked_about(event))))
        return list(missing)

    def _unknown(self, oids: Iterable[int]) -> Iterable[int]:
        return (oid for oid in oids if self._facts.ancestors_of(oid) is None)

    def _relations_asked_about(self, event: RelationSeen | Omitted | Frontier) -> Iterable[int]:
        match event:
            case RelationSeen():
                yield event.description.id.oid
            case Omitted():
                yield from event.relation_oids
                yield from self._index.tables()
            case Frontier():
                pass
            case _:
                assert_never(event)

    def handle(self, events: Sequence[StreamEvent], now: float) -> None:
        """
        Handle a slice of the stream.
        """
        self._tables_of.clear()
        for event in events:
            if isinstance(event, Fragment):
                if not self._join_run(event):
                    self._end_runs(now)
                    self._handle_fragment(event, now)
                continue
            self._end_runs(now)
            match event:
                case RelationSeen():
                    oid = event.description.id.oid
                    self._publish()
                    self._delivery.relation_seen(event.description, self._tables_above(oid))
                case Frontier():
                    self._handle_frontier(event.end)
                case Omitted():
                    self._handle_omitted(event, now)
                case _:
                    assert_never(event)
        self._end_runs(now)
        self._publish()

    def _join_run(self, fragment: Fragment) -> bool:
        """
        Put a transaction aside that is whole, of one table with shapes at most, and without a truncate: nearly all are
        like that. Tells whether it is; what was put aside is registered and collected by `_end_runs`.
        """
        end = fragment.end
        if end is None or self._open is not None or not fragment.is_first:
            return False
        relation = fragment.relation
        if relation is None and fragment.changes:
            return False
        tables: Sequence[int] = ()
        if relation is not None:
            tables = self._tables_for(relation.id.oid)
            if len(tables) > 1:
                return False
        commit = fragment.commit_lsn
        if self.xids is not None:
            self.xids.note(fragment.xid, commit)
        if commit.value <= self._last_commit:
            return True
        for table in tables:
            run = self._runs.get(table)
            if run is None:
                run = self._runs[table] = WholeRun(relation)
            elif run.relation is not relation:
                run.relation = None
            run.fragments.append(fragment)
            run.before.append(self.last_seen_end)
        # As `_end_transaction` does; none was half-way.
        self._is_in_run = True
        self.last_seen_commit = commit
        self.last_seen_end = end
        self._last_commit = self.last_seen_lsn = commit.value
        return True

    def _end_runs(self, now: float) -> None:
        """
        Register and collect what was put aside.
        """
        if not self._is_in_run:
            return
        self._is_in_run = False
        runs, self._runs = self._runs, {}
        index, collected = self._index, self._collected
        debts: list[RunDebt] = []
        for table, run in runs.items():
            whole = index.whole(table)
            if whole:
                fragments = run.fragments
                debts.append(RunDebt(whole, run.before[0], fragments[0], fragments[-1]))
                for incarnation in whole:
                    already = collected.get(incarnation)
                    if already is None:
                        collected[incarnation] = run
                    else:
                        self._own_list(incarnation, already).extend(run)
            conditional = index.conditional.get(table)
            if conditional is not None:
                self._match_run(run, conditional, debts)
        if self.tracker is not None:
            self.tracker.handle_whole_txns(debts, self.last_seen_commit, self.last_seen_end, now)

    def _match_run(self, run: WholeRun, conditional: ConditionIndex, debts: list[RunDebt]) -> None:
        """
        Find the shapes with conditions that transactions of a run concern, all at once.
        """
        fragments = run.fragments
        matches = conditional.match([change for fragment in fragments for change in fragment.changes])
        if not matches:
            return
        place_of = {id(change): place for place, fragment in enumerate(fragments) for change in fragment.changes}
        for incarnations, changes, verdicts in matches:
            parts: list[RoutedPart] = []
            first = newest = -1
            chosen: list[Change] = []
            known: list[int] = []
            for change, verdict in zip(changes, verdicts, strict=True):
                place = place_of[id(change)]
                if place == newest:
                    chosen.append(change)
                    known.append(verdict)
                    continue
                if newest < 0:
                    first = place
                newest = place
                chosen, known = [change], [verdict]
                fragment = fragments[place]
                parts.append(RoutedPart(fragment.commit_lsn, fragment.xid, chosen, fragment.end, known))
            debts.append(RunDebt(incarnations, run.before[first], fragments[first], fragments[newest]))
            for incarnation in incarnations:
                already = self._collected.get(incarnation)
                if already is None:
                    self._collected[incarnation] = list(parts)
                else:
                    self._own_list(incarnation, already).extend(parts)

    def _own_list(self, incarnation: int, already: list[RoutedPart] | WholeRun) -> list[RoutedPart]:
        """
        Give the list of what was collected for an incarnation, apart from others' if it was shared.
        """
        if isinstance(already, WholeRun):
            already = self._collected[incarnation] = list(already)
        return already

    def _collect(self, incarnation: int, part: RoutedPart) -> None:
        already = self._collected.get(incarnation)
        if already is None:
            self._collected[incarnation] = [part]
        else:
            self._own_list(incarnation, already).append(part)

    def _handle_fragment(self, fragment: Fragment, now: float) -> None:
        commit = fragment.commit_lsn
        is_first = fragment.is_first
        transaction = self._open
        if transaction is not None and transaction.commit_lsn != commit:
            if commit < transaction.commit_lsn:
                # Sent again from before the one that is half-way.
                return
            self._give_up_half_way(transaction)
            transaction = None
        if is_first and self.xids is not None:
            self.xids.note(fragment.xid, commit)
        if transaction is None:
            if commit.value <= self._last_commit:
                return
            assert is_first, "a transaction is handed on from its beginning"
            transaction = self._open = _OpenTransaction(commit, fragment.xid)
        elif is_first:
            transaction.is_read_again = True
        changes = fragment.changes
        if transaction.is_read_again:
            changes = [change for change in changes if change.op_position > transaction.position]
        if changes:
            transaction.position = changes[-1].op_position
        by_table, spoiled = self._sort_by_table(changes, fragment.relation)
        self._route(transaction, fragment, by_table, spoiled, now)

    def _route(
        self,
        transaction: _OpenTransaction,
        fragment: Fragment,
        by_table: dict[int, list[Change]],
        spoiled: list[int],
        now: float,
    ) -> None:
        end = fragment.end
        index, concerned, excluded = self._index, transaction.concerned, transaction.excluded

        # Register: those concerned by this fragment and, with its last, those concerned by any.
        found: dict[int, None] = {}
        for table in by_table:
            found.update(dict.fromkeys(index.whole(table)))
        matches = index.match(by_table)
        for match in matches:
            found.update(dict.fromkeys(match.incarnations))
        for table in spoiled:
            found.update(dict.fromkeys(index.affected(table)))
        if excluded:
            found = {incarnation: None for incarnation in found if incarnation not in excluded}
        concerned.update(found)
        transaction.tables.update(by_table)
        if self.tracker is not None:
            self.tracker.handle_txn_fragment(fragment.commit_lsn, found if end is None else concerned, end, now)

        if spoiled:
            # Unroutes those that do not survive, and so excludes them.
            self._publish()
            self._delivery.relation_spoiled(spoiled, fragment.commit_lsn, REASON_TRUNCATE, fragment.xid)

        # Deliver.
        rest: dict[int, None] = {} if end is None else dict(concerned)
        whole = [(index.whole(table), some, None) for table, some in by_table.items()]
        for some, changes, verdicts in (*whole, *matches):
            part = RoutedPart(fragment.commit_lsn, fragment.xid, changes, end, verdicts)
            for incarnation in some:
                if incarnation not in excluded:
                    self._collect(incarnation, part)
                    rest.pop(incarnation, None)
        self._collect_ends(rest, excluded, RoutedPart(fragment.commit_lsn, fragment.xid, (), end))
        if end is not None:
            self._end_transaction(fragment.commit_lsn, end)

    def _collect_ends(self, concerned: Iterable[int], excluded: set[int], part: RoutedPart) -> None:
        for incarnation in concerned:
            if incarnation not in excluded:
                self._collect(incarnation, part)

    def _sort_by_table(
        self, changes: list[Change], only: RelationDescription | None
    ) -> tuple[dict[int, list[Change]], list[int]]:
        """
        Give the changes for each table with shapes, and name the tables with shapes that a truncate spoils.

        Args:
            changes: of a fragment.
            only: the fragment's relation.
        """
        if only is not None:
            # One list for all: nobody changes it.
            return (dict.fromkeys(self._tables_for(only.id.oid), changes) if changes else {}), []
        by_table: dict[int, list[Change]] = {}
        spoiled: dict[int, None] = {}
        before = None
        tables: Sequence[int] = ()
        for change in changes:
            relation = change.relation
            if relation is not before:
                before = relation
                tables = self._tables_for(relation.id.oid)
            if change.operation is _TRUNCATE:
                spoiled.update(dict.fromkeys(self._tables_around(relation.id.oid)))
                continue
            for table in tables:
                if table in by_table:
                    by_table[table].append(change)
                else:
                    by_table[table] = [change]
        return by_table, list(spoiled)

    def _handle_omitted(self, omitted: Omitted, now: float) -> None:
        commit = omitted.commit_lsn
        if self.xids is not None:
            self.xids.note(omitted.xid, commit)
        transaction = self._open
        if transaction is not None and transaction.commit_lsn != commit:
            if commit < transaction.commit_lsn:
                return
            self._give_up_half_way(transaction)
            transaction = None
        if transaction is None:
            if commit.value <= self._last_commit:
                return
            transaction = self._open = _OpenTransaction(commit, omitted.xid)
        spoiled = dict.fromkeys(table for oid in omitted.relation_oids for table in self._tables_around(oid))
        # What was handed on of it before it turned out too large.
        spoiled.update(dict.fromkeys(sorted(transaction.tables)))
        for table in spoiled:
            for incarnation in self._index.affected(table):
                if incarnation not in transaction.excluded:
                    transaction.concerned[incarnation] = None
        if self.tracker is not None:
            self.tracker.handle_txn_fragment(commit, transaction.concerned, omitted.end, now)
        self._publish()
        if spoiled:
            self._delivery.relation_spoiled(list(spoiled), commit, REASON_OMITTED, omitted.xid)
        self._collect_ends(
            transaction.concerned, transaction.excluded, RoutedPart(commit, omitted.xid, (), omitted.end)
        )
        self._end_transaction(commit, omitted.end)

    def _handle_frontier(self, end: EndLsn) -> None:
        if self._open is not None or end <= self.last_seen_end:
            return
        self.last_seen_end = end
        self.last_seen_lsn = end.value
        if self.tracker is not None:
            self.tracker.handle_frontier(end)

    def _end_transaction(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        self._open = None
        self.last_seen_commit = commit_lsn
        self.last_seen_end = end
        self._last_commit = self.last_seen_lsn = commit_lsn.value

    def _give_up_half_way(self, transaction: _OpenTransaction) -> None:
        """
        The rest of a transaction was lost and another follows.
        """
        self._publish()
        if self.tracker is not None:
            self.tracker.handle_txn_void()
        tables = [table for table in sorted(transaction.tables) if self._index.has_table(table)]
        if tables:
            self._delivery.relation_spoiled(tables, transaction.commit_lsn, REASON_CUT_OFF, transaction.xid)
        self._open = None

    def _tables_for(self, relation_oid: int) -> Sequence[int]:
        """
        Give the tables with shapes that a row of this relation belongs to, and remember them while nothing can change.
        """
        known = self._tables_of.get(relation_oid)
        if known is not None:
            return known
        tables = [table for table in self._tables_above(relation_oid) if self._index.has_table(table)]
        self._tables_of[relation_oid] = tables
        return tables

    def _tables_above(self, relation_oid: int) -> Sequence[int]:
        """
        Give a relation's own oid and those of the partitioned tables above it. Without shapes nobody is asked for them.
        """
        if not len(self._index):
            return (relation_oid,)
        ancestors = self._facts.ancestors_of(relation_oid)
        assert ancestors is not None, "the shell finds what missing_facts names"
        return (relation_oid, *ancestors)

    def _tables_around(self, relation_oid: int) -> list[int]:
        """
        Give the tables with shapes whose rows a truncate of a relation may take away: itself, above it, below it.
        """
        index = self._index
        around = [table for table in self._tables_above(relation_oid) if index.has_table(table)]
        around += [
            table
            for table in index.tables()
            if relation_oid in (self._facts.ancestors_of(table) or ()) and table not in around
        ]
        return around

    def _publish(self) -> None:
        if self._collected:
            parts, self._collected = self._collected, {}
            self._delivery.publish(parts)
