"""
Feeding shapes that are behind from the relay log.

Owns the second reader: where it begins, which shapes it feeds, when they are handed back. The decoding and routing are
those of the main reader, with a collector of its own that keeps no accounts, because the debts are registered already.

Form: shell; one task. It works in rounds. A round begins at the earliest place any shape that is behind has reached, and
feeds all of them; each drops what it has. After every slice the shapes that have passed everything they did not take
from the main reader are handed back, which needs no look at where the main reader stands: what it delivers of what they
passed already they drop, and what it delivered of anything later they would have missed.

A round feeds the consumers that it began with. One that was put in another's place meanwhile needs what that one did not
take, which the round has passed, and so waits for the next round; whatever this round still brings its shape is dropped.

Limits: one slice holds about `catch_up_read_bytes`; the loop is given away after each. A shape whose tail is full takes
no part until it is settled.

A relay log that cannot be read from where a shape needs it costs the shape.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from penstock.collector.abc import CatalogFacts, RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.feed import RelayFeed
from penstock.consumers.abc import ShapeAccounts
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.errors import CorruptLogError, DecodeError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.relay.abc import PublishedEnd, RelaySource
from penstock.replication.messages import Fragment, Omitted, StreamEvent

_log: Final = structlog.get_logger(__name__)


class _Delivery:
    """
    What the second collector delivers to: the same registry, by another door.
    """

    def __init__(self, registry: ConsumerRegistry, entries: Sequence[ShapeEntry]) -> None:
        self._registry: Final = registry
        self._entries: Final = entries
        # Not held: the registry learns that a consumer is gone when nobody holds it any more.
        self._consumers: Final = {
            entry.incarnation: weakref.ref(entry.consumer) for entry in entries if entry.consumer is not None
        }

    def is_for(self, entry: ShapeEntry | None) -> bool:
        """
        Tell whether a shape has the consumer that it had when the round began.
        """
        if entry is None or entry.consumer is None:
            return False
        before = self._consumers.get(entry.incarnation)
        return before is not None and before() is entry.consumer

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        entry_of = self._registry.entry
        self._registry.publish_caught_up({key: some for key, some in parts.items() if self.is_for(entry_of(key))})

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        The main reader has told or will tell.
        """

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        self._registry.spoil_caught_up(self._entries, table_oids, at, reason, xid)


