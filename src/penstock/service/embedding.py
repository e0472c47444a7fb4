"""
The whole service inside somebody else's application: an ASGI application that brings its engine along.

Mount it in Starlette, FastAPI, Litestar or Django, wrap it in your own middleware. It starts with the server's lifespan
where it gets to see that, else with the first request; frameworks do not pass the lifespan on to what is mounted in them,
so enter `running()` in the outer application's own lifespan, to start with it and to end in order. Shell.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from penstock.api.app import ShapeApp
from penstock.errors import ConfigError
from penstock.liveness.board import Board
from penstock.service.declarations import DECLARATIONS
from penstock.service.folder import FolderLock, prepare_folder
from penstock.service.observed import ObservedSource
from penstock.service.settings import Settings
from penstock.service.settings_sources import load
from penstock.service.single import SingleProcess
from penstock.service.web import api_settings

_log: Final = structlog.get_logger(__name__)

LOCK_PATIENCE_S: Final = 15.0
"""How long to wait for what is left of a predecessor in the data folder."""


class EmbeddedApp:
    """
    Serves shapes of a database; an ASGI application. Belongs to one event loop at a time.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Take the settings; nothing is started.
        """
        self._settings: Final = settings
        self._starting: Final = asyncio.Lock()
        self._stopping: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._app: ShapeApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve a request, or follow the server's life.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        app = await self.start()
        await app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EmbeddedApp]:
        """
        Run for as long as the block lasts.
        """
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

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
            self._app = ShapeApp(source, api_settings(self._settings), self._settings.data_dir)
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

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def asgi(database_url: str, *, data_dir: str | os.PathLike[str] = "persistent", **settings: str) -> EmbeddedApp:
    """
    Give an ASGI application that serves live subsets of the tables of a database.

    Everything runs in this process, which weakens one promise: nobody outside can end a loop that burns CPU, and then
    the write-ahead log waits for it. For that promise run `penstock serve` beside your application.

    Args:
        database_url: the database; `wal_level` must be `logical`, the user needs REPLICATION.
        data_dir: where everything is kept; one process at a time may own it.
        settings: any setting by name, as text (`acknowledge="shapes"`, `secret="..."`); without `secret` the application
            is open to everybody whom yours lets through. The environment is not read.

    Raises:
        ConfigError: a setting is missing, malformed or contradicts another.
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
        _log.warning(warning)
    return EmbeddedApp(loaded.settings)
