"""
Waiting together: one question to the engine for all requests that wait for the same thing.

Shell. Two kinds of questions are shared. Live requests that have everything up to the same place of the same log hang
on one `wait`, whose answer, body included, is made once for all of them. Live requests with equal parameters that come
at the same time share one `open`; the answer may then be older than the request by one round trip, which a live request
cannot notice, because it waits for whatever the answer did not contain. Plain requests share only a question that has
not been put yet: those that are read in one turn of the loop.

A question whose last asker has left is cancelled. While the engine is away a `wait` is asked again and again until
its askers have lost patience; each of them has a deadline of its own. Closed chunks that were served before are served
without it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Hashable, Iterator
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

import structlog

from penstock.api.abc import ShapeSource
from penstock.api.closed import ClosedRanges
from penstock.api.dialogue import News
from penstock.errors import ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import OpenReply, ShapeRequest

RETRY_DELAY_S_MIN: Final = 0.05
RETRY_DELAY_S_MAX: Final = 0.5

TOLD_AT_ONCE_MAX: Final = 256
"""Askers that learn an answer in one turn of the loop; then everybody else has a turn."""

SETTLED_AT_ONCE_MAX: Final = 16
"""After so many of them what they put off is done. Many, so that it is done in a row; few, so that those who are waiting
for it at the other end of a connection have something to do meanwhile."""

_T = TypeVar("_T")
_T_contra = TypeVar("_T_contra", contravariant=True)

_log = structlog.get_logger("penstock.api")


class Asker(Protocol[_T_contra]):
    """
    Who waits for an answer; exactly one of the two is called, unless it leaves before.
    """

    def told(self, answer: _T_contra) -> None:
        """
        Take the answer.
        """
        ...

    def failed(self, error: BaseException) -> None:
        """
        Learn that there will be none.
        """
        ...


class Question(Generic[_T]):
    """
    A question under way, with all who wait for its answer.
    """

    __slots__ = ("_askers", "_key", "_shared", "task")

    def __init__(self, shared: Shared[_T], key: Hashable) -> None:
        self._shared = shared
        self._key = key
        self._askers: dict[Asker[_T], None] = {}
        self.task: asyncio.Task[_T] | None = None

    @property
    def askers_count(self) -> int:
        """
        How many wait for the answer.
        """
        return len(self._askers)

    def join(self, asker: Asker[_T]) -> None:
        """
        Wait for the answer too.
        """
        self._askers[asker] = None

    def leave(self, asker: Asker[_T]) -> None:
        """
        Wait no longer; when the last has left, the question is taken back. Leaving twice has no effect.
        """
        self._askers.pop(asker, None)
        if not self._askers and self.task is not None and not self.task.done():
            self._shared.drop(self._key, self)
            self.task.cancel()

    def finish(self, task: asyncio.Task[_T]) -> None:
        """
        Tell all who wait.
        """
        self._shared.drop(self._key, self)
        loop = asyncio.get_running_loop()
        error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        askers = self._askers
        # In the order in which they came. Not the first of the dictionary again and again: it looks at all the places
        # of those before.
        in_order = iter(tuple(askers))

        def tell(asker: Asker[_T]) -> None:
            try:
                if error is None:
                    asker.told(task.result())
                else:
                    asker.failed(error)
            except Exception:  # noqa: BLE001 - one asker must not keep the answer from the others
                _log.error("an answer could not be passed on", exception=traceback.format_exc())

        def settle() -> None:
            try:
                if error is None:
                    self._shared.settle(task.result())
            except Exception:  # noqa: BLE001 - likewise
                _log.error("an answer could not be passed on", exception=traceback.format_exc())

        def tell_some() -> None:
            for number, asker in enumerate(islice(in_order, TOLD_AT_ONCE_MAX), 1):
                if asker in askers:
                    del askers[asker]
                    tell(asker)
                if number % SETTLED_AT_ONCE_MAX == 0:
                    settle()
            settle()
            if askers:
                loop.call_soon(tell_some)

        tell_some()


class _FutureAsker(Generic[_T]):
    """
    A task that waits.
    """

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def told(self, answer: _T) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if self.future.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        else:
            self.future.set_exception(error)


class Shared(Generic[_T]):
    """
    Questions under way, by what they ask.
    """

    def __init__(
        self, name: str, *, is_closed_when_put: bool = False, settle: Callable[[_T], None] | None = None
    ) -> None:
        """
        Begin without any.

        Args:
            name: what is asked, for the names of tasks.
            is_closed_when_put: whether nobody joins a question that has been put already, so that every answer is
                newer than all its askers.
            settle: called with an answer whenever some askers have learnt it, before anything else happens.
        """
        self._name = name
        self._is_closed_when_put = is_closed_when_put
        self.settle: Final = settle or _do_nothing
        self._questions: dict[Hashable, Question[_T]] = {}

    @property
    def count(self) -> int:
        """
        How many questions can be joined.
        """
        return len(self._questions)

    @property
    def askers_count(self) -> int:
        """
        How many wait for answers to them.
        """
        return sum(question.askers_count for question in self._questions.values())

    def count_askers(self) -> Iterator[tuple[Hashable, int]]:
        """
        Give each question that can be joined with the number of those who wait for its answer.
        """
        return ((key, question.askers_count) for key, question in self._questions.items())

    def find(self, key: Hashable) -> Question[_T] | None:
        """
        Give the question for this key, if there is one that can be joined.
        """
        return self._questions.get(key)

    def join(self, key: Hashable, put: Callable[[], Awaitable[_T]], asker: Asker[_T]) -> Question[_T]:
        """
        Wait for the answer to the question for this key, which is put if it is not under way.
        """
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = Question(self, key)
            question.task = asyncio.get_running_loop().create_task(self._run(key, question, put), name=self._name)
            question.task.add_done_callback(question.finish)
        question.join(asker)
        return question

    async def ask(self, key: Hashable, put: Callable[[], Awaitable[_T]]) -> _T:
        """
        Give the answer to the question for this key.
        """
        asker: _FutureAsker[_T] = _FutureAsker()
        question = self.join(key, put, asker)
        try:
            return await asker.future
        finally:
            question.leave(asker)

    async def _run(self, key: Hashable, question: Question[_T], put: Callable[[], Awaitable[_T]]) -> _T:
        if self._is_closed_when_put:
            self.drop(key, question)
        return await put()

    def drop(self, key: Hashable, question: Question[_T]) -> None:
        """
        Let nobody join any more.
        """
        # The key may belong to a newer question by now.
        if self._questions.get(key) is question:
            del self._questions[key]


def _do_nothing(_: object) -> None:
    pass


class SharedSource:
    """
    The engine as requests see it.
    """

    def __init__(self, source: ShapeSource) -> None:
        self._source = source
        self._opens: Shared[OpenReply] = Shared("open")
        self._plain_opens: Shared[OpenReply] = Shared("open", is_closed_when_put=True)
        self._waits: Shared[News] = Shared("wait", settle=News.write_all)
        self._closed = ClosedRanges()

    @property
    def waiting_count(self) -> int:
        """
        How many requests wait at these places.
        """
        return self._waits.askers_count

    def count_waiting(self) -> dict[str, int]:
        """
        Give how many requests wait, by the handle of the shape.
        """
        found: dict[str, int] = {}
        for key, count in self._waits.count_askers():
            assert isinstance(key, tuple), "a place is a handle and an offset"
            found[key[0]] = found.get(key[0], 0) + count
        return found

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        Ask what the request reads.

        Raises:
            ConnectionLostError: the engine is away, and the request reads more than a closed chunk known before.
        """
        return await self._find_opens(request).ask(request, lambda: self._open(request))

    def join_open(self, request: ShapeRequest, asker: Asker[OpenReply]) -> Question[OpenReply]:
        """
        As `open`, without a task for each who asks.
        """
        return self._find_opens(request).join(request, lambda: self._open(request), asker)

    def find_open(self, request: ShapeRequest) -> Question[OpenReply] | None:
        """
        Give the question that `join_open` would join, if one is under way.
        """
        return self._find_opens(request).find(request)

    def miss_file(self, request: ShapeRequest) -> None:
        """
        A file that an answer named is gone: only the engine knows what there is now.
        """
        self._closed.forget(request)

    async def wait(self, handle: str, after: LogOffset) -> News:
        """
        Wait, without a deadline and across restarts of the engine, for something after this place.
        """
        return await self._waits.ask((handle, after), lambda: self._wait(handle, after))

    def join_wait(self, handle: str, after: LogOffset, asker: Asker[News]) -> Question[News]:
        """
        As `wait`, without a task for each who waits.
        """
        return self._waits.join((handle, after), lambda: self._wait(handle, after), asker)

    async def _open(self, request: ShapeRequest) -> OpenReply:
        try:
            reply = await self._source.open(request)
        except ConnectionLostError:
            known = self._closed.find(request)
            if known is None:
                raise
            return known
        self._closed.take_note(request, reply)
        return reply

    def _find_opens(self, request: ShapeRequest) -> Shared[OpenReply]:
        return self._opens if request.is_live else self._plain_opens

    async def _wait(self, handle: str, after: LogOffset) -> News:
        delay_s = RETRY_DELAY_S_MIN
        while True:
            try:
                return News(await self._source.wait(handle, after))
            except ConnectionLostError:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)
