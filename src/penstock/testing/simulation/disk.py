"""
A disk in memory that takes its time, refuses, fills up, hangs, and loses its power.

One file system for relay log and shape logs: `RelayDisk` and `ShapeDisk` are the views that the real code takes.

Theory of operation. A file is its content as the page cache has it, the image that is sure to be on the disk, and the
changes between the two. A sync makes the image of the content; one that fails forgets the changes, as kernels do, so
that no later sync writes them. A folder likewise has names and changes of names, which a sync of the folder makes sure of;
a rename between two folders is one change that touches both. When the power goes, of the changes to each folder some
first ones survive, and of the changes to each file any, whole or in part, in any order.

Each call comes from a life; a dead one is refused. In a virtual thread a call takes time; on an event loop, which the
real code lets read small things, it takes none. Shell.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from penstock.shapes.reading import FilePiece, LogRange
from penstock.testing.simulation.loop import Life
from penstock.testing.simulation.threads import current_loop, current_thread, sleep

LATENCY_S_MAX: Final = 0.004
"""How long a call that writes or syncs takes at most while nothing is wrong."""

_Change: TypeAlias = tuple[str, int, bytes]
_Entries: TypeAlias = "dict[str, _File | _Folder]"


@dataclass(eq=False, slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        _apply(self.content, change)
        self.pending.append(change)

    def sync(self) -> None:
        image = bytearray(self.durable)
        for change in self.pending:
            _apply(image, change)
        self.durable = bytes(image)
        self.pending.clear()

    def fail_to_sync(self) -> None:
        # The kernel forgets what it could not write, and what is in its cache is not what is on the disk.
        self.pending.clear()

    def lose_power(self, chance: Random) -> None:
        image = bytearray(self.durable)
        for kind, place, data in self.pending:
            fate = chance.random()
            if fate < 0.3:
                continue
            _apply(image, (kind, place, data if fate < 0.8 else data[: chance.randrange(len(data) + 1)]))
        self.content = image
        self.durable = bytes(image)
        self.pending.clear()


@dataclass(eq=False, slots=True)
class _Folder:
    names: _Entries = field(default_factory=dict)
    durable: _Entries = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _NameChange:
    """
    Names put in or taken out (None) of folders, at once.
    """

    changes: tuple[tuple[_Folder, str, _File | _Folder | None], ...]

    def apply_durably(self) -> None:
        for folder, name, node in self.changes:
            if node is None:
                folder.durable.pop(name, None)
            else:
                folder.durable[name] = node


def _apply(content: bytearray, change: _Change) -> None:
    kind, place, data = change
    if kind == "truncate":
        del content[place:]
        content.extend(bytes(place - len(content)))
    else:
        content.extend(bytes(max(0, place - len(content))))
        content[place : place + len(data)] = data


@dataclass(eq=False)
class Trouble:
    """
    What calls meet.

    Attributes:
        part: the calls whose path holds this text.
        calls: the kinds of call: `write`, `sync`, `create`, `names` (anything that changes a folder), `read`.
        errno: the error they meet; 0 for none.
        is_hanging: whether they do not return while this lasts.
        latency_s: how long they take besides.
        count: how many calls meet it; -1 for all.
    """

    part: str
    calls: frozenset[str]
    errno: int = 0
    is_hanging: bool = False
    latency_s: float = 0.0
    count: int = -1


class VirtualDisk:
    """
    The file system; survives its processes.

    Attributes:
        troubles: what is wrong with it.
        space_bytes: what is left; None for plenty.
    """

    def __init__(self, root: str) -> None:
        """
        Begin with one empty, durable folder and those above it.
        """
        self.troubles: Final[list[Trouble]] = []
        self.space_bytes: int | None = None
        self.is_silent = False
        self._root: _Folder = _Folder()
        self._changes: list[_NameChange] = []
        self._hung: list[Callable[[], None]] = []
        self.make_folder(root)
        for change in self._changes:
            change.apply_durably()
        self._changes.clear()

    # --- trouble -----------------------------------------------------------------------------------------------------

    def heal(self, trouble: Trouble) -> None:
        """
        Take a trouble away; calls that hang in it go on.
        """
        if trouble in self.troubles:
            self.troubles.remove(trouble)
        hung, self._hung = self._hung, []
        for wake in hung:
            wake()

    def meet(self, life: Life, call: str, path: str) -> None:
        """
        Let a call take its time and meet what is wrong.
        """
        life.check()
        thread = current_thread()
        if thread is not None and call != "read":
            sleep(current_loop().chance.random() * LATENCY_S_MAX)
        for trouble in list(self.troubles):
            if trouble.count == 0 or call not in trouble.calls or trouble.part not in path:
                continue
            trouble.count -= 1
            if thread is not None and trouble.latency_s:
                sleep(trouble.latency_s)
            while thread is not None and trouble.is_hanging and trouble in self.troubles:
                self._hung.append(thread.unpark)
                thread.park()
            if trouble.errno:
                raise OSError(trouble.errno, os.strerror(trouble.errno), path)
        life.check()

    def power_cut(self, chance: Random) -> None:
        """
        Lose what was not synced, by chance.
        """
        cuts: dict[int, int] = {}
        counts: dict[int, int] = {}
        for change in self._changes:
            for folder, _, _ in change.changes:
                counts[id(folder)] = counts.get(id(folder), 0) + 1
        for folder_id, count in counts.items():
            cuts[folder_id] = chance.randint(0, count)
        seen: dict[int, int] = {}
        for change in self._changes:
            folders = {id(folder) for folder, _, _ in change.changes}
            is_kept = all(seen.get(each, 0) < cuts[each] for each in folders)
            for each in folders:
                seen[each] = seen.get(each, 0) + 1
                if not is_kept:
                    cuts[each] = 0
            if is_kept:
                change.apply_durably()
        self._changes.clear()
        _lose_power(self._root, chance)
        self.troubles.clear()
        self._hung.clear()
        self.space_bytes = None

    # --- files and folders -------------------------------------------------------------------------------------------

    def find(self, path: str) -> _File | _Folder | None:
        """
        Look up a name.
        """
        node: _File | _Folder | None = self._root
        for name in filter(None, path.split("/")):
            if not isinstance(node, _Folder):
                return None
            node = node.names.get(name)
        return node

    def file(self, path: str) -> _File:
        """
        Look up a file.
        """
        node = self.find(path)
        if not isinstance(node, _File):
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return node

    def folder(self, path: str) -> _Folder:
        """
        Look up a folder.
        """
        node = self.find(path)
        if not isinstance(node, _Folder):
            raise FileNotFoundError(errno.ENOENT, "No such folder", path)
        return node

    def durable_bytes(self, path: str) -> bytes:
        """
        Give what a power cut would surely leave of the files in a folder, end to end; empty when not even the folder.
        """
        node: _File | _Folder | None = self._root
        for name in filter(None, path.split("/")):
            node = node.durable.get(name) if isinstance(node, _Folder) else None
        if not isinstance(node, _Folder):
            return b""
        return b"".join(file.durable for file in node.durable.values() if isinstance(file, _File))

    def create(self, path: str) -> _File:
        """
        Make an empty file.
        """
        parent, _, name = path.rpartition("/")
        folder = self.folder(parent)
        if name in folder.names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        file = _File()
        self._rename((folder, name, file))
        return file

    def make_folder(self, path: str) -> None:
        """
        Make a folder and those above it.
        """
        if path and not isinstance(self.find(path), _Folder):
            parent, _, name = path.rpartition("/")
            self.make_folder(parent)
            self._rename((self.folder(parent), name, _Folder()))

    def remove(self, path: str) -> None:
        """
        Take a name away, with all below it.
        """
        parent, _, name = path.rpartition("/")
        folder = self.folder(parent)
        if name not in folder.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        self._free(folder.names[name])
        self._rename((folder, name, None))

    def rename(self, source: str, target: str) -> None:
        """
        Give a file or folder another name, in place of what has it.
        """
        from_parent, _, from_name = source.rpartition("/")
        to_parent, _, to_name = target.rpartition("/")
        from_folder, to_folder = self.folder(from_parent), self.folder(to_parent)
        node = from_folder.names.get(from_name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", source)
        self._rename((from_folder, from_name, None), (to_folder, to_name, node))

    def sync_folder(self, path: str) -> None:
        """
        Make sure of the names in a folder.
        """
        folder = self.folder(path)
        wanted = {id(folder)}
        kept: list[_NameChange] = []
        due: list[_NameChange] = []
        # From the newest on: what a change stands on, in another folder, is made sure of with it.
        for change in reversed(self._changes):
            ids = {id(each) for each, _, _ in change.changes}
            if ids & wanted:
                wanted |= ids
                due.append(change)
            else:
                kept.append(change)
        for change in reversed(due):
            change.apply_durably()
        self._changes = kept[::-1]

    def take_space(self, file: _File, place: int, data: bytes) -> bytes:
        """
        Give as much of the data as there is room for.
        """
        if self.space_bytes is None:
            return data
        growth = max(0, place + len(data) - len(file.content))
        room = min(growth, max(0, self.space_bytes))
        self.space_bytes -= room
        return data[: len(data) - (growth - room)]

    def _free(self, node: _File | _Folder) -> None:
        if self.space_bytes is not None:
            self.space_bytes += sum(len(file.content) for file in _files(node))

    def _rename(self, *changes: tuple[_Folder, str, _File | _Folder | None]) -> None:
        for folder, name, node in changes:
            if node is None:
                del folder.names[name]
            else:
                folder.names[name] = node
        self._changes.append(_NameChange(changes))


def _files(node: _File | _Folder) -> Iterator[_File]:
    if isinstance(node, _File):
        yield node
    else:
        for each in node.names.values():
            yield from _files(each)


def _lose_power(folder: _Folder, chance: Random) -> None:
    folder.names = dict(folder.durable)
    for node in folder.names.values():
        if isinstance(node, _File):
            node.lose_power(chance)
        else:
            _lose_power(node, chance)


class RelayDisk:
    """
    The disk as the relay log of one life takes it; implements `penstock.relay.disk.Disk`.
    """

    def __init__(self, disk: VirtualDisk, life: Life) -> None:
        """
        Look at this disk as this process.
        """
        self._disk: Final = disk
        self._life: Final = life
        self._handles: Final[dict[int, tuple[str, _File]]] = {}
        self._last = 2

    def create(self, path: Path) -> int:
        """
        See `Disk.create`.
        """
        self._disk.meet(self._life, "create", str(path))
        return self._handle(str(path), self._disk.create(str(path)))

    def open(self, path: Path) -> int:
        """
        See `Disk.open`.
        """
        self._disk.meet(self._life, "read", str(path))
        return self._handle(str(path), self._disk.file(str(path)))

    def write(self, handle: int, buffers: Sequence[bytes]) -> None:
        """
        See `Disk.write`.
        """
        path, file = self._handles[handle]
        data = b"".join(buffers)
        try:
            self._disk.meet(self._life, "write", path)
        except OSError:
            # A part of it is written all the same.
            part = data[: current_loop().chance.randrange(len(data) + 1)]
            file.change(("write", len(file.content), part))
            raise
        written = self._disk.take_space(file, len(file.content), data)
        file.change(("write", len(file.content), written))
        if len(written) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def read(self, handle: int, byte: int, count: int) -> bytes:
        """
        See `Disk.read`.
        """
        path, file = self._handles[handle]
        self._disk.meet(self._life, "read", path)
        return bytes(file.content[byte : byte + count])

    def size(self, handle: int) -> int:
        """
        See `Disk.size`.
        """
        return len(self._handles[handle][1].content)

    def truncate(self, handle: int, size: int) -> None:
        """
        See `Disk.truncate`.
        """
        path, file = self._handles[handle]
        self._disk.meet(self._life, "write", path)
        file.change(("truncate", size, b""))

    def sync(self, handle: int) -> None:
        """
        See `Disk.sync`.
        """
        path, file = self._handles[handle]
        _sync(self._disk, self._life, path, file)

    def close(self, handle: int) -> None:
        """
        See `Disk.close`.
        """
        del self._handles[handle]

    def rename(self, source: Path, target: Path) -> None:
        """
        See `Disk.rename`.
        """
        self._disk.meet(self._life, "names", str(source))
        self._disk.rename(str(source), str(target))

    def unlink(self, path: Path) -> None:
        """
        See `Disk.unlink`.
        """
        self._disk.meet(self._life, "names", str(path))
        self._disk.file(str(path))
        self._disk.remove(str(path))

    def names(self, folder: Path) -> list[str]:
        """
        See `Disk.names`.
        """
        self._life.check()
        return list(self._disk.folder(str(folder)).names)

    def make_folder(self, folder: Path) -> None:
        """
        See `Disk.make_folder`.
        """
        self._disk.meet(self._life, "names", str(folder))
        self._disk.make_folder(str(folder))

    def remove_folder(self, folder: Path) -> None:
        """
        See `Disk.remove_folder`.
        """
        self._disk.meet(self._life, "names", str(folder))
        if self._disk.folder(str(folder)).names:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(folder))
        self._disk.remove(str(folder))

    def sync_folder(self, folder: Path) -> None:
        """
        See `Disk.sync_folder`.
        """
        self._disk.meet(self._life, "sync", str(folder))
        self._disk.sync_folder(str(folder))

    def _handle(self, path: str, file: _File) -> int:
        self._last += 1
        self._handles[self._last] = (path, file)
        return self._last


class OpenVirtualFile:
    """
    A file open for writing; see `penstock.shape_log.disk.OpenFile`.
    """

    def __init__(self, disk: VirtualDisk, life: Life, path: str, file: _File) -> None:
        self._disk: Final = disk
        self._life: Final = life
        self._path: Final = path
        self._file: Final = file

    def write(self, start_byte: int, data: bytes) -> None:
        """
        See `OpenFile.write`.
        """
        data = bytes(data)
        try:
            self._disk.meet(self._life, "write", self._path)
        except OSError:
            part = data[: current_loop().chance.randrange(len(data) + 1)]
            self._file.change(("write", start_byte, part))
            raise
        written = self._disk.take_space(self._file, start_byte, data)
        self._file.change(("write", start_byte, written))
        if len(written) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device", self._path)

    def truncate(self, bytes_count: int) -> None:
        """
        See `OpenFile.truncate`.
        """
        self._disk.meet(self._life, "write", self._path)
        self._file.change(("truncate", bytes_count, b""))

    def sync(self) -> None:
        """
        See `OpenFile.sync`.
        """
        _sync(self._disk, self._life, self._path, self._file)

    def close(self) -> None:
        """
        Nothing is held.
        """


class ShapeDisk:
    """
    The disk as the shape logs of one life take it; implements `penstock.shape_log.disk.Disk`.
    """

    def __init__(self, disk: VirtualDisk, life: Life) -> None:
        """
        Look at this disk as this process.
        """
        self._disk: Final = disk
        self._life: Final = life

    def open(self, path: str, *, is_new: bool) -> OpenVirtualFile:
        """
        See `Disk.open`.
        """
        self._disk.meet(self._life, "create" if is_new else "read", path)
        file = self._disk.create(path) if is_new else self._disk.file(path)
        return OpenVirtualFile(self._disk, self._life, path, file)

    def read(self, path: str, start_byte: int, bytes_count: int) -> bytes:
        """
        See `Disk.read`.
        """
        self._disk.meet(self._life, "read", path)
        return bytes(self._disk.file(path).content[start_byte : start_byte + bytes_count])

    def size(self, path: str) -> int:
        """
        See `Disk.size`.
        """
        self._life.check()
        return len(self._disk.file(path).content)

    def make_folder(self, path: str) -> None:
        """
        See `Disk.make_folder`.
        """
        self._disk.meet(self._life, "names", path)
        self._disk.make_folder(path)

    def sync_folder(self, path: str) -> None:
        """
        See `Disk.sync_folder`.
        """
        self._disk.meet(self._life, "sync", path)
        self._disk.sync_folder(path)

    def list_folder(self, path: str) -> list[str]:
        """
        See `Disk.list_folder`.
        """
        self._life.check()
        node = self._disk.find(path)
        return list(node.names) if isinstance(node, _Folder) else []

    def rename(self, source: str, target: str) -> bool:
        """
        See `Disk.rename`.
        """
        self._disk.meet(self._life, "names", source)
        self._disk.folder(target.rpartition("/")[0])
        if self._disk.find(source) is None:
            return False
        self._disk.rename(source, target)
        return True

    def remove_tree(self, path: str) -> None:
        """
        See `Disk.remove_tree`.
        """
        self._disk.meet(self._life, "names", path)
        if self._disk.find(path) is not None:
            self._disk.remove(path)

    def remove_file(self, path: str) -> None:
        """
        See `Disk.remove_file`.
        """
        self.remove_tree(path)


def _sync(disk: VirtualDisk, life: Life, path: str, file: _File) -> None:
    try:
        disk.meet(life, "sync", path)
    except OSError:
        file.fail_to_sync()
        raise
    file.sync()
    if current_thread() is not None:
        # The power may go between the disk's having it and our hearing so.
        sleep(current_loop().chance.random() * LATENCY_S_MAX / 4)
    life.check()


def read_range(disk: VirtualDisk, root: str, found: LogRange) -> bytes:
    """
    Give the elements of a range as whoever serves it sends them.

    Raises:
        FileNotFoundError: the shape is gone.
    """
    parts = []
    for piece in found.pieces:
        if isinstance(piece, FilePiece):
            content = disk.file(f"{root}/{piece.path}").content
            data = bytes(content[piece.start_byte : piece.start_byte + piece.bytes_count])
            assert len(data) == piece.bytes_count, "a range names bytes that are not there"
            parts.append(data)
        else:
            parts.append(piece.data)
    return b",".join(parts)
