"""
Whether clients should be sent elsewhere, and the facts from which that, and the explanation for people, is told.

Gathers what each part last said; what follows from it is decided by `penstock.liveness.explain`. Shell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.consumers.stage import ConsumersStage
from penstock.liveness.board import Board, Cell
from penstock.liveness.explain import SHAPES_TOLD_MAX, Facts, OwingShape, find_unready
from penstock.replication.state import ReceiverPhase
from penstock.service.cells import ReceiverReport
from penstock.service.engine.control_health import ControlHealth
from penstock.service.engine.health import EngineHealth
from penstock.service.engine.reading import RelayReading
from penstock.service.engine.recorder import BoundaryRecorder
from penstock.service.lifecycle import read_heartbeat
from penstock.service.settings import Settings
from penstock.service.sleep import Sleeper
from penstock.service.sweep import NEXT, Casualties, DebtSweep, ready_limits
from penstock.service.wal_budget import WalBudget

_log: Final = structlog.get_logger(__name__)


class ReadinessLook:
    """
    Looks at the whole service once a second.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        report: Callable[[], ReceiverReport | None],
        health: EngineHealth,
        control_health: ControlHealth,
        recorder: BoundaryRecorder,
        reading: RelayReading,
        collector: ShapeLogCollector,
        tracker: FlushTracker,
        consumers: ConsumersStage,
        casualties: Casualties,
        sweep: DebtSweep,
        budget: WalBudget,
        sleeper: Sleeper,
        clock: Callable[[], float],
    ) -> None:
        """
        Take what it looks at.

        Args:
            settings: of the service.
            board: where the receiver's heartbeat is.
            report: what the receiver said last.
            health: whether the engine is active; told when clients should be sent elsewhere.
            control_health: whether the control store answers.
            recorder: what it has.
            reading: whether reading is held.
            collector: how far the stream was handled.
            tracker: what is owed.
            consumers: the shapes.
            casualties: those that rest.
            sweep: what is thought of those that owe.
            budget: what the server keeps.
            sleeper: whether the connections are closed.
            clock: the one that dates debts.
        """
        self._settings: Final = settings
        self._board: Final = board
        self._report: Final = report
        self._health: Final = health
        self._control_health: Final = control_health
        self._recorder: Final = recorder
        self._reading: Final = reading
        self._collector: Final = collector
        self._tracker: Final = tracker
        self._consumers: Final = consumers
        self._casualties: Final = casualties
        self._sweep: Final = sweep
        self._budget: Final = budget
        self._sleeper: Final = sleeper
        # What is looked into, replaced and given up by itself is no reason to send clients away.
        self._limits: Final = ready_limits(settings.flush_stall_grace_s)
        self._link_since = clock()

    def look(self, now: float) -> None:
        """
        See whether clients should be sent elsewhere.
        """
        report = self._report()
        if report is not None and report.phase in {ReceiverPhase.STREAMING.value, ReceiverPhase.ASLEEP.value}:
            self._link_since = now
        self._control_health.look(now)
        before = self._health.unready
        self._health.unready = find_unready(self.facts(now), self._limits)
        if bool(before) != bool(self._health.unready):
            _log.warning("readiness changes", unready=self._health.unready or None)

    def facts(self, now: float) -> Facts:
        """
        Gather what is known at this moment.
        """
        report = self._report()
        health = self._health.health()
        beat = read_heartbeat(self._board, Cell.RECEIVER_HEARTBEAT)
        registry = self._consumers.registry
        oldest = registry.oldest_creating()
        retained = self._budget.retained
        return Facts(
            acknowledge=self._settings.acknowledge,
            not_active="" if health.state == "active" else health.reason,
            phase="" if report is None else report.phase,
            asleep_s=self._sleeper.asleep_s,
            link_down_s=now - self._link_since,
            receiver_silent_s=0.0 if beat is None else max(0.0, now - beat.at_s),
            error="" if report is None else report.error,
            server=0 if report is None else report.server_end,
            received=0 if report is None else report.received,
            durable=0 if report is None else report.durable,
            confirmed=0 if report is None else report.confirmed,
            processed=self._collector.last_seen_end.value,
            boundary=self._recorder.boundary.value,
            restart=0 if retained is None else retained.restart,
            server_held_by="" if retained is None else retained.held_by,
            relay_bytes=0 if report is None else report.relay_bytes,
            relay_bytes_max=self._settings.relay_bytes_max,
            relay_disk="" if report is None else self._tell_relay_disk(report),
            control_failure=self._control_health.failure,
            control_failure_s=self._control_health.failing_s(now),
            owing_count=self._tracker.pending_count,
            owing=[self._tell_owing(debt, now) for debt in self._tracker.pinning_debts(SHAPES_TOLD_MAX)],
            oldest_owed_s=self._sweep.stood_still_s,
            creating_count=0 if oldest is None else registry.creating_count,
            alarms=self._sweep.alarms,
            is_paused=self._reading.is_paused,
            shed_count=registry.shed_count,
            resting_count=len(self._casualties.resting()),
        )

    def _tell_relay_disk(self, report: ReceiverReport) -> str:
        failure = report.disk_failure or ("its disk does not answer" if report.is_disk_hung else "")
        if report.is_out_of_room and not failure:
            is_budget = report.relay_bytes >= self._settings.relay_bytes_max
            failure = "its budget is used up" if is_budget else "it is nearly full"
        return failure

    def _tell_owing(self, debt: Debt, now: float) -> OwingShape:
        entry = self._consumers.registry.entry(debt.incarnation)
        verdict = self._sweep.verdict_on(debt.incarnation)
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
