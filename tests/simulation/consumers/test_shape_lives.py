"""
Single stories of shapes: how they are made, served, waited for, and how they end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from consumer_kit import DESCRIPTION, ITEMS, SMALL, Engine, World, expected, materialise, row, until, whole
from penstock.collector.abc import RoutedPart
from penstock.collector.feed import RelayFeed
from penstock.consumers import catch_up
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.handler import Answer
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Shared
from penstock.control.records import ShapeState
from penstock.errors import DiskFullError, RequestError, ShapeError
from penstock.postgres.relation import TableId
from penstock.relay.abc import RelayPlace, RelaySource
from penstock.replication.messages import Fragment, RelationSeen, StreamEvent
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from penstock.shapes.reading import (
    Advanced,
    InlinePiece,
    Opened,
    OpenReply,
    Refused,
    Removed,
    RemoveRequest,
    Rotated,
)

Story = Callable[[World, Engine], Awaitable[None]]


def tell(story: Story, limits: ConsumerLimits = SMALL, *, settle_age_s: float = 0.001) -> None:
    """
    Run a story against an engine over an empty table.
    """

    async def run() -> None:
        world = World()
        engine = Engine(world, limits, settle_age_s=settle_age_s)
        await engine.start()
        async with asyncio.timeout(30):
            await story(world, engine)
        if engine.is_running:
            await engine.stop()

    asyncio.run(run())


async def open_shape(engine: Engine, **fields: Any) -> Opened:
    """
    Open a shape that must be there.
    """
    reply = await engine.stage.catalog.open(whole(**fields))
    assert isinstance(reply, Opened), reply
    return reply


def only(engine: Engine) -> ShapeEntry:
    """
    Give the only shape there is.
    """
    (entry,) = engine.stage.registry
    return entry


# --- making shapes ---------------------------------------------------------------------------------------------------


def test_a_new_shape_begins_with_its_snapshot() -> None:
    """
    The first request makes the shape and reads its first chunk; a second one finds the same handle.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        reply = await open_shape(engine)
        assert reply.range.chunk_end == LogOffset(0, 0)
        assert reply.schema.startswith('{"id":{"type":"int4"')
        again = await open_shape(engine, offset=LogOffset(0, 0), handle=reply.handle)
        assert (again.handle, again.range.pieces, again.range.chunk_end) == (reply.handle, (), SNAPSHOT_END)
        assert again.last_seen_lsn == world.database.wal[0].commit_lsn.value
        await engine.quiesce()
        assert world.control.rows[only(engine).incarnation].state is ShapeState.LIVE

    tell(story)


def test_requests_at_the_same_time_converge() -> None:
    """
    Ten first requests for one definition make one shape.
    """

    async def story(world: World, engine: Engine) -> None:
        replies = await asyncio.gather(*(open_shape(engine) for _ in range(10)))
        assert len({reply.handle for reply in replies}) == 1
        assert len(engine.stage.registry) == 1
        assert world.publication.ensured == [100]

    tell(story)


def test_now_reads_nothing_and_stands_at_the_end() -> None:
    """
    The offset `now` gives the latest place without elements.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))])
        reply = await open_shape(engine, offset=None)
        assert (reply.range.chunk_end, reply.range.pieces) == (SNAPSHOT_END, ())

    tell(story)


def test_a_shape_that_is_behind_does_not_claim_to_have_seen_what_it_missed() -> None:
    """
    Up to date it is as far as it has got, and a place beyond is not the client's fault.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        consumer = only(engine).consumer
        assert consumer is not None
        consumer.fall_behind()
        missed = world.database.commit([("insert", None, row(1))])
        engine.collector.handle(missed.fragments(), 0.0)
        reply = await open_shape(engine, offset=SNAPSHOT_END)
        assert not reply.range.pieces
        assert reply.last_seen_lsn < missed.commit_lsn.value
        assert reply.is_replaying

    tell(story)


