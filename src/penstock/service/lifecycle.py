"""
What a role is given to live with, and how it is asked to end. A shell.

A role is a function `run(context)` in a module of its own, which returns when it has ended in order. It is executed
afresh in its own process (or all roles together in one, with `--single-process`); the context is the same.

How a child is connected with its supervisor
    Standard input is the *life pipe*. The first line on it is the `Launch` message with everything the child must know,
    secrets included. Then it is silent. One byte on it asks the child to end in order; end-of-file means that the
    supervisor is gone, which asks the same and sets a deadline. Signals are not used for this, and SIGTERM, SIGINT and
    SIGHUP are ignored by roles: who stops a service sends them to every process at once, but roles must end one after
    the other, and the supervisor knows in which order.

    The *report pipe* takes the one sentence with which a role gives up.

How a role ends
    It returns: 0. A fault that only a person can mend (policy STOP): the sentence goes to the report pipe, and the exit
    status is `EXIT_CONFIG`. Anything else: 1, and it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec
import structlog

from penstock.errors import OwnershipLostError, PenstockError, Policy
from penstock.liveness.board import Board, Cell
from penstock.liveness.heartbeat import Heartbeat
from penstock.service import settings as settings_module
from penstock.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.service.faults import EngineFaults
    from penstock.service.settings import Settings

EXIT_CONFIG: Final = 78
"""A fault that only a person can mend (EX_CONFIG of sysexits.h)."""
EXIT_YIELDED: Final = 79
"""Another instance has taken over: the whole service is to end."""
EXIT_ORPHANED: Final = 75
"""The supervisor went away and the role did not end in time."""

GC_THRESHOLDS: Final = (10_000, 20, 50)
"""
When the collector of cyclic garbage looks. What a piece of the stream makes is nearly all freed at its end and holds no
cycles, but passes 700 new containers, after which Python looks by itself, dozens of times a piece.
"""
STOP_BYTE: Final = b"T"
_BEAT_INTERVAL_S: Final = 0.05
_REPORT_BYTES_MAX: Final = 4096
_STACKS_BYTES_MAX: Final = 1024 * 1024
_SUPERVISOR_SILENCE_S: Final = 10.0
_LOADED_AT_S: Final = time.monotonic()

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


class Role(Enum):
    """
    What a process is there for.
    """

    RECEIVER = "receiver"
    ENGINE = "engine"
    WEB = "web"
    SINGLE = "single"
    """All of them in one process."""


ROLE_MODULES: Final = {
    Role.RECEIVER: "penstock.service.receiver",
    Role.ENGINE: "penstock.service.engine.role",
    Role.WEB: "penstock.service.web",
    Role.SINGLE: "penstock.service.single",
}
"""Where the function `run(context)` of each role is."""


def heartbeat_cell(role: Role, index: int = 0) -> int:
    """
    Give the cell in which a role says that it lives.
    """
    match role:
        case Role.RECEIVER:
            return Cell.RECEIVER_HEARTBEAT
        case Role.ENGINE | Role.SINGLE:
            return Cell.ENGINE_HEARTBEAT
        case Role.WEB:
            return Cell.web(index)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a child is told at its start. Descriptors are numbers that it inherits.
    """

    role: Role
    index: int
    settings: msgspec.Raw
    board: int
    engine_wake: tuple[int, int]
    receiver_wake: tuple[int, int]
    report: int
    listeners: tuple[int, ...]
    engine_socket: str
    was_ready: bool


class ChildState(msgspec.Struct, frozen=True, array_like=True):
    """
    A child as its supervisor sees it.

    Attributes:
        role, index: what it is.
        pid: its process, 0 while it waits for its restart.
        started_at_s: when that was started, by the machine's monotonic clock.
        restart_count: how often it was started again.
    """

    role: Role
    index: int
    pid: int
    started_at_s: float
    restart_count: int


class SupervisorState(msgspec.Struct, frozen=True, array_like=True):
    """
    What the supervisor says in its cell.

    Attributes:
        pid: the supervisor.
        started_at_s: when it began, by the machine's monotonic clock.
        at_s: when it said this.
        children: all that there should be.
    """

    pid: int
    started_at_s: float
    at_s: float
    children: tuple[ChildState, ...]


class WakePipe:
    """
    A hint from one process to another that there is something new: single bytes that never block their writer.

    Attributes:
        reader, writer: the descriptors, both non-blocking.
    """

    def __init__(self, reader: int, writer: int) -> None:
        """
        Take descriptors over.
        """
        self.reader: Final = reader
        self.writer: Final = writer
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

    @classmethod
    def create(cls) -> Self:
        """
        Make a new pipe.
        """
        return cls(*os.pipe())

    def ring(self) -> None:
        """
        Wake the reader. A full pipe has woken it already.
        """
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self.writer, b"\0")

    def clear(self) -> None:
        """
        Take all hints out; do so before looking at what they may be about.
        """
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.reader, 4096)) == 4096:
                pass

    def close(self) -> None:
        """
        Close both ends.
        """
        os.close(self.reader)
        os.close(self.writer)


