"""
All parts of an engine, built and joined: the only place that knows how they hang together.

Some know each other in a circle (the collector delivers to the registry, which reports to the collector); there the
first is given a function that finds the second when it is called, which is never before all are built. Shell; decides
nothing, and opens nothing.
"""

# These functions find a part when they are called, which is built after the one that is given them.
# ruff: noqa: PLW0108

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.compactor import LogCompactor
from penstock.consumers.evictor import Evictor
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.spool import Spool
from penstock.consumers.stage import ConsumerPorts, ConsumersStage
from penstock.consumers.subsets import SubsetReader
from penstock.control.store import SqliteControlStore
from penstock.database.publication import PublicationTables
from penstock.database.snapshots import PostgresSnapshots
from penstock.database.subsets import PostgresSubsets
from penstock.database.watch import CatalogWatch
from penstock.liveness.black_box import BlackBox
from penstock.liveness.board import Board
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.service.cells import RecordedBoundaryCell, published_cell, receiver_cell
from penstock.service.disk_watch import DiskWatch
from penstock.service.engine.connections import Connections
from penstock.service.engine.control_health import ANSWER_S_MAX, ControlHealth
from penstock.service.engine.health import EngineHealth
from penstock.service.engine.positions import Positions
from penstock.service.engine.pulse import EnginePulse
from penstock.service.engine.readiness import ReadinessLook
from penstock.service.engine.reading import RelayReading
from penstock.service.engine.recorder import RECORD_INTERVAL_S, BoundaryRecorder
from penstock.service.engine.source import EngineSource
from penstock.service.engine.status import EngineStatus
from penstock.service.engine.stillness import Stillness
from penstock.service.engine.tables import TableChanges
from penstock.service.facts import RecordedFacts
from penstock.service.faults import EngineFaults
from penstock.service.handover import Handover
from penstock.service.settings import Settings
from penstock.service.sleep import EndedWaits, Sleeper
from penstock.service.sweep import Casualties, DebtSweep, watch_limits
from penstock.service.trail import BoardTrail
from penstock.service.wal_budget import POLL_S, WalBudget

SETTLE_AGE_S: Final[Mapping[str, float]] = {"relay": 4.0, "shapes": 0.5}
"""A tail of this age is settled."""


