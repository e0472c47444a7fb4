"""
The web role: HTTP from a source of shapes, over a socket that the supervisor holds. Shell.
"""

from __future__ import annotations

import asyncio
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Final

from penstock.api.abc import ShapeSource
from penstock.api.app import ShapeApp
from penstock.api.remote import RemoteShapeSource
from penstock.api.server import serve
from penstock.api.settings import ApiSettings
from penstock.service.settings import Settings

DRAIN_S_MAX: Final = 5
"""How long responses under way may take to end when the service stops."""


def api_settings(settings: Settings) -> ApiSettings:
    """
    Take from the service's settings what concerns HTTP.
    """
    return ApiSettings(
        version=version("penstock"),
        secret=settings.secret,
        long_poll_timeout_s=settings.long_poll_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        idle_timeout_s=max(1, round(settings.read_timeout_s)),
        drain_timeout_s=DRAIN_S_MAX,
        cache_max_age_s=settings.cache_max_age_s,
        cache_stale_age_s=settings.cache_stale_age_s,
        requests_initial_max=settings.requests_initial_max,
        requests_existing_max=settings.requests_existing_max,
    )


async def serve_source(source: ShapeSource, settings: Settings, sock: socket.socket, stopping: asyncio.Event) -> None:
    """
    Answer HTTP on a bound socket from `source`, until told to stop.
    """
    api = api_settings(settings)
    app = ShapeApp(source, api, settings.data_dir)
    await serve(app, sock, api, stopping)


async def serve_engine(path: Path, settings: Settings, sock: socket.socket, stopping: asyncio.Event) -> None:
    """
    Answer HTTP from the engine behind a Unix socket.
    """
    source = RemoteShapeSource(path)
    await source.start()
    try:
        await serve_source(source, settings, sock, stopping)
    finally:
        await source.close()
