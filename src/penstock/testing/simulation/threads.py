"""
Threads, locks, queues and clocks as the real code uses them, on a `SimulationLoop`.

A thread is a greenlet that gives the processor back where a real thread would wait, and, drawn from the seed, also where
it takes a lock, which is where other threads may overtake it. `threading`, `queue` and `time` below are what stands in
the place of the modules of these names.

Shell.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue as real_queue
import time as real_time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, Generic, TypeVar

# It has no types of its own.
import greenlet  # type: ignore[import-untyped]

from penstock.testing.simulation.loop import Lane, Life, LifeEndedError, SimulationLoop, current_life

T = TypeVar("T")

OVERTAKEN_CHANCE: Final = 0.1
"""How often a thread gives way where it takes a lock."""
UNIX_EPOCH_S: Final = 1_700_000_000.0
"""The time of day at which every history begins."""


def current_loop() -> SimulationLoop:
    """
    Give the loop of the simulation that runs.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulationLoop)
    return loop


def current_thread() -> Thread | None:
    """
    Give the virtual thread that runs; None when it is an event loop.
    """
    found = greenlet.getcurrent()
    return found.thread if isinstance(found, _Greenlet) else None


# See above.
class _Greenlet(greenlet.greenlet):  # type: ignore[misc]
    thread: Thread


