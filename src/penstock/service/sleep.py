"""
Sleep: closing every connection to an idle database, so that one that is paid by the hour can stop as well.

`SleepPlan` is the reducer that decides (pure): asleep after `idle_s` without a request and without a transaction, awake
again with the next request, and after `nap_s_max` at the latest, because a slot that nobody reads keeps the database's
log. `Sleeper` is the shell around it: it tells the receiver through the board, closes what the pools hold, and holds the
polls of the catalog and of the budget until the service is up again.

While asleep the service answers as if it were awake; a request that needs more than that wakes it first. Nobody waits
for the receiver to fall asleep, and nothing is owed while it does: the plan is asked to sleep only when all is still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Final, Protocol

import msgspec
import structlog

from penstock.liveness.board import Board, Cell
from penstock.service.cells import TypedCell
from penstock.shapes.offset import LogOffset

_log: Final = structlog.get_logger(__name__)

LOOK_S_MAX: Final = 1.0
END_OF_WAIT_S_MAX: Final = 1.0
"""So soon after a live request has waited in vain it asks a last time."""


class SleepState(Enum):
    """
    Whether the service has connections.
    """

    AWAKE = "awake"
    ASLEEP = "asleep"
    WAKING = "waking"
    """Connections are wanted, and not all of them are there."""


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """
    What the engine wants of the receiver.

    Attributes:
        is_asleep: whether it is to close its connection and rest.
    """

    is_asleep: bool


def wish_cell(board: Board) -> TypedCell[Wish]:
    """
    Give the cell in which the engine says what it wants of the receiver.
    """
    return TypedCell(board, Cell.ENGINE_WISH, Wish)


class SleepPlan:
    """
    When to sleep and when to wake. A reducer; `now` is in seconds of any clock that does not step back.

    Attributes:
        state: what the service should be.
        since: when that began.
    """

    def __init__(self, *, idle_s: float, nap_s_max: float, now: float) -> None:
        """
        Begin awake. With `idle_s` 0 it never sleeps.
        """
        self._idle_s: Final = idle_s
        self._nap_s_max: Final = nap_s_max
        self._active_at = now
        self.state = SleepState.AWAKE
        self.since = now

    def handle_activity(self, now: float) -> bool:
        """
        A request came, or a transaction; tells whether the service has to wake for it.
        """
        self._active_at = now
        if self.state is SleepState.ASLEEP:
            self._enter(SleepState.WAKING, now)
            return True
        return False

    def handle_look(self, now: float, *, is_still: bool, is_up: bool) -> bool:
        """
        See whether it is time; tells whether the state changed.

        Args:
            now: the time.
            is_still: whether nothing is under way and nothing is owed.
            is_up: whether everything that was closed is there again.
        """
        before = self.state
        if before is SleepState.WAKING and is_up:
            self._enter(SleepState.AWAKE, now)
            # Whatever woke it, the database has been disturbed: stay for a while.
            self._active_at = now
        elif before is SleepState.AWAKE and self._idle_s and is_still and now - self._active_at >= self._idle_s:
            self._enter(SleepState.ASLEEP, now)
        elif before is SleepState.ASLEEP and now - self.since >= self._nap_s_max:
            self._enter(SleepState.WAKING, now)
        return self.state is not before

    def due_s(self, now: float) -> float:
        """
        Tell how long until a look may change something by the passing of time alone.
        """
        if self.state is SleepState.ASLEEP:
            return max(0.0, self.since + self._nap_s_max - now)
        return LOOK_S_MAX

    def _enter(self, state: SleepState, now: float) -> None:
        self.state = state
        self.since = now


class Closable(Protocol):
    """
    A pool of connections.
    """

    def close_idle(self) -> None:
        """
        End the connections that are lent to nobody.
        """
        ...


class Sleeper:
    """
    Puts the service to sleep and wakes it.

    Attributes:
        may_poll: set while polls of the database may go on.
    """

    def __init__(
        self,
        *,
        idle_s: float,
        nap_s_max: float,
        board: Board,
        wake_receiver: Callable[[], None],
        pools: Sequence[Closable],
        is_still: Callable[[], bool],
        is_up: Callable[[], bool],
        transaction: Callable[[], object],
        clock: Callable[[], float],
    ) -> None:
        """
        Take the ports.

        Args:
            idle_s: after how long to sleep; 0 for never.
            nap_s_max: how long to sleep at most.
            board: where the receiver looks.
            wake_receiver: makes it look.
            pools: whose connections are closed.
            is_still: whether nothing is under way.
            is_up: whether everything is there again since the last sleep ended.
            transaction: names the last transaction that was processed.
            clock: the time.
        """
        self._is_used: Final = bool(idle_s)
        self._look_s: Final = min(LOOK_S_MAX, idle_s / 4) if idle_s else LOOK_S_MAX
        self._plan: Final = SleepPlan(idle_s=idle_s, nap_s_max=nap_s_max, now=clock())
        self._wish: Final = wish_cell(board)
        self._wake_receiver: Final = wake_receiver
        self._pools: Final = tuple(pools)
        self._is_still: Final = is_still
        self._is_up: Final = is_up
        self._transaction: Final = transaction
        self._clock: Final = clock
        self._hurry: Final = asyncio.Event()
        self._is_awake: Final = asyncio.Event()
        self._is_awake.set()
        self._last_transaction: object = None
        self.may_poll: Final = asyncio.Event()
        self.may_poll.set()

    @property
    def is_asleep(self) -> bool:
        """
        Whether the connections are closed, or not all there again yet.
        """
        return self._plan.state is not SleepState.AWAKE

    @property
    def asleep_s(self) -> float:
        """
        For how long it has been asleep; 0 while it is not.
        """
        return self._clock() - self._plan.since if self._plan.state is SleepState.ASLEEP else 0.0

    async def rouse(self, patience_s: float) -> None:
        """
        A request came: wake if need be, and wait so long for everything to be there.

        It goes on without when that takes longer: what is there can be served all the same.
        """
        if not self._is_used:
            return
        if self._plan.handle_activity(self._clock()):
            self._act()
            self._hurry.set()
        # Of a database that stays away only those shall hear who came first: what is there is served at once then.
        left_s = self._plan.since + patience_s - self._clock()
        if not self._is_awake.is_set() and left_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._is_awake.wait()

    async def run(self) -> None:
        """
        Look after it, until cancelled.
        """
        # What the engine before this one wished does not hold any more.
        self._wish.write(Wish(is_asleep=False))
        self._wake_receiver()
        while self._is_used:
            self._look()
            due_s = min(self._look_s, self._plan.due_s(self._clock()))
            with suppress(TimeoutError):
                async with asyncio.timeout(due_s):
                    await self._hurry.wait()
                self._hurry.clear()
        await asyncio.get_running_loop().create_future()

    def _look(self) -> None:
        now = self._clock()
        transaction = self._transaction()
        if transaction != self._last_transaction:
            self._last_transaction = transaction
            self._plan.handle_activity(now)
        is_awake = self._plan.state is SleepState.AWAKE
        is_waking = self._plan.state is SleepState.WAKING
        if self._plan.handle_look(now, is_still=is_awake and self._is_still(), is_up=is_waking and self._is_up()):
            self._act()
        if self._plan.state is SleepState.ASLEEP:
            # Somebody may have had one a moment ago, or opened one for something that cannot wait.
            for pool in self._pools:
                pool.close_idle()

    def _act(self) -> None:
        """
        Do what the state demands.
        """
        state = self._plan.state
        _log.info("connections to the database", state=state.value)
        if state is SleepState.ASLEEP:
            self.may_poll.clear()
            self._is_awake.clear()
        else:
            self.may_poll.set()
        if state is SleepState.AWAKE:
            self._is_awake.set()
            return
        self._wish.write(Wish(is_asleep=state is SleepState.ASLEEP))
        self._wake_receiver()


class EndedWaits:
    """
    Live requests that have waited in vain while the service slept, and are about to ask a last time.

    One that began before the sleep ends as it would have ended anyway, and wakes nobody.
    """

    def __init__(self, sleeper: Sleeper, clock: Callable[[], float]) -> None:
        """
        Take who knows whether the service sleeps, and the time.
        """
        self._sleeper: Final = sleeper
        self._clock: Final = clock
        self._ended_at: Final[dict[tuple[str | None, LogOffset | None], float]] = {}

    def note(self, handle: str, after: LogOffset) -> None:
        """
        A live request has waited in vain at this place.
        """
        if not self._sleeper.is_asleep:
            return
        now = self._clock()
        self._ended_at.pop((handle, after), None)
        self._ended_at[handle, after] = now
        # Those before it in this dictionary ended earlier; who has not asked by now does not belong to a wait any more.
        while now - (oldest := next(iter(self._ended_at.items())))[1] >= END_OF_WAIT_S_MAX:
            del self._ended_at[oldest[0]]

    def take(self, handle: str | None, offset: LogOffset | None) -> bool:
        """
        Tell whether a request at this place asks a last time for what it has waited for; counts for one request.
        """
        ended_at = self._ended_at.pop((handle, offset), None)
        if not self._sleeper.is_asleep:
            self._ended_at.clear()
        return ended_at is not None and self._clock() - ended_at < END_OF_WAIT_S_MAX
