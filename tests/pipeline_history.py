"""
Histories: what happens to the pipeline in one, by its seed, and what must hold in each.

A `Plan` is a list of steps with their times, so that steps can be left out to find a smaller history that fails in the
same way. What a step does in detail is drawn from its own number, and does not change when others are left out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import multiprocessing
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final
from zlib import crc32

import structlog

from penstock.collector.abc import RoutedPart
from penstock.collector.flush_tracker import FlushTracker
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.handler import Answer, ShapeHandler
from penstock.consumers.projection import Projection, Shared
from penstock.control.records import ShapeState
from penstock.postgres.lsn import EndLsn
from penstock.postgres.relation import Column, Table, TableId
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import Replica
from penstock.testing.simulation.control import ControlFile, ControlState
from penstock.testing.simulation.disk import Trouble, VirtualDisk
from penstock.testing.simulation.loop import SimulationLoop, StuckError
from penstock.testing.simulation.machine import Machine, make_settings
from penstock.testing.simulation.postgres import Commit, Op, Row, VirtualPostgres
from penstock.testing.simulation.seams import installed
from penstock.where.clause import compile_where
from pipeline_client import PromiseBrokenError, Reader, Request, expected

COLUMNS: Final = (
    Column("id", 23, -1, "int4", is_not_null=True, pk_index=0),
    Column("title", 25, -1, "text"),
    Column("n", 23, -1, "int4"),
    Column("body", 25, -1, "text"),
)
NAMES: Final = [column.name for column in COLUMNS]
TABLES: Final = tuple(
    Table(TableId(oid, "public", name), COLUMNS, oid, "f") for oid, name in ((100, "items"), (101, "tags"))
)


def _n_over_one(row: Mapping[str, str | None]) -> bool:
    return row["n"] is not None and int(row["n"]) > 1


def _first_with_a(row: Mapping[str, str | None]) -> bool:
    return row["title"] == "a" and int(row["id"] or 0) < 9


def _all(row: Mapping[str, str | None]) -> bool:
    del row
    return True


REQUESTS: Final = (
    Request("items", 100, None, _all),
    Request("items", 100, "n > 1", _n_over_one),
    Request("items", 100, None, _all, ("id", "n"), Replica.FULL),
    Request("tags", 101, None, _all),
    Request("tags", 101, "title = 'a' AND id < 9", _first_with_a, None, Replica.FULL),
    Request("tags", 101, "n > 1", _n_over_one, ("id", "n", "title")),
)
CONDITIONS: Final = {
    None if each.where is None else compile_where(each.where, (), COLUMNS).normalised: each.accepts for each in REQUESTS
}

QUIET_S_MAX: Final = 150.0
"""How long it may take until all is quiet once nothing is wrong any more but with single shapes."""
HELD_S_MAX: Final = {"relay": 3.0, "shapes": 6.0}
"""How long a commit may wait to be confirmed while nothing is wrong; the design's bounds, with time for a lost hint."""
HELD_BY_SHAPE_S_MAX: Final = {"relay": 3.0, "shapes": 40.0}
"""The same while single shapes fail in any way."""
HELD_BY_ENGINE_S_MAX: Final = {"relay": 3.0, "shapes": 90.0}
"""The same when besides the engine stood still or died."""
LOOK_S: Final = 0.5
SEEDS_PER_CHUNK: Final = 10


@dataclass(frozen=True)
class Step:
    """
    Something that happens.

    Attributes:
        number: names it, and what it draws.
        at_s: when.
        kind: what; see `History`.
        for_s: how long it lasts, where it does.
    """

    number: int
    at_s: float
    kind: str
    for_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """
    A history before it happens.

    Attributes:
        seed: names it.
        acknowledge: the mode.
        steps: in order of time.
    """

    seed: int
    acknowledge: str
    steps: tuple[Step, ...]

    def tell(self) -> str:
        """
        Tell it to people.
        """
        lines = [f"seed {self.seed}, acknowledge={self.acknowledge}"]
        for step in self.steps:
            duration = f" for {step.for_s:.2f} s" if step.for_s else ""
            lines.append(f"  {step.at_s:7.3f} s  {step.kind}{duration}")
        return "\n".join(lines)


