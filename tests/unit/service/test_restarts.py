from __future__ import annotations

from penstock.service.restarts import RestartBudget


def test_quick_ends_wait_longer_each_time() -> None:
    """
    The pause doubles up to its limit while a part keeps ending at once.
    """
    budget = RestartBudget(per_hour_max=100, delay_first_s=0.1, delay_s_max=1.0)
    assert [budget.record_end(lived_s=0.5, now=float(n)) for n in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_healthy_life_starts_over() -> None:
    """
    A part that lived for a while is restarted without much ado.
    """
    budget = RestartBudget(per_hour_max=100, delay_first_s=0.1, healthy_after_s=10.0)
    for now in range(5):
        budget.record_end(lived_s=0.0, now=float(now))
    assert budget.record_end(lived_s=10.0, now=20.0) == 0.1


def test_the_budget_is_that_of_the_last_hour() -> None:
    """
    So many restarts in any hour and no more; older ones are forgotten.
    """
    budget = RestartBudget(per_hour_max=2)
    assert budget.record_end(lived_s=1.0, now=0.0) is not None
    assert budget.record_end(lived_s=1.0, now=1800.0) is not None
    assert budget.record_end(lived_s=1.0, now=3599.0) is None
    assert budget.record_end(lived_s=1.0, now=3600.0) is not None
    assert budget.record_end(lived_s=1.0, now=3601.0) is None
