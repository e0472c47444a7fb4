from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.intake import SLICE_BYTES_MAX, SLICE_BYTES_MIN, Intake
from penstock.errors import CorruptLogError, DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.abc import (
    FramesRecord,
    FrontierRecord,
    PublishedEnd,
    RelayPlace,
    RelayRecord,
    SessionRecord,
    StubRecord,
)
from penstock.replication.messages import StreamEvent
from relay_kit import START, Source, describe
from stream_builder import RecordedFacts, RecordingDelivery, definition

TABLE = 10


class ListSource:
    """
    A relay log in a list; places count records. An error in the list is raised where it stands.
    """

    def __init__(self, records: Sequence[RelayRecord | CorruptLogError]) -> None:
        self.records = list(records)
        self.at = 0
        self.asked_bytes: list[int] = []

    def seek(self, boundary: EndLsn) -> None:
        """
        Begin at the beginning.
        """
        del boundary
        self.at = 0

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[RelayRecord]:
        """
        Give one record.
        """
        self.asked_bytes.append(bytes_max)
        if self.place >= up_to_exclusive:
            return []
        record = self.records[self.at]
        self.at += 1
        if isinstance(record, CorruptLogError):
            raise record
        return [record]

    @property
    def place(self) -> RelayPlace:
        """
        The next record.
        """
        return RelayPlace(1, self.at)


@dataclass
class Desk:
    """
    An intake with everything around it to look at.
    """

    sources: dict[int, ListSource]
    published: PublishedEnd | None = None
    may_read: asyncio.Event | None = None
    opened: list[int] = field(default_factory=list)
    broken: list[CorruptLogError | DecodeError] = field(default_factory=list)
    slices: int = 0
    seconds_a_slice: float = 0.0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.facts = RecordedFacts()
        self.delivery = RecordingDelivery()
        self.tracker = FlushTracker(START)
        self.collector = ShapeLogCollector(
            boundary=START, facts=self.facts, delivery=self.delivery, tracker=self.tracker
        )
        self.handled: list[StreamEvent] = []
        self.intake = Intake(
            self,
            published=lambda: self.published,
            open_epoch=self.open_epoch,
            find_ancestors=self.facts.find_ancestors,
            on_broken=self.on_broken,
            on_slice=self.on_slice,
            may_read=self.may_read,
            clock=lambda: self.now,
        )

    def missing_facts(self, events: Sequence[StreamEvent]) -> list[int]:
        """
        Ask the collector.
        """
        return self.collector.missing_facts(events)

    def handle(self, events: Sequence[StreamEvent], now: float) -> None:
        """
        Let the collector handle them, in some time.
        """
        self.handled += events
        self.collector.handle(events, now)
        self.now += self.seconds_a_slice

    async def open_epoch(self, published: PublishedEnd) -> ListSource:
        """
        Answer that epoch's log.
        """
        self.opened.append(published.epoch)
        if len(self.opened) > 1:
            self.collector.begin_epoch(EndLsn(0))
        return self.sources[published.epoch]

    async def on_broken(self, error: CorruptLogError | DecodeError) -> None:
        """
        Write it down.
        """
        self.broken.append(error)

    def on_slice(self, now: float) -> None:
        """
        Count.
        """
        assert now == self.now
        self.slices += 1

    def publish(self, epoch: int = 1, records: int | None = None) -> None:
        """
        Publish so many records, or all, and hint so.
        """
        count = len(self.sources[epoch].records) if records is None else records
        self.published = PublishedEnd(epoch, RelayPlace(1, count), 0)
        self.intake.wake()

    def run(self, *steps: Callable[[], bool]) -> None:
        """
        Run the intake until the first step's claim is true, then until the next one's, and so on.
        """

        async def go() -> None:
            task = asyncio.create_task(self.intake.run())
            async with asyncio.timeout(20):
                for step in steps:
                    while not step():
                        assert not task.done(), task
                        await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(go())


