from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.errors import DiskFullError, LogError
from penstock.postgres.lsn import ZERO_COMMIT, ZERO_END, EndLsn
from penstock.relay.abc import PublishedEnd
from penstock.relay.epochs import Acknowledge, RecordedBoundary
from penstock.relay.limits import RelayLimits
from penstock.relay.writer import RelayWriter
from penstock.replication.abc import FrameSink
from relay_disk import FULL, FaultyDisk
from relay_kit import START, Source, identity, read_kept, recorded, session

WAIT_S = 20.0


class Bench:
    """
    A writer with everything around it, and events to wait for.
    """

    def __init__(
        self, home: Path, *, limits: RelayLimits | None = None, acknowledge: Acknowledge = Acknowledge.RELAY
    ) -> None:
        self.folder = home / "relay"
        self.disk = FaultyDisk(home / "scratch")
        self.source = Source()
        self.boundary = recorded()
        self.now = 0.0
        self.wakes = 0
        self._changed = threading.Condition()
        self.writer = RelayWriter(
            folder=self.folder,
            publisher=self,
            recorded=lambda: self.boundary,
            acknowledge=acknowledge,
            wake_receiver=self.wake,
            limits=limits or RelayLimits(),
            disk=self.disk,
            clock=lambda: self.now,
            wall_clock=lambda: 0.0,
        )
        self.sink: FrameSink = self.writer

    def publish(self, end: PublishedEnd) -> None:
        del end
        self.wake()

    def wake(self) -> None:
        with self._changed:
            self.wakes += 1
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """
        Wait for something that the disk thread tells when it happens.
        """
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), self.writer.failure

    def send(self, count: int = 1, size: int = 20) -> None:
        for _ in range(count):
            self.source.commit([(1, b"x" * size)])
            for batch in self.source.send():
                self.sink.submit(batch)

    def is_full(self) -> bool:
        return self.sink.is_full

    def has_failed(self) -> bool:
        return self.sink.has_failed

    def failure(self) -> str:
        return self.writer.failure or ""

    def drain(self) -> None:
        while not self.source.is_drained():
            for batch in self.source.send():
                self.sink.submit(batch)

    def record(self, boundary: EndLsn) -> None:
        self.boundary = RecordedBoundary(boundary, boundary, 1)
        self.writer.wake()

    def connect(self) -> None:
        self.source.connect(self.sink.begin_session(session(identity(self.source.confirmed))))

    def check(self) -> None:
        assert self.writer.published is not None
        expected = [each.kept for each in self.source.transactions]
        assert read_kept(self.folder, self.writer.published, START) == expected


@contextmanager
def started(
    home: Path, *, limits: RelayLimits | None = None, acknowledge: Acknowledge = Acknowledge.RELAY
) -> Iterator[Bench]:
    """
    A writer in its first session; ended afterwards, whatever happened.
    """
    bench = Bench(home, limits=limits, acknowledge=acknowledge)
    bench.writer.start()
    try:
        assert bench.sink.begin_session(session(identity(is_new=True))) == ZERO_COMMIT
        yield bench
    finally:
        gate = bench.disk.faults.gate
        if gate is not None:
            gate.set()
        assert bench.writer.stop(WAIT_S)


def test_what_is_submitted_becomes_confirmable(tmp_path: Path) -> None:
    """Batches and frontiers are kept in order, and the confirmable position follows them."""
    with started(tmp_path) as bench:
        assert bench.sink.confirmable == START
        bench.send(10)
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.sink.submit_frontier(EndLsn(5000))
        bench.until(lambda: bench.sink.confirmable == EndLsn(5000))
        assert bench.writer.published is not None
        assert bench.writer.published.end == 5000
        assert bench.writer.epoch is not None
        bench.check()


