"""
The control store against plain dictionaries.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.control.records import Recovered, ShapeRow, ShapeState
from penstock.control.store import SqliteControlStore
from penstock.errors import ShapeError
from penstock.postgres.lsn import EndLsn, InsertLsn
from penstock.postgres.relation import TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import LogMode, Replica, ShapeColumn, ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset

LSNS = st.integers(0, 2**64 - 1)
OFFSETS = st.builds(LogOffset, LSNS, st.integers(0, 2**32)) | st.sampled_from([SNAPSHOT_END, BEFORE_ALL])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
DEFINITIONS = st.builds(
    ShapeDefinition,
    table=st.builds(TableId, st.integers(1, 2**32 - 1), TEXTS, TEXTS),
    columns=st.lists(st.builds(ShapeColumn, TEXTS, st.integers(1, 2**32 - 1), st.integers(-1, 99)), max_size=3).map(
        tuple
    ),
    key_columns=st.lists(TEXTS, max_size=2).map(tuple),
    has_primary_key=st.booleans(),
    selected=st.lists(TEXTS, max_size=2).map(tuple),
    where=st.none() | TEXTS,
    replica=st.sampled_from(Replica),
    log=st.sampled_from(LogMode),
)
BOUNDS = st.builds(
    SnapshotBounds,
    st.builds(Snapshot, st.just(5), st.just(2**63), st.frozensets(st.integers(5, 2**63), max_size=3)),
    st.builds(InsertLsn, LSNS),
)
STEPS = st.one_of(
    st.tuples(st.just("create"), DEFINITIONS, st.integers(1, 2**40)),
    st.tuples(st.just("live"), st.integers(1, 8), BOUNDS, OFFSETS),
    st.tuples(st.just("tombstone"), st.sets(st.integers(1, 8)), TEXTS),
    st.tuples(st.just("forget"), st.integers(1, 8)),
    st.tuples(st.just("checkpoint"), LSNS, st.dictionaries(st.integers(1, 8), OFFSETS)),
    st.tuples(st.just("fact"), TEXTS, TEXTS, st.binary(max_size=9)),
    st.tuples(st.just("epoch"), LSNS),
    st.tuples(st.just("restart"), st.booleans()),
)


class Model:
    """
    What the store should hold.
    """

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.boundary = 0
        self.rows: dict[int, ShapeRow] = {}
        self.facts: dict[tuple[str, str], bytes] = {}
        self.handle_us_max = 0
        self.incarnation = 0
        self.is_clean = False

    def recovered(self) -> Recovered:
        return Recovered(
            self.epoch,
            EndLsn(self.boundary),
            tuple(self.rows.values()),
            self.facts,
            self.handle_us_max,
            self.is_clean,
        )

    def change(self, incarnation: int, **values: Any) -> None:
        row = self.rows[incarnation]
        fields = {name: getattr(row, name) for name in ShapeRow.__slots__}
        self.rows[incarnation] = ShapeRow(**{**fields, **values})


async def take(store: SqliteControlStore, model: Model, step: tuple[Any, ...]) -> None:
    """
    Take one step on both sides.
    """
    match step:
        case ("create", definition, handle_us):
            model.incarnation += 1
            handle = f"{model.incarnation}-{handle_us}"
            assert await store.create(handle, handle_us, definition, 1000) == model.incarnation
            model.handle_us_max = max(model.handle_us_max, handle_us)
            model.rows[model.incarnation] = ShapeRow(
                model.incarnation, handle, definition, ShapeState.CREATING, 1000, None, BEFORE_ALL
            )
        case ("live", incarnation, bounds, settled):
            row = model.rows.get(incarnation)
            try:
                await store.mark_live(incarnation, bounds, settled)
            except ShapeError:
                assert row is None or row.state is not ShapeState.CREATING
            else:
                assert row is not None
                assert row.state is ShapeState.CREATING
                model.change(incarnation, state=ShapeState.LIVE, bounds=bounds, settled=settled)
        case ("tombstone", incarnations, reason):
            await store.tombstone(incarnations, reason, EndLsn(1))
            for incarnation in incarnations & model.rows.keys():
                model.change(incarnation, state=ShapeState.CONDEMNED)
        case ("forget", incarnation):
            await store.forget(incarnation)
            if incarnation in model.rows and model.rows[incarnation].state is ShapeState.CONDEMNED:
                del model.rows[incarnation]
        case ("checkpoint", boundary, settled):
            await store.checkpoint(EndLsn(boundary), settled)
            model.boundary = boundary
            for incarnation in settled.keys() & model.rows.keys():
                model.change(incarnation, settled=settled[incarnation])
        case ("fact", kind, key, value):
            await store.record_fact(kind, key, value)
            model.facts[kind, key] = value
        case ("epoch", boundary):
            model.epoch = (model.epoch or 0) + 1
            await store.begin_epoch(model.epoch, EndLsn(boundary), "because")
            model.boundary = boundary
            model.facts = {}
            for incarnation in model.rows:
                model.change(incarnation, state=ShapeState.CONDEMNED)
        case _:
            raise AssertionError(step)


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=40)
def test_store_holds_what_was_answered(steps: list[tuple[Any, ...]]) -> None:
    """
    After any calls and restarts the store holds exactly what the calls said.
    """

    async def scenario(path: Path) -> None:
        model = Model()
        store = SqliteControlStore(path, reserve_bytes=0)
        await store.open()
        await store.load()
        for step in [*steps, ("restart", True), ("restart", False)]:
            if step[0] != "restart":
                await take(store, model, step)
                continue
            await store.close(is_clean=step[1])
            model.is_clean = step[1]
            store = SqliteControlStore(path, reserve_bytes=0)
            await store.open()
            assert await store.load() == model.recovered()
        await store.close(is_clean=False)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder) / "control.db"))
