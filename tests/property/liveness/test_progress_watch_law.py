from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from penstock.collector.flush_tracker import Debt
from penstock.liveness.verify import SHARED_WAITS, Covered, Evidence, Wait, WaitKind
from penstock.liveness.watch import Action, ProgressWatch, WatchLimits
from penstock.postgres.lsn import CommitLsn, EndLsn

LIMITS = WatchLimits(grace_s=6.0, verify_s=3.0, wait_s_max=12.0, burial_s_max=3.0, period_s=1.0, suspects_max=3)
OWN_WAITS = [kind for kind in WaitKind if kind not in SHARED_WAITS]


@dataclass
class Shape:
    """
    A shape as a history makes it behave: pays, crawls, waits, lies or does nothing at all.
    """

    incarnation: int
    since: float
    habit: str
    turns: list[bool]
    progress_at: float = 0.0
    flushed: int = 10
    condemned_at: float | None = None
    is_gone: bool = False

    def live(self, now: float) -> None:
        """
        Get on by one second.
        """
        turn = self.turns[int(now) % len(self.turns)]
        if self.habit == "crawls" and turn:
            self.progress_at = now
            self.flushed += 1
        if self.habit == "pays" and now - self.since > len(self.turns):
            self.is_gone = True
        if self.condemned_at is not None and now > self.condemned_at:
            self.is_gone = True

    def debt(self) -> Debt:
        """
        What it owes.
        """
        return Debt(
            self.incarnation,
            self.since,
            CommitLsn(900),
            CommitLsn(900),
            max(self.progress_at, self.since),
            EndLsn(self.flushed),
        )

    def evidence(self, now: float) -> Evidence:
        """
        What is seen of it.
        """
        if self.condemned_at is not None:
            return Evidence(condemned="by the watch")
        turn = self.turns[int(now) % len(self.turns)]
        if self.habit == "waits" and turn:
            return Evidence(wait=Wait(OWN_WAITS[0], int(now)), can_be_replaced=True)
        if self.habit == "is wrong in the books":
            return Evidence(covered=Covered(CommitLsn(900), EndLsn(1000)))
        return Evidence(can_be_replaced=turn)


def look_up(seen: dict[int, Evidence]) -> Callable[[Debt], Evidence]:
    """
    What is seen of the one that owes.
    """
    return lambda debt: seen[debt.incarnation]


shapes = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(["pays", "crawls", "waits", "hangs", "is wrong in the books"]),
        st.lists(st.booleans(), min_size=1, max_size=9),
    ),
    max_size=6,
)


@given(shapes, st.lists(st.floats(0.5, 1.9), min_size=1, max_size=20))
def test_every_stale_debt_ends_in_time(given_shapes: list[tuple[float, str, list[bool]]], steps: list[float]) -> None:
    """
    Whatever shapes do, a debt without durable progress ends within grace, verifying and granted waits.
    """
    living = [Shape(number, since, habit, turns) for number, (since, habit, turns) in enumerate(given_shapes)]
    watch = ProgressWatch(LIMITS, 0.0)
    bound_s = LIMITS.grace_s + LIMITS.verify_s * 2 + LIMITS.wait_s_max * 2 + 6 * LIMITS.period_s
    unexplained_s = LIMITS.grace_s + LIMITS.verify_s + 4 * LIMITS.period_s
    now, turn = 0.0, 0
    while now < 120:
        now += steps[turn % len(steps)]
        turn += 1
        for shape in living:
            shape.live(now)
        living = [shape for shape in living if not shape.is_gone]
        owing = {shape.incarnation: shape for shape in living if shape.since <= now}
        owed = sorted((shape.debt() for shape in owing.values()), key=lambda debt: debt.since)
        seen = {number: shape.evidence(now) for number, shape in owing.items()}
        decisions = watch.sweep(now, owed, look_up(seen), 1000)
        for decision in decisions:
            shape = owing[decision.debt.incarnation]
            assert decision.owed_s >= LIMITS.grace_s
            assert shape.habit != "crawls" or now - shape.progress_at >= LIMITS.grace_s
            if decision.action is Action.DISCHARGE:
                shape.is_gone = True
            if decision.action is Action.CONDEMN:
                assert shape.habit != "is wrong in the books"
                assert decision.owed_s >= LIMITS.grace_s + LIMITS.verify_s
                shape.condemned_at = now
        living = [shape for shape in living if not shape.is_gone]
        for shape in living:
            owed_s = now - max(shape.since, shape.progress_at)
            assert owed_s <= bound_s, shape
            if shape.habit == "hangs":
                assert owed_s <= unexplained_s, shape


@given(
    st.integers(4, 40),
    st.integers(0, 200),
    st.lists(st.sampled_from(["hangs", "shared"]), min_size=4, max_size=40),
)
def test_a_common_cause_condemns_nobody(count: int, others: int, habits: list[str]) -> None:
    """
    When many stand still together, or wait for what is nobody's own, no shape is given up, ever.
    """
    waits = [kind for kind in WaitKind if kind in SHARED_WAITS]
    owed = [Debt(n, 0.0, CommitLsn(9), CommitLsn(9), 0.0, EndLsn(1)) for n in range(count)]
    evidence = [
        Evidence(can_be_replaced=True)
        if habits[n % len(habits)] == "hangs"
        else Evidence(wait=Wait(waits[n % len(waits)], 5))
        for n in range(count)
    ]
    hanging = sum(e.wait is None for e in evidence)
    watch = ProgressWatch(LIMITS, 0.0)
    for now in range(1, 60):
        decisions = watch.sweep(float(now), owed, lambda d: evidence[d.incarnation], count + others)
        condemned = [d for d in decisions if d.action is Action.CONDEMN]
        if hanging > LIMITS.suspects_max and hanging > LIMITS.share_max * (count + others):
            assert condemned == []
        assert all(d.evidence.wait is None for d in condemned)
