"""
Random histories of one table, its shapes, their readers, and crashes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from random import Random

import pytest

from consumer_kit import SMALL, Engine, Op, World, expected, materialise, row, whole
from penstock.collector.abc import RoutedPart
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.handler import Answer
from penstock.consumers.projection import Shared
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.reading import OpenReply, Refused, ShapeRequest

REQUESTS = (
    whole(),
    whole(replica=Replica.FULL),
    whole(columns=("id", "n")),
    whole(columns=("title", "id", "body"), replica=Replica.FULL),
)
TIGHT = replace(SMALL, buffer_bytes_max=2_000, shape_tail_bytes_max=1_500, tail_bytes_max=6_000)
TEXTS = (b"a", b"b", b'say "hi"\\', b"l\nf/\x01", None, "größer".encode())


@dataclass
class Counts:
    """
    What happened in histories.
    """

    rounds: int = 0
    replaced: int = 0
    shed: int = 0
    retaken: int = 0

    def note(self, engine: Engine) -> None:
        """
        Add what happened in one life.
        """
        self.rounds += engine.stage.catch_up.rounds_count
        self.replaced += engine.stage.registry.replaced_count
        self.shed += engine.stage.registry.shed_count
        self.retaken += engine.stage.snapshotter.retaken_count

    def add(self, other: Counts) -> None:
        """
        Add what happened in another history.
        """
        self.rounds += other.rounds
        self.replaced += other.replaced
        self.shed += other.shed
        self.retaken += other.retaken


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


class FailingHandler:
    """
    A handler that a test put in the place of another.
    """

    def handle(self, part: RoutedPart, shared: Shared) -> Answer:
        """
        Fail.
        """
        del part, shared
        raise RuntimeError("put here by a test")

    def abandon(self) -> None:
        """
        Forget nothing.
        """


def break_one(engine: Engine, random: Random) -> None:
    """
    Let one consumer fail at its next transaction.
    """
    consumers = [entry.consumer for entry in engine.stage.registry if entry.consumer is not None]
    begun = [consumer for consumer in consumers if consumer.state is ConsumerState.LIVE]
    if begun:
        # A fault does not ask for types.
        random.choice(begun)._handler = FailingHandler()  # type: ignore[assignment]


async def live_history(seed: int, *, is_tight: bool) -> Counts:
    """
    Live one history and check it at every quiet moment.

    Args:
        seed: names it.
        is_tight: whether buffers are small, consumers fail and the disk fills up.
    """
    random = Random(seed)
    world = World()
    limits = TIGHT if is_tight else SMALL
    counts = Counts()
    engine = Engine(world, limits)
    await engine.start()
    opens: list[asyncio.Task[OpenReply]] = []
    served: dict[str, bytes] = {}
    for _ in range(random.randrange(40, 120)):
        match random.randrange(14 if is_tight else 12):
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
            case 12:
                break_one(engine, random)
            case 13:
                world.disk.space_bytes = 0 if random.random() < 0.3 else None
            case _:
                if random.random() < 0.3 and not world.database.hidden:
                    world.database.commit([("truncate", None, None)])
                elif random.random() < 0.5:
                    await remember(engine, served)
                    counts.note(engine)
                    engine = await crash(engine, opens, random)
    world.database.reveal()
    await check(engine, opens, served)
    engine = await crash(engine, opens, random)
    await check(engine, opens, served)
    counts.note(engine)
    await engine.stop()
    return counts


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
    engine.world.disk.space_bytes = None
    other = Engine(engine.world, engine.limits)
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
    was_full = engine.world.disk.space_bytes is not None
    engine.world.disk.space_bytes = None
    engine.deliver()
    async with asyncio.timeout(20):
        for reply in await asyncio.gather(*opens):
            assert not isinstance(reply, Refused) or was_full or engine.limits is TIGHT, reply
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
    assert engine.stage.registry.unknown_count == 0


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
    counts = asyncio.run(live_history(seed, is_tight=False))
    assert counts.shed == 0, "a healthy run sheds nothing"


def test_shapes_that_fall_behind_catch_up_and_equal_their_table() -> None:
    """
    With small buffers, failing consumers and a disk that fills up the same holds, by way of the catch-up reader.
    """
    counts = Counts()
    for seed in range(20):
        counts.add(asyncio.run(live_history(seed, is_tight=True)))
    assert counts.replaced > 0
    assert counts.rounds > 0


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
