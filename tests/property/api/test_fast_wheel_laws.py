"""
Laws of the wheel that keeps the deadlines of connections.
"""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from penstock.api.fast.wheel import NO_SLOT, TICK_S, TimerWheel


class Entry:
    def __init__(self) -> None:
        self.deadline_s = inf
        self.slot = NO_SLOT


_STEPS = st.lists(
    st.tuples(st.sampled_from(["arm", "disarm", "remove", "advance"]), st.integers(0, 4), st.floats(0.0, 2.0)),
    max_size=40,
)


@given(_STEPS)
def test_deadlines_are_reported_once_never_early_and_hardly_late(steps: list[tuple[str, int, float]]) -> None:
    """
    Whatever is armed, moved, taken back and looked at: an entry is due when its last deadline is over, within two ticks.
    """
    wheel: TimerWheel[Entry] = TimerWheel()
    entries = [Entry() for _ in range(5)]
    wanted: dict[Entry, float] = {}
    now = 100.0
    for action, number, amount in steps:
        entry = entries[number]
        match action:
            case "arm":
                wheel.arm(entry, now + amount)
                wanted[entry] = now + amount
            case "disarm":
                wheel.disarm(entry)
                wanted.pop(entry, None)
            case "remove":
                wheel.remove(entry)
                wanted.pop(entry, None)
            case _:
                now += amount
                for due in wheel.advance(now):
                    assert wanted.pop(due) <= now
                assert all(deadline > now - 2 * TICK_S for deadline in wanted.values())
        if wanted:
            assert wheel.next_s is not None
            assert wheel.next_s <= min(wanted.values()) + 2 * TICK_S
    assert wanted.keys() <= set(wheel.advance(now + 10))
    assert len(wheel) == 0
