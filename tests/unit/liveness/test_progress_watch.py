from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from penstock.collector.flush_tracker import Debt
from penstock.liveness.verify import SHARED_WAITS, Covered, Evidence, Finding, Wait, WaitKind, verify
from penstock.liveness.watch import Action, Decision, ProgressWatch, WatchLimits
from penstock.postgres.lsn import CommitLsn, EndLsn

LIMITS = WatchLimits(grace_s=20.0, verify_s=10.0, wait_s_max=60.0, burial_s_max=5.0, period_s=1.0)
NOTHING = Evidence(can_be_replaced=True)


def debt(incarnation: int = 1, *, since: float = 0.0, progress_at: float = 0.0, flushed: int = 100) -> Debt:
    """
    A debt of one commit.
    """
    return Debt(incarnation, since, CommitLsn(200), CommitLsn(200), progress_at, EndLsn(flushed))


def sweep_until(
    watch: ProgressWatch,
    owed: list[Debt],
    evidence: Mapping[int, Evidence],
    *,
    start: int,
    end: int,
    debtors_count: int = 100,
) -> list[tuple[int, Decision]]:
    """
    Sweep once a second; gives all decisions with their moments.
    """
    told = []
    for now in range(start, end + 1):
        decisions = watch.sweep(float(now), owed, lambda d: evidence.get(d.incarnation, NOTHING), debtors_count)
        told += [(now, decision) for decision in decisions]
    return told


def waiting(progress: int) -> Evidence:
    """
    A shape that catches up.
    """
    return Evidence(wait=Wait(WaitKind.CATCH_UP, progress), can_be_replaced=True)


def moments(told: list[tuple[int, Decision]], action: Action) -> list[int]:
    """
    When something was decided.
    """
    return [now for now, decision in told if decision.action is action]


def test_a_young_debt_is_left_alone() -> None:
    """
    Nothing is decided about a debt before the grace is over.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    assert sweep_until(watch, [debt()], {}, start=1, end=19) == []


@pytest.mark.parametrize(("can_be_replaced", "remedy"), [(True, Action.REPLACE), (False, Action.NUDGE)])
def test_an_unexplained_debt_gets_one_remedy_and_is_then_given_up(can_be_replaced: bool, remedy: Action) -> None:  # noqa: FBT001
    """
    One remedy at the end of the grace, one verdict when the time to show progress is over.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    told = sweep_until(watch, [debt()], {1: Evidence(can_be_replaced=can_be_replaced)}, start=1, end=30)
    assert moments(told, remedy) == [20]
    assert moments(told, Action.WAIT) == list(range(21, 30))
    assert moments(told, Action.CONDEMN) == [30]


def test_durable_progress_ends_the_suspicion() -> None:
    """
    Whoever pays a part of what it owes has the whole grace again, and another remedy.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    sweep_until(watch, [debt()], {}, start=1, end=25)
    told = sweep_until(watch, [debt(progress_at=25.0, flushed=150)], {}, start=26, end=45)
    assert [(now, decision.action) for now, decision in told] == [(45, Action.REPLACE)]


def test_a_shape_that_is_slower_than_its_traffic_is_not_stale() -> None:
    """
    Old debts with progress a moment ago are no reason for anything: bytes are judged elsewhere.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    for now in range(1, 200):
        slow = debt(since=0.0, progress_at=float(now - now % 15), flushed=now)
        assert watch.sweep(float(now), [slow], lambda _: NOTHING, 1) == []


def test_what_the_files_hold_is_discharged_and_counted() -> None:
    """
    When the files cover more than the books say, the books were wrong and the shape lives.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    covered = Evidence(covered=Covered(CommitLsn(200), EndLsn(208)), can_be_replaced=True)
    told = sweep_until(watch, [debt()], {1: covered}, start=1, end=20)
    assert [decision.action for _, decision in told] == [Action.DISCHARGE]
    assert watch.defect_count == 1


def test_files_that_hold_no_more_than_the_books_say_do_not_help() -> None:
    """
    A cover that does not go beyond what is flushed explains nothing.
    """
    covered = Evidence(covered=Covered(CommitLsn(90), EndLsn(100)), can_be_replaced=True)
    told = sweep_until(ProgressWatch(LIMITS, 0.0), [debt()], {1: covered}, start=1, end=30)
    assert moments(told, Action.CONDEMN) == [30]


def test_a_wait_that_moves_extends_the_deadline_up_to_its_sum() -> None:
    """
    Catching up that gets on is granted the sum of waits; then the shape is suspected like any other.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    told: list[tuple[int, Decision]] = []
    for now in range(1, 120):
        told += sweep_until(watch, [debt()], {1: waiting(now)}, start=now, end=now)
    granted = moments(told, Action.EXTEND)
    assert granted[0] == 20
    assert 75 <= granted[-1] <= 82
    assert moments(told, Action.REPLACE) == [granted[-1] + 1]
    assert moments(told, Action.CONDEMN)[0] == granted[-1] + 11


def test_a_wait_that_stands_still_is_none() -> None:
    """
    A shape that only says it waits is judged like one that says nothing.
    """
    told = sweep_until(ProgressWatch(LIMITS, 0.0), [debt()], {1: waiting(7)}, start=1, end=30)
    assert moments(told, Action.REPLACE) == [20]
    assert moments(told, Action.CONDEMN) == [30]