def frames(source: Source, *rows: bytes, table: int = TABLE) -> FramesRecord:
    """
    Commit rows and give their transaction as a record.
    """
    source.commit([(table, row) for row in rows])
    return FramesRecord(b"".join(batch.frames for batch in source.send()))


def transactions(count: int) -> list[RelayRecord]:
    """
    A session record and so many transactions of one row.
    """
    source = Source()
    return [SessionRecord(), *(frames(source, b"%d" % index) for index in range(count))]


def test_what_is_published_is_handled_and_nothing_beyond() -> None:
    """The reader stops at the published end and goes on when it moves; a hint wakes it."""
    desk = Desk({1: ListSource(transactions(5))})
    desk.collector.add_shape(1, definition(TABLE), 0.0)

    def got(count: int) -> Callable[[], bool]:
        return lambda: len(desk.delivery.parts) == count

    def publish_rest() -> bool:
        assert len(desk.delivery.parts) == 2
        assert desk.intake.is_caught_up
        desk.publish()
        return True

    desk.publish(records=3)
    desk.run(got(2), lambda: desk.intake.is_caught_up, publish_rest, got(5))
    assert desk.tracker.last_seen_offset == desk.collector.last_seen_end == EndLsn(START.value + 5 * 18)
    assert [part.changes[0].new for _, part in desk.delivery.parts] == [(b"%d" % index,) for index in range(5)]
    assert desk.facts.roots == {TABLE: TABLE}
    assert desk.intake.epoch == 1
    assert not desk.intake.is_broken


def test_nothing_is_read_before_anything_is_published() -> None:
    """The hook is called all the same, and the first published end is found without a hint."""
    desk = Desk({1: ListSource(transactions(1))})

    def publish_silently() -> bool:
        desk.published = PublishedEnd(1, RelayPlace(1, 2), 0)
        return True

    desk.run(lambda: desk.slices > 0, publish_silently, lambda: desk.intake.is_caught_up)
    assert desk.opened == [1]


def test_marks_between_transactions_are_handled() -> None:
    """Frontiers move the end last seen, stubs spoil, whoever else is in the log."""
    desk = Desk(
        {
            1: ListSource(
                [
                    SessionRecord(),
                    FrontierRecord(EndLsn(START.value + 5)),
                    StubRecord(CommitLsn(START.value + 10), START.value + 10, (TABLE,), EndLsn(START.value + 20)),
                ]
            )
        }
    )
    desk.collector.add_shape(1, definition(TABLE), 0.0)
    desk.publish()
    desk.run(lambda: desk.intake.is_caught_up)
    assert desk.collector.last_seen_end == EndLsn(START.value + 20)
    assert desk.delivery.told[0] == ("spoiled", [TABLE], START.value + 10, "transaction too large")


def test_a_pause_stops_reading_and_nothing_else() -> None:
    """Nothing is read while the leave is withdrawn; when it is given again reading goes on where it was."""
    leave = asyncio.Event()
    desk = Desk({1: ListSource(transactions(3))}, may_read=leave)
    desk.publish()

    def allow() -> bool:
        assert desk.intake.is_paused
        assert not desk.intake.is_caught_up
        assert desk.handled == []
        leave.set()
        return True

    desk.run(lambda: desk.slices > 0, allow, lambda: desk.intake.is_caught_up)
    assert not desk.intake.is_paused


def test_a_pause_takes_effect_between_slices() -> None:
    """The tails ask for it while a slice is handled; the rest of what is published waits."""
    leave = asyncio.Event()
    leave.set()
    desk = Desk({1: ListSource(transactions(9))}, may_read=leave)
    desk.collector.add_shape(1, definition(TABLE), 0.0)
    desk.delivery.on_publish = leave.clear
    desk.publish()
    desk.run(lambda: desk.slices > 3)
    assert len(desk.delivery.parts) == 1


