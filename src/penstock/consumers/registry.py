"""
The shapes that exist, as the other parts of the stage and the service know them.

Owns what becomes of an entry as a whole: made, restored, looked up. Its parts do the rest: `entries` knows the shapes,
`delivery` hands them the stream, `opening` brings them into memory and lets them go, `waiting` tells who waits, `burial`
gives them up. What is settled when belongs to `settling`, what shapes that are behind are fed to `catch_up`, which
definition has which handle to `catalog`; they are told through `RegistryEvents`.

Form: shell. `publish` and its siblings are plain calls that never wait and never raise. Three kinds of tasks, all owned
by `run`: one that buries, one for each folder being thrown away, one for each set of files being opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from penstock.collector.abc import RoutedPart
from penstock.consumers.abc import ControlStore, NoTrail, ShapeAccounts, ShapeLog, ShapeLogStore, Trail
from penstock.consumers.burial import Burial
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.delivery import Deliveries
from penstock.consumers.entries import RegistryEvents, ShapeEntries, ShapeEntry, ShapeGoneError
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.opening import ShapeOpening
from penstock.consumers.projection import Projection
from penstock.consumers.waiting import ShapeWaiters
from penstock.control.records import ShapeRow, ShapeState
from penstock.errors import InvalidShapeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.condition import condition_of
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import LogOffset


class ConsumerRegistry:
    """
    All shapes; implements `collector.abc.ConsumerDelivery`.
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
        self._accounts: Final = accounts
        self._limits: Final = limits
        self._clock: Final = clock
        self._entries: Final = ShapeEntries()
        self._waiters: Final = ShapeWaiters(self._entries)
        self._burial: Final = Burial(
            entries=self._entries,
            waiters=self._waiters,
            store=store,
            control=control,
            accounts=accounts,
            events=events,
            limits=limits,
        )
        self._deliveries: Final = Deliveries(
            entries=self._entries,
            waiters=self._waiters,
            burial=self._burial,
            accounts=accounts,
            events=events,
            limits=limits,
            clock=clock,
            trail=trail or NoTrail(),
            make_handler=make_handler,
            start=self._start,
        )
        self._opening: Final = ShapeOpening(
            entries=self._entries,
            burial=self._burial,
            store=store,
            limits=limits,
            clock=clock,
            begin=self._deliveries.begin,
        )

    def _start(self, entry: ShapeEntry) -> Consumer:
        return self._opening.start(entry)

    # --- looking up --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ShapeEntry]:
        return iter(self._entries)

    def find(self, handle: str) -> ShapeEntry | None:
        """
        Find a shape by its handle; a condemned one counts until its tombstone is synced.
        """
        return self._entries.find(handle)

    def entry(self, incarnation: int) -> ShapeEntry | None:
        """
        Find a shape by its number.
        """
        return self._entries.get(incarnation)

    def on_table(self, table_oid: int) -> list[ShapeEntry]:
        """
        List the shapes on a table.
        """
        return self._entries.on_table(table_oid)

    def tables(self) -> list[int]:
        """
        List the tables with shapes.
        """
        return self._entries.tables()

    def behind(self) -> list[ShapeEntry]:
        """
        List the shapes that are behind and whose files are open.
        """
        return list(self._entries.behind.values())

    @property
    def is_any_behind(self) -> bool:
        """
        Whether the catch-up reader has something to do.
        """
        return bool(self._entries.behind)

    @property
    def is_burying(self) -> bool:
        """
        Whether files or rows of shapes that were given up are still being removed.
        """
        return self._burial.is_burying

    @property
    def is_anybody_waiting(self) -> bool:
        """
        Whether a shape in memory has not been handed all that was delivered to it.
        """
        return self._entries.is_anybody_waiting

    def oldest_creating(self) -> EndLsn | None:
        """
        Tell from where the relay log is needed by shapes that are being created; None without any.
        """
        return self._entries.oldest_creating()

    @property
    def creating_count(self) -> int:
        """
        How many shapes are in the making.
        """
        return self._entries.creating_count

    @property
    def shed_count(self) -> int:
        """
        How many shapes were given up because of a fault, and not because their table or a request asked for it.
        """
        return self._burial.shed_count

    @property
    def replaced_count(self) -> int:
        """
        How many consumers raised, or owed for too long, and were replaced.
        """
        return self._deliveries.replaced_count

    @property
    def unknown_count(self) -> int:
        """
        How many deliveries went to incarnations that do not exist; a healthy system has none.
        """
        return self._deliveries.unknown_count

    @property
    def is_replay_foreign(self) -> bool:
        """
        Whether what comes was handed to code of another version before: shapes that it adds to begin anew.
        """
        return self._deliveries.is_replay_foreign

    @is_replay_foreign.setter
    def is_replay_foreign(self, is_foreign: bool) -> None:
        self._deliveries.is_replay_foreign = is_foreign

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
            self._entries.add(entry)
            problem = _find_problem(row.definition)
            # Until its tombstone is synced it has to owe all that any row of its table may make it owe.
            routed = row.definition if problem is None else replace(row.definition, where=None, basis=None)
            self._accounts.add_shape(row.incarnation, routed)
            self._accounts.start_owing(row.incarnation)
            live.append(entry)
            if problem is not None:
                self.condemn([entry], f"its condition is not understood any more: {problem}")
        self._burial.take_rows([row for row in rows if row.state is not ShapeState.LIVE])
        return live

    def create(self, log: ShapeLog, definition: ShapeDefinition) -> ShapeEntry:
        """
        Enter and route a shape whose row `CREATING` is synced; deliveries wait in its buffer.
        """
        handle, incarnation = log.handle, log.incarnation
        entry = ShapeEntry(incarnation, handle, definition, self._limits.chunk_bytes_max, active_at=self._clock())
        self._entries.add(entry)
        routed_after = self._accounts.add_shape(incarnation, definition)
        consumer = Consumer(incarnation, ConsumerState.CREATING, routed_after, self._accounts.seen[1], self._limits)
        consumer.log = log
        entry.consumer = consumer
        self._burial.watch(entry)
        self._entries.in_memory[incarnation] = entry
        return entry

    def begin(self, entry: ShapeEntry, bounds: SnapshotBounds) -> None:
        """
        A new shape's snapshot is written: let it take what waited for that.
        """
        if entry.condemned is None:
            assert entry.consumer is not None
            assert entry.consumer.log is not None
            entry.bounds = bounds
            self._deliveries.begin(entry, entry.consumer.log)

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
        return await self._opening.open_log(entry)

    def release_idle(self, is_busy: Callable[[ShapeEntry], bool]) -> int:
        """
        Let shapes leave memory; see `ShapeOpening.release_idle`.
        """
        return self._opening.release_idle(is_busy)

    # --- deliveries, see `Deliveries` --------------------------------------------------------------------------------

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Deliver a slice of the stream.
        """
        self._deliveries.publish(parts)

    def publish_caught_up(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Deliver what the catch-up reader brings to shapes that are behind.
        """
        self._deliveries.publish_caught_up(parts)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        A description came into force.
        """
        self._deliveries.relation_seen(description, table_oids)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """
        Rotate the shapes on these tables whose snapshot does not hold the commit.
        """
        self._deliveries.relation_spoiled(table_oids, at, reason, xid)

    def spoil_caught_up(
        self, entries: Sequence[ShapeEntry], table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None
    ) -> None:
        """
        Do the same for shapes that the catch-up reader feeds, should it be ahead of the main reader.
        """
        self._deliveries.spoil_caught_up(entries, table_oids, at, reason, xid)

    def fell_behind(self, entry: ShapeEntry) -> None:
        """
        Take notice that a consumer no longer takes deliveries: the catch-up reader has to bring them.
        """
        self._deliveries.fell_behind(entry)

    def rejoined(self, entry: ShapeEntry) -> None:
        """
        A shape that was behind takes deliveries again.
        """
        self._deliveries.rejoined(entry)

    def replace(self, entry: ShapeEntry, owed: CommitLsn) -> bool:
        """
        Put another consumer in place of one that has owed a commit for too long; tells whether that could be done.
        """
        return self._deliveries.replace(entry, owed)

    # --- waiting, see `ShapeWaiters` ---------------------------------------------------------------------------------

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
        return await self._waiters.wait_past(entry, after)

    async def wait_gone(self, entry: ShapeEntry) -> None:
        """
        Wait until the tombstone of a condemned shape is synced.
        """
        await self._waiters.wait_gone(entry)

    async def wait_rejoined(self, entry: ShapeEntry) -> None:
        """
        Wait until a shape with open files is not behind, or condemned.
        """
        await self._waiters.wait_rejoined(entry)

    # --- giving shapes up, see `Burial` ------------------------------------------------------------------------------

    def condemn(self, entries: Collection[ShapeEntry], reason: str, *, is_fault: bool = False) -> None:
        """
        Give shapes up: they take nothing more from now on, and are gone when their tombstones are synced.

        Whoever needs to know when uses `wait_gone`. `is_fault` says that the shape is shed: neither its table nor a
        request is why.
        """
        self._burial.condemn(entries, reason, is_fault=is_fault)

    async def condemn_all(self, reason: str) -> None:
        """
        Give every shape up and return when all their tombstones are synced.
        """
        await self._burial.condemn_all(reason)

    def forget_all(self, reason: str) -> None:
        """
        Every shape was tombstoned by the row that began a new epoch: tell waiters, throw the files away.

        The caller has the collector forget its accounts.
        """
        self._burial.forget_all(reason)

    def bury(self, row: ShapeRow) -> None:
        """
        End an incarnation of which there is nothing but its row and perhaps its folder.
        """
        self._burial.take_row(row)

    async def run(self) -> None:
        """
        Bury the condemned and open files, until cancelled.
        """
        async with asyncio.TaskGroup() as group:
            self._opening.run_in(group)
            try:
                await self._burial.run(group)
            finally:
                self._opening.run_in(None)


def _find_problem(definition: ShapeDefinition) -> str | None:
    """
    Say why the condition of a definition cannot be compiled; None when it can, or there is none.
    """
    try:
        condition_of(definition)
    except InvalidShapeError as error:
        return error.message
    return None
