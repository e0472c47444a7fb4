"""
Histories of a relay log: commits, lost connections, failing disks, crashes and power cuts in any order.
"""

from __future__ import annotations

import errno
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.errors import LogError
from penstock.postgres.lsn import EndLsn
from penstock.relay.epochs import Acknowledge, RecordedBoundary
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from penstock.replication.abc import FrameBatch
from relay_disk import FaultyDisk, PowerCutError
from relay_kit import START, Source, identity, make_log, merge, read_kept, rows, session

LIMITS = RelayLimits(segment_bytes_max=600, group_bytes_max=700, relay_bytes_max=1 << 30)


class History(RuleBasedStateMachine):
    """
    One writer, one source that never forgets, and an engine that reads from what it recorded.
    """

    mode: ClassVar[Acknowledge]

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        """
        A new slot on an empty disk.
        """
        self.chance = random.Random(seed)
        self.home = tempfile.TemporaryDirectory(prefix="relay-")
        self.folder = Path(self.home.name) / "relay"
        self.disk = FaultyDisk(Path(self.home.name) / "scratch")
        self.source = Source()
        self.boundary = START
        self.engine_epoch = 0
        self.is_streaming = False
        self.is_power_at_stake = True
        self.log = self.open_log()
        self.connect(is_new=True)
        assert self.is_streaming
        self.engine_epoch = 1

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.disk.process_ends()
            self.home.cleanup()

    def open_log(self) -> RelayLog:
        """
        Start a receiver.
        """
        log = make_log(self.folder, self.disk, acknowledge=self.mode, limits=LIMITS)
        log.open()
        return log

    @property
    def recorded(self) -> RecordedBoundary:
        """
        What the control store holds.
        """
        return RecordedBoundary(self.boundary, self.boundary, self.engine_epoch)

    def attempt(self, call: Callable[[], object]) -> bool:
        """
        Do something to the log; a refusal ends the connection, a power cut the process.
        """
        try:
            call()
        except LogError:
            self.is_streaming = False
            return False
        except PowerCutError:
            if self.is_power_at_stake:
                self.lose_power()
            else:
                self.crash()
            return False
        return True

    def lose_power(self) -> None:
        """
        Everything stops; what was not synced may be gone.
        """
        self.is_streaming = False
        self.disk.power_cut(self.chance)
        self.log = self.open_log()

    def connect(self, *, is_new: bool = False) -> None:
        """
        Make a connection.
        """

        def begin_session() -> None:
            start = session(identity(self.source.confirmed, is_new=is_new))
            self.source.connect(self.log.begin_session(start, self.recorded))

        self.is_streaming = False
        self.is_streaming = self.attempt(begin_session)

    @rule(count=st.integers(0, 6), size=st.sampled_from([0, 10, 300]))
    def commit(self, count: int, size: int) -> None:
        """
        Somebody writes.
        """
        self.source.commit(rows(self.chance, count + 1, size))

    @precondition(lambda self: self.is_streaming)
    @rule(count=st.integers(1, 4), parts=st.integers(1, 4), grouped=st.booleans(), merged=st.booleans())
    def stream(self, count: int, parts: int, grouped: bool, merged: bool) -> None:  # noqa: FBT001
        """
        Transactions arrive, in groups of batches or one by one.
        """
        batches: list[FrameBatch] = []
        while count and not self.source.is_drained():
            batches += self.source.send(1 if merged else parts)
            count -= 1
        if merged and batches:
            batches = [merge(batches)]
        for group in [batches] if grouped else [[batch] for batch in batches]:
            if group and not self.attempt(partial(self.log.append, group)):
                return

    @precondition(lambda self: self.is_streaming and not self.source.is_drained())
    @rule(parts=st.integers(2, 4))
    def lose_connection_inside(self, parts: int) -> None:
        """
        The connection ends between the begin and the commit of a transaction.
        """
        batches = self.source.send(parts)
        if self.attempt(lambda: self.log.append(batches[:-1])):
            self.connect()

    @precondition(lambda self: self.is_streaming and self.source.is_drained())
    @rule()
    def idle(self) -> None:
        """
        Others write to the WAL, and a keepalive says so.
        """
        end = EndLsn(self.source.end.value + 100)
        self.source.end = end
        self.attempt(lambda: self.log.append([end]))

    @rule()
    def reconnect(self) -> None:
        """
        A connection ends and another is made.
        """
        self.connect()

    @precondition(lambda self: self.is_streaming)
    @rule()
    def confirm(self) -> None:
        """
        A status leaves.
        """
        confirmable = self.log.end if self.mode is Acknowledge.RELAY else self.boundary
        self.source.confirmed = max(self.source.confirmed, confirmable)

    @rule(part=st.floats(0, 1))
    def record(self, part: float) -> None:
        """
        The engine has settled some of what it read, records it, and the log is trimmed.
        """
        ends = [each.end for each in self.source.transactions if self.boundary < each.end <= self.log.end]
        ends = [*ends, self.log.end] if self.log.end > self.boundary else ends
        if ends:
            self.boundary = ends[int(part * (len(ends) - 1))]
        self.attempt(lambda: self.log.trim(self.recorded))

    @rule(call=st.sampled_from(["write", "sync", "create", "sync_folder", "truncate"]), full=st.booleans())
    def break_disk(self, call: str, full: bool) -> None:  # noqa: FBT001
        """
        The disk refuses something from now on.
        """
        self.disk.faults.torn = self.chance.random()
        self.disk.faults.refused[call] = errno.ENOSPC if full and call != "sync" else errno.EIO

    @rule()
    def mend_disk(self) -> None:
        """
        The disk works again.
        """
        self.disk.faults.refused = {}

    @rule()
    def crash(self) -> None:
        """
        The process is killed; the page cache keeps what it wrote.
        """
        self.is_streaming = False
        self.disk.process_ends()
        self.log = self.open_log()

    @rule()
    def cut_power(self) -> None:
        """
        The power goes between two calls.
        """
        self.lose_power()

    @rule(calls=st.integers(0, 12), is_power=st.booleans())
    def end_soon(self, calls: int, is_power: bool) -> None:  # noqa: FBT001
        """
        The power goes, or the process is killed, in the middle of something.
        """
        self.is_power_at_stake = is_power
        self.disk.faults.torn = self.chance.random()
        self.disk.faults.cut_after = calls

    @invariant()
    def nothing_is_lost(self) -> None:
        """
        The log holds what the source sent, in order and once, from the recorded boundary to the published end; and
        in `relay` mode that covers all that was confirmed.
        """
        published = self.log.published
        assert published is not None
        assert published.epoch == 1, "a healthy history never begins a new epoch"
        end = EndLsn(published.end)
        if self.mode is Acknowledge.RELAY:
            assert self.source.confirmed <= end
        expected = [each.kept for each in self.source.transactions if self.boundary < each.end <= end]
        assert read_kept(self.folder, published, self.boundary) == expected


class RelayHistory(History):
    mode = Acknowledge.RELAY


class ShapesHistory(History):
    mode = Acknowledge.SHAPES


TestRelayHistory = RelayHistory.TestCase
TestShapesHistory = ShapesHistory.TestCase
TestRelayHistory.settings = TestShapesHistory.settings = settings(max_examples=20, stateful_step_count=30)
