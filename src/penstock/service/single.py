"""
All roles in one process: for development and embedding.

The receiver keeps its two threads; everything else shares one event loop. The promises about loss and about other shapes
are the same; the promise about the write-ahead log is weaker, because nobody outside can end a loop that burns CPU.
Shell.
"""

from __future__ import annotations

import asyncio
from typing import Final

import uvloop

from penstock.api.abc import ShapeSource
from penstock.liveness.board import Board
from penstock.service.engine.engine import Engine
from penstock.service.lifecycle import RoleContext, WakePipe
from penstock.service.observed import ObservedSource
from penstock.service.receiver import Receiver
from penstock.service.settings import Settings
from penstock.service.web import beat_always, serve_source

_LOOK_S: Final = 0.25
"""How often the receiver's threads are looked at."""


class SingleProcess:
    """
    Receiver and engine in this process. Run `run` in a task, serve `source`.
    """

    def __init__(self, settings: Settings, board: Board) -> None:
        """
        Build both; nothing is started before `run`. Must be called in the event loop that will run it.
        """
        self._loop: Final = asyncio.get_running_loop()
        self._board: Final = board
        self._hint: Final = WakePipe.create()
        self._engine: Final = Engine(settings, self._board, wake_receiver=self._look)
        self._receiver: Final = Receiver(
            settings,
            self._board,
            wake_fd=self._hint.reader,
            wake_self=self._hint.ring,
            wake_engine=self._wake_engine,
        )
        self.source: Final[ShapeSource] = self._engine.source

    async def run(self, stopping: asyncio.Event) -> None:
        """
        Work until told to stop.

        Raises:
            PenstockError: what only a person can mend.
        """
        await asyncio.to_thread(self._receiver.start)
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(self._watch(), name="watch the receiver")
                await self._engine.run(stopping)
                watcher.cancel()
        finally:
            await asyncio.to_thread(self._receiver.stop)
            self._hint.close()

    async def _watch(self) -> None:
        while not await asyncio.to_thread(self._receiver.wait_ended, _LOOK_S):
            self._receiver.report()
        if self._receiver.failure is not None:
            raise self._receiver.failure

    def _look(self) -> None:
        self._receiver.look()

    def _wake_engine(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._engine.wake)


def run(context: RoleContext) -> None:
    """
    Be everything until told to end.
    """
    uvloop.run(_run(context))


async def _run(context: RoleContext) -> None:
    stopping = asyncio.Event()
    whole = SingleProcess(context.settings, context.board)
    async with asyncio.TaskGroup() as group:
        serving = serve_source(
            ObservedSource(whole.source, context.board), context.settings, context.listeners, stopping
        )
        group.create_task(whole.run(stopping), name="receiver and engine")
        group.create_task(serving, name="serve")
        beating = group.create_task(beat_always(context), name="heartbeat")
        await context.stopping.stopped()
        stopping.set()
        beating.cancel()
