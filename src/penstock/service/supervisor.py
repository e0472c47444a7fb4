"""
Starts the roles, watches them, kills and restarts them, and ends them in order. A shell that holds no data.

Theory of operation
    One thread, one loop: wait for a signal or the next look (four a second), then reap what ended, judge who is silent,
    start what is due, say on the board how all are. Nothing in it waits for a child, a disk or a log.

    A child that ends is started again after a pause, as long as its budget of restarts lasts. A child whose heartbeat
    stands still is made to leave its stacks in a file and then killed. If the supervisor itself was kept from looking
    (suspend, starvation), the others get that time back before they are judged (`penstock.liveness.heartbeat`).

    A child that says that only a person can help (`EXIT_CONFIG`) ends the service, unless its role was ready before in
    this run: then the world has changed under us, and may change back.

    The end: web first, so that clients are sent away while everything still stands; then the engine, which settles and
    records; then the receiver, which confirms what that allows. Each phase has its share of `drain_timeout_s`; who is
    late is killed, and the next start replays. A second request to end kills all at once.

Exit statuses of the service
    0 ended in order; 1 ended in haste; 2 could not start (settings, folder, port); 70 a part cannot live (its budget of
    restarts is used up); 78 only a person can help (what, is said on standard error);
    79 another instance has taken over.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from penstock.errors import OwnershipLostError
from penstock.liveness.board import Cell
from penstock.liveness.heartbeat import HeartbeatWatch
from penstock.service import settings as settings_module
from penstock.service.foundation import Foundation, StandbyEndedError
from penstock.service.lifecycle import (
    EXIT_CONFIG,
    EXIT_YIELDED,
    ROLE_MODULES,
    STOP_BYTE,
    ChildState,
    Launch,
    Role,
    RoleContext,
    SupervisorState,
    find_verdict,
    heartbeat_cell,
    interpreter_command,
    read_heartbeat,
)
from penstock.service.restarts import RestartBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from penstock.service.settings import Settings

EXIT_IN_ORDER: Final = 0
EXIT_IN_HASTE: Final = 1
EXIT_CANNOT_START: Final = 2
EXIT_CANNOT_LIVE: Final = 70

_LOOK_INTERVAL_S: Final = 0.25
_STACKS_S: Final = 0.5
"""How long a hung process gets to leave its stacks before it is killed."""
_NEXT_LIFE_SHARE: Final = 0.75
"""Of the time it may be silent, for a part that was killed because it stood still, in its next life."""
_REPORT_BYTES_MAX: Final = 4096
_DRAIN_PHASES: Final = ((Role.WEB, 0.5), (Role.ENGINE, 0.85), (Role.RECEIVER, 1.0))
"""Who ends when, and by which share of the whole time."""

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How the service ended.

    Attributes:
        status: the exit status.
        sentence: why, if it did not end in order because it was asked to.
    """

    status: int
    sentence: str = ""


@dataclass(slots=True)
class _Child:
    """
    A part that there should be, whether it lives or waits for its restart.
    """

    role: Role
    index: int
    budget: RestartBudget
    process: subprocess.Popen[bytes] | None = None
    life: int = -1
    report: int = -1
    watch: HeartbeatWatch | None = None
    started_at_s: float = 0.0
    start_due_s: float = 0.0
    kill_due_s: float | None = None
    restart_count: int = 0
    was_ready: bool = False
    was_hung: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"web worker {self.index}" if self.role is Role.WEB else self.role.value


