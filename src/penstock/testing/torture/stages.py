"""
How each fault is staged. A shell.

A stage does its worst and tells from which position, and since when, the release of the log is to be measured. What is
common to all (waiting, comparing, judging) is in `runner`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from penstock.testing.torture.catalogue import BUDGET_BYTES, Deadlines, FaultSpec
from penstock.testing.torture.child import Child, TortureFailedError
from penstock.testing.torture.crowd import Crowd, Follower
from penstock.testing.torture.ground import Ground
from penstock.testing.torture.report import format_bytes
from penstock.testing.torture.shim import SyncShim

RESTARTS_COUNT: Final = 2
LOAD_S: Final = 1.0
"""For how long there is load between two restarts."""
BURSTS_COUNT_MAX: Final = 6
BURST_BYTES: Final = BUDGET_BYTES * 5 // 8
ASK_S: Final = 0.1
PATIENCE_S: Final = 60.0
ALARM_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """
    What a fault is staged with.
    """

    spec: FaultSpec
    mode: str
    deadlines: Deadlines
    ground: Ground
    child: Child
    crowd: Crowd
    shim: SyncShim | None


@dataclass(slots=True)
class Staged:
    """
    What was done.

    Attributes:
        position: the release of the log up to here is measured,
        since: from this moment on.
        released: when it was released, where the stage itself waited for that.
        broken: promises that were seen to be broken on the way.
        note: what else is worth telling.
    """

    position: int
    since: float
    broken: list[str] = field(default_factory=list)
    note: str = ""
    released: float | None = None


async def _strike(stage: Stage) -> Staged:
    """
    Write the row that the injected fault waits for.
    """
    position = await stage.ground.strike(stage.spec.table)
    return Staged(position, time.monotonic())


async def _hang_sync(stage: Stage) -> Staged:
    assert stage.shim is not None
    handle = stage.crowd.on(stage.spec.table).handle
    folders = list((stage.child.data_dir / "shapes").glob(f"*/*-{handle}"))
    if len(folders) != 1:
        raise TortureFailedError("the folder of the shape is not found")
    stage.shim.hang(folders[0])
    return await _strike(stage)


async def _hang_control(stage: Stage) -> Staged:
    assert stage.shim is not None
    stage.shim.hang(stage.child.data_dir / "state")
    began = time.monotonic()
    least_s = 2 * stage.deadlines.flush_stall_grace_s
    told = ""
    position = await stage.ground.strike("unwatched")
    releasing = asyncio.create_task(stage.ground.wait_confirmed(position, least_s))
    # It is asked for something every few seconds only; before that nobody can know.
    while time.monotonic() < began + least_s + (0.0 if told else ALARM_S):
        status = await stage.child.status()
        if status is not None and not told:
            told = next((problem for problem in status["problems"] if problem.startswith("control store")), "")
        await asyncio.sleep(ASK_S)
    released = await releasing
    broken = [] if told else ["no alarm named the control store"]
    note = f"hung for {time.monotonic() - began:.0f} s{', alarm raised' if told else ''}"
    stage.shim.hang()
    if stage.mode == "relay":
        if released is None:
            broken.append("the log was held")
        return Staged(position, began, broken, note, released)
    if released is not None and released > began + least_s / 2:
        broken.append("confirmed what was not recorded")
    position = await stage.ground.position()
    return Staged(position, time.monotonic(), broken, f"{note}; measured from its end")


async def _stop_engine(stage: Stage) -> Staged:
    await stage.child.signal("engine", signal.SIGSTOP)
    since = time.monotonic()
    return Staged(await stage.ground.strike("unwatched"), since)


async def _kill_receiver(stage: Stage) -> Staged:
    await stage.child.signal("receiver", signal.SIGKILL)
    since = time.monotonic()
    return Staged(await stage.ground.strike("unwatched"), since)


async def _kill_web(stage: Stage) -> Staged:
    await stage.child.signal("web", signal.SIGKILL)
    since = time.monotonic()
    return Staged(await stage.ground.strike("unwatched"), since)


async def _restart(stage: Stage) -> Staged:
    since = time.monotonic()
    position = 0
    for number in range(RESTARTS_COUNT):
        if number:
            await asyncio.sleep(LOAD_S)
            since = time.monotonic()
        position = await stage.ground.strike("unwatched")
        await stage.child.stop()
        await stage.child.start()
    return Staged(position, since, note="of the last restart")


async def _stop_everything(stage: Stage) -> Staged:
    pids = await stage.child.pids()
    # The supervisor first: it would take the others for hung.
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    stopped_s = stage.deadlines.longest_s
    try:
        await asyncio.sleep(stopped_s)
        position = await stage.ground.position()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return Staged(position, time.monotonic(), note=f"stopped for {stopped_s:.0f} s; measured from its end")


async def _drop_slot(stage: Stage) -> Staged:
    def drop() -> None:
        with psycopg.connect(stage.ground.url, autocommit=True) as connection:
            stage.ground.drop_slot(connection)

    before = [follower.rotation_count for follower in stage.crowd.followers]
    since = time.monotonic()
    await asyncio.to_thread(drop)
    position = await stage.ground.strike("unwatched")
    # Clients learn it when they ask.
    await until(
        lambda: all(
            follower.rotation_count > count for follower, count in zip(stage.crowd.followers, before, strict=True)
        ),
        PATIENCE_S,
    )
    return Staged(position, since)


async def _overload(stage: Stage) -> Staged:
    """
    Write bursts for a slow consumer until it is given up.
    """
    victim = stage.crowd.on(stage.spec.table)
    before = victim.rotation_count
    grace_s = stage.deadlines.flush_stall_grace_s
    since = time.monotonic()
    position = await stage.ground.strike(stage.spec.table)
    releasing = asyncio.create_task(stage.ground.wait_confirmed(position, PATIENCE_S))
    for _ in range(BURSTS_COUNT_MAX):
        # What it settles now began before the burst, and what it settles next takes in all of it: it owes for longer than
        # the grace, and yet makes progress within it.
        await asyncio.sleep(grace_s / 4)
        await stage.ground.write_bytes(stage.spec.table, BURST_BYTES)
        if await _has_rotated(victim, before, 2 * grace_s):
            break
        await stage.ground.strike(stage.spec.table)
    return Staged(position, since, note=f"budget {format_bytes(BUDGET_BYTES)}", released=await releasing)


async def _hold_transaction(stage: Stage) -> Staged:
    """
    Keep a transaction open while the log grows past the budget, for longer than every deadline of the sweep.
    """
    since = time.monotonic()
    async with await psycopg.AsyncConnection.connect(stage.ground.url) as connection:
        # With something of it in the log: of a transaction that wrote nothing, the server keeps nothing for long.
        await connection.execute("SELECT pg_logical_emit_message(true, 'torture', 'held')")
        position = await stage.ground.strike("unwatched")
        released = await stage.ground.wait_confirmed(position, PATIENCE_S)
        await stage.ground.write_bytes("unwatched", BUDGET_BYTES)
        named = ""
        deadlines = stage.deadlines
        enough_s = time.monotonic() + deadlines.flush_stall_grace_s + deadlines.verify_s
        deadline = enough_s + PATIENCE_S
        while time.monotonic() < (deadline if not named else enough_s):
            named = named or _named_holder(await stage.child.status())
            await asyncio.sleep(ASK_S)
        held = stage.ground.server_bytes
        await connection.rollback()
    broken = [] if named else ["explain did not name the transaction"]
    note = f"{format_bytes(held)} kept by the server{', named in explain' if named else ''}"
    return Staged(position, since, broken, note, released)


def _named_holder(status: Mapping[str, Any] | None) -> str:
    """
    Find what explain says of the server as a holder.
    """
    holders = [] if status is None else status["explain"]["holders"]
    return next((holder["why"] for holder in holders if "transaction open" in holder["why"]), "")


async def _has_rotated(follower: Follower, before: int, timeout_s: float) -> bool:
    return await until(lambda: follower.rotation_count > before, timeout_s)


async def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """
    Wait for something that only asking tells; tells whether it came in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(ASK_S)
    return True


STAGES: Final[Mapping[str, Callable[[Stage], Awaitable[Staged]]]] = {
    "sync-hung": _hang_sync,
    "control-store-hung": _hang_control,
    "engine-stopped": _stop_engine,
    "receiver-killed": _kill_receiver,
    "web-killed": _kill_web,
    "rolling-restart": _restart,
    "everything-stopped": _stop_everything,
    "slot-dropped": _drop_slot,
    "consumer-slow": _overload,
    "old-transaction": _hold_transaction,
}
"""By name; all others strike by writing the row that they wait for."""


async def stage_fault(stage: Stage) -> Staged:
    """
    Stage a fault.

    Raises:
        TortureFailedError: it could not be staged.
    """
    return await STAGES.get(stage.spec.name, _strike)(stage)