def test_before_the_first_epoch_nothing_is_confirmable(tmp_path: Path) -> None:
    """Without a slot there is no position."""
    bench = Bench(tmp_path)
    bench.writer.start()
    assert bench.sink.confirmable == ZERO_END
    assert bench.writer.published is None
    assert bench.writer.stop(WAIT_S)


def test_stopping_keeps_what_is_in_line(tmp_path: Path) -> None:
    """A clean stop loses nothing, and the next start publishes all of it before any session."""
    with started(tmp_path) as bench:
        bench.send(50)
    bench.check()
    again = Bench(tmp_path)
    again.writer.start()
    assert again.writer.published == bench.writer.published
    assert again.sink.confirmable == bench.source.end
    assert again.writer.stop(WAIT_S)
    with pytest.raises(LogError, match="closed"):
        again.sink.begin_session(session())
    again.sink.submit_frontier(EndLsn(99_999))
    assert again.sink.confirmable == bench.source.end


def test_a_hanging_sync_blocks_nobody(tmp_path: Path) -> None:
    """While the disk hangs, frames are taken until the queue is full, positions stand still, and the alarm is raised."""
    with started(tmp_path, limits=RelayLimits(queue_bytes_max=2000, disk_hung_s=5.0)) as bench:
        gate = bench.disk.faults.gate = threading.Event()
        bench.send()
        assert bench.disk.is_waiting.wait(WAIT_S)
        assert not bench.writer.is_disk_hung(5.0)
        assert bench.writer.is_disk_hung(5.1)
        assert not bench.is_full()
        bench.send(count=4, size=500)
        assert bench.is_full()
        assert bench.sink.confirmable == START
        assert not bench.has_failed()
        assert not bench.writer.stop(0.0)
        gate.set()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.until(lambda: not bench.is_full())
        bench.check()


def test_a_full_queue_wakes_the_receiver_when_there_is_room(tmp_path: Path) -> None:
    """Whoever was told to stop reading is told to go on."""
    with started(tmp_path, limits=RelayLimits(queue_bytes_max=100)) as bench:
        gate = bench.disk.faults.gate = threading.Event()
        bench.send(3)
        assert bench.disk.is_waiting.wait(WAIT_S)
        assert bench.is_full()
        gate.set()
        bench.until(lambda: not bench.is_full())
        bench.until(lambda: bench.sink.confirmable == bench.source.end)


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_failure_ends_the_session_and_the_next_repairs_it(tmp_path: Path, call: str) -> None:
    """After a failed write or sync frames are dropped until a new session, which gets them again."""
    with started(tmp_path) as bench:
        bench.send(3)
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        confirmable = bench.sink.confirmable
        bench.disk.faults.refused[call] = errno.EIO
        bench.send(2)
        bench.until(bench.has_failed)
        bench.send(2)
        assert bench.sink.confirmable == confirmable
        assert bench.failure()
        bench.disk.faults.refused.clear()
        bench.connect()
        assert not bench.has_failed()
        assert not bench.failure()
        bench.drain()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.check()


def test_a_full_disk_is_told_and_passes(tmp_path: Path) -> None:
    """Without space a session cannot begin and says why; nothing is confirmed; space makes it well."""
    with started(tmp_path) as bench:
        bench.disk.faults.refused.update(FULL)
        bench.send()
        bench.until(bench.has_failed)
        with pytest.raises(DiskFullError):
            bench.connect()
        assert bench.has_failed()
        assert "space" in bench.failure()
        assert bench.sink.confirmable == START
        bench.disk.faults.refused.clear()
        bench.connect()
        bench.drain()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.check()