class Stopping:
    """
    The wish that a role end: for threads, for selectors and for event loops. It comes once and stays.

    Attributes:
        descriptor: becomes readable when the wish comes, and stays so; never to be read.
    """

    def __init__(self) -> None:
        """
        Nobody wishes it yet.
        """
        self._event: Final = threading.Event()
        self._lock: Final = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.descriptor, self._writer = os.pipe()

    def set(self) -> None:
        """
        Wish it. From any thread or signal handler's successor; safe to call again.
        """
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            os.write(self._writer, b"\0")
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            # A loop that has closed meanwhile needs no waking.
            with contextlib.suppress(RuntimeError):
                callback()

    def is_set(self) -> bool:
        """
        Tell whether it is wished.
        """
        return self._event.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """
        Wait in a thread; False when the time passed first.
        """
        return self._event.wait(timeout_s)

    async def stopped(self) -> None:
        """
        Wait in an event loop.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))

        with self._lock:
            is_set = self._event.is_set()
            if not is_set:
                self._callbacks.append(wake)
        if not is_set:
            try:
                await future
            finally:
                with self._lock, contextlib.suppress(ValueError):
                    self._callbacks.remove(wake)


class RoleContext:
    """
    Everything a role gets from outside.

    Attributes:
        role, index: what this process is; the index counts web workers.
        settings: all settings.
        board: the board; a role writes its own cells only.
        engine_wake: rung by the receiver, read by the engine.
        receiver_wake: rung by the engine, read by the receiver.
        listeners: TCP sockets that listen already, for web.
        engine_socket: path of the Unix socket on which the engine serves web.
        stopping: the wish to end.
        was_ready: whether this role was ready before in this run of the service: a fault in the configuration is then
            no reason to end, but to try again and say so.
        faults: what is made to fail on purpose; None but in tests.
    """

    def __init__(
        self,
        *,
        role: Role,
        index: int,
        settings: Settings,
        board: Board,
        engine_wake: WakePipe,
        receiver_wake: WakePipe,
        listeners: Sequence[socket.socket],
        engine_socket: Path,
        was_ready: bool,
        report: int = -1,
    ) -> None:
        """
        Collect it; nothing happens yet.
        """
        self.role: Final = role
        self.index: Final = index
        self.settings: Final = settings
        self.board: Final = board
        self.engine_wake: Final = engine_wake
        self.receiver_wake: Final = receiver_wake
        self.listeners: Final = tuple(listeners)
        self.engine_socket: Final = engine_socket
        self.was_ready: Final = was_ready
        self.stopping: Final = Stopping()
        self.faults: EngineFaults | None = None
        self._report: Final = report
        self._pid: Final = os.getpid()
        self._cell: Final = heartbeat_cell(role, index)
        self._beat = Heartbeat(self._pid, 0, 0.0)

    @classmethod
    def receive(cls) -> Self:
        """
        Read the launch message from the life pipe, and watch that pipe from now on. Called once, first of all.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        life = os.dup(0)
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, 0)
        os.close(devnull)
        line = bytearray()
        while not line.endswith(b"\n"):
            data = os.read(life, 1)
            if not data:
                raise SystemExit(EXIT_ORPHANED)
            line += data
        launch = msgspec.json.decode(line, type=Launch)
        context = cls(
            role=launch.role,
            index=launch.index,
            settings=settings_module.decode(bytes(launch.settings)),
            board=Board(launch.board),
            engine_wake=WakePipe(*launch.engine_wake),
            receiver_wake=WakePipe(*launch.receiver_wake),
            listeners=[socket.socket(fileno=number) for number in launch.listeners],
            engine_socket=Path(launch.engine_socket),
            was_ready=launch.was_ready,
            report=launch.report,
        )
        threading.Thread(target=context._watch_life, args=(life,), name="life", daemon=True).start()
        return context

    def heartbeat(self, *, is_ready: bool | None = None, state: str | None = None) -> None:
        """
        Say that this role's main work goes on; call it from there, often. Cheap and never blocks.

        Args:
            is_ready: whether the role does what it is there for; as before when not given.
            state: what it is doing, for operators; as before when not given.
        """
        now = time.monotonic()
        before = self._beat
        ready = before.is_ready if is_ready is None else is_ready
        said = before.state if state is None else state
        if now - before.at_s < _BEAT_INTERVAL_S and ready == before.is_ready and said == before.state:
            return
        self._beat = Heartbeat(self._pid, before.count + 1, now, ready, said[:200])
        self.board.write(self._cell, msgspec.msgpack.encode(self._beat))

    def report(self, sentence: str) -> None:
        """
        Tell the supervisor why this role gives up.
        """
        if self._report >= 0:
            os.write(self._report, sentence.encode()[:_REPORT_BYTES_MAX])

    def _watch_life(self, life: int) -> None:
        """
        Wait for the supervisor's word or its end.
        """
        if os.read(life, 1) == STOP_BYTE:
            self.stopping.set()
            # Ordered to end; yet the supervisor may die on the way.
            if os.read(life, 1):
                return
        log.warning("the supervisor is gone, ending")
        self.stopping.set()
        time.sleep(self.settings.drain_timeout_s)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_ORPHANED)


