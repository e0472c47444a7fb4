"""
A database in miniature with a stream, and an engine of real parts around it that can lose its memory.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.consumers.abc import OpenSnapshot
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.stage import ConsumerPorts, ConsumersStage
from penstock.control.records import Recovered, ShapeRow, ShapeState
from penstock.errors import ConnectionLostError, CorruptLogError
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import Column, RelationDescription, StreamColumn, Table, TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.relay.abc import FramesRecord, PublishedEnd, RelayPlace, RelayRecord, SessionRecord
from penstock.replication.encode import (
    encode_begin,
    encode_commit,
    encode_delete,
    encode_insert,
    encode_relation,
    encode_truncate,
    encode_update,
)
from penstock.replication.frames import XLogData, build_xlog_data, frame
from penstock.replication.messages import Change, Fragment, Operation, Row, StreamEvent
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset
from penstock.shapes.reading import Health, ShapeRequest
from penstock.where.facts import NO_FACTS, DatabaseFacts
from penstock.wire.messages import json_value, row_key
from shape_log_disk import FakeDisk

ITEMS: Final = Table(
    TableId(100, "public", "items"),
    (
        Column("id", 23, -1, "int4", is_not_null=True, pk_index=0),
        Column("title", 25, -1, "text"),
        Column("n", 23, -1, "int4"),
        Column("body", 25, -1, "text"),
    ),
    100,
    "f",
)
DESCRIPTION: Final = RelationDescription(
    ITEMS.id,
    "f",
    tuple(StreamColumn(column.name, column.type_oid, column.typmod, is_key=True) for column in ITEMS.columns),
)

SMALL: Final = ConsumerLimits(
    settle_retry_s=0.005,
    retry_s=0.002,
    early_retry_s=0.001,
    ready_wait_s=0.2,
    first_data_s=5.0,
    idle_s=0.02,
    chunk_bytes_max=700,
)


def row(number: int, title: bytes | None = b"a", n: int = 0, body: bytes | None = None) -> Row:
    """
    Make a row of `items`.
    """
    return (b"%d" % number, title, b"%d" % n, body)


@dataclass
class Transaction:
    """
    A committed transaction.
    """

    commit_lsn: CommitLsn
    end: EndLsn
    xid: int
    changes: list[Change]

    def fragments(self, sizes: Random | None = None) -> list[StreamEvent]:
        """
        Give it as the stream does, whole or cut at random.
        """
        cuts = [0, len(self.changes)]
        if sizes is not None and len(self.changes) > 1:
            cuts = sorted({*cuts, *(sizes.randrange(len(self.changes)) for _ in range(2))})
        found: list[StreamEvent] = []
        for start, past in pairwise(cuts):
            # Changes are made anew: what was encoded of them is not remembered across deliveries.
            changes = [copy(change) for change in self.changes[start:past]]
            end = self.end if past == len(self.changes) else None
            found.append(Fragment(self.commit_lsn, self.xid, changes, start == 0, end))
        return found

    def frames(self) -> bytes:
        """
        Give it as the relay log keeps it.
        """
        messages = [encode_begin(self.commit_lsn, 0, self.xid)]
        for change in self.changes:
            oid = change.relation.id.oid
            match change.operation:
                case Operation.INSERT:
                    assert change.new is not None
                    messages.append(encode_insert(oid, change.new))
                case Operation.UPDATE:
                    assert change.new is not None
                    messages.append(encode_update(oid, change.new, old=change.old))
                case Operation.DELETE:
                    messages.append(encode_delete(oid, old=change.old))
                case Operation.TRUNCATE:
                    messages.append(encode_truncate([oid]))
        messages.append(encode_commit(self.commit_lsn, self.end, 0))
        return b"".join(frame(build_xlog_data(XLogData(0, 0, 0, message))) for message in messages)


Op = tuple[str, Row | None, Row | None]


class Database:
    """
    Rows of one table, its WAL, and commits that are decoded before they are seen.
    """

    def __init__(self) -> None:
        """
        Begin empty.
        """
        self.rows: dict[bytes, Row] = {}
        self.wal: list[Transaction] = []
        self.hidden: list[Transaction] = []
        self._lsn = 1000
        self._xid = 700

    @property
    def end(self) -> EndLsn:
        """
        The end of the WAL.
        """
        return EndLsn(self._lsn)

    def locked(self) -> set[bytes]:
        """
        Rows that a hidden transaction still holds.
        """
        rows = [row for hidden in self.hidden for change in hidden.changes for row in (change.old, change.new)]
        return {row[0] for row in rows if row is not None and row[0] is not None}

    def commit(
        self, ops: list[Op], *, is_hidden: bool = False, relation: RelationDescription = DESCRIPTION
    ) -> Transaction:
        """
        Commit operations, each a kind with old and new row.
        """
        self._lsn += 40
        self._xid += 1
        commit = CommitLsn(self._lsn)
        self._lsn += 24
        changes = [Change(Operation(kind), relation, 2 * place, old, new) for place, (kind, old, new) in enumerate(ops)]
        transaction = Transaction(commit, EndLsn(self._lsn), self._xid, changes)
        self.wal.append(transaction)
        apply(self.rows, transaction)
        if is_hidden:
            self.hidden.append(transaction)
        return transaction

    def reveal(self) -> None:
        """
        Let new snapshots see everything.
        """
        self.hidden = []

    def snapshot(self) -> tuple[SnapshotBounds, dict[bytes, Row]]:
        """
        Take a snapshot.
        """
        hidden = {transaction.xid for transaction in self.hidden}
        seen = [transaction for transaction in self.wal if transaction.xid not in hidden]
        xmax = max((transaction.xid for transaction in seen), default=700) + 1
        running = frozenset(xid for xid in hidden if xid < xmax)
        rows: dict[bytes, Row] = {}
        for transaction in seen:
            apply(rows, transaction)
        return SnapshotBounds(Snapshot(min(running, default=xmax), xmax, running), InsertLsn(self._lsn)), rows


def apply(rows: dict[bytes, Row], transaction: Transaction) -> None:
    """
    Do what a transaction did.
    """
    for change in transaction.changes:
        if change.operation is Operation.TRUNCATE:
            rows.clear()
        if change.old is not None:
            assert change.old[0] is not None
            rows.pop(change.old[0], None)
        if change.new is not None:
            assert change.new[0] is not None
            rows[change.new[0]] = change.new


@dataclass
class _Snapshot:
    bounds: SnapshotBounds
    rows: list[Row]
    definition: ShapeDefinition
    source: Snapshots

    async def blocks(self) -> AsyncIterator[bytes]:
        names = [column.name for column in ITEMS.columns]
        for start in range(0, len(self.rows), 2):
            block = b""
            for values in self.rows[start : start + 2]:
                key = row_key("public", "items", [values[0]])
                value = {name: json_value(values[names.index(name)]).decode() for name in self.definition.selected}
                text = "{" + ",".join(f"{json.dumps(name)}:{value[name]}" for name in value) + "}"
                headers = '{"operation":"insert","relation":["public","items"]}'
                block += f'{{"key":{json.dumps(key.decode())},"value":{text},"headers":{headers}}}\n'.encode()
            await asyncio.sleep(0)
            if self.source.fail_with is not None:
                raise self.source.fail_with
            yield block


class Snapshots:
    """
    Takes snapshots of a `Database`.
    """

    def __init__(self, database: Database) -> None:
        """
        Of this one.
        """
        self._database: Final = database
        self.fail_with: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.opened_count = 0

    @asynccontextmanager
    async def open(self, definition: ShapeDefinition) -> AsyncIterator[OpenSnapshot]:
        """
        Take one.
        """
        self.opened_count += 1
        bounds, rows = self._database.snapshot()
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        yield _Snapshot(bounds, list(rows.values()), definition, self)


class Catalog:
    """
    The inspector of a database with tables that tests may exchange.
    """

    def __init__(self) -> None:
        """
        Begin with `items`.
        """
        self.tables: dict[tuple[str, str], Table] = {("public", "items"): ITEMS}
        self.is_away = False

    async def find_table(self, schema: str, name: str) -> Table | None:
        """
        Look it up.
        """
        if self.is_away:
            raise ConnectionLostError("the database is away")
        return self.tables.get((schema, name))

    async def find_facts(self, table: Table, *, with_letters: bool = False) -> DatabaseFacts:
        """
        Nothing special.
        """
        del table, with_letters
        if self.is_away:
            raise ConnectionLostError("the database is away")
        return NO_FACTS

    def forget(self, oid: int) -> None:
        """
        Nothing is remembered.
        """


class Publication:
    """
    Publishes at once, or fails as told.
    """

    def __init__(self) -> None:
        """
        Begin with nothing published.
        """
        self.fail_with: Exception | None = None
        self.ensured: list[int] = []
        self.released: list[int] = []

    async def ensure(self, table: Table) -> None:
        """
        Publish.
        """
        await asyncio.sleep(0)
        if self.fail_with is not None:
            raise self.fail_with
        self.ensured.append(table.id.oid)

    async def release(self, oid: int) -> None:
        """
        Unpublish.
        """
        self.released.append(oid)


class Control:
    """
    A control store whose every answer means durable.
    """

    def __init__(self) -> None:
        """
        Begin empty.
        """
        self.rows: dict[int, ShapeRow] = {}
        self.boundary = EndLsn(1000)
        self.tombstones: list[tuple[int, str]] = []
        self.handle_us_max = 0
        self.fail_with: Exception | None = None
        self._next = 1

    async def load(self) -> Recovered:
        """
        Read everything.
        """
        rows = tuple(self.rows[number] for number in sorted(self.rows))
        return Recovered(1, self.boundary, rows, {}, self.handle_us_max, was_clean=False)

    async def create(self, handle: str, handle_us: int, definition: ShapeDefinition, chunk_bytes_max: int) -> int:
        """
        Add a row.
        """
        await self._sync()
        incarnation, self._next = self._next, self._next + 1
        self.handle_us_max = max(self.handle_us_max, handle_us)
        self.rows[incarnation] = ShapeRow(
            incarnation, handle, definition, ShapeState.CREATING, chunk_bytes_max, None, SNAPSHOT_END
        )
        return incarnation

    async def mark_live(self, incarnation: int, bounds: SnapshotBounds, settled: LogOffset) -> None:
        """
        Let it survive.
        """
        await self._sync()
        row = self.rows[incarnation]
        if row.state is ShapeState.CREATING:
            self.rows[incarnation] = replace(row, state=ShapeState.LIVE, bounds=bounds, settled=settled)

    async def tombstone(self, incarnations: Collection[int], reason: str, at: EndLsn) -> None:
        """
        Condemn.
        """
        del at
        await self._sync()
        for incarnation in incarnations:
            self.tombstones.append((incarnation, reason))
            if incarnation in self.rows:
                self.rows[incarnation] = replace(self.rows[incarnation], state=ShapeState.CONDEMNED)

    async def forget(self, incarnation: int) -> None:
        """
        Remove a row.
        """
        await self._sync()
        self.rows.pop(incarnation, None)

    async def checkpoint(self, boundary: EndLsn, settled: Mapping[int, LogOffset]) -> None:
        """
        Record the boundary.
        """
        await self._sync()
        self.boundary = boundary
        for incarnation, place in settled.items():
            if incarnation in self.rows:
                self.rows[incarnation] = replace(self.rows[incarnation], settled=place)

    async def record_fact(self, kind: str, key: str, value: bytes) -> None:
        """
        Facts are not recorded here.
        """

    async def begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        """
        Epochs do not change here.
        """

    async def _sync(self) -> None:
        await asyncio.sleep(0)
        if self.fail_with is not None:
            raise self.fail_with


class Facts:
    """
    No table is a partition.
    """

    def ancestors_of(self, relation_oid: int) -> tuple[int, ...] | None:
        """
        None.
        """
        del relation_oid
        return ()

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        """
        None.
        """
        del relation_oid
        return ()


class Source:
    """
    A relay log of one segment over a database's WAL.
    """

    def __init__(self, world: World) -> None:
        """
        Stand at the beginning.
        """
        self._world: Final = world
        self._database: Final = world.database
        self._at = 0

    def seek(self, boundary: EndLsn) -> None:
        """
        Go to the beginning, which is good for everything that was not trimmed.
        """
        if boundary < self._world.trimmed_below:
            raise CorruptLogError("the relay log does not reach back")
        self._at = 0

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[RelayRecord]:
        """
        Read one record.
        """
        del bytes_max
        if self._at >= up_to_exclusive.byte:
            return []
        self._at += 1
        if self._at == 1:
            relation = encode_relation(DESCRIPTION)
            return [SessionRecord((relation,))]
        transaction = self._database.wal[self._at - 2]
        if transaction.commit_lsn == self._world.broken_at:
            raise CorruptLogError("put here by a test")
        return [FramesRecord(transaction.frames())]

    @property
    def place(self) -> RelayPlace:
        """
        Where it stands.
        """
        return RelayPlace(0, self._at)


@dataclass
class Ready:
    """
    Readiness that a test turns on and off.
    """

    reason: str = ""
    event: asyncio.Event = field(default_factory=asyncio.Event)

    def health(self) -> Health:
        """
        Say what is missing.
        """
        return Health("active" if self.event.is_set() else "starting", self.reason, "detail" if self.reason else "")

    async def wait_active(self) -> None:
        """
        Wait for it.
        """
        await self.event.wait()


class World:
    """
    What survives a crash.
    """

    def __init__(self) -> None:
        """
        Begin with an empty database.
        """
        self.database = Database()
        self.disk = FakeDisk()
        self.control = Control()
        self.catalog = Catalog()
        self.publication = Publication()
        self.snapshots = Snapshots(self.database)
        self.xids = RoutedXids()
        """
        Kept with the boundary: a commit below it is not decoded again, and may be as invisible after a restart as before.
        """
        self.trimmed_below = EndLsn(0)
        """Up to where the relay log is gone."""
        self.broken_at: CommitLsn | None = None
        """A transaction that the catch-up reader cannot read."""
        self._us = 1_700_000_000_000_000

    def unix_us(self) -> int:
        """
        Give a time that hardly moves.
        """
        self._us += 1
        return self._us // 3


class Engine:
    """
    One life of the service's engine, of real parts.
    """

    def __init__(self, world: World, limits: ConsumerLimits = SMALL, *, settle_age_s: float = 0.001) -> None:
        """
        Build it; nothing runs yet.
        """
        self.world: Final = world
        self.limits: Final = limits
        self.store: Final = FileShapeLogStore(Path("/data"), disk=world.disk, settle_threads_max=1, read_threads_max=1)
        self.xids: Final = deepcopy(world.xids)
        self.tracker: Final = FlushTracker(world.control.boundary)
        self.ready: Final = Ready()
        self.ready.event.set()
        self.delivered = 0
        self._half: list[StreamEvent] = []
        self._slot: Final = _Slot()
        accounts = _Late(self._slot)
        self.stage: Final = ConsumersStage(
            ConsumerPorts(
                store=self.store,
                control=world.control,
                accounts=accounts,
                facts=Facts(),
                inspector=world.catalog,
                publication=world.publication,
                snapshots=world.snapshots,
                published=self._published,
                open_source=self._open_source,
                readiness=self.ready,
                is_replaying=lambda: False,
                are_generated_published=lambda: False,
                unix_us=world.unix_us,
                clock=time.monotonic,
            ),
            limits,
            settle_age_s=settle_age_s,
        )
        self.collector: Final = ShapeLogCollector(
            boundary=world.control.boundary,
            facts=Facts(),
            delivery=self.stage.registry,
            tracker=self.tracker,
            xids=self.xids,
        )
        self._slot.accounts = CollectorAccounts(self.collector, self.tracker, self.xids, time.monotonic)
        self._task: asyncio.Task[None] | None = None

    def _published(self) -> PublishedEnd:
        return PublishedEnd(1, RelayPlace(0, len(self.world.database.wal) + 1), self.world.database.end.value)

    async def _open_source(self, published: PublishedEnd) -> Source:
        del published
        return Source(self.world)

    async def start(self) -> None:
        """
        Restore, and run.
        """
        restored = asyncio.Event()
        recovered = await self.world.control.load()
        self._task = asyncio.create_task(self.stage.run(recovered, restored.set))
        waiting = asyncio.create_task(restored.wait())
        await asyncio.wait([self._task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        await waiting

    @property
    def is_running(self) -> bool:
        """
        Whether it was started and not stopped.
        """
        return self._task is not None

    async def stop(self) -> None:
        """
        End it as a kill does: nothing is settled.
        """
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        self.store.close()

    def deliver(self, count: int | None = None, sizes: Random | None = None) -> None:
        """
        Handle what the stream holds: so many fragments, or all there is.
        """
        while count is None or count > 0:
            if not self._half:
                if self.delivered == len(self.world.database.wal):
                    return
                self._half = self.world.database.wal[self.delivered].fragments(sizes)
                self.delivered += 1
            self.collector.handle([self._half.pop(0)], time.monotonic())
            if count is not None:
                count -= 1

    async def checkpoint(self) -> None:
        """
        Record the flush boundary.
        """
        boundary = self.tracker.last_global_flushed_offset
        self.world.xids = deepcopy(self.xids)
        settled = {entry.incarnation: entry.settled for entry in self.stage.registry if entry.is_live}
        await self.world.control.checkpoint(boundary, settled)

    async def quiesce(self) -> None:
        """
        Deliver everything, and wait until nothing is under way.
        """
        self.deliver()
        async with asyncio.timeout(20):
            while True:
                await self.stage.settler.settle_all()
                await asyncio.sleep(0.001)
                registry = self.stage.registry
                is_calm = (
                    not registry.is_any_behind
                    and not registry.is_burying
                    and not self.stage.catalog.creating_count
                    and all(entry.condemned is None for entry in registry)
                    and all(entry.load is None for entry in registry)
                    and not any(self.stage.settler.is_busy(entry) for entry in registry)
                )
                if is_calm:
                    return

    async def serve(self, entry: ShapeEntry) -> list[tuple[LogOffset, bytes]]:
        """
        Read a whole log as a client does; answers (place after, bytes) of every response.
        """
        log = await self.stage.registry.open_log(entry)
        after = BEFORE_ALL
        responses: list[tuple[LogOffset, bytes]] = []
        while True:
            found = await log.read(after)
            if found.pieces:
                responses.append((found.chunk_end, self.world.disk.serve(found)))
            if found.chunk_end >= found.last or (not found.pieces and after.tx > 0):
                return responses
            assert found.chunk_end > after
            after = found.chunk_end

    async def elements(self, entry: ShapeEntry) -> list[dict[str, Any]]:
        """
        Read a whole log as messages.
        """
        responses = await self.serve(entry)
        return [element for _, data in responses for element in json.loads(b"[" + data + b"]")]


class _Slot:
    accounts: CollectorAccounts


class _Late:
    """
    Accounts that are there by the time they are asked.
    """

    def __init__(self, slot: _Slot) -> None:
        self._slot = slot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slot.accounts, name)


def materialise(elements: list[dict[str, Any]]) -> dict[str, dict[str, str | None]]:
    """
    Do what the messages of a log say, strictly.
    """
    rows: dict[str, dict[str, str | None]] = {}
    for element in elements:
        headers = element["headers"]
        match headers.get("operation"):
            case "insert":
                assert element["key"] not in rows, f"inserted twice: {element}"
                rows[element["key"]] = element["value"]
            case "update":
                rows[element["key"]] |= element["value"]
            case "delete":
                del rows[element["key"]]
            case None:
                assert headers["control"] == "snapshot-end"
    return rows


def expected(rows: dict[bytes, Row], selected: tuple[str, ...]) -> dict[str, dict[str, str | None]]:
    """
    Give what a shape of `items` must hold.
    """
    names = [column.name for column in ITEMS.columns]
    found = {}
    for values in rows.values():
        cells = dict(zip(names, (None if value is None else value.decode() for value in values), strict=True))
        found[f'"public"."items"/"{cells["id"]}"'] = {name: cells[name] for name in selected}
    return found


def whole(offset: LogOffset | None = BEFORE_ALL, **changes: Any) -> ShapeRequest:
    """
    Ask for the whole table.
    """
    return ShapeRequest("items", offset, **changes)


async def until(condition: Callable[[], bool]) -> None:
    """
    Wait for something that tells nobody when it happens.
    """
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.0005)
