from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.liveness.budget import (
    RESYNC_BYTES_MIN,
    SHED_MAX,
    Debtor,
    Pressure,
    Retained,
    attribute,
    choose,
    find_budget,
    find_pressure,
)

MIB = 1 << 20
positions = st.integers(1, 10_000)


def test_every_part_is_attributed_to_its_holder() -> None:
    """
    The chain from the oldest byte to the newest, each stretch to the one who could let it go.
    """
    found = attribute(Retained(restart=100, confirmed=150, acknowledged=155, received=255, end=1000))
    assert (found.server, found.link, found.ours, found.queue, found.total) == (50, 5, 100, 745, 900)


def test_without_a_slot_nothing_is_kept() -> None:
    """
    Before the first start, and while the slot is lost, there is nothing to attribute.
    """
    assert attribute(Retained(restart=0, confirmed=0, acknowledged=0, received=0, end=1000)).total == 0


@given(positions, positions, positions, positions, positions)
def test_every_byte_belongs_to_one(restart: int, confirmed: int, acknowledged: int, received: int, end: int) -> None:
    """
    However the parts contradict each other (they are asked at different moments), the parts add up and none is negative.
    """
    found = attribute(
        Retained(restart=restart, confirmed=confirmed, acknowledged=acknowledged, received=received, end=end)
    )
    parts = (found.server, found.link, found.ours, found.queue)
    assert min(parts) >= 0
    assert sum(parts) == found.total == max(0, end - restart)


@pytest.mark.parametrize(
    ("given_bytes", "keep_bytes", "budget"),
    [(None, None, None), (10, None, 10), (None, 20, 20), (10, 20, 10), (30, 20, 20)],
)
def test_the_budget_is_never_more_than_the_server_keeps(
    given_bytes: int | None, keep_bytes: int | None, budget: int | None
) -> None:
    """
    The smaller of what was set and what the server allows; none without either.
    """
    assert find_budget(given_bytes, keep_bytes) == budget


@pytest.mark.parametrize(
    ("held", "budget", "pressure"),
    [
        (10**12, None, Pressure.NONE),
        (24, 100, Pressure.NONE),
        (25, 100, Pressure.SOFT),
        (49, 100, Pressure.SOFT),
        (50, 100, Pressure.HARD),
    ],
)
def test_pressure_rises_at_a_quarter_and_at_half(held: int, budget: int | None, pressure: Pressure) -> None:
    """
    A quarter is told, half has consequences, and without a budget nothing has.
    """
    assert find_pressure(held, budget) is pressure


def test_the_one_that_holds_most_for_its_size_goes() -> None:
    """
    One small shape far behind all others is the only one to go.
    """
    debtors = [Debtor(1, 0, MIB), Debtor(2, 900 * MIB, 5 * MIB), Debtor(3, 901 * MIB, 5 * MIB)]
    assert [debtor.incarnation for debtor in choose(debtors, 1000 * MIB)] == [1]


def test_those_that_hold_together_go_together() -> None:
    """
    When giving up one frees next to nothing, because another stands at the same place, both are weighed.
    """
    debtors = [Debtor(1, 0, MIB), Debtor(2, 10, MIB), Debtor(3, 900 * MIB, 50 * MIB)]
    assert [debtor.incarnation for debtor in choose(debtors, 901 * MIB)] == [1, 2]


def test_nobody_goes_for_nothing() -> None:
    """
    Without debtors, or when none of them holds a byte, nobody is chosen.
    """
    assert choose([], 100) == []
    assert choose([Debtor(1, 100, 5)], 100) == []


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 10**6)), max_size=8), st.integers(1000, 2000))
def test_the_choice_is_the_best_prefix(drawn: list[tuple[int, int]], end: int) -> None:
    """
    No other prefix within the limit frees more for each byte to be read anew.
    """
    debtors = [Debtor(n, flushed, size) for n, (flushed, size) in enumerate(sorted(drawn))]

    def ratio(count: int) -> float:
        upto = debtors[count].flushed if count < len(debtors) else end
        cost = sum(max(RESYNC_BYTES_MIN, debtor.resync_bytes) for debtor in debtors[:count])
        return (upto - debtors[0].flushed) / cost

    found = choose(debtors, end)
    assert len(found) <= SHED_MAX
    assert found == debtors[: len(found)]
    best = max(map(ratio, range(1, min(SHED_MAX, len(debtors)) + 1)), default=0.0)
    assert (ratio(len(found)) if found else 0.0) == best
    assert list(itertools.islice(found, 1)) == debtors[: min(1, len(found))]
