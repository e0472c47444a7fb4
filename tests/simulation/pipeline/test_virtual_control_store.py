"""
The simulator's control store agrees with the real one: what one says after any calls, a crash and a restart, the other says.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Protocol

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.consumers.abc import ControlStore
from penstock.control.records import Recovered, ShedRecord
from penstock.control.store import SqliteControlStore
from penstock.errors import ShapeError
from penstock.postgres.lsn import EndLsn, InsertLsn
from penstock.postgres.relation import TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import ShapeColumn, ShapeDefinition
from penstock.shapes.offset import LogOffset
from penstock.testing.simulation.control import ControlFile, VirtualControlStore

DEFINITION = ShapeDefinition(
    TableId(7, "public", "items"), (ShapeColumn("id", 23, -1),), ("id",), has_primary_key=True, selected=("id",)
)
NUMBERS = st.integers(1, 6)
LSNS = st.integers(0, 2**64 - 1)
OFFSETS = st.builds(LogOffset, LSNS, st.integers(0, 2**32))
TEXTS = st.text("ab'\0é", max_size=4)
BOUNDS = st.builds(
    SnapshotBounds,
    st.builds(Snapshot, st.just(5), st.just(2**40), st.frozensets(st.integers(5, 2**40 - 1), max_size=3)),
    st.builds(InsertLsn, LSNS),
)
SHEDS = st.builds(
    ShedRecord,
    st.binary(max_size=3),
    TEXTS,
    TEXTS,
    st.lists(st.floats(0, 2e9), max_size=3).map(lambda x: tuple(sorted(x))),
)
CALLS = st.one_of(
    st.tuples(st.just("create"), st.integers(1, 2**40), st.integers(1, 2**30)),
    st.tuples(st.just("mark_live"), NUMBERS, BOUNDS, OFFSETS),
    st.tuples(st.just("tombstone"), st.sets(NUMBERS), TEXTS, LSNS),
    st.tuples(st.just("forget"), NUMBERS),
    st.tuples(st.just("checkpoint"), LSNS, st.dictionaries(NUMBERS, OFFSETS)),
    st.tuples(st.just("record_fact"), TEXTS, TEXTS, st.binary(max_size=5)),
    st.tuples(st.just("record_sheds"), st.lists(SHEDS, max_size=2), st.lists(st.binary(max_size=3), max_size=2)),
    st.tuples(st.just("record_replay_version"), st.integers(1, 9)),
    st.tuples(st.just("begin_epoch"), st.integers(0, 1), LSNS, TEXTS),
    st.tuples(st.just("restart"), st.booleans()),
)


class _Store(ControlStore, Protocol):
    """
    What both have besides the port.
    """

    async def open(self) -> None: ...

    async def close(self, *, is_clean: bool) -> None: ...


async def tell(store: _Store, call: tuple[Any, ...], epoch: int, number: int) -> object:
    """
    Make a call, the so-manieth; gives what it answered, or what it raised. No two shapes have one handle.
    """
    name, *args = call
    try:
        match name:
            case "create":
                return await store.create(f"handle-{number}", args[0], DEFINITION, args[1])
            case "tombstone":
                await store.tombstone(args[0], args[1], EndLsn(args[2]))
            case "checkpoint":
                await store.checkpoint(EndLsn(args[0]), args[1])
            case "begin_epoch":
                await store.begin_epoch(epoch, EndLsn(args[1]), args[2])
            case _:
                await getattr(store, name)(*args)
    except ShapeError as error:
        return error.message
    return None


async def follow(calls: list[tuple[Any, ...]], stores: list[Any]) -> list[object]:
    """
    Make all calls of a store; gives everything it said. `stores` are its lives.
    """
    said: list[object] = []
    epoch = 0
    store = stores.pop()
    await store.open()
    said.append(await store.load())
    for call in calls:
        if call[0] == "restart":
            await store.close(is_clean=call[1])
            store = stores.pop()
            await store.open()
            recovered: Recovered = await store.load()
            said.append(recovered)
            continue
        epoch += call[1] if call[0] == "begin_epoch" else 0
        said.append(await tell(store, call, epoch, len(said)))
    await store.close(is_clean=False)
    return said


@settings(deadline=None, max_examples=30)
@given(st.lists(CALLS, max_size=14).map(lambda calls: [*calls, ("restart", False)]))
def test_the_stores_agree(calls: list[tuple[Any, ...]]) -> None:
    """
    Both answer every call alike, and hold the same after every restart.
    """
    lives = 1 + sum(call[0] == "restart" for call in calls)
    file = ControlFile()
    virtual = asyncio.run(follow(calls, [VirtualControlStore(file) for _ in range(lives)]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "control.sqlite"
        real = asyncio.run(follow(calls, [SqliteControlStore(path, reserve_bytes=4096) for _ in range(lives)]))
    assert virtual == real


def test_what_was_not_answered_may_be_durable_and_what_was_answered_is() -> None:
    """
    Calls are applied whole and in order; after a power cut the file holds all that were answered.
    """

    async def story() -> None:
        file = ControlFile()
        store = VirtualControlStore(file)
        await store.open()
        await store.load()
        seen: list[int] = []
        file.history = lambda state: seen.append(state.boundary.value)
        await asyncio.gather(*(store.checkpoint(EndLsn(at), {}) for at in (1, 2, 3)))
        assert seen == [3], "calls that wait at the same time are committed together"
        file.power_cut()
        other = VirtualControlStore(file)
        await other.open()
        assert (await other.load()).boundary == EndLsn(3)

    asyncio.run(story())
