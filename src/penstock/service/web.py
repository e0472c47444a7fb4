"""
The web role: HTTP from a source of shapes, over a socket that the supervisor holds. Shell.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import uvloop

from penstock.api.abc import ShapeSource
from penstock.api.app import ShapeApp
from penstock.api.authorisation import Authorize
from penstock.api.authorising import import_authorize
from penstock.api.remote import RemoteShapeSource
from penstock.api.server import collect_seldom, serve
from penstock.api.settings import ApiSettings
from penstock.dashboard.page import PATH, DemoPage
from penstock.service.lifecycle import RoleContext
from penstock.service.observed import ObservedSource
from penstock.service.settings import Settings

BEAT_S: Final = 0.25
"""How often the loop says that it turns."""
DRAIN_S_MAX: Final = 4
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
        allows_removal=settings.enable_integration_testing,
        requests_initial_max=settings.requests_initial_max,
        requests_existing_max=settings.requests_existing_max,
        authorize_timeout_s=settings.authorize_timeout_s,
        authorize_threads_max=settings.authorize_threads_max,
    )


def find_authorize(settings: Settings) -> Authorize | None:
    """
    Import what authorises, if anything does.

    Raises:
        ConfigError: it is not to be had.
    """
    return None if settings.authorize is None else import_authorize(settings.authorize)


async def serve_source(
    source: ShapeSource, settings: Settings, listeners: Sequence[socket.socket], stopping: asyncio.Event
) -> None:
    """
    Answer HTTP on bound sockets from `source`, until told to stop.

    Raises:
        ConfigError: the callable that authorises is not to be had.
    """
    api = api_settings(settings)
    authorize = find_authorize(settings)
    pages = {PATH: DemoPage()} if settings.demo_page else {}
    async with asyncio.TaskGroup() as group:
        for sock in listeners:
            app = ShapeApp(source, api, settings.data_dir, pages=pages, authorize=authorize)
            group.create_task(serve(app, sock, api, stopping), name=f"serve {sock.getsockname()}")


def run(context: RoleContext) -> None:
    """
    Answer HTTP until told to end.
    """
    collect_seldom()
    uvloop.run(_run(context))


async def _run(context: RoleContext) -> None:
    # Before the first sign of life: what was ready once is started again, and this needs a person.
    find_authorize(context.settings)
    stopping = asyncio.Event()
    remote = RemoteShapeSource(context.engine_socket)
    await remote.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                serve_source(ObservedSource(remote, context.board), context.settings, context.listeners, stopping),
                name="serve",
            )
            beating = group.create_task(beat_always(context), name="heartbeat")
            await context.stopping.stopped()
            stopping.set()
            beating.cancel()
    finally:
        await remote.close()


async def beat_always(context: RoleContext) -> None:
    """
    Say for ever that the loop turns.
    """
    while True:
        context.heartbeat(is_ready=True, state="serving")
        await asyncio.sleep(BEAT_S)
