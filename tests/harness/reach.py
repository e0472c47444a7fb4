"""
Ways in which the HTTP server reaches a source of shapes: in the same process, or over a socket as in a service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from conformance.scripted_source import ScriptedSource
from penstock.api.abc import ShapeSource
from penstock.api.remote import RemoteShapeSource, ShapeSourceServer

Reach: TypeAlias = Callable[[ScriptedSource, Path], AbstractAsyncContextManager[ShapeSource]]


@asynccontextmanager
async def directly(scripted: ScriptedSource, _folder: Path) -> AsyncIterator[ShapeSource]:
    """
    In the same process.
    """
    yield scripted


@asynccontextmanager
async def served(scripted: ScriptedSource, folder: Path) -> AsyncIterator[ShapeSourceServer]:
    """
    Serve a source on the folder's socket.
    """
    server = ShapeSourceServer(scripted, folder / "s")
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[RemoteShapeSource]:
    """
    Reach what is served on the folder's socket, now or later.
    """
    source = RemoteShapeSource(folder / "s")
    await source.start()
    try:
        yield source
    finally:
        await source.close()


@asynccontextmanager
async def remotely(scripted: ScriptedSource, folder: Path) -> AsyncIterator[ShapeSource]:
    """
    Over a socket; nothing may be left under way at its end.
    """
    async with served(scripted, folder), connected(folder) as source:
        while not source.is_connected:  # noqa: ASYNC110  a state, not an event
            await asyncio.sleep(0.001)
        yield source
    assert scripted.waits_under_way == scripted.opens_under_way == 0
