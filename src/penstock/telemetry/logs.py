"""
Where log records go: through a bounded queue to standard error. A shell.

A terminal that was stopped with Ctrl-S, or a log collector that does not read its pipe, blocks whoever writes to it. So
nobody writes but a thread that has nothing else to do. When the queue is full, records are dropped and counted, and the
count is the first thing said once the way is free again. A record must never hold a row value or a secret.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

RECORDS_MAX: Final = 10_000
"""How many records wait at most."""
RECORD_BYTES_MAX: Final = 64 * 1024
"""A longer record is cut."""
_FLUSH_S: Final = 1.0
"""How long the end of a process waits for its last records to leave."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Libraries whose informational records are about themselves.
_QUIET: Final = ("asyncio", "httpcore", "httpx", "psycopg", "uvicorn.access")


class LogQueue:
    """
    Lines on their way to a descriptor.

    Attributes:
        dropped_count: how many were dropped so far, because the queue was full or the other end is gone.
    """

    def __init__(self, descriptor: int, *, records_max: int = RECORDS_MAX) -> None:
        """
        Start the thread that writes to `descriptor`, which stays its owner's.
        """
        self.dropped_count = 0
        self._descriptor: Final = descriptor
        self._records_max: Final = records_max
        self._lines: Final[deque[bytes]] = deque()
        self._moved: Final = threading.Condition()
        self._is_closing = False
        self._is_broken = False
        self._is_writing = False
        self._thread: Final = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """
        Hand over a line with its line feed. Never blocks for longer than another thread needs to do the same.
        """
        with self._moved:
            if self._is_broken or len(self._lines) >= self._records_max:
                self.dropped_count += 1
                return
            self._lines.append(line if len(line) <= RECORD_BYTES_MAX else line[: RECORD_BYTES_MAX - 4] + b"...\n")
            self._moved.notify()

    def flush(self, timeout_s: float = _FLUSH_S) -> bool:
        """
        Wait until all that was put is written; False when that took too long.
        """
        with self._moved:
            return self._moved.wait_for(lambda: not self._lines and not self._is_writing, timeout_s)

    def close(self, timeout_s: float = _FLUSH_S) -> None:
        """
        Write what waits, as far as it goes in time, and end.
        """
        self.flush(timeout_s)
        with self._moved:
            self._is_closing = True
            self._moved.notify_all()

    def _run(self) -> None:
        told = 0
        while True:
            with self._moved:
                self._is_writing = False
                self._moved.notify_all()
                while not self._lines and not self._is_closing:
                    self._moved.wait()
                if not self._lines:
                    return
                line = self._lines.popleft()
                dropped = self.dropped_count
                self._is_writing = True
            try:
                if dropped > told:
                    self._write(b"(%d log records were dropped here)\n" % (dropped - told))
                    told = dropped
                self._write(line)
            except OSError:
                # Nobody reads any more. There is no better place to say it than the count.
                with self._moved:
                    self._is_broken = True
                    self._is_writing = False
                    self.dropped_count += 1 + len(self._lines)
                    self._lines.clear()
                    self._moved.notify_all()
                return

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody we share it with has made it non-blocking.
                select.select([], [self._descriptor], [], 1.0)


class _QueueLogger:
    """
    The innermost logger: takes rendered text.
    """

    def __init__(self, queue: LogQueue) -> None:
        self._queue = queue

    def msg(self, text: str | bytes) -> None:
        line = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        self._queue.put(line + b"\n")

    debug = info = warning = error = critical = exception = fatal = log = warn = err = failure = msg


class _Bridge(logging.Handler):
    """
    Takes what libraries say through the standard library's logging.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger(record.name).log(
                record.levelno, record.getMessage(), exc_info=record.exc_info, logger=record.name
            )
        except Exception:  # noqa: BLE001 - a malformed record of a library must not end its caller
            self.handleError(record)


def configure(*, level: str, process: str, colors: bool = True, descriptor: int = 2) -> LogQueue:
    """
    Send all records of this process to a descriptor: as text to a terminal, as JSON to anything else.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        process: what this process is, for the records.
        colors: whether a terminal gets colours.
        descriptor: where to write, standard error by default.
    """
    queue = LogQueue(descriptor)
    number = _LEVELS[level]
    is_terminal = os.isatty(descriptor)

    def add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]
    if is_terminal:
        processors.append(
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        )
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_as_json)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _QueueLogger(queue),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    # Its text goes to standard error directly otherwise, also when that blocks.
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error
    atexit.register(queue.close)
    return queue


def _as_json(event: EventDict, **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    with contextlib.suppress(Exception):
        structlog.get_logger().error(
            "an exception could not be raised", where=repr(unraisable.object), exc_info=unraisable.exc_value
        )


def _log_thread_error(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread is not None else "?"
    structlog.get_logger().error("a thread ended with an exception", thread=name, exc_info=arguments.exc_value)
