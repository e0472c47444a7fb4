"""
What each shape is handed: slices of the stream, what the catch-up reader brings, and what waited for its files.

Form: shell. Plain calls that never wait and never raise.

Invariants:

* a delivery to an entry is taken, buffered, missed (and then the entry is behind), or the entry is condemned;
* a consumer that raised is replaced once at a commit; when its replacement raises at the same commit, the shape is
  condemned.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from penstock.collector.abc import RoutedPart
from penstock.consumers.abc import Phase, ShapeAccounts, ShapeLog, Trail
from penstock.consumers.burial import Burial
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.entries import RegistryEvents, ShapeEntries, ShapeEntry
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Projection, Projections, Rotate, Shared
from penstock.consumers.replay import REASON_OTHER_VERSION
from penstock.consumers.waiting import ShapeWaiters
from penstock.control.records import ShapeRow, ShapeState
from penstock.postgres.lsn import CommitLsn
from penstock.postgres.relation import RelationDescription, TableId
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import SNAPSHOT_END

_log: Final = structlog.get_logger(__name__)

_NOBODYS: Final = ShapeDefinition(TableId(0, "", ""), (), (), has_primary_key=False, selected=())


class Deliveries:
    """
    Hands consumers what concerns them, and judges those that fail.

    Attributes:
        is_replay_foreign: whether what comes was handed to code of another version before: shapes that it adds to begin
            anew.
        unknown_count: deliveries to incarnations that do not exist; a healthy system has none.
        replaced_count: consumers that raised, or owed for too long, and were replaced.
    """

    def __init__(
        self,
        *,
        entries: ShapeEntries,
        waiters: ShapeWaiters,
        burial: Burial,
        accounts: ShapeAccounts,
        events: RegistryEvents,
        limits: ConsumerLimits,
        clock: Callable[[], float],
        trail: Trail,
        make_handler: Callable[[Projection, SnapshotBounds], ShapeHandler],
        start: Callable[[ShapeEntry], Consumer],
    ) -> None:
        """
        Take the ports; `start` brings an idle shape into memory, see `ConsumerRegistry` for the others.
        """
        self._entries: Final = entries
        self._waiters: Final = waiters
        self._burial: Final = burial
        self._accounts: Final = accounts
        self._events: Final = events
        self._limits: Final = limits
        self._clock: Final = clock
        self._trail: Final = trail
        self._make_handler: Final = make_handler
        self._start: Final = start
        self._projections: Final = Projections()
        self.is_replay_foreign = False
        self.unknown_count = 0
        self.replaced_count = 0

    # --- the stream --------------------------------------------------------------------------------------------------

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Deliver a slice of the stream.
        """
        now = self._clock()
        shared: Shared = {}
        is_careful = self._begin_slice(parts)
        for incarnation, delivery in parts.items():
            entry = self._entries.get(incarnation)
            if entry is None:
                self._unknown(incarnation)
            elif self.is_replay_foreign and entry.is_live and delivery[-1].commit_lsn.value > entry.settled.tx:
                self._burial.condemn([entry], REASON_OTHER_VERSION)
            elif entry.condemned is None:
                entry.active_at = now
                consumer = entry.consumer or self._start(entry)
                if is_careful:
                    self._name(incarnation, delivery)
                self._deliver(entry, consumer.handle, delivery, shared, now)
        self._trail.end()

    def publish_caught_up(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Deliver what the catch-up reader brings to shapes that are behind.
        """
        now = self._clock()
        shared: Shared = {}
        is_careful = self._begin_slice(parts)
        for incarnation, delivery in parts.items():
            entry = self._entries.get(incarnation)
            if entry is None or entry.condemned is not None or entry.consumer is None:
                continue
            if entry.consumer.state is ConsumerState.BEHIND:
                entry.active_at = now
                if is_careful:
                    self._name(incarnation, delivery, Phase.CATCH_UP)
                self._deliver(entry, entry.consumer.handle_caught_up, delivery, shared, now)
        self._trail.end()

    def _begin_slice(self, parts: Mapping[int, Sequence[RoutedPart]]) -> bool:
        """
        Write down which commits come now; tells whether each shape is to be named.
        """
        if not parts:
            return False
        # Whoever was found first has the earliest commit.
        earliest = next(iter(parts.values()))
        last = max([delivery[-1].commit_lsn.value for delivery in parts.values()])
        return self._trail.begin_slice(earliest[0].commit_lsn.value, last)

    def _name(self, incarnation: int, delivery: Sequence[RoutedPart], phase: Phase = Phase.DELIVERY) -> None:
        self._trail.name(incarnation, delivery[0].commit_lsn.value, delivery[-1].commit_lsn.value, phase)

    def _deliver(
        self,
        entry: ShapeEntry,
        handle: Callable[[Sequence[RoutedPart], Shared], Rotate | None],
        delivery: Sequence[RoutedPart],
        shared: Shared,
        now: float,
    ) -> None:
        try:
            answer = handle(delivery, shared)
        except Exception as error:  # noqa: BLE001 - one shape's fault is nobody else's; it is judged, not swallowed
            self._replace(entry, delivery, error)
            return
        if answer is not None:
            self._burial.condemn([entry], answer.reason)
            return
        self._took(entry, now)

    def _took(self, entry: ShapeEntry, now: float) -> None:
        consumer = entry.consumer
        assert consumer is not None
        log = consumer.log
        if log is None or not consumer.is_begun:
            return
        self._events.committed(entry, now)
        if entry.waiters:
            self._waiters.tell_passed(entry, log.last)
        is_full = log.tail_bytes > self._limits.shape_tail_bytes_max
        if is_full and consumer.state is ConsumerState.LIVE and not consumer.is_half_way:
            # Its disk does not keep up. What comes is read again later.
            consumer.fall_behind()
        if consumer.state is ConsumerState.BEHIND:
            self.fell_behind(entry)

    def fell_behind(self, entry: ShapeEntry) -> None:
        """
        Take notice that a consumer no longer takes deliveries: the catch-up reader has to bring them.
        """
        if entry.incarnation not in self._entries.behind:
            self._entries.behind[entry.incarnation] = entry
            self._events.fell_behind(entry)

    def _replace(self, entry: ShapeEntry, delivery: Sequence[RoutedPart], error: Exception) -> None:
        consumer = entry.consumer
        assert consumer is not None
        at = consumer.current
        _log.error(
            "consumer failed", handle=entry.handle, commit=at, error_type=type(error).__name__, frames=_stack(error)
        )
        if not consumer.is_begun or entry.failed_at == at:
            self._burial.condemn([entry], f"consumer failed: {type(error).__name__}", is_fault=True)
            return
        entry.failed_at = at
        self.replaced_count += 1
        try:
            entry.consumer = consumer.replacement(delivery, self._handler(entry))
            self._burial.watch(entry)
        except Exception as second:  # noqa: BLE001 - a log that cannot be returned to its last commit is given up
            self._burial.condemn([entry], f"consumer could not be replaced: {type(second).__name__}", is_fault=True)
            return
        self.fell_behind(entry)

    def replace(self, entry: ShapeEntry, owed: CommitLsn) -> bool:
        """
        Put another consumer in place of one that has owed a commit for too long: it goes on from its last whole
        transaction, behind, and is brought what it owes from the relay log.

        Returns:
            Whether it was replaced. One that is being made, or whose files are being opened, cannot be: nobody may
            touch the files until that has ended.
        """
        consumer = entry.consumer
        if entry.condemned is not None or not entry.is_live or consumer is None or not consumer.is_begun:
            return False
        _log.warning("consumer replaced", handle=entry.handle, done=str(consumer.done), owed=str(owed))
        self.replaced_count += 1
        try:
            other = entry.consumer = consumer.replacement((), self._handler(entry))
            self._burial.watch(entry)
        except Exception as error:  # noqa: BLE001 - see _replace
            self._burial.condemn([entry], f"consumer could not be replaced: {type(error).__name__}", is_fault=True)
            return False
        if owed > other.done:
            other.missed = max(other.missed, owed.value)
        self.fell_behind(entry)
        return True

    def _unknown(self, incarnation: int) -> None:
        """
        A shape that nobody knows is routed: whatever it owes nobody will pay, so it ends like any other.
        """
        self.unknown_count += 1
        _log.error("delivery to an unknown shape", incarnation=incarnation)
        self._accounts.unroute(incarnation)
        row = ShapeRow(incarnation, "", _NOBODYS, ShapeState.CREATING, self._limits.chunk_bytes_max, None, SNAPSHOT_END)
        self._burial.take_row(row)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        A description came into force.

        Shapes on the table judge it by the first change they keep, which is exact also while old parts of the stream are
        read again. Only a table that was created under the name of another one brings no change to the shapes of that.
        """
        del table_oids
        known = self._entries.table_named(description.id[1:])
        if known is not None and known != description.id.oid:
            self._events.suspected(description)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """
        Rotate the shapes on these tables whose snapshot does not hold the commit.

        Without the transaction's id a commit below a snapshot's horizon counts as not held.
        """
        for oid in table_oids:
            for entry in self._entries.on_table(oid):
                self._spoil(entry, at, xid, reason)

    def spoil_caught_up(
        self, entries: Sequence[ShapeEntry], table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None
    ) -> None:
        """
        Do the same for shapes that the catch-up reader feeds, should it be ahead of the main reader.
        """
        for entry in entries:
            if entry.table_oid in table_oids:
                self._spoil(entry, at, xid, reason)

    def _spoil(self, entry: ShapeEntry, at: CommitLsn, xid: int | None, reason: str) -> None:
        if entry.condemned is not None:
            return
        consumer = entry.consumer or self._start(entry)
        try:
            answer = consumer.spoil(at, xid, reason)
        except Exception as error:  # noqa: BLE001 - see _deliver
            self._burial.condemn([entry], f"{reason}; consumer failed: {type(error).__name__}", is_fault=True)
            return
        if answer is not None:
            self._burial.condemn([entry], answer.reason)
        elif consumer.is_begun:
            # It survives, and owes a commit it gets nothing of.
            self._events.committed(entry, self._clock())

    def rejoined(self, entry: ShapeEntry) -> None:
        """
        A shape that was behind takes deliveries again.
        """
        self._entries.behind.pop(entry.incarnation, None)
        self._took(entry, self._clock())
        self._waiters.tell_rejoined(entry)

    # --- what waited for files ---------------------------------------------------------------------------------------

    def begin(self, entry: ShapeEntry, log: ShapeLog) -> None:
        """
        The files of a shape are open, and its snapshot is known: let it take what waited for that.
        """
        consumer = entry.consumer
        assert consumer is not None
        waiting = consumer.waiting_commits
        if waiting is not None:
            self._trail.name(entry.incarnation, *waiting, Phase.OPENING)
        try:
            answer = consumer.begin(log, self._handler(entry))
        except Exception as error:  # noqa: BLE001 - see _deliver
            self._replace(entry, (), error)
            return
        finally:
            if waiting is not None:
                self._trail.end()
        if answer is not None:
            self._burial.condemn([entry], answer.reason)
            return
        self._took(entry, self._clock())

    def _handler(self, entry: ShapeEntry) -> ShapeHandler:
        assert entry.bounds is not None
        return self._make_handler(self._projections.of(entry.definition), entry.bounds)


def _stack(error: Exception) -> list[str]:
    """
    Tell where an error came from, without its words, which may hold values of rows.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
