"""
One subscription with all that keeps it going, without the network: what to ask next, what an answer means, how long to wait
after a failure, and how current all of it is.

Reducer over `ShapeStream`: the shell asks `next_request()`, sends it, and tells what became of it: `handle()` for an answer,
`begin_events()`, `feed()` and `end_events()` for a stream of events, `failed()` for none. It is given `Batch` or `Pause`.
Pure: the time and chance come as arguments.

Invariant: nothing that was not complete is ever given out, so that a connection may be cut at any byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock.client.events import KEEP_ALIVE, EventFeeder
from penstock.client.freshness import FreshnessWatch
from penstock.client.retry import RETRIED_STATUSES, Backoff, read_retry_after
from penstock.client.stream import MustRefetch, ShapeStream, StreamEvent, UpToDate
from penstock.errors import InvalidRequestError

SHORT_STREAM_S: Final = 1.0
"""A stream of events that ends sooner and has brought nothing has not worked."""
SHORT_STREAMS_MAX: Final = 3
"""After so many in a row, something in between does not let streams through: long polling is used instead."""
ROTATIONS_AT_ONCE_MAX: Final = 2
"""So many rotations in a row are followed at once; then with pauses, because somebody is giving stale answers."""


@dataclass(frozen=True, slots=True)
class Request:
    """
    What to ask.

    Attributes:
        query: the parameters.
        has_events: whether the answer may be a stream of events.
    """

    query: dict[str, str]
    has_events: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """
    What an answer brought; may be empty.

    Attributes:
        events: in order.
        pause_s: seconds to wait before the next request.
    """

    events: list[StreamEvent]
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """
    Wait so many seconds and ask again.
    """

    seconds: float


Outcome: TypeAlias = Batch | Pause


class Following:
    """
    The state of a subscription and of its connection.
    """

    def __init__(self, stream: ShapeStream, *, now: float, has_events: bool, stale_after_s: float | None) -> None:
        """
        Begin.

        Args:
            stream: the subscription.
            now: the time.
            has_events: whether to wait for changes as a stream of events.
            stale_after_s: see `FreshnessWatch`.
        """
        self.stream: Final = stream
        self.watch: Final = FreshnessWatch(now, stale_after_s=stale_after_s)
        self.rotation_count = 0
        self._backoff: Final = Backoff()
        self._rotation_backoff: Final = Backoff()
        self._has_events = has_events
        self._feeder = EventFeeder()
        self._began = now
        self._has_brought = False
        self._short_count = 0
        self._rotated_in_a_row = 0

    def next_request(self) -> Request:
        """
        Say what to ask.
        """
        has_events = self._has_events and self.stream.is_up_to_date
        return Request(self.stream.next_request(has_events=has_events), has_events)

    def handle(self, status: int, headers: Mapping[str, str], body: bytes, *, now: float, chance: float) -> Outcome:
        """
        Take in a whole answer.

        Raises:
            ClientError: it ends the subscription.
        """
        if status in RETRIED_STATUSES:
            said = body[:200].decode(errors="replace").strip()
            self.watch.failed(f"the server answered {status} {said}".rstrip())
            return Pause(self._backoff.failed(chance, asked_s=read_retry_after(headers)))
        try:
            events = self.stream.handle_response(status, headers, body)
        except InvalidRequestError as error:
            if "out of bounds" not in str(error.problems.get("offset", "")):
                raise
            # The server was set back to before what we have read, and the log that we know is no more.
            events = [self.stream.lose_place()]
        return self._good(events, now, chance)

    def failed(self, failure: str, *, chance: float) -> Pause:
        """
        Take in that there was no answer, or that it broke off.
        """
        self.stream.cut_events()
        self.watch.failed(failure)
        return Pause(self._backoff.failed(chance))

    def begin_events(self, headers: Mapping[str, str], *, now: float) -> None:
        """
        Take in the head of a stream of events.
        """
        self.stream.begin_events(headers)
        self._feeder = EventFeeder()
        self._began = now
        self._has_brought = False
        # Such a stream begins where we are: until something comes there is nothing.
        self.watch.answered(now, is_up_to_date="electric-up-to-date" in headers)

    def feed(self, data: bytes, *, now: float, chance: float) -> list[Batch]:
        """
        Take in a part of a stream of events; gives what is complete with it.

        Raises:
            ClientError: it ends the subscription.
        """
        batches = []
        for event in self._feeder.feed(data):
            self._has_brought = True
            self._backoff.succeeded()
            if event == KEEP_ALIVE:
                self.watch.answered(now, is_up_to_date=self.stream.is_up_to_date and not self.stream.holds_events)
            elif events := self.stream.handle_event(event):
                batches.append(self._good(events, now, chance))
        return batches

    def end_events(self, *, now: float, chance: float) -> Batch:
        """
        Take in that a stream of events has ended in order.
        """
        is_short = not self._has_brought and now - self._began < SHORT_STREAM_S
        self._short_count = self._short_count + 1 if is_short else 0
        if self._short_count >= SHORT_STREAMS_MAX:
            self._has_events = False
        events = self.stream.end_events()
        return self._good(events, now, chance) if events else Batch([])

    def _good(self, events: list[StreamEvent], now: float, chance: float) -> Batch:
        pause_s = 0.0
        if any(isinstance(event, MustRefetch) for event in events):
            self.rotation_count += 1
            self._rotated_in_a_row += 1
            if self._rotated_in_a_row > ROTATIONS_AT_ONCE_MAX:
                pause_s = self._rotation_backoff.failed(chance)
            return Batch(events, pause_s)
        is_up_to_date = any(isinstance(event, UpToDate) for event in events)
        self._backoff.succeeded()
        if is_up_to_date:
            self._rotated_in_a_row = 0
            self._rotation_backoff.succeeded()
        self.watch.answered(now, is_up_to_date=is_up_to_date)
        return Batch(events)
