"""
Runs the application under uvicorn.

Shell. uvicorn reads HTTP with httptools and calls the application; what is added here: a stop wakes parked requests
first, so that it takes as long as the responses that are being sent and not as long as a long poll; a connection that
does not send a whole request head in time, or sends one that is too large, is told so and closed; a response that its
reader does not take can be cut. Signals and logging belong to whoever runs the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any, Final, cast
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.api.app import ShapeApp
from penstock.api.exchange import ABORT_EXTENSION
from penstock.api.settings import ApiSettings

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Room for headers besides the path and query."""

BACKLOG_CONNECTIONS: Final = 2048

PARSER_TARGET_BYTES_MAX: Final = 65_535

LINGER_S: Final = 2.0
"""How long the rest of a refused request is read and dropped."""

_TOO_LONG: Final = b"HTTP/1.1 414 Request-URI Too Long\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class HttpServer:
    """
    An application on a socket, until it is told to stop.
    """

    def __init__(self, app: ShapeApp, sock: socket.socket, settings: ApiSettings) -> None:
        """
        Serve `app` on `sock`, which is bound already and is closed at the end.
        """
        self._app = app
        self._sock = sock
        config = uvicorn.Config(
            app,
            http=_make_protocol(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG_CONNECTIONS,
            timeout_keep_alive=settings.idle_timeout_s,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )
        self._server = _QuietServer(config)

    async def serve(self) -> None:
        """
        Accept and answer until `stop`; cancelling stops without waiting for responses under way.
        """
        try:
            await self._server.serve(sockets=[self._sock])
        except asyncio.CancelledError:
            self._server.abandon()
            raise
        finally:
            self._app.close()
            self._sock.close()

    def stop(self) -> None:
        """
        Accept no more, answer parked requests with 503, let responses under way end within the drain time.
        """
        self._app.begin_shutdown()
        self._server.should_exit = True


async def serve(app: ShapeApp, sock: socket.socket, settings: ApiSettings, stop: asyncio.Event) -> None:
    """
    Serve until `stop` is set, then drain and return.
    """
    server = HttpServer(app, sock, settings)

    async def stop_when_told() -> None:
        await stop.wait()
        server.stop()

    async with asyncio.TaskGroup() as group:
        watcher = group.create_task(stop_when_told(), name="stop the HTTP server when told")
        await server.serve()
        watcher.cancel()


class _QuietServer(uvicorn.Server):
    """
    uvicorn without its handlers for signals.
    """

    def abandon(self) -> None:
        """
        Close everything at once.
        """
        for server in getattr(self, "servers", ()):
            server.close()
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _make_protocol(settings: ApiSettings) -> type[HttpToolsProtocol]:
    class ShapeProtocol(_LimitedProtocol):
        header_timeout_s = settings.header_timeout_s
        target_bytes_max = settings.target_bytes_max

    return ShapeProtocol


class _LimitedProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol with limits on the request head.

    Leans on attributes of uvicorn that are not documented (`url`, `headers`, `scope`, `send_400_response`); the tests
    of this module notice when they change.
    """

    header_timeout_s = 30.0
    target_bytes_max = 65_536

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._is_reading_head = False
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an assertion: the transports of uvloop are no subclasses.
        super().connection_made(cast("asyncio.Transport", transport))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self._is_reading_head:
            # Counts from the block that holds the head's first byte on: what came with it before is at most a block.
            self._head_bytes += len(data)
            if self._head_bytes > self.target_bytes_max + HEADERS_BYTES_MAX:
                is_target = len(self.url) > self.target_bytes_max
                self._refuse_head(_TOO_LONG if is_target else _TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT_EXTENSION: self.transport.abort}  # type: ignore[dict-item]
        self._is_reading_head = True
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._is_reading_head = False
        self._forget_head()
        if len(self.url) <= PARSER_TARGET_BYTES_MAX:
            super().on_headers_complete()
            return
        # The parser of targets counts in 16 bits: give it a short one, and the application what was sent. Its task
        # has not begun to run when it is made.
        path, _, query = self.url.partition(b"#")[0].partition(b"?")
        self.url = b"/"
        super().on_headers_complete()
        self.scope["path"] = unquote(path.decode("latin-1"))
        self.scope["raw_path"] = path
        self.scope["query_string"] = query

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._give_up_head)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_head(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse_head(self, response: bytes) -> None:
        # Closing with unread bytes would reset the connection and take the response with it, so read on for a while.
        self._is_refused = True
        self._forget_head()
        if not self.transport.is_closing():
            self.transport.write(response)
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(LINGER_S, self._give_up_head)