class EngineParts:
    """
    The parts; each says itself what it does.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        wake_receiver: Callable[[], None],
        beat: Callable[[], None],
        faults: EngineFaults,
    ) -> None:
        """
        Build them; see `penstock.service.engine.engine.Engine`.
        """
        grace_s = settings.flush_stall_grace_s
        clock = time.monotonic
        report = receiver_cell(board).read
        published = published_cell(board).read
        limits = _consumer_limits(settings)

        # What outlives the engine.
        self.control: Final = SqliteControlStore(settings.state_folder / "control.sqlite")
        self.store: Final = faults.make_store(settings.data_dir)
        self.spool: Final = Spool(settings.data_dir, bytes_max=settings.subset_bytes_max)
        self.black_box: Final = BlackBox(settings.data_dir)
        trail = BoardTrail(board)
        casualties = Casualties(self.black_box, clock)
        control_health = ControlHealth(
            waiting_since=lambda: self.control.waiting_since,
            answer_s_max=min(ANSWER_S_MAX, grace_s / 2),
            now=clock(),
        )

        # The database.
        self.connections: Final = Connections(settings)
        inspector = self.connections.inspector
        facts = RecordedFacts(self.control, inspector.find_ancestors)
        self.publication: Final = PublicationTables(
            self.connections.admin,
            settings.publication_name,
            facts,
            on_lost=lambda *lost: self.tables.give_up(*lost),
            is_manual=settings.manual_table_publishing,
        )
        facts.welcome = self.publication.welcome

        # From the stream to the shapes.
        self.tracker: Final = FlushTracker(EndLsn(0))
        xids = RoutedXids()
        self.collector: Final = ShapeLogCollector(
            boundary=EndLsn(0),
            facts=facts,
            delivery=_Delivery(lambda: self.consumers.registry),
            tracker=self.tracker,
            xids=xids,
        )
        accounts = CollectorAccounts(self.collector, self.tracker, xids, clock)
        self.health: Final = EngineHealth(
            report=report,
            last_seen_lsn=lambda: self.collector.last_seen_lsn,
            is_caught_up=lambda: self.reading.is_caught_up,
            is_broken=lambda: self.reading.is_broken,
            is_asleep=lambda: self.sleeper.is_asleep,
        )
        self.consumers: Final = ConsumersStage(
            ConsumerPorts(
                store=self.store,
                control=self.control,
                accounts=accounts,
                facts=facts,
                inspector=inspector,
                publication=self.publication,
                snapshots=PostgresSnapshots(self.connections.snapshots),
                published=lambda: self.reading.published_here(),
                open_source=lambda end: self.reading.open_source(end),
                readiness=self.health,
                is_replaying=lambda: self.reading.is_replaying(),
                are_generated_published=lambda: self.tables.are_generated_published,
                unix_us=lambda: time.time_ns() // 1000,
                clock=clock,
                sheds=casualties,
                trail=trail,
                make_handler=faults.make_handler,
            ),
            limits,
            # Well below the grace, or the healthy would be suspected.
            settle_age_s=min(SETTLE_AGE_S[settings.acknowledge], grace_s / 5),
        )
        registry = self.consumers.registry
        faults.attach(registry)
        self.tables: Final = TableChanges(publication=self.publication, consumers=self.consumers, health=self.health)
        self.recorder: Final = BoundaryRecorder(
            interval_s=RECORD_INTERVAL_S[settings.acknowledge],
            control=self.control,
            control_health=control_health,
            tracker=self.tracker,
            xids=xids,
            collector=self.collector,
            registry=registry,
            facts=facts,
            trail=trail,
            casualties=casualties,
            cell=RecordedBoundaryCell(board),
            damaged_segment=lambda: self.reading.damaged_segment,
            wake_receiver=wake_receiver,
        )
        self.reading: Final = RelayReading(
            settings.relay_folder,
            acknowledge=settings.acknowledge,
            published=published,
            report=report,
            recorder=self.recorder,
            collector=self.collector,
            consumers=self.consumers,
            facts=facts,
            on_slice=lambda now: self.pulse.handle_slice(now),
        )
        self.pulse: Final = EnginePulse(
            beat=beat,
            health=self.health,
            registry=registry,
            collector=self.collector,
            trail=trail,
            is_replaying=self.reading.is_replaying,
        )

        # What looks after the database's connections and its catalog.
        self.sleeper: Final = Sleeper(
            idle_s=settings.replication_idle_timeout_s,
            nap_s_max=settings.nap_s_max,
            board=board,
            wake_receiver=wake_receiver,
            pools=self.connections.pools,
            is_still=lambda: stillness.is_still(),
            is_up=lambda: stillness.is_up_again(),
            transaction=lambda: accounts.seen[0],
            clock=clock,
        )
        self.watch: Final = CatalogWatch(
            self.connections.admin,
            inspector,
            self.publication,
            tables=registry.tables,
            on_event=self.tables.handle,
            on_snapshot=accounts.confirm_visible,
            repair_interval_s=settings.publication_refresh_s,
            may_poll=self.sleeper.may_poll,
        )
        stillness = Stillness(
            report=report,
            health=self.health,
            tracker=self.tracker,
            consumers=self.consumers,
            watch=self.watch,
            connections=self.connections,
        )

        # What looks after the shapes and their disks.
        self.sweep: Final = DebtSweep(
            limits=watch_limits(grace_s),
            tracker=self.tracker,
            collector=self.collector,
            accounts=accounts,
            consumers=self.consumers,
            facts=facts,
            slices=lambda: self.pulse.slices_count,
            is_paused=lambda: self.reading.is_paused,
            clock=clock,
            on_look=lambda now: readiness.look(now),
        )
        self.evictor: Final = Evictor(
            registry,
            self.store,
            count_max=settings.shapes_max,
            bytes_max=settings.shapes_bytes_max,
            interval_s=settings.eviction_interval_s,
            is_active=lambda: self.health.is_active.is_set() and not self.sleeper.is_asleep,
            clock=clock,
        )
        self.disks: Final = DiskWatch(
            settings.data_dir,
            settings.relay_folder,
            settings.disk_free_bytes_min,
            make_room=self.evictor.make_room,
        )
        self.consumers.catalog.has_room = lambda: self.disks.may_create
        self.compactor: Final = LogCompactor(
            registry, self.store, interval_s=settings.compaction_interval_s, chance=random.random
        )
        self.budget: Final = WalBudget(
            settings,
            self.connections.budget,
            tracker=self.tracker,
            registry=registry,
            settler=self.consumers.settler,
            report=report,
            clock=clock,
            poll_s=min(POLL_S, grace_s / 2),
            may_poll=self.sleeper.may_poll,
            may_pin=lambda: self.disks.may_pin,
        )
        self.handover: Final = Handover(
            settings.data_dir,
            registry,
            self.consumers.settler,
            are_generated_published=lambda: self.tables.are_generated_published,
        )

        # What is told to people and to clients.
        positions = Positions(report=report, collector=self.collector, tracker=self.tracker, recorder=self.recorder)
        readiness = ReadinessLook(
            settings,
            board,
            report=report,
            health=self.health,
            control_health=control_health,
            recorder=self.recorder,
            reading=self.reading,
            collector=self.collector,
            tracker=self.tracker,
            consumers=self.consumers,
            casualties=casualties,
            sweep=self.sweep,
            budget=self.budget,
            sleeper=self.sleeper,
            clock=clock,
        )
        self.status: Final = EngineStatus(
            settings,
            report=report,
            health=self.health,
            control_health=control_health,
            readiness=readiness,
            positions=positions,
            recorder=self.recorder,
            reading=self.reading,
            tracker=self.tracker,
            consumers=self.consumers,
            store=self.store,
            casualties=casualties,
            sweep=self.sweep,
            budget=self.budget,
            disks=self.disks,
            evictor=self.evictor,
            compactor=self.compactor,
            clock=clock,
        )
        casualties.describe = self.status.describe_casualty
        self.source: Final = EngineSource(
            consumers=self.consumers,
            subsets=SubsetReader(
                catalog=self.consumers.catalog,
                registry=registry,
                accounts=accounts,
                inspector=inspector,
                source=PostgresSubsets(
                    self.connections.snapshots,
                    count_max=max(1, settings.snapshot_pool_size // 2),
                    timeout_s=settings.subset_timeout_s,
                ),
                spool=self.spool,
                limits=limits,
            ),
            health=self.health,
            status=self.status,
            sleeper=self.sleeper,
            ended_waits=EndedWaits(self.sleeper, clock),
        )


class _Delivery:
    """
    Delivers to the registry, which is built after the collector.
    """

    def __init__(self, registry: Callable[[], ConsumerRegistry]) -> None:
        self._find_registry: Final = registry
        self._found: ConsumerRegistry | None = None

    @property
    def _registry(self) -> ConsumerRegistry:
        if self._found is None:
            self._found = self._find_registry()
        return self._found

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        self._registry.publish(parts)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        self._registry.relation_seen(description, table_oids)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        self._registry.relation_spoiled(table_oids, at, reason, xid)


def _consumer_limits(settings: Settings) -> ConsumerLimits:
    return ConsumerLimits(
        tail_bytes_max=settings.tail_bytes_max,
        shape_tail_bytes_max=min(64 << 20, settings.tail_bytes_max),
        idle_s=settings.consumer_idle_s,
        chunk_bytes_max=settings.chunk_bytes_max,
        settle_retry_s=min(5.0, settings.flush_stall_grace_s / 4),
    )
