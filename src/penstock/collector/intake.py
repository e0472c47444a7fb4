"""
The engine's reading loop: from the published end to the collector, in slices.

Owns when is read and how much at a time. Reads the relay log up to the published end, decodes, waits for the facts the
collector needs, lets it handle the slice, calls the heartbeat hook, and gives the loop to others. Leaves every decision
about data to `RelayFeed` and `ShapeLogCollector`. A second instance over a collector without a tracker is the catch-up
reader.

Form: shell. Its limits: a slice is at most `SLICE_BYTES_MAX` read bytes (one record at least), and shrinks when slices
take longer than `SLICE_S_MAX`; wake-ups are hints with a poll every `POLL_S` behind them. One task runs it; after an
error that it does not name here, that task ends with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from penstock.collector.feed import RelayFeed
from penstock.errors import CorruptLogError, DecodeError
from penstock.relay.abc import PublishedEnd, RelayPlace, RelaySource
from penstock.replication.messages import StreamEvent

SLICE_BYTES_MAX: Final = 256 << 10
SLICE_BYTES_MIN: Final = 8 << 10
SLICE_S_MAX: Final = 0.005
POLL_S: Final = 1.0


class Collector(Protocol):
    """
    What the intake needs of a collector.
    """

    def missing_facts(self, events: Sequence[StreamEvent]) -> list[int]:
        """
        Name relations to be asked about before `handle`.
        """
        ...

    def handle(self, events: Sequence[StreamEvent], now: float) -> None:
        """
        Handle a slice.
        """
        ...


class Intake:
    """
    Feeds a collector from the relay log.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        published: Callable[[], PublishedEnd | None],
        open_epoch: Callable[[PublishedEnd], Awaitable[RelaySource]],
        find_ancestors: Callable[[int], Awaitable[object]],
        on_broken: Callable[[CorruptLogError | DecodeError], Awaitable[None]],
        on_slice: Callable[[float], None],
        may_read: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Take the ports; nothing is read before `run`.

        Args:
            collector: handles the slices.
            published: reads the published end; None while there is none.
            open_epoch: called at the first published end and whenever its epoch is another one; compares it with the
                epoch of the shapes, rotates them if it differs, and answers the log of that epoch at the right place.
            find_ancestors: finds and records the partitioned tables above a relation.
            on_broken: the log is corrupt or cannot be decoded: all shapes are to be given up before it returns. Called
                again with the same error when decoding goes on.
            on_slice: called with the time after each slice, and at least every `POLL_S` while there is nothing to do.
            may_read: owned by others; while it is not set nothing is read.
            clock: seconds.
        """
        self._collector: Final = collector
        self._published: Final = published
        self._open_epoch: Final = open_epoch
        self._find_ancestors: Final = find_ancestors
        self._on_broken: Final = on_broken
        self._on_slice: Final = on_slice
        self._may_read: Final = may_read
        self._clock: Final = clock
        self._wake: Final = asyncio.Event()
        self._feed: RelayFeed | None = None
        self._epoch: int | None = None
        self._replay_end: RelayPlace | None = None
        self._slice_bytes = SLICE_BYTES_MAX
        self._is_caught_up = False

    def wake(self) -> None:
        """
        Hint that the published end may have moved. To be called on the loop's thread.
        """
        self._wake.set()

    @property
    def is_paused(self) -> bool:
        """
        Whether others have asked not to read on.
        """
        return self._may_read is not None and not self._may_read.is_set()

    @property
    def is_caught_up(self) -> bool:
        """
        Whether everything that was published when this life began has been handled.
        """
        return self._is_caught_up

    @property
    def is_broken(self) -> bool:
        """
        Whether the stream cannot be decoded at present; shapes made now would miss commits.
        """
        return self._feed is not None and self._feed.broken_by is not None

    @property
    def epoch(self) -> int | None:
        """
        The epoch that is read; None before the first.
        """
        return self._epoch

    async def run(self) -> None:
        """
        Read until cancelled.
        """
        while True:
            self._wake.clear()
            published = self._published()
            if published is not None and published.epoch != self._epoch:
                await self._begin_epoch(published)
            has_read = published is not None and not self.is_paused and await self._read_up_to(published)
            if not has_read:
                self._on_slice(self._clock())
            await self._wait_for_more()

    async def _begin_epoch(self, published: PublishedEnd) -> None:
        assert self._epoch is None or published.epoch > self._epoch, "epochs only grow"
        source = await self._open_epoch(published)
        self._feed = RelayFeed(source)
        self._epoch = published.epoch
        self._replay_end = published.place

    async def _read_up_to(self, published: PublishedEnd) -> bool:
        """
        Read slices up to a place; tells whether there was any.
        """
        feed = self._feed
        assert feed is not None
        has_read = False
        self._see_whether_caught_up(feed)
        while feed.has_more(published.place) and not self.is_paused:
            await self._read_slice(feed, published.place)
            has_read = True
            self._see_whether_caught_up(feed)
            self._on_slice(self._clock())
        return has_read

    def _see_whether_caught_up(self, feed: RelayFeed) -> None:
        if self._replay_end is not None and not feed.has_more(self._replay_end):
            self._is_caught_up = True

    async def _read_slice(self, feed: RelayFeed, up_to: RelayPlace) -> None:
        began = self._clock()
        was_broken_by = feed.broken_by
        try:
            events = feed.read(up_to, self._slice_bytes)
        except (CorruptLogError, DecodeError) as error:
            await self._on_broken(error)
            await asyncio.sleep(0)
            return
        if was_broken_by is not None and feed.broken_by is None:
            await self._on_broken(was_broken_by)
        waited = 0.0
        while missing := self._collector.missing_facts(events):
            asked = self._clock()
            for oid in missing:
                await self._find_ancestors(oid)
            waited += self._clock() - asked
        now = self._clock()
        self._collector.handle(events, now)
        self._fit_slices(self._clock() - began - waited)
        # Who has waited for the slice answers in the first turn of the loop, and the answer leaves in the second.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _fit_slices(self, took_s: float) -> None:
        """
        Choose the next slice so that it takes about as long as it may.
        """
        if took_s > SLICE_S_MAX:
            self._slice_bytes = max(SLICE_BYTES_MIN, self._slice_bytes // 2)
        elif took_s < SLICE_S_MAX / 4:
            self._slice_bytes = min(SLICE_BYTES_MAX, self._slice_bytes * 2)

    async def _wait_for_more(self) -> None:
        """
        Wait for a hint, for the leave to read on, or for the poll.
        """
        if self._may_read is not None and self.is_paused:
            with suppress(TimeoutError):
                # Not `wait_for`, which on Python 3.11 may swallow a cancellation that comes with the event.
                async with asyncio.timeout(POLL_S):
                    await self._may_read.wait()
            return
        poll = asyncio.get_running_loop().call_later(POLL_S, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            poll.cancel()
