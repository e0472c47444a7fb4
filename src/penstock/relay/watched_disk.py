"""
A disk whose calls are seen while they last, so that somebody else can tell one that does not return.

A shell around another disk; `call_since` may be read from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from penstock.errors import DiskFullError, LogError, SyncFailedError
from penstock.relay.disk import NO_SPACE, Disk

P = ParamSpec("P")
T = TypeVar("T")


class WatchedDisk:
    """
    Hands all calls on to a disk, and says since when one has been under way.

    Attributes:
        call_since: when the call that has not returned began, on the clock; None between calls.
    """

    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        """
        Watch `disk`, with the seconds of `clock`.
        """
        self._disk = disk
        self._clock = clock
        self.call_since: float | None = None

    def create(self, path: Path) -> int:
        """
        See `Disk.create`.
        """
        return self._watch(self._disk.create, path)

    def open(self, path: Path) -> int:
        """
        See `Disk.open`.
        """
        return self._watch(self._disk.open, path)

    def read(self, handle: int, byte: int, count: int) -> bytes:
        """
        See `Disk.read`.
        """
        return self._watch(self._disk.read, handle, byte, count)

    def size(self, handle: int) -> int:
        """
        See `Disk.size`.
        """
        return self._watch(self._disk.size, handle)

    def close(self, handle: int) -> None:
        """
        See `Disk.close`.
        """
        self._watch(self._disk.close, handle)

    def names(self, folder: Path) -> list[str]:
        """
        See `Disk.names`.
        """
        return self._watch(self._disk.names, folder)

    def write(self, handle: int, buffers: Sequence[bytes]) -> None:
        """
        See `Disk.write`.
        """
        self._watch(self._disk.write, handle, buffers)

    def truncate(self, handle: int, size: int) -> None:
        """
        See `Disk.truncate`.
        """
        self._watch(self._disk.truncate, handle, size)

    def sync(self, handle: int) -> None:
        """
        See `Disk.sync`.
        """
        self._watch(self._disk.sync, handle)

    def rename(self, source: Path, target: Path) -> None:
        """
        See `Disk.rename`.
        """
        self._watch(self._disk.rename, source, target)

    def unlink(self, path: Path) -> None:
        """
        See `Disk.unlink`.
        """
        self._watch(self._disk.unlink, path)

    def make_folder(self, folder: Path) -> None:
        """
        See `Disk.make_folder`.
        """
        self._watch(self._disk.make_folder, folder)

    def remove_folder(self, folder: Path) -> None:
        """
        See `Disk.remove_folder`.
        """
        self._watch(self._disk.remove_folder, folder)

    def sync_folder(self, folder: Path) -> None:
        """
        See `Disk.sync_folder`.
        """
        self._watch(self._disk.sync_folder, folder)

    def _watch(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.call_since = self._clock()
        try:
            return call(*args, **kwargs)
        finally:
            self.call_since = None


def refused(cause: OSError, doing: str) -> LogError:
    """
    Say what the disk refused while we were `doing` something.
    """
    text = f"{doing} failed: {cause.strerror or cause}"
    if cause.errno in NO_SPACE:
        return DiskFullError(f"{text}; free some space on the disk of the relay log")
    return SyncFailedError(text)
