"""
The engine role: from the relay log to shape logs, and the flush boundary back.

Joins collector, consumers, shape logs, control store and database connections, and keeps the one order that matters
here (O2, O7, O8 of the design):

    every debt up to a boundary discharged  <  boundary in the control store  <  boundary on the board
    row that begins an epoch                <  first read of that epoch's relay log
    everything settled                      <  boundary recorded  <  mark of a clean stop

Whoever reads the board (the receiver trims segments, and in `shapes` mode confirms) relies on that order. Shell; decides
nothing about data.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog
import uvloop

from penstock.api.remote import ShapeSourceServer
from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.collector.intake import Intake
from penstock.collector.routed_xids import RoutedXids
from penstock.compiled import choice
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.compactor import LogCompactor
from penstock.consumers.evictor import Evictor
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.replay import REPLAY_VERSION, is_foreign, version_at_start
from penstock.consumers.spool import Spool
from penstock.consumers.stage import ConsumerPorts, ConsumersStage
from penstock.consumers.subsets import SubsetReader
from penstock.control.records import Recovered
from penstock.control.store import SqliteControlStore
from penstock.database.inspector import CatalogInspector
from penstock.database.pool import ConnectionPool
from penstock.database.publication import PublicationTables
from penstock.database.snapshots import PostgresSnapshots
from penstock.database.subsets import PostgresSubsets
from penstock.database.urls import parse_database_url
from penstock.database.watch import CatalogEvent, CatalogWatch, TableChanged, TableGone
from penstock.errors import CorruptLogError, DecodeError, PenstockError
from penstock.liveness.black_box import BlackBox
from penstock.liveness.board import Board, Cell
from penstock.liveness.breadcrumb import Inherited
from penstock.liveness.explain import SHAPES_TOLD_MAX, Facts, OwingShape, explain, find_unready
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.postgres.snapshot import SnapshotBounds
from penstock.relay.abc import PublishedEnd
from penstock.relay.epochs import RecordedBoundary
from penstock.relay.reader import RelayReader, read_epoch
from penstock.replication.state import ReceiverPhase
from penstock.service.cells import ReceiverReport, RecordedBoundaryCell, published_cell, receiver_cell
from penstock.service.disk_watch import DiskWatch
from penstock.service.facts import RecordedFacts
from penstock.service.faults import EngineFaults, NoFaults
from penstock.service.handover import Handover
from penstock.service.lifecycle import RoleContext, read_heartbeat
from penstock.service.settings import Settings
from penstock.service.sleep import Sleeper
from penstock.service.sweep import NEXT, Casualties, DebtSweep, ready_limits, watch_limits
from penstock.service.trail import BoardTrail
from penstock.service.wal_budget import POLL_S, WalBudget
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import (
    Health,
    LogRange,
    Opened,
    OpenReply,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)

_log: Final = structlog.get_logger(__name__)

RECORD_INTERVAL_S: Final[Mapping[str, float]] = {"relay": 5.0, "shapes": 1.0}
"""How often a moving boundary is recorded."""
SETTLE_AGE_S: Final[Mapping[str, float]] = {"relay": 4.0, "shapes": 0.5}
"""A tail of this age is settled."""
XIDS: Final = "routed xids"
"""Kind of the fact that holds the transactions decoded below the boundary that no snapshot has shown yet."""
TRAIL: Final = "engine deaths"
"""Kind of the fact that holds what engines were busy with when they died."""
SETTLED_NOTED_SLACK: Final = 1000
"""So many shapes that are gone may be remembered beside those that are there."""
CONTROL_ANSWER_S_MAX: Final = 5.0
"""A commit in the control store that takes longer is an alarm: its disk hangs."""
END_OF_WAIT_S_MAX: Final = 1.0
"""So soon after a live request has waited in vain it asks a last time."""
ROUSE_S_MAX: Final = 5.0
"""How long a request waits for a service that slept to be up again, before it is answered with what there is."""
RETRY_S: Final = 1.0
"""How long to wait before the control store is asked again."""


class _Delivery:
    """
    Stands for the registry until there is one: collector and registry know each other.
    """

    registry: ConsumerRegistry

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        self.registry.publish(parts)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        self.registry.relation_seen(description, table_oids)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        self.registry.relation_spoiled(table_oids, at, reason, xid)


class Engine:
    """
    Everything between the relay log and the clients' requests, in one event loop.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        wake_receiver: Callable[[], None],
        beat: Callable[[], None] = lambda: None,
        faults: EngineFaults | None = None,
    ) -> None:
        """
        Build nothing yet; see `run`.

        Args:
            settings: of the service.
            board: where the published end is read and the recorded boundary is written.
            wake_receiver: hints to the receiver that a boundary was recorded.
            beat: the heartbeat; called after each slice of work and at least once a second.
            faults: what is made to fail on purpose; nothing but in tests.
        """
        self._settings: Final = settings
        self._published: Final = published_cell(board)
        self._receiver: Final = receiver_cell(board)
        self._recorded_cell: Final = RecordedBoundaryCell(board)
        self._wake_receiver: Final = wake_receiver
        self._beat: Final = beat
        self._control: Final = SqliteControlStore(settings.state_folder / "control.sqlite")
        self._faults: Final = faults or NoFaults()
        self._store: Final = self._faults.make_store(settings.data_dir)
        self._board: Final = board
        self._trail: Final = BoardTrail(board)
        # What is looked into, replaced and given up by itself is no reason to send clients away.
        self._ready_limits: Final = ready_limits(settings.flush_stall_grace_s)
        self._control_answer_s: Final = min(CONTROL_ANSWER_S_MAX, settings.flush_stall_grace_s / 2)
        self._epoch = 0
        self._boundary = EndLsn(0)
        self._trim_below = EndLsn(0)
        self._reader: RelayReader | None = None
        self._is_restored: Final = asyncio.Event()
        self._is_active: Final = asyncio.Event()
        self._recording: Final = asyncio.Lock()
        self._xids_saved = b""
        self._replay_version = REPLAY_VERSION
        self._trail_kept = b""
        self._settled_noted: dict[int, LogOffset] = {}
        self._control_failure = ""
        self._is_control_hung = False
        self._is_draining = False
        self._slices_count = 0
        self._unready = ""
        self._level_at: int | None = None
        self._is_level = settings.acknowledge == "relay"
        self._link_since = self._control_since = time.monotonic()
        self._black_box: Final = BlackBox(settings.data_dir)
        self._casualties: Final = Casualties(self._black_box, time.monotonic)
        self._build()

    def _build(self) -> None:
        settings = self._settings
        ca_file = settings.database_ca_certificate_file
        certificates = None if ca_file is None else str(ca_file)
        tcp = settings.tcp_options()
        url = pooled = parse_database_url(settings.database_url, ca_file=certificates, defaults=tcp)
        if settings.pooled_database_url is not None:
            pooled = parse_database_url(settings.pooled_database_url, ca_file=certificates, defaults=tcp)
        for warning in url.warnings:
            _log.warning(warning)
        self._admin_pool = ConnectionPool(url, size=settings.admin_pool_size)
        self._snapshot_pool = ConnectionPool(pooled, size=settings.snapshot_pool_size)
        self._inspector = CatalogInspector(self._admin_pool)
        self._facts = RecordedFacts(self._control, self._inspector.find_ancestors)
        self._publication = PublicationTables(
            self._admin_pool,
            settings.publication_name,
            self._facts,
            on_lost=self._publication_lost,
            is_manual=settings.manual_table_publishing,
        )
        self._facts.welcome = self._publication.welcome
        delivery = _Delivery()
        self._tracker = FlushTracker(EndLsn(0))
        self._xids = RoutedXids()
        self._collector = ShapeLogCollector(
            boundary=EndLsn(0), facts=self._facts, delivery=delivery, tracker=self._tracker, xids=self._xids
        )
        self._accounts = CollectorAccounts(self._collector, self._tracker, self._xids, time.monotonic)
        self.consumers = ConsumersStage(
            ConsumerPorts(
                store=self._store,
                control=self._control,
                accounts=self._accounts,
                facts=self._facts,
                inspector=self._inspector,
                publication=self._publication,
                snapshots=PostgresSnapshots(self._snapshot_pool),
                published=self._published_here,
                open_source=self._open_source,
                readiness=self,
                is_replaying=self._is_replaying,
                are_generated_published=lambda: self._are_generated_published,
                unix_us=lambda: time.time_ns() // 1000,
                clock=time.monotonic,
                sheds=self._casualties,
                trail=self._trail,
                make_handler=self._faults.make_handler,
            ),
            limits := ConsumerLimits(
                tail_bytes_max=settings.tail_bytes_max,
                shape_tail_bytes_max=min(64 << 20, settings.tail_bytes_max),
                idle_s=settings.consumer_idle_s,
                chunk_bytes_max=settings.chunk_bytes_max,
                settle_retry_s=min(5.0, settings.flush_stall_grace_s / 4),
            ),
            # Well below the grace, or the healthy would be suspected.
            settle_age_s=min(SETTLE_AGE_S[settings.acknowledge], settings.flush_stall_grace_s / 5),
        )
        delivery.registry = self.consumers.registry
        self._spool = Spool(settings.data_dir, bytes_max=settings.subset_bytes_max)
        self.subsets = SubsetReader(
            catalog=self.consumers.catalog,
            registry=self.consumers.registry,
            accounts=self._accounts,
            inspector=self._inspector,
            source=PostgresSubsets(
                self._snapshot_pool,
                count_max=max(1, settings.snapshot_pool_size // 2),
                timeout_s=settings.subset_timeout_s,
            ),
            spool=self._spool,
            limits=limits,
        )
        self._faults.attach(self.consumers.registry)
        self._are_generated_published = False
        self._intake = Intake(
            self._collector,
            published=self._published_not_older,
            open_epoch=self._open_epoch,
            find_ancestors=self._facts.find_ancestors,
            on_broken=self._on_broken,
            on_slice=self._on_intake_slice,
            may_read=self.consumers.settler.may_read,
        )
        self._polls_before = 0
        self._budget_pool = ConnectionPool(url, size=1, application_name="penstock budget")
        self.sleeper = Sleeper(
            idle_s=settings.replication_idle_timeout_s,
            nap_s_max=settings.nap_s_max,
            board=self._board,
            wake_receiver=self._wake_receiver,
            pools=[self._admin_pool, self._snapshot_pool, self._budget_pool],
            is_still=self._is_still,
            is_up=self._is_up_again,
            transaction=lambda: self._accounts.seen[0],
            clock=time.monotonic,
        )
        self._watch = CatalogWatch(
            self._admin_pool,
            self._inspector,
            self._publication,
            tables=self.consumers.registry.tables,
            on_event=self._on_catalog,
            on_snapshot=self._on_snapshot,
            repair_interval_s=settings.publication_refresh_s,
            may_poll=self.sleeper.may_poll,
        )

        self.sweep = DebtSweep(
            limits=watch_limits(settings.flush_stall_grace_s),
            tracker=self._tracker,
            collector=self._collector,
            accounts=self._accounts,
            consumers=self.consumers,
            facts=self._facts,
            slices=lambda: self._slices_count,
            is_paused=lambda: self._intake.is_paused,
            clock=time.monotonic,
            on_look=self._judge_readiness,
        )
        self._casualties.describe = self._describe_casualty
        self._evictor = Evictor(
            self.consumers.registry,
            self._store,
            count_max=settings.shapes_max,
            bytes_max=settings.shapes_bytes_max,
            interval_s=settings.eviction_interval_s,
            is_active=lambda: self._is_active.is_set() and not self.sleeper.is_asleep,
            clock=time.monotonic,
        )
        self.disks = DiskWatch(
            settings.data_dir,
            settings.relay_folder,
            settings.disk_free_bytes_min,
            make_room=self._evictor.make_room,
        )
        self.consumers.catalog.has_room = lambda: self.disks.may_create
        self._handover = Handover(
            settings.data_dir,
            self.consumers.registry,
            self.consumers.settler,
            are_generated_published=lambda: self._are_generated_published,
        )
        self._compactor = LogCompactor(
            self.consumers.registry, self._store, interval_s=settings.compaction_interval_s, chance=random.random
        )
        self.budget = WalBudget(
            settings,
            self._budget_pool,
            tracker=self._tracker,
            registry=self.consumers.registry,
            settler=self.consumers.settler,
            report=self._receiver.read,
            clock=time.monotonic,
            poll_s=min(POLL_S, settings.flush_stall_grace_s / 2),
            may_poll=self.sleeper.may_poll,
            may_pin=lambda: self.disks.may_pin,
        )

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Work until `stopping` is set, then settle, record and leave.

        Raises:
            PenstockError: what only a person can mend.
        """
        choice.want(self._settings.compiled_core)
        _log.info("rows are decoded and encoded", core=choice.describe())
        await asyncio.to_thread(self._settings.state_folder.mkdir, 0o700, exist_ok=True)
        await asyncio.to_thread(self._spool.clear)
        await self._control.open()
        if self._control.was_set_aside:
            _log.error("the control store could not be read and was set aside; every shape starts over")
        is_clean = False
        try:
            is_clean = await self._run(await self._control.load(), stopping)
        finally:
            await self._publication.close()
            await self._admin_pool.close()
            await self._snapshot_pool.close()
            await self._budget_pool.close()
            await self._control.close(is_clean=is_clean)
            self._store.close()
            self._spool.close()
            self._black_box.close()

    async def _run(self, recovered: Recovered, stopping: asyncio.Event) -> bool:
        self._epoch = recovered.epoch or 0
        self._boundary = self._trim_below = recovered.boundary
        self._collector.begin_epoch(recovered.boundary)
        self._facts.restore(recovered.facts)
        self._xids_saved = recovered.facts.get((XIDS, ""), b"")
        self._xids.restore(self._xids_saved)
        self._tell_recorded()
        self._casualties.restore(recovered.sheds)
        registry = self.consumers.registry
        registry.is_replay_foreign = is_foreign(
            recorded_version=recovered.replay_version, was_clean=recovered.was_clean
        )
        self._replay_version = version_at_start(
            recorded_version=recovered.replay_version, was_clean=recovered.was_clean
        )
        if self._replay_version != recovered.replay_version:
            await self._control.record_replay_version(self._replay_version)
        self._trail_kept = recovered.facts.get((TRAIL, ""), b"")
        inherited = self._trail.take_over(self._epoch, self._trail_kept)
        await self._keep_trail()
        is_clean = False
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.consumers.run(recovered, self._restored), name="consumers"),
                group.create_task(self._when_restored(self._watch.run), name="catalog watch"),
                group.create_task(self._record(), name="recorder"),
                group.create_task(self._beat_always(), name="heartbeat"),
                group.create_task(self._learn_publication(), name="publication options"),
                group.create_task(self.sweep.run(), name="progress sweep"),
                group.create_task(self.budget.run(), name="budget of bytes"),
                group.create_task(self._evictor.run(), name="eviction"),
                group.create_task(self.disks.run(), name="space on the disks"),
                group.create_task(self.sleeper.run(), name="sleep"),
                group.create_task(self._compactor.run(), name="compaction"),
                group.create_task(self._handover.run(), name="handover"),
            ]
            reading = group.create_task(self._read(inherited), name="intake")
            stopped = group.create_task(stopping.wait(), name="stop")
            await asyncio.wait([stopped, reading], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                reading.cancel()
                is_clean = await self._drain()
            for task in (*tasks, stopped, reading):
                task.cancel()
        return is_clean

    def _restored(self) -> None:
        """
        Every live shape is routed. They are many objects that stay: the collector of cyclic garbage, which would stop
        everything for a second to look at those of a hundred thousand shapes, need not look at them again.
        """
        gc.collect()
        gc.freeze()
        self._is_restored.set()

    async def _when_restored(self, work: Callable[[], Awaitable[None]]) -> None:
        """
        Begin what must see all shapes: what becomes of a table concerns those too that are still to be taken over.
        """
        await self._is_restored.wait()
        await work()

    async def _read(self, inherited: Inherited) -> None:
        await self._is_restored.wait()
        convict = self.consumers.registry.entry(inherited.convicted)
        if convict is not None:
            reason = f"the engine died twice while it handled commit {CommitLsn(inherited.commit)} for this shape"
            self.consumers.registry.condemn([convict], reason, is_fault=True)
        await self._intake.run()

    async def _drain(self) -> bool:
        """
        Settle everything and record it; tells whether a restart will find all of it.
        """
        self._is_draining = True
        self._is_active.clear()
        self.consumers.catalog.close()
        settler = self.consumers.settler
        await settler.settle_all()
        try:
            await self._record_once()
        except PenstockError as error:
            _log.warning("the boundary could not be recorded at the end", error=error.message)
            return False
        published = self._published_here()
        if self._is_replaying() and published is not None and published.end > self._collector.last_seen_end.value:
            # What is left was served once already, perhaps by other code than the next.
            return False
        # Whoever still owes (it is behind, or its disk hangs) will be fed again: that is no clean stop.
        return not settler.without_space and not settler.failed_together and self._tracker.pending_count == 0

    def _is_replaying(self) -> bool:
        """
        Tell whether clients may have been served more by an engine before this one than this one has handled.

        In `shapes` mode the relay log is not synced, so after a power cut that is not in it and comes from Postgres
        again: all that the server had written by the time the receiver found it.
        """
        if not self._intake.is_caught_up:
            return True
        if self._is_level:
            return False
        report = self._receiver.read()
        if self._level_at is None and report is not None and report.phase == ReceiverPhase.STREAMING.value:
            self._level_at = report.server_end
        self._is_level = self._level_at is not None and self._collector.last_seen_end.value >= self._level_at
        return not self._is_level

    def wake(self) -> None:
        """
        Hint that more was published.
        """
        self._intake.wake()
        if self.consumers.registry.behind():
            self.consumers.catch_up.wake()

    async def _beat_always(self) -> None:
        while True:
            self._on_slice(time.monotonic())
            await asyncio.sleep(0.25)

    def _on_intake_slice(self, now: float) -> None:
        self._slices_count += 1
        self._on_slice(now)

    def _on_slice(self, now: float) -> None:
        del now
        self._beat()
        registry = self.consumers.registry
        if registry.is_replay_foreign and self._is_restored.is_set() and not self._is_replaying():
            registry.is_replay_foreign = False
        if self._trail.suspicions and not registry.is_anybody_waiting:
            # What would have killed this engine has had its chance.
            self._trail.pass_commit(self._collector.last_seen_commit.value)
        if self._health().state == "active":
            if not self._is_draining:
                self._is_active.set()
        else:
            self._is_active.clear()

    # --- the relay log -----------------------------------------------------------------------------------------------

    async def _open_epoch(self, published: PublishedEnd) -> RelayReader:
        if published.epoch != self._epoch:
            header = await asyncio.to_thread(read_epoch, self._settings.relay_folder, published.epoch)
            await self._begin_epoch(published.epoch, header.start, header.reason)
        reader = self._reader = RelayReader(self._settings.relay_folder, published.epoch)
        try:
            reader.seek(self._boundary)
        except CorruptLogError as error:
            # The shapes are known to be complete only up to the boundary, and what follows it is not there.
            _log.error("the relay log does not reach back to the recorded boundary", error=error.message)
            await self._begin_epoch(published.epoch, EndLsn(published.end), error.message)
            reader.seek(self._boundary)
        return reader

    async def _begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        count = len(self.consumers.registry)
        async with self._recording:
            while True:
                try:
                    await self._control.begin_epoch(epoch, boundary, reason)
                    break
                except PenstockError as error:
                    self._control_failure = error.message
                    _log.error("a new epoch cannot be recorded", error=error.message)
                    await asyncio.sleep(RETRY_S)
            self._control_failure = ""
            self._epoch, self._boundary, self._trim_below = epoch, boundary, boundary
            self._settled_noted.clear()
            self.consumers.registry.forget_all(reason)
            self._collector.begin_epoch(boundary)
            self._facts.forget_all()
            self._xids_saved = self._trail_kept = b""
            self.consumers.registry.is_replay_foreign = False
            self._trail.begin_epoch(epoch)
        self._tell_recorded()
        _log.warning("a new epoch has begun", epoch=epoch, start=str(boundary), reason=reason, rotated_shapes=count)

    def _published_here(self) -> PublishedEnd | None:
        """
        Read the published end, if it is of the epoch that our shapes belong to.
        """
        published = self._published.read()
        return None if published is None or published.epoch != self._epoch else published

    def _published_not_older(self) -> PublishedEnd | None:
        """
        Read the published end, but wait for the receiver while it goes on in an epoch before that of our shapes: the
        folder of the newer one is lost, and as soon as the receiver learns of it, it begins another.
        """
        published = self._published.read()
        return None if published is None or published.epoch < self._epoch else published

    async def _open_source(self, published: PublishedEnd) -> RelayReader:
        return RelayReader(self._settings.relay_folder, published.epoch)

    async def _on_broken(self, error: CorruptLogError | DecodeError) -> None:
        _log.error("the relay log cannot be followed; every shape starts over", error=error.message)
        # What follows the damage can be decoded only from where a segment begins.
        self._tell_recorded()
        await self.consumers.registry.condemn_all(f"relay log: {error.message}")

    # --- the boundary ------------------------------------------------------------------------------------------------

    async def _record(self) -> None:
        """
        Record the boundary while it moves, no more often than the mode says.
        """
        interval_s = RECORD_INTERVAL_S[self._settings.acknowledge]
        while True:
            try:
                await self._record_once()
                await self._casualties.save(self._control)
                await self._record_version()
                await self._keep_trail()
                self._control_failure = ""
            except PenstockError as error:
                if not self._control_failure:
                    _log.error("the flush boundary cannot be recorded", error=error.message)
                self._control_failure = error.message
            await asyncio.sleep(interval_s)

    async def _record_version(self) -> None:
        """
        Once nothing is left that code of another version was handed, what is served is ours.
        """
        registry = self.consumers.registry
        if self._replay_version != REPLAY_VERSION and not registry.is_replay_foreign and not registry.is_burying:
            await self._control.record_replay_version(REPLAY_VERSION)
            self._replay_version = REPLAY_VERSION

    async def _keep_trail(self) -> None:
        """
        Let what engines died on outlive the supervisor and its board.
        """
        found = self._trail.save()
        if found == self._trail_kept:
            return
        try:
            await self._control.record_fact(TRAIL, "", found)
        except PenstockError as error:
            _log.warning("what the engine before died on cannot be kept", error=error.message)
        else:
            self._trail_kept = found

    async def _record_once(self) -> None:
        async with self._recording:
            if self._epoch == 0:
                return
            registry = self.consumers.registry
            boundary = self._tracker.last_global_flushed_offset
            oldest = registry.oldest_creating()
            trim_below = boundary if oldest is None else min(boundary, oldest)
            if boundary == self._boundary and trim_below == self._trim_below:
                return
            moved = {
                entry.incarnation: entry.settled
                for entry in registry
                if entry.is_live and self._settled_noted.get(entry.incarnation) != entry.settled
            }
            if boundary != self._boundary:
                # What lies below the boundary is not decoded again: whether snapshots see it must be known after a crash.
                xids = self._xids.save(boundary)
                if xids != self._xids_saved:
                    await self._control.record_fact(XIDS, "", xids)
                    self._xids_saved = xids
                await self._control.checkpoint(boundary, moved)
                self._settled_noted.update(moved)
                if len(self._settled_noted) > 2 * len(registry) + SETTLED_NOTED_SLACK:
                    alive = {entry.incarnation for entry in registry}
                    self._settled_noted = {key: at for key, at in self._settled_noted.items() if key in alive}
            self._boundary, self._trim_below = boundary, trim_below
            self._trail.forget_below(boundary.value)
        self._tell_recorded()

    def _tell_recorded(self) -> None:
        """
        Show the receiver what the control store has.
        """
        damaged = 0 if self._reader is None else self._reader.damaged_segment
        self._recorded_cell.write(RecordedBoundary(self._boundary, self._trim_below, self._epoch, damaged))
        self._wake_receiver()

    # --- the database ------------------------------------------------------------------------------------------------

    async def _learn_publication(self) -> None:
        """
        Find out once it is there whether the publication brings generated columns.
        """
        while True:
            await self._is_active.wait()
            try:
                self._are_generated_published = await self._publication.publishes_generated()
            except PenstockError as error:
                _log.warning("the publication's options cannot be read", error=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _publication_lost(self, oid: int, reason: str, columns: frozenset[str] | None) -> None:
        registry = self.consumers.registry
        entries = registry.on_table(oid)
        if columns is not None:
            entries = [entry for entry in entries if any(column.name in columns for column in entry.definition.columns)]
        registry.condemn(entries, reason)
        for entry in entries:
            await registry.wait_gone(entry)

    def _on_catalog(self, event: CatalogEvent) -> None:
        match event:
            case TableGone(oid):
                self.consumers.registry.condemn(
                    self.consumers.registry.on_table(oid), "its table has been dropped or renamed"
                )
            case TableChanged(table):
                self.consumers.catalog.table_changed(table)

    def _on_snapshot(self, bounds: SnapshotBounds) -> None:
        self._accounts.confirm_visible(bounds)

    # --- suspicion ---------------------------------------------------------------------------------------------------

    def _describe_casualty(self, incarnation: int) -> dict[str, object]:
        """
        Tell what the black box keeps of a shape that is being given up; never the values of rows.
        """
        now = time.monotonic()
        debt = self._tracker.debt_of(incarnation)
        entry = self.consumers.registry.entry(incarnation)
        consumer = None if entry is None else entry.consumer
        log = None if consumer is None else consumer.log
        settler = self.consumers.settler
        return {
            "debt": None
            if debt is None
            else {
                "owed_s": round(now - debt.since, 3),
                "progress_s": round(now - debt.progress_at, 3),
                "first_commit": str(debt.first_commit),
                "last_commit": str(debt.last_commit),
                "flushed": str(debt.flushed),
            },
            "consumer": None
            if consumer is None
            else {
                "state": consumer.state.value,
                "handling": str(CommitLsn(consumer.current)),
                "done": str(consumer.done),
                "missed": str(CommitLsn(consumer.missed)),
                "is_half_way": consumer.is_half_way,
            },
            "log": None
            if log is None
            else {
                "tail_bytes": log.tail_bytes,
                "settled": None if log.settled is None else str(log.settled[1]),
            },
            "positions": self.positions(),
            "owing_count": self._tracker.pending_count,
            "behind_count": len(self.consumers.registry.behind()),
            "sweep_late_s": round(self.sweep.watch.late_s, 3),
            "hung_disk_calls": len(self._store.hung()),
            "without_space_count": len(settler.without_space),
            "problems": self.problems[:4],
        }

    def _judge_readiness(self, now: float) -> None:
        """
        See once a second whether clients should be sent elsewhere.
        """
        report = self._receiver.read()
        if report is not None and report.phase in {ReceiverPhase.STREAMING.value, ReceiverPhase.ASLEEP.value}:
            self._link_since = now
        waiting_since = self._control.waiting_since
        if waiting_since is not None and now - waiting_since > self._control_answer_s:
            # A disk that hangs raises nothing.
            self._control_failure = "its disk does not answer"
            self._is_control_hung = True
        elif self._is_control_hung:
            self._control_failure = ""
            self._is_control_hung = False
        if not self._control_failure:
            self._control_since = now
        before, self._unready = self._unready, find_unready(self._facts_now(now), self._ready_limits)
        if bool(before) != bool(self._unready):
            _log.warning("readiness changes", unready=self._unready or None)

    def _facts_now(self, now: float) -> Facts:
        report = self._receiver.read()
        health = self._health()
        beat = read_heartbeat(self._board, Cell.RECEIVER_HEARTBEAT)
        registry = self.consumers.registry
        oldest = registry.oldest_creating()
        retained = self.budget.retained
        relay_disk = ""
        if report is not None:
            relay_disk = report.disk_failure or ("its disk does not answer" if report.is_disk_hung else "")
            if report.is_out_of_room:
                is_budget = report.relay_bytes >= self._settings.relay_bytes_max
                relay_disk = relay_disk or ("its budget is used up" if is_budget else "it is nearly full")
        return Facts(
            acknowledge=self._settings.acknowledge,
            not_active="" if health.state == "active" else health.reason,
            phase="" if report is None else report.phase,
            asleep_s=self.sleeper.asleep_s,
            link_down_s=now - self._link_since,
            receiver_silent_s=0.0 if beat is None else max(0.0, now - beat.at_s),
            error="" if report is None else report.error,
            server=0 if report is None else report.server_end,
            received=0 if report is None else report.received,
            durable=0 if report is None else report.durable,
            confirmed=0 if report is None else report.confirmed,
            processed=self._collector.last_seen_end.value,
            boundary=self._boundary.value,
            restart=0 if retained is None else retained.restart,
            server_held_by="" if retained is None else retained.held_by,
            relay_bytes=0 if report is None else report.relay_bytes,
            relay_bytes_max=self._settings.relay_bytes_max,
            relay_disk=relay_disk,
            control_failure=self._control_failure,
            control_failure_s=now - self._control_since,
            owing_count=self._tracker.pending_count,
            owing=[self._tell_owing(debt, now) for debt in self._tracker.pinning_debts(SHAPES_TOLD_MAX)],
            oldest_owed_s=self.sweep.stood_still_s,
            creating_count=0 if oldest is None else registry.creating_count,
            alarms=self.sweep.alarms,
            is_paused=self._intake.is_paused,
            shed_count=registry.shed_count,
            resting_count=len(self._casualties.resting()),
        )

    def _tell_owing(self, debt: Debt, now: float) -> OwingShape:
        entry = self.consumers.registry.entry(debt.incarnation)
        verdict = self.sweep.verdict_on(debt.incarnation)
        table = None if entry is None else entry.definition.table
        return OwingShape(
            handle=f"#{debt.incarnation}" if entry is None else entry.handle,
            table="" if table is None else f"{table.schema}.{table.name}",
            owed_s=round(now - debt.since, 1),
            flushed=debt.flushed.value,
            state="being opened" if entry is None or entry.consumer is None else entry.consumer.state.value,
            verdict="" if verdict is None else verdict.reason,
            next="" if verdict is None else NEXT[verdict.action],
        )

    # --- sleep -------------------------------------------------------------------------------------------------------

    def _is_still(self) -> bool:
        """
        Tell whether nobody would miss the connections.
        """
        report = self._receiver.read()
        self._polls_before = self._watch.polls_count
        return (
            report is not None
            and report.phase == ReceiverPhase.STREAMING.value
            and self._health().state == "active"
            and not self._is_draining
            and self._tracker.pending_count == 0
            and self.consumers.registry.creating_count == 0
            and self.consumers.catalog.creating_count == 0
            and not self.consumers.registry.is_any_behind
            and self._admin_pool.in_use_count + self._snapshot_pool.in_use_count + self._budget_pool.in_use_count == 0
        )

    def _is_up_again(self) -> bool:
        """
        Tell whether the stream runs and the catalog was compared since the connections were closed.
        """
        report = self._receiver.read()
        is_streaming = report is not None and report.phase == ReceiverPhase.STREAMING.value
        return is_streaming and self._watch.polls_count > self._polls_before

    async def rouse(self) -> None:
        """
        A request came: wake if we sleep.
        """
        await self.sleeper.rouse(ROUSE_S_MAX)

    # --- serving -----------------------------------------------------------------------------------------------------

    def _health(self) -> Health:
        last_seen = self._collector.last_seen_lsn
        report = self._receiver.read()
        detail = "" if report is None else report.error
        if report is None or report.phase == "waiting for lock":
            state = "waiting" if report is not None and self._is_restored.is_set() else "starting"
            return Health(state, "Postgres lock acquisition", detail, last_seen)
        if not report.has_streamed:
            return Health("starting", "replication client to be ready", detail, last_seen)
        # A shape made before everything published is handled again could miss a commit that is visible late.
        if not self._is_restored.is_set() or not self._intake.is_caught_up:
            return Health("starting", "shape data to be loaded", detail, last_seen)
        if self._intake.is_broken:
            return Health("starting", "integrety checks", "the relay log is damaged", last_seen)
        return Health("active", "", detail, last_seen, self._unready, self.sleeper.is_asleep)

    def health(self) -> Health:
        """
        Tell where the engine stands; see `penstock.consumers.catalog.Readiness`.
        """
        return self._health()

    async def wait_active(self) -> None:
        """
        Wait until shapes can be made.
        """
        await self._is_active.wait()

    @property
    def problems(self) -> list[str]:
        """
        What an operator should know is not well, in sentences.
        """
        found: list[str] = []
        report = self._receiver.read()
        if report is not None:
            if report.error:
                found.append(f"replication: {report.error}")
            if report.disk_failure:
                found.append(f"relay log: {report.disk_failure}")
            if report.is_disk_hung:
                found.append("relay log: its disk does not answer")
            if report.is_out_of_room and report.relay_bytes >= self._settings.relay_bytes_max:
                found.append("relay log: the budget relay_bytes_max is used up; Postgres keeps what follows")
        settler = self.consumers.settler
        if settler.without_space:
            found.append(f"shape logs: {len(settler.without_space)} shapes find no space on the disk")
        if hung := self._store.hung():
            found.append(f"shape logs: the disk does not answer for {len(hung)} shapes")
        if self._control_failure:
            found.append(f"control store: {self._control_failure}")
        found += self.disks.problems
        found += self.sweep.alarms
        found += self.budget.problems
        if not settler.may_read.is_set():
            found.append("the engine does not read on: the tails of shapes are full and wait for the disk")
        if self._intake.is_broken:
            found.append("the relay log is damaged; new shapes wait until the stream goes on")
        return found

    def positions(self) -> dict[str, str]:
        """
        How far each part has got, as LSNs.
        """
        report: ReceiverReport | None = self._receiver.read()
        return {
            "received": str(EndLsn(0 if report is None else report.received)),
            "durable": str(EndLsn(0 if report is None else report.durable)),
            "confirmed": str(EndLsn(0 if report is None else report.confirmed)),
            "server": str(EndLsn(0 if report is None else report.server_end)),
            "processed": str(self._collector.last_seen_end),
            "flush_boundary": str(self._tracker.last_global_flushed_offset),
            "recorded_boundary": str(self._boundary),
        }

    async def status(self) -> dict[str, object]:
        """
        Tell everything an operator may want to know.
        """
        report = self._receiver.read()
        health = self._health()
        registry = self.consumers.registry
        return {
            "state": health.state,
            "waiting_for": health.reason,
            "problems": self.problems,
            "positions": self.positions(),
            "epoch": self._epoch,
            "acknowledge": self._settings.acknowledge,
            "shape_count": len(registry),
            "behind_count": len(registry.behind()),
            "owing_count": self._tracker.pending_count,
            "shed_count": registry.shed_count,
            "evicted_count": self._evictor.evicted_count,
            "compacted_count": self._compactor.compacted_count,
            "replaced_consumer_count": registry.replaced_count,
            "resting": self._casualties.resting(),
            "accounting_defect_count": self.sweep.watch.defect_count,
            "tail_bytes": self.consumers.settler.tail_bytes,
            "relay_bytes": 0 if report is None else report.relay_bytes,
            "receiver": "" if report is None else report.phase,
            "retained": None if self.budget.attribution is None else msgspec.to_builtins(self.budget.attribution),
            "unready": self._unready,
            "explain": msgspec.to_builtins(explain(self._facts_now(time.monotonic()))),
        }


class EngineSource:
    """
    The engine as whoever serves clients sees it; implements `penstock.api.abc.ShapeSource`.
    """

    def __init__(self, engine: Engine) -> None:
        """
        Speak for this engine.
        """
        self._engine: Final = engine
        self._waits_ended: Final[dict[tuple[str | None, LogOffset | None], float]] = {}

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        See `ShapeSource.open`.
        """
        if self._is_end_of_wait(request):
            unchanged = self._find_unchanged(request)
            if unchanged is not None:
                return unchanged
        else:
            await self._engine.rouse()
        return await self._engine.consumers.catalog.open(request)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        See `ShapeSource.wait`.
        """
        try:
            return await self._engine.consumers.catalog.wait(handle, after)
        except asyncio.CancelledError:
            if self._engine.sleeper.is_asleep:
                self._waits_ended[handle, after] = time.monotonic()
            raise

    def _find_unchanged(self, request: ShapeRequest) -> Opened | None:
        """
        Answer for a shape that has nothing new without asking the database; None when that cannot be done.
        """
        entry = None if request.handle is None else self._engine.consumers.registry.find(request.handle)
        log = None if entry is None or entry.condemned is not None or entry.consumer is None else entry.consumer.log
        if entry is None or log is None or request.offset is None or log.last > request.offset:
            return None
        if self._engine.consumers.catalog.is_behind(entry):
            return None
        # What ends a wait in vain has no schema.
        seen = self._engine.health().last_seen_lsn
        return Opened(entry.handle, "", LogRange(request.offset, log.last), seen)

    def _is_end_of_wait(self, request: ShapeRequest) -> bool:
        """
        Tell whether this asks a last time for what a live request that began before the sleep has waited for: that one
        ends as it would have ended anyway, and wakes nobody.
        """
        ended_at = self._waits_ended.pop((request.handle, request.offset), None)
        if not self._engine.sleeper.is_asleep:
            self._waits_ended.clear()
        return request.is_live and ended_at is not None and time.monotonic() - ended_at < END_OF_WAIT_S_MAX

    async def health(self) -> Health:
        """
        See `ShapeSource.health`.
        """
        return self._engine.health()

    async def status(self) -> dict[str, object]:
        """
        See `ShapeSource.status`.
        """
        return await self._engine.status()

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        See `ShapeSource.load_subset`.
        """
        await self._engine.rouse()
        return await self._engine.subsets.load(question)

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        See `ShapeSource.remove`.
        """
        await self._engine.rouse()
        return await self._engine.consumers.catalog.remove(request)


def run(context: RoleContext) -> None:
    """
    Be the engine until told to end.
    """
    uvloop.run(_run(context))


async def _run(context: RoleContext) -> None:
    stopping = asyncio.Event()

    def beat() -> None:
        health = engine.health()
        context.heartbeat(is_ready=health.state == "active", state=health.reason or health.state)

    engine = Engine(
        context.settings,
        context.board,
        wake_receiver=context.receiver_wake.ring,
        beat=beat,
        faults=context.faults,
    )

    def woken() -> None:
        context.engine_wake.clear()
        engine.wake()

    loop = asyncio.get_running_loop()
    loop.add_reader(context.engine_wake.reader, woken)
    server = ShapeSourceServer(EngineSource(engine), context.engine_socket)
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run(stopping), name="engine")
            await context.stopping.stopped()
            stopping.set()
    finally:
        loop.remove_reader(context.engine_wake.reader)
        await server.close()
