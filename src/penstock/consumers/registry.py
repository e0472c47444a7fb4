"""
The live consumers by incarnation, and the end of those that must be given up.

Owns the entries of all shapes that exist, their consumers, who waits for them, and the saga of giving a shape up. What
is settled when belongs to `settling`, what shapes that are behind are fed to `catch_up`, which definition has which
handle to `catalog`; they are told through `RegistryEvents`.

Form: shell. `publish` and its siblings are plain calls that never wait and never raise. Three kinds of tasks, all owned
by `run`: one that buries, one for each folder being thrown away, one for each set of files being opened.

Giving a shape up (O6 of the design), each step only when the one before it is synced::

    condemn: routed no more, takes nothing more ──▶ tombstone ──▶ debt void, waiters told, entry gone ──▶ folder
    renamed away ──▶ row forgotten

A crash before the tombstone leaves a shape that lives and owes. A crash after it leaves a row that `restore` buries.

Invariants:

* a delivery to an entry is taken, buffered, missed (and then the entry is behind), or the entry is condemned;
* a consumer that is gone without having been replaced or let rest costs its shape, at once and whatever it owed: what it
  had in memory, clients may have seen;
* a consumer that raised is replaced once at a commit; when its replacement raises at the same commit, the shape is
  condemned;
* nobody is told that a shape is gone before its tombstone is synced.
"""

from __future__ import annotations

import asyncio
import traceback
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog
from msgspec.structs import replace

from penstock.collector.abc import RoutedPart
from penstock.consumers.abc import ControlStore, NoTrail, Phase, ShapeAccounts, ShapeLog, ShapeLogStore, Trail
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Projection, Projections, Rotate, Shared
from penstock.consumers.replay import REASON_OTHER_VERSION
from penstock.control.records import ShapeRow, ShapeState
from penstock.errors import InvalidShapeError, PenstockError, Policy, ShapeError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, TableId
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.condition import condition_of
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import SNAPSHOT_END, LogOffset

_log: Final = structlog.get_logger(__name__)


_NEVER: Final = LogOffset(2**64, 0)
"""A place that no shape ever passes."""
_NOBODYS: Final = ShapeDefinition(TableId(0, "", ""), (), (), has_primary_key=False, selected=())


class ShapeGoneError(ShapeError):
    """
    Met by requests whose shape was given up while they were served; answered with a 409.
    """


@dataclass(slots=True, eq=False)
class Waiter:
    """
    Somebody who waits for a shape to pass a place.
    """

    after: LogOffset
    future: asyncio.Future[bool]
    """Answers whether the shape is still there."""


@dataclass(slots=True, eq=False)
class ShapeEntry:
    """
    A shape that exists.

    Attributes:
        incarnation: its number.
        handle: its name.
        definition: what it is.
        chunk_bytes_max: threshold of its chunks.
        bounds: of its snapshot; None until that is written.
        is_live: whether it survives a crash.
        settled: the last place the files are sure to hold.
        done: the last transaction it has, while it has no consumer.
        done_end: how far it is complete, while it has no consumer.
        consumer: in memory, or None for an idle shape.
        condemned: why it is being given up; None for most.
        failed_at: the commit at which a consumer raised last; -1 for none.
        active_at: when it last had something to do.
        read_at: when a client was last given something of it, or it went live; None for neither.
        file_bytes: what its files held when it was last in memory; None while that is not known.
        is_compacting: whether its log may be compacted, as far as was seen when it was last in memory.
        is_kept: whether it may not leave memory, because somebody works on its files and they cannot be opened meanwhile.
        waiters: who waits for it to move or to go.
        rejoin_waiters: who waits for it not to be behind.
        load: opening its files.
        monitor: tells when its consumer is gone without a word.
    """

    incarnation: int
    handle: str
    definition: ShapeDefinition
    chunk_bytes_max: int
    bounds: SnapshotBounds | None = None
    is_live: bool = False
    settled: LogOffset = SNAPSHOT_END
    done: CommitLsn = ZERO_COMMIT
    done_end: EndLsn = EndLsn(0)
    consumer: Consumer | None = None
    condemned: str | None = None
    failed_at: int = -1
    active_at: float = 0.0
    read_at: float | None = None
    file_bytes: int | None = None
    is_compacting: bool = False
    is_kept: bool = False
    waiters: list[Waiter] = field(default_factory=list)
    rejoin_waiters: list[asyncio.Future[None]] = field(default_factory=list)
    load: asyncio.Task[None] | None = None
    monitor: weakref.ref[Consumer] | None = None

    @property
    def table_oid(self) -> int:
        """
        The table it is on.
        """
        return self.definition.table.oid