def test_what_comes_while_files_are_read_is_not_claimed_to_be_seen() -> None:
    """
    A commit that the answer does not hold is not at or below the position that the answer names.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        first, second = (world.database.commit([("insert", None, row(number))]) for number in (1, 2))
        await engine.quiesce()
        loop, read = asyncio.get_running_loop(), world.disk.read
        late = world.database.commit([("insert", None, row(3))])

        def read_slowly(path: str, start_byte: int, bytes_count: int) -> bytes:
            world.disk.read = read  # type: ignore[method-assign]
            is_delivered = threading.Event()

            def deliver() -> None:
                engine.deliver()
                is_delivered.set()

            loop.call_soon_threadsafe(deliver)
            assert is_delivered.wait(20)
            return read(path, start_byte, bytes_count)

        world.disk.read = read_slowly  # type: ignore[method-assign]
        reply = await open_shape(engine, offset=LogOffset(first.commit_lsn.value, 0))
        assert world.disk.read == read
        assert reply.range.last.tx == second.commit_lsn.value
        assert reply.last_seen_lsn < late.commit_lsn.value

    tell(story)


def test_an_unknown_handle_is_answered_with_the_current_one() -> None:
    """
    A stale handle, or one of another definition, makes or finds the shape and names it.
    """

    async def story(world: World, engine: Engine) -> None:
        stale = await engine.stage.catalog.open(whole(LogOffset(0, 0), handle="1-1"))
        assert isinstance(stale, Rotated)
        current = await open_shape(engine)
        assert stale.handle == current.handle
        other = await engine.stage.catalog.open(whole(LogOffset(0, 0), handle=current.handle, columns=("id",)))
        assert isinstance(other, Rotated)
        assert other.handle not in {None, current.handle}

    tell(story)


def test_handles_never_return() -> None:
    """
    The time in a handle grows though the clock stands still, also over a restart.
    """

    async def story(world: World, engine: Engine) -> None:
        handles: list[str] = []
        for _ in range(3):
            handles.append((await open_shape(engine)).handle)
            assert await engine.stage.catalog.remove(RemoveRequest(handle=handles[-1])) == Removed()
        times = [int(handle.split("-")[1]) for handle in handles]
        assert times == sorted(set(times))
        assert world.control.handle_us_max == times[-1]
        world.unix_us = lambda: 1  # type: ignore[method-assign]  # a clock that was set back
        other = Engine(world)
        await other.start()
        assert int((await open_shape(other)).handle.split("-")[1]) == times[-1] + 1
        await other.stop()

    tell(story)


def test_a_snapshot_that_misses_a_decoded_commit_is_taken_again() -> None:
    """
    A commit decoded before the shape was routed and not visible yet delays the snapshot until it is.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))], is_hidden=True)
        engine.deliver()
        opening = asyncio.create_task(open_shape(engine))
        await until(lambda: engine.stage.snapshotter.retaken_count >= 2)
        assert not opening.done()
        world.database.reveal()
        await opening
        await engine.quiesce()
        assert len(materialise(await engine.elements(only(engine)))) == 1

    tell(story)


def test_what_an_older_snapshot_misses_is_not_forgotten_for_a_newer_one() -> None:
    """
    Two snapshots under way: the newer one shows a decoded commit and is heard of first; the older one is taken again.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))], is_hidden=True)
        engine.deliver()
        world.snapshots.gate = gate = asyncio.Event()
        older = asyncio.create_task(open_shape(engine))
        await until(lambda: world.snapshots.opened_count > 0)
        await asyncio.sleep(0)
        world.snapshots.gate = None
        world.database.reveal()
        await open_shape(engine, columns=("id",))
        gate.set()
        await older
        await engine.quiesce()
        assert engine.stage.snapshotter.retaken_count == 1
        for entry in engine.stage.registry:
            assert len(materialise(await engine.elements(entry))) == 1

    tell(story)


def test_commits_during_the_snapshot_wait_and_follow_it() -> None:
    """
    What commits between the snapshot and the end of its writing comes behind it, once.

    Scenario H7.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        world.snapshots.gate = asyncio.Event()
        opening = asyncio.create_task(open_shape(engine))
        await until(lambda: world.snapshots.opened_count > 0)
        world.database.commit([("update", row(1), row(1, b"new")), ("insert", None, row(2))])
        engine.deliver()
        world.snapshots.gate.set()
        await opening
        await engine.quiesce()
        elements = await engine.elements(only(engine))
        kinds = [element["headers"].get("operation") for element in elements]
        assert kinds == ["insert", None, "update", "insert"]
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


