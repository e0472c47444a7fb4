"""Shapes with conditions over restarts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from msgspec.structs import replace as redefine

from consumer_kit import Engine, World, row, whole
from penstock.control.records import ShapeState
from penstock.shapes.reading import Opened


async def lives() -> tuple[World, str]:
    """
    Make a shape of the rows above 3 and give it an update that enters and one that leaves.
    """
    world = World()
    engine = Engine(world)
    await engine.start()
    opened = await engine.stage.catalog.open(whole(where="n > $1", params=("3",)))
    assert isinstance(opened, Opened)
    world.database.commit([("insert", None, row(1, n=5)), ("insert", None, row(2, n=1))])
    engine.deliver()
    await engine.quiesce()
    await engine.checkpoint()
    await engine.stop()
    return world, opened.handle


def test_a_restart_goes_on_from_the_stored_condition() -> None:
    """
    While the database is away the shape takes what concerns it, under its handle.
    """

    async def story() -> None:
        world, handle = await lives()
        engine = Engine(world)
        world.catalog.is_away = True
        await engine.start()
        (entry,) = engine.stage.registry
        assert entry.handle == handle
        world.database.commit(
            [("update", row(1, n=5), row(1, n=2)), ("update", row(2, n=1), row(2, n=9)), ("insert", None, row(3))]
        )
        engine.deliver()
        await engine.quiesce()
        changes = [element for element in await engine.elements(entry) if "key" in element]
        told = [(element["headers"]["operation"], element["key"][-2]) for element in changes]
        assert told[-3:] == [("insert", "1"), ("delete", "1"), ("insert", "2")]
        await engine.stop()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_condition_that_is_not_understood_any_more_ends_its_shape() -> None:
    """
    It is given a tombstone, the engine starts, and nobody is told its handle again.
    """

    async def story() -> None:
        world, handle = await lives()
        for number, stored in world.control.rows.items():
            strange = redefine(stored.definition, where='("n" >>> 3)')
            world.control.rows[number] = replace(stored, definition=strange)
        engine = Engine(world)
        await engine.start()
        await engine.quiesce()
        assert [entry for entry in engine.stage.registry if entry.condemned is None] == []
        opened = await engine.stage.catalog.open(whole(where="n > $1", params=("3",)))
        assert isinstance(opened, Opened)
        assert opened.handle != handle
        await engine.quiesce()
        assert [shape.handle for shape in world.control.rows.values() if shape.state is ShapeState.LIVE] == [
            opened.handle
        ]
        assert "not understood" in world.control.tombstones[0][1]
        await engine.stop()

    asyncio.run(asyncio.wait_for(story(), 30))
