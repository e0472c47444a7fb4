"""
The progress sweep: who has owed for too long without durable progress, and what is to be done about it.

Owns suspicions: who is looked into, since when, what was tried. Leaves to `collector.flush_tracker` who owes what, which
is asked and never copied; to `verify` the order of questions; and to its caller the evidence and the doing.

Form: reducer. `sweep` takes the time, the debts by age and a function that gathers evidence, and answers decisions. It
is to be called every `period_s`, whether or not there is traffic.

Theory of operation
    A debt is *stale* when neither it is younger than the grace nor its shape has made durable progress within the grace.
    Activity does not count: a shape that takes transactions all day and syncs none is as stale as one that is dead.
    What cannot be explained gets one remedy and `verify_s` to show durable progress; then the shape is given up. So
    every unexplained debt ends within

        grace + verify_s + two periods

    by being paid, discharged or void. A wait that moves is granted `wait_s_max` in all, a wait that nobody owns ends in
    an alarm instead of a verdict, and so does a suspicion that falls on many at once.

    *Lateness.* Whoever judges by the clock must know that his own clock was not stopped with everything else. Each time
    the sweep comes later than it should, what is missing is taken off the age of every debt that was there (a machine
    that was suspended, a process that was starved, a loop that stood still). Deadlines are kept in the same time, so all
    of them move.

Invariants
    * a debt is discharged only up to what the files cover, and a shape is condemned only after a remedy and a deadline;
    * whoever makes durable progress is free of suspicion;
    * more than `suspects_max` and more than `share_max` of all debtors are never condemned in one sweep.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock.collector.flush_tracker import Debt
from penstock.liveness.verify import Evidence, Finding, Wait, verify

SWEPT_DEBTS_MAX: Final = 2000
"""How many of the oldest debts a sweep looks at."""
LATENESS_KEPT_MAX: Final = 256


class Action(Enum):
    """
    What is to be done about a stale debt.
    """

    WAIT = "wait"
    """Nothing yet: a deadline runs."""
    DISCHARGE = "discharge"
    """The files hold it: report them. The books were wrong, which is counted."""
    EXTEND = "extend"
    """It waits for something that gets on."""
    NUDGE = "nudge"
    """Nothing can be replaced: settle it once more; a deadline runs from now on."""
    REPLACE = "replace"
    """Put another consumer in place of its own; a deadline runs from now on."""
    CONDEMN = "condemn"
    ALARM = "alarm"
    """No shape's own fault: the boundary stays, and somebody must be told."""


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What is to be done about one debt.

    Attributes:
        debt: as it was when it was judged.
        action: what.
        reason: why, in words for operators.
        owed_s: how long it has been without durable progress, less what the sweep itself missed.
        evidence: on which it rests.
    """

    debt: Debt
    action: Action
    reason: str
    owed_s: float
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """
    When somebody is suspected, and how long anything may take.

    Attributes:
        grace_s: a debt without durable progress for so long is stale.
        verify_s: how long a suspect has to show progress, after its remedy. A wait that has not moved for so long does
            not count as moving.
        wait_s_max: what the waits of one debt are granted in all.
        burial_s_max: how long a tombstone may take before that is alarming.
        period_s: how often the sweep is meant to be made.
        suspects_max: so many suspects at once are each their own fault, whatever their share.
        share_max: with a larger share of all debtors suspected, it is the disk or the machine.
    """

    grace_s: float = 20.0
    verify_s: float = 10.0
    wait_s_max: float = 600.0
    burial_s_max: float = 10.0
    period_s: float = 1.0
    suspects_max: int = 8
    share_max: float = 0.2


class _Suspicion:
    """
    What is remembered of one who is looked into. Times are those of the watch, without what it missed.
    """

    __slots__ = ("burial_due", "deadline", "granted_s", "looked_at", "moved_at", "progress_at", "wait")

    def __init__(self, now: float, debt: Debt, wait: Wait | None) -> None:
        self.progress_at = debt.progress_at
        self.wait = wait
        self.moved_at = now
        self.looked_at = now
        self.granted_s = 0.0
        # Runs from the remedy on; None before it.
        self.deadline: float | None = None
        self.burial_due: float | None = None

    def note(self, wait: Wait | None, now: float) -> None:
        """
        Take notice of a look.
        """
        if wait != self.wait:
            self.wait = wait
            self.moved_at = now
        self.looked_at = now


class ProgressWatch:
    """
    Judges debts.

    Attributes:
        defect_count: debts that the files held all the while: the books were wrong.
        late_s: how much time the sweep has missed in all.
    """

    def __init__(self, limits: WatchLimits, now: float) -> None:
        """
        Begin now.
        """
        assert limits.grace_s > limits.period_s, limits
        self._limits: Final = limits
        self._looked_at = now
        self._missed_at: list[float] = []
        self._missed_s: list[float] = []
        self._missed_before_s = 0.0
        self._suspicions: dict[int, _Suspicion] = {}
        self.defect_count = 0
        self.late_s = 0.0

    def sweep(
        self, now: float, debts: Sequence[Debt], evidence_of: Callable[[Debt], Evidence], debtors_count: int
    ) -> list[Decision]:
        """
        Look at the debts and say what is to be done.

        Args:
            now: seconds of a clock that does not step back, the one that dates debts.
            debts: those who have owed longest, oldest first; see `SWEPT_DEBTS_MAX`.
            evidence_of: gathers what is known; asked only for debts that begin to look stale.
            debtors_count: how many owe at all.

        Returns:
            One decision for each stale debt.
        """
        limits = self._limits
        self._note_lateness(now)
        time = now - self.late_s
        kept: dict[int, _Suspicion] = {}
        decisions: list[Decision] = []
        for debt in debts:
            owed_s = time - self._in_watch_time(max(debt.since, debt.progress_at))
            if time - self._in_watch_time(debt.since) < limits.grace_s - limits.verify_s:
                # They come oldest first.
                break
            if owed_s < limits.grace_s - limits.verify_s:
                continue
            evidence = evidence_of(debt)
            suspicion = self._suspicions.get(debt.incarnation)
            if suspicion is None or suspicion.progress_at != debt.progress_at:
                suspicion = _Suspicion(time, debt, evidence.wait)
            kept[debt.incarnation] = suspicion
            decision = None
            if owed_s >= limits.grace_s:
                decision = self._judge(debt, evidence, suspicion, owed_s, time)
                decisions.append(decision)
            suspicion.note(evidence.wait, time)
        self._suspicions = kept
        return self._brake(decisions, kept, debtors_count, time)

    # --- one debt ----------------------------------------------------------------------------------------------------

    def _judge(self, debt: Debt, evidence: Evidence, suspicion: _Suspicion, owed_s: float, time: float) -> Decision:
        limits = self._limits
        has_moved = evidence.wait != suspicion.wait
        finding = verify(
            evidence,
            debt.flushed,
            is_moving=has_moved or time - suspicion.moved_at < limits.verify_s,
            is_spent=suspicion.granted_s >= limits.wait_s_max,
        )
        match finding:
            case Finding.BEING_GIVEN_UP:
                if suspicion.burial_due is None:
                    suspicion.burial_due = time + limits.burial_s_max
                if time >= suspicion.burial_due:
                    return Decision(debt, Action.ALARM, "its tombstone cannot be written", owed_s, evidence)
                return Decision(debt, Action.WAIT, "being given up", owed_s, evidence)
            case Finding.COVERED:
                self.defect_count += 1
                return Decision(debt, Action.DISCHARGE, "its files hold what it owes", owed_s, evidence)
            case Finding.WAITING:
                assert evidence.wait is not None
                suspicion.granted_s += time - suspicion.looked_at
                return Decision(debt, Action.EXTEND, f"waits for {evidence.wait.kind.value}", owed_s, evidence)
            case Finding.SHARED:
                assert evidence.wait is not None
                return Decision(debt, Action.ALARM, f"waits for {evidence.wait.kind.value}", owed_s, evidence)
            case Finding.SUSPECT:
                return self._suspect(debt, evidence, suspicion, owed_s, time)

    def _suspect(self, debt: Debt, evidence: Evidence, suspicion: _Suspicion, owed_s: float, time: float) -> Decision:
        reason = f"no durable progress for {owed_s:.0f} s"
        if suspicion.deadline is None:
            action = Action.REPLACE if evidence.can_be_replaced else Action.NUDGE
            return Decision(debt, action, reason, owed_s, evidence)
        if time < suspicion.deadline:
            return Decision(
                debt, Action.WAIT, f"{reason}; has {suspicion.deadline - time:.0f} s left", owed_s, evidence
            )
        return Decision(debt, Action.CONDEMN, reason, owed_s, evidence)

    def _brake(
        self, decisions: list[Decision], suspicions: dict[int, _Suspicion], debtors_count: int, time: float
    ) -> list[Decision]:
        """
        Take back remedies and verdicts when they would fall on too many; grant the deadlines of the others.
        """
        limits = self._limits
        drastic = {Action.NUDGE, Action.REPLACE, Action.WAIT, Action.CONDEMN}
        suspects = [d for d in decisions if d.action in drastic and d.evidence.condemned is None]
        if len(suspects) > limits.suspects_max and len(suspects) > limits.share_max * debtors_count:
            reason = f"{len(suspects)} of {debtors_count} that owe stand still: it is the disk or the machine"
            for decision in suspects:
                # When it is over they begin anew: what they could not do in this time says nothing about them.
                suspicions[decision.debt.incarnation].deadline = None
            held = {id(d) for d in suspects}
            return [
                Decision(d.debt, Action.ALARM, reason, d.owed_s, d.evidence) if id(d) in held else d for d in decisions
            ]
        for decision in suspects:
            if decision.action in {Action.NUDGE, Action.REPLACE}:
                suspicions[decision.debt.incarnation].deadline = time + limits.verify_s
        return decisions

    # --- lateness ----------------------------------------------------------------------------------------------------

    def _note_lateness(self, now: float) -> None:
        missed_s = now - self._looked_at - 2 * self._limits.period_s
        if missed_s > 0:
            self._missed_at.append(now)
            self.late_s += missed_s
            self._missed_s.append(self.late_s)
            if len(self._missed_at) > LATENESS_KEPT_MAX:
                self._missed_before_s = self._missed_s.pop(0)
                del self._missed_at[0]
        self._looked_at = now

    def _in_watch_time(self, moment: float) -> float:
        """
        Give a moment in the time that leaves out what the sweep missed.
        """
        earlier = bisect_right(self._missed_at, moment)
        return moment - (self._missed_s[earlier - 1] if earlier else self._missed_before_s)
