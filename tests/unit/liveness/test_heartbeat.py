from __future__ import annotations

from penstock.liveness.heartbeat import Heartbeat, HeartbeatWatch

LIMIT_S = 5.0
PERIOD_S = 0.5


def watch(now: float = 0.0) -> HeartbeatWatch:
    return HeartbeatWatch(limit_s=LIMIT_S, start_limit_s=30.0, period_s=PERIOD_S, now=now)


def look_on(watched: HeartbeatWatch, beat: Heartbeat | None, start_s: float, end_s: float) -> list[bool]:
    """
    Look every period from `start_s` to `end_s` inclusive; give the verdicts.
    """
    count = round((end_s - start_s) / PERIOD_S)
    return [watched.look(beat, 7, start_s + n * PERIOD_S).is_past_limit for n in range(count + 1)]


def test_a_moving_count_is_life() -> None:
    """
    A process that beats is never judged still, however long it runs.
    """
    watched = watch()
    assert not any(watched.look(Heartbeat(7, n, 0.0), 7, n * PERIOD_S).is_past_limit for n in range(1, 200))


def test_a_count_that_stands_is_judged_after_the_limit() -> None:
    """
    The limit counts from the last move of the count, not from the stamp in the beat.
    """
    watched = watch()
    watched.look(Heartbeat(7, 1, 99.0), 7, 1.0)
    verdicts = look_on(watched, Heartbeat(7, 1, 99.0), 1.5, 7.0)
    assert verdicts == [False] * 10 + [True] * 2


def test_starting_may_take_longer() -> None:
    """
    Until the first beat the start limit counts; a predecessor's beats say nothing.
    """
    watched = watch()
    verdicts = look_on(watched, Heartbeat(6, 1000, 0.0, is_ready=True), 0.5, 31.0)
    assert verdicts.index(True) == 60
    assert not watched.is_ready


def test_the_looker_answers_for_its_own_lateness() -> None:
    """
    When all stood still together, the watched gets the missed time back before it is judged.
    """
    watched = watch()
    beat = Heartbeat(7, 1, 0.0)
    watched.look(beat, 7, 0.5)
    assert not watched.look(beat, 7, 3600.0).is_past_limit
    assert look_on(watched, beat, 3600.5, 3602.0) == [False] * 4
    assert look_on(watched, beat, 3602.5, 3606.0)[-1]


def test_readiness_is_what_the_last_beat_says() -> None:
    """
    Readiness follows the beats, up and down.
    """
    watched = watch()
    watched.look(Heartbeat(7, 1, 0.0, is_ready=True), 7, 0.5)
    assert watched.is_ready
    watched.look(Heartbeat(7, 2, 0.0, is_ready=False, state="link lost"), 7, 1.0)
    assert not watched.is_ready
