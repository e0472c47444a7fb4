"""
The replication client running in a thread, with a sink that keeps frames in memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from penstock.postgres.lsn import ZERO_COMMIT, ZERO_END, CommitLsn, EndLsn
from penstock.replication.abc import FrameBatch, SessionStart
from penstock.replication.connection import ReplicationClient, ReplicationSettings
from penstock.replication.messages import Change, Fragment, Frontier, RelationSeen, StreamEvent
from penstock.replication.state import ReceiverPhase, ReceiverState
from penstock.replication.transactions import TransactionAssembler
from penstock.testing.postgres import ThrowawayDatabase

DEADLINE_S: Final = 20.0


class MemorySink:
    """
    Keeps what it is given, and confirms it at once unless told to hold it back.

    Attributes:
        starts: sessions that began.
        events: what the kept frames say.
        dropped: commits that a batch brought although they were kept; must stay empty.
    """

    def __init__(self) -> None:
        self.starts: list[SessionStart] = []
        self.events: list[StreamEvent] = []
        self.dropped: list[CommitLsn] = []
        self.changed: Final = threading.Condition()
        self._assembler = TransactionAssembler()
        self._open: list[FrameBatch] = []
        self._last_kept = ZERO_COMMIT
        self._end = ZERO_END
        self._held_at: EndLsn | None = None
        self._is_full = False
        self._has_failed = False
        self._is_begin_blocked = False
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        self.wake_fd: Final = read_fd
        self._write_fd: Final = write_fd

    def close(self) -> None:
        """
        Give the pipe back.
        """
        os.close(self.wake_fd)
        os.close(self._write_fd)

    # What the client calls.

    def begin_session(self, start: SessionStart) -> CommitLsn:
        with self.changed:
            self.starts.append(start)
            self._open.clear()
            self.events += self._assembler.begin_session(())
            self._has_failed = False
            self._end = max(self._end, start.identity.confirmed)
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._is_begin_blocked, DEADLINE_S)
            return self._last_kept

    def submit(self, batch: FrameBatch) -> None:
        with self.changed:
            if self._has_failed:
                return
            self._open.append(batch)
            self.dropped += [commit for commit, _ in batch.transactions if commit <= self._last_kept]
            if batch.commit is not None:
                # As the relay log publishes: only whole transactions are ever decoded.
                for part in self._open:
                    self.events += self._assembler.feed(part.frames)
                self._open.clear()
                self._last_kept, self._end = batch.commit
            self.changed.notify_all()

    def submit_frontier(self, end: EndLsn) -> None:
        with self.changed:
            if self._has_failed:
                return
            assert not self._open, "a frontier inside a transaction"
            self.events.append(Frontier(end))
            self._end = max(self._end, end)
            self.changed.notify_all()

    @property
    def is_full(self) -> bool:
        return self._is_full

    @property
    def confirmable(self) -> EndLsn:
        return self._end if self._held_at is None else self._held_at

    @property
    def has_failed(self) -> bool:
        return self._has_failed

    # What tests call.

    def wake(self) -> None:
        """
        Wake the client.
        """
        os.write(self._write_fd, b"\0")

    def set_full(self, is_full: bool) -> None:  # noqa: FBT001
        self._is_full = is_full
        self.wake()

    def fail(self) -> None:
        with self.changed:
            self._has_failed = True
            self._open.clear()
        self.wake()

    def hold(self) -> None:
        """
        Confirm nothing more.
        """
        self._held_at = self._end

    def release(self) -> None:
        """
        Confirm everything again.
        """
        self._held_at = None
        self.wake()

    def block_begin(self, is_blocked: bool) -> None:  # noqa: FBT001
        with self.changed:
            self._is_begin_blocked = is_blocked
            self.changed.notify_all()

    @property
    def end(self) -> EndLsn:
        return self._end

    def fragments(self) -> list[Fragment]:
        with self.changed:
            return [event for event in self.events if isinstance(event, Fragment)]

    def changes(self) -> list[Change]:
        return [change for fragment in self.fragments() for change in fragment.changes]

    def relations(self) -> list[str]:
        with self.changed:
            return [event.description.id.name for event in self.events if isinstance(event, RelationSeen)]

    def wait_for(self, condition: Callable[[], bool], what: str = "the sink") -> None:
        """
        Wait until something that changes with what is kept holds.
        """
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S), f"it did not come: {what}"


class RunningReceiver:
    """
    A `ReplicationClient` in a thread.
    """

    def __init__(self, url: str, sink: MemorySink, *, name: str, **options: Any) -> None:
        options = {"backoff_s_min": 0.05, "backoff_s_max": 0.5, **options}
        self.sink: Final = sink
        self.states: Final[list[ReceiverState]] = []
        self.error: BaseException | None = None
        self._changed: Final = threading.Condition()
        self.client: Final = ReplicationClient(
            settings=ReplicationSettings(
                conninfo=url, slot_name=f"slot_{name}", publication_name=f"publication_{name}", **options
            ),
            sink=sink,
            on_state=self._on_state,
            wake_fd=sink.wake_fd,
            clock=time.monotonic,
        )
        self._thread: Final = threading.Thread(target=self._run, name="test-receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """
        Stop it and wait for its end.
        """
        self.client.stop()
        self.join()

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the client does not stop"

    @property
    def state(self) -> ReceiverState:
        return self.states[-1]

    def wait_phase(self, *phases: ReceiverPhase, after: int = 0) -> ReceiverState:
        """
        Wait for one of these phases among the states told, those before `after` not counting.
        """
        return self.wait_state(lambda state: state.phase in phases, after=after)

    def wait_state(self, condition: Callable[[ReceiverState], bool], after: int = 0) -> ReceiverState:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(condition, self.states[after:])), DEADLINE_S), self.states
            return next(filter(condition, self.states[after:]))

    def streaming(self, *, after: int = 0) -> Self:
        self.wait_phase(ReceiverPhase.STREAMING, after=after)
        return self

    def _on_state(self, state: ReceiverState) -> None:
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self.client.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        with self._changed:
            self._changed.notify_all()


class StartReceiver(Protocol):
    """
    Starts a receiver of a test's database.
    """

    def __call__(self, *, name: str | None = None, url: str | None = None, **options: Any) -> RunningReceiver: ...


def publish(database: ThrowawayDatabase, table: str, columns: str, identity: str = "FULL") -> None:
    """
    Make a table and put it into the publication that the receiver has made.
    """
    database.execute(f"CREATE TABLE {table} ({columns})")
    database.execute(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    database.execute(f'ALTER PUBLICATION "publication_{database.name}" ADD TABLE {table}')


def slot(database: ThrowawayDatabase) -> dict[str, Any]:
    """
    Look at the slot.
    """
    rows = database.query(
        "SELECT confirmed_flush_lsn::text, active_pid, active FROM pg_replication_slots WHERE slot_name = %s",
        f"slot_{database.name}",
    )
    return dict(zip(("confirmed", "active_pid", "is_active"), rows[0], strict=True)) if rows else {}


def confirmed(database: ThrowawayDatabase) -> EndLsn:
    return EndLsn.parse(slot(database)["confirmed"])


def wait_until(condition: Callable[[], bool], sink: MemorySink, what: str) -> None:
    """
    Wait for something that the server alone knows.
    """
    turn = 0
    while not condition():
        turn += 1
        assert turn < DEADLINE_S * 50, f"it did not come: {what}"
        with sink.changed:
            sink.changed.wait(0.02)