class Supervisor:
    """
    One run of the service.
    """

    def __init__(
        self, foundation: Foundation, *, command_of: Callable[[Role], list[str]] = interpreter_command
    ) -> None:
        """
        Prepare; nothing is started yet.

        Args:
            foundation: what stands already.
            command_of: the command that executes a role.
        """
        self._foundation: Final = foundation
        self._settings: Final[Settings] = foundation.settings
        self._command_of: Final = command_of
        self._started_at_s: Final = time.monotonic()
        parts = [(Role.RECEIVER, 0), (Role.ENGINE, 0), *((Role.WEB, n) for n in range(self._settings.web_workers))]
        self._children: Final = [
            _Child(role, index, RestartBudget(per_hour_max=self._settings.restarts_per_hour_max))
            for role, index in parts
        ]
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._stop_requests = 0
        self._outcome: Outcome | None = None
        self._drain_began_s = 0.0
        self._drain_phase = -1
        self._was_late = False

    def request_stop(self) -> None:
        """
        Ask the service to end in order, and the second time at once. From any thread.
        """
        self._stop_requests += 1
        self._wake()

    def run(self) -> Outcome:
        """
        Run until asked to end, or until it cannot go on.
        """
        try:
            with self._signals():
                while not self._is_over():
                    self._step(time.monotonic())
                    if not self._is_over():
                        select.select([self._wake_reader], [], [], self._pause_s(time.monotonic()))
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._wake_reader, 4096)
        finally:
            for child in self._children:
                self._kill(child)
                self._forget(child)
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        assert self._outcome is not None
        return self._outcome

    def _step(self, now: float) -> None:
        for child in self._children:
            self._reap(child, now)
        if self._stop_requests and self._outcome is None:
            self._end(Outcome(EXIT_IN_ORDER), now)
        if self._outcome is not None:
            self._drain(now)
        else:
            for child in self._children:
                self._judge(child, now)
                if child.process is None and now >= child.start_due_s:
                    self._start(child, now)
        self._tell(now)

    def _is_over(self) -> bool:
        if self._outcome is None:
            return False
        # A process in a disk wait outlives its kill; nobody waits for it any longer then.
        spent_s = time.monotonic() - self._drain_began_s
        return spent_s > self._settings.drain_timeout_s or all(child.process is None for child in self._children)

    def _pause_s(self, now: float) -> float:
        """
        How long until something is due.
        """
        due = [child.start_due_s for child in self._children if child.process is None and self._outcome is None]
        due += [child.kill_due_s for child in self._children if child.kill_due_s is not None]
        return max(0.0, min([_LOOK_INTERVAL_S, *(moment - now for moment in due)]))

    def _start(self, child: _Child, now: float) -> None:
        """
        Execute a child afresh and tell it what it must know.
        """
        foundation = self._foundation
        life_reader, life_writer = os.pipe()
        report_reader, report_writer = os.pipe()
        listeners = [listener.fileno() for listener in foundation.listeners] if child.role is Role.WEB else []
        launch = Launch(
            role=child.role,
            index=child.index,
            settings=msgspec.Raw(settings_module.encode(self._settings)),
            board=foundation.board.descriptor,
            engine_wake=(foundation.engine_wake.reader, foundation.engine_wake.writer),
            receiver_wake=(foundation.receiver_wake.reader, foundation.receiver_wake.writer),
            report=report_writer,
            listeners=tuple(listeners),
            engine_socket=str(foundation.engine_socket),
            was_ready=child.was_ready,
        )
        inherited = [launch.board, *launch.engine_wake, *launch.receiver_wake, report_writer, *listeners]
        if child.role is not Role.WEB:
            # Those who write in the data folder hold it.
            inherited.append(foundation.lock.descriptor)
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own interpreter
                self._command_of(child.role), stdin=life_reader, pass_fds=inherited, start_new_session=True
            )
        except OSError as error:
            # Out of processes or memory: as if it had ended at once.
            log.error("a process could not be started", part=child.name, error=str(error))  # noqa: TRY400
            os.close(life_writer)
            os.close(report_reader)
            self._plan_restart(child, 0.0, now, "could not be started")
            return
        finally:
            os.close(life_reader)
            os.close(report_writer)
        child.life, child.report = life_writer, report_reader
        os.set_blocking(report_reader, False)
        # It fits into the pipe: nobody has to read it for us to go on.
        os.set_blocking(life_writer, False)
        with contextlib.suppress(BrokenPipeError):
            os.write(life_writer, msgspec.json.encode(launch) + b"\n")
        child.started_at_s = now
        child.kill_due_s = None
        child.watch = HeartbeatWatch(
            limit_s=hang_limit_s(self._settings, child.role, was_hung=child.was_hung),
            start_limit_s=self._settings.start_hang_s,
            period_s=_LOOK_INTERVAL_S,
            now=now,
        )
        child.was_hung = False
        log.info("started", part=child.name, child_pid=child.process.pid)

    def _reap(self, child: _Child, now: float) -> None:
        """
        See whether a child has ended, and conclude.
        """
        process = child.process
        if process is None or process.poll() is None:
            return
        sentence = _read_report(child.report)
        self._forget(child)
        lived_s = now - child.started_at_s
        how = _describe_end(process.returncode)
        if self._outcome is not None:
            log.info("ended", part=child.name, how=how)
            return
        log.warning("ended", part=child.name, how=how, lived_s=round(lived_s, 3), why=sentence)
        if process.returncode == EXIT_YIELDED:
            self._end(Outcome(EXIT_YIELDED, sentence), now)
            return
        if process.returncode == EXIT_CONFIG and not child.was_ready:
            self._end(Outcome(EXIT_CONFIG, sentence or f"the {child.name} needs a person's help, see the log"), now)
            return
        self._plan_restart(child, lived_s, now, how)

    def _plan_restart(self, child: _Child, lived_s: float, now: float, how: str) -> None:
        delay_s = child.budget.record_end(lived_s=lived_s, now=now)
        if delay_s is None:
            count = self._settings.restarts_per_hour_max
            sentence = f"the {child.name} ended more than {count} times within an hour (last: {how}); giving up"
            self._end(Outcome(EXIT_CANNOT_LIVE, sentence), now)
            return
        child.restart_count += 1
        child.start_due_s = now + delay_s

    def _judge(self, child: _Child, now: float) -> None:
        """
        See whether a child stands still, and kill it in two steps.
        """
        if child.process is None or child.watch is None:
            return
        if child.kill_due_s is not None:
            if now >= child.kill_due_s:
                self._kill(child)
                child.kill_due_s = None
                child.watch = None
            return
        beat = read_heartbeat(self._foundation.board, heartbeat_cell(child.role, child.index))
        silence = child.watch.look(beat, child.process.pid, now)
        child.was_ready = child.was_ready or child.watch.is_ready
        if silence.is_past_limit:
            log.error(
                "stands still, killing it; its stacks are in the folder stacks",
                part=child.name,
                child_pid=child.process.pid,
                silent_s=round(silence.silent_s, 3),
            )
            child.process.send_signal(signal.SIGUSR2)
            child.kill_due_s = now + _STACKS_S
            child.was_hung = True

    def _kill(self, child: _Child) -> None:
        if child.process is not None:
            child.process.kill()

    def _forget(self, child: _Child) -> None:
        """
        Let go of what belonged to a process that has ended, or was killed and ends.
        """
        if child.process is not None and child.process.poll() is None:
            # Killed; a process in a disk wait may take its time, and nobody shall wait for it for ever.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(1.0)
        for descriptor in (child.life, child.report):
            if descriptor >= 0:
                os.close(descriptor)
        child.life = child.report = -1
        child.process = None
        child.watch = None
        child.kill_due_s = None

    def _end(self, outcome: Outcome, now: float) -> None:
        """
        Begin to end.
        """
        if self._outcome is None:
            log.info("ending", status=outcome.status, why=outcome.sentence)
            self._outcome = outcome
            self._drain_began_s = now
            self._foundation.stop_listening()

    def _drain(self, now: float) -> None:
        """
        Ask one role after another to end, and kill who is late.
        """
        if self._stop_requests > 1:
            for child in self._children:
                self._kill(child)
            if not self._was_late:
                log.warning("asked again, ending at once")
            self._note_late()
            return
        spent = (now - self._drain_began_s) / self._settings.drain_timeout_s
        while self._drain_phase < len(_DRAIN_PHASES):
            if self._drain_phase >= 0:
                role, share = _DRAIN_PHASES[self._drain_phase]
                living = [child for child in self._children if child.role is role and child.process is not None]
                if living and spent < share:
                    return
                for child in living:
                    log.warning("did not end in time, killed", part=child.name)
                    self._kill(child)
                    self._note_late()
            self._drain_phase += 1
            if self._drain_phase == len(_DRAIN_PHASES):
                return
            for child in self._children:
                if child.role is _DRAIN_PHASES[self._drain_phase][0] and child.life >= 0:
                    with contextlib.suppress(BrokenPipeError, BlockingIOError):
                        os.write(child.life, STOP_BYTE)

    def _note_late(self) -> None:
        """
        An end that was in order so far no longer is.
        """
        self._was_late = True
        if self._outcome is not None and self._outcome.status == EXIT_IN_ORDER:
            self._outcome = Outcome(EXIT_IN_HASTE, "not all parts ended in time; the next start will replay")

    def _tell(self, now: float) -> None:
        """
        Say on the board how all are.
        """
        children = tuple(
            ChildState(c.role, c.index, c.process.pid if c.process else 0, c.started_at_s, c.restart_count)
            for c in self._children
        )
        state = SupervisorState(os.getpid(), self._started_at_s, now, children)
        self._foundation.board.write(Cell.SUPERVISOR, msgspec.msgpack.encode(state))

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_writer, b"\0")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """
        Listen to signals while running, if this is the main thread: a child's end, and requests to end.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_stop(_number: int, _frame: FrameType | None) -> None:
            self.request_stop()

        def on_child(_number: int, _frame: FrameType | None) -> None:
            self._wake()

        before = {number: signal.signal(number, on_stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, on_child)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def hang_limit_s(settings: Settings, role: Role, *, was_hung: bool) -> float:
    """
    Tell how long a part may be silent.

    Args:
        settings: of the service.
        role: which part.
        was_hung: whether its life before was ended because it stood still. Then it gets less time: what stands still at
            the same place again is to be convicted within what two strikes may take in all (docs/operations/stalls.md).
    """
    share = _NEXT_LIFE_SHARE if was_hung else 1.0
    match role:
        case Role.ENGINE | Role.SINGLE:
            return share * settings.engine_hang_s
        case Role.RECEIVER:
            return share * settings.receiver_hang_s
        case Role.WEB:
            return share * settings.web_hang_s


def serve(settings: Settings) -> Outcome:
    """
    Run the service until it ends, in one process or several, as the settings say.

    Raises:
        ConfigError: it cannot start.
    """
    try:
        foundation = Foundation(settings)
    except StandbyEndedError:
        return Outcome(EXIT_IN_ORDER)
    with foundation:
        log.info(
            "serving",
            database=settings_module.describe_database(settings.database_url),
            port=foundation.settings.port,
            folder=str(foundation.settings.data_dir),
            acknowledge=settings.acknowledge,
        )
        return run_single(foundation) if settings.single_process else Supervisor(foundation).run()


def run_single(foundation: Foundation) -> Outcome:
    """
    Run all roles in this process until asked to end.

    Nobody can kill a loop that stands still here; only an end that takes too long is cut short.
    """
    context = RoleContext(
        role=Role.SINGLE,
        index=0,
        settings=foundation.settings,
        board=foundation.board,
        engine_wake=foundation.engine_wake,
        receiver_wake=foundation.receiver_wake,
        listeners=foundation.listeners,
        engine_socket=foundation.engine_socket,
        was_ready=False,
    )

    def end_late() -> None:
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_IN_HASTE)

    deadline = threading.Timer(foundation.settings.drain_timeout_s, end_late)
    deadline.daemon = True

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        if context.stopping.is_set():
            os._exit(EXIT_IN_HASTE)
        deadline.start()
        context.stopping.set()

    before = {number: signal.signal(number, on_stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        importlib.import_module(ROLE_MODULES[Role.SINGLE]).run(context)
    except Exception as error:
        verdict = find_verdict(error)
        if verdict is None:
            raise
        return Outcome(EXIT_YIELDED if isinstance(verdict, OwnershipLostError) else EXIT_CONFIG, verdict.message)
    finally:
        deadline.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(EXIT_IN_ORDER)


def _read_report(descriptor: int) -> str:
    """
    Read what a child said before it ended; empty when it said nothing.
    """
    try:
        return os.read(descriptor, _REPORT_BYTES_MAX).decode("utf-8", "replace")
    except BlockingIOError:
        return ""


def _describe_end(status: int) -> str:
    """
    Put the way a process ended into words.
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
