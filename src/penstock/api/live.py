"""
Waiting together: one question to the engine for all requests that wait for the same thing.

Shell. Two kinds of questions are shared. Live requests that have everything up to the same place of the same log hang
on one `wait`, whose answer, body included, is made once for all of them. Live requests with equal parameters that come
at the same time share one `open`; the answer may then be older than the request by one round trip, which a live request
cannot notice, because it waits for whatever the answer did not contain. Plain requests share only a question that has
not been put yet: those that are read in one turn of the loop.

A wait costs no task: it is a future of the source. The askers of all questions that are answered at the same time are
told in a row, also where a change concerns many shapes with a client each.

A question whose last asker has left is cancelled. While the engine is away a `wait` is asked again and again until
its askers have lost patience; each of them has a deadline of its own. Closed chunks that were served before are served
without it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import structlog

from penstock.api.abc import ShapeSource
from penstock.api.closed import ClosedRanges
from penstock.api.dialogue import News
from penstock.errors import ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import OpenReply, ShapeRequest, WaitReply

RETRY_DELAY_S_MIN: Final = 0.05
RETRY_DELAY_S_MAX: Final = 0.5

TOLD_AT_ONCE_MAX: Final = 256
"""Askers that learn an answer in one turn of the loop; then everybody else has a turn."""

SETTLED_AT_ONCE_MAX: Final = 32
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

    __slots__ = ("_shared", "_work", "askers", "key")

    def __init__(self, shared: Shared[_T], key: Hashable) -> None:
        self._shared = shared
        self.key: Final = key
        self.askers: Final[dict[Asker[_T], None]] = {}
        """Who waits for the answer, in the order in which they came."""
        self._work: asyncio.Future[Any] | None = None

    def put(self, finding: Awaitable[Any]) -> None:
        """
        Let this find the answer.
        """
        work = self._work = asyncio.ensure_future(finding)
        if isinstance(work, asyncio.Task):
            work.set_name(self._shared.name)
        work.add_done_callback(self._finish)

    def join(self, asker: Asker[_T]) -> None:
        """
        Wait for the answer too.
        """
        self.askers[asker] = None

    def leave(self, asker: Asker[_T]) -> None:
        """
        Wait no longer; when the last has left, the question is taken back. Leaving twice has no effect.
        """
        self.askers.pop(asker, None)
        if not self.askers and self._work is not None and not self._work.done():
            self._shared.drop(self)
            self._work.cancel()

    def _finish(self, work: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if work.cancelled() else work.exception()
        if self.askers:
            self._shared.finish(self, None if error is not None else work.result(), error)
        else:
            # The last left in the moment between the answer and this. Who joined later would wait for ever.
            self._shared.drop(self)


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
        self,
        name: str,
        *,
        is_closed_when_put: bool = False,
        read: Callable[[Any], _T] | None = None,
        put_again: Callable[[Any], Awaitable[Any]] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        """
        Begin without any.

        Args:
            name: what is asked, for the names of tasks.
            is_closed_when_put: whether nobody joins a question that has been put already, so that every answer is
                newer than all its askers.
            read: makes of what was found what the askers are told.
            put_again: finds the answer for a key when the engine was away; None where that is the askers' affair.
            settle: called whenever some askers have learnt their answers, before anything else happens.
        """
        self.name: Final = name
        self._is_closed_when_put = is_closed_when_put
        self._read = read
        self._put_again = put_again
        self._on_settled = settle or _do_nothing
        self._questions: dict[Hashable, Question[_T]] = {}
        self._answered: deque[_Answered[_T]] = deque()

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
        return sum(len(question.askers) for question in self._questions.values())

    def count_askers(self) -> Iterator[tuple[Hashable, int]]:
        """
        Give each question that can be joined with the number of those who wait for its answer.
        """
        return ((key, len(question.askers)) for key, question in self._questions.items())

    def find(self, key: Hashable) -> Question[_T] | None:
        """
        Give the question for this key, if there is one that can be joined.
        """
        return self._questions.get(key)

    def join(self, key: Hashable, put: Callable[[], Awaitable[Any]], asker: Asker[_T]) -> Question[_T]:
        """
        Wait for the answer to the question for this key, which is put if it is not under way.
        """
        question = self._questions.get(key)
        if question is None:
            question = Question(self, key)
            # Before anybody can join it: what cannot be put has no answer to wait for.
            question.put(self._close_and_put(question, put) if self._is_closed_when_put else put())
            self._questions[key] = question
        question.join(asker)
        return question

    async def ask(self, key: Hashable, put: Callable[[], Awaitable[Any]]) -> _T:
        """
        Give the answer to the question for this key.
        """
        asker: _FutureAsker[_T] = _FutureAsker()
        question = self.join(key, put, asker)
        try:
            return await asker.future
        finally:
            question.leave(asker)

    def finish(self, question: Question[_T], found: Any, error: BaseException | None) -> None:
        """
        Tell all who wait, in a moment, together with those whose answers come at the same time.
        """
        if isinstance(error, ConnectionLostError) and self._put_again is not None:
            question.put(self._put_again(question.key))
            return
        self.drop(question)
        if not self._answered:
            asyncio.get_running_loop().call_soon(self._tell_some)
        answer = found if error is not None or self._read is None else self._read(found)
        # Not the first of the dictionary again and again: it looks at all the places of those before.
        self._answered.append(_Answered(question.askers, iter(tuple(question.askers)), answer, error))

    def drop(self, question: Question[_T]) -> None:
        """
        Let nobody join any more.
        """
        # The key may belong to a newer question by now.
        if self._questions.get(question.key) is question:
            del self._questions[question.key]

    async def _close_and_put(self, question: Question[_T], put: Callable[[], Awaitable[Any]]) -> Any:
        self.drop(question)
        return await put()

    def _tell_some(self) -> None:
        told_count = 0
        answered = self._answered
        while answered and told_count < TOLD_AT_ONCE_MAX:
            first = answered[0]
            for asker in islice(first.in_order, TOLD_AT_ONCE_MAX - told_count):
                if asker in first.askers:
                    del first.askers[asker]
                    _tell(asker, first)
                told_count += 1
                if told_count % SETTLED_AT_ONCE_MAX == 0:
                    self._settle()
            if told_count < TOLD_AT_ONCE_MAX:
                answered.popleft()
        self._settle()
        if answered:
            asyncio.get_running_loop().call_soon(self._tell_some)

    def _settle(self) -> None:
        try:
            self._on_settled()
        except Exception:  # noqa: BLE001 - nor may a fault in what some put off
            _log.error("an answer could not be passed on", exception=traceback.format_exc())


class _Answered(NamedTuple, Generic[_T]):
    """
    A question with its answer, and who has not been told yet.
    """

    askers: dict[Asker[_T], None]
    in_order: Iterator[Asker[_T]]
    answer: _T
    error: BaseException | None


def _tell(asker: Asker[_T], answered: _Answered[_T]) -> None:
    try:
        if answered.error is None:
            asker.told(answered.answer)
        else:
            asker.failed(answered.error)
    except Exception:  # noqa: BLE001 - one asker must not keep the answer from the others
        _log.error("an answer could not be passed on", exception=traceback.format_exc())


def _do_nothing() -> None:
    pass


class Writes:
    """
    Responses that were put off, each with how to write it.

    A write is a call of the system, after which the processor has forgotten what it was doing: a few of them in a row
    take less time than as many that have something else between them.
    """

    def __init__(self) -> None:
        """
        Begin without any.
        """
        self._waiting: list[tuple[Callable[[bytes], object], bytes]] = []

    def put_off(self, write: Callable[[bytes], object], data: bytes) -> None:
        """
        Write this with the others. Only for who is being told news: after that all are written at once.
        """
        self._waiting.append((write, data))

    def write_all(self) -> None:
        """
        Write what was put off.
        """
        waiting, self._waiting = self._waiting, []
        for write, data in waiting:
            try:
                write(data)
            except RuntimeError:
                # Its connection is closed, and learns so in a moment; the others want theirs.
                continue


class SharedSource:
    """
    The engine as requests see it.
    """

    def __init__(self, source: ShapeSource) -> None:
        self._source = source
        self._opens: Shared[OpenReply] = Shared("open")
        self._plain_opens: Shared[OpenReply] = Shared("open", is_closed_when_put=True)
        self.writes: Final = Writes()
        self._waits: Shared[News] = Shared("wait", read=News, put_again=self._wait_again, settle=self.writes.write_all)
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
        return await self._waits.ask((handle, after), lambda: self._source.wait(handle, after))

    def join_wait(self, handle: str, after: LogOffset, asker: Asker[News]) -> Question[News]:
        """
        As `wait`, without a task for each who waits.
        """
        return self._waits.join((handle, after), lambda: self._source.wait(handle, after), asker)

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

    async def _wait_again(self, key: tuple[str, LogOffset]) -> WaitReply:
        delay_s = RETRY_DELAY_S_MIN
        while True:
            await asyncio.sleep(delay_s)
            try:
                return await self._source.wait(*key)
            except ConnectionLostError:
                delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)
