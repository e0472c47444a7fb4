"""
The engine as a process of its own: its loop, its wake-ups, and the socket on which it serves the web. Shell.
"""

from __future__ import annotations

import asyncio

import uvloop

from penstock.api.remote import ShapeSourceServer
from penstock.service.engine.engine import Engine
from penstock.service.lifecycle import RoleContext, collect_garbage_less


def run(context: RoleContext) -> None:
    """
    Be the engine until told to end.
    """
    collect_garbage_less()
    uvloop.run(_run(context))


async def _run(context: RoleContext) -> None:
    stopping = asyncio.Event()

    def beat() -> None:
        health = engine.health()
        context.heartbeat(is_ready=health.state == "active", state=health.reason or health.state)

    engine = Engine(
        context.settings,
        context.board,
        wake_receiver=context.receiver_wake.ring,
        beat=beat,
        faults=context.faults,
    )

    def woken() -> None:
        context.engine_wake.clear()
        engine.wake()

    loop = asyncio.get_running_loop()
    loop.add_reader(context.engine_wake.reader, woken)
    server = ShapeSourceServer(engine.source, context.engine_socket)
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run(stopping), name="engine")
            await context.stopping.stopped()
            stopping.set()
    finally:
        loop.remove_reader(context.engine_wake.reader)
        await server.close()