SHAPE_FAULTS: Final = (
    "consumer raises",
    "consumer raises twice",
    "shape sync hangs",
    "shape sync fails",
    "shape is slow",
)
"""Faults of a single shape, which stay when everything else is well again."""
OTHER_FAULTS: Final = (
    "kill engine",
    "kill receiver",
    "kill both",
    "power cut",
    "power cut",
    "power cut",
    "stop and start",
    "freeze engine",
    "freeze receiver",
    "suspend",
    "disk full",
    "relay sync fails",
    "relay write fails",
    "relay hangs",
    "control hangs",
    "control is full",
    "control fails",
    "cut link",
    "cut link",
    "silence link",
    "slow link",
    "refuse connections",
    "restart server",
    "snapshots hang",
)
STRANGERS: Final = ("move slot", "drop slot")
"""Somebody else at work: every shape starts over."""
ENGINE_FAULTS: Final = frozenset(
    {"kill engine", "kill both", "power cut", "stop and start", "freeze engine", "suspend", "control fails"}
)


def make_plan(seed: int, acknowledge: str = "", faults: tuple[str, ...] = ()) -> Plan:
    """
    Draw a plan.

    Args:
        seed: names it.
        acknowledge: the mode; drawn when empty.
        faults: these faults and no others; drawn when empty.
    """
    chance = Random(seed)
    length_s = chance.choice((2.0, 5.0, 9.0))
    acknowledge = acknowledge or chance.choice(("relay", "shapes"))
    happenings: list[tuple[float, str, float]] = []
    traffic = chance.choices(
        ("commit", "late commit", "noise", "server checkpoint"), (12, 2, 2, 1), k=chance.randrange(10, 40)
    )
    happenings.extend((chance.random() * length_s, kind, chance.random() * 0.6) for kind in traffic)
    happenings.extend((chance.random() * length_s * 0.6, "open", 0.0) for _ in range(chance.randrange(2, 5)))
    style = chance.random()
    kinds: list[str] = list(faults)
    if style > 0.2 and not faults:
        kinds += chance.choices(OTHER_FAULTS, k=chance.randrange(3))
        if style > 0.45:
            kinds += chance.choices(SHAPE_FAULTS, k=chance.randrange(1, 3))
            kinds += chance.choices(("power cut", "kill engine", "kill receiver"), k=chance.randrange(2))
        if style > 0.95:
            kinds += [chance.choice(STRANGERS)]
    happenings.extend(
        (chance.random() * length_s, kind, chance.choice((0.3, 2.0, 4.0, 25.0)) * chance.random()) for kind in kinds
    )
    happenings.sort()
    return Plan(seed, acknowledge, tuple(Step(number, *happening) for number, happening in enumerate(happenings)))


class _PutHereError(Exception):
    """
    Raised by a consumer on purpose.
    """


class _Handler(ShapeHandler):
    """
    A handler that fails when the history says so.
    """

    __slots__ = ("_history", "_key")

    def __init__(self, projection: Projection, bounds: SnapshotBounds, history: History) -> None:
        super().__init__(projection, bounds)
        self._history: Final = history
        self._key: Final = projection.definition.canonical()

    def handle(self, part: RoutedPart, shared: Shared) -> Answer:
        left = self._history.raising.get(self._key, 0)
        if left:
            self._history.raising[self._key] = left - 1
            self._history.note("a consumer raises")
            raise _PutHereError
        return super().handle(part, shared)


def _must_appear(commit: Commit, oid: int, accepts: Callable[[Mapping[str, str | None]], bool]) -> bool:
    """
    Tell whether a commit surely says something to a shape: a row of it was inserted or deleted.
    """
    for op in commit.ops:
        row = op.new if op.kind == "insert" else op.old if op.kind == "delete" else None
        if row is not None and op.oid == oid:
            texts = (None if value is None else value.decode() for value in row)
            if accepts(dict(zip(NAMES, texts, strict=True))):
                return True
    return False


