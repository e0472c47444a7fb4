"""
An event loop in a thread of its own, for the client that blocks.

Shell. `call` and `read` may be used from any thread; Ctrl-C interrupts every wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from penstock.errors import ClientError

T = TypeVar("T")


class LoopThread:
    """
    An event loop in a thread of its own.
    """

    def __init__(self) -> None:
        """
        Start it.
        """
        self._loop: Final = asyncio.new_event_loop()
        self._thread: Final = threading.Thread(target=self._run, name="penstock-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end_tasks())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _end_tasks(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        Run a coroutine there and wait for it; what interrupts the wait cancels it.
        """
        if not self._thread.is_alive():
            coroutine.close()
            raise ClientError("the client is closed: make another one")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ClientError("this would wait for itself: from `on_change`, hand the work to another thread")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def read(self, question: Callable[[], T], /) -> T:
        """
        Ask something there that needs no waiting; also from the thread itself, and after its end.
        """
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return question()

        async def ask() -> T:
            return question()

        return self.call(ask())

    @property
    def is_running(self) -> bool:
        """
        Whether it has not ended.
        """
        return self._thread.is_alive()

    def end(self) -> None:
        """
        End the loop and wait for the thread.
        """
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
