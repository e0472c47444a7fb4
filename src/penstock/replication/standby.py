"""
The standby status: what to report to the server, and when.

It owns the deadlines of a streaming connection: when a status is due, when to ask the server for an answer, and when
its silence means that the link is half open. It sends nothing itself. Form: a reducer; `now` is an argument, in seconds
on a clock that does not jump.

Rules:

* A status is due by timer, at `min(wal_sender_timeout / 3, 10 s)` after the last one, whatever else happens.
* It is due earlier when the server asks for one, or when the confirmed position moved. Both are held apart by short
  intervals, so that neither a stream of commits nor a server that asks again after each answer (as it does while it
  shuts down) turns into a stream of statuses.
* The confirmed position starts at the slot's own and never moves back: older servers would believe us if it did.
* When the server has been silent for the interval of the timer, the status asks for an answer. Half a minute without
  any answer means that nobody is there. Silence is not counted while nobody reads, nor while we ourselves were late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock.postgres.lsn import EndLsn

STATUS_INTERVAL_S_MAX: Final = 10.0
"""A status leaves at least this often."""

CONFIRM_INTERVAL_S: Final = 0.1
"""Statuses that only tell a new confirmed position keep this distance from the one before."""

REPLY_INTERVAL_S: Final = 0.01
"""Answers to the server's requests keep this distance from the status before."""

HALF_OPEN_S: Final = 30.0
"""So long we wait for an answer that we asked for."""

LATENESS_S: Final = 5.0
"""Called later than this after the time asked for, we were the one who stood still."""


@dataclass(frozen=True, slots=True)
class SendStatus:
    """
    Send a standby status.

    Attributes:
        received: how far the stream was read, as a number.
        confirmed: what may be forgotten.
        is_reply_requested: whether the server is to answer.
    """

    received: int
    confirmed: EndLsn
    is_reply_requested: bool


class StandbyReporter:
    """
    Decides about statuses for one streaming connection.

    Attributes:
        interval_s: the timer's.
        confirmed: the position in the last status, or the slot's own.
    """

    __slots__ = (
        "_asked_at",
        "_due_at",
        "_heard_at",
        "_is_asked",
        "_is_moved",
        "_sent_at",
        "confirmed",
        "interval_s",
    )

    def __init__(self, wal_sender_timeout_s: float, confirmed: EndLsn, now: float) -> None:
        """
        Begin when streaming begins; the first status is due at once.

        Args:
            wal_sender_timeout_s: the server's setting, 0 for none.
            confirmed: the slot's confirmed position.
            now: the time.
        """
        assert wal_sender_timeout_s >= 0
        self.interval_s: Final = (
            min(wal_sender_timeout_s / 3, STATUS_INTERVAL_S_MAX) if wal_sender_timeout_s else STATUS_INTERVAL_S_MAX
        )
        self.confirmed = confirmed
        self._is_asked = False
        self._is_moved = False
        self._sent_at = now - self.interval_s
        self._due_at = now
        self._heard_at = now
        # When the server was first asked for the answer that has not come.
        self._asked_at: float | None = None

    @property
    def due_at(self) -> float:
        """
        When `decide` is to be called at the latest.
        """
        return self._due_at

    def heard(self, now: float) -> None:
        """
        The server said something, or nobody listened.
        """
        self._heard_at = now
        self._asked_at = None

    def decide(
        self, *, received: int, confirmable: EndLsn, is_reply_requested: bool, is_reading: bool, now: float
    ) -> SendStatus | None:
        """
        Give the status that is due now, if one is; whoever gets it sends it.

        Args:
            received: how far the stream was read, as a number.
            confirmable: what may be confirmed.
            is_reply_requested: whether the server asked for a status since the last one.
            is_reading: whether the socket is being read.
            now: the time.
        """
        if not is_reading or now - self._due_at > LATENESS_S:
            self.heard(now)
        self._is_asked = is_reply_requested
        self._is_moved = confirmable > self.confirmed
        self._due_at = self._next(now)
        if now < self._due_at:
            return None
        is_silent = now - self._heard_at >= self.interval_s
        if is_silent and self._asked_at is None:
            self._asked_at = now
        if self._is_moved:
            self.confirmed = confirmable
        self._is_moved = self._is_asked = False
        self._sent_at = now
        self._due_at = self._next(now)
        return SendStatus(received, self.confirmed, is_silent)

    def is_half_open(self, now: float) -> bool:
        """
        Tell whether the server owes an answer for so long that the link must be dead.
        """
        return self._asked_at is not None and now - self._asked_at >= HALF_OPEN_S

    def final(self, *, received: int, confirmable: EndLsn) -> SendStatus:
        """
        Give the status to end with.
        """
        self.confirmed = max(self.confirmed, confirmable)
        return SendStatus(received, self.confirmed, is_reply_requested=False)

    def _next(self, now: float) -> float:
        """
        Give the time at which the next status is due by what is known now.
        """
        due_at = self._sent_at + self.interval_s
        if self._is_moved:
            due_at = min(due_at, max(now, self._sent_at + CONFIRM_INTERVAL_S))
        if self._is_asked:
            due_at = min(due_at, max(now, self._sent_at + REPLY_INTERVAL_S))
        return due_at