def run_role(
    context: RoleContext | None = None, *, find_faults: Callable[[Settings], EngineFaults | None] | None = None
) -> int:
    """
    Be a child of the supervisor: read the launch message, run the role, give the exit status.

    Args:
        context: the launch message, where it is known already.
        find_faults: finds what shall fail on purpose; asked only where the settings allow such tests.
    """
    context = RoleContext.receive() if context is None else context
    if find_faults is not None and context.settings.enable_fault_injection:
        context.faults = find_faults(context.settings)
    name = context.role.value + (f"-{context.index}" if context.role is Role.WEB else "")
    queue = logs.configure(level=context.settings.log_level, process=name, colors=context.settings.log_colors)
    _prepare_stacks(context.settings.data_dir / "stacks" / f"{name}.txt")
    context.heartbeat(state="starting")
    try:
        importlib.import_module(ROLE_MODULES[context.role]).run(context)
    except Exception as error:
        verdict = find_verdict(error)
        log.exception("giving up" if verdict is not None else "ended by a fault")
        if verdict is None:
            return 1
        context.report(verdict.message)
        return EXIT_YIELDED if isinstance(verdict, OwnershipLostError) else EXIT_CONFIG
    finally:
        queue.flush()
    return 0


def collect_garbage_less() -> None:
    """
    Let the collector of cyclic garbage look more seldom in this process, and never again at what is there now.

    For processes whose work makes many objects for a moment and no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def find_verdict(error: BaseException) -> PenstockError | None:
    """
    Find in an error, or in a group of errors, the one that only a person can mend.
    """
    if isinstance(error, PenstockError):
        return error if error.policy is Policy.STOP else None
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := find_verdict(part)) is not None), None)
    return None


def _prepare_stacks(path: Path) -> None:
    """
    Let a hung or crashing process leave the stacks of its threads in a file.

    The handler writes them itself, also while the interpreter is stuck in foreign code. Stacks name files, lines and
    functions, never values.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    is_long = path.exists() and path.stat().st_size > _STACKS_BYTES_MAX
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_long else 0), 0o600)
    faulthandler.enable(descriptor)
    faulthandler.register(signal.SIGUSR2, file=descriptor, all_threads=True)


def read_heartbeat(board: Board, cell: int) -> Heartbeat | None:
    """
    Read a heartbeat from the board.
    """
    data = board.read(cell)
    return None if data is None else msgspec.msgpack.decode(data, type=Heartbeat)


def read_supervisor(board: Board) -> SupervisorState | None:
    """
    Read what the supervisor says; None when there is none.
    """
    data = board.read(Cell.SUPERVISOR)
    return None if data is None else msgspec.msgpack.decode(data, type=SupervisorState)


def is_supervisor_silent(board: Board, now: float) -> bool:
    """
    Tell whether there is a supervisor and it has said nothing for a while: then readiness should fail.
    """
    state = read_supervisor(board)
    return state is not None and now - state.at_s > _SUPERVISOR_SILENCE_S


def describe_processes(board: Board, now: float) -> list[dict[str, object]]:
    """
    List the processes of the service for operators.

    Args:
        board: the board.
        now: the machine's monotonic clock.
    """
    state = read_supervisor(board)
    if state is None:
        beat = read_heartbeat(board, Cell.ENGINE_HEARTBEAT)
        state_text = beat.state if beat is not None else ""
        uptime_s = round(now - _LOADED_AT_S, 3)
        return [{"role": Role.SINGLE.value, "pid": os.getpid(), "uptime_s": uptime_s, "state": state_text}]
    listed: list[dict[str, object]] = [
        {
            "role": "supervisor",
            "pid": state.pid,
            "uptime_s": round(now - state.started_at_s, 3),
            "silent_s": round(max(0.0, now - state.at_s), 3),
        }
    ]
    for child in state.children:
        beat = read_heartbeat(board, heartbeat_cell(child.role, child.index))
        beats = beat is not None and beat.pid == child.pid
        listed.append(
            {
                "role": child.role.value,
                "index": child.index,
                "pid": child.pid,
                "uptime_s": round(now - child.started_at_s, 3) if child.pid else 0.0,
                "restarts": child.restart_count,
                "silent_s": round(max(0.0, now - beat.at_s), 3) if beat is not None and beats else None,
                "is_ready": beat.is_ready if beat is not None and beats else False,
                "state": beat.state if beat is not None and beats else "",
            }
        )
    return listed


def interpreter_command(role: Role) -> list[str]:
    """
    Give the command that executes a role afresh, with this interpreter and without the current folder on its path.
    """
    return [sys.executable, "-P", "-m", "penstock", "role", role.value]
