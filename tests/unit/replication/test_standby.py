from __future__ import annotations

import pytest

from penstock.postgres.lsn import EndLsn
from penstock.replication.standby import (
    CONFIRM_INTERVAL_S,
    HALF_OPEN_S,
    LATENESS_S,
    REPLY_INTERVAL_S,
    SendStatus,
    StandbyReporter,
)


class Server:
    """
    Drives a reporter by a clock of its own.
    """

    def __init__(self, timeout_s: float = 60.0, confirmed: int = 100) -> None:
        self.reporter = StandbyReporter(timeout_s, EndLsn(confirmed), 0.0)
        self.confirmable = confirmed

    def at(self, now: float, *, asks: bool = False, reads: bool = True) -> SendStatus | None:
        return self.reporter.decide(
            received=self.confirmable,
            confirmable=EndLsn(self.confirmable),
            is_reply_requested=asks,
            is_reading=reads,
            now=now,
        )


@pytest.mark.parametrize(("timeout_s", "interval_s"), [(0, 10), (60, 10), (30, 10), (6, 2), (0.3, 0.1)])
def test_the_timer_follows_the_servers_patience(timeout_s: float, interval_s: float) -> None:
    """
    A third of the timeout, ten seconds at most, ten without a timeout; the first at once.
    """
    server = Server(timeout_s)
    assert server.reporter.interval_s == pytest.approx(interval_s)
    assert server.at(0.0) == SendStatus(100, EndLsn(100), False)
    assert server.reporter.due_at == pytest.approx(interval_s)
    assert server.at(interval_s * 0.99) is None
    assert server.at(interval_s * 1.01) is not None


def test_a_moved_position_is_told_soon_but_not_each_time() -> None:
    """
    The first move at once, further ones after the interval, together.
    """
    server = Server()
    server.at(0.0)
    server.confirmable = 101
    assert server.at(1.0) == SendStatus(101, EndLsn(101), False)
    server.confirmable = 102
    assert server.at(1.01) is None
    assert server.reporter.due_at == pytest.approx(1.0 + CONFIRM_INTERVAL_S)
    server.confirmable = 103
    assert server.at(1.0 + CONFIRM_INTERVAL_S) == SendStatus(103, EndLsn(103), False)
    assert server.at(2.0) is None


def test_a_request_is_answered_at_once() -> None:
    """
    Even between two moves; but a server that asks after each answer gets a bounded number of them.
    """
    server = Server()
    server.at(0.0)
    assert server.at(1.0, asks=True) is not None
    assert server.at(1.001, asks=True) is None
    assert server.reporter.due_at == pytest.approx(1.0 + REPLY_INTERVAL_S)
    assert server.at(1.0 + REPLY_INTERVAL_S, asks=True) is not None


def test_the_position_never_moves_back() -> None:
    """
    Below the slot's own position nothing is told, nor below what was told.
    """
    server = Server(confirmed=100)
    server.confirmable = 50
    status = server.at(0.0)
    assert status is not None
    assert status.confirmed == EndLsn(100)
    server.confirmable = 200
    assert server.at(1.0) is not None
    server.confirmable = 150
    assert server.at(2.0) is None
    assert server.reporter.final(received=0, confirmable=EndLsn(150)).confirmed == EndLsn(200)
    assert server.reporter.final(received=0, confirmable=EndLsn(300)).confirmed == EndLsn(300)


def test_a_silent_server_is_asked_and_then_given_up() -> None:
    """
    After one interval of silence statuses ask for an answer; thirty seconds after the first question is the end.
    """
    server = Server()
    asked = [server.at(now) for now in (0.0, 10.0, 20.0, 30.0)]
    assert [status is not None and status.is_reply_requested for status in asked] == [False, True, True, True]
    assert not server.reporter.is_half_open(10.0 + HALF_OPEN_S - 0.1)
    assert server.reporter.is_half_open(10.0 + HALF_OPEN_S)
    server.reporter.heard(39.0)
    assert not server.reporter.is_half_open(100.0)
    status = server.at(40.0)
    assert status is not None
    assert not status.is_reply_requested


def test_silence_does_not_count_while_nobody_reads() -> None:
    """
    With a full sink statuses go on by timer, without questions and without a verdict.
    """
    server = Server()
    for now in range(0, 200, 10):
        status = server.at(float(now), reads=False)
        assert status is not None
        assert not status.is_reply_requested
        assert not server.reporter.is_half_open(float(now))


def test_our_own_lateness_is_not_the_servers_silence() -> None:
    """
    After we stood still the server gets its time again.
    """
    server = Server()
    server.at(0.0)
    server.at(10.0)
    late = 20.0 + LATENESS_S + 100
    status = server.at(late)
    assert status is not None
    assert not status.is_reply_requested
    assert not server.reporter.is_half_open(late + HALF_OPEN_S)
