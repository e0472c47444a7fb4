"""
The connection thread of the receiver: one connection after the other, for as long as the service runs.

`ReplicationClient` owns connecting, giving up and trying again, and tells where it stands; a connection that streams is
a `Stream`. Form: a shell; a thread of its own calls `run`. It never touches a disk: what may block for one, the sink's
`begin_session`, is called aside, so that a stop is heard meanwhile. A connection is closed in a `finally`: a forgotten
one would hold the slot until the server notices.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from penstock.errors import MisconfiguredSourceError, OwnershipLostError, PenstockError, SlotLostError
from penstock.postgres.lsn import ZERO_END, EndLsn
from penstock.replication.abc import FrameSink
from penstock.replication.failures import BACKOFF_S_MAX, BACKOFF_S_MIN, Backoff
from penstock.replication.handshake import Answer, Ask, Introduction, Names, introduce, start_command
from penstock.replication.link import Link, resolve
from penstock.replication.state import ReceiverPhase, ReceiverState
from penstock.replication.streaming import Stream
from penstock.replication.unblocking import Unblocker
from penstock.replication.waiting import POLL_S_MAX, WAKE_BYTES_MAX, StopRequestedError, Waiter

_log: Final = structlog.get_logger(__name__)

OWN_PIDS_MAX: Final = 16
"""So many of our former connections are remembered: the server may hold one for a while after it is lost."""
OWNER_WATCH_S: Final = 2.0
"""How often to look who holds the lock that was ours a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """
    How to reach the source, and how patient to be.

    Attributes:
        conninfo: URL or connection string; libpq's own parameters pass through.
        slot_name: the replication slot, which also names the advisory lock.
        publication_name: the publication.
        is_slot_temporary: whether a slot that we make lives only as long as the connection.
        connect_timeout_s: how long looking up names may take, and how long connecting.
        command_timeout_s: how long a command may take that does not wait for others.
        finish_timeout_s: how long the server may take to end the stream when we stop.
        watch_interval_s: how often to warn and help while waiting for the lock or for a new slot.
        backoff_s_min: the first delay after a lost connection; it doubles each time.
        backoff_s_max: the longest delay.
    """

    conninfo: str = field(repr=False)
    slot_name: str
    publication_name: str
    is_slot_temporary: bool = False
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 30.0
    finish_timeout_s: float = 2.0
    watch_interval_s: float = 10.0
    backoff_s_min: float = BACKOFF_S_MIN
    backoff_s_max: float = BACKOFF_S_MAX