def test_a_snapshot_without_data_in_time_is_a_503() -> None:
    """
    The limit of the first data is told to the client in the contract's words, and the shape is gone.
    """

    async def story(world: World, engine: Engine) -> None:
        world.snapshots.gate = asyncio.Event()
        reply = await engine.stage.catalog.open(whole())
        assert isinstance(reply, Refused)
        assert (reply.status, reply.retry_after_s, reply.is_known) == (503, 10, True)
        assert reply.message.startswith("Snapshot query took too long to return data (cancelled after 50ms)")
        world.snapshots.gate.set()
        await open_shape(engine)

    tell(story, replace(SMALL, first_data_s=0.05))


@pytest.mark.parametrize(
    ("error", "expected_reply"),
    [
        (
            RequestError(503, "no privilege", retry_after_s=10, is_known=True),
            Refused(503, "no privilege", None, 10, is_known=True),
        ),
        (ShapeError("the table is gone"), Rotated()),
        (
            ValueError("secret row"),
            Refused(500, "Unexpected error while creating snapshot: ValueError"),
        ),
        (DiskFullError("full"), Refused(503, "Failed to create shape, please retry", retry_after_s=1)),
    ],
)
def test_a_failed_snapshot_is_told_and_the_next_request_starts_afresh(
    error: Exception, expected_reply: OpenReply
) -> None:
    """
    The waiting request gets the mapped error, without any of its text if it is not ours; the shape is tombstoned.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))])
        world.snapshots.fail_with = error
        assert await engine.stage.catalog.open(whole()) == expected_reply
        world.snapshots.fail_with = None
        await open_shape(engine)
        await engine.quiesce()
        assert [number for number, _ in world.control.tombstones] == [1]
        assert set(world.control.rows) == {2}

    tell(story)


def test_an_engine_that_stops_makes_no_more_shapes() -> None:
    """
    Whoever asks for a new one is told to try again, and nothing of it exists; those that are there are served.
    """

    async def story(world: World, engine: Engine) -> None:
        opened = await open_shape(engine)
        engine.stage.catalog.close()
        reply = await engine.stage.catalog.open(whole(where="id > 1"))
        assert reply == Refused(503, "Failed to create shape, please retry", retry_after_s=1)
        assert (await open_shape(engine)).handle == opened.handle
        assert set(world.control.rows) == {1}

    tell(story)


def test_a_table_that_cannot_be_published_makes_no_row() -> None:
    """
    The publication's refusal reaches the client before anything of the shape exists.
    """

    async def story(world: World, engine: Engine) -> None:
        world.publication.fail_with = RequestError(503, "table lock", retry_after_s=10, is_known=True)
        reply = await engine.stage.catalog.open(whole())
        assert reply == Refused(503, "table lock", None, 10, is_known=True)
        assert world.control.rows == {}
        assert world.publication.released == [], "the work goes on, so that the next request finds it done"

    tell(story)


# --- refusing --------------------------------------------------------------------------------------------------------


def test_invalid_requests_are_refused_by_parameter() -> None:
    """
    Unknown tables and clauses are a 400 that names the parameter.
    """

    async def story(world: World, engine: Engine) -> None:
        catalog = engine.stage.catalog
        unknown = await catalog.open(replace_request(table="nope"))
        assert isinstance(unknown, Refused)
        assert (unknown.status, unknown.message) == (400, "Invalid request")
        assert list(unknown.errors or {}) == ["table"]
        clause = await catalog.open(whole(where="n > nope"))
        assert isinstance(clause, Refused)
        assert list(clause.errors or {}) == ["where"]

    tell(story)


def replace_request(**fields: Any) -> Any:
    """
    Ask for another table.
    """
    asked = whole()
    return type(asked)(**({name: getattr(asked, name) for name in asked.__struct_fields__} | fields))


def test_a_database_that_is_away_is_a_503_unless_the_answer_is_known() -> None:
    """
    Requests that were understood before are served from what was remembered (B19).
    """

    async def story(world: World, engine: Engine) -> None:
        reply = await open_shape(engine)
        world.catalog.is_away = True
        assert (await open_shape(engine)).handle == reply.handle
        other = await engine.stage.catalog.open(whole(columns=("id",)))
        message = "Cannot connect to the database to verify the shape. Please try again later."
        assert other == Refused(503, message, retry_after_s=1)

    tell(story)


def test_an_engine_that_is_not_active_says_what_it_waits_for() -> None:
    """
    New shapes wait for readiness and then name the first condition; known ones are served all the while (B20).
    """

    async def story(world: World, engine: Engine) -> None:
        reply = await open_shape(engine)
        engine.ready.event.clear()
        engine.ready.reason = "replication client to be ready"
        assert (await open_shape(engine)).handle == reply.handle
        refused = await engine.stage.catalog.open(whole(columns=("id",)))
        message = "Timeout waiting for replication client to be ready: detail"
        assert refused == Refused(503, message, retry_after_s=5)

    tell(story, replace(SMALL, ready_wait_s=0.02))


def test_too_many_shapes_in_the_making_are_refused() -> None:
    """
    Beyond the limit a first request is asked to come again.
    """

    async def story(world: World, engine: Engine) -> None:
        world.snapshots.gate = asyncio.Event()
        first = asyncio.create_task(open_shape(engine))
        await until(lambda: world.snapshots.opened_count > 0)
        refused = await engine.stage.catalog.open(whole(columns=("id",)))
        assert refused == Refused(503, "Failed to create shape, please retry", retry_after_s=1)
        world.snapshots.gate.set()
        await first

    tell(story, replace(SMALL, snapshot_count_max=1))


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_waiter_is_woken_by_a_commit_behind_its_place() -> None:
    """
    It gets the elements of the whole transaction; one that waits for a later place goes on waiting.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        near = asyncio.create_task(engine.stage.catalog.wait(handle, SNAPSHOT_END))
        far = asyncio.create_task(engine.stage.catalog.wait(handle, LogOffset(10**9, 0)))
        await asyncio.sleep(0.01)
        transaction = world.database.commit([("insert", None, row(1)), ("insert", None, row(2))])
        halves = transaction.fragments()
        assert len(halves) == 1
        engine.deliver()
        reply = await near
        assert isinstance(reply, Advanced)
        assert reply.range.chunk_end == LogOffset(transaction.commit_lsn.value, 2)
        assert reply.last_seen_lsn == transaction.commit_lsn.value
        assert isinstance(reply.range.pieces[0], InlinePiece)
        assert not far.done()
        far.cancel()
        await asyncio.wait([far])
        assert only(engine).waiters == []

    tell(story, settle_age_s=60.0)


