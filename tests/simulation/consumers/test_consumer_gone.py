"""
Consumers that go without a word, and those that only say that they get on.
"""

from __future__ import annotations

import asyncio

from consumer_kit import SMALL, Engine, World, row, until, whole
from penstock.consumers.catch_up import CatchUp
from penstock.consumers.consumer import Consumer
from penstock.consumers.entries import ShapeEntry


async def _two_shapes(world: World, *, settle_age_s: float = 0.001) -> tuple[Engine, ShapeEntry, ShapeEntry]:
    engine = Engine(world, SMALL, settle_age_s=settle_age_s)
    await engine.start()
    await engine.stage.catalog.open(whole())
    await engine.stage.catalog.open(whole(columns=("id", "n")))
    await engine.quiesce()
    victim, neighbour = engine.stage.registry
    return engine, victim, neighbour


def test_a_consumer_that_vanishes_costs_its_shape_at_once_and_no_other() -> None:
    """
    H21: Whoever lets go of a consumer, with what it had not settled: the shape is condemned in the same moment.
    """

    async def story() -> None:
        world = World()
        # Nothing is settled by itself.
        engine, victim, neighbour = await _two_shapes(world, settle_age_s=60)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        assert engine.tracker.debt_of(victim.incarnation) is not None
        victim.consumer = None
        assert victim.condemned == "its consumer is gone with what it had in memory"
        await until(lambda: list(engine.stage.registry) == [neighbour])
        assert engine.tracker.debt_of(victim.incarnation) is None
        assert engine.stage.registry.shed_count == 1
        await engine.stage.settler.settle_all()
        await engine.stop()

    asyncio.run(story())


def test_a_consumer_that_vanishes_owing_nothing_costs_its_shape_too() -> None:
    """
    Without a debt nothing would hold the boundary, and the next change would go to files of unknown state.
    """

    async def story() -> None:
        world = World()
        engine, victim, neighbour = await _two_shapes(world)
        if victim.consumer is None:
            world.database.commit([("insert", None, row(1))])
            engine.deliver()
            await engine.stage.settler.settle_all()
        victim.consumer = None
        assert victim.condemned is not None
        await until(lambda: list(engine.stage.registry) == [neighbour])
        await engine.stop()

    asyncio.run(story())


class _Stubborn(Consumer):
    """
    Says that it is behind, and takes nothing.
    """

    __slots__ = ()

    def handle_caught_up(self, *_: object) -> None:
        return None

    def pass_commit(self, *_: object) -> None:
        return None

    def rejoin(self) -> bool:
        return False


async def _rounds(catch_up: CatchUp, count: int) -> None:
    target = catch_up.slices_count + count
    while catch_up.slices_count < target:
        catch_up.wake()
        await asyncio.sleep(0)


def test_being_brought_the_same_again_and_again_is_no_progress() -> None:
    """
    A shape that stays behind does not get on because the reader is busy with it.
    """

    async def story() -> None:
        world = World()
        engine, victim, _ = await _two_shapes(world, settle_age_s=60)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        assert victim.consumer is not None
        victim.consumer.fall_behind()
        victim.consumer.__class__ = _Stubborn
        world.database.commit([("insert", None, row(2))])
        engine.deliver()
        engine.stage.registry.fell_behind(victim)
        catch_up = engine.stage.catch_up
        before = catch_up.progress_of(victim)
        await _rounds(catch_up, 3)
        assert catch_up.progress_of(victim) == before
        engine.stage.registry.condemn([victim], "end of the test")
        await until(lambda: len(engine.stage.registry) == 1)
        await engine.stop()

    asyncio.run(story())
