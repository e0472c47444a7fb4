"""
An exhaustive explorer of small histories, whose transition function is the code that runs in production.

A *world* is a value: what is on disks, and everything the engine keeps in memory, as nested tuples. A step builds the
engine of a world (collector, flush tracker, registry, consumers, settler, sweep and watch: the real classes, with their
fields set), lets one thing happen, checks what must hold, and takes the engine apart again. Modelled are only the
surroundings: the files of shapes as sets of elements, the control store as a table of rows, the order in which disks,
timers and consumers get on. Nobody is fair to consumers: whatever one has begun may never end.

Times are kept relative to now, so that worlds that differ in their age only are one.

Elements. Every change of the script is one bit; a shape's files and tails are masks of the bits that concern its table.
A commit that cannot be followed (`Omitted`) has a bit that no file ever holds: a shape that survives it is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector, _OpenTransaction
from penstock.collector.filter.index import FilterIndex
from penstock.collector.flush_entries import Entry, Mark
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.catch_up import CatchUp
from penstock.consumers.consumer import Consumer, ConsumerState, _Spoil
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settle_plan import SettlePlan
from penstock.consumers.settling import Settler
from penstock.consumers.stage import ConsumersStage
from penstock.consumers.visibility import is_kept
from penstock.control.records import ShapeRow, ShapeState
from penstock.liveness.verify import Wait
from penstock.liveness.watch import Action, ProgressWatch, WatchLimits, _Suspicion
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.messages import Change, Fragment, Frontier, Omitted, StreamEvent
from penstock.service.sweep import DebtSweep
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from stream_builder import RecordedFacts, definition

TABLE_A: Final = 10
TABLE_B: Final = 20
FLOOR: Final = 50
"""Where every history begins."""

LIMITS: Final = ConsumerLimits(settle_retry_s=0.0, idle_s=0.0)
WATCH: Final = WatchLimits(grace_s=3.0, verify_s=1.0, wait_s_max=2.0, period_s=1.0, suspects_max=8)
PAUSE_S: Final = 1000.0

_STATES: Final = list(ConsumerState)
_DEFINITIONS: Final = {table: definition(table) for table in (TABLE_A, TABLE_B)}
_FACTS: Final = RecordedFacts(roots={TABLE_A: TABLE_A, TABLE_B: TABLE_B})


class Harm(Exception):  # noqa: N818 - a finding of the search, not an error of it
    """
    Something that must not be, with the invariant it breaks.
    """


@dataclass(frozen=True)
class Parts:
    """
    The code under test: production's, or with one guard removed.
    """

    tracker: type[FlushTracker] = FlushTracker
    collector: type[ShapeLogCollector] = ShapeLogCollector
    registry: type[ConsumerRegistry] = ConsumerRegistry
    settler: type[Settler] = Settler
    watch: type[ProgressWatch] = ProgressWatch
    sweep: type[DebtSweep] = DebtSweep
    numbers_return: bool = False
    """Whether a new life of a shape takes the number of the one before."""
    restarts_at_seen: bool = False
    """Whether a restart begins where the stream was, and not at the recorded boundary."""
    sweep_needs_traffic: bool = False
    records_seen: bool = False
    """Whether what is recorded is the place in the stream, and not the boundary."""
    live_without_owing: bool = False


class Budget(NamedTuple):
    """
    How often each thing may still happen.
    """

    restarts: int = 0
    raises: int = 0
    lost_reports: int = 0
    falls: int = 0
    rests: int = 0
    condemns: int = 0
    creates: int = 0
    pauses: int = 0


@dataclass(frozen=True)
class Scenario:
    """
    A script of events and what may happen around them.
    """

    events: tuple[StreamEvent, ...]
    budget: Budget
    is_timed: bool = False
    starts_with: tuple[int, ...] = (TABLE_A, TABLE_B)
    condemnable: tuple[int, ...] = (1,)
    watch: WatchLimits = WATCH
    creates_at_once: bool = False
    """Whether a shape may be made anew before the one before it is buried."""
    is_healthy: bool = False
    """Whether disks and consumers get on by themselves: then nobody may be suspected."""


class Row(NamedTuple):
    """
    An incarnation in the control store. `number` is what production calls its incarnation; `life` never returns.
    """

    life: int
    number: int
    table: int
    seen: int
    """The snapshot holds the commits up to here."""
    state: str
    """`creating`, `live` or `gone`: tombstoned."""


class File(NamedTuple):
    """
    The synced files of an incarnation.
    """

    mask: int = 0
    commit: int = -1
    end: int = 0


class World(NamedTuple):
    """
    Everything.
    """

    engine: tuple[Any, ...]
    position: int
    recorded: int
    rows: tuple[Row, ...]
    files: tuple[File, ...]
    budget: Budget
    boundary: int
    stuck_ticks: int = 0
    had_traffic: bool = True


class _Outcome(NamedTuple):
    """
    What a step makes of an engine and the disks, or the harm it does.
    """

    engine: tuple[Any, ...] = ()
    rows: tuple[Row, ...] = ()
    files: tuple[File, ...] = ()
    boundary: int = 0
    harm: str = ""


class _InFlight(NamedTuple):
    """
    A call of the store under way for one life of a shape: what will be reported, what is written.
    """

    life: int
    number: int
    mark: tuple[int, int]
    mask: int
    commit: int
    end: int
    is_synced: bool


class Script:
    """
    The events with the bits of their elements.
    """

    def __init__(self, events: Sequence[StreamEvent]) -> None:
        """
        Number the elements.
        """
        self.events: Final = tuple(events)
        self.bits: Final[dict[tuple[int, int, int], int]] = {}
        self.handled: Final[list[dict[int, int]]] = [{TABLE_A: 0, TABLE_B: 0}]
        self.of_commit: Final[dict[int, dict[int, int]]] = {}
        self.ends: Final[dict[int, int]] = {}
        self.changes: Final[dict[tuple[int, int], Change]] = {}
        for event in events:
            here = dict(self.handled[-1])
            for commit, table, place in _elements(event):
                bit = 1 << len(self.bits)
                self.bits[commit, table, place] = bit
                here[table] |= bit
                of = self.of_commit.setdefault(commit, {TABLE_A: 0, TABLE_B: 0})
                of[table] |= bit
            self.handled.append(here)
            if isinstance(event, Fragment):
                for change in event.changes:
                    self.changes[event.commit_lsn.value, change.op_position] = change
            if isinstance(event, Fragment | Omitted) and event.end is not None:
                self.ends[event.commit_lsn.value] = event.end.value
        self.last_end: Final = max(self.ends.values())
        self._ended_by: Final[dict[int, int]] = {}
        self._concerning: Final[dict[tuple[int, int], int]] = {}

    def ended_by(self, position: int) -> int:
        """
        Give the elements of commits that end at or below a position.
        """
        found = self._ended_by.get(position)
        if found is None:
            found = sum(bit for (commit, _, _), bit in self.bits.items() if self.ends[commit] <= position)
            self._ended_by[position] = found
        return found

    def concerning(self, table: int, seen: int) -> int:
        """
        Give the elements of a table behind a snapshot that holds the commits up to `seen`.
        """
        found = self._concerning.get((table, seen))
        if found is None:
            found = sum(bit for (commit, on, _), bit in self.bits.items() if on == table and commit > seen)
            self._concerning[table, seen] = found
        return found

    def first_of(self, mask: int) -> int:
        """
        Name the first commit of some elements.
        """
        return min(commit for (commit, _, _), bit in self.bits.items() if mask & bit)

    def first_after(self, end: int) -> int:
        """
        Tell at which event replay begins.
        """
        for place, event in enumerate(self.events):
            if isinstance(event, Frontier):
                if event.end.value > end:
                    return place
            elif self.ends[cast("Fragment", event).commit_lsn.value] > end:
                return place
        return len(self.events)


def _elements(event: StreamEvent) -> Iterator[tuple[int, int, int]]:
    if isinstance(event, Fragment):
        for change in event.changes:
            yield event.commit_lsn.value, change.relation.id.oid, change.op_position
    if isinstance(event, Omitted):
        for oid in event.relation_oids:
            yield event.commit_lsn.value, oid, -1


# --- what stands in for disks and threads ----------------------------------------------------------------------------


class ModelLog:
    """
    A shape log as masks: the tail is the engine's, the files are the disk's.
    """

    def __init__(self, engine: Engine, life: int, number: int) -> None:
        """
        Begin with an empty tail.
        """
        self.incarnation: Final = number
        self.handle: Final = f"h{number}"
        self.life: Final = life
        self.is_compacting: Final = False
        self._engine: Final = engine
        self.tail = 0
        self.part = 0
        self.commit_mark = -1
        self.end_mark = 0

    @property
    def last(self) -> LogOffset:
        """See `ShapeLog`."""
        return SNAPSHOT_END

    @property
    def settled(self) -> tuple[CommitLsn, EndLsn] | None:
        """See `ShapeLog`."""
        file = self._engine.files[self.life]
        return None if file.commit < 0 else (CommitLsn(file.commit), EndLsn(file.end))

    @property
    def settled_offset(self) -> LogOffset:
        """See `ShapeLog`."""
        return SNAPSHOT_END

    @property
    def file_bytes(self) -> int:
        """See `ShapeLog`."""
        return 0

    @property
    def tail_bytes(self) -> int:
        """See `ShapeLog`."""
        return self.tail.bit_count()

    def append(self, tx: int, elements: Sequence[tuple[int, bytes]]) -> int:
        """See `ShapeLog`."""
        table = self._engine.row_of_life(self.life).table
        for place, _ in elements:
            bit = self._engine.script.bits[tx, table, place]
            if (self.tail | self.part | self._engine.files[self.life].mask) & bit:
                raise Harm(f"decision 9: an element of commit {tx} stands twice in the log of {self.life}")
            self.part |= bit
        return sum(len(element) for _, element in elements)

    def commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """See `ShapeLog`."""
        self.tail |= self.part
        self.part = 0
        self.commit_mark, self.end_mark = commit_lsn.value, end.value

    def append_whole(
        self, transactions: Sequence[tuple[int, Sequence[tuple[int, bytes]]]], commit_lsn: CommitLsn, end: EndLsn
    ) -> None:
        """See `ShapeLog`."""
        for tx, elements in transactions:
            self.append(tx, elements)
        self.commit(commit_lsn, end)

    def abandon_part(self) -> None:
        """See `ShapeLog`."""
        self.part = 0


class ModelHandler:
    """
    Converts nothing: an element for each change, unless the snapshot holds it or the consumer is told to fail.
    """

    def __init__(self, engine: Engine, bounds: SnapshotBounds) -> None:
        """
        Begin behind these bounds.
        """
        self._engine: Final = engine
        self._bounds: Final = bounds

    def handle(self, part: RoutedPart, shared: object) -> Sequence[tuple[int, bytes]]:
        """See `ShapeHandler`."""
        del shared
        if part.changes and part.changes[0].relation.id.oid == self._engine.failing:
            raise RuntimeError("this consumer fails")
        if not is_kept(self._bounds, part.commit_lsn, part.xid):
            return ()
        return [(change.op_position, b"") for change in part.changes]

    def spoil(self, at: CommitLsn, xid: int | None, reason: str) -> object:
        """See `ShapeHandler`."""
        from penstock.consumers.projection import Rotate  # noqa: PLC0415 - one use

        return None if not is_kept(self._bounds, at, xid or 0) else Rotate(reason)

    def abandon(self) -> None:
        """See `ShapeHandler`."""


class _Task:
    """
    Stands for a task that somebody else runs; here it is a step of the search.
    """

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class _Group:
    """
    Takes note of tasks and runs none.
    """

    @staticmethod
    def create_task(call: Coroutine[Any, Any, None], name: str) -> _Task:
        del name
        call.close()
        return _Task()


class _Store:
    """
    The control store at the end of the saga, and nothing of the files' store.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine

    async def tombstone(self, incarnations: Sequence[int], reason: str, at: EndLsn) -> None:
        del reason, at
        for number in incarnations:
            self._engine.tombstone(number)


