"""
The whole pipeline in simulated histories: no promise is broken in any of them.
"""

from __future__ import annotations

import pytest

from pipeline_history import live_many, live_seed, make_plan, quiet_logs, tell_failure

SEEDS = range(2000)
WORKERS = 2


@pytest.mark.timeout(1200)
def test_no_history_breaks_a_promise() -> None:
    """
    In each history nothing is confirmed too early, all is confirmed in time, and every client has what the query answers.
    """
    quiet_logs()
    failed = []
    shed_count = 0
    for seed, violation, shed, _ in live_many(SEEDS, WORKERS):
        shed_count += shed
        if violation:
            failed.append((seed, violation))
    assert not failed, (
        "\n".join(f"seed {seed}: {text}" for seed, text in failed) + "\n" + tell_failure(make_plan(failed[0][0]))
    )
    assert shed_count > 0, "some faults cost a shape"


def test_a_seed_is_one_history() -> None:
    """
    The same seed gives the same history, event by event.
    """
    quiet_logs()
    for seed in (3, 26, 51):
        first, second = live_seed(seed), live_seed(seed)
        assert first.trace == second.trace
        assert first.turns == second.turns
