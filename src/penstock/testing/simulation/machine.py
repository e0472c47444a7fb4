"""
A machine that runs the receiver and the engine, and may kill them, stop them, or lose its power.

Stands for the supervisor too: what ends is started again after a pause, and an engine that stands still is killed. The
roles are the real ones of `penstock.service`; only what is outside of them is virtual. Shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import msgspec

from penstock.consumers.handler import ShapeHandler
from penstock.consumers.projection import Projection
from penstock.consumers.registry import ConsumerRegistry
from penstock.liveness.board import Board
from penstock.postgres.snapshot import SnapshotBounds
from penstock.relay.limits import RelayLimits
from penstock.service.engine.engine import Engine
from penstock.service.receiver import Receiver
from penstock.service.settings import Settings
from penstock.shape_log.store import FileShapeLogStore
from penstock.testing.simulation import threads
from penstock.testing.simulation.control import ControlFile
from penstock.testing.simulation.disk import ShapeDisk, VirtualDisk
from penstock.testing.simulation.loop import Life, SimulationLoop, current_life
from penstock.testing.simulation.postgres import VirtualPostgres
from penstock.testing.simulation.queries import SqlTrouble, VirtualSql
from penstock.testing.simulation.waiting import Descriptor, VirtualWaiter

RESTART_S: Final = 0.5
"""Pause before a role is started again."""
LOOK_S: Final = 1.0
"""How often the supervisor looks at heartbeats, and the receiver's main thread at the others."""
MakeHandler = Callable[[Projection, SnapshotBounds], ShapeHandler]


class VirtualBoard:
    """
    Stands for `Board`; the dead write nothing on it.
    """

    descriptor = -1

    def __init__(self) -> None:
        """
        Begin empty.
        """
        self.cells: Final[dict[int, bytes]] = {}

    def write(self, cell: int, payload: bytes) -> None:
        """
        See `Board`.
        """
        life = current_life()
        if life is None or not life.is_over:
            self.cells[cell] = payload

    def read(self, cell: int) -> bytes | None:
        """
        See `Board`.
        """
        return self.cells.get(cell)


@dataclass
class _Faults:
    """
    Implements `EngineFaults`.
    """

    machine: Machine
    life: Life

    def make_store(self, data_folder: Path) -> FileShapeLogStore:
        """
        Make the real store on the virtual disk.
        """
        return FileShapeLogStore(data_folder, disk=ShapeDisk(self.machine.disk, self.life))

    def make_handler(self, projection: Projection, bounds: SnapshotBounds) -> ShapeHandler:
        """
        Make a handler, as the history says.
        """
        return self.machine.make_handler(projection, bounds)

    def attach(self, registry: ConsumerRegistry) -> None:
        """
        Nothing is wanted of it.
        """


@dataclass
class EngineRole:
    """
    A running engine.
    """

    life: Life
    engine: Engine
    stopping: asyncio.Event
    task: asyncio.Task[None]
    beat_at: float


@dataclass
class ReceiverRole:
    """
    A running receiver.
    """

    life: Life
    receiver: Receiver
    hint: threads.Event
    stopping: threads.Event
    main: threads.Thread


