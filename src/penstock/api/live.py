"""
Waiting together: one question to the engine for all requests that wait for the same thing.

Shell. Two kinds of questions are shared. Live requests that have everything up to the same place of the same log hang
on one `wait`, whose answer, body included, is made once for all of them. Live requests with equal parameters that come
at the same time share one `open`; the answer may then be older than the request by one round trip, which a live request
cannot notice, because it waits for whatever the answer did not contain. Plain requests share nothing.

A question whose last asker has left is cancelled. While the engine is away a `wait` is asked again and again until
its askers have lost patience; each of them has a deadline of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from penstock.api.abc import ShapeSource
from penstock.api.dialogue import News
from penstock.errors import ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import OpenReply, ShapeRequest

RETRY_DELAY_S_MIN: Final = 0.05
RETRY_DELAY_S_MAX: Final = 0.5

_T = TypeVar("_T")


class _Question(Generic[_T]):
    __slots__ = ("askers", "task")

    def __init__(self, task: asyncio.Task[_T]) -> None:
        self.task = task
        self.askers: set[asyncio.Future[_T]] = set()


class Shared(Generic[_T]):
    """
    Questions under way, by what they ask.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._questions: dict[Hashable, _Question[_T]] = {}

    @property
    def count(self) -> int:
        """
        How many questions are under way.
        """
        return len(self._questions)

    async def ask(self, key: Hashable, put: Callable[[], Awaitable[_T]]) -> _T:
        """
        Give the answer to the question under way for this key, or put it.
        """
        question = self._questions.get(key)
        if question is None:
            question = self._start(key, put)
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        question.askers.add(answer)
        try:
            return await answer
        finally:
            question.askers.discard(answer)
            if not question.askers and not question.task.done():
                self._drop(key, question)
                question.task.cancel()

    def _start(self, key: Hashable, put: Callable[[], Awaitable[_T]]) -> _Question[_T]:
        async def run() -> _T:
            return await put()

        question = _Question(asyncio.get_running_loop().create_task(run(), name=f"{self._name} {key!s:.100}"))
        self._questions[key] = question

        def finish(task: asyncio.Task[_T]) -> None:
            self._drop(key, question)
            askers = [asker for asker in question.askers if not asker.done()]
            if task.cancelled():
                for asker in askers:
                    asker.cancel()
                return
            error = task.exception()
            for asker in askers:
                if error is None:
                    asker.set_result(task.result())
                else:
                    asker.set_exception(error)

        question.task.add_done_callback(finish)
        return question

    def _drop(self, key: Hashable, question: _Question[_T]) -> None:
        # The key may belong to a newer question by now.
        if self._questions.get(key) is question:
            del self._questions[key]


class SharedSource:
    """
    The engine as live requests see it.
    """

    def __init__(self, source: ShapeSource) -> None:
        self._source = source
        self._opens: Shared[OpenReply] = Shared("open")
        self._waits: Shared[News] = Shared("wait")

    @property
    def waits_count(self) -> int:
        """
        How many places are waited at, whatever the number of requests.
        """
        return self._waits.count

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        Ask what the request reads; live requests share the answer.

        Raises:
            ConnectionLostError: the engine is away.
        """
        if request.is_live:
            return await self._opens.ask(request, lambda: self._source.open(request))
        return await self._source.open(request)

    async def wait(self, handle: str, after: LogOffset) -> News:
        """
        Wait, without a deadline and across restarts of the engine, for something after this place.
        """

        async def put() -> News:
            delay_s = RETRY_DELAY_S_MIN
            while True:
                try:
                    return News(await self._source.wait(handle, after))
                except ConnectionLostError:
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)

        return await self._waits.ask((handle, after), put)
