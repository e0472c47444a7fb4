from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.liveness.backoff import DEFINITIONS_MAX, HOUR_S, BackoffLimits, ShedBackoff

KEY = b"a definition"


def test_what_was_never_given_up_may_be_made() -> None:
    """
    An unknown definition does not rest.
    """
    assert ShedBackoff().find_rest(KEY, 0.0) is None


def test_a_restart_remembers() -> None:
    """
    What one has changed another takes back by ages, and a clock that was set back makes no rest longer.
    """
    before = ShedBackoff()
    before.record(KEY, "it hung", 100.0)
    before.record(KEY, "it hung again", 101.0)
    known = before.take_changes()[KEY]
    assert known is not None
    assert before.take_changes() == {}
    before.put_back([KEY])
    assert before.take_changes() == {KEY: known}
    after = ShedBackoff()
    after.remember(KEY, known.reason, [102.0 - at for at in known.times], 5.0)
    rest = after.find_rest(KEY, 5.0)
    assert rest is not None
    assert (rest.retry_after_s, rest.reason, rest.count) == (1, "it hung again", 2)
    assert after.take_changes() == {}
    skewed = ShedBackoff()
    skewed.remember(KEY, known.reason, [-1000.0, -1000.0], 5.0)
    rest = skewed.find_rest(KEY, 5.0)
    assert rest is not None
    assert rest.retry_after_s == 2


def test_what_ends_to_rest_is_told() -> None:
    """
    A definition whose times are all older than an hour is forgotten, also by whoever keeps it.
    """
    backoff = ShedBackoff()
    backoff.record(KEY, "it hung", 0.0)
    backoff.take_changes()
    assert backoff.find_rest(KEY, HOUR_S + 1) is None
    assert backoff.take_changes() == {KEY: None}


def test_each_time_doubles_the_rest() -> None:
    """
    The rests of a definition that is given up again and again are 1, 2, 4 and 8 seconds.
    """
    backoff = ShedBackoff()
    now = 0.0
    for rest_s in (1, 2, 4, 8):
        backoff.record(KEY, "it hung", now)
        rest = backoff.find_rest(KEY, now)
        assert rest is not None
        assert (rest.retry_after_s, rest.reason) == (rest_s, "it hung")
        now += rest_s
        assert backoff.find_rest(KEY, now - 0.01) is not None
        assert backoff.find_rest(KEY, now) is None


def test_five_times_within_an_hour_are_refused_for_the_longest_rest() -> None:
    """
    The fifth time costs ten minutes, and so does each that follows within the hour; another definition is free.
    """
    backoff = ShedBackoff()
    for number in range(5):
        backoff.record(KEY, "it hung", number * 60.0)
    rest = backoff.find_rest(KEY, 240.0)
    assert rest is not None
    assert (rest.retry_after_s, rest.count) == (600, 5)
    assert backoff.find_rest(b"another", 240.0) is None
    assert backoff.find_rest(KEY, 840.0) is None
    backoff.record(KEY, "again", 850.0)
    rest = backoff.find_rest(KEY, 850.0)
    assert rest is not None
    assert rest.retry_after_s == 600
    assert set(backoff.resting(850.0)) == {KEY}


def test_an_hour_forgets() -> None:
    """
    What lies an hour back does not count any more.
    """
    backoff = ShedBackoff()
    for number in range(5):
        backoff.record(KEY, "it hung", float(number))
    assert backoff.find_rest(KEY, HOUR_S + 5.0) is None
    backoff.record(KEY, "it hung", HOUR_S + 6.0)
    rest = backoff.find_rest(KEY, HOUR_S + 6.0)
    assert rest is not None
    assert rest.retry_after_s == 1


def test_memory_is_bounded() -> None:
    """
    The definition that was given up longest ago is forgotten first.
    """
    backoff = ShedBackoff()
    for number in range(DEFINITIONS_MAX + 1):
        backoff.record(b"%d" % number, "it hung", 0.0)
    assert backoff.find_rest(b"0", 0.0) is None
    assert backoff.find_rest(b"1", 0.0) is not None


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=30))
def test_a_definition_that_always_fails_is_tried_ever_less_often(pauses: list[float]) -> None:
    """
    However eagerly clients ask, no hour sees more than the five attempts and one for each ten minutes.
    """
    backoff = ShedBackoff()
    now, attempts = 0.0, []
    for pause in pauses:
        now += pause
        if backoff.find_rest(KEY, now) is None:
            attempts.append(now)
            backoff.record(KEY, "it hung", now)
    for start in attempts:
        assert sum(start <= moment < start + HOUR_S for moment in attempts) <= 5 + HOUR_S / 600


def test_only_those_that_rest_are_listed() -> None:
    """
    In the order in which they were given up, without those that have rested, and what lies an hour back is forgotten.
    """
    backoff = ShedBackoff(BackoffLimits(rest_first_s=10.0, rest_s_max=100.0))
    for number in range(5):
        backoff.record(b"%d" % number, "", float(number))
    backoff.record(b"0", "", 5.0)
    assert list(backoff.resting(10.5)) == [b"1", b"2", b"3", b"4", b"0"]
    assert list(backoff.resting(12.0)) == [b"3", b"4", b"0"]
    assert list(backoff.resting(20.0)) == [b"0"]
    backoff.take_changes()
    assert backoff.resting(3603.5) == {}
    assert backoff.take_changes() == dict.fromkeys([b"1", b"2", b"3"])