class Thread:
    """
    Stands for `threading.Thread`.
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str = "",
        args: tuple[Any, ...] = (),
        *,
        daemon: bool | None = None,
    ) -> None:
        """
        Nothing runs yet.
        """
        del group, daemon
        self.name = name
        self.ident: int | None = None
        self._target: Final = target
        self._args: Final = args
        self._loop: SimulationLoop | None = None
        self._greenlet: _Greenlet | None = None
        self._life: Life | None = None
        self._lane: Lane | None = None
        self._is_ended = False
        self._is_parked = False
        self._was_woken = False
        self._joining: list[Thread] = []

    def start(self) -> None:
        """
        Have it run soon.
        """
        life = self._life = current_life()
        loop = self._loop = current_loop()
        if life is not None:
            life.check()
            life.threads[self] = None
        self._lane = Lane(life)
        self.ident = id(self)
        self._greenlet = _Greenlet(self._main, loop.hub)
        self._greenlet.thread = self
        self._greenlet.gr_context = contextvars.copy_context()
        self._is_parked = True
        self._wake(was_woken=True)

    def is_alive(self) -> bool:
        """
        Tell whether it has begun and not ended.
        """
        return self.ident is not None and not self._is_ended

    def join(self, timeout: float | None = None) -> None:
        """
        Wait for its end. An event loop, which must not wait, does not.
        """
        waiting = current_thread()
        if waiting is None or not self.is_alive():
            return
        self._joining.append(waiting)
        waiting.park(timeout)

    def park(self, timeout_s: float | None = None) -> bool:
        """
        Wait, as the thread that runs, until `unpark` or the timeout; tells whether it was the former.

        Raises:
            LifeEndedError: its process was killed.
        """
        assert current_thread() is self
        assert self._loop is not None
        if self._life is not None:
            self._life.check()
        self._is_parked = True
        timer = None if timeout_s is None else self._loop.call_later(max(0.0, timeout_s), self._time_out)
        self._loop.hub.switch()
        if timer is not None:
            timer.cancel()
        if self._life is not None:
            self._life.check()
        return self._was_woken

    def unpark(self) -> None:
        """
        End its wait, if it waits.
        """
        self._wake(was_woken=True)

    def kill(self) -> None:
        """
        Let it unwind at once; its process is over.
        """
        assert self._greenlet is not None
        assert self._loop is not None
        if not self._is_ended:
            self._is_parked = False
            if greenlet.getcurrent() is self._loop.hub:
                self._greenlet.throw(LifeEndedError)
            else:
                self._loop.call_soon(self._greenlet.throw, LifeEndedError, context=contextvars.Context())

    def _time_out(self) -> None:
        self._wake(was_woken=False)

    def _wake(self, *, was_woken: bool) -> None:
        if self._is_parked:
            assert self._loop is not None
            assert self._lane is not None
            self._is_parked = False
            self._was_woken = was_woken
            handle = asyncio.Handle(self._resume, (), self._loop, contextvars.Context())
            self._loop.put(self._lane, handle)

    def _resume(self) -> None:
        assert self._greenlet is not None
        if not self._is_ended:
            self._greenlet.switch()

    def _main(self) -> None:
        assert self._loop is not None
        try:
            if self._life is not None:
                self._life.check()
            if self._target is not None:
                self._target(*self._args)
        except LifeEndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - told, as `threading.excepthook` does
            if self._life is None or not self._life.is_over:
                self._loop.failures.append(f"thread {self.name}: {error!r}")
        finally:
            self._is_ended = True
            if self._life is not None:
                self._life.threads.pop(self, None)
            for waiting in self._joining:
                waiting.unpark()


def give_way() -> None:
    """
    Let others overtake the thread that runs, sometimes.
    """
    thread = current_thread()
    if thread is not None and current_loop().chance.random() < OVERTAKEN_CHANCE:
        thread.park(0.0)


def sleep(seconds: float) -> None:
    """
    Let time pass for the thread that runs.
    """
    thread = current_thread()
    assert thread is not None, "an event loop must not sleep"
    thread.park(seconds)


class Lock:
    """
    Stands for `threading.Lock`. Nobody waits while holding one, so it is free whenever it is asked for.
    """

    def __init__(self) -> None:
        """
        Make it free.
        """
        self._is_held = False

    def __enter__(self) -> bool:
        give_way()
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """
        Take it.
        """
        assert not self._is_held, "a thread waits while it holds a lock"
        self._is_held = True
        return True

    def release(self) -> None:
        """
        Give it back.
        """
        self._is_held = False


class Condition(Lock):
    """
    Stands for `threading.Condition`.
    """

    def __init__(self) -> None:
        """
        Make it free.
        """
        super().__init__()
        self._waiting: list[Thread] = []

    def wait(self, timeout: float | None = None) -> bool:
        """
        Wait to be notified, or for the timeout.
        """
        thread = current_thread()
        assert thread is not None, "an event loop must not wait"
        self._waiting.append(thread)
        self.release()
        try:
            return thread.park(timeout)
        finally:
            if thread in self._waiting:
                self._waiting.remove(thread)
            self._is_held = True

    def notify_all(self) -> None:
        """
        Wake all.
        """
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            thread.unpark()


class Event:
    """
    Stands for `threading.Event`.
    """

    def __init__(self) -> None:
        """
        Begin unset.
        """
        self._is_set = False
        self._waiting: list[Thread] = []

    def is_set(self) -> bool:
        """
        Tell whether it is set.
        """
        return self._is_set

    def set(self) -> None:
        """
        Set it, and wake all.
        """
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            thread.unpark()

    def clear(self) -> None:
        """
        Unset it.
        """
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """
        Wait until it is set, or for the timeout.
        """
        thread = current_thread()
        if self._is_set or thread is None:
            return self._is_set
        self._waiting.append(thread)
        thread.park(timeout)
        return self._is_set


class SimpleQueue(Generic[T]):
    """
    Stands for `queue.SimpleQueue` and `queue.Queue`.
    """

    def __init__(self, maxsize: int = 0) -> None:
        """
        Begin empty.
        """
        self._maxsize: Final = maxsize
        self._items: Final[deque[T]] = deque()
        self._waiting: Final[deque[Thread]] = deque()

    @classmethod
    def __class_getitem__(cls, item: object) -> type[SimpleQueue[Any]]:
        del item
        return cls

    def put(self, item: T) -> None:
        """
        Put something in.
        """
        self._items.append(item)
        if self._waiting:
            self._waiting.popleft().unpark()

    def put_nowait(self, item: T) -> None:
        """
        Put something in, if there is room.
        """
        if 0 < self._maxsize <= len(self._items):
            raise real_queue.Full
        self.put(item)

    def get(self) -> T:
        """
        Wait for something.
        """
        thread = current_thread()
        while not self._items:
            assert thread is not None, "an event loop must not wait"
            self._waiting.append(thread)
            thread.park()
        return self._items.popleft()

    def get_nowait(self) -> T:
        """
        Take something, if there is anything.
        """
        if not self._items:
            raise real_queue.Empty
        return self._items.popleft()


def monotonic() -> float:
    """
    Tell the virtual time.
    """
    return current_loop().time()


def unix_time() -> float:
    """
    Tell the virtual time of day.
    """
    return UNIX_EPOCH_S + current_loop().time()


def unix_time_ns() -> int:
    """
    Tell the virtual time of day in nanoseconds.
    """
    return int(unix_time() * 1_000_000) * 1000


threading: Final = SimpleNamespace(Thread=Thread, Lock=Lock, RLock=Lock, Condition=Condition, Event=Event)
queue: Final = SimpleNamespace(SimpleQueue=SimpleQueue, Queue=SimpleQueue, Empty=real_queue.Empty, Full=real_queue.Full)
time: Final = SimpleNamespace(
    monotonic=monotonic,
    time=unix_time,
    time_ns=unix_time_ns,
    sleep=sleep,
    strftime=real_time.strftime,
    gmtime=lambda: real_time.gmtime(unix_time()),
)