class ReplicationClient:
    """
    Follows a replication slot and keeps doing so.
    """

    def __init__(
        self,
        *,
        settings: ReplicationSettings,
        sink: FrameSink,
        on_state: Callable[[ReceiverState], None],
        wake_fd: int,
        clock: Callable[[], float],
        has_streamed: bool = False,
    ) -> None:
        """
        Make a client that `run` starts.

        Args:
            settings: where to and how patiently.
            sink: keeps the frames.
            on_state: told of every change of phase, and of progress now and then, from the thread of `run`; must not
                block.
            wake_fd: the reading end of a non-blocking pipe. Whoever writes to it wants us to look again at what may be
                confirmed and whether the sink has room. Not closed by us.
            clock: gives seconds that do not jump.
            has_streamed: whether an earlier run of the same service has, so that no fault is fatal any more.
        """
        self._settings: Final = settings
        self._sink: Final = sink
        self._on_state: Final = on_state
        self._wake_fd: Final = wake_fd
        self._clock: Final = clock
        self._names: Final = Names(settings.slot_name, settings.publication_name, settings.is_slot_temporary)
        self._waiter: Final = Waiter()
        # Why the next connection must make the slot anew, although the catalog may not show it.
        self._remake_reason = ""
        self._streaming_since: float | None = None
        self._is_resting = False
        self._own_pids: list[int] = []
        self._state = ReceiverState(
            ReceiverPhase.CONNECTING,
            clock(),
            "",
            ZERO_END,
            ZERO_END,
            ZERO_END,
            is_paused=False,
            has_streamed=has_streamed,
        )

    def run(self) -> None:
        """
        Stream until `stop` is called, over as many connections as it takes. Call it once.

        Raises:
            MisconfiguredSourceError: only a person can mend what is wrong, and nothing has been streamed yet.
            OwnershipLostError: another instance has taken the slot over.
        """
        backoff = Backoff(self._settings.backoff_s_min, self._settings.backoff_s_max)
        self._on_state(self._state)
        try:
            while not self._waiter.is_stopping:
                self._rest()
                delay_s = self._try_session(backoff)
                self._waiter.sleep(delay_s)
        except StopRequestedError:
            _log.debug("replication.stop_requested")
        finally:
            self._waiter.close()
        self._enter(ReceiverPhase.STOPPED)

    def stop(self) -> None:
        """
        Ask `run` to return soon. From any thread, any number of times.
        """
        self._waiter.stop()

    def rest(self, is_wanted: bool) -> None:  # noqa: FBT001 - the wish itself
        """
        Have no connection from now on, or have one again. From any thread; whoever wakes us makes it known at once.
        """
        self._is_resting = is_wanted

    def _rest(self) -> None:
        """
        Wait without a connection for as long as that is wanted.

        Raises:
            StopRequestedError: a stop was asked for.
        """
        if not self._is_resting:
            return
        self._enter(ReceiverPhase.ASLEEP, "")
        while self._is_resting:
            if self._waiter.wait({self._wake_fd: select.POLLIN}, POLL_S_MAX):
                with suppress(BlockingIOError):
                    os.read(self._wake_fd, WAKE_BYTES_MAX)

    def _try_session(self, backoff: Backoff) -> float:
        """
        Hold one connection to its end; give the delay before the next.
        """
        self._streaming_since = None
        try:
            self._session()
        except PenstockError as error:
            streamed_s = self._streamed_s()
            if streamed_s > 0 and isinstance(error, SlotLostError):
                self._remake_reason = error.message
            is_fatal = isinstance(error, MisconfiguredSourceError) and not self._state.has_streamed
            if is_fatal or isinstance(error, OwnershipLostError):
                self._enter(ReceiverPhase.FAILED, error.message)
                raise
            delay_s = backoff.delay_s(error, streamed_s)
            _log.warning("replication.connection_ended", error=error.message, retry_in_s=delay_s)
            self._enter(ReceiverPhase.BACKING_OFF, error.message)
            return delay_s
        return 0.0

    def _streamed_s(self) -> float:
        """
        Tell how long the last connection has streamed.
        """
        return 0.0 if self._streaming_since is None else self._clock() - self._streaming_since

    def _session(self) -> None:
        """
        Connect and stream; returns only when a stop was asked for, or to rest.
        """
        settings, waiter = self._settings, self._waiter
        self._enter(ReceiverPhase.CONNECTING)
        conninfo = waiter.aside("resolve-host", lambda: resolve(settings.conninfo), settings.connect_timeout_s)
        link = Link.open(conninfo, waiter=waiter, clock=self._clock, timeout_s=settings.connect_timeout_s)
        try:
            introduction = self._introduce(link)
            self._own_pids = [*self._own_pids[1 - OWN_PIDS_MAX :], introduction.backend_pid]
            identity = introduction.start.identity
            if identity.is_new:
                self._remake_reason = ""
                _log.warning("replication.slot_created", slot=identity.slot_name, reason=identity.reason)
            last_kept = waiter.aside("begin-session", lambda: self._sink.begin_session(introduction.start))
            link.start_streaming(start_command(self._names), timeout_s=settings.command_timeout_s)
            self._streaming_since = self._clock()
            self._state = replace(
                self._state,
                received=identity.confirmed,
                confirmed=identity.confirmed,
                server_end=max(identity.confirmed, identity.flushed or identity.confirmed),
                has_streamed=True,
            )
            self._enter(ReceiverPhase.STREAMING, "")
            _log.info(
                "replication.streaming",
                slot=identity.slot_name,
                confirmed=str(identity.confirmed),
                last_kept=str(last_kept),
                server_version=introduction.server_version,
                backend_pid=introduction.backend_pid,
                is_encrypted=link.is_encrypted,
            )
            Stream(
                link=link,
                introduction=introduction,
                last_kept=last_kept,
                sink=self._sink,
                on_progress=self._progress,
                waiter=waiter,
                wake_fd=self._wake_fd,
                clock=self._clock,
                finish_timeout_s=settings.finish_timeout_s,
                is_wanted=lambda: not self._is_resting,
            ).run()
        finally:
            link.close()

    def _introduce(self, link: Link) -> Introduction:
        """
        Hold the conversation before streaming.
        """
        dialogue = introduce(self._names, self._remake_reason)
        unblocker = Unblocker(self._settings.conninfo, self._names, self._own_pids)
        try:
            ask = next(dialogue)
            while True:
                self._enter(ask.phase)
                ask = dialogue.send(self._ask(link, ask, unblocker))
        except StopIteration as done:
            introduction: Introduction = done.value
            return introduction

    def _ask(self, link: Link, ask: Ask, unblocker: Unblocker) -> Answer:
        """
        Ask one thing; help it along if it waits for others.
        """
        if not ask.may_wait:
            return link.ask(ask.sql, timeout_s=self._settings.command_timeout_s)
        return link.ask(
            ask.sql,
            timeout_s=None,
            tick_s=OWNER_WATCH_S if self._is_owner else self._settings.watch_interval_s,
            on_tick=lambda: self._tick(ask.phase, unblocker),
        )

    @property
    def _is_owner(self) -> bool:
        """
        Whether this run has streamed, so that whoever else streams has taken the slot from us.
        """
        return self._state.has_streamed and bool(self._own_pids)

    def _tick(self, phase: ReceiverPhase, unblocker: Unblocker) -> None:
        """
        Help what waits along.

        Raises:
            OwnershipLostError: it waits for an instance that took over from us.
        """
        if self._is_owner and unblocker.foreign_pid is not None:
            raise OwnershipLostError(
                f"Another instance (backend {unblocker.foreign_pid}) streams from the slot {self._names.slot} now. "
                "This one leaves."
            )
        unblocker.tick(phase)

    def _enter(self, phase: ReceiverPhase, error: str | None = None) -> None:
        """
        Tell a change of phase; without a new error the last one stays.
        """
        since = self._state.since if phase is self._state.phase else self._clock()
        error = self._state.error if error is None else error
        self._tell(replace(self._state, phase=phase, since=since, error=error, is_paused=False))

    def _progress(self, received: EndLsn, confirmed: EndLsn, server_end: EndLsn, is_paused: bool) -> None:  # noqa: FBT001
        """
        Tell how far the stream is.
        """
        # The server named its end when it introduced itself, before it named any in the stream.
        server_end = max(server_end, self._state.server_end)
        self._tell(
            replace(self._state, received=received, confirmed=confirmed, server_end=server_end, is_paused=is_paused)
        )

    def _tell(self, state: ReceiverState) -> None:
        """
        Tell a state that is not the one told before.
        """
        if state != self._state or state.phase is ReceiverPhase.STREAMING:
            self._state = state
            self._on_state(state)
