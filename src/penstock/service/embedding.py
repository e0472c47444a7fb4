"""
The service inside somebody else's application: an ASGI application that brings its engine along, or one that serves what
a `penstock serve` beside it owns.

Mount it in Starlette, FastAPI or Litestar, wrap it in your own middleware, or let a route answer with `respond`. It starts
with the server's lifespan where it gets to see that, else with the first request; frameworks do not pass the lifespan on to
what is mounted in them, so enter `running()` in the outer application's own lifespan, to start with it and to end in order.
For applications without a lifespan of their own, such as Django's, `in_front_of` makes one that has it. Shell.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.api.app import ShapeApp
from penstock.api.authorisation import Authorize, Decision, Grant
from penstock.api.authorising import GRANT_KEY, import_authorize
from penstock.api.exchange import resolve_path
from penstock.api.remote import RemoteShapeSource
from penstock.errors import ConfigError
from penstock.liveness.board import Board
from penstock.service.declarations import DECLARATIONS
from penstock.service.folder import FolderLock, prepare_folder
from penstock.service.observed import ObservedSource
from penstock.service.settings import Settings
from penstock.service.settings_sources import OPEN_TO_ALL, load
from penstock.service.single import SingleProcess
from penstock.service.web import api_settings
from penstock.wire import names

Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""Somebody else's ASGI application, by whichever names it knows the three."""

_log: Final = structlog.get_logger(__name__)

LOCK_PATIENCE_S: Final = 15.0
"""How long to wait for what is left of a predecessor in the data folder."""

ENGINE_SOCKET: Final = "engine.sock"

_NOWHERE: Final = "postgresql:///nowhere"
"""Stands where an application beside the service needs no database."""

_HTTP_SETTINGS: Final = frozenset(
    {
        "secret",
        "insecure",
        "long_poll_timeout_s",
        "cache_max_age_s",
        "cache_stale_age_s",
        "send_timeout_s",
        "enable_integration_testing",
        "requests_initial_max",
        "requests_existing_max",
        "authorize_timeout_s",
        "authorize_threads_max",
    }
)
"""What an application beside the service can be told."""


