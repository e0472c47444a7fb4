"""
What the engine tells people: its status, what is not well, and what is kept of a shape that is given up.

Shell, in so far as the clock is read; every answer is put together from what the parts say at that moment, and never
holds values of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.consumers.compactor import LogCompactor
from penstock.consumers.consumer import Consumer
from penstock.consumers.evictor import Evictor
from penstock.consumers.stage import ConsumersStage
from penstock.liveness.explain import explain
from penstock.postgres.lsn import CommitLsn
from penstock.service.cells import ReceiverReport
from penstock.service.disk_watch import DiskWatch
from penstock.service.engine.control_health import ControlHealth
from penstock.service.engine.health import EngineHealth
from penstock.service.engine.positions import Positions
from penstock.service.engine.readiness import ReadinessLook
from penstock.service.engine.reading import RelayReading
from penstock.service.engine.recorder import BoundaryRecorder
from penstock.service.settings import Settings
from penstock.service.sweep import Casualties, DebtSweep
from penstock.service.wal_budget import WalBudget
from penstock.shape_log.store import FileShapeLogStore

PROBLEMS_KEPT_MAX: Final = 4
"""So many problems are kept with a shape that is given up."""


class EngineStatus:
    """
    Speaks for the engine.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        report: Callable[[], ReceiverReport | None],
        health: EngineHealth,
        control_health: ControlHealth,
        readiness: ReadinessLook,
        positions: Positions,
        recorder: BoundaryRecorder,
        reading: RelayReading,
        tracker: FlushTracker,
        consumers: ConsumersStage,
        store: FileShapeLogStore,
        casualties: Casualties,
        sweep: DebtSweep,
        budget: WalBudget,
        disks: DiskWatch,
        evictor: Evictor,
        compactor: LogCompactor,
        clock: Callable[[], float],
    ) -> None:
        """
        Take who is asked.

        Args:
            settings: of the service.
            report: what the receiver said last.
            health: whether the engine is active.
            control_health: whether the control store answers.
            readiness: gathers the facts for the explanation.
            positions: how far each part has got.
            recorder: the epoch.
            reading: whether the relay log can be decoded.
            tracker: what is owed.
            consumers: the shapes.
            store: whether their disk answers.
            casualties: shapes that rest.
            sweep: what is thought of those that owe.
            budget: what the server keeps, and for whom.
            disks: their space.
            evictor: counts what was given up for want of room.
            compactor: counts what was made smaller.
            clock: the one that dates debts.
        """
        self._settings: Final = settings
        self._report: Final = report
        self._health: Final = health
        self._control_health: Final = control_health
        self._readiness: Final = readiness
        self._positions: Final = positions
        self._recorder: Final = recorder
        self._reading: Final = reading
        self._tracker: Final = tracker
        self._consumers: Final = consumers
        self._store: Final = store
        self._casualties: Final = casualties
        self._sweep: Final = sweep
        self._budget: Final = budget
        self._disks: Final = disks
        self._evictor: Final = evictor
        self._compactor: Final = compactor
        self._clock: Final = clock

    def tell(self) -> dict[str, object]:
        """
        Tell everything an operator may want to know.
        """
        report = self._report()
        health = self._health.health()
        registry = self._consumers.registry
        return {
            "state": health.state,
            "waiting_for": health.reason,
            "problems": self.problems,
            "positions": self._positions.tell(),
            "epoch": self._recorder.epoch,
            "acknowledge": self._settings.acknowledge,
            "shape_count": len(registry),
            "behind_count": len(registry.behind()),
            "owing_count": self._tracker.pending_count,
            "shed_count": registry.shed_count,
            "evicted_count": self._evictor.evicted_count,
            "compacted_count": self._compactor.compacted_count,
            "replaced_consumer_count": registry.replaced_count,
            "resting": self._casualties.resting(),
            "accounting_defect_count": self._sweep.watch.defect_count,
            "unknown_delivery_count": registry.unknown_count,
            "tail_bytes": self._consumers.settler.tail_bytes,
            "relay_bytes": 0 if report is None else report.relay_bytes,
            "receiver": "" if report is None else report.phase,
            "retained": None if self._budget.attribution is None else msgspec.to_builtins(self._budget.attribution),
            "unready": self._health.unready,
            "explain": msgspec.to_builtins(explain(self._readiness.facts(self._clock()))),
        }

    @property
    def problems(self) -> list[str]:
        """
        What an operator should know is not well, in sentences.
        """
        found: list[str] = []
        report = self._report()
        if report is not None:
            if report.error:
                found.append(f"replication: {report.error}")
            if report.disk_failure:
                found.append(f"relay log: {report.disk_failure}")
            if report.is_disk_hung:
                found.append("relay log: its disk does not answer")
            if report.is_out_of_room and report.relay_bytes >= self._settings.relay_bytes_max:
                found.append("relay log: the budget relay_bytes_max is used up; Postgres keeps what follows")
        settler = self._consumers.settler
        if settler.without_space:
            found.append(f"shape logs: {len(settler.without_space)} shapes find no space on the disk")
        if hung := self._store.hung():
            found.append(f"shape logs: the disk does not answer for {len(hung)} shapes")
        if self._control_health.failure:
            found.append(f"control store: {self._control_health.failure}")
        found += self._disks.problems
        found += self._sweep.alarms
        found += self._budget.problems
        if not settler.may_read.is_set():
            found.append("the engine does not read on: the tails of shapes are full and wait for the disk")
        if self._reading.is_broken:
            found.append("the relay log is damaged; new shapes wait until the stream goes on")
        return found

    def describe_casualty(self, incarnation: int) -> dict[str, object]:
        """
        Tell what the black box keeps of a shape that is being given up; never the values of rows.
        """
        debt = self._tracker.debt_of(incarnation)
        entry = self._consumers.registry.entry(incarnation)
        consumer = None if entry is None else entry.consumer
        log = None if consumer is None else consumer.log
        return {
            "debt": None if debt is None else _describe_debt(debt, self._clock()),
            "consumer": None if consumer is None else _describe_consumer(consumer),
            "log": None
            if log is None
            else {
                "tail_bytes": log.tail_bytes,
                "settled": None if log.settled is None else str(log.settled[1]),
            },
            "positions": self._positions.tell(),
            "owing_count": self._tracker.pending_count,
            "behind_count": len(self._consumers.registry.behind()),
            "sweep_late_s": round(self._sweep.watch.late_s, 3),
            "hung_disk_calls": len(self._store.hung()),
            "without_space_count": len(self._consumers.settler.without_space),
            "problems": self.problems[:PROBLEMS_KEPT_MAX],
        }


def _describe_debt(debt: Debt, now: float) -> dict[str, object]:
    return {
        "owed_s": round(now - debt.since, 3),
        "progress_s": round(now - debt.progress_at, 3),
        "first_commit": str(debt.first_commit),
        "last_commit": str(debt.last_commit),
        "flushed": str(debt.flushed),
    }


def _describe_consumer(consumer: Consumer) -> dict[str, object]:
    return {
        "state": consumer.state.value,
        "handling": str(CommitLsn(consumer.current)),
        "done": str(consumer.done),
        "missed": str(CommitLsn(consumer.missed)),
        "is_half_way": consumer.is_half_way,
    }
