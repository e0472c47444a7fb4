"""
An event loop whose clock is virtual and whose order is chosen by a seed.

Theory of operation. Everything that runs belongs to a *life*: one run of one process of the simulated machine. Within
a life there are *lanes*: the callbacks of its event loop are one, each of its virtual threads is another. A lane is first
in, first out, because asyncio promises that and code may rely on it; which lane goes next is drawn from the seed, because
nothing promises anything between threads and processes. Timers come a little late, by a time drawn from the seed, because
real ones do. When no lane has anything to do the clock jumps to the next timer. So every history of the simulator is a
possible history of the real thing.

A life that is killed runs no line of its own any more that could have an effect: its lanes are emptied but for unwinding,
and whatever it touches outside refuses it (`Life.check`). A life that is frozen (a stopped process) keeps its lanes and
does not get a turn.

A virtual thread is a greenlet. It runs on the loop's thread, and gives it back where a real thread would wait: see
`threads`. Shell, in so far as it runs callbacks.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar, TypeVarTuple

# It has no types of its own.
import greenlet  # type: ignore[import-untyped]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TIMER_LATE_S_MAX: Final = 0.002
"""How late a timer may come."""


class LifeEndedError(BaseException):
    """
    The process that asks is dead. Not an `Exception`: nothing may catch it and go on.
    """


class StuckError(AssertionError):
    """
    Nothing can ever happen again, and somebody still waits.
    """


class Lane:
    """
    What one thread has to do, in order.
    """

    __slots__ = ("life", "queue")

    def __init__(self, life: Life | None) -> None:
        """
        Make an empty one.
        """
        self.life: Final = life
        self.queue: Final[deque[asyncio.Handle]] = deque()


class Life:
    """
    One run of one process.

    Attributes:
        name: of the process.
        is_over: whether it was killed or has ended.
        is_frozen: whether it is stopped.
        failures: what its tasks and threads died of.
    """

    def __init__(self, loop: SimulationLoop, name: str) -> None:
        """
        Begin one.
        """
        self.name: Final = name
        self.is_over = False
        self.is_frozen = False
        self.failures: list[BaseException] = []
        self._loop: Final = loop
        self.lane: Final = Lane(self)
        self.tasks: Final[dict[asyncio.Task[Any], None]] = {}
        self.threads: Final[dict[Any, None]] = {}
        self.context: Final = contextvars.copy_context()
        self.context.run(_LIFE.set, self)

    def check(self) -> None:
        """
        Refuse the dead.

        Raises:
            LifeEndedError: it is.
        """
        if self.is_over:
            raise LifeEndedError(self.name)

    def create_task(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """
        Start a task of this process.
        """
        return self._loop.create_task(work, name=name, context=self.context)

    def freeze(self) -> None:
        """
        Stop it as SIGSTOP does.
        """
        self.is_frozen = True

    def thaw(self) -> None:
        """
        Let a stopped process go on.
        """
        self.is_frozen = False
        self._loop.thawed()

    def kill(self) -> None:
        """
        End it as SIGKILL does; from here on nothing it does has an effect.
        """
        if self.is_over:
            return
        self.is_over = True
        if self.is_frozen:
            self.thaw()
        for thread in list(self.threads):
            thread.kill()
        for task in list(self.tasks):
            task.cancel()


_LIFE: Final[contextvars.ContextVar[Life | None]] = contextvars.ContextVar("life", default=None)


def current_life() -> Life | None:
    """
    Give the process that runs now; None for the simulator itself.
    """
    return _LIFE.get()


class SimulationLoop(asyncio.BaseEventLoop):
    """
    See the module's text.

    Attributes:
        chance: what everything is drawn from.
        failures: what was raised where nobody could catch it.
        turns: how many callbacks have run.
        start_aside: has a call made in a virtual thread; set by whoever has such.
    """

    def __init__(self, chance: Random) -> None:
        """
        Begin at time 0.
        """
        super().__init__()
        self.chance: Final = chance
        self.failures: Final[list[str]] = []
        self.turns = 0
        self.start_aside: Callable[[Callable[[], None]], None] | None = None
        self.hub: greenlet.greenlet = greenlet.getcurrent()
        self._now = 0.0
        self._number = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._own_lane: Final = Lane(None)
        self._active: list[Lane] = []
        self._resting: list[Lane] = []
        self.set_task_factory(_make_task)
        self.set_exception_handler(self._note_failure)

    # --- what asyncio asks -------------------------------------------------------------------------------------------

    def time(self) -> float:
        """
        Tell the virtual time in seconds.
        """
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """
        Put a callback at the end of its life's lane.
        """
        if context is None:
            context = contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        life = context.get(_LIFE)
        self.put(self._own_lane if life is None else life.lane, handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """
        The same: all threads are this one.
        """
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """
        Set a timer.
        """
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """
        Set a timer.
        """
        if context is None:
            context = contextvars.copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        due = when + self.chance.random() * TIMER_LATE_S_MAX if when > self._now else when
        self._number += 1
        heapq.heappush(self._timers, (due, self._number, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """
        Nothing: it is passed over when its time comes.
        """

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """
        Make a call that may wait, in a virtual thread of its own.
        """
        del executor
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits
                self.call_soon(_fail, future, error)
            else:
                self.call_soon(_succeed, future, result)

        assert self.start_aside is not None
        self.start_aside(run)
        return future

    def run_forever(self) -> None:
        """
        Run; threads come back to this one.
        """
        self.hub = greenlet.getcurrent()
        super().run_forever()

    def _process_events(self, event_list: list[Any]) -> None:
        """
        There are none.
        """

    def _write_to_self(self) -> None:
        """
        Nobody sleeps.
        """

    # --- order -------------------------------------------------------------------------------------------------------

    def put(self, lane: Lane, handle: asyncio.Handle) -> None:
        """
        Give a lane something to do.
        """
        lane.queue.append(handle)
        if len(lane.queue) == 1:
            (self._resting if lane.life is not None and lane.life.is_frozen else self._active).append(lane)

    def thawed(self) -> None:
        """
        Some life goes on.
        """
        resting, self._resting = self._resting, []
        for lane in resting:
            (self._resting if lane.life is not None and lane.life.is_frozen else self._active).append(lane)

    def jump(self, seconds: float) -> None:
        """
        Let time pass in which nobody ran: the machine was suspended.
        """
        self._now += seconds

    def _run_once(self) -> None:
        active = self._active
        timers = self._timers
        while timers and (timers[0][0] <= self._now or not active):
            due, _, timer = heapq.heappop(timers)
            if timer.cancelled():
                continue
            self._now = max(self._now, due)
            life = timer._context.get(_LIFE)  # type: ignore[attr-defined]  # noqa: SLF001 - no public name before 3.12
            self.put(self._own_lane if life is None else life.lane, timer)
        if not active:
            raise StuckError("nothing can happen any more")
        index = int(self.chance.random() * len(active)) if len(active) > 1 else 0
        lane = active[index]
        if lane.life is not None and lane.life.is_frozen:
            self._resting.append(active.pop(index))
            return
        handle = lane.queue.popleft()
        if not lane.queue:
            active[index] = active[-1]
            active.pop()
        self.turns += 1
        if not handle.cancelled():
            handle._run()  # noqa: SLF001 - as the base class does

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        error = context.get("exception")
        if isinstance(error, LifeEndedError):
            return
        life = current_life()
        if life is None or not life.is_over:
            self.failures.append(f"{context.get('message')}: {error!r}")


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """
    Make a task that its life knows.
    """
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    life = current_life() if context is None else context.get(_LIFE)
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(life.tasks.pop)
        if life.is_over:
            task.cancel()
    return task


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