def test_a_new_slot_is_not_forgotten_when_the_disk_refuses_its_epoch(tmp_path: Path) -> None:
    """The next connection finds the slot there, and still a new epoch begins for it."""
    with started(tmp_path) as bench:
        bench.sink.submit_frontier(EndLsn(5000))
        bench.until(lambda: bench.sink.confirmable == EndLsn(5000))
        bench.disk.faults.refused.update(FULL)
        with pytest.raises(DiskFullError):
            bench.sink.begin_session(session(identity(EndLsn(4000), is_new=True)))
        bench.disk.faults.refused.clear()
        bench.sink.begin_session(session(identity(EndLsn(4000))))
        assert bench.writer.published is not None
        assert bench.writer.published.epoch > 1
        assert bench.sink.confirmable == EndLsn(4000)
        epoch = bench.writer.published.epoch
        bench.sink.begin_session(session(identity(EndLsn(4000))))
        assert bench.writer.published.epoch == epoch


def test_a_session_does_not_wait_for_ever(tmp_path: Path) -> None:
    """While the disk hangs a new connection is refused after the deadline, and one after it succeeds."""
    with started(tmp_path, limits=RelayLimits(session_wait_s_max=0.05)) as bench:
        gate = bench.disk.faults.gate = threading.Event()
        bench.send()
        assert bench.disk.is_waiting.wait(WAIT_S)
        with pytest.raises(LogError, match="has not answered"):
            bench.connect()
        assert bench.has_failed()
        bench.disk.faults.gate = None
        gate.set()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        for _ in range(100):
            try:
                bench.connect()
            except LogError:
                continue
            break
        assert not bench.has_failed()
        bench.source.commit([(2, b"x")])
        bench.drain()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.check()


def test_a_used_up_budget_stops_reading_between_transactions(tmp_path: Path) -> None:
    """Inside a transaction reading goes on; between them it waits until trimming made room, and is woken then."""
    with started(tmp_path, limits=RelayLimits(segment_bytes_max=1000, relay_bytes_max=4000)) as bench:
        while not bench.writer.is_out_of_room:
            bench.send(size=300)
            bench.until(lambda: bench.sink.confirmable == bench.source.end)
        assert bench.is_full()
        bench.source.commit([(1, b"y" * 300)] * 4)
        parts = bench.source.send(2)
        bench.sink.submit(parts[0])
        assert not bench.is_full()
        bench.sink.submit(parts[1])
        assert bench.is_full()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        wakes = bench.wakes
        bench.record(bench.source.end)
        bench.until(lambda: not bench.writer.is_out_of_room and bench.wakes > wakes)
        bench.until(lambda: not bench.is_full())
        assert bench.writer.relay_bytes < 4000


def test_in_shapes_mode_only_the_recorded_boundary_is_confirmable(tmp_path: Path) -> None:
    """What is written is published, what is recorded for this epoch is confirmed, and recording wakes the receiver."""
    with started(tmp_path, acknowledge=Acknowledge.SHAPES) as bench:
        bench.send(3)
        bench.until(lambda: bench.writer.published is not None and bench.writer.published.end == bench.source.end.value)
        assert bench.sink.confirmable == START
        bench.boundary = recorded(bench.source.end, epoch=9)
        assert bench.sink.confirmable == START
        wakes = bench.wakes
        boundary = bench.source.transactions[1].end
        bench.record(boundary)
        assert bench.wakes > wakes
        assert bench.sink.confirmable == boundary


def test_rolling_is_heard(tmp_path: Path) -> None:
    """A wish for another segment reaches the disk thread before the next batch."""
    with started(tmp_path) as bench:
        bench.send()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        bench.writer.roll()
        bench.send()
        bench.until(lambda: bench.sink.confirmable == bench.source.end)
        assert bench.writer.published is not None
        assert bench.writer.published.place.segment == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_disk_thread_is_not_silent(tmp_path: Path) -> None:
    """A fault of ours in the disk thread shows as a failure, and no session begins any more."""
    bench = Bench(tmp_path)
    bench.writer.start()
    bench.send()
    bench.until(bench.has_failed)
    assert "without a session" in bench.failure()
    assert bench.writer.stop(WAIT_S)
    with pytest.raises(LogError):
        bench.sink.begin_session(session())
