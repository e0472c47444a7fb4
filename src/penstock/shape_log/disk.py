"""
What shape logs need of a disk, and the real one.

A shell. Paths are absolute. Every call reports failure as `OSError`; nothing here retries.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from penstock.errors import DiskFullError, LogError, SyncFailedError

NO_HANDLE_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The system has run out of files that may be open: no fault of the file that was to be opened."""
NO_SPACE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT}) | NO_HANDLE_ERRNOS
"""Nothing was lost, and it may be tried again."""


class OpenFile(Protocol):
    """
    A file open for writing.
    """

    def write(self, start_byte: int, data: bytes) -> None:
        """
        Write all of it at this place.
        """
        ...

    def truncate(self, bytes_count: int) -> None:
        """
        Cut the file to this length.
        """
        ...

    def sync(self) -> None:
        """
        Return when everything written to this file is durable.
        """
        ...

    def close(self) -> None:
        """
        Let go of it.
        """
        ...


class Disk(Protocol):
    """
    Files and folders. Called from several threads at once, for one folder from one at a time.
    """

    def open(self, path: str, *, is_new: bool) -> OpenFile:
        """
        Open a file for writing; a new one must not be there yet, another must.
        """
        ...

    def read(self, path: str, start_byte: int, bytes_count: int) -> bytes:
        """
        Read up to that many bytes; fewer only at the end of the file.
        """
        ...

    def size(self, path: str) -> int:
        """
        Tell the length of a file.
        """
        ...

    def make_folder(self, path: str) -> None:
        """
        Make a folder and those above it; it may be there already.
        """
        ...

    def sync_folder(self, path: str) -> None:
        """
        Return when the entries of a folder are durable.
        """
        ...

    def list_folder(self, path: str) -> list[str]:
        """
        Give the names in a folder; none when there is no such folder.
        """
        ...

    def rename(self, source: str, target: str) -> bool:
        """
        Move a folder to a name that is not in use; False when there was nothing to move.
        """
        ...

    def remove_tree(self, path: str) -> None:
        """
        Delete a folder with all in it; it may be gone already.
        """
        ...

    def remove_file(self, path: str) -> None:
        """
        Delete a file; it may be gone already.
        """
        ...


def as_log_error(cause: OSError, doing: str) -> LogError:
    """
    Say in our words what went wrong with a file.
    """
    if cause.errno in NO_HANDLE_ERRNOS:
        return DiskFullError(f"{cause.strerror or cause} while {doing}")
    if cause.errno in NO_SPACE_ERRNOS:
        return DiskFullError(f"no space while {doing}")
    return SyncFailedError(f"{cause.strerror or cause} while {doing}")


def sync_descriptor(descriptor: int) -> None:
    """
    Return when a file's content is on the disk itself, not only in the disk's cache.
    """
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - fsync there leaves the drive's cache alone

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


class _PosixFile:
    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor

    def write(self, start_byte: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, start_byte)
            rest = rest[written:]
            start_byte += written

    def truncate(self, bytes_count: int) -> None:
        os.ftruncate(self._descriptor, bytes_count)

    def sync(self) -> None:
        sync_descriptor(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class PosixDisk:
    """
    The file system. Folders are for us alone, and so are files.
    """

    def open(self, path: str, *, is_new: bool) -> OpenFile:
        """
        Open a file for writing; a new one must not be there yet, another must.
        """
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        return _PosixFile(os.open(path, flags | os.O_CREAT | os.O_EXCL if is_new else flags, 0o600))

    def read(self, path: str, start_byte: int, bytes_count: int) -> bytes:
        """
        Read up to that many bytes; fewer only at the end of the file.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = os.pread(descriptor, bytes_count, start_byte)
            while len(data) < bytes_count:
                more = os.pread(descriptor, bytes_count - len(data), start_byte + len(data))
                if not more:
                    break
                data += more
        finally:
            os.close(descriptor)
        return data

    def size(self, path: str) -> int:
        """
        Tell the length of a file.
        """
        return Path(path).stat().st_size

    def make_folder(self, path: str) -> None:
        """
        Make a folder and those above it; it may be there already.
        """
        try:
            Path(path).mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            self.make_folder(str(Path(path).parent))
            Path(path).mkdir(mode=0o700, exist_ok=True)

    def sync_folder(self, path: str) -> None:
        """
        Return when the entries of a folder are durable.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def list_folder(self, path: str) -> list[str]:
        """
        Give the names in a folder; none when there is no such folder.
        """
        try:
            return [entry.name for entry in Path(path).iterdir()]
        except FileNotFoundError:
            return []

    def rename(self, source: str, target: str) -> bool:
        """
        Move a folder to a name that is not in use; False when there was nothing to move.
        """
        try:
            Path(source).rename(target)
        except FileNotFoundError:
            if not Path(target).parent.is_dir():
                raise
            return False
        return True

    def remove_tree(self, path: str) -> None:
        """
        Delete a folder with all in it; it may be gone already.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(path)

    def remove_file(self, path: str) -> None:
        """
        Delete a file; it may be gone already.
        """
        Path(path).unlink(missing_ok=True)