def test_another_epoch_is_another_log() -> None:
    """Its source is asked for, and what is left of the old one is not read."""
    desk = Desk({1: ListSource(transactions(2)), 2: ListSource(transactions(4))})
    desk.publish(epoch=1)

    def move_on() -> bool:
        desk.publish(epoch=2)
        return True

    desk.run(lambda: desk.intake.is_caught_up, move_on, lambda: desk.intake.epoch == 2 and desk.sources[2].at == 5)
    assert desk.opened == [1, 2]


def test_a_damaged_log_costs_what_lies_before_the_next_session() -> None:
    """Told when it is met and once more when decoding goes on; in between nothing is decoded."""
    good, lost = transactions(4), transactions(4)
    damage = CorruptLogError("damaged")
    desk = Desk({1: ListSource([*good[:3], damage, lost[3], FrontierRecord(EndLsn(1)), *good[:1], *good[1:]])})
    desk.publish()
    seen_broken: list[bool] = []

    def look() -> bool:
        seen_broken.append(desk.intake.is_broken)
        return desk.intake.is_caught_up

    desk.run(look)
    assert desk.broken == [damage, damage]
    assert any(seen_broken)
    assert not desk.intake.is_broken
    assert len([event for event in desk.handled if hasattr(event, "commit_lsn")]) == 2 + 4


def test_frames_that_cannot_be_decoded_are_met_like_damage() -> None:
    """What stands before them in the same read is handled first."""
    source = Source()
    good = frames(source, b"1")
    records: list[RelayRecord] = [SessionRecord(), good, FramesRecord(b"\x00\x00\x00\x02xx"), SessionRecord()]
    desk = Desk({1: ListSource(records)})
    desk.publish()
    desk.run(lambda: len(desk.broken) == 2 and desk.intake.is_caught_up)
    assert all(isinstance(error, DecodeError) for error in desk.broken)
    assert any(hasattr(event, "commit_lsn") for event in desk.handled)


def test_slices_shrink_when_they_take_long_and_grow_again() -> None:
    """Between the two named bounds."""
    desk = Desk({1: ListSource(transactions(30))}, seconds_a_slice=0.02)
    desk.publish()

    def speed_up() -> bool:
        assert min(desk.sources[1].asked_bytes) == SLICE_BYTES_MIN
        desk.seconds_a_slice = 0.0
        return True

    desk.run(lambda: desk.sources[1].at == 12, speed_up, lambda: desk.intake.is_caught_up)
    asked = desk.sources[1].asked_bytes
    assert asked[0] == asked[-1] == SLICE_BYTES_MAX


def test_descriptions_of_a_session_are_told() -> None:
    """A segment's head makes the stream readable from there, with roots found for shapes' sake."""
    desk = Desk({1: ListSource([SessionRecord((describe(TABLE),))])})
    desk.collector.add_shape(1, definition(TABLE), 0.0)
    desk.facts.to_find = {TABLE: 99}
    desk.publish()
    desk.run(lambda: desk.intake.is_caught_up)
    assert desk.delivery.told == [("seen", TABLE, [TABLE, 99])]


class WaitedFor(Desk):
    """
    Somebody waits for each slice, and what they answer leaves in the turn after.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.order: list[str] = []

    def handle(self, events: Sequence[StreamEvent], now: float) -> None:
        """
        Tell who waits.
        """
        super().handle(events, now)
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        waiting.add_done_callback(lambda _: self.order.append("answers"))
        waiting.add_done_callback(lambda _: loop.call_soon(self.order.append, "leaves"))
        waiting.set_result(None)

    def on_slice(self, now: float) -> None:
        """
        Note when.
        """
        super().on_slice(now)
        self.order.append("beats")


def test_whoever_waits_for_a_slice_is_answered_before_anything_else() -> None:
    """The heartbeat comes behind the answers, once for each slice, and knows by then whether all was caught up."""
    desk = WaitedFor({1: ListSource(transactions(2))})
    desk.publish()
    desk.run(lambda: desk.slices == 3)
    assert desk.order == ["answers", "leaves", "beats"] * 3
    assert desk.intake.is_caught_up
