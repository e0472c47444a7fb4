"""
What the relay log needs of a disk, and the real one.

The port is small so that tests can put a disk in its place that fills up, fails, hangs, or forgets what was not synced
when the power goes. Every method does what it says or raises `OSError`; none returns having done a part.

A shell. Called from one thread.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

BUFFERS_PER_WRITE_MAX: Final = 512
"""Half of the smallest `IOV_MAX` in use."""

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a full disk and a used-up quota answer."""


class ReadDisk(Protocol):
    """
    Files that are read, and the folders they lie in.
    """

    def open(self, path: Path) -> int:
        """
        Open an existing file for reading.
        """
        ...

    def read(self, handle: int, byte: int, count: int) -> bytes:
        """
        Read `count` bytes from `byte` on; fewer only where the file ends.
        """
        ...

    def size(self, handle: int) -> int:
        """
        Tell the length of a file in bytes.
        """
        ...

    def close(self, handle: int) -> None:
        """
        Forget a handle.
        """
        ...

    def names(self, folder: Path) -> list[str]:
        """
        List a folder.
        """
        ...


class Disk(ReadDisk, Protocol):
    """
    Files that are appended to, and the folders they lie in. `open` is for appending and reading.
    """

    def create(self, path: Path) -> int:
        """
        Make an empty file, which must not exist, and open it for appending and reading.
        """
        ...

    def write(self, handle: int, buffers: Sequence[bytes]) -> None:
        """
        Append all buffers, in order.
        """
        ...

    def truncate(self, handle: int, size: int) -> None:
        """
        Give up what lies beyond `size`.
        """
        ...

    def sync(self, handle: int) -> None:
        """
        Make the contents of a file durable, whatever its length.
        """
        ...

    def rename(self, source: Path, target: Path) -> None:
        """
        Give a file or folder another name, in place of what has it.
        """
        ...

    def unlink(self, path: Path) -> None:
        """
        Remove a file.
        """
        ...

    def make_folder(self, folder: Path) -> None:
        """
        Make a folder and those above it; nothing when it exists.
        """
        ...

    def remove_folder(self, folder: Path) -> None:
        """
        Remove an empty folder.
        """
        ...

    def sync_folder(self, folder: Path) -> None:
        """
        Make the names in a folder durable.
        """
        ...


class SystemDisk:
    """
    The file system.
    """

    def create(self, path: Path) -> int:
        """
        See `Disk.create`.
        """
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """
        See `Disk.open`.
        """
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)

    def write(self, handle: int, buffers: Sequence[bytes]) -> None:
        """
        See `Disk.write`.
        """
        for first in range(0, len(buffers), BUFFERS_PER_WRITE_MAX):
            _write_all(handle, buffers[first : first + BUFFERS_PER_WRITE_MAX])

    def read(self, handle: int, byte: int, count: int) -> bytes:
        """
        See `Disk.read`.
        """
        return read_at(handle, byte, count)

    def size(self, handle: int) -> int:
        """
        See `Disk.size`.
        """
        return os.fstat(handle).st_size

    def truncate(self, handle: int, size: int) -> None:
        """
        See `Disk.truncate`.
        """
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """
        See `Disk.sync`.
        """
        if sys.platform == "darwin":
            # fsync there does not reach the medium, and there is no fdatasync.
            import fcntl  # noqa: PLC0415 (only where it is used: it does not exist on every platform)

            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
        else:
            # fdatasync also writes the metadata that is needed to read the data back, such as the length.
            os.fdatasync(handle)

    def close(self, handle: int) -> None:
        """
        See `Disk.close`.
        """
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """
        See `Disk.rename`.
        """
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """
        See `Disk.unlink`.
        """
        path.unlink()

    def names(self, folder: Path) -> list[str]:
        """
        See `Disk.names`.
        """
        return [entry.name for entry in folder.iterdir()]

    def make_folder(self, folder: Path) -> None:
        """
        See `Disk.make_folder`.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove_folder(self, folder: Path) -> None:
        """
        See `Disk.remove_folder`.
        """
        folder.rmdir()

    def sync_folder(self, folder: Path) -> None:
        """
        See `Disk.sync_folder`.
        """
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class SystemReadDisk(SystemDisk):
    """
    The file system, for whoever only reads.
    """

    def open(self, path: Path) -> int:
        """
        See `ReadDisk.open`.
        """
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_at(handle: int, byte: int, count: int) -> bytes:
    """
    Read `count` bytes of an open file from `byte` on; fewer only where it ends.
    """
    data = os.pread(handle, count, byte)
    if len(data) == count or not data:
        return data
    parts = [data]
    missing = count - len(data)
    while missing and (data := os.pread(handle, missing, byte + count - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def remove_tree(disk: Disk, folder: Path) -> bool:
    """
    Remove a folder of files; tell whether it is gone. What is left can be removed another time.
    """
    try:
        for name in disk.names(folder):
            disk.unlink(folder / name)
        disk.remove_folder(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write_all(handle: int, buffers: Sequence[bytes]) -> None:
    total = sum(map(len, buffers))
    written = os.writev(handle, buffers)
    while written < total:
        # A short write is no error by itself; the next one says why, or ends it.
        rest = memoryview(b"".join(buffers))[written:]
        count = os.write(handle, rest)
        if count == 0:
            raise OSError(errno.EIO, "a write took nothing")
        written += count
