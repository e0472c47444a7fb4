from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.service.sweep import ready_limits, watch_limits


@given(st.floats(min_value=0.05, max_value=100_000.0))
def test_deadlines_keep_their_order_for_any_grace(grace_s: float) -> None:
    """
    However short or long the grace is: it is looked several times before it ends, a remedy has time to work, and nobody
    calls the service unready for what the sweep mends by itself.
    """
    watch, ready = watch_limits(grace_s), ready_limits(grace_s)
    assert 0 < watch.period_s <= watch.verify_s <= watch.grace_s / 2
    assert watch.period_s <= watch.grace_s / 5
    assert ready.owed_s > watch.grace_s + watch.verify_s + 2 * watch.period_s
    assert min(ready.link_s, ready.control_s) > watch.grace_s
