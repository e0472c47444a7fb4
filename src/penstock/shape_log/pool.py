"""
Threads for calls that may hang in a disk.

A thread that waits for a disk cannot be ended, only left behind. So each thread takes one piece of work at a time from
one queue; work that runs longer than its deadline is *overdue*, and its thread is replaced while there are replacements
left. When the call returns after all, its result counts and the surplus thread ends. The threads are daemons: they never
hold up the end of the process.

A shell, owned by the event loop's thread but for `_run`.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

GATHERING_S: Final = 0.002
"""For how long results are gathered before they are told; waking the loop costs as much as a small piece of work."""
GATHERED_FROM_COUNT: Final = 32
"""How many pieces of work must be unfinished for that."""
_LOOKS_PER_DEADLINE: Final = 8


class _Work:
    __slots__ = ("call", "error", "future", "is_replaced", "key", "result", "started_s")

    def __init__(self, key: int, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.key: Final = key
        self.call: Final = call
        self.future: Final = future
        self.started_s: float | None = None
        self.is_replaced = False
        self.result: Any = None
        self.error: Exception | None = None


class DiskPool:
    """
    At most `threads_max` threads at work, not counting those that hang and were replaced.
    """

    def __init__(self, name: str, *, threads_max: int, replaced_max: int, deadline_s: float) -> None:
        """
        Start no thread yet.

        Args:
            name: for the names of the threads.
            threads_max: how many pieces of work run at once.
            replaced_max: how many hanging threads are replaced at any time; with more of them the pool shrinks.
            deadline_s: how long a piece of work may take before it counts as hanging.
        """
        assert threads_max > 0
        self._name: Final = name
        self._threads_max: Final = threads_max
        self._replaced_max: Final = replaced_max
        self.deadline_s: Final = deadline_s
        self._queue: Final[SimpleQueue[_Work | None]] = SimpleQueue()
        self._finished: Final[deque[_Work]] = deque()
        self._lock: Final = threading.Lock()
        self._is_waking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outstanding: Final[dict[_Work, None]] = {}
        self._threads_started = 0
        self._threads_ended = 0
        self._replaced_count = 0
        self._is_closed = False

    def submit(self, key: int, call: Callable[[], T]) -> asyncio.Future[T]:
        """
        Have a call made in a thread. The key names it in `overdue`.
        """
        assert not self._is_closed
        loop = asyncio.get_running_loop()
        assert self._loop is None or self._loop is loop, "a pool serves one loop"
        self._loop = loop
        future: asyncio.Future[T] = loop.create_future()
        work = _Work(key, call, future)
        self._outstanding[work] = None
        if self.threads_count - self._replaced_count < min(self._threads_max, len(self._outstanding)):
            self._start_thread()
        self._queue.put(work)
        return future

    async def answer(self, key: int, call: Callable[[], T]) -> T:
        """
        Have a call made in a thread, and give up waiting for it when it hangs; its thread is left to itself.

        Raises:
            OSError: it takes longer than the deadline, or raised so itself.
        """
        future = self.submit(key, call)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=self.deadline_s / _LOOKS_PER_DEADLINE)
                if not future.done() and key in self.overdue():
                    # Whatever it still brings, nobody waits for it.
                    future.add_done_callback(lambda done: done.cancelled() or done.exception())
                    raise OSError(errno.ETIMEDOUT, "the disk does not answer")
        except asyncio.CancelledError:
            future.cancel()
            raise
        return future.result()

    @property
    def threads_count(self) -> int:
        """
        Threads alive, hanging ones included.
        """
        return self._threads_started - self._threads_ended

    def overdue(self) -> list[int]:
        """
        Give the keys of the calls that hang, and replace their threads as far as allowed.
        """
        past_s = time.monotonic() - self.deadline_s
        late = [work for work in self._outstanding if work.started_s is not None and work.started_s < past_s]
        for work in late:
            with self._lock:
                may_replace = (
                    not work.is_replaced and work not in self._finished and self._replaced_count < self._replaced_max
                )
                if may_replace:
                    work.is_replaced = True
                    self._replaced_count += 1
            if may_replace:
                self._start_thread()
        return [work.key for work in late]

    @property
    def is_exhausted(self) -> bool:
        """
        Whether every thread hangs, so that what is queued waits for a disk to come back.
        """
        return 0 < self.threads_count <= len(self.overdue())

    def close(self) -> None:
        """
        Take no more work; threads end when they have done what is queued.
        """
        if not self._is_closed:
            self._is_closed = True
            for _ in range(self.threads_count):
                self._queue.put(None)

    def _start_thread(self) -> None:
        self._threads_started += 1
        name = f"{self._name}-{self._threads_started}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if not work.future.cancelled():
                work.started_s = time.monotonic()
                try:
                    work.result = work.call()
                except Exception as error:  # noqa: BLE001 - handed to whoever waits
                    work.error = error
            with self._lock:
                is_surplus = work.is_replaced
                self._finished.append(work)
            self._wake(is_ending=is_surplus)
            if is_surplus:
                return

    def _wake(self, *, is_ending: bool) -> None:
        loop = self._loop
        assert loop is not None
        try:
            if is_ending:
                loop.call_soon_threadsafe(self._thread_ended)
            if not self._is_waking:
                self._is_waking = True
                loop.call_soon_threadsafe(self._deliver_soon)
        except RuntimeError:
            return  # the loop is closed: nobody waits for results any more

    def _thread_ended(self) -> None:
        self._threads_ended += 1
        self._replaced_count -= 1

    def _deliver_soon(self) -> None:
        """
        Deliver at once, or gather for a moment while the threads have plenty to do. The timer is the loop's, so a thread
        that hangs holds back no other's result.
        """
        loop = self._loop
        assert loop is not None
        if len(self._outstanding) - len(self._finished) < GATHERED_FROM_COUNT:
            self._deliver()
        else:
            loop.call_later(GATHERING_S, self._deliver)

    def _deliver(self) -> None:
        self._is_waking = False  # before looking, so that what is finished from now on wakes us again
        while self._finished:
            work = self._finished.popleft()
            del self._outstanding[work]
            if work.future.done():
                continue
            if work.error is None:
                work.future.set_result(work.result)
            else:
                work.future.set_exception(work.error)