class RegistryEvents(Protocol):
    """
    Who must know what becomes of shapes. No call waits or raises.
    """

    def committed(self, entry: ShapeEntry, now: float) -> None:
        """
        The shape has taken transactions, which it may owe.
        """
        ...

    def fell_behind(self, entry: ShapeEntry) -> None:
        """
        The shape must be fed from the relay log.
        """
        ...

    def gone(self, entry: ShapeEntry) -> None:
        """
        The shape's tombstone is synced, and its entry is no more.
        """
        ...

    def suspected(self, description: RelationDescription) -> None:
        """
        A table seems to have taken the name of another one, on which there are shapes: ask the catalog.
        """
        ...

    def shed(self, entry: ShapeEntry, reason: str) -> None:
        """
        The shape is being given up because of a fault of its own. Told before anything of it is dropped.
        """
        ...


class ConsumerRegistry:
    """
    Delivers to consumers; implements `collector.abc.ConsumerDelivery`.
    """

    def __init__(
        self,
        *,
        store: ShapeLogStore,
        control: ControlStore,
        accounts: ShapeAccounts,
        events: RegistryEvents,
        limits: ConsumerLimits,
        clock: Callable[[], float],
        trail: Trail | None = None,
        make_handler: Callable[[Projection, SnapshotBounds], ShapeHandler] = ShapeHandler,
    ) -> None:
        """
        Begin without shapes.

        Args:
            store: opens and throws away files.
            control: keeps tombstones.
            accounts: the collector's side.
            events: who is told.
            limits: bounds.
            clock: seconds that do not step back.
            trail: where it is written down what consumers are handed; nowhere by default.
            make_handler: makes what converts the stream for one shape.
        """
        self._store: Final = store
        self._control: Final = control
        self._accounts: Final = accounts
        self._events: Final = events
        self._limits: Final = limits
        self._clock: Final = clock
        self._trail: Final = trail or NoTrail()
        self._make_handler: Final = make_handler
        self._entries: Final[dict[int, ShapeEntry]] = {}
        self._by_handle: Final[dict[str, ShapeEntry]] = {}
        self._by_table: Final[dict[int, dict[int, ShapeEntry]]] = {}
        self._by_name: Final[dict[tuple[str, str], int]] = {}
        self._in_memory: Final[dict[int, ShapeEntry]] = {}
        self._behind: Final[dict[int, ShapeEntry]] = {}
        self._projections: Final = Projections()
        self._condemned: list[ShapeEntry] = []
        self._condemned_event: Final = asyncio.Event()
        self._rows_to_bury: list[ShapeRow] = []
        self._loads: Final = asyncio.Semaphore(limits.loads_count_max)
        self._burials: Final = asyncio.Semaphore(limits.loads_count_max)
        self._discarding_count = 0
        self._group: asyncio.TaskGroup | None = None
        self.is_replay_foreign = False
        """Whether what comes was handed to code of another version before: shapes that it adds to begin anew."""
        self.unknown_deliveries = 0
        """Deliveries to incarnations that do not exist; a healthy system has none."""
        self.replaced_count = 0
        """Consumers that raised and were replaced."""
        self.shed_count = 0
        """Shapes given up because of a fault, and not because their table or a request asked for it."""

    # --- looking up --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ShapeEntry]:
        return iter(list(self._entries.values()))

    def find(self, handle: str) -> ShapeEntry | None:
        """
        Find a shape by its handle; a condemned one counts until its tombstone is synced.
        """
        return self._by_handle.get(handle)

    def entry(self, incarnation: int) -> ShapeEntry | None:
        """
        Find a shape by its number.
        """
        return self._entries.get(incarnation)

    def on_table(self, table_oid: int) -> list[ShapeEntry]:
        """
        List the shapes on a table.
        """
        return list(self._by_table.get(table_oid, {}).values())

    def tables(self) -> list[int]:
        """
        List the tables with shapes.
        """
        return list(self._by_table)

    def behind(self) -> list[ShapeEntry]:
        """
        List the shapes that are behind and whose files are open.
        """
        return list(self._behind.values())

    @property
    def is_burying(self) -> bool:
        """Whether files or rows of shapes that were given up are still being removed."""
        return bool(self._condemned or self._rows_to_bury or self._discarding_count)

    @property
    def is_any_behind(self) -> bool:
        """
        Whether the catch-up reader has something to do.
        """
        return bool(self._behind)

    def oldest_creating(self) -> EndLsn | None:
        """
        Tell from where the relay log is needed by shapes that are being created; None without any.
        """
        ends = [entry.consumer.done_end for entry in self._in_memory.values() if not entry.is_live and entry.consumer]
        return min(ends, default=None)

    @property
    def creating_count(self) -> int:
        """
        How many shapes are in the making.
        """
        return sum(not entry.is_live for entry in self._in_memory.values())

    # --- the life of an entry ----------------------------------------------------------------------------------------

    def restore(self, rows: Sequence[ShapeRow], boundary: EndLsn) -> list[ShapeEntry]:
        """
        Take over what a restart found: route the live shapes from the recorded boundary, bury the others.

        Returns:
            The live shapes. Rows that were not live are buried by `run`; a request for their handle is answered like one
            for an unknown handle.
        """
        live: list[ShapeEntry] = []
        for row in rows:
            if row.state is not ShapeState.LIVE:
                self._rows_to_bury.append(row)
                continue
            assert row.bounds is not None, row.incarnation
            entry = ShapeEntry(
                row.incarnation,
                row.handle,
                row.definition,
                row.chunk_bytes_max,
                bounds=row.bounds,
                is_live=True,
                settled=row.settled,
                done_end=boundary,
                # Who read it before the start is not known: as if all had been read then.
                read_at=self._clock(),
            )
            self._add(entry)
            problem = _find_problem(row.definition)
            # Until its tombstone is synced it has to owe all that any row of its table may make it owe.
            routed = row.definition if problem is None else replace(row.definition, where=None, basis=None)
            self._accounts.add_shape(row.incarnation, routed)
            self._accounts.start_owing(row.incarnation)
            live.append(entry)
            if problem is not None:
                self.condemn([entry], f"its condition is not understood any more: {problem}")
        self._condemned_event.set()
        return live

    def create(self, log: ShapeLog, definition: ShapeDefinition) -> ShapeEntry:
        """
        Enter and route a shape whose row `CREATING` is synced; deliveries wait in its buffer.
        """
        handle, incarnation = log.handle, log.incarnation
        entry = ShapeEntry(incarnation, handle, definition, self._limits.chunk_bytes_max, active_at=self._clock())
        self._add(entry)
        routed_after = self._accounts.add_shape(incarnation, definition)
        consumer = Consumer(incarnation, ConsumerState.CREATING, routed_after, self._accounts.seen[1], self._limits)
        consumer.log = log
        entry.consumer = consumer
        self._watch(entry)
        self._in_memory[incarnation] = entry
        return entry

    def begin(self, entry: ShapeEntry, bounds: SnapshotBounds) -> None:
        """
        A new shape's snapshot is written: let it take what waited for that.
        """
        if entry.condemned is None:
            assert entry.consumer is not None
            assert entry.consumer.log is not None
            entry.bounds = bounds
            self._begin(entry, entry.consumer.log)

    def bury(self, row: ShapeRow) -> None:
        """
        End an incarnation of which there is nothing but its row and perhaps its folder.
        """
        self._rows_to_bury.append(row)
        self._condemned_event.set()

    def _add(self, entry: ShapeEntry) -> None:
        assert entry.incarnation not in self._entries, entry.incarnation
        assert entry.handle not in self._by_handle, entry.handle
        self._entries[entry.incarnation] = entry
        self._by_handle[entry.handle] = entry
        self._by_table.setdefault(entry.table_oid, {})[entry.incarnation] = entry
        self._by_name[entry.definition.table[1:]] = entry.table_oid

    def _remove(self, entry: ShapeEntry) -> None:
        self._entries.pop(entry.incarnation, None)
        self._by_handle.pop(entry.handle, None)
        self._in_memory.pop(entry.incarnation, None)
        self._behind.pop(entry.incarnation, None)
        on_table = self._by_table.get(entry.table_oid)
        if on_table is not None and on_table.pop(entry.incarnation, None) is not None and not on_table:
            del self._by_table[entry.table_oid]
            if self._by_name.get(entry.definition.table[1:]) == entry.table_oid:
                del self._by_name[entry.definition.table[1:]]

    def _handler(self, entry: ShapeEntry) -> ShapeHandler:
        assert entry.bounds is not None
        return self._make_handler(self._projections.of(entry.definition), entry.bounds)

    # --- deliveries --------------------------------------------------------------------------------------------------

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
                self.condemn([entry], REASON_OTHER_VERSION)
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

    @property
    def is_anybody_waiting(self) -> bool:
        """
        Whether a shape in memory has not been handed all that was delivered to it.
        """
        return any(
            entry.condemned is None and entry.consumer is not None and entry.consumer.state is not ConsumerState.LIVE
            for entry in self._in_memory.values()
        )

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
            self.condemn([entry], answer.reason)
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
            self._wake(entry, log.last)
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
        if entry.incarnation not in self._behind:
            self._behind[entry.incarnation] = entry
            self._events.fell_behind(entry)

    def _replace(self, entry: ShapeEntry, delivery: Sequence[RoutedPart], error: Exception) -> None:
        consumer = entry.consumer
        assert consumer is not None
        at = consumer.current
        _log.error(
            "consumer failed", handle=entry.handle, commit=at, error_type=type(error).__name__, frames=_stack(error)
        )
        if not consumer.is_begun or entry.failed_at == at:
            self.condemn([entry], f"consumer failed: {type(error).__name__}", is_fault=True)
            return
        entry.failed_at = at
        self.replaced_count += 1
        try:
            entry.consumer = consumer.replacement(delivery, self._handler(entry))
            self._watch(entry)
        except Exception as second:  # noqa: BLE001 - a log that cannot be returned to its last commit is given up
            self.condemn([entry], f"consumer could not be replaced: {type(second).__name__}", is_fault=True)
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
            self._watch(entry)
        except Exception as error:  # noqa: BLE001 - see _replace
            self.condemn([entry], f"consumer could not be replaced: {type(error).__name__}", is_fault=True)
            return False
        if owed > other.done:
            other.missed = max(other.missed, owed.value)
        self.fell_behind(entry)
        return True

    def _watch(self, entry: ShapeEntry) -> None:
        """
        Learn at once when the consumer of a shape is gone, whoever let go of it and why.
        """
        assert entry.consumer is not None
        entry.monitor = weakref.ref(entry.consumer, partial(self._consumer_gone, entry.incarnation))

    def _consumer_gone(self, incarnation: int, monitor: weakref.ref[Consumer]) -> None:
        """
        A consumer is gone that nobody replaced or let rest: what it had in memory is lost, and clients may have seen it.
        """
        entry = self._entries.get(incarnation)
        if entry is not None and entry.monitor is monitor:
            self.condemn([entry], "its consumer is gone with what it had in memory", is_fault=True)

    def _unknown(self, incarnation: int) -> None:
        """
        A shape that nobody knows is routed: whatever it owes nobody will pay, so it ends like any other.
        """
        self.unknown_deliveries += 1
        _log.error("delivery to an unknown shape", incarnation=incarnation)
        self._accounts.unroute(incarnation)
        row = ShapeRow(incarnation, "", _NOBODYS, ShapeState.CREATING, self._limits.chunk_bytes_max, None, SNAPSHOT_END)
        self._rows_to_bury.append(row)
        self._condemned_event.set()

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        A description came into force.

        Shapes on the table judge it by the first change they keep, which is exact also while old parts of the stream are
        read again. Only a table that was created under the name of another one brings no change to the shapes of that.
        """
        del table_oids
        known = self._by_name.get(description.id[1:])
        if known is not None and known != description.id.oid:
            self._events.suspected(description)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """
        Rotate the shapes on these tables whose snapshot does not hold the commit.

        Without the transaction's id a commit below a snapshot's horizon counts as not held.
        """
        for oid in table_oids:
            for entry in self.on_table(oid):
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
            self.condemn([entry], f"{reason}; consumer failed: {type(error).__name__}", is_fault=True)
            return
        if answer is not None:
            self.condemn([entry], answer.reason)
        elif consumer.is_begun:
            # It survives, and owes a commit it gets nothing of.
            self._events.committed(entry, self._clock())

    def rejoined(self, entry: ShapeEntry) -> None:
        """
        A shape that was behind takes deliveries again.
        """
        self._behind.pop(entry.incarnation, None)
        self._took(entry, self._clock())
        self._tell_rejoined(entry)

    @staticmethod
    def _tell_rejoined(entry: ShapeEntry) -> None:
        for future in entry.rejoin_waiters:
            if not future.done():
                future.set_result(None)
        entry.rejoin_waiters.clear()

    async def wait_rejoined(self, entry: ShapeEntry) -> None:
        """
        Wait until a shape with open files is not behind, or condemned.
        """
        while entry.condemned is None and entry.consumer is not None and entry.consumer.state is ConsumerState.BEHIND:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry.rejoin_waiters.append(future)
            await future

    # --- opening files -----------------------------------------------------------------------------------------------

    def _start(self, entry: ShapeEntry) -> Consumer:
        """
        Bring an idle shape into memory: deliveries wait while its files are opened.
        """
        assert entry.consumer is None
        consumer = Consumer(entry.incarnation, ConsumerState.LOADING, entry.done, entry.done_end, self._limits)
        entry.consumer = consumer
        self._watch(entry)
        entry.active_at = self._clock()
        self._in_memory[entry.incarnation] = entry
        assert self._group is not None, "the registry runs"
        entry.load = self._group.create_task(self._load(entry), name=f"load shape {entry.handle}")
        return consumer

    async def _load(self, entry: ShapeEntry) -> None:
        async with self._loads:
            while entry.condemned is None:
                try:
                    log = await self._store.load(entry.handle, entry.incarnation, entry.chunk_bytes_max, entry.settled)
                except PenstockError as error:
                    _log.error("shape log cannot be opened", handle=entry.handle, error=error.message)
                    if error.policy is Policy.ROTATE:
                        self.condemn([entry], f"files cannot be opened: {error.message}", is_fault=True)
                        return
                    await asyncio.sleep(self._limits.retry_s)
                    continue
                except Exception as error:  # noqa: BLE001 - see _deliver
                    # A fault of ours in one shape's files is that shape's, and no reason to end all.
                    _log.exception("shape log cannot be opened", handle=entry.handle)
                    self.condemn([entry], f"files cannot be opened: {type(error).__name__}", is_fault=True)
                    return
                if entry.condemned is None:
                    entry.load = None
                    self._begin(entry, log)
                return

    def _begin(self, entry: ShapeEntry, log: ShapeLog) -> None:
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
            self.condemn([entry], answer.reason)
            return
        self._took(entry, self._clock())

    def was_read(self, entry: ShapeEntry) -> None:
        """
        Take notice that a client is given something of a shape.
        """
        entry.read_at = self._clock()

    async def open_log(self, entry: ShapeEntry) -> ShapeLog:
        """
        Give the log of a shape, opening its files if need be.

        Raises:
            ShapeGoneError: the shape is being given up.
        """
        entry.active_at = self._clock()
        while entry.condemned is None:
            consumer = entry.consumer or self._start(entry)
            if consumer.log is not None:
                return consumer.log
            if entry.load is None:
                break
            await asyncio.wait([entry.load])
        raise ShapeGoneError("the shape is gone")

    def release_idle(self, is_busy: Callable[[ShapeEntry], bool]) -> int:
        """
        Let shapes leave memory that had nothing to do for a while, owe nothing and are waited for by nobody.

        Args:
            is_busy: whether something of the shape is not settled yet.

        Returns:
            How many left.
        """
        before = self._clock() - self._limits.idle_s
        idle = [
            entry
            for entry in self._in_memory.values()
            if entry.active_at <= before and self._may_leave(entry) and not is_busy(entry)
        ]
        for entry in idle:
            consumer = entry.consumer
            assert consumer is not None
            entry.done, entry.done_end = consumer.done, consumer.done_end
            entry.file_bytes = None if consumer.log is None else consumer.log.file_bytes
            entry.is_compacting = consumer.log is not None and consumer.log.is_compacting
            # It goes with nothing in its hands, which is no reason for alarm.
            entry.monitor = None
            entry.consumer = None
            del self._in_memory[entry.incarnation]
        return len(idle)

    @staticmethod
    def _may_leave(entry: ShapeEntry) -> bool:
        consumer = entry.consumer
        return (
            entry.is_live
            and entry.condemned is None
            and not entry.is_kept
            and not entry.waiters
            and consumer is not None
            and consumer.state is ConsumerState.LIVE
            and consumer.log is not None
            and consumer.log.tail_bytes == 0
            and not consumer.is_half_way
        )

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def wait(self, entry: ShapeEntry, after: LogOffset) -> bool:
        """
        Wait until the shape has something after a place; False when it is gone.
        """
        try:
            log = await self.open_log(entry)
        except ShapeGoneError:
            await self.wait_gone(entry)
            return False
        if entry.condemned is None and log.last > after:
            return True
        return await self._park(entry, after)

    async def wait_gone(self, entry: ShapeEntry) -> None:
        """
        Wait until the tombstone of a condemned shape is synced.
        """
        while self._entries.get(entry.incarnation) is entry:
            if not await self._park(entry, _NEVER):
                return

    async def _park(self, entry: ShapeEntry, after: LogOffset) -> bool:
        if self._entries.get(entry.incarnation) is not entry:
            return False
        waiter = Waiter(after, asyncio.get_running_loop().create_future())
        entry.waiters.append(waiter)
        try:
            return await waiter.future
        finally:
            if waiter in entry.waiters:
                entry.waiters.remove(waiter)

    def _wake(self, entry: ShapeEntry, last: LogOffset) -> None:
        kept: list[Waiter] = []
        for waiter in entry.waiters:
            if waiter.after < last and entry.condemned is None:
                if not waiter.future.done():
                    waiter.future.set_result(True)
            else:
                kept.append(waiter)
        entry.waiters[:] = kept

    # --- giving shapes up --------------------------------------------------------------------------------------------

    def condemn(self, entries: Collection[ShapeEntry], reason: str, *, is_fault: bool = False) -> None:
        """
        Give shapes up: they take nothing more from now on, and are gone when their tombstones are synced.

        Whoever needs to know when uses `wait_gone`. `is_fault` says that the shape is shed: neither its table nor a
        request is why.
        """
        for entry in entries:
            if entry.condemned is not None:
                continue
            if is_fault:
                self.shed_count += 1
                self._events.shed(entry, reason)
            self._condemn(entry, reason)
        self._condemned_event.set()

    def _condemn(self, entry: ShapeEntry, reason: str) -> None:
        entry.condemned = reason
        _log.warning("shape given up", handle=entry.handle, reason=reason)
        if entry.load is not None and entry.load is not asyncio.current_task():
            entry.load.cancel()
        if entry.consumer is not None:
            entry.consumer.end()
        self._behind.pop(entry.incarnation, None)
        self._tell_rejoined(entry)
        self._accounts.unroute(entry.incarnation)
        self._condemned.append(entry)

    async def condemn_all(self, reason: str) -> None:
        """
        Give every shape up and return when all their tombstones are synced.
        """
        entries = list(self._entries.values())
        # No shape's own fault: they are counted, and may be made again at once.
        self.shed_count += sum(entry.condemned is None for entry in entries)
        self.condemn(entries, reason)
        for entry in entries:
            await self.wait_gone(entry)

    def forget_all(self, reason: str) -> None:
        """
        Every shape was tombstoned by the row that began a new epoch: tell waiters, throw the files away.

        The caller has the collector forget its accounts.
        """
        assert self._group is not None, "the registry runs"
        for entry in list(self._entries.values()):
            entry.condemned = entry.condemned or reason
            if entry.consumer is not None:
                entry.consumer.end()
            self._tell_rejoined(entry)
            self._depart(entry)
        self._condemned = []

    async def run(self) -> None:
        """
        Bury the condemned and open files, until cancelled.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    await self._condemned_event.wait()
                    self._condemned_event.clear()
                    await self._bury_rows()
                    await self._bury_entries()
            finally:
                self._group = None

    async def _bury_entries(self) -> None:
        condemned, self._condemned = self._condemned, []
        by_reason: dict[str, list[ShapeEntry]] = {}
        for entry in condemned:
            by_reason.setdefault(entry.condemned or "", []).append(entry)
        for reason, entries in by_reason.items():
            numbers = [entry.incarnation for entry in entries]
            at = max(self._end_of(entry) for entry in entries)
            await self._insist("tombstone", partial(self._control.tombstone, numbers, reason, at))
            for entry in entries:
                # An epoch that began meanwhile has made all of them depart.
                if self._entries.get(entry.incarnation) is entry:
                    self._accounts.remove_shape(entry.incarnation)
                    self._depart(entry)

    @staticmethod
    def _end_of(entry: ShapeEntry) -> EndLsn:
        return entry.done_end if entry.consumer is None else entry.consumer.done_end

    def _depart(self, entry: ShapeEntry) -> None:
        self._remove(entry)
        for waiter in entry.waiters:
            if not waiter.future.done():
                waiter.future.set_result(False)
        entry.waiters.clear()
        self._events.gone(entry)
        self._throw_away(entry.handle, entry.incarnation)

    async def _bury_rows(self) -> None:
        """
        Bury what a restart found: rows that were never live get a tombstone first.
        """
        rows, self._rows_to_bury = self._rows_to_bury, []
        creating = [row.incarnation for row in rows if row.state is ShapeState.CREATING]
        if creating:
            reason = "was not complete when the service ended"
            await self._insist("tombstone", partial(self._control.tombstone, creating, reason, EndLsn(0)))
        for row in rows:
            self._accounts.remove_shape(row.incarnation)
            self._throw_away(row.handle, row.incarnation)

    def _throw_away(self, handle: str, incarnation: int) -> None:
        assert self._group is not None, "the registry runs"
        self._discarding_count += 1
        self._group.create_task(self._discard(handle, incarnation), name=f"discard shape {handle}")

    async def _discard(self, handle: str, incarnation: int) -> None:
        async with self._burials:
            if handle:
                await self._insist("discard", partial(self._store.discard, handle, incarnation))
            await self._insist("forget", partial(self._control.forget, incarnation))
        self._discarding_count -= 1

    async def _insist(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        """
        Repeat a step of the saga until it succeeds; all of them are idempotent.
        """
        while True:
            try:
                await call()
            except (PenstockError, OSError) as error:
                _log.error("giving a shape up is held up", step=what, error=str(error))
                await asyncio.sleep(self._limits.retry_s)
            else:
                return


def _find_problem(definition: ShapeDefinition) -> str | None:
    """
    Say why the condition of a definition cannot be compiled; None when it can, or there is none.
    """
    try:
        condition_of(definition)
    except InvalidShapeError as error:
        return error.message
    return None


def _stack(error: Exception) -> list[str]:
    """
    Tell where an error came from, without its words, which may hold values of rows.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