class _Delivery:
    """
    Between collector and registry: whatever is delivered must be owed already (S3).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        engine = self._engine
        for number, delivery in parts.items():
            for part in delivery:
                engine.expect_owed(number, part.commit_lsn.value, part.end)
        engine.registry.publish(parts)

    def relation_seen(self, description: object, table_oids: Sequence[int]) -> None:
        """Nothing to do."""

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        self._engine.registry.relation_spoiled(table_oids, at, reason, xid)


class _Feed:
    """
    The relay log for the catch-up reader: events from a place up to another, one at a time.
    """

    def __init__(self, events: Sequence[StreamEvent]) -> None:
        self._events: Final = deque(events)

    def has_more(self, up_to_exclusive: object) -> bool:
        del up_to_exclusive
        return bool(self._events)

    def read(self, up_to_exclusive: object, bytes_max: int) -> list[StreamEvent]:
        del up_to_exclusive, bytes_max
        return [self._events.popleft()]


def drive(call: Awaitable[Any]) -> None:
    """
    Run a coroutine that waits for nothing but its turn.
    """
    steps = call.__await__()
    for _ in steps:
        pass


# --- the engine ------------------------------------------------------------------------------------------------------


class Engine:
    """
    The real parts, joined as in production.
    """

    def __init__(self, parts: Parts, script: Script, limits: WatchLimits) -> None:
        """
        Build them as after the very first start.
        """
        self.parts: Final = parts
        self.script: Final = script
        self.limits: Final = limits
        self.rows: list[Row] = []
        self.files: list[File] = []
        self.now = 0.0
        self.failing = 0
        self.slices = 0
        self.in_flight: list[_InFlight] = []
        self.tracker = parts.tracker(EndLsn(FLOOR))
        self.collector = parts.collector(
            boundary=EndLsn(FLOOR), facts=_FACTS, delivery=cast("Any", _Delivery(self)), tracker=self.tracker
        )
        clock = self._clock
        self.accounts = CollectorAccounts(self.collector, self.tracker, RoutedXids(), clock)
        stage = ConsumersStage.__new__(ConsumersStage)
        self.settler = parts.settler(
            store=cast("Any", None),
            accounts=self.accounts,
            limits=LIMITS,
            age_s=0.0,
            clock=clock,
            on_settled=stage._settled,
        )
        self.registry = parts.registry(
            store=cast("Any", None),
            control=cast("Any", _Store(self)),
            accounts=self.accounts,
            events=stage,
            limits=LIMITS,
            clock=clock,
            make_handler=cast("Any", lambda _, bounds: ModelHandler(self, bounds)),
        )
        self.registry._burial._group = self.registry._opening._group = cast("Any", _Group)
        self.settler.attach(self.registry)
        self.catch_up = CatchUp(
            registry=self.registry,
            accounts=self.accounts,
            facts=_FACTS,
            published=lambda: None,
            open_source=cast("Any", None),
            limits=LIMITS,
            clock=clock,
        )
        fields: dict[str, Any] = {
            "settler": self.settler,
            "registry": self.registry,
            "catch_up": self.catch_up,
            "catalog": SimpleNamespace(gone=lambda _: None, suspect=lambda _: None),
            "_sheds": SimpleNamespace(shed=lambda *_: None),
        }
        for name, value in fields.items():
            setattr(stage, name, value)
        self.sweep = parts.sweep(
            limits=limits,
            tracker=self.tracker,
            collector=self.collector,
            accounts=self.accounts,
            consumers=stage,
            facts=cast("Any", SimpleNamespace(asking_count=0)),
            slices=lambda: self.slices,
            is_paused=lambda: False,
            clock=clock,
            on_look=lambda _: None,
        )

    def _clock(self) -> float:
        return self.now

    def row_of_life(self, life: int) -> Row:
        """
        Find the row of a life.
        """
        return self.rows[life]

    def row_of(self, number: int) -> Row | None:
        """
        Find the row that an incarnation's number names now.
        """
        return next((row for row in reversed(self.rows) if row.number == number), None)

    def set_row(self, life: int, state: str) -> None:
        """
        Change the state of a row.
        """
        self.rows[life] = self.rows[life]._replace(state=state)

    def expect_owed(self, number: int, commit: int, end: EndLsn | None) -> None:
        """
        S3: what is delivered to a shape that owes is owed already, or known to be flushed.
        """
        ahead = self.tracker._owing.get(number)
        if ahead is None:
            if number not in self.tracker._added:
                raise Harm(f"S3: commit {commit} is delivered to {number}, which does not owe")
            return
        debt = self.tracker.debt_of(number)
        if debt is not None and debt.last_commit.value >= commit:
            return
        row = self.row_of(number)
        assert row is not None
        # What files hold that a restart found may be paid before it is seen whole.
        is_held = self.script.of_commit[commit][row.table] & ~self.files[row.life].mask == 0
        if not is_held and (end is None or ahead < end.value):
            raise Harm(f"S3: commit {commit} is delivered to {number} before it is owed")

    def tombstone(self, number: int) -> None:
        """
        The control store has synced a tombstone.
        """
        row = self.row_of(number)
        assert row is not None
        if row.state == "live" and not self.tracker.is_owing(number):
            raise Harm(f"S2: the debts of {number} are void before its tombstone is synced")
        self.set_row(row.life, "gone")

    # --- taking apart and joining ------------------------------------------------------------------------------------

    def freeze(self) -> tuple[Any, ...]:
        """
        Take the engine apart, with times relative to now.
        """
        tracker, collector, now = self.tracker, self.collector, self.now
        opened = collector._open
        watch = self.sweep.watch
        time = now - watch.late_s
        slices = self.catch_up.slices_count
        settler = self.settler
        return (
            (
                tracker._boundary.value,
                tracker._seen_end.value,
                tracker._seen_commit.value,
                tracker._open,
                tuple(sorted((number, _freeze_entry(entry, now)) for number, entry in tracker._added.items())),
                tuple(sorted(tracker._owing.items())),
                tuple(sorted((number, _freeze_entry(entry, now)) for number, entry in tracker._entries.items())),
                tuple(sorted(tracker._unrouted)),
            ),
            (
                None
                if opened is None
                else (
                    opened.commit_lsn.value,
                    opened.xid,
                    opened.position,
                    opened.is_read_again,
                    tuple(sorted(opened.concerned)),
                    tuple(sorted(opened.excluded)),
                    tuple(sorted(opened.tables)),
                ),
                collector._last_commit,
                collector.last_seen_commit.value,
                collector.last_seen_end.value,
                collector.last_seen_lsn,
                tuple(sorted(collector._index._table_of)),
            ),
            tuple(sorted(_freeze_shape(entry) for entry in self.registry)),
            tuple(sorted(row.incarnation for row in self.registry._burial._rows)),
            (tuple(settler._plan._since), tuple(sorted(settler._plan._in_flight))),
            tuple(sorted(self.in_flight)),
            tuple(
                sorted(
                    (
                        number,
                        doubt.progress_at - now,
                        None if doubt.wait is None else (doubt.wait.kind, max(doubt.wait.progress - slices, -1)),
                        doubt.moved_at - time,
                        doubt.looked_at - time,
                        doubt.granted_s,
                        None if doubt.deadline is None else doubt.deadline - time,
                        None if doubt.burial_due is None else doubt.burial_due - time,
                    )
                    for number, doubt in watch._suspicions.items()
                )
            ),
        )

    def clear(self, rows: Sequence[Row], files: Sequence[File], boundary: int) -> None:
        """
        Forget everything, as a start at this boundary does; cheaper than another object.
        """
        self.rows, self.files = list(rows), list(files)
        self.now, self.failing, self.slices, self.in_flight = 0.0, 0, 0, []
        tracker, registry, settler, sweep = self.tracker, self.registry, self.settler, self.sweep
        tracker._reset(EndLsn(boundary))
        self.collector._index = FilterIndex()
        self.collector._collected = {}
        self.collector._reset(EndLsn(boundary))
        registry._entries.clear()
        registry._burial._condemned, registry._burial._rows = [], []
        settler._plan = SettlePlan(shape_bytes=LIMITS.settle_shape_bytes, age_s=0.0)  # type: ignore[misc]
        settler._calls.clear()
        settler._refused.clear()
        sweep.watch = self.parts.watch(self.limits, 0.0)  # type: ignore[misc]
        sweep.decisions = []
        self.catch_up.slices_count = 0

    def thaw(self, world: World) -> None:
        """
        Join the engine of a world.
        """
        tracked, collected, shapes, to_bury, planned, in_flight, doubts = world.engine
        self.clear(world.rows, world.files, world.recorded)
        engine = self
        tracker, collector, registry = engine.tracker, engine.collector, engine.registry
        tracker._boundary, tracker._seen_end = EndLsn(tracked[0]), EndLsn(tracked[1])
        tracker._seen_commit, tracker._open = CommitLsn(tracked[2]), tracked[3]
        tracker._added = {number: _thaw_entry(number, frozen) for number, frozen in tracked[4]}
        tracker._owing = dict(tracked[5])
        tracker._unrouted = set(tracked[7])
        for number, frozen in tracked[6]:
            tracker._enter(_thaw_entry(number, frozen))
        if collected[0] is not None:
            commit, xid, position, is_read_again, concerned, excluded, tables = collected[0]
            opened = collector._open = _OpenTransaction(CommitLsn(commit), xid)
            opened.position, opened.is_read_again = position, is_read_again
            opened.concerned, opened.excluded, opened.tables = dict.fromkeys(concerned), set(excluded), set(tables)
        collector._last_commit = collected[1]
        collector.last_seen_commit, collector.last_seen_end = CommitLsn(collected[2]), EndLsn(collected[3])
        collector.last_seen_lsn = collected[4]
        collector._index = FilterIndex()
        for number in collected[5]:
            row = engine.row_of(number)
            assert row is not None
            collector._index.add(number, _DEFINITIONS[row.table])
        for frozen in shapes:
            _thaw_shape(engine, frozen)
        registry._burial._rows = [
            engine.shape_row(row) for number in to_bury if (row := engine.row_of(number)) is not None
        ]
        plan = engine.settler._plan
        plan._since = dict.fromkeys(planned[0], 0.0)
        plan._in_flight = set(planned[1])
        engine.in_flight = list(in_flight)
        engine.settler._calls.update((cast("Any", _Task()), [flight.number]) for flight in engine.in_flight)
        watch = engine.sweep.watch
        for number, progress_at, wait, moved_at, looked_at, granted_s, deadline, burial_due in doubts:
            doubt = watch._suspicions[number] = _Suspicion.__new__(_Suspicion)
            doubt.progress_at = progress_at
            doubt.wait = None if wait is None else Wait(*wait)
            doubt.moved_at, doubt.looked_at, doubt.granted_s = moved_at, looked_at, granted_s
            doubt.deadline, doubt.burial_due = deadline, burial_due

    def shape_row(self, row: Row) -> ShapeRow:
        """
        Give a row as the control store would.
        """
        state = ShapeState.LIVE if row.state == "live" else ShapeState.CREATING
        return ShapeRow(
            row.number, f"h{row.number}", _DEFINITIONS[row.table], state, 1000, bounds_of(row.seen), SNAPSHOT_END
        )

    # --- what happens ------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """
        Begin to settle the next shape that is due, as `Settler._settle` does up to the call of the store.
        """
        settler, registry = self.settler, self.registry
        due = settler._plan.take_due(self.now, 1)
        for number in due:
            entry = registry.entry(number)
            consumer = None if entry is None or entry.condemned is not None else entry.consumer
            if entry is None or consumer is None or consumer.log is None or not consumer.is_begun:
                settler._plan.forget(number)
                continue
            log = cast("ModelLog", consumer.log)
            commit, end = settler._mark(entry)
            self.in_flight.append(
                _InFlight(
                    log.life,
                    number,
                    (commit.value, end.value),
                    log.tail,
                    log.commit_mark,
                    log.end_mark,
                    is_synced=False,
                )
            )
        return bool(due)

    def sync(self, flight: _InFlight) -> None:
        """
        The store has synced what was there when it was called.
        """
        file = self.files[flight.life]
        self.files[flight.life] = File(
            file.mask | flight.mask, max(file.commit, flight.commit), max(file.end, flight.end)
        )
        entry = self.registry.entry(flight.number)
        if entry is not None and entry.consumer is not None and entry.consumer.log is not None:
            log = cast("ModelLog", entry.consumer.log)
            if log.life == flight.life:
                log.tail &= ~flight.mask
        self.in_flight.remove(flight)
        self.in_flight.append(flight._replace(is_synced=True))

    def report(self, flight: _InFlight) -> None:
        """
        The settler hears of it.
        """
        self.in_flight.remove(flight)
        entry = self.registry.entry(flight.number)
        row = self.row_of(flight.number)
        if entry is None or row is None or row.life != flight.life:
            # The object that the settler was called with: given up meanwhile.
            entry = ShapeEntry(flight.number, "", _DEFINITIONS[self.rows[flight.life].table], 0, condemned="gone")
            entry.consumer = Consumer(flight.number, ConsumerState.LOADING, CommitLsn(0), EndLsn(0), LIMITS)
            entry.consumer.log = cast("Any", ModelLog(self, flight.life, flight.number))
        self.settler._settled(entry, (CommitLsn(flight.mark[0]), EndLsn(flight.mark[1])))

    def lose(self, flight: _InFlight) -> None:
        """
        The call is abandoned: nobody hears of what it did.
        """
        self.in_flight.remove(flight)
        self.settler._plan.postpone(flight.number, self.now, self.now)

    def hear_of_abandoned(self) -> None:
        """
        Let the settler take notice of the calls that it gave up.
        """
        for call, batch in list(self.settler._calls.items()):
            if call.cancelled():
                self.settler._called(call)
                for flight in [flight for flight in self.in_flight if flight.number in batch]:
                    self.in_flight.remove(flight)

    def open(self, entry: ShapeEntry) -> None:
        """
        The files of a shape are open.
        """
        row = self.row_of(entry.incarnation)
        assert row is not None
        entry.load = None
        self.registry._deliveries.begin(entry, cast("Any", ModelLog(self, row.life, row.number)))

    def feed(self, events: Sequence[StreamEvent]) -> None:
        """
        A round of the catch-up reader over these events, as `CatchUp._round` makes it.
        """
        catch_up = self.catch_up
        entries = [entry for entry in catch_up._hungry() if not catch_up._hand_back(entry)]
        if not entries:
            return
        for entry in entries:
            assert entry.consumer is not None
            entry.consumer.return_to_commit()
        start = min(catch_up._place(entry) for entry in entries)
        first = self.script.first_after(start.value)
        drive(
            catch_up._feed(cast("Any", _Feed(events[first:])), cast("Any", SimpleNamespace(place=None)), start, entries)
        )

    def bury(self) -> None:
        """
        The saga of giving shapes up, as far as the tombstones.
        """
        drive(self.registry._burial._bury_rows())
        drive(self.registry._burial._bury_entries())

    def create(self, table: int) -> None:
        """
        Begin a new life of a shape: its row is synced, then it is routed.
        """
        life = len(self.rows)
        number = life
        if self.parts.numbers_return:
            number = next((row.number for row in self.rows[1:] if row.table == table), life)
        self.rows.append(Row(life, number, table, -1, "creating"))
        self.files.append(File())
        self.registry.create(cast("Any", ModelLog(self, life, number)), _DEFINITIONS[table])

    def snapshot(self, entry: ShapeEntry, seen: int) -> None:
        """
        Its snapshot is written; it holds the commits up to `seen`.
        """
        row = self.row_of(entry.incarnation)
        assert row is not None
        self.rows[row.life] = row._replace(seen=seen)
        self.registry.begin(entry, bounds_of(seen))

    def settle_wholly(self, entry: ShapeEntry) -> None:
        """
        Settle and report, as `Snapshotter` does while it makes a shape live.
        """
        assert entry.consumer is not None
        log = cast("ModelLog", entry.consumer.log)
        mark = self.settler._mark(entry)
        flight = _InFlight(
            log.life, entry.incarnation, (0, 0), log.tail, log.commit_mark, log.end_mark, is_synced=False
        )
        self.in_flight.append(flight)
        self.sync(flight)
        self.in_flight.pop()
        self.settler._settled(entry, mark)


def bounds_of(seen: int) -> SnapshotBounds:
    """
    Give the bounds of a snapshot that holds the commits up to `seen`; transaction ids are commit LSNs.
    """
    found = _BOUNDS.get(seen)
    if found is None:
        found = _BOUNDS[seen] = _make_bounds(seen)
    return found


_BOUNDS: Final[dict[int, SnapshotBounds]] = {}


def _make_bounds(seen: int) -> SnapshotBounds:
    first_unseen = max(seen, 0) + 1
    return SnapshotBounds(Snapshot(first_unseen, first_unseen, frozenset()), InsertLsn(max(seen, 0) + 1))


def _freeze_entry(entry: Entry, now: float) -> tuple[Any, ...]:
    marks = tuple((mark.since - now, mark.first, mark.last, mark.end or 0) for mark in entry.marks)
    return entry.flushed, marks, entry.progress_at - now


def _thaw_entry(number: int, frozen: tuple[Any, ...]) -> Entry:
    flushed, marks, progress_at = frozen
    entry = Entry(number, flushed, progress_at)
    entry.marks = [Mark(since, first, last, end or None) for since, first, last, end in marks]
    return entry


def _freeze_shape(entry: ShapeEntry) -> tuple[Any, ...]:
    consumer = entry.consumer
    frozen: tuple[Any, ...] = ()
    if consumer is not None:
        log = cast("ModelLog | None", consumer.log)
        frozen = (
            _STATES.index(consumer.state),
            consumer.done.value,
            consumer.done_end.value,
            consumer.missed,
            consumer._floor,
            consumer._open,
            consumer.is_begun,
            () if log is None else (log.tail, log.part, log.commit_mark, log.end_mark),
            tuple(
                (item.at.value, item.xid, item.reason)
                if isinstance(item, _Spoil)
                else (
                    item.commit_lsn.value,
                    item.xid,
                    tuple(change.op_position for change in item.changes),
                    0 if item.end is None else item.end.value,
                )
                for item in consumer._buffer
            ),
        )
    return (
        entry.incarnation,
        entry.is_live,
        entry.done.value,
        entry.done_end.value,
        entry.condemned or "",
        entry.failed_at,
        entry.load is not None,
        entry.bounds is not None,
        frozen,
    )


def _thaw_shape(engine: Engine, frozen: tuple[Any, ...]) -> None:
    number, is_live, done, done_end, condemned, failed_at, is_loading, has_bounds, consumed = frozen
    row = engine.row_of(number)
    assert row is not None
    registry = engine.registry
    bounds = bounds_of(row.seen) if has_bounds else None
    entry = ShapeEntry(number, f"h{number}", _DEFINITIONS[row.table], 1000, bounds=bounds, is_live=is_live)
    entry.done, entry.done_end = CommitLsn(done), EndLsn(done_end)
    entry.condemned, entry.failed_at = condemned or None, failed_at
    entry.load = cast("Any", _Task()) if is_loading else None
    registry._entries.add(entry)
    if condemned:
        registry._burial._condemned.append(entry)
    if not consumed:
        return
    state, done, done_end, missed, floor, opened, is_begun, log, buffer = consumed
    consumer = Consumer(number, ConsumerState.LOADING, CommitLsn(done), EndLsn(done_end), LIMITS)
    consumer.state, consumer.missed, consumer._floor, consumer._open = _STATES[state], missed, floor, opened
    if log:
        model = ModelLog(engine, row.life, number)
        model.tail, model.part, model.commit_mark, model.end_mark = log
        consumer.log = cast("Any", model)
    if is_begun:
        consumer._handler = cast("Any", ModelHandler(engine, bounds_of(row.seen)))
    for item in buffer:
        if len(item) == 3:
            consumer._buffer.append(_Spoil(CommitLsn(item[0]), item[1], item[2]))
        else:
            commit, xid, places, end = item
            changes = [engine.script.changes[commit, place] for place in places]
            consumer._buffer.append(RoutedPart(CommitLsn(commit), xid, changes, EndLsn(end) if end else None))
    entry.consumer = consumer
    registry._entries.in_memory[number] = entry
    if consumer.state is ConsumerState.BEHIND and consumer.is_begun and not condemned:
        registry._entries.behind[number] = entry


# --- the search ------------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """
    What a search came to.

    Attributes:
        worlds: how many there are.
        steps: how many steps lead from one to another.
        harm: what is wrong; empty when nothing is.
        way: the shortest way to it.
        stuck_max: the longest the boundary stood still while somebody owed, in ticks.
        is_ended: whether a world was found in which everything is released.
    """

    worlds: int = 0
    steps: int = 0
    harm: str = ""
    way: list[str] = field(default_factory=list)
    stuck_max: int = 0
    is_ended: bool = False


Step = tuple[str, Callable[["Engine"], World | None]]


class Explorer:
    """
    Searches every history of a scenario.
    """

    def __init__(self, scenario: Scenario, parts: Parts | None = None) -> None:
        """
        Search this scenario with these parts.
        """
        self._scenario: Final = scenario
        self._parts: Final = parts or Parts()
        self._script: Final = Script(scenario.events)
        self._engine: Final = Engine(self._parts, self._script, scenario.watch)
        # What a step makes of an engine does not depend on what is released or still allowed, and is worked out once.
        self._known: Final[dict[tuple[Any, ...], _Outcome]] = {}
        limits = scenario.watch
        self.stuck_ticks_max: Final = round(limits.grace_s + limits.verify_s + limits.wait_s_max + 2 * limits.period_s)

    def start(self) -> World:
        """
        Give the world in which shapes are live and nothing has come yet.
        """
        rows = tuple(
            Row(life, life, table, -1, "live") for life, table in enumerate((0, *self._scenario.starts_with)) if table
        )
        # Life 0 is nobody's: incarnations count from 1.
        rows = (Row(0, 0, TABLE_A, -1, "gone"), *rows)
        files = tuple(File() for _ in rows)
        engine = self._engine
        engine.clear(rows, files, FLOOR)
        engine.registry.restore([engine.shape_row(row) for row in rows if row.state != "gone"], EndLsn(FLOOR))
        return World(engine.freeze(), 0, FLOOR, rows, files, self._scenario.budget, FLOOR)

    def search(self, worlds_max: int) -> Found:
        """
        Search breadth first until there is nothing new, harm is found, or too many worlds.
        """
        start = self.start()
        came_from: dict[World, tuple[World, str] | None] = {start: None}
        queue = deque([start])
        found = Found()
        while queue:
            world = queue.popleft()
            for name, after in self.steps_from(world):
                found.steps += 1
                if isinstance(after, str):
                    found.harm, found.way = after, [*_way_to(world, came_from), name]
                    found.worlds = len(came_from)
                    return found
                if after not in came_from:
                    came_from[after] = (world, name)
                    queue.append(after)
                    found.stuck_max = max(found.stuck_max, after.stuck_ticks)
                    found.is_ended = found.is_ended or after.recorded >= self._script.last_end
            assert len(came_from) <= worlds_max, "the scenario has grown too large to be searched"
        found.worlds = len(came_from)
        return found

    def steps_from(self, world: World) -> Iterator[tuple[str, World | str]]:
        """
        List everything that can happen next, with the world it leads to or the harm it does.
        """
        if self._scenario.is_timed:
            prompt = self._prompt_step(world)
            if prompt is not None:
                yield prompt
                return
        budget = world.budget
        script = self._script
        if world.boundary > world.recorded:
            yield "record the boundary", world._replace(recorded=world.boundary)
        shapes = world.engine[2]
        if any(shape[4] for shape in shapes) or world.engine[3]:
            yield self._step(world, "tombstones", Engine.bury)
        if world.position < len(script.events):
            yield self._step(world, f"read event {world.position + 1}", self._read(world, 0), is_reading=True)
            if budget.raises:
                for table in (TABLE_A, TABLE_B):
                    yield self._step(
                        world,
                        f"read event {world.position + 1}, {table} fails",
                        self._read(world, table),
                        is_reading=True,
                        budget=budget._replace(raises=budget.raises - 1),
                    )
        if world.engine[4][0] and self._is_due(world):
            yield self._step(world, "settle", _begin_settle)
        for flight in world.engine[5]:
            if not flight.is_synced:
                yield self._step(world, f"sync {flight.life}", _calling(Engine.sync, flight))
            else:
                yield self._step(world, f"report {flight.life}", _calling(Engine.report, flight))
                if budget.lost_reports:
                    fewer = budget._replace(lost_reports=budget.lost_reports - 1)
                    yield self._step(world, f"lose report {flight.life}", _calling(Engine.lose, flight), budget=fewer)
        is_behind = False
        for shape in shapes:
            number, condemned, consumed = shape[0], shape[4], shape[8]
            if condemned:
                continue
            row = next(row for row in reversed(world.rows) if row.number == number)
            if consumed:
                state, is_begun = _STATES[consumed[0]], consumed[6]
                if state is ConsumerState.LOADING:
                    yield self._step(world, f"open {number}", _on_entry(number, Engine.open))
                if state is ConsumerState.CREATING and not is_begun:
                    for commit in (0, *script.ends):
                        if commit >= consumed[1]:
                            yield self._step(
                                world,
                                f"snapshot of {number} holds {commit}",
                                _on_entry(number, Engine.snapshot, commit),
                            )
                if row.state == "creating" and is_begun and state is ConsumerState.LIVE:
                    yield self._step(world, f"{number} begins to owe", _on_entry(number, _begin_owing))
                is_behind = is_behind or (state is ConsumerState.BEHIND and is_begun)
                if state is ConsumerState.LIVE and not consumed[5] and is_begun and budget.falls:
                    fewer = budget._replace(falls=budget.falls - 1)
                    yield self._step(world, f"{number} falls behind", _on_entry(number, _fall_behind), budget=fewer)
            if budget.condemns and number in self._scenario.condemnable:
                fewer = budget._replace(condemns=budget.condemns - 1)
                yield self._step(world, f"condemn {number}", _on_entry(number, _condemn), budget=fewer)
        if is_behind:
            # Without ages it may be anywhere, also ahead of the main reader.
            first = len(script.events) if self._scenario.is_timed else 1
            for upto in range(first, len(script.events) + 1):
                events = script.events[:upto]
                yield self._step(world, f"catch up to event {upto}", _calling(Engine.feed, events))
        if budget.rests:
            fewer = budget._replace(rests=budget.rests - 1)
            yield self._step(world, "rest", _rest, budget=fewer)
        if budget.creates:
            fewer = budget._replace(creates=budget.creates - 1)
            leaving = {shape[0] for shape in shapes if shape[4]} if self._scenario.creates_at_once else set()
            present = {row.table for row in world.rows if row.state != "gone" and row.number not in leaving}
            for table in (TABLE_A, TABLE_B):
                if table not in present:
                    yield self._step(world, f"create a shape on {table}", _calling(Engine.create, table), budget=fewer)
        if budget.restarts:
            yield self._restart(world, budget._replace(restarts=budget.restarts - 1))
        if self._scenario.is_timed:
            yield self._tick(world, 1.0)
            if budget.pauses:
                yield self._tick(world._replace(budget=budget._replace(pauses=budget.pauses - 1)), PAUSE_S)

    def _prompt_step(self, world: World) -> tuple[str, World | str] | None:
        """
        Where time counts, do at once what the engine's own loop and the control store do: they are fair.
        """
        if world.boundary > world.recorded:
            return "record the boundary", world._replace(recorded=world.boundary)
        if any(shape[4] for shape in world.engine[2]) or world.engine[3]:
            return self._step(world, "tombstones", Engine.bury)
        for flight in world.engine[5]:
            if flight.is_synced and not world.budget.lost_reports:
                return self._step(world, f"report {flight.life}", _calling(Engine.report, flight))
        if world.engine[4][0] and self._is_due(world):
            return self._step(world, "settle", _begin_settle)
        if self._scenario.is_healthy:
            for flight in world.engine[5]:
                return self._step(world, f"sync {flight.life}", _calling(Engine.sync, flight))
            for shape in world.engine[2]:
                if shape[8] and _STATES[shape[8][0]] is ConsumerState.LOADING:
                    return self._step(world, f"open {shape[0]}", _on_entry(shape[0], Engine.open))
        return None

    @staticmethod
    def _is_due(world: World) -> bool:
        noted, in_flight = world.engine[4]
        return any(number not in in_flight for number in noted)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(
        self,
        world: World,
        name: str,
        act: Callable[[Engine], None],
        *,
        is_reading: bool = False,
        budget: Budget | None = None,
    ) -> tuple[str, World | str]:
        key = (name, world.engine, world.rows, world.files, world.position)
        outcome = self._known.get(key)
        if outcome is None:
            outcome = self._known[key] = self._try(lambda: self._run(world, act))
        position = world.position + 1 if is_reading else world.position
        return name, self._follow(
            world, outcome, position, budget or world.budget, had_traffic=is_reading or world.had_traffic
        )

    def _run(self, world: World, act: Callable[[Engine], None]) -> None:
        self._engine.thaw(world)
        act(self._engine)

    def _try(self, run: Callable[[], None]) -> _Outcome:
        """
        Let the engine do something, and take it apart.
        """
        try:
            run()
            engine = self._engine
            boundary = engine.tracker.last_global_flushed_offset
            if self._parts.records_seen:
                boundary = engine.tracker.last_seen_offset
            self._check(engine, boundary.value)
            return _Outcome(engine.freeze(), tuple(engine.rows), tuple(engine.files), boundary.value)
        except Harm as harm:
            return _Outcome(harm=str(harm))
        except AssertionError as error:
            return _Outcome(harm=f"an assertion: {error}")

    def _follow(
        self, world: World, outcome: _Outcome, position: int, budget: Budget, *, had_traffic: bool
    ) -> World | str:
        if outcome.harm:
            return outcome.harm
        boundary = outcome.boundary
        if boundary < world.boundary:
            return "the boundary moved back"
        for row, file in zip(outcome.rows, outcome.files, strict=True):
            if row.state == "live" and self._absent(row, file) & self._script.ended_by(world.recorded):
                return f"S1: a commit is released and {row.number} does not hold it"
        return World(
            outcome.engine,
            position,
            world.recorded,
            outcome.rows,
            outcome.files,
            budget,
            boundary,
            0 if boundary != world.boundary else world.stuck_ticks,
            had_traffic if self._parts.sweep_needs_traffic else True,
        )

    def _read(self, world: World, failing: int) -> Callable[[Engine], None]:
        def read(engine: Engine) -> None:
            engine.failing = failing
            engine.collector.handle([self._script.events[world.position]], engine.now)

        return read

    def _restart(self, world: World, budget: Budget) -> tuple[str, World | str]:
        boundary = world.engine[0][1] if self._parts.restarts_at_seen else world.recorded

        def restart() -> None:
            engine = self._engine
            engine.clear(world.rows, world.files, boundary)
            rows = [engine.shape_row(row) for row in world.rows if row.state != "gone"]
            engine.registry.restore(rows, EndLsn(boundary))

        outcome = self._try(restart)
        position = self._script.first_after(boundary)
        return "restart", self._follow(world._replace(boundary=0), outcome, position, budget, had_traffic=True)

    def _tick(self, world: World, seconds: float) -> tuple[str, World | str]:
        name = "tick" if seconds == 1.0 else "pause"
        is_looking = world.had_traffic or not self._parts.sweep_needs_traffic
        # Of a pause two periods count, whatever the clock says: that much lateness is no excuse.
        counted = seconds if seconds == 1.0 else 2 * self._scenario.watch.period_s
        key = (name, is_looking, world.engine, world.rows, world.files)
        outcome = self._known.get(key)
        if outcome is None:
            outcome = self._known[key] = self._try(
                lambda: self._look(world, seconds, seconds - counted, is_looking=is_looking)
            )
        after = self._follow(world, outcome, world.position, world.budget, had_traffic=False)
        if isinstance(after, str):
            return name, after
        is_owed = bool(after.engine[0][6])
        stuck = world.stuck_ticks + round(counted) if is_owed and after.boundary == world.boundary else 0
        if stuck > self.stuck_ticks_max:
            return name, f"L1: the boundary has stood still for {stuck} ticks"
        return name, after._replace(stuck_ticks=stuck)

    def _look(self, world: World, seconds: float, missed: float, *, is_looking: bool) -> None:
        engine = self._engine
        engine.thaw(world)
        engine.now = seconds
        before = {debt.incarnation: debt for debt in engine.tracker.oldest_debts(10)}
        if is_looking:
            engine.sweep.look()
            engine.hear_of_abandoned()
        for decision in engine.sweep.decisions:
            if self._scenario.is_healthy:
                raise Harm(f"I17: {decision.debt.incarnation} is suspected though it is well: {decision.reason}")
            if decision.action is Action.CONDEMN:
                self._check_verdict(engine, before[decision.debt.incarnation], seconds - missed)
        # What was missed is taken off every date, as the watch does in its own books.
        for entry in (*engine.tracker._entries.values(), *engine.tracker._added.values()):
            for mark in entry.marks:
                mark.since += missed if mark.since <= 0 else 0
            entry.progress_at += missed if entry.progress_at <= 0 else 0
        for doubt in engine.sweep.watch._suspicions.values():
            doubt.progress_at += missed if doubt.progress_at <= 0 else 0

    def _check_verdict(self, engine: Engine, debt: Any, now: float) -> None:
        """
        L4: who is given up had its time, and its files do not hold what it owes.
        """
        owed_s = now - max(debt.since, debt.progress_at)
        if owed_s < engine.limits.grace_s + engine.limits.verify_s:
            raise Harm(f"L4: {debt.incarnation} is given up after {owed_s} s")
        row = engine.row_of(debt.incarnation)
        assert row is not None
        if not self._absent(row, engine.files[row.life]) & self._handled(engine):
            raise Harm(f"L4: {debt.incarnation} is given up although its files hold everything")

    def _handled(self, engine: Engine) -> int:
        opened = engine.collector._open
        last = max(engine.collector._last_commit, 0 if opened is None else opened.commit_lsn.value)
        place = opened.position if opened is not None else None
        found = 0
        for (commit, _, position), bit in self._script.bits.items():
            if commit < last or (commit == last and (place is None or position <= place)):
                found |= bit
        return found

    # --- what must hold ----------------------------------------------------------------------------------------------

    def _absent(self, row: Row, file: File) -> int:
        """
        Give the elements of a shape, of all the script, that its files do not hold.
        """
        return self._script.concerning(row.table, row.seen) & ~file.mask

    def _check(self, engine: Engine, boundary: int) -> None:
        script, tracker, registry = self._script, engine.tracker, engine.registry
        handled = self._handled(engine)
        below = script.ended_by(boundary)
        for row in engine.rows:
            if row.state != "live":
                continue
            absent = self._absent(row, engine.files[row.life])
            if absent & below:
                raise Harm(f"S1: the boundary passes a commit that {row.number} does not hold")
            missing = absent & handled
            entry = registry.entry(row.number)
            if entry is None:
                raise Harm(f"S8: {row.number} lives and nobody knows it")
            debt = tracker.debt_of(row.number)
            if missing:
                first = script.first_of(missing)
                # A hold on whatever comes covers all that comes.
                if debt is None or (debt.first_commit.value > first and debt.flushed.value >= script.ends[first]):
                    raise Harm(f"S2, S8: {row.number} does not hold commit {first} and does not owe it")
            if entry.condemned is None:
                if missing:
                    self._check_content(row, entry, missing)
                elif debt is not None and self._is_quiet(engine, entry):
                    raise Harm(f"S4: {row.number} holds everything and owes on")

    def _check_content(self, row: Row, entry: ShapeEntry, missing: int) -> None:
        """
        S8: what is not in the files is in memory, or known to be missing.
        """
        consumer = entry.consumer
        waiting: set[int] = set()
        missed = 0
        if consumer is not None:
            log = cast("ModelLog | None", consumer.log)
            if log is not None:
                missing &= ~(log.tail | log.part)
            missed = consumer.missed
            if missing:
                waiting = {
                    item.at.value if isinstance(item, _Spoil) else item.commit_lsn.value for item in consumer._buffer
                }
        if not missing:
            return
        for (commit, _, _), bit in self._script.bits.items():
            if missing & bit and commit not in waiting and commit > missed:
                raise Harm(f"S8: commit {commit} was delivered to {row.number} and is nowhere")

    @staticmethod
    def _is_quiet(engine: Engine, entry: ShapeEntry) -> bool:
        consumer = entry.consumer
        if engine.collector.is_half_way or engine.settler.is_busy(entry) or engine.tracker._open is not None:
            return False
        if any(flight.number == entry.incarnation for flight in engine.in_flight):
            return False
        return consumer is None or consumer.state is ConsumerState.LIVE


def _calling(act: Callable[..., None], *args: Any) -> Callable[[Engine], None]:
    return lambda engine: act(engine, *args)


def _on_entry(number: int, act: Callable[..., None], *args: Any) -> Callable[[Engine], None]:
    def step(engine: Engine) -> None:
        entry = engine.registry.entry(number)
        assert entry is not None
        act(engine, entry, *args)

    return step


def _begin_settle(engine: Engine) -> None:
    engine.settle()


def _condemn(engine: Engine, entry: ShapeEntry) -> None:
    engine.registry.condemn([entry], "judged", is_fault=True)


def _fall_behind(engine: Engine, entry: ShapeEntry) -> None:
    assert entry.consumer is not None
    entry.consumer.fall_behind()
    engine.registry.fell_behind(entry)


def _rest(engine: Engine) -> None:
    engine.registry.release_idle(engine.settler.is_busy)


def _begin_owing(engine: Engine, entry: ShapeEntry) -> None:
    """
    The end of `Snapshotter.make_live`: owe, settle, record the row.
    """
    if not engine.parts.live_without_owing:
        engine.accounts.start_owing(entry.incarnation)
    engine.settle_wholly(entry)
    row = engine.row_of(entry.incarnation)
    assert row is not None
    engine.set_row(row.life, "live")
    entry.is_live = True


def _way_to(world: World, came_from: Mapping[World, tuple[World, str] | None]) -> list[str]:
    names: list[str] = []
    step = came_from[world]
    while step is not None:
        world, name = step
        names.append(name)
        step = came_from[world]
    return names[::-1]
