"""
Random histories of one table, its shapes, their readers, and crashes.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from consumer_kit import Engine, Op, World, expected, materialise, row, whole
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.reading import OpenReply, Refused, ShapeRequest

REQUESTS = (
    whole(),
    whole(replica=Replica.FULL),
    whole(columns=("id", "n")),
    whole(columns=("title", "id", "body"), replica=Replica.FULL),
)
TEXTS = (b"a", b"b", b'say "hi"\\', b"l\nf/\x01", None, "größer".encode())


def some_ops(world: World, random: Random) -> list[Op]:
    """
    Make operations on rows that no hidden transaction holds.
    """
    locked = world.database.locked()
    rows = {key: values for key, values in world.database.rows.items() if key not in locked}
    ops: list[Op] = []
    for _ in range(random.choice((1, 1, 2, 5))):
        number = random.randrange(12)
        key = b"%d" % number
        values = row(number, random.choice(TEXTS), random.randrange(3), random.choice(TEXTS))
        if key in locked:
            continue
        old = rows.get(key)
        if old is None:
            ops.append(("insert", None, values))
            rows[key] = values
        elif random.random() < 0.3:
            ops.append(("delete", old, None))
            del rows[key]
        elif random.random() < 0.3:
            other = random.randrange(12, 24)
            moved = (b"%d" % other, *values[1:])
            if moved[0] not in rows and moved[0] not in locked:
                ops.append(("update", old, moved))
                del rows[key]
                rows[moved[0] or b""] = moved
        else:
            ops.append(("update", old, random.choice((values, old))))
            rows[key] = ops[-1][2] or old
    return ops


async def live_history(seed: int) -> None:
    """
    Live one history and check it at every quiet moment.
    """
    random = Random(seed)
    world = World()
    engine = Engine(world)
    await engine.start()
    opens: list[asyncio.Task[OpenReply]] = []
    served: dict[str, bytes] = {}
    for _ in range(random.randrange(40, 120)):
        match random.randrange(12):
            case 0 | 1 | 2 | 3:
                if ops := some_ops(world, random):
                    world.database.commit(ops, is_hidden=random.random() < 0.15)
            case 4 | 5 | 6:
                engine.deliver(random.randrange(1, 4), random)
            case 7:
                opens.append(asyncio.create_task(engine.stage.catalog.open(random.choice(REQUESTS))))
            case 8:
                await engine.checkpoint()
            case 9:
                for _ in range(random.randrange(30)):
                    await asyncio.sleep(0)
            case 10:
                world.database.reveal()
                if random.random() < 0.3:
                    await check(engine, opens, served)
            case _:
                if random.random() < 0.3 and not world.database.hidden:
                    world.database.commit([("truncate", None, None)])
                elif random.random() < 0.5:
                    await remember(engine, served)
                    engine = await crash(engine, opens, random)
    world.database.reveal()
    await check(engine, opens, served)
    engine = await crash(engine, opens, random)
    await check(engine, opens, served)
    await engine.stop()


async def crash(engine: Engine, opens: list[asyncio.Task[OpenReply]], random: Random) -> Engine:
    """
    Cut the power and start anew.
    """
    for task in opens:
        task.cancel()
    await asyncio.gather(*opens, return_exceptions=True)
    opens.clear()
    await engine.stop()
    engine.world.disk.power_cut(random)
    other = Engine(engine.world)
    await other.start()
    return other


async def remember(engine: Engine, served: dict[str, bytes]) -> None:
    """
    Write down what clients have been given, settled or not.
    """
    for entry in engine.stage.registry:
        if entry.is_live and entry.condemned is None and entry.load is None:
            served[entry.handle] = b",".join(data for _, data in await engine.serve(entry))


async def check(engine: Engine, opens: list[asyncio.Task[OpenReply]], served: dict[str, bytes]) -> None:
    """
    Compare every shape with the table, and with what was served of it before.
    """
    engine.world.database.reveal()
    engine.deliver()
    async with asyncio.timeout(20):
        for reply in await asyncio.gather(*opens):
            assert not isinstance(reply, Refused), reply
    opens.clear()
    await engine.quiesce()
    for entry in engine.stage.registry:
        elements = await engine.elements(entry)
        assert materialise(elements) == expected(engine.world.database.rows, entry.definition.selected)
        check_marks(elements)
        data = b",".join(data for _, data in await engine.serve(entry))
        assert data.startswith(served.get(entry.handle, b"")), "what was served changed"
    for entry in engine.stage.registry:
        assert engine.tracker.debt_of(entry.incarnation) is None
    assert engine.tracker.last_global_flushed_offset == engine.collector.last_seen_end
    assert engine.stage.registry.unknown_deliveries == 0


def check_marks(elements: list[dict[str, object]]) -> None:
    """
    Every transaction of a shape has one last message, and it is the last; places ascend.
    """
    places = []
    for element, following in zip(elements, [*elements[1:], None], strict=True):
        headers = element["headers"]
        assert isinstance(headers, dict)
        if "lsn" not in headers:
            continue
        places.append((int(headers["lsn"]), headers["op_position"]))
        next_headers = {} if following is None else following["headers"]
        assert isinstance(next_headers, dict)
        is_last = next_headers.get("lsn") != headers["lsn"]
        assert headers.get("last", False) is is_last
    assert places == sorted(set(places))


@pytest.mark.parametrize("seed", range(40))
def test_every_shape_equals_its_table_whatever_happens(seed: int) -> None:
    """
    At every quiet moment each shape equals the table, and nothing that was served has changed, crashes or not.
    """
    asyncio.run(live_history(seed))


def test_a_shape_of_changes_only_begins_with_the_end_of_an_empty_snapshot() -> None:
    """
    `log=changes_only` serves no rows of the snapshot, and every change behind it.
    """

    async def story() -> None:
        world = World()
        world.database.commit([("insert", None, row(1))])
        engine = Engine(world)
        await engine.start()
        request: ShapeRequest = whole(log=LogMode.CHANGES_ONLY)
        await engine.stage.catalog.open(request)
        world.database.commit([("insert", None, row(2))])
        await engine.quiesce()
        (entry,) = engine.stage.registry
        elements = await engine.elements(entry)
        assert elements[0]["headers"]["control"] == "snapshot-end"
        assert [element["key"] for element in elements[1:]] == ['"public"."items"/"2"']
        await engine.stop()

    asyncio.run(story())
