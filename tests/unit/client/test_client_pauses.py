from __future__ import annotations

import pytest

from penstock.client.follow import Batch, Following, Pause
from penstock.client.freshness import FreshnessWatch
from penstock.client.retry import RETRY_DELAY_MAX_S, RETRY_DELAY_MIN_S, Backoff, read_retry_after
from penstock.client.stream import MustRefetch, ShapeStream
from penstock.errors import ClientError, ProtocolError, StaleShapeError

PLACE = {"electric-handle": "h", "electric-offset": "0_0", "electric-schema": "{}"}
UP_TO_DATE = b'[{"headers":{"control":"up-to-date"}}]'


def begin(*, has_events: bool = False) -> Following:
    """
    Begin to follow at time 0.
    """
    return Following(ShapeStream("items"), now=0, has_events=has_events, stale_after_s=10)


def test_pauses_double_up_to_a_limit_and_begin_anew() -> None:
    """
    With chance between one half and the whole of each.
    """
    backoff = Backoff()
    pauses = [backoff.failed(1) for _ in range(12)]
    assert pauses[:3] == [RETRY_DELAY_MIN_S, RETRY_DELAY_MIN_S * 2, RETRY_DELAY_MIN_S * 4]
    assert pauses[-1] == RETRY_DELAY_MAX_S
    assert backoff.failed(0) == RETRY_DELAY_MAX_S / 2
    backoff.succeeded()
    assert backoff.failed(1) == RETRY_DELAY_MIN_S


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "soon"}, 0),
        ({}, 0),
    ],
)
def test_what_the_server_asks_for_is_read(headers: dict[str, str], seconds: float) -> None:
    """
    As a number and as a date; rubbish asks for nothing.
    """
    assert read_retry_after(headers) == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_an_answer_that_may_change_is_waited_for_as_long_as_it_asks(status: int) -> None:
    """
    No less than `retry-after`, and the watchdog knows why.
    """
    following = begin()
    outcome = following.handle(status, {"retry-after": "30"}, b"busy", now=1, chance=0)
    assert isinstance(outcome, Pause)
    assert outcome.seconds >= 30
    assert following.watch.at(1).failure == f"the server answered {status} busy"


def test_rotations_in_a_row_get_pauses() -> None:
    """
    The first are followed at once; when a cache goes on giving stale answers, nobody is asked as fast as can be.
    """
    following = begin()
    pauses = []
    for _ in range(6):
        outcome = following.handle(409, {}, b"[]", now=0, chance=1)
        assert isinstance(outcome, Batch)
        pauses.append(outcome.pause_s)
        following.handle(200, PLACE, b"[]", now=0, chance=1)
    assert pauses[:2] == [0, 0]
    assert 0 < pauses[2] < pauses[3] < pauses[4] < pauses[5]


def test_a_place_that_the_server_does_not_have_begins_anew() -> None:
    """
    As after a restore from a backup; other problems of a request are errors.
    """
    following = begin()
    following.handle(200, PLACE, b"[]", now=0, chance=0)
    body = b'{"message":"Invalid request","errors":{"offset":["out of bounds for this shape"]}}'
    outcome = following.handle(400, {}, body, now=0, chance=0)
    assert outcome == Batch([MustRefetch(None)])
    assert following.next_request().query["offset"] == "-1"
    with pytest.raises(ClientError, match="where: is invalid"):
        following.handle(400, {}, b'{"errors":{"where":["is invalid"]}}', now=0, chance=0)


def test_a_way_that_swallows_events_is_left() -> None:
    """
    After three streams in a row that end at once and bring nothing, changes are polled for.
    """
    following = begin(has_events=True)
    following.handle(200, PLACE, UP_TO_DATE, now=0, chance=0)
    for _ in range(3):
        assert following.next_request().has_events
        following.begin_events(PLACE, now=0)
        following.end_events(now=0.1, chance=0)
    assert not following.next_request().has_events


def test_events_count_when_they_are_complete() -> None:
    """
    What a cut stream brought comes again; what an up-to-date message completes moves the place to the last change.
    """
    following = begin(has_events=True)
    following.handle(200, PLACE, UP_TO_DATE, now=0, chance=0)
    following.begin_events(PLACE, now=0)
    change = b'data: {"key":"k","value":{},"headers":{"operation":"insert","lsn":"9","op_position":4}}\n\n'
    assert following.feed(change, now=1, chance=0) == []
    following.failed("cut", chance=0)
    assert following.next_request().query["offset"] == "0_0"
    following.begin_events(PLACE, now=2)
    (batch,) = following.feed(change + b"data: " + UP_TO_DATE[1:-1] + b"\n\n", now=3, chance=0)
    assert len(batch.events) == 2
    assert following.next_request().query["offset"] == "9_4"
    assert following.watch.at(3).is_up_to_date


def test_answers_of_another_log_are_not_taken() -> None:
    """
    A cache that ignores the query string is named.
    """
    following = begin()
    following.handle(200, PLACE, b"[]", now=0, chance=0)
    with pytest.raises(ProtocolError, match="is a cache ignoring the query string"):
        following.handle(200, {**PLACE, "electric-handle": "other"}, b"[]", now=0, chance=0)


def test_age_is_counted_from_the_last_confirmation() -> None:
    """
    Good answers that do not confirm are answers all the same; failures are remembered until one comes.
    """
    watch = FreshnessWatch(0, stale_after_s=10)
    watch.answered(5, is_up_to_date=False)
    watch.require_answers(15)
    with pytest.raises(StaleShapeError):
        watch.require_fresh(5)
    watch.answered(20, is_up_to_date=True)
    watch.failed("no route")
    assert (watch.at(25).age_s, watch.at(25).is_stale, watch.at(25).failure) == (5, False, "no route")
    watch.require_fresh(30)
    with pytest.raises(StaleShapeError, match="last failure: no route"):
        watch.require_fresh(31)
    watch.answered(32, is_up_to_date=True)
    assert watch.at(32).failure == ""
