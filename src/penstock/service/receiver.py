"""
The receiver role: from the replication connection to the relay log, and the confirmed position back.

Joins the connection thread (`replication`) with the disk thread (`relay`) and shows both on the board. Small on purpose:
it is the part that must never stop. Shell.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from psycopg.conninfo import make_conninfo

from penstock.errors import PenstockError
from penstock.liveness.board import Board
from penstock.postgres.lsn import ZERO_END
from penstock.relay.epochs import Acknowledge, RecordedBoundary
from penstock.relay.limits import RelayLimits
from penstock.relay.writer import RelayWriter
from penstock.replication.connection import ReplicationClient, ReplicationSettings
from penstock.replication.state import ReceiverPhase, ReceiverState
from penstock.service.cells import BoardPublisher, ReceiverReport, RecordedBoundaryCell, clip, receiver_cell
from penstock.service.disk_watch import is_too_full_to_read
from penstock.service.lifecycle import RoleContext, WakePipe, collect_garbage_less
from penstock.service.settings import Settings
from penstock.service.sleep import wish_cell

_log: Final = structlog.get_logger(__name__)

LOOK_S: Final = 0.25
"""How often the main thread looks at the two others without being woken."""
DISK_STOP_S_MAX: Final = 3.0
"""How long a stop waits for the disk thread."""
NOTHING_RECORDED: Final = RecordedBoundary(ZERO_END, ZERO_END, 0)


class Receiver:
    """
    Both threads of the receiver and what they share.
    """

    def __init__(
        self,
        settings: Settings,
        board: Board,
        *,
        wake_fd: int,
        wake_self: Callable[[], None],
        wake_engine: Callable[[], None],
        was_ready: bool = False,
    ) -> None:
        """
        Build it; nothing is connected or written before `start`.

        Args:
            settings: of the service.
            board: where to publish and report.
            wake_fd: reading end of the pipe that wakes the connection thread.
            wake_self: writes a byte into that pipe, without blocking.
            wake_engine: hints to the engine that more was published.
            was_ready: whether this service has streamed before, so that a fault in the configuration is tried again.
        """
        self._acknowledge: Final = Acknowledge(settings.acknowledge)
        self._recorded: Final = RecordedBoundaryCell(board)
        self._report: Final = receiver_cell(board)
        self._wish: Final = wish_cell(board)
        self._wake_self: Final = wake_self
        self._is_resting = False
        self._state: ReceiverState | None = None
        self._failure: PenstockError | None = None
        self._has_ended: Final = threading.Event()
        self._is_stopping: Final = threading.Event()
        self.writer: Final = RelayWriter(
            folder=settings.relay_folder,
            publisher=BoardPublisher(board, wake_engine),
            recorded=self._read_recorded,
            acknowledge=self._acknowledge,
            wake_receiver=wake_self,
            limits=RelayLimits(
                relay_bytes_max=settings.relay_bytes_max,
                segment_bytes_max=settings.relay_segment_bytes,
                transaction_bytes_max=settings.transaction_limit_bytes,
            ),
            is_disk_low=lambda: is_too_full_to_read(settings.relay_folder, settings.disk_free_bytes_min),
        )
        self.client: Final = ReplicationClient(
            settings=ReplicationSettings(
                conninfo=make_conninfo(**settings.connection_options()),
                slot_name=settings.slot_name,
                publication_name=settings.publication_name,
                is_slot_temporary=settings.temporary_slot,
            ),
            sink=self.writer,
            on_state=self._on_state,
            wake_fd=wake_fd,
            clock=time.monotonic,
            has_streamed=was_ready,
        )
        self._thread: Final = threading.Thread(target=self._run, name="penstock-replication", daemon=True)

    def start(self) -> None:
        """
        Recover the relay log and begin to connect.

        Raises:
            LogError: the relay log cannot be opened.
        """
        self.writer.start()
        self._thread.start()

    def wait_ended(self, timeout_s: float) -> bool:
        """
        Wait for the connection thread to end by itself, which it does only for good; tells whether it has.
        """
        return self._has_ended.wait(timeout_s)

    @property
    def failure(self) -> PenstockError | None:
        """
        Why it ended, when nobody asked it to.
        """
        return self._failure

    @property
    def has_streamed(self) -> bool:
        """
        Whether this service has streamed before.
        """
        return self._state is not None and self._state.has_streamed

    @property
    def phase(self) -> str:
        """
        What the connection thread is doing.
        """
        return "" if self._state is None else self._state.phase.value

    def look(self) -> None:
        """
        The engine recorded something, or met damage: confirm, trim and begin a new segment by it. Or it wants us to
        rest, or to go on.
        """
        self.writer.wake()
        wish = self._wish.read()
        is_resting = wish is not None and wish.is_asleep
        if is_resting != self._is_resting:
            self._is_resting = is_resting
            self.client.rest(is_resting)
            self._wake_self()

    def stop(self) -> None:
        """
        Send a last status and close; returns when both threads have ended or their time is up.
        """
        self._is_stopping.set()
        self.client.stop()
        self._thread.join(DISK_STOP_S_MAX)
        self.writer.stop(DISK_STOP_S_MAX)
        self.report()

    def report(self) -> None:
        """
        Show on the board where everything stands.
        """
        state = self._state
        if state is None:
            return
        published = self.writer.published
        self._report.write(
            ReceiverReport(
                phase=state.phase.value,
                phase_since_s=state.since,
                error=clip(state.error),
                received=state.received.value,
                durable=0 if published is None else published.end,
                confirmed=state.confirmed.value,
                server_end=state.server_end.value,
                relay_bytes=self.writer.relay_bytes,
                is_paused=state.is_paused,
                is_out_of_room=self.writer.is_out_of_room,
                disk_failure=clip(self.writer.failure or ""),
                is_disk_hung=self.writer.is_disk_hung(time.monotonic()),
                has_streamed=state.has_streamed,
            )
        )

    def _run(self) -> None:
        try:
            if self._acknowledge is Acknowledge.SHAPES or self.writer.epoch is None:
                # Whether the slot is beyond what was recorded can only be judged once the engine has told it. And
                # without a relay log nobody else knows which epochs there were.
                while self._recorded.read() is None and not self._is_stopping.wait(0.05):
                    continue
            self.client.run()
        except PenstockError as error:
            self._failure = error
        except BaseException:
            # An error of ours in one thread must end the role, or the server keeps the slot for a connection that
            # nobody reads.
            _log.exception("the connection thread has died")
            self._failure = PenstockError("the receiver's connection thread died of a fault of its own; see the log")
            raise
        finally:
            self._has_ended.set()

    def _read_recorded(self) -> RecordedBoundary:
        return self._recorded.read() or NOTHING_RECORDED

    def _on_state(self, state: ReceiverState) -> None:
        before = self._state
        self._state = state
        if before is None or before.phase is not state.phase or before.error != state.error:
            level = "warning" if state.phase in {ReceiverPhase.BACKING_OFF, ReceiverPhase.FAILED} else "info"
            getattr(_log, level)("replication " + state.phase.value, error=state.error or None)
        self.report()


def run(context: RoleContext) -> None:
    """
    Be the receiver until told to end.

    Raises:
        PenstockError: why the connection thread ended by itself.
    """
    collect_garbage_less()
    hint = WakePipe.create()
    receiver = Receiver(
        context.settings,
        context.board,
        wake_fd=hint.reader,
        wake_self=hint.ring,
        wake_engine=context.engine_wake.ring,
        was_ready=context.was_ready,
    )
    receiver.start()
    poll = select.poll()
    poll.register(context.stopping.descriptor, select.POLLIN)
    poll.register(context.receiver_wake.reader, select.POLLIN)
    try:
        while not context.stopping.is_set() and not receiver.wait_ended(0):
            context.heartbeat(is_ready=receiver.has_streamed, state=receiver.phase)
            if poll.poll(LOOK_S * 1000):
                context.receiver_wake.clear()
            receiver.look()
            receiver.report()
    finally:
        receiver.stop()
    if receiver.failure is not None:
        raise receiver.failure
