"""A restart with many shapes, which are taken over in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct

from consumer_kit import Engine, World, row, until, whole
from penstock.consumers import catalog
from penstock.control.records import ShapeState
from penstock.postgres.lsn import EndLsn
from penstock.shapes.offset import SNAPSHOT_END
from penstock.shapes.reading import Advanced, Opened

COUNT = 12


async def leave_shapes(world: World) -> str:
    """
    Leave the rows of many shapes: the first has to be given up, the last lives on. Gives its handle.
    """
    engine = Engine(world)
    await engine.start()
    reply = None
    for number in range(COUNT):
        reply = await engine.stage.catalog.open(whole(where=f"n > {number}"))
    assert isinstance(reply, Opened)
    await engine.quiesce()
    await engine.stop()
    rows = world.control.rows
    rows[1] = replace(rows[1], definition=replace_struct(rows[1].definition, where="not understood("))
    for number in range(2, COUNT):
        rows[number] = replace(rows[number], state=ShapeState.CONDEMNED)
    return reply.handle


def test_a_table_is_not_let_go_while_its_shapes_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    H18: Whatever becomes of a shape of the first slice, its table stays published for those of the last; who waits at
    one of these meanwhile waits on; the loop has its turn between two slices.
    """
    monkeypatch.setattr(catalog, "RESTORE_SLICE_COUNT", 1)

    async def story() -> None:
        world = World()
        handle = await leave_shapes(world)
        engine = Engine(world)
        waiting = asyncio.create_task(engine.stage.catalog.wait(handle, SNAPSHOT_END))
        was_last_there: list[bool] = []
        tombstone = world.control.tombstone

        async def see(incarnations: Collection[int], reason: str, at: EndLsn) -> None:
            await tombstone(incarnations, reason, at)
            was_last_there.append(engine.stage.registry.find(handle) is not None)

        monkeypatch.setattr(world.control, "tombstone", see)
        await engine.start()
        await until(lambda: set(world.control.rows) == {COUNT})
        await engine.quiesce()
        assert was_last_there == [False]
        assert world.publication.released == []
        assert not waiting.done()
        world.database.commit([("insert", None, row(1, n=100))])
        await engine.quiesce()
        assert isinstance(await waiting, Advanced)
        await engine.stop()

    asyncio.run(story())


def test_a_table_whose_shapes_are_all_given_up_is_let_go_at_the_end() -> None:
    """
    What could not be judged during the start is judged behind it.
    """

    async def story() -> None:
        world = World()
        await leave_shapes(world)
        world.control.rows.pop(COUNT)
        engine = Engine(world)
        await engine.start()
        await until(lambda: world.publication.released == [100])
        await engine.stop()

    asyncio.run(story())