class CatchUp:
    """
    Brings shapes that are behind up to the main reader.
    """

    def __init__(
        self,
        *,
        registry: ConsumerRegistry,
        accounts: ShapeAccounts,
        facts: CatalogFacts,
        published: Callable[[], PublishedEnd | None],
        open_source: Callable[[PublishedEnd], Awaitable[RelaySource]],
        limits: ConsumerLimits,
        clock: Callable[[], float],
    ) -> None:
        """
        Take the ports.

        Args:
            registry: where the shapes are.
            accounts: tells the flush boundary.
            facts: of partitions.
            published: reads the published end; None while there is none.
            open_source: opens another reader on the log of that epoch; `seek` is called here.
            limits: bounds.
            clock: seconds that do not step back.
        """
        self._registry: Final = registry
        self._accounts: Final = accounts
        self._facts: Final = facts
        self._published: Final = published
        self._open_source: Final = open_source
        self._limits: Final = limits
        self._clock: Final = clock
        self._wake: Final = asyncio.Event()
        self.rounds_count = 0
        """How many rounds were begun."""
        self.slices_count = 0
        """How many slices were handled, whether or not they held anything for the shapes that are behind."""
        self._half_way_count = 0
        # The shapes fed in the round that is on; None between rounds.
        self._fed: frozenset[int] | None = None

    def progress_of(self, entry: ShapeEntry) -> int:
        """
        Give a number that changes when a shape that is behind gets on: what the reader does for others is none of it.

        While the round that is on feeds others, its turn comes nearer with each slice. In its own round it gets on with
        each commit it passes, and with each slice of a transaction that needs many. One that is brought the same again
        and again does not get on.
        """
        if self._fed is not None and entry.incarnation not in self._fed:
            return self.slices_count
        return _done(entry).value + self._half_way_count

    def wake(self) -> None:
        """
        A shape fell behind, or one whose tail was full was settled, or more was published.
        """
        self._wake.set()

    async def run(self) -> None:
        """
        Catch shapes up, until cancelled.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._round():
                pass
            if self._hungry():
                # The log did not hold what they miss yet, or there is none: look again.
                self._wake_later()

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(self._limits.retry_s, self._wake.set)

    def _hungry(self) -> list[ShapeEntry]:
        half = self._limits.shape_tail_bytes_max // 2
        return [
            entry
            for entry in self._registry.behind()
            if entry.consumer is not None and entry.consumer.log is not None and entry.consumer.log.tail_bytes <= half
        ]

    async def _round(self) -> bool:
        """
        Feed the shapes that are behind now; tells whether any of them got on.
        """
        entries = [entry for entry in self._hungry() if not self._hand_back(entry)]
        published = self._published()
        if not entries or published is None:
            return False
        for entry in entries:
            assert entry.consumer is not None
            entry.consumer.return_to_commit()
        start = min(self._place(entry) for entry in entries)
        self.rounds_count += 1
        source = await self._open_source(published)
        try:
            source.seek(start)
        except CorruptLogError as error:
            self._registry.condemn(entries, f"cannot be caught up: {error.message}")
            return True
        return await self._feed(RelayFeed(source), published, start, entries)

    def _place(self, entry: ShapeEntry) -> EndLsn:
        """
        Tell up to where nothing need be read again for a shape.

        What an idle shape took last may be long trimmed: that nothing was missed since, the boundary says. A shape that
        is not live holds the log itself, and not the boundary.
        """
        assert entry.consumer is not None
        done_end = entry.consumer.done_end
        return max(done_end, self._accounts.boundary) if entry.is_live else done_end

    async def _feed(self, feed: RelayFeed, published: PublishedEnd, start: EndLsn, entries: list[ShapeEntry]) -> bool:
        self._fed = frozenset(entry.incarnation for entry in entries)
        try:
            return await self._feed_all(feed, published, start, entries)
        finally:
            self._fed = None

    async def _feed_all(
        self, feed: RelayFeed, published: PublishedEnd, start: EndLsn, entries: list[ShapeEntry]
    ) -> bool:
        delivery = _Delivery(self._registry, tuple(entries))
        collector = ShapeLogCollector(boundary=start, facts=self._facts, delivery=delivery)
        reached = {entry.incarnation: _done(entry) for entry in entries}
        fed = entries
        for entry in entries:
            collector.add_shape(entry.incarnation, entry.definition, self._clock())
        while entries and feed.has_more(published.place):
            try:
                events = feed.read(published.place, self._limits.catch_up_read_bytes)
            except (CorruptLogError, DecodeError) as error:
                self._registry.condemn(entries, f"cannot be caught up: {error.message}")
                return True
            while missing := collector.missing_facts(events):
                for oid in missing:
                    await self._facts.find_ancestors(oid)
            collector.handle(events, self._clock())
            self.slices_count += 1
            self._half_way_count += collector.is_half_way
            entries = [entry for entry in entries if self._is_still_fed(entry, delivery, collector, events)]
            await asyncio.sleep(0)
        return any(_done(entry) > reached[entry.incarnation] for entry in fed)

    def _is_still_fed(
        self, entry: ShapeEntry, delivery: _Delivery, collector: ShapeLogCollector, events: Sequence[StreamEvent]
    ) -> bool:
        consumer = entry.consumer
        is_for = consumer is not None and consumer.state is ConsumerState.BEHIND and delivery.is_for(entry)
        if consumer is None or not is_for or entry.condemned is not None:
            collector.unroute(entry.incarnation)
            return False
        passed = _last_end(events)
        if passed is not None and not consumer.is_half_way:
            consumer.pass_commit(*passed)
        log = consumer.log
        # One that leaves half-way would only begin the same transaction anew.
        is_full = log is not None and log.tail_bytes > self._limits.shape_tail_bytes_max and not consumer.is_half_way
        if self._hand_back(entry) or is_full:
            collector.unroute(entry.incarnation)
            return False
        return True

    def _hand_back(self, entry: ShapeEntry) -> bool:
        consumer = entry.consumer
        if consumer is None or consumer.state is not ConsumerState.BEHIND:
            return True
        if not consumer.rejoin():
            return False
        _log.info("shape has caught up", handle=entry.handle)
        self._registry.rejoined(entry)
        return True


def _done(entry: ShapeEntry) -> CommitLsn:
    return ZERO_COMMIT if entry.consumer is None else entry.consumer.done


def _last_end(events: Sequence[StreamEvent]) -> tuple[CommitLsn, EndLsn] | None:
    """
    Find the last transaction that ends in a slice.
    """
    for event in reversed(events):
        match event:
            case Fragment(commit_lsn=commit_lsn, end=EndLsn() as end) | Omitted(commit_lsn=commit_lsn, end=end):
                return commit_lsn, end
            case _:
                continue
    return None
