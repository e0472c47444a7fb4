"""
A shape in a notebook that repaints itself.

Shell: a task in the event loop that follows the shape looks a few times a second whether anything has changed, rows or their
freshness, and updates the output of the cell through a display handle of IPython. It ends with the shape, and paints a last
time then, so that nobody takes old rows for current ones. Nothing of it is used outside of notebooks.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol

EVERY_S: Final = 0.5
"""Default of the shortest time between two paintings, in seconds."""


class Watched(Protocol):
    """
    What is shown.
    """

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The loop that follows it.
        """
        ...

    def mark(self) -> object:
        """
        Give something that is another one when there is something else to be painted. Called in the loop.
        """
        ...

    @property
    def is_followed(self) -> bool:
        """
        Whether it is kept current.
        """
        ...


class LiveTable:
    """
    Shows a shape in the output of a cell, for as long as that is followed; made by `shape.live()`.
    """

    def __init__(self, watched: Watched, paint: Callable[[], str], *, every_s: float) -> None:
        """
        Show nothing yet.

        Args:
            watched: what to look at.
            paint: makes the HTML; called in the loop and in the cell's thread.
            every_s: the shortest time between two paintings, in seconds.
        """
        self._watched: Final = watched
        self._paint: Final = paint
        self._every_s: Final = every_s
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._is_closed = False

    def close(self) -> None:
        """
        Repaint no more; the rows stay as they were last.
        """
        self._is_closed = True
        self._watched.loop.call_soon_threadsafe(self._cancel)

    def _repr_html_(self) -> str:
        return self._paint()

    def _ipython_display_(self) -> None:
        display: Any = importlib.import_module("IPython.display")
        handle = display.display(display.HTML(self._paint()), display_id=True)
        if handle is None:
            # There is no notebook: IPython has printed something, and that is all.
            return

        def repaint() -> None:
            handle.update(display.HTML(self._paint()))

        if not self._is_closed and self._watched.is_followed:
            self._watched.loop.call_soon_threadsafe(self._begin, repaint)

    def _begin(self, repaint: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._keep_painting(repaint), name="live table")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _keep_painting(self, repaint: Callable[[], None]) -> None:
        painted: object = None
        try:
            while self._watched.is_followed:
                mark = self._watched.mark()
                if mark != painted:
                    repaint()
                    painted = mark
                await asyncio.sleep(self._every_s)
        finally:
            repaint()
