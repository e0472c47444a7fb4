"""
A disk for the relay log that fills up, fails, hangs and loses its power.

It works on real files, so that readers need to know nothing of it, and remembers what was synced. `power_cut` then
takes away, with the given chance, whatever was not: bytes, truncations, names in folders.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from penstock.relay.disk import SystemDisk


class PowerCutError(Exception):
    """
    The power goes in the middle of a call; nothing after it is done.
    """


@dataclass(slots=True)
class _File:
    """
    What is durable of one file.

    Bytes below `synced` are. Once a sync has failed, nothing more ever will be, whatever later syncs answer: the kernel
    has forgotten that the pages are not on the disk. `cut` is what a truncation took that is not synced yet.
    """

    path: Path
    synced: int = 0
    is_poisoned: bool = False
    cut: bytes = b""


@dataclass(slots=True)
class _NameChange:
    """
    Something done to a folder that is not synced yet, and how to undo it wherever the folder is by then.
    """

    folder: Path
    undo: Callable[[Path], None]


@dataclass(slots=True)
class Faults:
    """
    What goes wrong next.

    Attributes:
        refused: by the name of a call, the error that it meets from now on, until removed.
        cut_after: calls that change something until the power goes; None for never.
        gate: syncs wait for it.
        torn: how much of a refused write is on the disk all the same.
    """

    refused: dict[str, int] = field(default_factory=dict)
    cut_after: int | None = None
    gate: threading.Event | None = None
    torn: float = 0.5


class FaultyDisk(SystemDisk):
    """
    The file system with faults, as `penstock.relay.disk.Disk`.
    """

    def __init__(self, scratch: Path) -> None:
        """
        Keep what may have to be undone in a folder beside.
        """
        self.faults = Faults()
        self.calls: list[str] = []
        self.is_waiting = threading.Event()
        self._scratch = scratch
        scratch.mkdir(exist_ok=True)
        self._files: dict[int, _File] = {}
        self._handles: dict[int, _File] = {}
        self._changes: list[_NameChange] = []
        self._kept = 0

    def create(self, path: Path) -> int:
        self._meet("create")
        handle = super().create(path)
        self._files[os.fstat(handle).st_ino] = self._handles[handle] = _File(path)
        self._changed(path.parent, lambda folder: (folder / path.name).unlink(missing_ok=True))
        return handle

    def open(self, path: Path) -> int:
        handle = super().open(path)
        inode = os.fstat(handle).st_ino
        self._handles[handle] = self._files.setdefault(inode, _File(path, os.fstat(handle).st_size))
        return handle

    def write(self, handle: int, buffers: Sequence[bytes]) -> None:
        try:
            self._meet("write")
        except (OSError, PowerCutError):
            data = b"".join(buffers)
            super().write(handle, (data[: int(len(data) * self.faults.torn)],))
            raise
        super().write(handle, buffers)

    def truncate(self, handle: int, size: int) -> None:
        self._meet("truncate")
        file = self._handles[handle]
        file.cut = os.pread(handle, 1 << 30, size)[: max(0, file.synced - size)]
        file.synced = min(file.synced, size)
        super().truncate(handle, size)

    def sync(self, handle: int) -> None:
        file = self._handles[handle]
        if self.faults.gate is not None:
            self.is_waiting.set()
            assert self.faults.gate.wait(30)
        try:
            self._meet("sync")
        except OSError:
            file.is_poisoned = True
            raise
        if not file.is_poisoned:
            file.synced = os.fstat(handle).st_size
            file.cut = b""

    def close(self, handle: int) -> None:
        del self._handles[handle]
        super().close(handle)

    def rename(self, source: Path, target: Path) -> None:
        self._meet("rename")
        backup = self._keep(target) if target.is_file() else None
        super().rename(source, target)
        for change in self._changes:
            if change.folder == source:
                change.folder = target

        def undo(folder: Path) -> None:
            (folder / target.name).rename(folder / source.name)
            for change in self._changes:
                if change.folder == target:
                    change.folder = source
            if backup is not None:
                backup.rename(folder / target.name)

        self._changed(target.parent, undo)

    def unlink(self, path: Path) -> None:
        self._meet("unlink")
        backup = self._keep(path)
        super().unlink(path)

        def undo(folder: Path) -> None:
            backup.rename(folder / path.name)

        self._changed(path.parent, undo)

    def make_folder(self, folder: Path) -> None:
        if not folder.exists():
            self._meet("make_folder")
            super().make_folder(folder)
            self._changed(folder.parent, lambda parent: (parent / folder.name).rmdir())

    def remove_folder(self, folder: Path) -> None:
        self._meet("remove_folder")
        super().remove_folder(folder)
        self._changed(folder.parent, lambda parent: (parent / folder.name).mkdir())

    def sync_folder(self, folder: Path) -> None:
        self._meet("sync_folder")
        self._changes = [change for change in self._changes if change.folder != folder]

    def process_ends(self) -> None:
        """
        Close what the process had open; the page cache keeps everything.
        """
        for handle in list(self._handles):
            self.close(handle)
        self.faults = Faults()

    def power_cut(self, chance: random.Random) -> None:
        """
        Lose what was not synced: of each file a part, of the changes to each folder those after some moment.
        """
        self.process_ends()
        undone: list[_NameChange] = []
        for folder in sorted({change.folder for change in self._changes}):
            mine = [change for change in self._changes if change.folder == folder]
            undone += mine[chance.randint(0, len(mine)) :]
        for change in reversed(self._changes):
            if any(change is each for each in undone):
                # A name below a folder that is gone itself cannot be restored, and need not be.
                with suppress(OSError):
                    change.undo(change.folder)
        self._changes = []
        for path in sorted(self._scratch.parent.rglob("*")):
            file = self._files.get(path.stat().st_ino)
            if file is not None and path.is_file() and self._scratch not in path.parents:
                _tear(path, file, chance)
        self._files = {}

    def _keep(self, path: Path) -> Path:
        self._kept += 1
        backup = self._scratch / str(self._kept)
        os.link(path, backup)
        return backup

    def _changed(self, folder: Path, undo: Callable[[Path], None]) -> None:
        self._changes.append(_NameChange(folder, undo))

    def _meet(self, call: str) -> None:
        self.calls.append(call)
        if self.faults.cut_after is not None:
            if self.faults.cut_after == 0:
                raise PowerCutError(call)
            self.faults.cut_after -= 1
        number = self.faults.refused.get(call)
        if number is not None:
            raise OSError(number, os.strerror(number))


def _tear(path: Path, file: _File, chance: random.Random) -> None:
    """
    Leave of a file what is durable and, beyond it, some of the rest, some of it as zeros.
    """
    size = path.stat().st_size
    durable = min(file.synced, size)
    length = chance.randint(durable, size)
    with path.open("r+b") as data:
        data.truncate(length)
        if file.cut and length == durable and chance.random() < 0.5:
            data.seek(length)
            data.write(file.cut)
        elif length > durable and (file.is_poisoned or chance.random() < 0.5):
            begin = durable if file.is_poisoned else chance.randrange(durable, length)
            data.seek(begin)
            data.write(bytes(chance.randint(1, length - begin)))


FULL = {"write": errno.ENOSPC, "create": errno.ENOSPC}
