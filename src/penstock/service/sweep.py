"""
The progress sweep at work: gathers what is known of stale debts, and does what `penstock.liveness.watch` decides.

Also remembers the shapes that were given up because of a fault: in the black box, and by definition so that those given
up again and again rest (`penstock.liveness.backoff`); implements `penstock.consumers.abc.Sheds`.

Shell. One task on the engine's loop, by timer, with or without traffic. It awaits nothing but its timer: no consumer,
disk, database or control store can hold it up, only a loop that stands still, and that is seen from outside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.consumers.abc import ShapeAccounts
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.stage import ConsumersStage
from penstock.control.records import ShedRecord
from penstock.control.store import SqliteControlStore
from penstock.errors import PenstockError, RequestError
from penstock.liveness.backoff import ShedBackoff
from penstock.liveness.black_box import BlackBox
from penstock.liveness.explain import ReadyLimits
from penstock.liveness.verify import Covered, Evidence, Wait, WaitKind
from penstock.liveness.watch import SWEPT_DEBTS_MAX, Action, Decision, ProgressWatch, WatchLimits
from penstock.service.facts import RecordedFacts
from penstock.shapes.definition import ShapeDefinition

_log: Final = structlog.get_logger(__name__)

PERIOD_S_MAX: Final = 1.0
VERIFY_S_MAX: Final = 10.0
NEXT: Final = {
    Action.WAIT: "is given up if it makes no progress in the time it has left",
    Action.DISCHARGE: "its debt has been struck out",
    Action.EXTEND: "is left alone as long as that moves",
    Action.NUDGE: "is settled again, and given up if that does not help",
    Action.REPLACE: "its consumer is replaced, and the shape given up if that does not help",
    Action.CONDEMN: "is being given up; its clients start over",
    Action.ALARM: "nothing is given up: look at the disk, the database and the log",
}
"""What follows from a decision, for people."""


def watch_limits(grace_s: float) -> WatchLimits:
    """
    Fit the other deadlines to the grace: a short one, as in tests, shortens all.
    """
    return WatchLimits(
        grace_s=grace_s,
        verify_s=min(VERIFY_S_MAX, grace_s / 2),
        period_s=min(PERIOD_S_MAX, grace_s / 10),
    )


def ready_limits(grace_s: float) -> ReadyLimits:
    """
    Fit what makes the service unready to the grace: what the sweep mends by itself in time does not.
    """
    return ReadyLimits(owed_s=3 * grace_s, link_s=1.5 * grace_s, control_s=1.5 * grace_s)


class Casualties:
    """
    What is remembered of shapes that were given up because of a fault; implements `Sheds`.
    """

    def __init__(
        self, black_box: BlackBox, clock: Callable[[], float], unix_s: Callable[[], float] = time.time
    ) -> None:
        """
        Begin without memories. `describe` is set by whoever knows more.
        """
        self._unix_s: Final = unix_s
        self._black_box: Final = black_box
        self._clock: Final = clock
        self.backoff: Final = ShedBackoff()
        self.describe: Callable[[int], dict[str, Any]] = lambda _: {}
        self.names: Final[dict[bytes, str]] = {}
        """The table of each definition that was given up, for people."""

    def shed(self, incarnation: int, handle: str, definition: ShapeDefinition, reason: str) -> None:
        """
        See `Sheds`.
        """
        key = definition.canonical()
        self.backoff.record(key, reason, self._clock())
        table = f"{definition.table.schema}.{definition.table.name}"
        self.names[key] = table
        found = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "handle": handle,
            "incarnation": incarnation,
            "table": table,
            "reason": reason,
        }
        self._black_box.record(found | self.describe(incarnation))

    def restore(self, sheds: Iterable[ShedRecord]) -> None:
        """
        Take back what was known before a restart.
        """
        now, now_unix = self._clock(), self._unix_s()
        for shed in sorted(sheds, key=lambda shed: max(shed.times, default=0.0)):
            self.backoff.remember(shed.definition, shed.reason, [now_unix - at for at in shed.times], now)
            self.names[shed.definition] = shed.name

    async def save(self, control: SqliteControlStore) -> None:
        """
        Write down what has changed; what could not be written is tried again with the next call.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        changes = self.backoff.take_changes()
        if not changes:
            return
        began = self._unix_s() - self._clock()
        changed = [
            ShedRecord(key, self.names.get(key, ""), known.reason, tuple(began + at for at in known.times))
            for key, known in changes.items()
            if known is not None
        ]
        try:
            await control.record_sheds(changed, [key for key, known in changes.items() if known is None])
        except PenstockError:
            self.backoff.put_back(changes)
            raise

    def refuse(self, key: bytes) -> None:
        """
        See `Sheds`.
        """
        rest = self.backoff.find_rest(key, self._clock())
        if rest is None:
            return
        times = "once" if rest.count == 1 else f"{rest.count} times"
        raise RequestError(
            503,
            f"This shape was given up {times} within the hour, last because: {rest.reason}. It may be asked for again in "
            f"{rest.retry_after_s} s",
            retry_after_s=rest.retry_after_s,
        )

    def resting(self) -> list[dict[str, object]]:
        """
        List what rests, for operators.
        """
        resting = self.backoff.resting(self._clock())
        for key in [key for key in self.names if key not in resting]:
            del self.names[key]
        return [
            {
                "table": self.names.get(key, ""),
                "retry_after_s": rest.retry_after_s,
                "count": rest.count,
                "reason": rest.reason,
            }
            for key, rest in resting.items()
        ]