def test_a_waiter_is_told_when_the_shape_is_gone() -> None:
    """
    It hears of it after the tombstone, with the replacement's handle if there is one by then.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        waiting = asyncio.create_task(engine.stage.catalog.wait(handle, SNAPSHOT_END))
        await asyncio.sleep(0.01)
        world.control.fail_with = DiskFullError("held up")
        world.database.commit([("truncate", None, None)])
        engine.deliver()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert engine.tracker.debt_of(1) is not None, "no void without tombstone"
        world.control.fail_with = None
        assert await waiting == Rotated()
        assert world.control.tombstones == [(1, "truncate")]
        assert engine.tracker.debt_of(1) is None
        assert await engine.stage.catalog.wait(handle, SNAPSHOT_END) == Rotated()

    tell(story)


def test_removing_a_shape_ends_it_durably() -> None:
    """
    The row, the files and the publication of the table go; an unknown handle removes nothing.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        assert await engine.stage.catalog.remove(RemoveRequest(handle=handle)) == Removed()
        again = await engine.stage.catalog.remove(RemoveRequest(handle=handle))
        assert again == Refused(404, "No existing shape found")
        await until(lambda: bool(not world.control.rows and world.publication.released and not world.disk.files))
        assert world.publication.released == [100]

    tell(story)


# --- tables that change ----------------------------------------------------------------------------------------------


