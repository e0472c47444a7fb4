"""
Runs the application under uvicorn.

Shell. uvicorn accepts connections and reads HTTP with httptools; what is added here and in `fast`: ordinary requests for
shapes are answered without the application and without a task each; a stop wakes parked requests first, so that it takes
as long as the responses that are being sent and not as long as a long poll; a connection that does not send a whole
request in time, or sends one that is too large, is told so and closed; a response that its reader does not take is cut.
Signals and logging belong to whoever runs the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Generator
from typing import Final

import uvicorn

from penstock.api.app import ShapeApp
from penstock.api.fast.connection import FastProtocol
from penstock.api.fast.deadlines import Deadlines
from penstock.api.fast.hub import Hub
from penstock.api.fast.limits import LimitedProtocol
from penstock.api.settings import ApiSettings

BACKLOG_CONNECTIONS: Final = 2048

COLLECTION_OBJECTS: Final = (10_000, 10, 50)
"""After how many new objects cyclic garbage is looked for, and how many times among the young before among the older."""


class HttpServer:
    """
    An application on a socket, until it is told to stop.
    """

    def __init__(
        self, app: ShapeApp, sock: socket.socket, settings: ApiSettings, *, has_short_way: bool = True
    ) -> None:
        """
        Serve `app` on `sock`, which is bound already and is closed at the end. Must be called in the loop that serves.
        Without the short way the application answers everything.
        """
        self._app = app
        self._sock = sock
        self._deadlines = Deadlines()
        shared: dict[str, object] = {"deadlines": self._deadlines, "settings": settings}
        base: type[LimitedProtocol] = LimitedProtocol
        if has_short_way:
            base = FastProtocol
            shared["hub"] = Hub(app, settings, self._deadlines)
        config = uvicorn.Config(
            app,
            http=type("ServedProtocol", (base,), shared),
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
            self._deadlines.close()
            self._sock.close()

    def stop(self) -> None:
        """
        Accept no more, answer parked requests with 503, let responses under way end within the drain time.
        """
        self._app.begin_shutdown()
        self._server.should_exit = True


def collect_seldom() -> None:
    """
    Let the interpreter look for cyclic garbage less often; for processes that do nothing but serve.

    Requests come and go in thousands, hold each other in no cycles once they are over, and are freed without it. By its
    own settings it would look at those that are parked again and again, which takes a third of the time and stops
    everything for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_OBJECTS)


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
