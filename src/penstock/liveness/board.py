"""
The board: a small piece of shared memory on which each process says how it is and how far it has got. A shell.

Form: an array of cells. Each cell has exactly one writing process and any number of readers; nobody waits for anybody.

Theory of operation
    A cell has two slots, and writes alternate between them. A slot is a header (generation, length, checksum) and a
    payload; the checksum covers generation, length and payload. A reader copies both slots and takes the valid one with
    the highest generation. So

    * a read that overlaps a write meets a slot whose checksum does not fit, and is repeated a few times; the other slot
      still holds the value before;
    * a writer killed in the middle of a write leaves that value readable, and its successor goes on from there;
    * two writes during one slow copy could show an older value than the read before did: readers remember the
      generation they saw and never go back.

    What is read is therefore always something that was written as a whole, and for one reader never older than before.

The memory is a file without a name where the system has such (`memfd`), passed to the other processes by descriptor: a
mapped file on a disk may make its writer wait while the disk takes a page, and a heartbeat must not.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import zlib
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from penstock.errors import FormatVersionError

if TYPE_CHECKING:
    from pathlib import Path

WEB_WORKERS_MAX: Final = 16
"""How many web workers have a cell."""

_MAGIC: Final = b"PNSTBRD1"
_SLOT: Final = 1024
_CELL: Final = 2 * _SLOT
_HEADER: Final = struct.Struct("<QII")
_COVERED: Final = struct.Struct("<QI")
_ATTEMPTS: Final = 16

PAYLOAD_BYTES_MAX: Final = _SLOT - _HEADER.size
"""The longest payload of a cell."""


class Cell(IntEnum):
    """
    The cells, each named by its one writer and what it says.
    """

    SUPERVISOR = 1
    """Supervisor: its own heartbeat and its children (`penstock.service.lifecycle.SupervisorState`)."""
    RECEIVER_HEARTBEAT = 2
    RECEIVER_STATE = 3
    """Receiver: what it tells operators."""
    PUBLISHED_END = 4
    """Receiver: `penstock.relay.abc.PublishedEnd`."""
    ENGINE_HEARTBEAT = 5
    RECORDED_BOUNDARY = 7
    """Engine: the recorded flush boundary."""
    BREADCRUMB = 8
    """Engine: what it is busy with, so that its successor knows what it died of."""
    ENGINE_WISH = 9
    """Engine: what it wants of the receiver (`penstock.service.sleep.Wish`)."""
    WEB_0 = 16
    """Web: the heartbeat of the first worker; those of the others follow."""

    @staticmethod
    def web(index: int) -> int:
        """
        Give the heartbeat cell of a web worker, counted from 0.
        """
        assert 0 <= index < WEB_WORKERS_MAX, index
        return Cell.WEB_0 + index


_CELLS: Final = Cell.WEB_0 + WEB_WORKERS_MAX
_SIZE: Final = _CELLS * _CELL


class Board:
    """
    A mapping of the board in this process.

    Attributes:
        descriptor: the file behind it, to be inherited by other processes; -1 when closed.
    """

    def __init__(self, descriptor: int) -> None:
        """
        Map the board behind a descriptor, which then belongs to this object.

        Raises:
            FormatVersionError: it is not a board as this version makes them.
        """
        self.descriptor = descriptor
        if os.fstat(descriptor).st_size != _SIZE:
            raise FormatVersionError("this is not a board of this version of Penstock")
        self._map: Final = mmap.mmap(descriptor, _SIZE)
        if self._map[: len(_MAGIC)] != _MAGIC:
            raise FormatVersionError("this is not a board of this version of Penstock")
        self._written: Final = [-1] * _CELLS
        self._seen: Final[list[tuple[int, bytes | None]]] = [(0, None)] * _CELLS

    @classmethod
    def create(cls, path: Path) -> Self:
        """
        Make an empty board in a file, in place of any that is there.
        """
        path.unlink(missing_ok=True)
        return cls._blank(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    @classmethod
    def create_in_memory(cls) -> Self:
        """
        Make an empty board without a name, reached by inheriting `descriptor`.
        """
        if hasattr(os, "memfd_create"):
            return cls._blank(os.memfd_create("penstock-board"))
        with tempfile.TemporaryFile() as file:
            return cls._blank(os.dup(file.fileno()))

    @classmethod
    def open(cls, path: Path) -> Self:
        """
        Map a board that another process made.
        """
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    @classmethod
    def _blank(cls, descriptor: int) -> Self:
        os.ftruncate(descriptor, _SIZE)
        os.pwrite(descriptor, _MAGIC, 0)
        return cls(descriptor)

    def write(self, cell: int, payload: bytes) -> None:
        """
        Say something new in a cell. Only the cell's one writer may; never blocks.
        """
        length = len(payload)
        assert length <= PAYLOAD_BYTES_MAX, f"{length} bytes do not fit into cell {cell}"
        generation = self._written[cell]
        if generation < 0:
            # The first write of this process: go on where a predecessor ended, also inside a write.
            generation = self._newest(cell)[0]
        generation += 1
        self._written[cell] = generation
        checksum = zlib.crc32(payload, zlib.crc32(_COVERED.pack(generation, length)))
        start = cell * _CELL + (generation & 1) * _SLOT
        record = _HEADER.pack(generation, length, checksum) + payload
        self._map[start : start + len(record)] = record

    def read(self, cell: int) -> bytes | None:
        """
        Give what was written last, None when nothing was. Never blocks, never gives a mixture, never goes back.
        """
        seen = self._seen[cell]
        for _ in range(_ATTEMPTS):
            generation, payload, is_torn = self._newest(cell)
            if generation > seen[0]:
                seen = self._seen[cell] = (generation, payload)
            if not is_torn:
                break
        return seen[1]

    def _newest(self, cell: int) -> tuple[int, bytes | None, bool]:
        """
        Copy a cell; give generation and payload of its newest valid slot, and whether a slot was not valid.
        """
        start = cell * _CELL
        copy = self._map[start : start + _CELL]
        newest: tuple[int, bytes | None] = (0, None)
        is_torn = False
        for slot in (0, _SLOT):
            generation, length, checksum = _HEADER.unpack_from(copy, slot)
            if generation == 0:
                continue
            if length <= PAYLOAD_BYTES_MAX:
                body = slot + _HEADER.size
                payload = copy[body : body + length]
                if checksum == zlib.crc32(payload, zlib.crc32(_COVERED.pack(generation, length))):
                    if generation > newest[0]:
                        newest = (generation, payload)
                    continue
            is_torn = True
        return *newest, is_torn

    def close(self) -> None:
        """
        Unmap it. Safe to call twice.
        """
        if self.descriptor >= 0:
            self._map.close()
            os.close(self.descriptor)
            self.descriptor = -1