@pytest.mark.parametrize("kind", [kind for kind in WaitKind if kind in SHARED_WAITS])
def test_what_all_wait_for_is_no_shapes_fault(kind: WaitKind) -> None:
    """
    A disk, a database or a stream that stands still raises an alarm and costs no shape.
    """
    standing = Evidence(wait=Wait(kind), can_be_replaced=True)
    told = sweep_until(ProgressWatch(LIMITS, 0.0), [debt()], {1: standing}, start=1, end=300)
    assert {decision.action for _, decision in told} == {Action.ALARM}


def test_a_large_share_of_all_debtors_is_an_alarm() -> None:
    """
    Nine of ten at once are the disk's fault, and when it is over they start with a whole deadline.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    many = [debt(number) for number in range(9)]
    told = sweep_until(watch, many, {}, start=1, end=60, debtors_count=10)
    assert {decision.action for _, decision in told} == {Action.ALARM}
    told = sweep_until(watch, many[:2], {}, start=61, end=71, debtors_count=10)
    assert moments(told, Action.REPLACE) == [61, 61]
    assert moments(told, Action.CONDEMN) == [71, 71]


def test_many_among_very_many_are_each_their_own_fault() -> None:
    """
    Nine of a thousand are no common cause.
    """
    many = [debt(number) for number in range(9)]
    told = sweep_until(ProgressWatch(LIMITS, 0.0), many, {}, start=1, end=30, debtors_count=1000)
    assert moments(told, Action.CONDEMN) == [30] * 9


def test_those_the_files_cover_do_not_count_as_a_common_cause() -> None:
    """
    Twenty debts that are only wrong in the books do not shield the one that is guilty.
    """
    owed = [debt(number) for number in range(20)]
    covered = Evidence(covered=Covered(CommitLsn(200), EndLsn(208)))
    evidence = dict.fromkeys(range(1, 20), covered)
    told = sweep_until(ProgressWatch(LIMITS, 0.0), owed, evidence, start=1, end=30, debtors_count=20)
    assert [d.debt.incarnation for _, d in told if d.action is Action.CONDEMN] == [0]


def test_a_pause_of_the_sweep_is_taken_off_every_age() -> None:
    """
    After ten minutes in which nobody could look, nobody has become stale, and deadlines have moved too.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    told = sweep_until(watch, [debt()], {}, start=1, end=22)
    assert moments(told, Action.REPLACE) == [20]
    later = [debt(), debt(2, since=15.0, progress_at=15.0)]
    told = sweep_until(watch, later, {}, start=622, end=640)
    assert next((now, d.debt.incarnation) for now, d in told if d.action is Action.CONDEMN) == (628, 1)
    assert [(now, d.debt.incarnation) for now, d in told if d.action is Action.REPLACE] == [(633, 2)]
    assert watch.late_s == 598.0


def test_debts_made_after_a_pause_have_their_whole_age() -> None:
    """
    What the sweep missed before a debt was made does not make the debt younger.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    sweep_until(watch, [], {}, start=1, end=5)
    sweep_until(watch, [], {}, start=300, end=310)
    told = sweep_until(watch, [debt(since=310.0, progress_at=310.0)], {}, start=311, end=340)
    assert moments(told, Action.REPLACE) == [330]
    assert moments(told, Action.CONDEMN) == [340]


def test_very_many_pauses_are_remembered_in_short() -> None:
    """
    A machine that is always late neither fills memory nor makes anyone older than he is.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    now = 0.0
    for _ in range(600):
        now += 7.0
        for decision in watch.sweep(now, [debt(since=now - 10.0, progress_at=now - 10.0)], lambda _: NOTHING, 1):
            pytest.fail(str(decision))


def test_a_tombstone_that_cannot_be_written_is_an_alarm() -> None:
    """
    A condemned shape owes until its tombstone is synced; when that takes too long, somebody is told.
    """
    watch = ProgressWatch(LIMITS, 0.0)
    told = sweep_until(watch, [debt()], {}, start=1, end=30)
    assert moments(told, Action.CONDEMN) == [30]
    told = sweep_until(watch, [debt()], {1: Evidence(condemned="it hung")}, start=31, end=40)
    assert moments(told, Action.WAIT) == list(range(31, 36))
    assert moments(told, Action.ALARM) == list(range(36, 41))


def test_every_combination_of_evidence_has_one_answer() -> None:
    """
    The questions are asked in their order, whatever is known.
    """
    covers = (None, Covered(CommitLsn(1), EndLsn(100)), Covered(CommitLsn(1), EndLsn(101)))
    waits = (None, *(Wait(kind) for kind in WaitKind))
    for condemned, covered, wait, is_moving, is_spent in itertools.product(
        (None, "why"), covers, waits, (False, True), (False, True)
    ):
        found = verify(Evidence(condemned, covered, wait), EndLsn(100), is_moving=is_moving, is_spent=is_spent)
        if condemned:
            expected = Finding.BEING_GIVEN_UP
        elif covered is covers[2]:
            expected = Finding.COVERED
        elif wait is None:
            expected = Finding.SUSPECT
        elif is_moving and not is_spent:
            expected = Finding.WAITING
        else:
            expected = Finding.SHARED if wait.kind in SHARED_WAITS else Finding.SUSPECT
        assert found is expected
