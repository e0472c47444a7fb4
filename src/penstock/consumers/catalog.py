"""
Which shape a request means, and what it reads of it.

Owns the map from definitions to handles and the first steps of making a shape: publication and barrier, row, route,
revealing the handle. What a request means is found by `resolver`, what a client is told instead of a shape is in
`refusals`. Implements, for the process that owns the shapes, what `api.abc.ShapeSource` asks for but for health
and status.

Form: shell.

Invariants:

* one definition has one current handle; requests that ask for a definition at the same time get the same one;
* a handle is revealed only when its row is synced and the shape is routed, and replaced only when the tombstone of the
  one before is synced;
* the time in a handle is greater than in any handle made before, in this run or an earlier one.

Limits: `snapshot_count_max` shapes in the making, further ones are refused with a 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, Protocol

import structlog

from penstock.consumers.abc import (
    ControlStore,
    Inspector,
    PublicationKeeper,
    ShapeAccounts,
    ShapeLogStore,
    Sheds,
)
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntry, ShapeGoneError
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.refusals import (
    CANNOT_CREATE,
    HANDLE_MISMATCH,
    NO_SHAPE,
    reason_of,
    refusal,
    refusal_of_creation,
)
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.resolver import LONG_CLAUSE_LENGTH, Resolved, Resolver
from penstock.consumers.schema_check import check_table
from penstock.consumers.snapshotter import Snapshotter
from penstock.control.records import Recovered, ShapeRow, ShapeState
from penstock.errors import (
    ConnectionLostError,
    InvalidShapeError,
    PenstockError,
    Policy,
    RequestError,
    ShapeError,
)
from penstock.postgres.relation import RelationDescription, Table
from penstock.shapes.condition import Condition, condition_of, know_letters, letters_of
from penstock.shapes.handle import make_handle
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from penstock.shapes.reading import (
    Advanced,
    Health,
    LogRange,
    Opened,
    OpenReply,
    Refused,
    Removed,
    RemoveReply,
    RemoveRequest,
    Rotated,
    ShapeRequest,
    WaitReply,
)

_log: Final = structlog.get_logger(__name__)

_NO_ROOM: Final = "Failed to create shape: the disk is nearly full, please retry later"
_NO_ROOM_RETRY_S: Final = 10
_NOT_READY_RETRY_S: Final = 5
_LETTERS: Final = "letters"  # kind of a fact
RESTORE_SLICE_COUNT: Final = 100
"""So many shapes are taken over at once by a start; between two slices everything else has its turn."""


class Readiness(Protocol):
    """
    Tells whether shapes can be made.
    """

    def health(self) -> Health:
        """
        Tell where the engine stands.
        """
        ...

    async def wait_active(self) -> None:
        """
        Wait, without a deadline, until it is active.
        """
        ...


class _Creation:
    """
    A shape in the making.
    """

    def __init__(self, *, is_compacting: bool) -> None:
        self.is_compacting: Final = is_compacting
        self.entry: ShapeEntry | None = None
        self.error: Exception | None = None
        self.revealed: Final = asyncio.Event()
        """Set when there is an entry, or an error."""
        self.started: Final = asyncio.Event()
        """Set when the database has begun to deliver, or there is an error."""


class ShapeCatalog:
    """
    Finds and makes shapes for requests.
    """

    def __init__(
        self,
        *,
        inspector: Inspector,
        publication: PublicationKeeper,
        control: ControlStore,
        store: ShapeLogStore,
        accounts: ShapeAccounts,
        registry: ConsumerRegistry,
        snapshotter: Snapshotter,
        readiness: Readiness,
        is_replaying: Callable[[], bool],
        are_generated_published: Callable[[], bool],
        unix_us: Callable[[], int],
        sheds: Sheds,
        limits: ConsumerLimits,
    ) -> None:
        """
        Take the ports.

        Args:
            inspector: the catalog of the database.
            publication: keeps tables published.
            control: keeps rows.
            store: keeps files.
            accounts: the collector's side.
            registry: keeps entries.
            snapshotter: fills new shapes.
            readiness: whether shapes can be made.
            is_replaying: whether what was published before the start has not all been handled.
            are_generated_published: whether the stream brings generated columns.
            unix_us: microseconds since 1970, for handles.
            sheds: which definitions have to rest.
            limits: bounds.
        """
        self._inspector: Final = inspector
        self._publication: Final = publication
        self._control: Final = control
        self._store: Final = store
        self._accounts: Final = accounts
        self._registry: Final = registry
        self._snapshotter: Final = snapshotter
        self._readiness: Final = readiness
        self._is_replaying: Final = is_replaying
        self._unix_us: Final = unix_us
        self._sheds: Final = sheds
        self._limits: Final = limits
        self._current: Final[dict[bytes, ShapeEntry]] = {}
        self._key_of: Final[dict[int, bytes]] = {}
        self._creations: Final[dict[bytes, _Creation]] = {}
        self._is_closed = False
        self.has_room: Callable[[], bool] = _always
        """Tells whether the disks have room for new shapes; without it they are refused with a 503."""
        self._is_restored: Final = asyncio.Event()
        self._perhaps_unused: Final[set[int]] = set()
        self._creating_on: Final[dict[int, int]] = {}
        self._resolver: Final = Resolver(
            inspector,
            are_generated_published=are_generated_published,
            is_made=self._current.__contains__,
            resolved_count_max=limits.resolved_count_max,
        )
        self._handle_us_max = 0
        self._group: asyncio.TaskGroup | None = None

    # --- start and end -----------------------------------------------------------------------------------------------

    async def restore(self, recovered: Recovered) -> None:
        """
        Take over what a restart found. To be called before anything is read from the stream, while `run` runs.

        Many shapes take seconds, which are spent in slices: the loop has heartbeats to give. What asks about all shapes
        of a table has to wait for the end.
        """
        self._handle_us_max = recovered.handle_us_max
        await self._store.discard_unknown([row.incarnation for row in recovered.shapes])
        for (kind, _), value in recovered.facts.items():
            if kind == _LETTERS:
                know_letters(value)
        compiled = await _compile_all(recovered.shapes)
        for start in range(0, len(recovered.shapes), RESTORE_SLICE_COUNT):
            rows = recovered.shapes[start : start + RESTORE_SLICE_COUNT]
            for entry in self._registry.restore(rows, recovered.boundary):
                before = self._enter(entry, entry.definition.identity())
                if before is not None:
                    self._registry.condemn([before], "another shape took its place")
            await asyncio.sleep(0)
        del compiled
        self._is_restored.set()
        for oid in self._perhaps_unused:
            self._release_if_unused(oid)
        self._perhaps_unused.clear()

    def _enter(self, entry: ShapeEntry, key: bytes) -> ShapeEntry | None:
        """
        Make an entry the current one of its definition; gives the one before.
        """
        before = self._current.get(key)
        self._current[key] = entry
        self._key_of[entry.incarnation] = key
        return before

    async def run(self) -> None:
        """
        Make shapes for requests, until cancelled.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    def _start_task(self, work: Coroutine[None, None, None], name: str) -> None:
        assert self._group is not None, "the catalog runs"
        self._group.create_task(work, name=name)

    def gone(self, entry: ShapeEntry) -> None:
        """
        A shape is no more: its definition has no handle now, and perhaps its table no shape.
        """
        key = self._key_of.pop(entry.incarnation, None)
        if key is not None and self._current.get(key) is entry:
            del self._current[key]
        # What ended it may be what became of its table, which whoever asks next should not be told from memory.
        self._inspector.forget(entry.table_oid)
        self._release_if_unused(entry.table_oid)

    def _release_if_unused(self, table_oid: int) -> None:
        if not self._is_restored.is_set():
            # Its other shapes may be still to come.
            self._perhaps_unused.add(table_oid)
        elif self._is_unused(table_oid) and self._group is not None:
            self._start_task(self._release(table_oid), f"release table {table_oid}")

    def _is_unused(self, table_oid: int) -> bool:
        return not self._creating_on.get(table_oid) and not self._registry.on_table(table_oid)

    async def _release(self, table_oid: int) -> None:
        try:
            if self._is_unused(table_oid):
                await self._publication.release(table_oid)
        except PenstockError as error:
            # What stays published costs bandwidth only, and is looked at again when the publication is checked.
            _log.warning("table stays in the publication", oid=table_oid, error=error.message)

    @property
    def creating_count(self) -> int:
        """
        How many shapes are in the making.
        """
        return len(self._creations)

    def close(self) -> None:
        """
        Make no more shapes: the engine is about to stop. What is asked for from now on is answered with a 503.
        """
        self._is_closed = True

    # --- serving -----------------------------------------------------------------------------------------------------

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        Find or create the shape and tell what the request reads.
        """
        try:
            return await self._open(request)
        except PenstockError as error:
            return refusal(error)

    async def enter(self, request: ShapeRequest) -> tuple[Resolved, ShapeEntry, _Creation | None] | Rotated:
        """
        Find or make the shape, and wait until the database has begun to deliver what a new one begins with.

        Raises:
            PenstockError: as `refusal` reads it.
        """
        resolved = self._resolver.known(request)
        entry = None if resolved is None else self._current.get(resolved.key)
        if entry is None or entry.condemned is not None:
            await self._wait_active()
        resolved, entry, creation = await self._find_or_create(request)
        if request.handle is not None and request.handle != entry.handle:
            return Rotated(entry.handle)
        if creation is not None:
            await creation.started.wait()
            _raise_error(creation)
        return resolved, entry, creation

    async def _open(self, request: ShapeRequest) -> OpenReply:
        entered = await self.enter(request)
        if isinstance(entered, Rotated):
            return entered
        resolved, entry, creation = entered
        log = await self._registry.open_log(entry)
        # Before the log is read: what it takes meanwhile, also by the end of the replay, is not in what was read.
        seen, is_behind = self._seen_by(entry)
        is_replaying = is_behind or self._is_replaying()
        if request.offset is None:
            log_range = LogRange(log.last, log.last)
        else:
            try:
                log_range = await log.read(request.offset)
            except PenstockError as error:
                self._judge(entry, error)
                if creation is not None:
                    _raise_error(creation)
                raise
        if entry.condemned is not None:
            raise ShapeGoneError("the shape is gone")
        self._registry.was_read(entry)
        return Opened(
            handle=entry.handle,
            schema=resolved.schema,
            range=log_range,
            last_seen_lsn=seen,
            is_replaying=is_replaying,
        )

    def is_behind(self, entry: ShapeEntry) -> bool:
        """
        Tell whether the shape may come to have more without anything happening in the database.
        """
        return self._seen_by(entry)[1] or self._is_replaying()

    def _seen_by(self, entry: ShapeEntry) -> tuple[int, bool]:
        """
        Tell up to where the shape has all that concerns it, and whether the stream has got further than that.
        """
        consumer = entry.consumer
        if consumer is None or consumer.state is ConsumerState.LIVE:
            return self._accounts.last_seen_lsn, False
        done = consumer.done.value
        return max(done, self._accounts.boundary.value) if entry.is_live else done, True

    def _judge(self, entry: ShapeEntry, error: PenstockError) -> None:
        """
        A log that is not what its index says is given up.
        """
        if error.policy is Policy.ROTATE and not isinstance(error, ShapeError):
            self._registry.condemn([entry], f"files cannot be read: {error.message}", is_fault=True)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        Wait, without a deadline, until the shape has something after the place named, or is gone.
        """
        await self._is_restored.wait()
        entry = self._registry.find(handle)
        if entry is None:
            return Rotated()
        key = self._key_of.get(entry.incarnation)
        while True:
            if not await self._registry.wait(entry, after):
                return Rotated(self._replacement(key))
            try:
                log = await self._registry.open_log(entry)
                seen, _ = self._seen_by(entry)
                log_range = await log.read(after)
            except ShapeGoneError:
                await self._registry.wait_gone(entry)
                return Rotated(self._replacement(key))
            except PenstockError as error:
                self._judge(entry, error)
                if entry.condemned is None:
                    raise
                continue
            self._registry.was_read(entry)
            return Advanced(log_range, seen)

    def _replacement(self, key: bytes | None) -> str | None:
        entry = None if key is None else self._current.get(key)
        return None if entry is None or entry.condemned is not None else entry.handle

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        Give a shape up durably; none is ever made for that.
        """
        try:
            entry = await self._find_unwanted(request)
        except PenstockError as error:
            told = refusal(error)
            return told if isinstance(told, Refused) else Refused(404, NO_SHAPE)
        if entry is None:
            return Refused(404, NO_SHAPE)
        self._registry.condemn([entry], "removed by request")
        await self._registry.wait_gone(entry)
        return Removed()

    async def _find_unwanted(self, request: RemoveRequest) -> ShapeEntry | None:
        """
        Find the shape that is to go.

        Raises:
            PenstockError: as `refusal` reads it.
        """
        await self._wait_active()
        if request.shape is None:
            assert request.handle is not None
            entry = self._registry.find(request.handle)
        else:
            entry = self._current.get((await self._resolver.resolve(request.shape)).key)
        if entry is None or entry.condemned is not None:
            return None
        if request.handle is not None and request.handle != entry.handle:
            raise RequestError(400, HANDLE_MISMATCH)
        return entry

    async def _wait_active(self) -> None:
        try:
            async with asyncio.timeout(self._limits.ready_wait_s):
                await self._readiness.wait_active()
        except TimeoutError as cause:
            health = self._readiness.health()
            detail = f": {health.detail}" if health.detail else ""
            message = f"Timeout waiting for {health.reason}{detail}"
            raise RequestError(503, message, retry_after_s=_NOT_READY_RETRY_S) from cause

    # --- making shapes -----------------------------------------------------------------------------------------------

    async def _find_or_create(self, request: ShapeRequest) -> tuple[Resolved, ShapeEntry, _Creation | None]:
        """
        Give the current shape that a request means, and its creation if that is under way.
        """
        while True:
            # Again after a wait: what ended the shape may be that the table is another one.
            resolved = await self._resolver.resolve(request)
            entry = self._current.get(resolved.key)
            if entry is None or entry.condemned is None:
                break
            try:
                async with asyncio.timeout(self._limits.ready_wait_s):
                    await self._registry.wait_gone(entry)
            except TimeoutError as cause:
                raise RequestError(503, CANNOT_CREATE, retry_after_s=1) from cause
        creation = self._creations.get(resolved.key)
        if entry is not None:
            return resolved, entry, creation
        if creation is None:
            creation = self._begin_creation(resolved, is_compacting=request.is_compacting)
        await creation.revealed.wait()
        if creation.entry is None:
            _raise_error(creation)
        assert creation.entry is not None
        return resolved, creation.entry, creation

    def _begin_creation(self, resolved: Resolved, *, is_compacting: bool) -> _Creation:
        if self._is_closed or len(self._creations) >= self._limits.snapshot_count_max:
            raise RequestError(503, CANNOT_CREATE, retry_after_s=1)
        if not self.has_room():
            raise RequestError(503, _NO_ROOM, retry_after_s=_NO_ROOM_RETRY_S)
        self._sheds.refuse(resolved.definition.canonical())
        creation = self._creations[resolved.key] = _Creation(is_compacting=is_compacting)
        self._start_task(self._create(resolved, creation), f"create shape on {resolved.definition.table.name}")
        return creation

    async def _create(self, resolved: Resolved, creation: _Creation) -> None:
        oid = resolved.definition.table.oid
        self._creating_on[oid] = self._creating_on.get(oid, 0) + 1
        is_published = False
        try:
            await self._publication.ensure(resolved.table)
            is_published = True
            entry = await self._make_entry(resolved, is_compacting=creation.is_compacting)
            creation.entry = entry
            creation.revealed.set()
            await self._snapshotter.fill(entry, creation.started.set)
            await self._snapshotter.make_live(entry)
        except Exception as error:  # noqa: BLE001 - kept for the requests that wait; the shape is given up
            creation.error = refusal_of_creation(error)
            if isinstance(error, ShapeError):
                # What was known of the table is not so any more.
                self._inspector.forget(oid)
            if creation.entry is not None:
                self._registry.condemn([creation.entry], f"creation failed: {reason_of(error)}")
            else:
                _log.warning("shape was not created", table=resolved.definition.table.name, reason=reason_of(error))
        finally:
            del self._creations[resolved.key]
            creation.revealed.set()
            creation.started.set()
            self._creating_on[oid] -= 1
            if not self._creating_on[oid]:
                del self._creating_on[oid]
        # What could not be ensured in time goes on by itself, so that the next request finds it done.
        if is_published:
            self._release_if_unused(oid)

    async def _make_entry(self, resolved: Resolved, *, is_compacting: bool) -> ShapeEntry:
        """
        Make the row, then the files, then route, then reveal.
        """
        definition = resolved.definition
        handle_us = self._handle_us_max = max(self._unix_us(), self._handle_us_max + 1)
        handle = make_handle(definition, handle_us)
        chunk_bytes_max = self._limits.chunk_bytes_max
        if definition.basis is not None and definition.basis.case:
            # Recorded as often as a shape is made that needs it, because a new epoch forgets it.
            name = definition.basis.case
            await self._control.record_fact(_LETTERS, name, letters_of(name))
        incarnation = await self._control.create(handle, handle_us, definition, chunk_bytes_max)
        try:
            log = await self._store.create(handle, incarnation, chunk_bytes_max, is_compacting=is_compacting)
        except BaseException:
            self._registry.bury(
                ShapeRow(incarnation, handle, definition, ShapeState.CREATING, chunk_bytes_max, None, SNAPSHOT_END)
            )
            raise
        entry = self._registry.create(log, definition)
        self._enter(entry, resolved.key)
        return entry

    # --- changes of tables -------------------------------------------------------------------------------------------

    def suspect(self, description: RelationDescription) -> None:
        """
        A table seems to have taken the name of one with shapes: ask the catalog about that one.
        """
        for oid in self._registry.tables():
            entries = self._registry.on_table(oid)
            if entries and entries[0].definition.table[1:] == description.id[1:] and oid != description.id.oid:
                self._start_task(self._compare_table(oid), f"compare table {oid}")

    async def _compare_table(self, oid: int) -> None:
        entries = self._registry.on_table(oid)
        if not entries:
            return
        _, schema, name = entries[0].definition.table
        self._inspector.forget(oid)
        try:
            table = await self._inspector.find_table(schema, name)
        except ConnectionLostError:
            return
        self._judge_table(oid, table)

    def table_changed(self, table: Table) -> None:
        """
        The catalog says something new of a table with shapes: rotate those that do not survive it.
        """
        self._judge_table(table.id.oid, table)

    def _judge_table(self, oid: int, table: Table | None) -> None:
        for entry in self._registry.on_table(oid):
            if entry.condemned is None and (reason := check_table(table, entry.definition)) is not None:
                self._registry.condemn([entry], reason)


async def _compile_all(rows: Sequence[ShapeRow]) -> list[Condition]:
    """
    Compile the conditions of many shapes without standing in the way of others.

    Returns:
        What has to be held until the shapes do. What cannot be compiled is left for the registry to find.
    """
    compiled: list[Condition] = []
    for row in rows:
        if row.definition.where is None or row.state is not ShapeState.LIVE:
            continue
        try:
            if len(row.definition.where) > LONG_CLAUSE_LENGTH:
                condition = await asyncio.to_thread(condition_of, row.definition)
            else:
                condition = condition_of(row.definition)
                await asyncio.sleep(0)
        except InvalidShapeError:
            continue
        if condition is not None:
            compiled.append(condition)
    return compiled


def _always() -> bool:
    return True


def _raise_error(creation: _Creation) -> None:
    if creation.error is not None:
        raise creation.error
