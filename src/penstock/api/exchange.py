"""
One request and its response, as the ASGI server hands them over.

Shell. Adds the headers that all responses have, sends bodies at the pace of the reader, and ends the handler when there
is no use in it any more: when the client has left, when it has taken nothing for too long, and when the server is told
to stop before the response has begun. All are done by cancelling the handler's task, so whatever it holds is released
on the one way that cancellation takes. Watching for the client to leave costs a task; requests that are answered at
once do without.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.api import heads
from penstock.api.files import OpenBody
from penstock.api.plan import Answer, Header
from penstock.wire import names

ABORT_EXTENSION: Final = "penstock.abort"
"""Name of the ASGI extension by which our server offers to cut a connection."""

WATCH_DELAY_S: Final = 0.05


class BodyTooLargeError(Exception):
    """
    The body of a request is longer than allowed.
    """


class BodyFailedError(Exception):
    """
    The body of a request did not come whole, or not in time.
    """


class Exchange:
    """
    A request on its way to an answer.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, server: bytes, send_timeout_s: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._server = server
        self._send_timeout_s = send_timeout_s
        self._task = asyncio.current_task()
        self._watch_timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._interrupts = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._sending_since: float | None = None
        self._abort: Callable[[], None] | None = (scope.get("extensions") or {}).get(ABORT_EXTENSION)
        self.method: Final[str] = scope["method"]
        self.path: Final = resolve_path(scope)
        self.query_string: Final[bytes] = scope.get("query_string", b"")
        self.target_bytes: Final = len(scope.get("raw_path") or scope["path"].encode()) + len(self.query_string)
        self.headers: Final[list[Header]] = [(bytes(k).lower(), bytes(v)) for k, v in scope["headers"]]
        self.request_id: Final = self._find_request_id()
        self.is_started = False
        self.is_streaming = False
        self.is_gone = False
        self.is_stalled = False
        self.is_stopping = False

    @property
    def scope(self) -> Scope:
        """
        What the server and the application around us know of the request.
        """
        return self._scope

    def header_lines(self, name: bytes) -> list[bytes]:
        """
        Give the values of all headers of this name.
        """
        return [value for key, value in self.headers if key == name]

    # --- ending early ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """
        Look after a while whether the client is still there.
        """
        self._watch_timer = asyncio.get_running_loop().call_later(WATCH_DELAY_S, self._start_watching)

    async def read_body(self, bytes_max: int, *, timeout_s: float) -> bytes:
        """
        Read the whole body. To be called before anything else is awaited, and once.

        Raises:
            BodyTooLargeError: it is longer than allowed; the rest is left to the server.
            BodyFailedError: it did not come in time, or the client left in the middle of it.
        """
        # Whoever looks whether the client is there takes what it sends.
        assert self._watcher is None
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        parts: list[bytes] = []
        left = bytes_max
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.is_gone = True
                        raise BodyFailedError
                    parts.append(message.get("body", b""))
                    left -= len(parts[-1])
                    if left < 0:
                        raise BodyTooLargeError
                    if not message.get("more_body", False):
                        break
        except TimeoutError as cause:
            raise BodyFailedError from cause
        self.begin()
        return b"".join(parts)

    def end(self) -> None:
        """
        Stop looking; nothing interrupts the handler's task from here on.
        """
        self._task = None
        for timer in (self._watch_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def stop(self) -> None:
        """
        End the handler because the server stops, unless its response has begun and will end by itself.
        """
        if not self.is_started or self.is_streaming:
            self.is_stopping = True
            self._interrupt()

    def absorb_interrupt(self) -> bool:
        """
        Tell whether the cancellation just caught was ours and nobody else's, and take it back.
        """
        task = asyncio.current_task()
        assert task is not None
        ours, self._interrupts = self._interrupts, 0
        for _ in range(ours):
            task.uncancel()
        return ours > 0 and not task.cancelling()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._interrupts += 1
            self._task.cancel()

    def _start_watching(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name=f"watch {self.request_id}")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._interrupt()

    # --- answering ---------------------------------------------------------------------------------------------------

    async def answer(self, answer: Answer) -> None:
        """
        Send an answer whose body is in memory.
        """
        assert isinstance(answer.body, bytes)
        await self._start(answer, len(answer.body))
        await self._send_part(b"" if self.method == "HEAD" else answer.body, is_last=True)

    async def answer_open(self, answer: Answer, body: OpenBody, readers: Executor) -> None:
        """
        Send an answer whose body may lie in files.

        Raises:
            CorruptLogError: a file is shorter than it was said to be; the connection must be cut.
        """
        await self._start(answer, body.bytes_count)
        if self.method != "HEAD" and answer.status not in heads.BODILESS:
            left = body.bytes_count
            async for block in body.blocks(readers):
                left -= len(block)
                await self._send_part(block, is_last=left == 0)
            assert left == 0
        else:
            await self._send_part(b"", is_last=True)

    async def answer_stream(self, answer: Answer, parts: AsyncGenerator[bytes, None]) -> None:
        """
        Send an answer whose body comes bit by bit; a stop of the server ends it in order.
        """
        await self._start(answer, None)
        if self.method == "HEAD":
            await parts.aclose()
            await self._send_part(b"", is_last=True)
            return
        self.is_streaming = True
        try:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    await self._send_part(part, is_last=False)
        except asyncio.CancelledError:
            if self.is_gone or self.is_stalled or not self.is_stopping or not self.absorb_interrupt():
                raise
        finally:
            self.is_streaming = False
        await self._send_part(b"", is_last=True)

    async def hand_over(self, page: ASGIApp) -> None:
        """
        Let another application answer, with its own headers.
        """
        self.is_started = True
        await page(self._scope, self._receive, self._send)

    async def answer_plain(self, answer: Answer) -> None:
        """
        Send an answer without the headers for browsers, as for a missing secret.
        """
        assert isinstance(answer.body, bytes)
        await self._start(answer, len(answer.body), has_cors=False)
        await self._send_part(b"" if self.method == "HEAD" else answer.body, is_last=True)

    def cut(self) -> None:
        """
        Close the connection without ending the response, if the server offers that.
        """
        if self._abort is not None:
            self._abort()

    async def _start(self, answer: Answer, bytes_count: int | None, *, has_cors: bool = True) -> None:
        headers = heads.complete(
            answer,
            server=self._server,
            request_id=self.request_id.encode(),
            origin=heads.allowed_origin(self.header_lines(b"origin")) if has_cors else None,
            is_shape=self.path == names.SHAPE_PATH,
            bytes_count=bytes_count,
        )
        self.is_started = True
        await self._put({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def _send_part(self, data: bytes, *, is_last: bool) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def _put(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        self._sending_since = loop.time()
        if self._stall_timer is None:
            self._stall_timer = loop.call_later(self._send_timeout_s, self._judge_stall, loop)
        await self._send(message)
        self._sending_since = None

    def _judge_stall(self, loop: asyncio.AbstractEventLoop) -> None:
        """
        One timer for a whole response: it looks whether a part has been on its way for too long, and comes again.
        """
        waited_s = 0.0 if self._sending_since is None else loop.time() - self._sending_since
        if waited_s >= self._send_timeout_s:
            self.is_stalled = True
            self._interrupt()
        else:
            self._stall_timer = loop.call_later(self._send_timeout_s - waited_s, self._judge_stall, loop)

    def _find_request_id(self) -> str:
        echoed = heads.echoed_request_id(self.header_lines(names.REQUEST_ID_HEADER))
        return secrets.token_hex(16) if echoed is None else echoed.decode("ascii")


def resolve_path(scope: Scope) -> str:
    """
    Give the path below the mount point, without empty segments: what routing and authentication go by.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return "/" + "/".join(segment for segment in path.split("/") if segment)