def test_a_changed_table_rotates_at_the_first_change_behind_it() -> None:
    """
    A description the shape does not survive ends it with the change that uses it, not before.

    Scenario H16.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        renamed = DESCRIPTION._replace(id=TableId(100, "public", "things"))
        engine.collector.handle([RelationSeen(renamed)], 0.0)
        assert only(engine).condemned is None
        world.database.commit([("insert", None, row(1))], relation=renamed)
        engine.deliver()
        assert only(engine).condemned == "table was renamed"
        await engine.quiesce()
        assert len(engine.stage.registry) == 0

    tell(story)


def test_a_table_created_anew_under_the_same_name_is_looked_up() -> None:
    """
    A description with the shape's name and another oid asks the catalog, which decides.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        again = DESCRIPTION._replace(id=TableId(101, "public", "items"))
        engine.collector.handle([RelationSeen(again)], 0.0)
        await engine.quiesce()
        assert only(engine).condemned is None, "the catalog still has the old one"
        world.catalog.tables["public", "items"] = replace(ITEMS, id=TableId(101, "public", "items"), root_oid=101)
        engine.collector.handle([RelationSeen(again)], 0.0)
        await until(lambda: not len(engine.stage.registry))
        assert world.control.tombstones == [(1, "table was dropped and created again")]

    tell(story)


def test_comparing_tables_finds_what_no_change_tells() -> None:
    """
    A dropped table is found by asking; a database that is away is no finding.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        successor = DESCRIPTION._replace(id=DESCRIPTION.id._replace(oid=999))
        world.catalog.is_away = True
        engine.stage.catalog.suspect(successor)
        await engine.quiesce()
        entry = only(engine)
        assert entry.condemned is None
        world.catalog.is_away = False
        world.catalog.tables.clear()
        engine.stage.catalog.suspect(successor)
        await until(lambda: entry.condemned == "table was dropped or renamed")

    tell(story)


# --- faults ----------------------------------------------------------------------------------------------------------


class FailsAt:
    """
    A handler that fails at some commits.
    """

    def __init__(self) -> None:
        self.calls = 0

    def handle(self, part: RoutedPart, shared: Shared) -> Answer:
        """
        Fail.
        """
        del part, shared
        self.calls += 1
        raise RuntimeError("put here by a test")

    def abandon(self) -> None:
        """
        Forget nothing.
        """


def break_handler(entry: ShapeEntry) -> None:
    """
    Let a consumer fail at its next transaction.
    """
    assert entry.consumer is not None
    # A fault does not ask for types.
    entry.consumer._handler = FailsAt()  # type: ignore[assignment]


def test_a_consumer_that_fails_once_is_replaced_and_catches_up() -> None:
    """
    Clients notice nothing: the replacement reads from the relay log what the first one failed to take.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        break_handler(only(engine))
        world.database.commit([("insert", None, row(1))])
        world.database.commit([("insert", None, row(2))])
        await engine.quiesce()
        assert only(engine).handle == handle
        assert engine.stage.registry.replaced_count == 1
        assert engine.stage.catch_up.rounds_count > 0
        elements = await engine.elements(only(engine))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


def fall_behind(engine: Engine, entry: ShapeEntry) -> None:
    """
    Let a shape be fed by the catch-up reader from now on.
    """
    assert entry.consumer is not None
    entry.consumer.fall_behind()
    engine.stage.registry.fell_behind(entry)


