"""
The black box: one bounded record for each shape that was given up because of a fault, to be read afterwards.

Records are lines of JSON in `<folder>/sheds.jsonl`. When that is full it becomes `sheds.1.jsonl` in place of the one
before, so that between `RECORDS_MAX` and twice as many records are kept, none longer than `RECORD_BYTES_MAX`. They hold
names, positions, times and reasons; never the values of rows.

Shell. One thread of its own writes: the disk may be what failed, and whoever gives shapes up must not wait for it. The
queue to it is bounded; what finds no room is counted in `dropped_count`, and so is what cannot be written.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

_log: Final = structlog.get_logger(__name__)

RECORDS_MAX: Final = 500
RECORD_BYTES_MAX: Final = 4096
WAITING_MAX: Final = 1000
FOLDER_NAME: Final = "black-box"
FILE_NAME: Final = "sheds.jsonl"
OLDER_NAME: Final = "sheds.1.jsonl"


class BlackBox:
    """
    Writes records in the order in which they come.
    """

    def __init__(self, data_dir: Path) -> None:
        """
        Write below this folder; nothing is touched before the first record.
        """
        self._folder: Final = data_dir / FOLDER_NAME
        self._waiting: Final[queue.Queue[bytes | None]] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None
        self._count = -1
        self.dropped_count = 0

    def record(self, content: Mapping[str, Any]) -> None:
        """
        Have a record written. Never waits.
        """
        line = msgspec.json.encode(content, enc_hook=str)
        if len(line) > RECORD_BYTES_MAX:
            kept = {name: content[name] for name in ("at", "handle", "reason") if name in content}
            line = msgspec.json.encode({name: str(value)[:500] for name, value in kept.items()} | {"is_cut": True})
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="black-box", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self.dropped_count += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """
        Write what waits, but do not wait for a disk for longer than this.
        """
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            try:
                self._write(line)
            except OSError as error:
                self.dropped_count += 1
                _log.warning("a record of a shape that was given up cannot be kept", error=error.strerror)

    def _write(self, line: bytes) -> None:
        path = self._folder / FILE_NAME
        if self._count < 0:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._count = path.read_bytes().count(b"\n") if path.exists() else 0
        if self._count >= RECORDS_MAX:
            path.replace(self._folder / OLDER_NAME)
            self._count = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line + b"\n")
        finally:
            os.close(descriptor)
        self._count += 1
