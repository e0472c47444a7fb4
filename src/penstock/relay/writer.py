"""
The relay log as the connection thread sees it: a bounded queue, and the disk thread behind it.

Two threads and one rule (architecture, section 2): the connection thread never touches a disk, the disk thread never
touches the connection. `submit`, `is_full` and `confirmable` take a lock that is never held during a disk call, so a
sync that hangs for minutes costs nothing but space in the queue, and status updates go on. Only `begin_session` waits,
with a deadline, and only while nothing is streamed.

All that concerns files, and the order of syncs, is `RelayLog`'s; the disk thread is its only caller once `start` has
returned. A shell.

States. A failed write or sync sets `has_failed`: whatever is in line or comes in line is dropped, because the server
will send it again on the next connection, and `begin_session` clears it. Hints come in through `wake` and go out through
`wake_receiver`; none of them is needed for anything to happen, only for it to happen at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from penstock.errors import LogError, PenstockError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.relay.abc import PublishedEnd, Publisher
from penstock.relay.disk import Disk, SystemDisk
from penstock.relay.epochs import Acknowledge, EpochHeader, RecordedBoundary
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog, Submitted
from penstock.replication.abc import FrameBatch, SessionStart

_FRONTIER_BYTES: Final = 17
"""What a frontier counts in the queue: about what it takes on the disk."""


@dataclass(slots=True)
class _SessionRequest:
    """
    A new connection waits for the disk thread.
    """

    start: SessionStart
    is_answered: threading.Event
    is_given_up: bool = False
    kept: CommitLsn = ZERO_COMMIT
    error: PenstockError | None = None


_Item: TypeAlias = FrameBatch | EndLsn | _SessionRequest


class RelayWriter:
    """
    Keeps frames durably, in a thread of its own: the `FrameSink` of the replication connection.

    `begin_session`, `submit` and `submit_frontier` belong to the connection thread; everything else may be called from
    any thread.
    """

    def __init__(
        self,
        *,
        folder: Path,
        publisher: Publisher,
        recorded: Callable[[], RecordedBoundary],
        acknowledge: Acknowledge,
        wake_receiver: Callable[[], None],
        limits: RelayLimits | None = None,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        is_disk_low: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Touch nothing yet; see `start`.

        Args:
            folder: of all epochs; made when it does not exist. The caller owns it (the lock file is its business).
            publisher: told of every move of the published end.
            recorded: what the engine recorded; called from both threads, so it must be quick. Before the first session
                it must answer what the control store holds: in `shapes` mode a slot beyond it begins a new epoch.
            acknowledge: what may be confirmed.
            wake_receiver: wakes the connection thread; must not block.
            limits: see there.
            disk: another one in tests.
            clock: seconds, for `is_disk_hung`.
            wall_clock: seconds since 1970, for the header of an epoch.
            is_disk_low: asked by the disk thread; while it is true nothing is read between transactions.
        """
        self._ask_disk_low = is_disk_low
        self._is_disk_low = False
        self._limits = limits if limits is not None else RelayLimits()
        self._log = RelayLog(
            folder=folder,
            publisher=publisher,
            acknowledge=acknowledge,
            limits=self._limits,
            disk=disk if disk is not None else SystemDisk(),
            clock=clock,
            wall_clock=wall_clock,
        )
        self._recorded = recorded
        self._is_relay_mode = acknowledge is Acknowledge.RELAY
        self._wake_receiver = wake_receiver
        # Of the connection thread: why the slot is new, until there is an epoch of it.
        self._unkept_slot: str | None = None
        self._thread = threading.Thread(target=self._run, name="penstock-relay-disk", daemon=True)
        self._changed = threading.Condition()
        # All below under `_changed`, but for what only one thread writes and a glance at it may be old.
        self._queue: deque[_Item] = deque()
        self._queue_bytes = 0
        self._is_stopping = False
        self._is_woken = False
        self._is_roll_wanted = False
        self._is_someone_held = False
        self._has_failed = False
        self._failure: str | None = None
        self._floor: EndLsn | None = None
        self._is_inside = False

    # Life.

    def start(self) -> None:
        """
        Recover what lies on disk, publish its end, and start the disk thread. Blocks on the disk.

        Raises:
            FormatVersionError: newer code wrote the log; nothing was touched.
            LogError: the disk refuses.
        """
        self._log.open()
        self._thread.start()

    def stop(self, deadline_s: float) -> bool:
        """
        Keep what is in line, then end the disk thread; tell whether it ended in time.

        A thread that hangs in the disk is left behind: nobody can end it, and the process may exit over it.
        """
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(deadline_s)
        return not self._thread.is_alive()

    # The sink.

    def begin_session(self, start: SessionStart) -> CommitLsn:
        """
        See `FrameSink.begin_session`; also decides whether a new epoch begins.

        Raises:
            LogError: the disk refuses, or did not answer in `session_wait_s_max`. Try again later; until it succeeds
                frames are dropped and `has_failed` stays true.
        """
        if start.identity.is_new:
            self._unkept_slot = start.identity.reason or "the slot is new"
        elif self._unkept_slot is not None:
            # Only the connection that made the slot is told so; the disk refused its epoch then.
            start = replace(start, identity=replace(start.identity, is_new=True, reason=self._unkept_slot))
        request = _SessionRequest(start, threading.Event())
        with self._changed:
            if self._is_stopping or not self._thread.is_alive():
                raise LogError(self._failure or "the relay log is closed")
            self._queue.append(request)
            self._changed.notify_all()
        if not request.is_answered.wait(self._limits.session_wait_s_max):
            with self._changed:
                request.is_given_up = True
                self._has_failed = True
            raise LogError(
                f"the disk of the relay log has not answered for {self._limits.session_wait_s_max:g} s, see its health"
            )
        if request.error is not None:
            raise request.error
        self._unkept_slot = None
        return request.kept

    def submit(self, batch: FrameBatch) -> None:
        """
        See `FrameSink.submit`.
        """
        with self._changed:
            self._is_inside = batch.commit is None and (self._is_inside or bool(batch.transactions))
            self._put(batch, len(batch.frames))

    def submit_frontier(self, end: EndLsn) -> None:
        """
        See `FrameSink.submit_frontier`.
        """
        with self._changed:
            assert not self._is_inside, "a frontier inside a transaction"
            self._put(end, _FRONTIER_BYTES)

    @property
    def is_full(self) -> bool:
        """
        See `FrameSink.is_full`: the queue is, or between transactions the whole relay log.
        """
        with self._changed:
            self._is_someone_held = self._is_holding
            return self._is_someone_held

    @property
    def confirmable(self) -> EndLsn:
        """
        See `FrameSink.confirmable`.
        """
        if self._is_relay_mode:
            return self._log.end
        recorded = self._recorded()
        epoch = self._log.epoch
        if epoch is not None and recorded.epoch == epoch.epoch:
            return recorded.boundary
        # The engine has not taken up this epoch yet, so nothing in it is settled: repeat what the slot says.
        return self._floor if self._floor is not None else self._log.end

    @property
    def has_failed(self) -> bool:
        """
        See `FrameSink.has_failed`.
        """
        return self._has_failed

    # For others.

    def wake(self) -> None:
        """
        Tell that the engine recorded a boundary: look at it, trim.
        """
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()
        if not self._is_relay_mode:
            self._wake_receiver()

    def roll(self) -> None:
        """
        Begin another segment soon: a reader met damage in the newest one and can go on only where the next begins.
        """
        with self._changed:
            self._is_roll_wanted = self._is_woken = True
            self._changed.notify_all()

    @property
    def published(self) -> PublishedEnd | None:
        """
        How far the relay log may be read; None before the first epoch.
        """
        return self._log.published

    @property
    def epoch(self) -> EpochHeader | None:
        """
        The newest epoch; None before the first.
        """
        return self._log.epoch

    @property
    def relay_bytes(self) -> int:
        """
        Bytes of all segments on disk.
        """
        return self._log.relay_bytes

    @property
    def is_out_of_room(self) -> bool:
        """
        Whether the relay budget or the disk is used up, so that nothing is read between transactions.
        """
        return self._is_disk_low or self._log.relay_bytes >= self._limits.relay_bytes_max

    @property
    def failure(self) -> str | None:
        """
        What the disk last refused, in words; None once a session has begun since.
        """
        return self._failure

    def is_disk_hung(self, now: float) -> bool:
        """
        Whether a disk call has been taking longer than `disk_hung_s`.
        """
        since = self._log.disk_call_since
        return since is not None and now - since > self._limits.disk_hung_s

    # Inside.

    @property
    def _is_holding(self) -> bool:
        is_queue_full = self._queue_bytes >= self._limits.queue_bytes_max
        return is_queue_full or (not self._is_inside and self.is_out_of_room)

    def _put(self, item: Submitted, size: int) -> None:
        if self._has_failed or self._is_stopping:
            return
        self._queue.append(item)
        self._queue_bytes += size
        self._changed.notify_all()

    def _run(self) -> None:
        """
        Be the disk thread.
        """
        try:
            while True:
                with self._changed:
                    if not (self._queue or self._is_woken or self._is_stopping):
                        self._changed.wait(self._limits.look_s)
                    group, request, size = self._take()
                    is_roll_wanted, self._is_roll_wanted, self._is_woken = self._is_roll_wanted, False, False
                    if self._is_stopping and not group and request is None:
                        break
                if is_roll_wanted:
                    self._log.roll()
                if group:
                    self._keep(group)
                elif request is not None:
                    self._answer(request)
                self._trim()
                self._is_disk_low = self._ask_disk_low()
                self._settle_queue(size)
            self._log.close()
        except BaseException as cause:
            # Ours to mend, but the connection thread must not go on as if someone were listening.
            self._fail(f"the disk thread of the relay log ended: {cause!r}")
            raise

    def _take(self) -> tuple[list[Submitted], _SessionRequest | None, int]:
        """
        Take a group out of the queue, or one request.
        """
        group: list[Submitted] = []
        size = 0
        while self._queue and size < self._limits.group_bytes_max:
            item = self._queue[0]
            if isinstance(item, _SessionRequest):
                if group:
                    break
                self._queue.popleft()
                return [], item, 0
            self._queue.popleft()
            group.append(item)
            size += len(item.frames) if isinstance(item, FrameBatch) else _FRONTIER_BYTES
        return group, None, size

    def _keep(self, group: list[Submitted]) -> None:
        if self._has_failed:
            return
        before = self._log.end
        try:
            self._log.append(group)
        except PenstockError as cause:
            self._fail(cause.message)
        else:
            if self._log.end != before:
                self._wake_receiver()

    def _answer(self, request: _SessionRequest) -> None:
        with self._changed:
            if request.is_given_up:
                return
        try:
            request.kept = self._log.begin_session(request.start, self._recorded())
        except PenstockError as cause:
            request.error = cause
            self._fail(cause.message)
        else:
            with self._changed:
                # Who gave up meanwhile will not stream; its frames are not to be waited for.
                self._has_failed = request.is_given_up
                self._failure = None
                self._floor = request.start.identity.confirmed
                self._is_inside = False
        request.is_answered.set()

    def _trim(self) -> None:
        try:
            self._log.trim(self._recorded())
        except PenstockError as cause:
            self._fail(cause.message)

    def _settle_queue(self, size: int) -> None:
        with self._changed:
            self._queue_bytes -= size
            is_released = self._is_someone_held and not self._is_holding
            if is_released:
                self._is_someone_held = False
        if is_released:
            self._wake_receiver()

    def _fail(self, failure: str) -> None:
        with self._changed:
            self._failure = failure
            self._has_failed = True
        self._wake_receiver()
