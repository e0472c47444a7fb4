from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from consumer_kit import Engine, World, row
from harness.database import connected
from penstock.liveness.budget import Pressure
from penstock.postgres.lsn import EndLsn
from penstock.service.cells import ReceiverReport
from penstock.service.settings import Settings
from penstock.service.wal_budget import WalBudget
from penstock.shapes.offset import BEFORE_ALL
from penstock.shapes.reading import Opened, ShapeRequest

pytestmark = pytest.mark.postgres

SLOT = "penstock_slot_budget"


def report(received: int, confirmed: int) -> ReceiverReport:
    """
    What a receiver says that streams.
    """
    return ReceiverReport(
        phase="streaming",
        phase_since_s=0.0,
        error="",
        received=received,
        durable=received,
        confirmed=confirmed,
        server_end=received,
        relay_bytes=0,
        is_paused=False,
        is_out_of_room=False,
        disk_failure="",
        is_disk_hung=False,
        has_streamed=True,
    )


def settings(**fields: Any) -> Settings:
    """
    Settings of a service whose budgets are tiny.
    """
    return Settings(
        database_url="postgresql://unused", data_dir=Path("unused"), slot_name=SLOT, insecure=True, **fields
    )


async def test_what_the_primary_keeps_is_attributed_on_a_real_server(database: Any) -> None:
    """
    Log that we have not received is seen from a connection of our own, is named as such, and costs no shape.
    """
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", SLOT)
    database.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
    confirmed = EndLsn.parse(
        database.query("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", SLOT)[0][0]
    )
    engine = Engine(World())
    await engine.start()
    try:
        async with connected(database.url, size=1) as pool:
            budget = WalBudget(
                settings(wal_bytes_max=1 << 20, acknowledge="shapes"),
                pool,
                tracker=engine.tracker,
                registry=engine.stage.registry,
                settler=engine.stage.settler,
                report=lambda: report(confirmed.value, confirmed.value),
                clock=time.monotonic,
            )
            await budget.look()
            assert budget.attribution is not None
            assert budget.attribution.queue > 2 << 20
            assert budget.attribution.ours == 0
            (problem,) = budget.problems
            assert "what we have not received" in problem
            assert engine.stage.registry.shed_count == 0
            database.execute("SELECT pg_drop_replication_slot(%s)", SLOT)
            await budget.look()
            assert [problem for problem in budget.problems if "primary" in problem] == []
    finally:
        await engine.stop()


async def test_at_the_limit_the_shape_that_holds_most_goes_and_the_other_stays(database: Any) -> None:
    """
    A shape whose debts are old and large is given up; before it had time to pay, it is only named and settled.
    """
    world = World()
    engine = Engine(world, settle_age_s=3600.0)
    await engine.start()
    try:
        opened = await engine.stage.catalog.open(ShapeRequest("items", BEFORE_ALL))
        assert isinstance(opened, Opened)
        await engine.stage.settler.settle_all()
        for number in range(40):
            world.database.commit([("insert", None, row(number))])
        engine.deliver()
        assert engine.tracker.pending_count == 1
        async with connected(database.url, size=1) as pool:
            patient, hasty = (
                WalBudget(
                    settings(relay_bytes_max=1000, flush_stall_grace_s=grace_s),
                    pool,
                    tracker=engine.tracker,
                    registry=engine.stage.registry,
                    settler=engine.stage.settler,
                    report=lambda: report(5000, 5000),
                    clock=time.monotonic,
                )
                for grace_s in (60.0, 0.0)
            )
            patient._judge_ours()
            assert "are held by shapes that owe" in patient.problems[0]
            assert engine.stage.registry.shed_count == 0
            hasty._judge_ours()
            assert hasty._was_pressed is Pressure.HARD
            assert engine.stage.registry.shed_count == 1
            entry = engine.stage.registry.find(opened.handle)
            assert entry is not None
            assert entry.condemned is not None
            assert entry.condemned.startswith("budget")
    finally:
        await engine.stop()


async def test_a_disk_that_is_nearly_full_sheds_before_the_budget_is_used(database: Any) -> None:
    """
    Without room for segments whoever pins one goes, however large the budget; less than a segment frees nothing.
    """
    world = World()
    engine = Engine(world, settle_age_s=3600.0)
    await engine.start()
    try:
        assert isinstance(await engine.stage.catalog.open(ShapeRequest("items", BEFORE_ALL)), Opened)
        await engine.stage.settler.settle_all()
        has_room = True
        async with connected(database.url, size=1) as pool:
            budget = WalBudget(
                settings(flush_stall_grace_s=0.0),
                pool,
                tracker=engine.tracker,
                registry=engine.stage.registry,
                settler=engine.stage.settler,
                report=lambda: report(5000, 5000),
                clock=time.monotonic,
                may_pin=lambda: has_room,
            )
            world.database.commit([("insert", None, row(1))])
            engine.deliver()
            has_room = False
            budget._judge_ours()
            assert engine.stage.registry.shed_count == 0
            world.database._lsn += 64 << 20
            world.database.commit([("insert", None, row(2))])
            engine.deliver()
            has_room = True
            budget._judge_ours()
            assert engine.stage.registry.shed_count == 0
            has_room = False
            budget._judge_ours()
            assert engine.stage.registry.shed_count == 1
    finally:
        await engine.stop()
