"""
One replication connection while it streams: reading, handing over, statuses. Form: a shell.

The loop, in this order, for reasons that were measured:

1. Take from libpq until it has nothing, then let it read, and again, until a read brought nothing. Under TLS one read
   brings about one message, so pausing after each would be a cliff; and waiting while OpenSSL still holds bytes would
   be a hang.
2. Hand over what is ready, send the status if it is due.
3. When the stream lags behind the server, pause for half a millisecond: the server flushes its socket for each
   message, and fewer reads cost both sides less. Never when caught up.
4. Wait for the socket, the wake-up pipe or the next deadline.

When the sink is full, the socket is not read, which is the back-pressure that the server feels; statuses go on by
timer, or it would end the connection.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final

import structlog

from penstock.errors import ConnectionLostError, SourceError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.replication.abc import FrameSink
from penstock.replication.frames import FrameScanner, encode_standby_status
from penstock.replication.handshake import Introduction
from penstock.replication.link import Link
from penstock.replication.standby import HALF_OPEN_S, SendStatus, StandbyReporter
from penstock.replication.waiting import POLL_S_MAX, WAKE_BYTES_MAX, StopRequestedError, Waiter

MESSAGES_PER_TURN: Final = 256
"""After so many messages the clock, the sink and the stop signal are looked at."""

HANDOVER_INTERVAL_S: Final = 0.005
"""In a stream without gaps, what is ready leaves at least this often."""

HANDOVER_PAUSE_S: Final = 0.000_02
"""Who takes it cannot begin before this thread lets go of the interpreter, and nothing else is urgent when caught up."""

COALESCING_PAUSE_S: Final = 0.0005
PROGRESS_INTERVAL_S: Final = 0.25
"""Progress is told at most this often."""

_POSTGRES_EPOCH_S: Final = 946_684_800  # 2000-01-01 in Unix time

_log: Final = structlog.get_logger(__name__)


class Stream:
    """
    A connection between START_REPLICATION and its end.
    """

    def __init__(
        self,
        *,
        link: Link,
        introduction: Introduction,
        last_kept: CommitLsn,
        sink: FrameSink,
        on_progress: Callable[[EndLsn, EndLsn, EndLsn, bool], None],
        waiter: Waiter,
        wake_fd: int,
        clock: Callable[[], float],
        finish_timeout_s: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Take over a link whose stream is open.

        Args:
            link: the connection; closed by whoever made it.
            introduction: what the server said of itself.
            last_kept: the sink's last commit.
            sink: keeps the frames.
            on_progress: told now and then: received, confirmed, the server's end, whether reading is paused.
            waiter: how to wait.
            wake_fd: the wake-up pipe.
            clock: gives seconds that do not jump.
            finish_timeout_s: how long the server may take to end the stream when we stop.
            is_wanted: whether to go on.
        """
        self._is_wanted: Final = is_wanted
        self._link: Final = link
        self._sink: Final = sink
        self._on_progress: Final = on_progress
        self._waiter: Final = waiter
        self._wake_fd: Final = wake_fd
        self._clock: Final = clock
        self._finish_timeout_s: Final = finish_timeout_s
        self._scanner: Final = FrameScanner(last_kept)
        now = clock()
        self._reporter: Final = StandbyReporter(
            introduction.wal_sender_timeout_s, introduction.start.identity.confirmed, now
        )
        self._handed_over_at = now
        self._is_wake_open = True
        self._progress: tuple[int, EndLsn, int, bool] | None = None
        self._told_at = float("-inf")

    def run(self) -> None:
        """
        Stream until a stop was asked for or the stream is not wanted any more, then end the stream.

        Raises:
            SourceError: the connection ended, or must.
            DecodeError: what came is not a stream that we understand.
        """
        is_reading = True
        try:
            while not self._waiter.is_stopping and self._is_wanted():
                is_reading = not self._sink.is_full
                if is_reading:
                    self._read()
                now = self._clock()
                self._hand_over(now)
                self._report(now, is_reading=is_reading)
                self._tell(now, is_reading=is_reading)
                if is_reading and self._scanner.is_behind:
                    time.sleep(COALESCING_PAUSE_S)
                self._wait(now, is_reading=is_reading)
        except StopRequestedError:
            _log.debug("replication.stop_requested")
        self._finish()

    def _read(self) -> None:
        """
        Take all there is; ends early when the sink is full or a stop was asked for.
        """
        link, scanner = self._link, self._scanner
        has_consumed = False
        while True:
            is_anything = False
            count = MESSAGES_PER_TURN
            while count == MESSAGES_PER_TURN:
                payloads = link.take(MESSAGES_PER_TURN)
                count = len(payloads)
                if not count:
                    break
                is_anything = True
                scanner.feed(payloads)
                now = self._clock()
                self._reporter.heard(now)
                if scanner.has_full_batch or now - self._handed_over_at >= HANDOVER_INTERVAL_S:
                    self._hand_over(now)
                self._report(now, is_reading=True)
                if self._sink.is_full or self._waiter.is_stopping:
                    return
            if link.is_ended:
                self._hand_over(self._clock())
                raise link.reason_of_end()
            if has_consumed and not is_anything:
                return
            link.consume()
            has_consumed = True

    def _hand_over(self, now: float) -> None:
        """
        Give the sink what is ready.

        Raises:
            ConnectionLostError: it failed, so what it did not keep must be sent again.
        """
        sink = self._sink
        if sink.has_failed:
            raise ConnectionLostError("What was received could not be kept on disk; the server must send it again.")
        self._handed_over_at = now
        items = self._scanner.drain(now)
        for item in items:
            if isinstance(item, EndLsn):
                sink.submit_frontier(item)
            else:
                sink.submit(item)
        if items and not self._scanner.is_behind:
            time.sleep(HANDOVER_PAUSE_S)

    def _report(self, now: float, *, is_reading: bool) -> None:
        """
        Send the status if it is due.

        Raises:
            ConnectionLostError: the server has not answered or read for too long.
        """
        link, scanner, reporter = self._link, self._scanner, self._reporter
        if link.blocked_at is not None:
            link.flush()
            if link.blocked_at is not None:
                # The newest status is the only one worth sending, so none is made until the last one is out.
                if now - link.blocked_at >= HALF_OPEN_S:
                    raise ConnectionLostError("The server takes no standby status any more.")
                return
        status = reporter.decide(
            received=scanner.received,
            confirmable=self._sink.confirmable,
            is_reply_requested=scanner.is_reply_requested,
            is_reading=is_reading,
            now=now,
        )
        if reporter.is_half_open(now):
            raise ConnectionLostError(f"The server has not answered for {HALF_OPEN_S:g} s.")
        if status is not None:
            scanner.is_reply_requested = False
            self._send(status)

    def _send(self, status: SendStatus) -> None:
        at_us = int((time.time() - _POSTGRES_EPOCH_S) * 1_000_000)
        self._link.put(
            encode_standby_status(
                status.received, status.confirmed, at_us, is_reply_requested=status.is_reply_requested
            )
        )

    def _tell(self, now: float, *, is_reading: bool) -> None:
        """
        Tell progress, if there is any and the last was not a moment ago.
        """
        scanner, confirmed = self._scanner, self._reporter.confirmed
        progress = (scanner.received, confirmed, scanner.server_end, not is_reading)
        if progress != self._progress and now - self._told_at >= PROGRESS_INTERVAL_S:
            self._progress = progress
            self._told_at = now
            received = EndLsn(max(scanner.received, confirmed.value))
            self._on_progress(received, confirmed, EndLsn(scanner.server_end), not is_reading)

    def _wait(self, now: float, *, is_reading: bool) -> None:
        """
        Wait until there is something to do.

        Raises:
            StopRequestedError: a stop was asked for.
        """
        link = self._link
        until = now + POLL_S_MAX
        interests = {}
        if is_reading:
            interests[link.socket] = select.POLLIN
        if link.blocked_at is None:
            until = min(until, self._reporter.due_at)
        else:
            interests[link.socket] = interests.get(link.socket, 0) | select.POLLOUT
        if self._scanner.frontier_due_at is not None:
            until = min(until, self._scanner.frontier_due_at)
        if self._is_progress_untold(is_reading=is_reading):
            until = min(until, self._told_at + PROGRESS_INTERVAL_S)
        if self._is_wake_open:
            interests[self._wake_fd] = select.POLLIN
        came = self._waiter.wait(interests, until - now)
        if self._wake_fd in came:
            try:
                # An empty read means that the other end is closed: from then on the deadlines wake us.
                self._is_wake_open = bool(os.read(self._wake_fd, WAKE_BYTES_MAX))
            except BlockingIOError:
                _log.debug("replication.wake_pipe_was_empty")

    def _is_progress_untold(self, *, is_reading: bool) -> bool:
        scanner = self._scanner
        return self._progress != (scanner.received, self._reporter.confirmed, scanner.server_end, not is_reading)

    def _finish(self) -> None:
        """
        Hand over the rest, send the last status and end the stream.
        """
        try:
            now = self._clock()
            self._hand_over(now)
            self._send(self._reporter.final(received=self._scanner.received, confirmable=self._sink.confirmable))
            self._link.finish(self._finish_timeout_s)
        except SourceError as failure:
            # The end of the connection says the same to the server, only later.
            _log.warning("replication.unclean_end", error=failure.message)
        confirmed = self._reporter.confirmed
        received = EndLsn(max(self._scanner.received, confirmed.value))
        self._on_progress(received, confirmed, EndLsn(self._scanner.server_end), False)