def test_a_consumer_that_fails_while_it_catches_up_misses_nothing() -> None:
    """
    What the reader has brought and the consumer did not take is brought again to its replacement, before anything later.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        fall_behind(engine, only(engine))
        break_handler(only(engine))
        for number in range(1, 5):
            world.database.commit([("insert", None, row(number))])
        await engine.quiesce()
        assert only(engine).handle == handle
        assert engine.stage.registry.replaced_count == 1
        elements = await engine.elements(only(engine))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


class InPieces(RelayFeed):
    """
    Reads a change at a time, and is looked at before each.
    """

    def __init__(self, source: RelaySource, look: Callable[[], None]) -> None:
        super().__init__(source)
        self._look = look
        self._waiting: list[StreamEvent] = []

    def has_more(self, up_to_exclusive: RelayPlace) -> bool:
        """
        Tell whether there is more.
        """
        return bool(self._waiting) or super().has_more(up_to_exclusive)

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[StreamEvent]:
        """
        Give the next event, or the next part of one.
        """
        self._look()
        for event in [] if self._waiting else super().read(up_to_exclusive, bytes_max):
            if not isinstance(event, Fragment):
                self._waiting.append(event)
                continue
            for at, change in enumerate(event.changes, 1):
                end = event.end if at == len(event.changes) else None
                self._waiting.append(Fragment(event.commit_lsn, event.xid, [change], event.is_first and at == 1, end))
        return [self._waiting.pop(0)] if self._waiting else []


def test_a_consumer_replaced_in_the_middle_of_a_transaction_gets_it_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Whoever puts another one in its place while the reader is half-way through a transaction costs none of it.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        entry = only(engine)
        registry = engine.stage.registry

        def look() -> None:
            if entry.consumer is not None and entry.consumer.is_half_way and not registry.replaced_count:
                assert registry.replace(entry, engine.collector.last_seen_commit)

        monkeypatch.setattr(catch_up, "RelayFeed", lambda source: InPieces(source, look))
        fall_behind(engine, entry)
        world.database.commit([("insert", None, row(number)) for number in range(1, 9)])
        await engine.quiesce()
        assert registry.replaced_count == 1
        assert only(engine).handle == handle
        elements = await engine.elements(only(engine))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


def test_a_consumer_that_fails_after_a_long_rest_is_replaced_too() -> None:
    """
    Of the relay log there is only what lies above the boundary, and that is all that an idle shape needs.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        for _ in range(3):
            world.database.commit([])
        await engine.quiesce()
        world.trimmed_below = engine.tracker.last_global_flushed_offset
        break_handler(only(engine))
        world.database.commit([("insert", None, row(1))])
        await engine.quiesce()
        assert only(engine).handle == handle
        assert engine.stage.registry.replaced_count == 1
        elements = await engine.elements(only(engine))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


def test_a_consumer_that_fails_twice_at_a_commit_costs_its_shape_and_no_other() -> None:
    """
    The second failure at the same commit condemns the shape; its neighbour goes on.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await open_shape(engine, columns=("id", "n"))
        await engine.quiesce()
        victim, neighbour = engine.stage.registry
        break_handler(victim)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        assert list(engine.stage.registry) == [victim, neighbour]
        # The replacement takes the commit from the catch-up reader, and fails as well.
        break_handler(victim)
        await engine.quiesce()
        assert victim.condemned == "consumer failed: RuntimeError"
        assert list(engine.stage.registry) == [neighbour]
        assert neighbour.condemned is None
        assert engine.stage.registry.shed_count == 1
        assert engine.tracker.pending_count == 0

    tell(story)


def test_a_delivery_to_nobody_is_counted_and_its_debt_ends() -> None:
    """
    A routed incarnation without entry does not hold the boundary for ever.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        definition = only(engine).definition
        engine.collector.add_shape(77, definition, 0.0)
        engine.tracker.start_owing(77, engine.tracker.last_global_flushed_offset, 0.0)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        assert engine.stage.registry.unknown_count == 1
        await until(lambda: engine.tracker.debt_of(77) is None)
        assert (77, "was not complete when the service ended") in world.control.tombstones

    tell(story)


def test_a_disk_without_space_keeps_the_tail_and_is_tried_again() -> None:
    """
    The shape owes and is named; with space it settles and the boundary moves.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        world.disk.space_bytes = 0
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        await until(lambda: bool(engine.stage.settler.without_space))
        assert only(engine).condemned is None
        assert engine.tracker.debt_of(1) is not None
        world.disk.space_bytes = None
        await engine.quiesce()
        assert engine.tracker.debt_of(1) is None

    tell(story)


def test_a_failed_sync_condemns_the_shape() -> None:
    """
    Files of which nothing is known any more are not served on.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        entry = only(engine)
        world.disk.sync_errors.add("/shapes/")
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        await until(lambda: not len(engine.stage.registry))
        assert entry.condemned == "its files could not be synced"

    tell(story)