class MountableApp(ABC):
    """
    Serves shapes; an ASGI application. Belongs to one event loop at a time.
    """

    def __init__(self) -> None:
        """
        Start nothing.
        """
        self._starting: Final = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request, or follow the server's life.
        """
        if scope["type"] == "lifespan":
            await _live(self.running, receive, send)
            return
        app = await self.start()
        await app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """
        Run for as long as the block lasts.
        """
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    @abstractmethod
    async def start(self) -> ShapeApp:
        """
        Start if it is not running.

        Raises:
            ConfigError: the data folder is not to be had.
        """

    @abstractmethod
    async def stop(self) -> None:
        """
        Answer those who wait, and end.
        """

    def respond(self, decision: Decision | Authorize, *, table: str | None = None) -> ShapeResponse:
        """
        Give the response to the request for a shape that the caller's route is handling.

        The route may be at any path, and decide with whatever its framework offers. Where the application has an
        `authorize` too, both must allow.

        Args:
            decision: what the route has decided, or a callable that does once it is known what is asked for. `Allow()` by
                itself allows every table: name the `table`, or decide with `by_table`.
            table: the only table that may be asked for; clients need not name it then.

        Raises:
            DecodeError: the table is none.
        """
        return ShapeResponse(self, Grant(decision, table))

    def in_front_of(self, application: Application, path: str = "/sync") -> ASGIApp:
        """
        Give an application that serves this one below a path and another one everywhere else.

        It follows the server's lifespan, whether or not the other one has use for it: Django has none. There the path is
        the prefix that clients put before `/v1/shape`.

        Raises:
            ConfigError: the path does not begin with a slash, or names nothing.
        """
        prefix = "/" + "/".join(part for part in path.split("/") if part)
        if not path.startswith("/") or prefix == "/":
            raise ConfigError(f'"{path}" is no path to be mounted at, such as "/sync"')
        return _Front(self, application, prefix)


class EmbeddedApp(MountableApp):
    """
    Serves shapes of a database, with an engine of its own in this process.
    """

    def __init__(self, settings: Settings, authorize: Authorize | None = None) -> None:
        """
        Take the settings; nothing is started.
        """
        super().__init__()
        self._settings: Final = settings
        self._authorize: Final = authorize
        self._stopping: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._app: ShapeApp | None = None

    async def start(self) -> ShapeApp:
        """
        Start if it is not running: connect in the background, serve at once.

        Raises:
            ConfigError: the data folder is not to be had.
        """
        async with self._starting:
            if self._app is not None and self._task is not None and not self._task.done():
                return self._app
            if self._task is not None:
                # It ended by itself: say why, and leave it to the caller to start again.
                task, self._task, self._app = self._task, None, None
                await task
            await asyncio.to_thread(prepare_folder, self._settings.data_dir)
            lock = await asyncio.to_thread(FolderLock.take, self._settings.data_dir, patience_s=LOCK_PATIENCE_S)
            board = Board.create_in_memory()
            whole = SingleProcess(self._settings, board)
            self._stopping = asyncio.Event()
            self._task = asyncio.create_task(self._run(whole, board, lock, self._stopping), name="penstock")
            source = ObservedSource(whole.source, board)
            api = api_settings(self._settings)
            self._app = ShapeApp(source, api, self._settings.data_dir, authorize=self._authorize)
            return self._app

    async def stop(self) -> None:
        """
        Answer those who wait, settle, record, disconnect.
        """
        async with self._starting:
            task, app, stopping = self._task, self._app, self._stopping
            self._task = self._app = self._stopping = None
            if app is not None:
                app.close()
            if stopping is not None:
                stopping.set()
            if task is not None:
                await task

    @staticmethod
    async def _run(whole: SingleProcess, board: Board, lock: FolderLock, stopping: asyncio.Event) -> None:
        try:
            await whole.run(stopping)
        finally:
            board.close()
            lock.release()


class BesideApp(MountableApp):
    """
    Serves the shapes of a `penstock serve` on this machine: a web worker of it in somebody else's process.
    """

    def __init__(self, settings: Settings, authorize: Authorize | None = None) -> None:
        """
        Take the settings; nothing is started.
        """
        super().__init__()
        self._settings: Final = settings
        self._authorize: Final = authorize
        self._source: RemoteShapeSource | None = None
        self._app: ShapeApp | None = None

    async def start(self) -> ShapeApp:
        """
        Begin to connect, if that is not done yet. The service may come later, go away and come again: requests that need
        it wait for a while, and get a 503.

        Raises:
            ConfigError: the path of the service's socket is longer than the system allows.
        """
        async with self._starting:
            if self._app is None:
                folder = self._settings.data_dir
                source = RemoteShapeSource(folder / ENGINE_SOCKET)
                await source.start()
                self._source = source
                self._app = ShapeApp(source, api_settings(self._settings), folder, authorize=self._authorize)
            return self._app

    async def stop(self) -> None:
        """
        Answer those who wait, and disconnect; the service goes on.
        """
        async with self._starting:
            app, source = self._app, self._source
            self._app = self._source = None
            if app is not None:
                app.close()
            if source is not None:
                await source.close()


class ShapeResponse(Response):
    """
    A response that the service makes; returned by a route of Starlette or FastAPI, or called as an ASGI application.
    """

    def __init__(self, app: MountableApp, grant: Grant) -> None:
        """
        Answer by `app` as far as `grant` lets it.
        """
        super().__init__()
        self._app: Final = app
        self._grant: Final = grant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer.
        """
        await self._app({**scope, "path": names.SHAPE_PATH, "root_path": "", GRANT_KEY: self._grant}, receive, send)
        if self.background is not None:
            await self.background()


class _Front:
    """
    Two applications by path, and the lifespan of both.
    """

    def __init__(self, inner: MountableApp, outer: Application, prefix: str) -> None:
        self._inner: Final = inner
        self._outer: Final = outer
        self._prefix: Final = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(self._running, receive, send)
            return
        path = resolve_path(scope) if scope["type"] == "http" else ""
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            await self._inner({**scope, "path": path[len(self._prefix) :] or "/", "root_path": ""}, receive, send)
        else:
            await self._outer(scope, receive, send)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._inner.running())
            await stack.enter_async_context(_outer_lifespan(self._outer))
            yield