class DebtSweep:
    """
    Looks at the debts by timer.

    Attributes:
        watch: who judges.
        decisions: of the last sweep.
        replaced_count: consumers replaced because they owed for too long.
    """

    def __init__(
        self,
        *,
        limits: WatchLimits,
        tracker: FlushTracker,
        collector: ShapeLogCollector,
        accounts: ShapeAccounts,
        consumers: ConsumersStage,
        facts: RecordedFacts,
        slices: Callable[[], int],
        is_paused: Callable[[], bool],
        clock: Callable[[], float],
        on_look: Callable[[float], None],
    ) -> None:
        """
        Take what it looks at.

        Args:
            limits: when somebody is suspected.
            tracker: the debts.
            collector: how far the stream was handled.
            accounts: where what is covered is reported.
            consumers: the shapes.
            facts: whether the database is being asked.
            slices: counts the slices of the stream that were handled.
            is_paused: whether the stream is not read because memory is full.
            clock: the one that dates debts.
            on_look: called after each look, with the time.
        """
        self._limits: Final = limits
        self._tracker: Final = tracker
        self._collector: Final = collector
        self._accounts: Final = accounts
        self._consumers: Final = consumers
        self._facts: Final = facts
        self._slices: Final = slices
        self._is_paused: Final = is_paused
        self._clock: Final = clock
        self._on_look: Final = on_look
        self.watch: Final = ProgressWatch(limits, clock())
        self.decisions: list[Decision] = []
        self.replaced_count = 0

    async def run(self) -> None:
        """
        Sweep, until cancelled.
        """
        while True:
            await asyncio.sleep(self._limits.period_s)
            # Whatever has been reported meanwhile is heard before anybody is judged.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.look()

    def look(self) -> None:
        """
        Sweep once.
        """
        debts = self._tracker.oldest_debts(SWEPT_DEBTS_MAX)
        self.decisions = self.watch.sweep(self._clock(), debts, self._gather, self._tracker.pending_count)
        for decision in self.decisions:
            self._do(decision)
        self._on_look(self._clock())

    @property
    def stood_still_s(self) -> float:
        """
        For how long the stalest debt has been without durable progress; 0 when none is stale.
        """
        return max((decision.owed_s for decision in self.decisions), default=0.0)

    def verdict_on(self, incarnation: int) -> Decision | None:
        """
        Tell what the last sweep said of a shape; None when it is not stale.
        """
        return next((decision for decision in self.decisions if decision.debt.incarnation == incarnation), None)

    @property
    def alarms(self) -> list[str]:
        """
        What the last sweep found that is no shape's own fault, in sentences with the number of shapes each.
        """
        counts: dict[str, int] = {}
        for decision in self.decisions:
            if decision.action is Action.ALARM:
                counts[decision.reason] = counts.get(decision.reason, 0) + 1
        return [f"{count} shapes hold the flush boundary: {reason}" for reason, count in counts.items()]

    # --- evidence ----------------------------------------------------------------------------------------------------

    def _gather(self, debt: Debt) -> Evidence:
        entry = self._consumers.registry.entry(debt.incarnation)
        if entry is None:
            # Its row is being buried: see `ConsumerRegistry`.
            return Evidence(condemned="unknown")
        return Evidence(
            condemned=entry.condemned,
            covered=_find_cover(entry, is_busy=self._consumers.settler.is_busy(entry)),
            wait=self._find_wait(debt, entry),
            can_be_replaced=entry.is_live and entry.consumer is not None and entry.consumer.is_begun,
        )

    def _find_wait(self, debt: Debt, entry: ShapeEntry) -> Wait | None:
        settler = self._consumers.settler
        if entry.incarnation in settler.without_space:
            return Wait(WaitKind.NO_SPACE)
        if entry.incarnation in settler.failed_together:
            return Wait(WaitKind.FAILED_TOGETHER)
        is_behind = entry.consumer is not None and entry.consumer.state is ConsumerState.BEHIND
        is_half_way = self._collector.is_half_way and debt.first_commit > self._collector.last_seen_commit
        if (is_behind or is_half_way) and self._facts.asking_count:
            return Wait(WaitKind.DATABASE)
        if is_behind:
            return Wait(WaitKind.CATCH_UP, self._consumers.catch_up.progress_of(entry))
        if is_half_way:
            return Wait(WaitKind.HALF_WAY, -1 if self._is_paused() else self._slices())
        return None

    # --- consequences ------------------------------------------------------------------------------------------------

    def _do(self, decision: Decision) -> None:
        entry = self._consumers.registry.entry(decision.debt.incarnation)
        if entry is None:
            return
        settler = self._consumers.settler
        match decision.action:
            case Action.WAIT | Action.EXTEND | Action.ALARM:
                return
            case Action.DISCHARGE:
                cover = decision.evidence.covered
                assert cover is not None
                _log.error("a debt was paid and not reported", handle=entry.handle, covered=str(cover.end))
                self._accounts.flushed(entry.incarnation, cover.commit_lsn, cover.end)
            case Action.NUDGE:
                _log.warning("shape stands still, settling it again", handle=entry.handle, reason=decision.reason)
                settler.abandon(entry.incarnation)
                settler.ask([entry])
            case Action.REPLACE:
                self.replaced_count += 1
                settler.abandon(entry.incarnation)
                self._consumers.registry.replace(entry, decision.debt.last_commit)
                settler.ask([entry])
            case Action.CONDEMN:
                self._consumers.registry.condemn([entry], f"stalled: {decision.reason}", is_fault=True)
                settler.abandon(entry.incarnation)


def _find_cover(entry: ShapeEntry, *, is_busy: bool) -> Covered | None:
    """
    Tell how far the files of a shape hold everything, as far as that is known in memory.
    """
    consumer = entry.consumer
    if consumer is None:
        # It left memory only when all it had was settled.
        return None if is_busy else Covered(entry.done, entry.done_end)
    if consumer.log is None or not consumer.is_begun or consumer.log.settled is None:
        return None
    return Covered(*consumer.log.settled)