def test_many_failed_syncs_at_once_are_the_disks_fault() -> None:
    """
    Beyond the limit nobody is condemned: the shapes go on owing, and are named.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await open_shape(engine, columns=("id",))
        await engine.quiesce()
        world.disk.sync_errors.add("/shapes/")
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        engine.stage.settler.ask(list(engine.stage.registry))
        await until(lambda: bool(engine.stage.settler.failed_together))
        assert all(entry.condemned is None for entry in engine.stage.registry)
        assert engine.tracker.pending_count == 2

    tell(story, replace(SMALL, settle_failed_count_max=1), settle_age_s=60.0)


def test_full_tails_stop_the_reading_until_they_are_settled() -> None:
    """
    Above the limit reading pauses; settling sets it free.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        world.disk.space_bytes = 0
        world.database.commit([("insert", None, row(number, b"x" * 100)) for number in range(20)])
        engine.deliver()
        assert not engine.stage.settler.may_read.is_set()
        world.disk.space_bytes = None
        await engine.stage.settler.may_read.wait()
        await engine.quiesce()
        assert engine.stage.settler.tail_bytes == 0

    tell(story, replace(SMALL, tail_bytes_max=1_000))


def test_a_transaction_too_large_for_a_shape_rotates_it() -> None:
    """
    What one transaction may hold for one shape has a limit.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        transaction = world.database.commit([("insert", None, row(number)) for number in range(20)])
        first, *_ = transaction.fragments()
        assert isinstance(first, Fragment)
        engine.collector.handle([msgspec.structs.replace(first, end=None)], 0.0)
        assert only(engine).condemned == "a transaction holds more than 500 bytes for the shape"

    tell(story, replace(SMALL, open_bytes_max=500))


# --- idleness and restarts -------------------------------------------------------------------------------------------


def test_an_idle_shape_leaves_memory_and_comes_back() -> None:
    """
    A23, H19: Nothing is kept of it but its entry; a change or a request opens its files again.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        await until(lambda: only(engine).consumer is None)
        world.database.commit([("insert", None, row(1))])
        await engine.quiesce()
        elements = await engine.elements(only(engine))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

    tell(story)


def test_a_restart_buries_what_was_not_live() -> None:
    """
    A row that was still being created is tombstoned, its handle answered like an unknown one, its files removed.

    Scenario H18.
    """

    async def story(world: World, engine: Engine) -> None:
        world.snapshots.gate = asyncio.Event()
        opening = asyncio.create_task(engine.stage.catalog.open(whole()))
        await until(lambda: world.snapshots.opened_count > 0)
        handle = only(engine).handle
        opening.cancel()
        await engine.stop()
        world.snapshots.gate = None
        other = Engine(world)
        await other.start()
        assert len(other.stage.registry) == 0
        reply = await other.stage.catalog.open(whole(LogOffset(0, 0), handle=handle))
        assert isinstance(reply, Rotated)
        await other.quiesce()
        await until(lambda: set(world.control.rows) == {2})
        await other.stop()

    tell(story)


def test_a_new_epoch_makes_all_shapes_go_at_once() -> None:
    """
    After the row that began an epoch every waiter is told and every file thrown away.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = (await open_shape(engine)).handle
        await engine.quiesce()
        waiting = asyncio.create_task(engine.stage.catalog.wait(handle, SNAPSHOT_END))
        await asyncio.sleep(0.01)
        engine.stage.registry.forget_all("new epoch")
        assert await waiting == Rotated()
        assert len(engine.stage.registry) == 0
        await until(lambda: not world.disk.files)

    tell(story)


def test_giving_up_everything_waits_for_the_tombstones() -> None:
    """
    When it returns, every tombstone is synced.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await open_shape(engine, columns=("id",))
        await engine.stage.registry.condemn_all("relay log broken")
        assert {number for number, _ in world.control.tombstones} == {1, 2}
        assert len(engine.stage.registry) == 0

    tell(story)


def test_the_catch_up_reader_gives_up_what_the_log_does_not_hold() -> None:
    """
    A shape that cannot be caught up is condemned and says so.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        break_handler(only(engine))
        entry = only(engine)
        transaction = world.database.commit([("insert", None, row(1))])
        world.broken_at = transaction.commit_lsn
        await engine.quiesce()
        assert entry.condemned is not None
        assert entry.condemned.startswith("cannot be caught up")

    tell(story)
