"""
uvicorn's protocol with limits: on the time and size of a request's head, the time of its body, idleness, and how many
requests a connection may have in line.

Shell. A connection that does not send a whole head in time is closed; one that sends too large a one, or none that can
be read, is told so and closed. Deadlines are in a wheel: a connection has one at a time, its phase says for what.

Leans on attributes of uvicorn that are not documented (`url`, `headers`, `scope`, `cycle`, `flow`, `pipeline`,
`send_400_response`); the tests of the server notice when they change.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from math import inf
from typing import Any, ClassVar, Final, cast
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.api.exchange import ABORT_EXTENSION
from penstock.api.fast.deadlines import Deadlines
from penstock.api.fast.wheel import NO_SLOT
from penstock.api.settings import ApiSettings

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Room for headers besides the path and query."""

PARSER_TARGET_BYTES_MAX: Final = 65_535

PIPELINED_REQUESTS_MAX: Final = 64
"""Requests that wait on a connection for the one before them; with more the connection ends after these."""

LINGER_S: Final = 2.0
"""How long the rest of a refused request is read and dropped."""

_REFUSAL: Final = b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LONG: Final = _REFUSAL % b"414 Request-URI Too Long"
_TOO_LARGE: Final = _REFUSAL % b"431 Request Header Fields Too Large"
_TOO_SLOW: Final = _REFUSAL % b"408 Request Timeout"
_BAD: Final = _REFUSAL % b"400 Bad Request"


class Phase(Enum):
    """
    What a connection's deadline is for.
    """

    HEAD = "a whole head of a request must have come"
    BODY = "its whole body must have come"
    ANSWER = "whatever answers the request says"
    IDLE = "another request must have begun"
    LINGER = "the rest of a refused request is not awaited any longer"
    CLOSING = "the last response must have been taken"


class _Outlet:
    """
    What uvicorn writes the application's responses to, instead of the transport.
    """

    __slots__ = ("_connection", "is_closing", "write")

    def __init__(self, connection: LimitedProtocol) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        self._connection.end_output()


class _Flow:
    """
    uvicorn's account of whether a transport is to be read and written, in a seventh of the memory: what waits for the
    reader is made when somebody does.
    """

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable: asyncio.Event | None = None
        self.read_paused = False
        self.write_paused = False

    async def drain(self) -> None:
        if self.write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None


