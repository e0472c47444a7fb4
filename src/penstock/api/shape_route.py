"""
Answering requests for shapes: ask the engine, wait if there is something to wait for, open the files.

Shell; what it decides is in `plan`. A request whose file is gone by the time it is opened asks the engine once more:
the shape was compacted, then the new answer names other files, or removed, then it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from penstock.api import plan
from penstock.api.abc import ShapeSource
from penstock.api.admission import Admission, Permit
from penstock.api.caching import CURSOR_STEP_S_MAX
from penstock.api.dialogue import Ask, Dialogue, News, Nothing, Wait, answer_news, converse, unready
from penstock.api.files import OpenBody
from penstock.api.live import RETRY_DELAY_S_MAX, RETRY_DELAY_S_MIN, SharedSource
from penstock.api.params import LogRequest
from penstock.api.plan import Answer, LogBody, Moment, Planner, Stream
from penstock.api.settings import SSE_KEEPALIVE_S, SSE_LIFE_S, ApiSettings
from penstock.errors import ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import LogRange, OpenReply, Refused, Rotated, ShapeRequest


@dataclass(frozen=True, slots=True)
class World:
    """
    Where time and randomness come from.
    """

    unix_s: Callable[[], float] = time.time
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    random: Random = Random()  # noqa: S311 - spreads clients, guards nothing

    def moment(self) -> Moment:
        """
        Take what one response needs.
        """
        return Moment(self.unix_s(), 1 + int(self.random.random() * CURSOR_STEP_S_MAX), self.monotonic_ns())


@dataclass(frozen=True, slots=True)
class Ready:
    """
    An answer with its files open; whoever gets it closes the body.
    """

    answer: Answer
    body: OpenBody


@dataclass(frozen=True, slots=True)
class Events:
    """
    The head of a stream of events, and the events.
    """

    answer: Answer
    parts: AsyncGenerator[bytes, None]


class ShapeRoute:
    """
    What happens to a valid request for a shape.
    """

    def __init__(
        self, source: ShapeSource, settings: ApiSettings, data_dir: Path, admission: Admission, world: World
    ) -> None:
        self.planner: Final = Planner(settings)
        self.shared: Final = SharedSource(source)
        self._settings = settings
        self._data_dir = data_dir
        self._admission = admission
        self._world = world

    async def answer(
        self, request: LogRequest, if_none_match: list[bytes], permit: Permit, readers: Executor
    ) -> Ready | Events:
        """
        Find the answer, however long the contract allows that to take.
        """
        dialogue = self.begin(request, if_none_match, asyncio.get_running_loop().time())
        with contextlib.closing(dialogue):
            step = next(dialogue)
            while True:
                match step:
                    case Ask():
                        reply = await self._open(request.shape, step)
                        permit.become_existing()
                        step = dialogue.send(reply)
                    case Wait():
                        step = dialogue.send(await self._wait(step.handle, step.after, step.until))
                    case Stream():
                        return self._stream(request, step.handle, step.found, readers)
                    case Nothing():
                        return Events(self.events_head(request, step.handle, step.found), _nothing())
                    case Answer():
                        try:
                            return Ready(step, self.open_files(step, request.shape))
                        except FileNotFoundError:
                            step = dialogue.send(None)

    def begin(self, request: LogRequest, if_none_match: list[bytes], started: float) -> Dialogue:
        """
        Begin the dialogue that leads to the answer to a request that came at this moment.
        """
        return converse(self.planner, request, if_none_match, started, self._world.moment)

    def answer_news(self, request: LogRequest, handle: str, news: News) -> Answer:
        """
        Answer a request that was parked, as its dialogue would.
        """
        return answer_news(self.planner, request, handle, news, self._world.moment())

    def open_files(self, answer: Answer, request: ShapeRequest) -> OpenBody:
        """
        Open what the body of an answer to a request lies in.

        Raises:
            OSError: a file is missing, or cannot be opened.
        """
        try:
            return OpenBody.open(answer.body, self._data_dir)
        except FileNotFoundError:
            self.shared.miss_file(request)
            raise

    def take_note(self, request: ShapeRequest, reply: OpenReply) -> None:
        """
        Remember which handles are served and which are over.
        """
        if request.handle is not None and isinstance(reply, Rotated):
            self._admission.forget(request.handle)
        if not isinstance(reply, Refused) and reply.handle is not None:
            self._admission.remember(reply.handle)

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _open(self, request: ShapeRequest, ask: Ask) -> OpenReply:
        """
        Ask, and ask again while the engine is away, until that moment.
        """
        loop = asyncio.get_running_loop()
        delay_s = RETRY_DELAY_S_MIN
        while True:
            try:
                return await self._open_once(request)
            except ConnectionLostError:
                if loop.time() + delay_s >= ask.until:
                    return ask.refusal
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)

    async def _open_once(self, request: ShapeRequest) -> OpenReply:
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                reply = await self.shared.open(request)
        except TimeoutError:
            return unready(plan.REASON_REPLAYING, plan.RETRY_UNREADY_S)
        self.take_note(request, reply)
        return reply

    async def _wait(self, handle: str, after: LogOffset, until: float) -> News | None:
        try:
            async with asyncio.timeout_at(until):
                return await self.shared.wait(handle, after)
        except TimeoutError:
            return None

    # --- events ------------------------------------------------------------------------------------------------------

    def _stream(self, request: LogRequest, handle: str, found: LogRange, readers: Executor) -> Events:
        return Events(self.events_head(request, handle, found), self._events(handle, found, readers))

    def events_head(self, request: LogRequest, handle: str, found: LogRange) -> Answer:
        """
        Give the head of a stream of events that begins with this range.
        """
        return self.planner.events(request, handle, found, self._world.moment())

    async def _events(self, handle: str, found: LogRange, readers: Executor) -> AsyncGenerator[bytes, None]:
        """
        Give what there is, chunk after chunk, and end; or give what comes until the stream's time is over.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + SSE_LIFE_S
        is_backlog = bool(found.pieces)
        if is_backlog:
            events = await self._frame(plan.live_body(found), readers)
            if events is None:
                return
            yield events
        after, last = found.chunk_end, found.last
        # A client takes streams that end at once for a fault of what lies between, so one brings the whole backlog.
        while loop.time() < until and not (is_backlog and after >= last):
            news = await self._wait(handle, after, min(until, loop.time() + SSE_KEEPALIVE_S))
            if news is None:
                yield plan.SSE_KEEPALIVE
                continue
            if isinstance(news.reply, Rotated):
                return
            events = await self._frame(news.body, readers)
            if events is None:
                return
            yield events
            after, last = news.reply.range.chunk_end, news.reply.range.last

    async def _frame(self, body: LogBody, readers: Executor) -> bytes | None:
        """
        Give the events of a body; None when a file is gone, which ends the stream so that the client asks anew.
        """
        try:
            opened = OpenBody.open(body, self._data_dir)
        except FileNotFoundError:
            return None
        try:
            return plan.frame_events(await opened.whole(readers))
        finally:
            opened.close()


async def _nothing() -> AsyncGenerator[bytes, None]:
    no_parts: tuple[bytes, ...] = ()
    for part in no_parts:
        yield part
