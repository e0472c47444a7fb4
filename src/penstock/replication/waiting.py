"""
How the connection thread waits: for descriptors, for time, for calls that block; and how others end its waits.

It owns the stop signal. Every wait ends at once with `StopRequestedError` when a stop was asked for, unless it belongs
to stopping itself. Form: a shell.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from penstock.errors import ConnectionLostError

POLL_S_MAX: Final = 1.0
"""No wait for the socket is longer: TLS may hold bytes that the descriptor does not show."""
WAKE_BYTES_MAX: Final = 65_536
"""So many hints are taken out of the wake-up pipe at once."""

_Result = TypeVar("_Result")


class StopRequestedError(Exception):
    """
    Somebody asked the connection thread to stop. Never leaves the stage.
    """


class Waiter:
    """
    The waits of one thread, which another may end.
    """

    def __init__(self) -> None:
        """
        Make the pipe of the stop signal.
        """
        self._lock: Final = threading.Lock()
        self._is_stopping = False
        self._read_fd, self._write_fd = os.pipe()
        self._is_open = True

    @property
    def is_stopping(self) -> bool:
        """
        Whether a stop was asked for.
        """
        return self._is_stopping

    def stop(self) -> None:
        """
        Ask for a stop. From any thread, any number of times.
        """
        with self._lock:
            if self._is_open and not self._is_stopping:
                # Never read, so it ends every wait that comes.
                os.write(self._write_fd, b"\0")
            self._is_stopping = True

    def close(self) -> None:
        """
        Give the pipe back.
        """
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._read_fd)
                os.close(self._write_fd)

    def wait(self, interests: dict[int, int], timeout_s: float, *, is_finishing: bool = False) -> dict[int, int]:
        """
        Wait for events of `select.poll` on descriptors.

        Args:
            interests: events by descriptor.
            timeout_s: how long at most.
            is_finishing: whether a stop does not end this wait, being its cause.

        Returns:
            The events that came, by descriptor; empty when time ran out.

        Raises:
            StopRequestedError: a stop was asked for.
        """
        poll = select.poll()
        for fd, events in interests.items():
            poll.register(fd, events)
        if not is_finishing:
            poll.register(self._read_fd, select.POLLIN)
        came = dict(poll.poll(max(0, math.ceil(timeout_s * 1000))))
        if came.pop(self._read_fd, 0):
            raise StopRequestedError
        return came

    def sleep(self, duration_s: float) -> None:
        """
        Let time pass.

        Raises:
            StopRequestedError: a stop was asked for.
        """
        until = time.monotonic() + duration_s
        while (left_s := until - time.monotonic()) > 0:
            self.wait({}, left_s)

    def aside(self, name: str, call: Callable[[], _Result], timeout_s: float | None = None) -> _Result:
        """
        Make a call that blocks in a thread of its own, and wait for it here.

        When the wait ends early the thread is left to itself; it ends with the call.

        Args:
            name: of the thread.
            call: what blocks.
            timeout_s: how long to wait at most; None for as long as it takes.

        Raises:
            StopRequestedError: a stop was asked for.
            ConnectionLostError: it took too long.
            BaseException: whatever the call raised.
        """
        errand = _Errand(call)
        read_fd, write_fd = os.pipe()
        try:
            # The thread closes its end of the pipe when it is done, so it never writes to a descriptor of others.
            thread = threading.Thread(target=errand.run, args=(write_fd,), name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                os.close(write_fd)
                raise
            until = None if timeout_s is None else time.monotonic() + timeout_s
            while not self.wait({read_fd: select.POLLIN}, POLL_S_MAX):
                if until is not None and time.monotonic() > until:
                    raise ConnectionLostError(f"It took too long: {name}.")
        finally:
            os.close(read_fd)
        thread.join()
        return errand.result()


class _Errand(Generic[_Result]):
    """
    A call made by another thread, and what came of it.
    """

    def __init__(self, call: Callable[[], _Result]) -> None:
        self._call: Final = call
        self._results: Final[list[_Result]] = []
        self._error: BaseException | None = None

    def run(self, done_fd: int) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001 - it is raised again by `result`, in the waiting thread
            self._error = error
        finally:
            with contextlib.suppress(OSError):
                os.close(done_fd)

    def result(self) -> _Result:
        if self._error is not None:
            raise self._error
        return self._results[0]
