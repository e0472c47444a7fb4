"""
Descriptors that virtual threads wait for, and the waiter of the connection thread.

`VirtualWaiter` stands for `penstock.replication.waiting.Waiter`. Shell.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Final, TypeVar

from penstock.errors import ConnectionLostError
from penstock.replication.waiting import StopRequestedError
from penstock.testing.simulation.threads import Thread, current_thread

T = TypeVar("T")


class Descriptor:
    """
    Something to wait for; what it stands for tells by `changed` that there is news.
    """

    def __init__(self) -> None:
        """
        Begin without news.
        """
        self.has_news = False
        self._waiting: list[Thread] = []

    def changed(self) -> None:
        """
        There is news.
        """
        self.has_news = True
        for thread in self._waiting:
            thread.unpark()

    def await_by(self, thread: Thread) -> None:
        """
        Have a thread woken.
        """
        self._waiting.append(thread)

    def leave(self, thread: Thread) -> None:
        """
        Have it woken no more.
        """
        self._waiting.remove(thread)


class VirtualWaiter:
    """
    The waits of one thread.
    """

    descriptors: dict[int, Descriptor]

    def __init__(self) -> None:
        """
        Use the descriptors of the class, which a machine makes for itself.
        """
        self.is_stopping = False
        self._stop: Final = Descriptor()

    def register(self, descriptor: Descriptor) -> int:
        """
        Give a descriptor a number.
        """
        number = max(self.descriptors, default=100) + 1
        self.descriptors[number] = descriptor
        return number

    def forget(self, number: int) -> None:
        """
        Take it back.
        """
        self.descriptors.pop(number, None)

    def stop(self) -> None:
        """
        See `Waiter.stop`.
        """
        self.is_stopping = True
        self._stop.changed()

    def close(self) -> None:
        """
        Nothing is held.
        """

    def wait(self, interests: dict[int, int], timeout_s: float, *, is_finishing: bool = False) -> dict[int, int]:
        """
        See `Waiter.wait`.
        """
        watched = {number: self.descriptors[number] for number, events in interests.items() if events & select.POLLIN}
        thread = current_thread()
        assert thread is not None
        if not (self.is_stopping and not is_finishing) and not any(each.has_news for each in watched.values()):
            everything = [*watched.values(), self._stop]
            for each in everything:
                each.await_by(thread)
            try:
                thread.park(max(0.0, timeout_s))
            finally:
                for each in everything:
                    each.leave(thread)
        if self.is_stopping and not is_finishing:
            raise StopRequestedError
        came = {}
        for number, each in watched.items():
            if each.has_news:
                each.has_news = False
                came[number] = select.POLLIN
        return came

    def sleep(self, duration_s: float) -> None:
        """
        See `Waiter.sleep`.
        """
        self.wait({}, duration_s)

    def aside(self, name: str, call: Callable[[], T], timeout_s: float | None = None) -> T:
        """
        See `Waiter.aside`.
        """
        results: list[T] = []
        errors: list[Exception] = []
        done = Descriptor()

        def run() -> None:
            try:
                results.append(call())
            except Exception as error:  # noqa: BLE001 - raised again in the waiting thread
                errors.append(error)
            finally:
                done.changed()

        number = self.register(done)
        thread = Thread(target=run, name=name, daemon=True)
        thread.start()
        waited: Any = {}
        try:
            while not waited:
                waited = self.wait({number: select.POLLIN}, 1.0 if timeout_s is None else timeout_s)
                if not waited and timeout_s is not None:
                    raise ConnectionLostError(f"It took too long: {name}.")
        finally:
            self.forget(number)
        if errors:
            raise errors[0]
        return results[0]
