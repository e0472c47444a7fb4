"""
Live requests that waited in vain while the service slept ask a last time, once, and soon.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from penstock.service.sleep import END_OF_WAIT_S_MAX, EndedWaits, Sleeper
from penstock.shapes.offset import LogOffset

PLACE = LogOffset(7, 0)


def waits_at(now: list[float], *, is_asleep: bool = True) -> tuple[EndedWaits, Any]:
    """
    Give what is under test, and what stands for who sleeps.
    """
    sleeper = SimpleNamespace(is_asleep=is_asleep)
    return EndedWaits(cast("Sleeper", sleeper), lambda: now[0]), sleeper


def test_a_wait_that_ended_is_taken_once() -> None:
    """
    The first request at the place counts as its end, and no other.
    """
    waits, _ = waits_at([0.0])
    waits.note("h", PLACE)
    assert not waits.take("other", PLACE)
    assert waits.take("h", PLACE)
    assert not waits.take("h", PLACE)


def test_what_comes_late_is_a_request_of_its_own() -> None:
    """
    After the time that a last question may take, nothing is remembered of the wait.
    """
    now = [0.0]
    waits, _ = waits_at(now)
    waits.note("h", PLACE)
    now[0] = END_OF_WAIT_S_MAX
    assert not waits.take("h", PLACE)


def test_nothing_is_remembered_while_awake() -> None:
    """
    A service that is awake answers everybody alike, and forgets who waited while it slept.
    """
    waits, sleeper = waits_at([0.0], is_asleep=False)
    waits.note("h", PLACE)
    sleeper.is_asleep = True
    assert not waits.take("h", PLACE)
    waits.note("h", PLACE)
    sleeper.is_asleep = False
    assert not waits.take("other", PLACE)
    sleeper.is_asleep = True
    assert not waits.take("h", PLACE)


def test_a_long_sleep_remembers_no_more_than_the_last_second() -> None:
    """
    Waits that nobody came back for do not pile up.
    """
    now = [0.0]
    waits, _ = waits_at(now)
    for number in range(1000):
        now[0] = number * END_OF_WAIT_S_MAX
        waits.note(f"h{number}", PLACE)
    assert len(waits._ended_at) == 1
