from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from consumer_kit import SMALL, Engine, World, expected, materialise, row, until, whole
from penstock.consumers.abc import ShapeLog
from penstock.consumers.compactor import LogCompactor
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.evictor import Evictor
from penstock.consumers.limits import ConsumerLimits
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import Opened, Rotated

Story = Callable[[World, Engine], Awaitable[None]]


def tell(story: Story, limits: ConsumerLimits = SMALL) -> None:
    """
    Run a story in a fresh world.
    """

    async def run() -> None:
        world = World()
        engine = Engine(world, limits)
        await engine.start()
        try:
            await story(world, engine)
        finally:
            if engine.is_running:
                await engine.stop()

    asyncio.run(run())


def evictor(engine: Engine, *, count_max: int | None = None, bytes_max: int | None = None) -> Evictor:
    return Evictor(
        engine.stage.registry,
        engine.store,
        count_max=count_max,
        bytes_max=bytes_max,
        interval_s=60.0,
        is_active=lambda: True,
        clock=time.monotonic,
    )


async def open_with(engine: Engine, where: str) -> ShapeEntry:
    """
    Make a shape, and let it be read.
    """
    reply = await engine.stage.catalog.open(whole(where=where))
    assert isinstance(reply, Opened)
    await engine.quiesce()
    entry = engine.stage.registry.find(reply.handle)
    assert entry is not None
    return entry


def test_what_is_evicted_is_gone_for_good_and_can_be_made_again() -> None:
    """
    H20: the least recently read shape goes in the usual order: tombstone, 409, files, row; another request makes another,
    and nothing counts as a fault.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(number)) for number in range(1, 5)])
        first = await open_with(engine, "id > 1")
        second = await open_with(engine, "id > 2")
        await engine.stage.catalog.open(whole(where="id > 1"))
        judge = evictor(engine, count_max=1)
        await judge.look()
        await engine.quiesce()
        assert [entry.handle for entry in engine.stage.registry] == [first.handle], "the second was read before"
        assert judge.evicted_count == 1
        assert engine.stage.registry.shed_count == 0
        assert set(world.control.rows) == {first.incarnation}
        reply = await engine.stage.catalog.open(whole(LogOffset(0, 0), handle=second.handle, where="id > 2"))
        assert isinstance(reply, Rotated)
        await judge.look()

    tell(story)


def test_whoever_is_being_made_or_waited_at_is_left_alone() -> None:
    """
    H20: a shape in the making is no candidate, and one that a client waits at is the last to go.
    """

    async def story(world: World, engine: Engine) -> None:
        waited = await open_with(engine, "id > 1")
        await open_with(engine, "id > 2")
        waiting = asyncio.create_task(engine.stage.catalog.wait(waited.handle, LogOffset(0, 2**63 - 1)))
        await until(lambda: bool(waited.waiters))
        world.snapshots.gate = asyncio.Event()
        opening = asyncio.create_task(engine.stage.catalog.open(whole(where="id > 3")))
        await until(lambda: engine.stage.registry.creating_count == 1)
        await evictor(engine, count_max=1).look()
        world.snapshots.gate.set()
        assert isinstance(await opening, Opened)
        await engine.quiesce()
        handles = {entry.handle for entry in engine.stage.registry}
        assert waited.handle in handles
        assert len(handles) == 2, "the one that was being made, too"
        waiting.cancel()

    tell(story, replace(SMALL, idle_s=60.0))


def test_what_was_asked_for_and_never_read_goes_like_all_others() -> None:
    """
    The client that a shape was made for left before it was given anything: that is no reason to keep the shape for ever.
    """

    async def story(world: World, engine: Engine) -> None:
        await engine.stage.catalog.enter(whole(where="id > 1"))
        await engine.quiesce()
        read = await open_with(engine, "id > 2")
        await evictor(engine, count_max=1).look()
        await engine.quiesce()
        assert [entry.handle for entry in engine.stage.registry] == [read.handle]

    tell(story)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_bytes_are_known_of_shapes_in_memory_at_rest_and_after_a_restart(*, is_restarted: bool) -> None:
    """
    Whatever a shape is doing, its size counts; those that were not read since a restart count as read then.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(number, b"x" * 300)) for number in range(1, 9)])
        await open_with(engine, "id > 0")
        small = await open_with(engine, "id > 7")
        if is_restarted:
            await engine.stop()
            engine = Engine(world)
            await engine.start()
        else:
            await until(lambda: small.consumer is None)
        sizes = await engine.store.weigh([(entry.handle, entry.incarnation) for entry in engine.stage.registry])
        await evictor(engine, bytes_max=sum(sizes.values())).look()
        await engine.quiesce()
        assert len(engine.stage.registry) == 2
        await evictor(engine, bytes_max=sum(sizes.values()) - 1).look()
        await engine.quiesce()
        assert [entry.handle for entry in engine.stage.registry] == [small.handle]
        if is_restarted:
            await engine.stop()

    tell(story)


