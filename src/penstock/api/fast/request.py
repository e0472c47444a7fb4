"""
A request for a log on the short way: it follows its dialogue by callbacks, and holds little while it is parked.

Shell. Theory of operation: the dialogue says what to do next; each thing to do is one state, and one of two calls ends
it: the answer that was waited for, or the deadline. Nobody else holds a request that is parked but the question that it
has joined, the wheel through its connection, and the set of what is under way; `_leave` takes it out of the first, the
end of the response out of the others.

    AUTHORISING    a callable is asked, which has a limit of its own    decided → ASKING, or denied
    ASKING     the engine was asked                 told → dialogue    deadline → refusal
    AWAY       the engine is away                                      deadline → ask again
    WAITING    for news of the log                  told → dialogue    deadline → dialogue
    SENDING    a large body                         sent → done        deadline → cut
    STREAMING  events, waiting for the next         told → written     deadline → keep-alive, or the end
    CLOGGED    events, the reader does not take     drained → STREAMING    deadline → cut
    DONE

Everything written for one piece of news is made once for all who get the same: whole responses by what distinguishes
them, events as one chunk.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

import structlog

from penstock.api import dialogue, heads, params, plan
from penstock.api.admission import Permit
from penstock.api.authorisation import Deny
from penstock.api.authorising import LateError, Verdict
from penstock.api.dialogue import Ask, Dialogue, News, Nothing, Step, Wait
from penstock.api.fast import render
from penstock.api.fast.deadlines import Expiring
from penstock.api.fast.hub import Hub
from penstock.api.fast.queries import KnownQuery, LastAnswer, Parking, Rules
from penstock.api.fast.sending import Sending, make_sending
from penstock.api.files import OpenBody
from penstock.api.live import RETRY_DELAY_S_MAX, RETRY_DELAY_S_MIN, Question
from penstock.api.plan import Answer, LogBody, Stream
from penstock.api.settings import SSE_KEEPALIVE_S, SSE_LIFE_S
from penstock.errors import ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import Advanced, InlinePiece, Opened, OpenReply, Rotated
from penstock.wire import names

SMALL_BODY_BYTES_MAX: Final = 256 * 1024
"""Bodies up to this size are put together in memory; larger ones go from where they are to the socket."""

JOINED_BYTES_MAX: Final = 8 * 1024
"""Up to this size head and body are copied into one write."""

PREBUILT_MAX: Final = 64
"""Different responses kept for one piece of news."""

PARKING_S: Final = 1.0
"""For so long after the engine was asked, live requests for the same place wait there without asking again."""

_log = structlog.get_logger("penstock.api")


class State(Enum):
    """
    What a request is doing.
    """

    AUTHORISING = "authorising"
    ASKING = "asking"
    AWAY = "away"
    WAITING = "waiting"
    SENDING = "sending"
    STREAMING = "streaming"
    CLOGGED = "clogged"
    DONE = "done"


class Line(Expiring, Protocol):
    """
    The connection that a request came by.

    Attributes:
        transport: where the response is written.
        server_state: uvicorn's, for the headers that all responses have.
        pipeline: further requests that have come.
    """

    transport: Any
    server_state: Any
    pipeline: Any

    def drained(self) -> asyncio.Future[None] | None:
        """
        Give what to wait for before more is written, None when nothing.
        """
        ...

    def forget_request(self) -> None:
        """
        Drop the head of a request that is parked.
        """
        ...

    def take_long_way(self) -> None:
        """
        Let the application answer.
        """
        ...

    def end_output(self) -> None:
        """
        Close after what has been written.
        """
        ...

    def on_response_complete(self) -> None:
        """
        The response is whole.
        """
        ...


class _Event:
    """
    Stands where uvicorn keeps an event for the application; nobody waits for this one.
    """

    def set(self) -> None:
        """
        Do nothing.
        """


_NOBODY: Final = _Event()


class FastRequest:
    """
    Stands where uvicorn keeps what it knows of a request that the application answers.
    """

    __slots__ = (
        "_after",
        "_ask",
        "_asked",
        "_body",
        "_connection",
        "_deciding",
        "_dialogue",
        "_handle",
        "_hub",
        "_if_none_match",
        "_is_head",
        "_known",
        "_origin",
        "_parking",
        "_permit",
        "_question",
        "_request_id",
        "_retry_delay_s",
        "_sending",
        "_started",
        "_state",
        "_until",
        "disconnected",
        "keep_alive",
        "response_complete",
        "response_started",
        "rules",
    )

    message_event: Final = _NOBODY
    more_body: Final = False

    def __init__(
        self,
        connection: Line,
        hub: Hub,
        known: KnownQuery,
        *,
        is_head: bool,
        keep_alive: bool,
        origin: bytes,
        request_id: bytes | None,
        if_none_match: list[bytes],
    ) -> None:
        self._connection: Final[Line] = connection
        self._hub: Final = hub
        self._known = known
        self._is_head: Final = is_head
        self._origin: Final = origin
        self._request_id: Final = request_id or hub.make_request_id()
        self._if_none_match: Final = if_none_match
        self.keep_alive = keep_alive
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self.rules: Rules | None = None
        """What it is authorised for; None when nobody was asked."""
        self._state = State.ASKING
        self._deciding: asyncio.Task[Verdict] | None = None
        self._permit: Permit | None = None
        self._dialogue: Dialogue | None = None
        self._question: Question[OpenReply] | Question[News] | None = None
        self._ask: Ask | None = None
        self._asked: OpenReply | None = None
        self._parking: Parking | None = None
        self._started = 0.0
        self._retry_delay_s = RETRY_DELAY_S_MIN
        self._until = 0.0
        self._handle = ""
        self._after: LogOffset | None = None
        self._body: OpenBody | None = None
        self._sending: Sending | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    def begin(self, scope: Mapping[str, Any] | None = None) -> None:
        """
        Go through the gate and begin the dialogue; with a scope, of what ASGI would know of the request, not before it is
        authorised.
        """
        app = self._hub.app
        app.under_way.add(self)
        self._started = self._hub.loop.time()
        parking, opening = self._find_company() if scope is None else (None, None)
        # One that waits for the next change of a log cannot make a shape either.
        permit = app.gate.admit(self._known.handle, is_joining=parking is not None or opening is not None)
        if isinstance(permit, Answer):
            self._guard(permit)
            return
        self._permit = permit
        if scope is None:
            self._ask_engine(parking, opening)
        else:
            self._authorise(scope)

    def _find_company(self) -> tuple[Parking | None, Question[OpenReply] | None]:
        """
        Give where others wait for what it asks, or who is asking for it.
        """
        known = self._known
        parking = known.parking
        if parking is not None and (self._started >= parking.until_s or self._if_none_match):
            parking = None
        return parking, self._hub.app.route.shared.find_open(known.request.shape) if parking is None else None

    def _ask_engine(self, parking: Parking | None, opening: Question[OpenReply] | None) -> None:
        if parking is not None:
            self._park(parking)
            return
        # Every dialogue begins so; it is made when the answer to this is not known yet.
        self._state = State.ASKING
        self._hub.deadlines.arm_in(self._connection, self._hub.settings.open_timeout_s)
        if opening is None:
            self._question = self._hub.app.route.shared.join_open(self._known.request.shape, self)
        else:
            self._question = opening
            opening.join(self)

    # --- authorising -------------------------------------------------------------------------------------------------

    def _authorise(self, scope: Mapping[str, Any]) -> None:
        self._state = State.AUTHORISING
        self._hub.deadlines.disarm(self._connection)
        query = params.decode_query(scope["query_string"])
        deciding = self._hub.app.authoriser.decide(scope, names.SHAPE_PATH, query, self._known.request.shape)
        self._deciding = self._hub.loop.create_task(deciding, name="authorise")
        self._deciding.add_done_callback(self._decided)

    def _decided(self, task: asyncio.Task[Verdict]) -> None:
        self._deciding = None
        if task.cancelled() or self._state is not State.AUTHORISING:
            return
        error = task.exception()
        try:
            if isinstance(error, LateError):
                self._answer(self._hub.app.route.planner.unready(plan.REASON_AUTHORISING))
            elif error is not None:
                self._fail(error)
            else:
                self._heed(task.result())
        except Exception as fault:  # noqa: BLE001 - whatever it is, the client learns nothing and the log everything
            self._fail(fault)

    def _heed(self, verdict: Verdict) -> None:
        if isinstance(verdict, Deny):
            self._answer(self._hub.app.route.planner.denied(verdict))
            return
        self.rules = verdict
        self._known = self._hub.queries.restrict(self._known, verdict)
        self._ask_engine(*self._find_company())

    def stop(self) -> None:
        """
        The server stops: a response that has begun goes on, events end in order, everybody else hears of it.
        """
        self.keep_alive = False
        match self._state:
            case State.AUTHORISING | State.ASKING | State.AWAY | State.WAITING:
                self._leave()
                self._guard(self._hub.app.route.planner.stopping())
            case State.STREAMING | State.CLOGGED:
                self._leave()
                self._end_events()
            case State.SENDING | State.DONE:
                pass

    def lost(self) -> None:
        """
        The connection is gone.
        """
        self.disconnected = True
        self._finish()

    def expire(self) -> None:
        """
        The deadline of the state is over.
        """
        match self._state:
            case State.ASKING:
                self._leave()
                self._resume(dialogue.unready(plan.REASON_REPLAYING, plan.RETRY_UNREADY_S))
            case State.AWAY:
                assert self._ask is not None
                self._guard(self._ask)
            case State.WAITING:
                self._leave()
                self._resume(None)
            case State.SENDING | State.CLOGGED:
                self._cut()
            case State.STREAMING:
                self._keep_alive()
            case State.AUTHORISING | State.DONE:
                pass

    def told(self, answer: OpenReply | News) -> None:
        """
        The engine has answered.
        """
        self._question = None
        try:
            if self._state is not State.WAITING or not isinstance(answer, News) or not self._write_whole(answer):
                self._take(answer)
        except Exception as error:  # noqa: BLE001 - nobody may stay parked for what has come
            self._fail(error)

    def _take(self, answer: OpenReply | News) -> None:
        if self._state is State.STREAMING:
            assert isinstance(answer, News)
            self._write_events(answer)
            return
        if isinstance(answer, News):
            # Who waits for a place to be reached has to ask again.
            if self._parking is None or not self._write_prebuilt(answer):
                self._resume(answer)
            return
        self._hub.app.route.take_note(self._known.request.shape, answer)
        assert self._permit is not None
        self._permit.become_existing()
        if not self._park_alike(answer) and not self._write_again(answer):
            self._resume(answer)

    def failed(self, error: BaseException) -> None:
        """
        The engine has not answered.
        """
        self._question = None
        if not isinstance(error, ConnectionLostError) or self._state is not State.ASKING:
            self._fail(error)
            return
        if self._dialogue is None:
            self._begin_dialogue()
        assert self._ask is not None
        now = self._hub.loop.time()
        if now + self._retry_delay_s >= self._ask.until:
            self._resume(self._ask.refusal)
            return
        self._state = State.AWAY
        self._hub.deadlines.arm(self._connection, now + self._retry_delay_s)
        self._retry_delay_s = min(2 * self._retry_delay_s, RETRY_DELAY_S_MAX)

    # --- following the dialogue --------------------------------------------------------------------------------------

    def _begin_dialogue(self) -> Dialogue:
        begun = self._hub.app.route.begin(self._known.request, self._if_none_match, self._started)
        first = next(begun)
        assert isinstance(first, Ask)
        self._ask = first
        self._dialogue = begun
        parking = self._parking
        if parking is not None:
            # It was parked as others were who got the same answer, and now has to go a way of its own.
            step = begun.send(parking.reply)
            assert isinstance(step, Wait)
            assert step.is_parking
        return begun

    def _park_alike(self, reply: OpenReply) -> bool:
        """
        Wait where others wait who asked the same and got the same answer; False when nobody does.
        """
        parking = self._known.parking
        if parking is None or parking.reply is not reply or self._if_none_match or self._dialogue is not None:
            return False
        self._park(parking)
        return True

    def _park(self, parking: Parking) -> None:
        """
        Wait for news without a dialogue: it is begun when there is anything to say that was not said to others.
        """
        self._state = State.WAITING
        self._parking = parking
        self._handle, self._after = parking.handle, parking.after
        hub = self._hub
        hub.deadlines.arm(self._connection, self._started + hub.settings.long_poll_timeout_s)
        self._question = hub.app.route.shared.join_wait(parking.handle, parking.after, self)
        self._connection.forget_request()

    def _remember_parking(self, wait: Wait, reply: dialogue.Reply) -> None:
        self._parking = None
        if wait.is_parking:
            assert isinstance(reply, Opened)
            self._parking = Parking(reply, wait.handle, wait.after, self._hub.loop.time() + PARKING_S)
            if not self._if_none_match:
                self._known.parking = self._parking

    def _resume(self, reply: dialogue.Reply) -> None:
        try:
            step = (self._dialogue or self._begin_dialogue()).send(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client learns nothing and the log everything
            self._fail(error)
            return
        if isinstance(step, Wait):
            self._remember_parking(step, reply)
        self._guard(step)

    def _guard(self, step: Step) -> None:
        try:
            self._follow(step)
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(error)

    def _follow(self, step: Step) -> None:
        hub = self._hub
        match step:
            case Ask():
                if self._state is not State.AWAY:
                    self._retry_delay_s = RETRY_DELAY_S_MIN
                self._ask = step
                self._state = State.ASKING
                hub.deadlines.arm_in(self._connection, hub.settings.open_timeout_s)
                self._question = hub.app.route.shared.join_open(self._known.request.shape, self)
            case Wait():
                self._state = State.WAITING
                hub.deadlines.arm(self._connection, step.until)
                self._handle, self._after = step.handle, step.after
                self._question = hub.app.route.shared.join_wait(step.handle, step.after, self)
                if not self._known.request.is_sse:
                    self._connection.forget_request()
            case Answer():
                self._answer(step)
            case Stream() if not (step.found.pieces or self._is_head or not self.keep_alive):
                self._begin_events(step)
            case Stream() | Nothing():
                self._hand_over()

    def _leave(self) -> None:
        question, self._question = self._question, None
        if question is not None:
            question.leave(self)
        deciding, self._deciding = self._deciding, None
        if deciding is not None:
            deciding.cancel()

    def _hand_over(self) -> None:
        """
        Let the application answer, from the beginning.
        """
        connection = self._connection
        self.response_complete = True
        self._finish()
        connection.take_long_way()

    # --- answering ---------------------------------------------------------------------------------------------------

    def _answer(self, answer: Answer) -> None:
        body: bytes | OpenBody
        if isinstance(answer.body, bytes):
            body, bytes_count = answer.body, len(answer.body)
        else:
            try:
                body = self._hub.app.route.open_files(answer, self._known.request.shape)
            except FileNotFoundError:
                self._resume(None)
                return
            bytes_count = body.bytes_count
        rest = self._render_rest(answer, bytes_count)
        asked = self._asked
        is_bodiless = self._is_head or answer.status in heads.BODILESS
        if isinstance(body, OpenBody) and (is_bodiless or bytes_count <= SMALL_BODY_BYTES_MAX):
            with body:
                data = b"" if is_bodiless else body.read_now()
        elif isinstance(body, OpenBody):
            self._send_large(answer.status, rest, body)
            return
        else:
            data = b"" if is_bodiless else body
        if asked is not None and answer.status == 200 and len(rest) + len(data) <= JOINED_BYTES_MAX:
            self._known.last = LastAnswer(
                asked, self._origin, is_head=self._is_head, keep_alive=self.keep_alive, data=rest + data
            )
        self._write(answer.status, rest, data)

    def _write_again(self, reply: OpenReply) -> bool:
        """
        Write what a plain request was answered last, when the engine says the same again; False when it does not.
        """
        request = self._known.request
        self._asked = None
        if request.shape.is_live or request.shape.offset is None or self._if_none_match:
            return False
        last = self._known.last
        if last is None or not last.fits(reply, self._origin, is_head=self._is_head, keep_alive=self.keep_alive):
            # Not what lies in files: they may be gone by the next time.
            if isinstance(reply, Opened) and all(isinstance(piece, InlinePiece) for piece in reply.range.pieces):
                self._asked = reply
            return False
        self._write(200, last.data, b"")
        return True

    def _render_rest(self, answer: Answer, bytes_count: int | None, *more: plan.Header) -> bytes:
        if self.rules is not None:
            answer = plan.private(answer)
        headers = heads.rest(
            answer,
            origin=self._origin,
            is_shape=True,
            bytes_count=bytes_count,
        )
        if not self.keep_alive:
            headers.append(render.CLOSE)
        headers += more
        return render.rest(headers)

    def _front(self, status: int) -> bytes:
        connection = self._connection
        return self._hub.front(status, connection.server_state.default_headers) + self._request_id

    def _write(self, status: int, rest: bytes, data: bytes) -> None:
        transport = self._connection.transport
        self.response_started = True
        if len(data) <= JOINED_BYTES_MAX:
            transport.write(self._front(status) + rest + data)
        else:
            transport.write(self._front(status) + rest)
            transport.write(data)
        self._done()

    def _write_whole(self, news: News) -> bool:
        """
        Write what was made for another who learnt the same news; False when nothing was.
        """
        found = news.whole.get((self._known, self._origin, self._is_head, self.keep_alive))
        if found is None:
            return False
        self._put_off(found)
        return True

    def _put_off(self, part: bytes) -> None:
        """
        Let a small response, all but its first lines, be written together with those of others who are told now.

        Does what `_write` and `_done` do, in as few steps as it takes: a change goes this way to nearly all who wait.
        """
        connection = self._connection
        if not self.keep_alive or connection.pipeline:
            self._write(200, part, b"")
            return
        hub = self._hub
        response = hub.front(200, connection.server_state.default_headers) + self._request_id + part
        hub.app.route.shared.writes.put_off(connection.transport.write, response)
        self.response_started = self.response_complete = True
        self._state = State.DONE
        self._dialogue = self._parking = None
        if self._permit is not None:
            self._permit.release()
            self._permit = None
        hub.app.under_way.discard(self)
        connection.on_response_complete()

    def _write_prebuilt(self, news: News) -> bool:
        """
        Make what all who learn the same news are written, and write it; False when it is too large to be made.
        """
        key = (self._known, self._origin, self._is_head, self.keep_alive)
        found = news.prebuilt.get(key)
        data = news.prebuilt.get(None)
        if found is None or data is None:
            if isinstance(news.reply, Rotated) or news.body.bytes_count > SMALL_BODY_BYTES_MAX:
                return False
            assert isinstance(news.reply, Advanced)
            # What the dialogue would say. It is needed only when this cannot be sent.
            answer = self._hub.app.route.answer_news(self._known.request, self._handle, news)
            if data is None:
                try:
                    data = news.prebuilt[None] = self._read_now(answer)
                except FileNotFoundError:
                    (self._dialogue or self._begin_dialogue()).send(news)
                    self._resume(None)
                    return True
            found = self._render_rest(answer, len(data))
            self._hub.queries.expect(self._known, news.reply, self._hub.loop.time() + PARKING_S)
            part = found if self._is_head else found + data
            if len(part) <= JOINED_BYTES_MAX:
                if len(news.whole) < PREBUILT_MAX:
                    news.whole[key] = part
                self._put_off(part)
                return True
            if len(news.prebuilt) < PREBUILT_MAX:
                news.prebuilt[key] = found
        self._write(200, found, b"" if self._is_head else data)
        return True

    def _read_now(self, answer: Answer) -> bytes:
        found = answer.body.find_inline() if isinstance(answer.body, LogBody) else None
        if found is not None:
            return found
        with self._hub.app.route.open_files(answer, self._known.request.shape) as opened:
            return opened.read_now()

    def _send_large(self, status: int, rest: bytes, body: OpenBody) -> None:
        self.response_started = True
        self._body = body
        self._state = State.SENDING
        connection = self._connection
        self._sending = make_sending(
            connection.transport,
            self._front(status) + rest,
            body,
            self,
            readers=self._hub.app.readers,
            drain=connection.drained,
        )
        self.body_moved()
        self._sending.start()

    def body_moved(self) -> None:
        """
        The reader of a large body has taken something.
        """
        self._hub.deadlines.arm_in(self._connection, self._hub.settings.send_timeout_s)

    def body_sent(self) -> None:
        """
        A large body is written.
        """
        self._sending = None
        self._done()

    def body_failed(self, error: Exception) -> None:
        """
        The rest of a large body cannot be written.
        """
        self._sending = None
        if not isinstance(error, OSError):
            _log.error("a response was cut", error=str(error), request_id=self._request_id.decode())
        self._cut()

    # --- events ------------------------------------------------------------------------------------------------------

    def _begin_events(self, stream: Stream) -> None:
        answer = self._hub.app.route.events_head(self._known.request, stream.handle, stream.found)
        rest = self._render_rest(answer, None, render.CHUNKED)
        self.response_started = True
        self._connection.transport.write(self._front(answer.status) + rest)
        self._until = self._hub.loop.time() + SSE_LIFE_S
        self._handle, self._after = stream.handle, stream.found.chunk_end
        self._connection.forget_request()
        self._await_events()

    def _await_events(self) -> None:
        assert self._after is not None
        self._state = State.STREAMING
        now = self._hub.loop.time()
        self._hub.deadlines.arm(self._connection, min(self._until, now + SSE_KEEPALIVE_S))
        if self._question is None:
            self._question = self._hub.app.route.shared.join_wait(self._handle, self._after, self)

    def _write_events(self, news: News) -> None:
        """
        Write what comes, as one chunk that is made once for everybody.
        """
        if isinstance(news.reply, Rotated):
            self._end_events()
            return
        part = news.prebuilt.get(render.chunk)
        if part is None:
            try:
                answer = Answer(200, (), news.body)
                with self._hub.app.route.open_files(answer, self._known.request.shape) as body:
                    part = render.chunk(plan.frame_events(body.read_now()))
            except FileNotFoundError:
                # The client asks anew and gets it from elsewhere, or hears that the log is over.
                self._end_events()
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the client learns nothing and the log everything
                self._fail(error)
                return
            news.prebuilt[render.chunk] = part
        self._hub.app.route.shared.writes.put_off(self._connection.transport.write, part)
        self._after = news.reply.range.chunk_end
        self._await_events()

    def _keep_alive(self) -> None:
        if self._hub.loop.time() >= self._until:
            self._leave()
            self._end_events()
            return
        self._connection.transport.write(render.chunk(plan.SSE_KEEPALIVE))
        if self._state is State.STREAMING:
            self._await_events()

    def clog(self) -> None:
        """
        What was written last is too much for the reader: give it no more before it has taken that.
        """
        if self._state is State.STREAMING:
            self._leave()
            self._state = State.CLOGGED
            self._hub.deadlines.arm_in(self._connection, self._hub.settings.send_timeout_s)

    def unclog(self) -> None:
        """
        The reader has taken what there was.
        """
        if self._state is State.CLOGGED:
            self._await_events()

    def _end_events(self) -> None:
        self._connection.transport.write(render.LAST_CHUNK)
        self._done()

    # --- ending ------------------------------------------------------------------------------------------------------

    def _done(self) -> None:
        """
        The response is written.
        """
        connection = self._connection
        self.response_complete = True
        self._finish()
        if not self.keep_alive:
            connection.end_output()
        connection.on_response_complete()

    def _fail(self, error: BaseException) -> None:
        """
        A fault of ours: the log learns everything, the client that it happened.
        """
        if self._state is State.DONE:
            return
        self._leave()
        if isinstance(error, asyncio.CancelledError):
            self._cut()
            return
        # As text: what renders tracebacks for an embedding program may show variables, and with them a secret.
        _log.error(
            "request failed",
            request_id=self._request_id.decode(),
            path=names.SHAPE_PATH,
            exception="".join(traceback.format_exception(error)),
        )
        if self.response_started:
            self._cut()
            return
        answer = self._hub.app.route.planner.error(500, {"error": "Internal server error"})
        assert isinstance(answer.body, bytes)
        self._write(500, self._render_rest(answer, len(answer.body)), b"" if self._is_head else answer.body)

    def _cut(self) -> None:
        transport = self._connection.transport
        self._finish()
        transport.abort()

    def _finish(self) -> None:
        """
        Let go of everything; more than once has no effect.
        """
        if self._state is State.DONE:
            return
        self._state = State.DONE
        self._leave()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._body is not None:
            self._body.close()
            self._body = None
        if self._dialogue is not None:
            self._dialogue.close()
            self._dialogue = None
        if self._permit is not None:
            self._permit.release()
            self._permit = None
        self._hub.app.under_way.discard(self)