class LimitedProtocol(HttpToolsProtocol):
    """
    A connection. A subclass of its own for every server names what its connections share.
    """

    # Without these the attributes would be too many for the interpreter to let the connections share their names, and
    # each connection would have a dictionary of its own, of two kilobytes.
    __slots__ = ("_answering", "_head_bytes", "_is_reading_head", "_is_refused", "_phase", "deadline_s", "slot")

    deadlines: ClassVar[Deadlines]
    settings: ClassVar[ApiSettings]
    # Set by uvicorn, which makes no secret of it that these are None at times but in its annotations.
    cycle: Any
    flow: Any
    headers: list[tuple[bytes, bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadline_s = inf
        self.slot = NO_SLOT
        self._phase = Phase.HEAD
        self._head_bytes = 0
        self._is_reading_head = False
        self._is_refused = False
        self._answering: Any = None

    # --- life --------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Begin to wait for a request.
        """
        # Not an assertion: the transports of uvloop are no subclasses.
        plain = cast("asyncio.Transport", transport)
        super().connection_made(plain)
        self.flow = _Flow(plain)
        self._enter(Phase.HEAD, self.settings.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Let go of everything.
        """
        self.deadlines.remove(self)
        self.pipeline.clear()
        answering, self._answering = self._answering, None
        if answering is not None and not answering.response_complete:
            # Its handler gets to know that nobody listens any more; uvicorn tells the last one in line.
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def expire(self) -> None:
        """
        The deadline of the phase is over.
        """
        match self._phase:
            case Phase.BODY:
                self._refuse(_TOO_SLOW)
            case Phase.CLOSING:
                self.transport.abort()
            case Phase.HEAD | Phase.IDLE | Phase.LINGER:
                self.close_soon()
            case Phase.ANSWER:
                self.expire_answer()

    def expire_answer(self) -> None:
        """
        A deadline that was set while a request was answered is over.
        """

    def close_soon(self) -> None:
        """
        Close when everything written has been taken, or nobody takes it.
        """
        if not self.transport.is_closing():
            self.transport.close()
        self._enter(Phase.CLOSING, self.settings.send_timeout_s)

    def _enter(self, phase: Phase, delay_s: float) -> None:
        self._phase = phase
        self.deadlines.arm_in(self, delay_s)

    # --- what comes --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """
        Feed the parser, and look how much of a head there is.
        """
        if self._is_refused:
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        # Not while it is refused: then no head is being read.
        if self._is_reading_head:
            # Counts from the block that holds the head's first byte on: what came with it before is at most a block.
            self._head_bytes += len(data)
            if self._head_bytes > self.settings.target_bytes_max + HEADERS_BYTES_MAX:
                is_target = len(self.url) > self.settings.target_bytes_max
                self._refuse(_TOO_LONG if is_target else _TOO_LARGE)
            elif self._phase is Phase.IDLE:
                self._enter(Phase.HEAD, self.settings.header_timeout_s)
        elif self._phase is Phase.BODY and self.deadline_s == inf:
            self.deadlines.arm_in(self, self.settings.idle_timeout_s)

    def on_message_begin(self) -> None:
        """
        A head begins.
        """
        # What the long way needs besides is made when it is taken.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_reading_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """
        A head is whole.
        """
        self._is_reading_head = False
        if self._is_refused:
            return
        if len(self.pipeline) >= PIPELINED_REQUESTS_MAX:
            self._end_line()
            return
        self.begin_request()

    def begin_request(self) -> None:
        """
        Answer the request whose head has come; the long way, through the application.
        """
        is_first = self.cycle is None or self.cycle.response_complete
        url, headers, is_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.expect_100_continue = is_continue
        self.headers = self.scope["headers"] = headers
        self.scope["extensions"] = {ABORT_EXTENSION: self.transport.abort}  # type: ignore[dict-item]
        if len(url) <= PARSER_TARGET_BYTES_MAX:
            self.url = url
            super().on_headers_complete()
        else:
            # The parser of targets counts in 16 bits: give it a short one, and the application what was sent. Its task
            # has not begun to run when it is made.
            path, _, query = url.partition(b"#")[0].partition(b"?")
            self.url = b"/"
            super().on_headers_complete()
            self.scope["path"] = unquote(path.decode("latin-1"))
            self.scope["raw_path"] = path
            self.scope["query_string"] = query
        self.cycle.transport = _Outlet(self)
        if self.parser.should_upgrade():
            # The parser reads no further behind the offer of another protocol, which is not taken.
            self.cycle.keep_alive = False
        if is_first:
            self._phase = Phase.BODY
            self.deadlines.disarm(self)

    def on_body(self, body: bytes) -> None:
        """
        A part of a body has come.
        """
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """
        A request has come whole.
        """
        if self._is_refused:
            return
        if self._phase is Phase.BODY:
            self._phase = Phase.ANSWER
            self.deadlines.disarm(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """
        Wait for the next request, or begin the one in line.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._enter(Phase.CLOSING, self.settings.send_timeout_s)
            return
        if self._phase is Phase.LINGER:
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._phase = Phase.ANSWER
            self.deadlines.disarm(self)
            self._start_asgi_task(cycle, app)
        elif self._is_reading_head:
            self._enter(Phase.HEAD, self.settings.header_timeout_s)
        else:
            self._enter(Phase.IDLE, self.settings.idle_timeout_s)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # --- refusing ----------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """
        What came cannot be read.
        """
        self._refuse(_BAD)

    def _refuse(self, response: bytes) -> None:
        """
        Read no more requests; say so, unless an earlier one is still being answered: then its answer is the last.
        """
        self._is_refused = True
        self._is_reading_head = False
        if self.transport.is_closing():
            return
        cycle = self.cycle
        is_body_late = self._phase is Phase.BODY
        if cycle is not None and not cycle.response_complete and not is_body_late:
            self._end_line()
            return
        if is_body_late:
            # Its handler gets to know that nobody listens any more.
            is_begun, cycle.disconnected = cycle.response_started, True
            cycle.message_event.set()
            if is_begun:
                self.close_soon()
                return
        self.transport.write(response)
        self.end_output()

    def end_output(self) -> None:
        """
        Close after the last response; when more of the request may come, in a while.
        """
        if self.transport.is_closing():
            return
        is_more_coming = self._is_refused or self._is_reading_head or self._phase is Phase.BODY
        if not is_more_coming or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing with unread bytes would reset the connection and take the response with it, so read on and drop it.
        self._is_refused = True
        self._is_reading_head = False
        self.flow.resume_reading()
        self.transport.write_eof()
        self._enter(Phase.LINGER, LINGER_S)

    def _end_line(self) -> None:
        """
        Let the connection end with the last request that is in line.
        """
        self._is_refused = True
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False