def test_logs_that_allow_it_are_compacted_wherever_they_are() -> None:
    """
    Only what was made for it is compacted, also while it rests, and once for each growth; the flag outlives a restart.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1, b"start"))])
        reply = await engine.stage.catalog.open(whole(is_compacting=True))
        assert isinstance(reply, Opened)
        await engine.quiesce()
        plain = await open_with(engine, "id < 100")
        for number in range(40):
            world.database.commit([("update", row(1, b"t%d" % number), row(1, b"t%d" % (number + 1)))])
            await engine.quiesce()
        entry = engine.stage.registry.find(reply.handle)
        assert entry is not None
        await until(lambda: entry.consumer is None)
        compactor = LogCompactor(engine.stage.registry, engine.store, interval_s=60.0, chance=lambda: 0.5)
        await compactor.visit_all()
        await compactor.visit_all()
        assert compactor.compacted_count == 1
        elements = await engine.elements(entry)
        assert len(elements) < len(await engine.elements(plain))
        assert materialise(elements) == expected(world.database.rows, ("body", "id", "n", "title"))

        await engine.checkpoint()
        await engine.stop()
        other = Engine(world)
        await other.start()
        for number in range(40):
            world.database.commit([("update", row(1, b"u%d" % number), row(1, b"u%d" % (number + 1)))])
            await other.quiesce()
        again = LogCompactor(other.stage.registry, other.store, interval_s=60.0, chance=lambda: 0.5)
        await again.visit_all()
        assert again.compacted_count == 1
        found = other.stage.registry.find(reply.handle)
        assert found is not None
        assert materialise(await other.elements(found)) == expected(world.database.rows, ("body", "id", "n", "title"))
        await other.stop()

    tell(story)


def test_a_shape_takes_what_comes_while_its_log_is_compacted() -> None:
    """
    Compacting may take minutes: a shape that rested meanwhile would owe until it has ended, and be given up for that.
    """

    async def story(world: World, engine: Engine) -> None:
        world.database.commit([("insert", None, row(1))])
        reply = await engine.stage.catalog.open(whole(is_compacting=True))
        assert isinstance(reply, Opened)
        await engine.quiesce()
        entry = engine.stage.registry.find(reply.handle)
        assert entry is not None
        await until(lambda: entry.consumer is None)
        store = SlowStore()
        compacting = asyncio.create_task(
            LogCompactor(engine.stage.registry, store, interval_s=60.0, chance=lambda: 0.5).visit_all()
        )
        await until(lambda: bool(store.logs))
        entry.active_at = 0.0
        assert engine.stage.registry.release_idle(lambda _: False) == 0
        world.database.commit([("update", row(1), row(1, b"b"))])
        await engine.quiesce()
        assert entry.consumer is not None
        assert entry.consumer.log is store.logs[0]
        store.may_end.set()
        await compacting
        await until(lambda: entry.consumer is None)

    tell(story)


class SlowStore:
    """
    Compacts until it is told that it may end.
    """

    def __init__(self) -> None:
        self.logs: list[ShapeLog] = []
        self.may_end = asyncio.Event()

    async def compact_log(self, log: ShapeLog) -> bool:
        self.logs.append(log)
        await self.may_end.wait()
        return False
