"""
A disk in memory that loses what was not synced, fills up, fails and hangs when told to.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from penstock.shapes.reading import FilePiece, LogRange


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)
    is_entry_durable: bool = False

    def apply(self, operation: tuple[str, int, bytes]) -> None:
        kind, place, data = operation
        if kind == "truncate":
            del self.content[place:]
            self.content.extend(bytes(place - len(self.content)))
        else:
            self.content.extend(bytes(max(0, place - len(self.content))))
            self.content[place : place + len(data)] = data


class _Handle:
    def __init__(self, disk: FakeDisk, path: str, file: _File) -> None:
        self._disk: Final = disk
        self._path: Final = path
        self._file: Final = file
        self._is_closed = False

    def write(self, start_byte: int, data: bytes) -> None:
        assert not self._is_closed
        with self._disk.lock:
            self._disk.writes_count += 1
            growth = start_byte + len(data) - len(self._file.content)
            written = data
            if self._disk.space_bytes is not None and growth > self._disk.space_bytes:
                written = data[: max(0, len(data) - (growth - self._disk.space_bytes))]
            if self._disk.space_bytes is not None:
                before = len(self._file.content)
                self._disk.space_bytes -= max(0, start_byte + len(written) - before)
            operation = ("write", start_byte, bytes(written))
            self._file.apply(operation)
            self._file.pending.append(operation)
            if len(written) < len(data):
                raise OSError(errno.ENOSPC, "No space left on device")

    def truncate(self, bytes_count: int) -> None:
        with self._disk.lock:
            operation = ("truncate", bytes_count, b"")
            if self._disk.space_bytes is not None:
                self._disk.space_bytes += max(0, len(self._file.content) - bytes_count)
            self._file.apply(operation)
            self._file.pending.append(operation)

    def sync(self) -> None:
        with self._disk.lock:
            gates = [gate for part, gate in self._disk.gates.items() if part in self._path]
            self._disk.syncing.set()
        for gate in gates:
            gate.wait()
        with self._disk.lock:
            if any(part in self._path for part in self._disk.sync_errors):
                self._disk.syncs_failed_count += 1
                self._file.pending.clear()  # the kernel forgets what it could not write
                self._file.pending.append(("lost", 0, b""))
                raise OSError(self._disk.sync_errno, "Input/output error")
            # What an earlier sync failed to write is not written by a later one, whatever may be read.
            image = _File(bytearray(self._file.durable))
            for operation in self._file.pending:
                if operation[0] != "lost":
                    image.apply(operation)
            self._file.durable = bytes(image.content)
            self._file.pending.clear()

    def close(self) -> None:
        self._is_closed = True
        with self._disk.lock:
            if self._disk.files.get(self._path) is self._file:
                self._disk.open_count -= 1


class FakeDisk:
    """
    Implements `penstock.shape_log.disk.Disk`.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self.files: dict[str, _File] = {}
        self.folders: dict[str, bool] = {"": True, "/data": True}
        self.space_bytes: int | None = None
        self.sync_errors: set[str] = set()
        self.sync_errno = errno.EIO
        self.gates: dict[str, threading.Event] = {}
        self.syncing = threading.Event()
        self.syncs_failed_count = 0
        self.writes_count = 0
        self.open_count = 0

    def open(self, path: str, *, is_new: bool) -> _Handle:
        with self.lock:
            if is_new:
                if path in self.files:
                    raise FileExistsError(errno.EEXIST, "File exists", path)
                if path.rpartition("/")[0] not in self.folders:
                    raise FileNotFoundError(errno.ENOENT, "No such folder", path)
                self.files[path] = _File()
            if path not in self.files:
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            self.open_count += 1
            return _Handle(self, path, self.files[path])

    def read(self, path: str, start_byte: int, bytes_count: int) -> bytes:
        with self.lock:
            if path not in self.files:
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            return bytes(self.files[path].content[start_byte : start_byte + bytes_count])

    def size(self, path: str) -> int:
        with self.lock:
            if path not in self.files:
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            return len(self.files[path].content)

    def make_folder(self, path: str) -> None:
        with self.lock:
            parent = path.rpartition("/")[0]
            if parent not in self.folders:
                self.make_folder(parent)
            self.folders.setdefault(path, False)

    def sync_folder(self, path: str) -> None:
        with self.lock:
            for name in self.folders:
                if name.rpartition("/")[0] == path:
                    self.folders[name] = True
            for name, file in self.files.items():
                if name.rpartition("/")[0] == path:
                    file.is_entry_durable = True

    def list_folder(self, path: str) -> list[str]:
        with self.lock:
            names = [*self.folders, *self.files]
            return sorted(name.rpartition("/")[2] for name in names if name and name.rpartition("/")[0] == path)

    def rename(self, source: str, target: str) -> bool:
        with self.lock:
            if source not in self.folders:
                return False
            assert target not in self.folders
            for name in [*self.folders, *self.files]:
                if name == source or name.startswith(f"{source}/"):
                    moved = target + name[len(source) :]
                    if name in self.folders:
                        self.folders[moved] = self.folders.pop(name)
                    else:
                        self.files[moved] = self.files.pop(name)
            return True

    def remove_tree(self, path: str) -> None:
        with self.lock:
            for name in [*self.folders, *self.files]:
                if name == path or name.startswith(f"{path}/"):
                    self.folders.pop(name, None)
                    self.files.pop(name, None)

    def remove_file(self, path: str) -> None:
        with self.lock:
            self.files.pop(path, None)

    def power_cut(self, random: Random) -> None:
        """
        Keep what was synced; of the rest keep any part, in any order.
        """
        for path, file in list(self.files.items()):
            if not file.is_entry_durable and random.random() < 0.5:
                del self.files[path]
                continue
            file.content = bytearray(file.durable)
            for kind, place, data in file.pending:
                fate = random.random()
                if kind == "lost" or fate < 0.3:
                    continue
                kept = data if fate < 0.8 else data[: random.randrange(len(data) + 1)]
                file.apply((kind, place, kept))
            # Another object, so that a thread that still hangs in the old one cannot touch the new content.
            content = bytes(file.content)
            self.files[path] = _File(bytearray(content), content, [], is_entry_durable=True)
        for folder, is_durable in list(self.folders.items()):
            if not is_durable and random.random() < 0.5:
                self.remove_tree(folder)
        self.open_count = 0

    def serve(self, found: LogRange) -> bytes:
        """
        Give the elements of a range as whoever serves it sends them.
        """
        parts = []
        for piece in found.pieces:
            if isinstance(piece, FilePiece):
                assert piece.bytes_count > 0
                data = self.read(f"/data/{piece.path}", piece.start_byte, piece.bytes_count)
                assert len(data) == piece.bytes_count
                parts.append(data)
            else:
                parts.append(piece.data)
        joined = b",".join(parts)
        assert len(joined) == found.bytes_count
        return joined


async def turn_until(condition: Callable[[], bool]) -> None:
    """
    Let the loop turn until something that a thread does has come about.
    """
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads set no event of the loop
            await asyncio.sleep(0)
