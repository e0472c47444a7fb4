from __future__ import annotations

from penstock.service.sleep import SleepPlan, SleepState


def make(idle_s: float = 30.0) -> SleepPlan:
    return SleepPlan(idle_s=idle_s, nap_s_max=100.0, now=0.0)


def look(plan: SleepPlan, now: float, *, is_still: bool = True, is_up: bool = True) -> SleepState:
    plan.handle_look(now, is_still=is_still, is_up=is_up)
    return plan.state


def test_sleeps_when_nothing_came_for_long_enough() -> None:
    """
    Requests and transactions put sleep off, and so does anything that is under way.
    """
    plan = make()
    assert look(plan, 29.0) is SleepState.AWAKE
    assert not plan.handle_activity(29.0)
    assert look(plan, 58.0) is SleepState.AWAKE
    assert look(plan, 60.0, is_still=False) is SleepState.AWAKE
    assert look(plan, 61.0) is SleepState.ASLEEP


def test_a_request_wakes_and_counts_until_all_is_there() -> None:
    """
    Whoever comes while it sleeps wakes it once; it is awake when everything is up, and stays for a while then.
    """
    plan = make()
    look(plan, 31.0)
    assert plan.handle_activity(40.0)
    assert not plan.handle_activity(40.5), "it wakes already"
    assert look(plan, 41.0, is_up=False) is SleepState.WAKING
    assert look(plan, 90.0) is SleepState.AWAKE
    assert look(plan, 100.0) is SleepState.AWAKE
    assert look(plan, 121.0) is SleepState.ASLEEP


def test_no_nap_is_longer_than_allowed() -> None:
    """
    Without any request it wakes after the longest nap, so that the slot is read.
    """
    plan = make()
    look(plan, 31.0)
    assert plan.due_s(100.0) == 31.0
    assert look(plan, 130.0) is SleepState.ASLEEP
    assert look(plan, 131.0) is SleepState.WAKING


def test_without_a_timeout_it_never_sleeps() -> None:
    """
    Zero switches it off.
    """
    assert look(make(idle_s=0.0), 1e9) is SleepState.AWAKE