@dataclass
class Machine:
    """
    The machine.

    Attributes:
        loop: everything runs on it.
        settings: of the service.
        postgres: the database.
        disk: holds relay log and shape logs.
        control: the file of the control store.
        limits: changes to the limits of the relay log.
        make_handler: makes what converts the stream for a shape.
        black_box: records of shapes that were given up.
        on_exit: told when a role ended by itself: its name, and why.
    """

    loop: SimulationLoop
    settings: Settings
    postgres: VirtualPostgres
    disk: VirtualDisk
    control: ControlFile
    limits: Mapping[str, int] = field(default_factory=dict)
    make_handler: MakeHandler = ShapeHandler
    black_box: list[dict[str, Any]] = field(default_factory=list)
    on_exit: Callable[[str, str], None] = lambda _, __: None
    engine: EngineRole | None = None
    receiver: ReceiverRole | None = None
    was_ready: bool = False
    is_supervised: bool = True
    is_stopping: bool = False
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        """
        Make what the roles share.
        """
        self.board = VirtualBoard()
        self.loop.start_aside = lambda call: threads.Thread(target=call, name="executor").start()
        self.sql = VirtualSql(self.postgres, SqlTrouble())

    @property
    def chance(self) -> Random:
        """
        What everything is drawn from.
        """
        return self.loop.chance

    def relay_limits(self, limits: RelayLimits) -> RelayLimits:
        """
        Give the limits that the relay log takes.
        """
        values = {name: getattr(limits, name) for name in RelayLimits.__slots__}
        return RelayLimits(**{**values, **self.limits})

    # --- starting ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """
        Start whatever does not run; nothing while a stop is under way, because who leaves still holds the folder.
        """
        if self.is_stopping:
            return
        if self.engine is None:
            self.start_engine()
        if self.receiver is None:
            self.start_receiver()

    def start_engine(self) -> None:
        """
        Start the engine.
        """
        life = Life(self.loop, "engine")
        self.lives.append(life)
        role = life.context.run(self._make_engine, life)
        self.engine = role
        role.task.add_done_callback(lambda _: self._engine_ended(role))

    def _make_engine(self, life: Life) -> EngineRole:
        def beat() -> None:
            role.beat_at = self.loop.time()

        engine = Engine(
            self.settings,
            cast("Board", self.board),
            wake_receiver=self._wake_receiver,
            beat=beat,
            faults=_Faults(self, life),
        )
        stopping = asyncio.Event()
        task = life.create_task(engine.run(stopping), "engine")
        role = EngineRole(life, engine, stopping, task, self.loop.time())
        return role

    def start_receiver(self) -> None:
        """
        Start the receiver.
        """
        life = Life(self.loop, "receiver")
        self.lives.append(life)
        life.context.run(self._make_receiver, life)

    def _make_receiver(self, life: Life) -> None:
        pipe = Descriptor()
        number = max(VirtualWaiter.descriptors, default=100) + 1
        VirtualWaiter.descriptors[number] = pipe
        receiver = Receiver(
            self.settings,
            cast("Board", self.board),
            wake_fd=number,
            wake_self=pipe.changed,
            wake_engine=self._wake_engine,
            was_ready=self.was_ready,
        )
        hint, stopping = threads.Event(), threads.Event()

        def main() -> None:
            reason = ""
            try:
                receiver.start()
                while not stopping.is_set() and not receiver.wait_ended(0):
                    hint.clear()
                    self.was_ready = self.was_ready or receiver.has_streamed
                    receiver.look()
                    receiver.report()
                    hint.wait(LOOK_S)
                receiver.stop()
                reason = "" if receiver.failure is None else receiver.failure.message
            except Exception as error:  # noqa: BLE001 - its process ends of it
                reason = repr(error)
            self.loop.call_soon(self._receiver_ended, role, reason, context=life.context)

        role = ReceiverRole(life, receiver, hint, stopping, threads.Thread(target=main, name="receiver"))
        self.receiver = role
        role.main.start()

    def _wake_engine(self) -> None:
        role = self.engine
        if role is not None and not role.life.is_over:
            self.loop.call_soon(role.engine.wake, context=role.life.context)

    def _wake_receiver(self) -> None:
        role = self.receiver
        if role is not None and not role.life.is_over:
            role.hint.set()

    # --- ending ------------------------------------------------------------------------------------------------------

    def kill_engine(self) -> None:
        """
        Kill the engine.
        """
        role, self.engine = self.engine, None
        if role is not None:
            role.life.kill()

    def kill_receiver(self) -> None:
        """
        Kill the receiver.
        """
        role, self.receiver = self.receiver, None
        if role is not None:
            role.life.kill()

    def cut_power(self) -> None:
        """
        Lose the power: all processes, and what was not synced.
        """
        self.kill_engine()
        self.kill_receiver()
        for life in self.lives:
            life.kill()
        self.disk.power_cut(self.chance)
        self.control.power_cut()
        self.board = VirtualBoard()

    async def stop(self) -> None:
        """
        Stop both roles as a person does.
        """
        if self.is_stopping:
            return
        self.is_stopping = True
        try:
            await self._stop()
        finally:
            self.is_stopping = False

    async def _stop(self) -> None:
        engine, receiver = self.engine, self.receiver
        self.engine = self.receiver = None
        if engine is not None:
            engine.stopping.set()
            await asyncio.wait([engine.task], timeout=self.settings.drain_timeout_s)
            engine.life.kill()
        if receiver is not None:
            receiver.stopping.set()
            receiver.hint.set()
            until = self.loop.time() + self.settings.drain_timeout_s
            while receiver.main.is_alive() and self.loop.time() < until:  # noqa: ASYNC110 - a thread's end sets no event
                await asyncio.sleep(0.05)
            receiver.life.kill()
        # The supervisor has ended with them.
        self.board = VirtualBoard()

    async def supervise(self) -> None:
        """
        Kill an engine that stands still, until cancelled.
        """
        while True:
            before = self.loop.time()
            await asyncio.sleep(LOOK_S)
            now = self.loop.time()
            role = self.engine
            if role is None:
                continue
            if now - before > 3 * LOOK_S:
                # Everybody stood still, the supervisor too.
                role.beat_at = now
            elif now - role.beat_at > self.settings.engine_hang_s:
                self.on_exit("engine", "stood still")
                self.kill_engine()
                self.start_engine_later()

    def start_engine_later(self) -> None:
        """
        Start the engine again after a pause.
        """
        self.loop.call_later(RESTART_S, self._start_again)

    def _start_again(self) -> None:
        if self.is_supervised:
            self.start()

    def _engine_ended(self, role: EngineRole) -> None:
        if self.engine is not role:
            return
        self.engine = None
        error = None if role.task.cancelled() else role.task.exception()
        role.life.kill()
        self.on_exit("engine", repr(error))
        self.loop.call_later(RESTART_S, self._start_again)

    def _receiver_ended(self, role: ReceiverRole, reason: str) -> None:
        if self.receiver is not role:
            return
        self.receiver = None
        role.life.kill()
        self.on_exit("receiver", reason)
        self.loop.call_later(RESTART_S, self._start_again)


def make_settings(folder: Path, **changes: Any) -> Settings:
    """
    Give settings for a machine; the folder exists, and stays empty.
    """
    settings = Settings(database_url="postgresql://sim@sim.invalid/sim", data_dir=folder)
    return msgspec.structs.replace(settings, **changes)