@dataclass
class Outcome:
    """
    What came of a history.

    Attributes:
        violation: the promise that was broken; empty when none was.
        trace: what happened.
        turns: callbacks that ran.
        shed_count: shapes that were given up while they were live.
        seconds: virtual time that passed.
    """

    violation: str
    trace: list[str]
    turns: int = 0
    shed_count: int = 0
    seconds: float = 0.0
    held_s_max: float = 0.0


class History:
    """
    One history under way.
    """

    def __init__(self, plan: Plan, machine: Machine) -> None:
        """
        Begin it.
        """
        self.plan: Final = plan
        self.machine: Final = machine
        self.trace: Final[list[str]] = []
        self.readers: Final[dict[int, Reader]] = {}
        self.raising: Final[dict[bytes, int]] = {}
        self.armed: Final[Counter[bytes]] = Counter()
        self.guilty: Final[set[int]] = set()
        self.shed: Final[dict[int, str]] = {}
        self.is_stranger_about = False
        self.has_shape_fault = False
        self.has_engine_fault = False
        self.violation = ""
        self.held_s_max = 0.0
        self._excuses: Final[list[str]] = []
        self._begun: Final[list[int]] = []
        self._tasks: Final[list[asyncio.Task[Any]]] = []
        self._before: ControlState = ControlState()
        self._wanted_up = True
        machine.control.history = self._control_moved
        machine.postgres.on_confirm = self._confirmed
        machine.on_exit = self._exited
        machine.make_handler = lambda projection, bounds: _Handler(projection, bounds, self)

    @property
    def now(self) -> float:
        """
        Tell the time.
        """
        return self.machine.loop.time()

    def note(self, text: str) -> None:
        """
        Add to the trace.
        """
        self.trace.append(f"{self.now:8.3f} {text}")

    def fail(self, text: str) -> None:
        """
        Note that a promise was broken.
        """
        self.note(f"VIOLATION {text}")
        self.violation = self.violation or text

    # --- oracles that look on ----------------------------------------------------------------------------------------

    def _control_moved(self, state: ControlState) -> None:
        before, self._before = self._before, state
        if state.boundary != before.boundary:
            self._check_boundary(state)
        if state.epoch != before.epoch:
            self.note(f"epoch {state.epoch} begins at {state.boundary}: {state.epoch_reason}")
        if before.epoch is not None and state.epoch != before.epoch and not self.is_stranger_about:
            self.fail(f"a new epoch {state.epoch} has begun, and nobody touched the slot")
        if state.rows is before.rows and state.epoch == before.epoch:
            return
        for incarnation, (row, epoch) in state.rows.items():
            old = before.rows.get(incarnation)
            is_over = row.state is ShapeState.CONDEMNED or epoch < (state.epoch or 0)
            was_live = old is not None and old[0].state is ShapeState.LIVE and old[1] >= (before.epoch or 0)
            if is_over and was_live:
                reason = state.reasons.get(incarnation, "epoch")
                self.shed[incarnation] = reason
                self.note(f"shape {incarnation} {row.handle} is given up: {reason}")
                is_guilty = incarnation in self.guilty or self.armed[row.definition.canonical()] > 1
                if not is_guilty and not self.is_stranger_about and reason != "truncate":
                    self.fail(f"shape {incarnation} was given up without being guilty: {reason}")

    def _check_boundary(self, state: ControlState) -> None:
        """
        S1: what a live shape must hold of the commits up to the boundary is in its files, durably.
        """
        for incarnation, (row, epoch) in state.rows.items():
            if row.state is not ShapeState.LIVE or epoch < (state.epoch or 0):
                continue
            assert row.bounds is not None
            fan_out = crc32(incarnation.to_bytes(8, "big")) & 0xFF
            folder = f"{self.machine.settings.data_dir}/shapes/{fan_out:02x}/{incarnation}-{row.handle}"
            data = self.machine.disk.durable_bytes(folder)
            accepts = CONDITIONS[row.definition.where]
            for commit in self.machine.postgres.wal:
                is_seen = commit.lsn.is_below(row.bounds.horizon) and row.bounds.snapshot.sees(commit.xid)
                if (
                    commit.end > state.boundary
                    or is_seen
                    or not _must_appear(commit, row.definition.table.oid, accepts)
                ):
                    continue
                if b'"lsn":"%d"' % commit.lsn.value not in data:
                    self.fail(f"the boundary is {state.boundary}, and shape {incarnation} does not hold {commit.lsn}")

    def _confirmed(self, before: EndLsn, position: EndLsn) -> None:
        if position < before:
            self.fail(f"confirmed {position} after {before}")
        if position > before:
            self.note(f"confirmed {position}")
            self._check_confirmed(position)

    def _check_confirmed(self, position: EndLsn) -> None:
        """
        Nothing is confirmed that is not recorded durably, as far as that can be seen at once.
        """
        if self.plan.acknowledge == "shapes" and not self.is_stranger_about:
            boundary = self.machine.control.state.boundary
            epoch = self.machine.control.state.epoch
            if epoch is not None and position > boundary:
                self.fail(f"confirmed {position} beyond the recorded boundary {boundary}")

    def voided(self, incarnation: int) -> None:
        """
        S2: debts are struck out only when that the shape is given up is durable.
        """
        state = self.machine.control.state
        row, epoch = state.rows.get(incarnation, (None, 0))
        if row is not None and row.state is not ShapeState.CONDEMNED and epoch >= (state.epoch or 0):
            self.fail(f"the debts of shape {incarnation} are void before its tombstone is durable")

    def _exited(self, role: str, reason: str) -> None:
        self.note(f"the {role} ends: {reason}")
        if role == "engine" and not ({"freeze engine", "control fails"} & set(self._excuses)):
            self.fail(f"the engine ended by itself: {reason}")
        if role == "receiver" and not any(each.startswith(("relay", "disk")) for each in self._excuses):
            self.fail(f"the receiver ended by itself: {reason}")

    async def _watch_lag(self) -> None:
        """
        L1: see that every commit is confirmed in time, not counting the time in which the design promises nothing.
        """
        good_s = 0.0
        waiting_for: EndLsn | None = None
        while True:
            before = self.now
            await asyncio.sleep(LOOK_S)
            postgres = self.machine.postgres
            slot = postgres.slot
            if self._is_excused or slot is None or slot.active is None or self.now - before > 3 * LOOK_S:
                waiting_for, good_s = None, 0.0
                continue
            if waiting_for is None or slot.confirmed >= waiting_for:
                due = [each.end for each in postgres.wal if slot.confirmed < each.end <= EndLsn(postgres.flushed_lsn)]
                waiting_for, good_s = (due[0] if due else None), 0.0
                continue
            good_s += LOOK_S
            self.held_s_max = max(self.held_s_max, good_s)
            bounds = HELD_BY_SHAPE_S_MAX if self.has_shape_fault else HELD_S_MAX
            bounds = HELD_BY_ENGINE_S_MAX if self.has_engine_fault else bounds
            if good_s > bounds[self.plan.acknowledge]:
                self.fail(f"{waiting_for} has been waiting for {good_s} s to be confirmed")
                return

    @property
    def _is_excused(self) -> bool:
        """
        Whether something is wrong under which the design does not promise progress.
        """
        machine = self.machine
        if self._excuses or machine.receiver is None or machine.receiver.life.is_frozen:
            return True
        if self.plan.acknowledge == "relay":
            return False
        return machine.engine is None

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """
        Let it happen, then let it come to rest, and look.
        """
        machine = self.machine
        machine.start()
        supervisor = asyncio.create_task(machine.supervise())
        lag = asyncio.create_task(self._watch_lag())
        self._tasks.extend([supervisor, lag])
        for step in self.plan.steps:
            if step.at_s > self.now:
                await asyncio.sleep(step.at_s - self.now)
            self._do(step)
            if self.violation:
                return
        await self._come_to_rest()
        if not self.violation:
            await self._look()

    async def end(self) -> None:
        """
        Take everything down.
        """
        self._wanted_up = False
        self.machine.is_supervised = False
        self.machine.kill_engine()
        self.machine.kill_receiver()
        for task in self._tasks:
            task.cancel()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=60)

    async def _come_to_rest(self) -> None:
        machine = self.machine
        until = self.now + QUIET_S_MAX
        while self._excuses and self.now < until:  # noqa: ASYNC110 - what ends by itself, by its own timer
            await asyncio.sleep(LOOK_S)
        machine.postgres.reveal_all()
        for xid in self._begun:
            machine.postgres.roll_back(xid)
        self._begun.clear()
        # What was flushed last is told by the next that happens.
        self.note("all is well again, but for single shapes")
        until = self.now + QUIET_S_MAX
        while (missing := self._find_unrest()) and not self.violation:
            if self.now > until:
                self.fail(f"not quiet after {QUIET_S_MAX} s: {missing}")
                return
            await asyncio.sleep(LOOK_S)

    def _find_unrest(self) -> str:
        machine = self.machine
        slot = machine.postgres.slot
        wal = machine.postgres.wal
        engine = machine.engine
        if engine is None or machine.receiver is None or slot is None:
            return "a role is missing"
        if engine.engine.health().state != "active":
            return f"the engine is {engine.engine.health()}"
        if wal and slot.confirmed < wal[-1].end:
            return f"the last commit {wal[-1].end} is not confirmed, but {slot.confirmed}"
        registry = engine.engine.parts.consumers.registry
        if any(entry.condemned is not None for entry in registry) or registry.is_burying:
            return "shapes are being given up"
        if registry.is_any_behind:
            return "shapes are behind"
        if machine.control.state.boundary < (wal[-1].end if wal else EndLsn(0)):
            return f"the boundary is {machine.control.state.boundary}, the last commit {wal[-1].end}"
        for reader in self.readers.values():
            if reader.log is None or not reader.is_up_to_date:
                return f"a client of {reader.request.table} {reader.request.where} has nothing"
            if reader.log.rows != expected(reader.request, machine.postgres.rows[reader.request.oid], NAMES):
                return f"a client of {reader.request.table} {reader.request.where} has other rows than the query"
        return ""

    async def _look(self) -> None:
        for reader in list(self.readers.values()):
            assert reader.log is not None
            held = list(reader.log.elements)
            again = await reader.read_anew()
            if again is not None and again[: len(held)] != held:
                self.fail(f"{reader.log.handle} is read otherwise than it was served")

    # --- steps -------------------------------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        chance = Random(f"{self.plan.seed}/{step.number}")
        self.note(f"-- {step.kind}" + (f" for {step.for_s:.2f} s" if step.for_s else ""))
        getattr(self, "_" + step.kind.replace(" ", "_"))(step, chance)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        self.machine.loop.call_later(seconds, call)

    def _excuse(self, step: Step, undo: Callable[[], object], grace_s: float = 0.0) -> None:
        """
        Promise nothing while a step lasts, and a while after it.
        """
        self._excuses.append(step.kind)

        def end() -> None:
            undo()
            self.note(f"{step.kind} is over")
            self._later(grace_s, lambda: self._excuses.remove(step.kind))

        self._later(step.for_s, end)

    def _open(self, step: Step, chance: Random) -> None:
        del step
        index = chance.randrange(len(REQUESTS))
        if index not in self.readers:
            reader = self.readers[index] = Reader(self.machine, REQUESTS[index], self.note)
            task = asyncio.get_running_loop().create_task(reader.run())
            task.add_done_callback(self._reader_ended)
            self._tasks.append(task)

    def _reader_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(str(error) if isinstance(error, PromiseBrokenError) else repr(error))

    def _commit(self, step: Step, chance: Random) -> None:
        if not self.machine.postgres.is_up:
            return
        ops = self._some_ops(chance)
        if ops:
            hidden_s = step.for_s if chance.random() < 0.25 else 0.0
            unflushed_s = step.for_s if not hidden_s and chance.random() < 0.15 else 0.0
            xid = None
            if self._begun and chance.random() < 0.5:
                xid = self._begun.pop(chance.randrange(len(self._begun)))
            commit = self.machine.postgres.commit(ops, xid=xid, hidden_s=hidden_s, unflushed_s=unflushed_s)
            self.note(
                f"commit {commit.lsn} to {commit.end}, xid {commit.xid}, {len(ops)} changes, hidden {hidden_s:.2f}"
            )

    def _late_commit(self, step: Step, chance: Random) -> None:
        del step, chance
        if self.machine.postgres.is_up:
            self._begun.append(self.machine.postgres.begin())

    def _noise(self, step: Step, chance: Random) -> None:
        del step
        self.machine.postgres.write_elsewhere(8 * chance.randrange(1, 50))

    def _server_checkpoint(self, step: Step, chance: Random) -> None:
        del step, chance
        self.machine.postgres.checkpoint()

    def _some_ops(self, chance: Random) -> list[Op]:
        postgres = self.machine.postgres
        locked = postgres.locked()
        ops: list[Op] = []
        oid = chance.choice((100, 100, 101))
        if chance.random() < 0.03 and not postgres.is_table_locked(oid):
            return [Op(oid, "truncate")]
        rows = {key: row for key, row in postgres.rows[oid].items() if (oid, key) not in locked}
        for _ in range(chance.choice((1, 1, 2, 5, 12))):
            number = chance.randrange(14)
            key = b"%d" % number
            if (oid, key) in locked:
                continue
            body = chance.choice((None, b"x", b"y" * 300, 'say "hi"\\\n größer'.encode()))
            row: Row = (key, chance.choice((b"a", b"b", None)), b"%d" % chance.randrange(4), body)
            old = rows.get(key)
            if old is None:
                ops.append(Op(oid, "insert", None, row))
                rows[key] = row
            elif chance.random() < 0.25:
                ops.append(Op(oid, "delete", old))
                del rows[key]
            elif chance.random() < 0.15:
                moved = (b"%d" % (number + 14), *row[1:])
                if moved[0] not in rows and (oid, moved[0]) not in locked:
                    ops.append(Op(oid, "update", old, moved))
                    del rows[key]
                    rows[b"%d" % (number + 14)] = moved
            else:
                ops.append(Op(oid, "update", old, row))
                rows[key] = row
        return ops

    # Single shapes.

    def _victim(self, chance: Random) -> ShapeEntry | None:
        role = self.machine.engine
        if role is None:
            return None
        entries = [entry for entry in role.engine.parts.consumers.registry if entry.condemned is None]
        return chance.choice(entries) if entries else None

    def _consumer_raises(self, step: Step, chance: Random, count: int = 1) -> None:
        del step
        entry = self._victim(chance)
        if entry is not None:
            key = entry.definition.canonical()
            self.raising[key] = count
            # One that fails twice at the same commit is given up; whoever has its definition by then.
            self.armed[key] += count
            self.has_shape_fault = True
            self.note(f"victim: {entry.incarnation}")

    def _consumer_raises_twice(self, step: Step, chance: Random) -> None:
        self._consumer_raises(step, chance, 2)

    def _spoil(self, chance: Random, trouble: Trouble, *, is_guilty: bool) -> None:
        entry = self._victim(chance)
        if entry is not None:
            trouble.part = f"/{entry.incarnation}-"
            self.has_shape_fault = True
            self.machine.disk.troubles.append(trouble)
            self.note(f"victim: {entry.incarnation}")
            if is_guilty:
                self.guilty.add(entry.incarnation)

    def _shape_sync_hangs(self, step: Step, chance: Random) -> None:
        del step
        self._spoil(chance, Trouble("", frozenset({"sync"}), is_hanging=True), is_guilty=True)

    def _shape_sync_fails(self, step: Step, chance: Random) -> None:
        del step
        self._spoil(chance, Trouble("", frozenset({"sync", "write"}), errno.EIO, count=1), is_guilty=True)

    def _shape_is_slow(self, step: Step, chance: Random) -> None:
        trouble = Trouble("", frozenset({"sync", "write"}), latency_s=chance.random() * 3)
        self._spoil(chance, trouble, is_guilty=False)
        self._later(step.for_s, lambda: self.machine.disk.heal(trouble))

    # Processes.

    def _restart(self, step: Step) -> None:
        self.has_engine_fault = True
        self._excuse(step, self.machine.start, 5.0)

    def _kill_engine(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.kill_engine()
        self._restart(step)

    def _kill_receiver(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.kill_receiver()
        self._restart(step)

    def _kill_both(self, step: Step, chance: Random) -> None:
        self.machine.kill_engine()
        self._kill_receiver(step, chance)

    def _power_cut(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.cut_power()
        self._restart(step)

    def _stop_and_start(self, step: Step, chance: Random) -> None:
        del chance
        self.has_engine_fault = True
        self._excuses.append(step.kind)

        async def stop() -> None:
            await self.machine.stop()
            self.machine.start()
            self.note("started again")
            self._later(5.0, lambda: self._excuses.remove(step.kind))

        self._tasks.append(asyncio.get_running_loop().create_task(stop()))

    def _freeze_engine(self, step: Step, chance: Random) -> None:
        del chance
        role = self.machine.engine
        if role is not None:
            self.has_engine_fault = True
            role.life.freeze()
            self._excuse(step, role.life.thaw, 5.0)

    def _freeze_receiver(self, step: Step, chance: Random) -> None:
        del chance
        role = self.machine.receiver
        if role is not None:
            role.life.freeze()
            self._excuse(step, role.life.thaw, 5.0)

    def _suspend(self, step: Step, chance: Random) -> None:
        self.has_engine_fault = True
        self.machine.loop.jump(step.for_s * chance.choice((1, 10, 100)))

    # Disks.

    def _trouble(self, step: Step, trouble: Trouble) -> None:
        self.machine.disk.troubles.append(trouble)
        self._excuse(step, lambda: self.machine.disk.heal(trouble), 15.0)

    def _disk_full(self, step: Step, chance: Random) -> None:
        self.machine.disk.space_bytes = chance.choice((0, 100, 2000))

        def free() -> None:
            self.machine.disk.space_bytes = None

        self._excuse(step, free, 20.0)

    def _relay_sync_fails(self, step: Step, chance: Random) -> None:
        self._trouble(step, Trouble("/relay", frozenset({"sync"}), errno.EIO, count=chance.choice((1, 1, 3))))

    def _relay_write_fails(self, step: Step, chance: Random) -> None:
        number = chance.choice((errno.EIO, errno.ENOSPC))
        calls = frozenset({chance.choice(("write", "create", "names"))})
        self._trouble(step, Trouble("/relay", calls, number, count=chance.choice((1, 1, 3))))

    def _relay_hangs(self, step: Step, chance: Random) -> None:
        self._trouble(step, Trouble("/relay", frozenset({chance.choice(("sync", "write"))}), is_hanging=True))

    def _control_hangs(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.control.is_hanging = True

        def end() -> None:
            self.machine.control.is_hanging = False

        self._excuse(step, end, 10.0)

    def _control_is_full(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.control.is_full = True

        def end() -> None:
            self.machine.control.is_full = False

        self._excuse(step, end, 10.0)

    def _control_fails(self, step: Step, chance: Random) -> None:
        del chance
        self.has_engine_fault = True
        self.machine.control.fails = True

        def end() -> None:
            self.machine.control.fails = False
            self.machine.kill_engine()
            self.machine.start()

        self._excuse(step, end, 10.0)

    # The link and the server.

    def _cut_link(self, step: Step, chance: Random) -> None:
        del step
        for session in list(self.machine.postgres.sessions):
            session.cut_after = chance.randrange(12)

    def _silence_link(self, step: Step, chance: Random) -> None:
        del chance
        for session in self.machine.postgres.sessions:
            session.go_silent()
        self._excuse(step, lambda: None, 75.0)

    def _slow_link(self, step: Step, chance: Random) -> None:
        self.machine.postgres.wire.latency_s = chance.random()

        def end() -> None:
            self.machine.postgres.wire.latency_s = 0.0

        self._excuse(step, end, 5.0)

    def _refuse_connections(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.postgres.wire.is_refusing = True

        def end() -> None:
            self.machine.postgres.wire.is_refusing = False

        self._excuse(step, end, 15.0)

    def _restart_server(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.postgres.crash()
        self._begun.clear()
        self._excuse(step, self.machine.postgres.start, 15.0)

    def _snapshots_hang(self, step: Step, chance: Random) -> None:
        del chance
        self.machine.sql.trouble.is_hanging = True

        def end() -> None:
            self.machine.sql.trouble.is_hanging = False

        self._later(step.for_s, end)

    def _move_slot(self, step: Step, chance: Random) -> None:
        del chance
        self.is_stranger_about = True
        self.machine.postgres.move_slot()
        self._excuse(step, lambda: None, 10.0)

    def _drop_slot(self, step: Step, chance: Random) -> None:
        del chance
        self.is_stranger_about = True
        self.machine.postgres.drop_slot()
        self._excuse(step, lambda: None, 10.0)


@contextmanager
def _voids_told(tell: Callable[[int], None]) -> Iterator[None]:
    """
    Tell of every shape whose debts are struck out.
    """
    remove = FlushTracker.handle_shape_removed

    def told(tracker: FlushTracker, incarnation: int) -> None:
        tell(incarnation)
        remove(tracker, incarnation)

    # A method is put in the place of another for a while.
    FlushTracker.handle_shape_removed = told  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        FlushTracker.handle_shape_removed = remove  # type: ignore[method-assign]


def live(plan: Plan, folder: Path) -> Outcome:
    """
    Let a plan happen.

    Args:
        plan: what.
        folder: an empty one; only empty folders are made in it.
    """
    loop = SimulationLoop(Random(f"{plan.seed}/order"))
    postgres = VirtualPostgres(loop, TABLES, CONDITIONS)
    settings = make_settings(folder, acknowledge=plan.acknowledge, chunk_bytes_max=700, consumer_idle_s=2.0)
    machine = Machine(
        loop, settings, postgres, VirtualDisk(str(folder)), ControlFile(), limits={"segment_bytes_max": 3000}
    )
    with warnings.catch_warnings(), installed(machine), ExitStack() as stack:
        # What was about to begin when its process was killed never does.
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
        history = History(plan, machine)
        stack.enter_context(_voids_told(history.voided))

        async def story() -> None:
            try:
                await history.run()
            finally:
                await history.end()

        try:
            loop.run_until_complete(story())
        except StuckError as error:
            history.fail(str(error))
        finally:
            for failure in loop.failures:
                history.fail(failure)
            loop.close()
    return Outcome(history.violation, history.trace, loop.turns, len(history.shed), loop.time(), history.held_s_max)


def quiet_logs() -> None:
    """
    Drop what the roles log: a history has its trace.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def live_in_scratch(plan: Plan) -> Outcome:
    """
    Let a plan happen in a folder of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        return live(plan, Path(folder))


def live_seed(seed: int) -> Outcome:
    """
    Let the history of a seed happen.
    """
    return live_in_scratch(make_plan(seed))


def live_shortly(seed: int) -> tuple[int, str, int, float]:
    """
    Let the history of a seed happen; gives the seed, the violation, how many shapes were given up, and its length.
    """
    outcome = live_seed(seed)
    return seed, outcome.violation, outcome.shed_count, outcome.seconds


def live_many(seeds: range, workers: int) -> Iterator[tuple[int, str, int, float]]:
    """
    Let the histories of many seeds happen, in several processes; gives of each what `live_shortly` does.
    """
    with multiprocessing.get_context("spawn").Pool(workers, quiet_logs) as pool:
        yield from pool.imap_unordered(live_shortly, seeds, SEEDS_PER_CHUNK)


def shrink(plan: Plan, tries_max: int = 200) -> Plan:
    """
    Leave steps out of a plan as long as its history still breaks a promise.
    """
    size = len(plan.steps) // 2
    while size and tries_max > 0:
        at = 0
        while at < len(plan.steps) and tries_max > 0:
            smaller = replace(plan, steps=plan.steps[:at] + plan.steps[at + size :])
            tries_max -= 1
            if live_in_scratch(smaller).violation:
                plan = smaller
            else:
                at += size
        size = size // 2
    return plan


def tell_failure(plan: Plan) -> str:
    """
    Tell how a plan that breaks a promise can be seen to do so, with as few steps as were found to be needed.
    """
    smallest = shrink(plan)
    outcome = live_in_scratch(smallest)
    return "\n".join(
        [
            f"seed {plan.seed}: {outcome.violation}",
            f"see it again with: make sim SEED={plan.seed}",
            "The smallest history found that does so:",
            smallest.tell(),
            "What happened in it:",
            *outcome.trace,
        ]
    )