@asynccontextmanager
async def _outer_lifespan(application: Application) -> AsyncIterator[None]:
    """
    Lead an application through its lifespan, if it has one: one that raises or returns at once has none.
    """
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        answers.put_nowait(message)

    async def follow() -> None:
        try:
            await application({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, told.get, send)
        except Exception:  # noqa: BLE001 - ASGI lets applications say so that they have no lifespan
            _log.debug("the application has no lifespan")
        finally:
            answers.put_nowait({"type": "ended"})

    task = asyncio.create_task(follow(), name="lifespan of the application")
    try:
        told.put_nowait({"type": "lifespan.startup"})
        answer = await answers.get()
        if answer["type"] == "lifespan.startup.failed":
            raise RuntimeError(answer.get("message") or "the application did not start")
        yield
        if not task.done():
            told.put_nowait({"type": "lifespan.shutdown"})
            await answers.get()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _live(running: Callable[[], AbstractAsyncContextManager[Any]], receive: Receive, send: Send) -> None:
    """
    Follow a server's lifespan.
    """
    async with AsyncExitStack() as stack:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await stack.enter_async_context(running())
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await stack.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return


def asgi(
    database_url: str,
    *,
    data_dir: str | os.PathLike[str] = "persistent",
    authorize: Authorize | str | None = None,
    **settings: str,
) -> EmbeddedApp:
    """
    Give an ASGI application that serves live subsets of the tables of a database.

    Everything runs in this process, which weakens one promise: nobody outside can end a loop that burns CPU, and then
    the write-ahead log waits for it. For that promise run `penstock serve` beside your application, and mount `beside`.

    Args:
        database_url: the database; `wal_level` must be `logical`, the user needs REPLICATION.
        data_dir: where everything is kept; one process at a time may own it.
        authorize: decides who may read which rows, see `Authorize`; a callable, or where to import it from, as
            `module:name`. With one, whatever it does not allow is denied.
        settings: any setting by name, as text (`acknowledge="shapes"`, `secret="..."`); without `secret` and `authorize`
            the application is open to everybody whom yours lets through. The environment is not read.

    Raises:
        ConfigError: a setting is missing, malformed or contradicts another.
    """
    return EmbeddedApp(*_read(database_url, data_dir, authorize, settings))


def beside(data_dir: str | os.PathLike[str], *, authorize: Authorize | str | None = None, **settings: str) -> BesideApp:
    """
    Give an ASGI application that serves the shapes of a `penstock serve` with this data folder, on the same machine and
    by the same user.

    The engine is in that service's processes, with all its promises; requests are answered in this one, after your
    middleware and with your `authorize`. Any number of workers may mount it.

    Args:
        data_dir: of the service.
        authorize: as for `asgi`.
        settings: settings that concern HTTP, as for `asgi`; the service's own do not count here.

    Raises:
        ConfigError: a setting is malformed, or is of the engine's.
    """
    for name in settings:
        if name not in _HTTP_SETTINGS and any(name == declaration.name for declaration in DECLARATIONS):
            raise ConfigError(f"{name} is for the service, not for an application beside it")
    return BesideApp(*_read(_NOWHERE, data_dir, authorize, settings))


def _read(
    database_url: str,
    data_dir: str | os.PathLike[str],
    authorize: Authorize | str | None,
    settings: dict[str, str],
) -> tuple[Settings, Authorize | None]:
    """
    Read the settings, and find out who authorises: the argument, else what the settings file says.
    """
    known = {declaration.name for declaration in DECLARATIONS}
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(f"{name} is not a setting" + (f": did you mean {near[0]}?" if near else ""))
    flags = {"database_url": database_url, "data_dir": os.fspath(data_dir), **settings}
    if "secret" not in flags:
        flags.setdefault("insecure", "true")
    loaded = load(flags, {}, Path.cwd(), token=secrets.token_hex(16))
    for warning in loaded.warnings:
        if warning != OPEN_TO_ALL or authorize is None:
            _log.warning(warning)
    if authorize is None:
        authorize = loaded.settings.authorize
    return loaded.settings, import_authorize(authorize) if isinstance(authorize, str) else authorize
