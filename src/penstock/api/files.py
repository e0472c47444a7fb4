"""
Bodies that lie in files: opened before the first header is sent, read a block at a time.

Shell. An open file stays readable when the shape is removed, so what was opened is sent whole. Blocks up to the limit
are read on the event loop, because they come from the page cache; larger runs are read by a few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, NamedTuple, Self

from penstock.api.plan import LogBody
from penstock.api.settings import FILE_BLOCK_BYTES
from penstock.errors import CorruptLogError
from penstock.shapes.reading import FilePiece


class Run(NamedTuple):
    """
    Part of an open file.
    """

    descriptor: int
    start_byte: int
    end_byte: int


class OpenBody:
    """
    A body whose files are open.
    """

    def __init__(self, body: bytes | LogBody, files: dict[str, int]) -> None:
        self._body: Final = body
        self._files: Final = files
        self.bytes_count: Final = body.bytes_count if isinstance(body, LogBody) else len(body)

    @classmethod
    def open(cls, body: bytes | LogBody, data_dir: Path) -> Self:
        """
        Open every file of the body.

        Raises:
            OSError: one is missing, or no more files can be opened; none stays open then.
        """
        files: dict[str, int] = {}
        with contextlib.ExitStack() as undo:
            for piece in body.pieces if isinstance(body, LogBody) else ():
                if isinstance(piece, FilePiece) and piece.path not in files:
                    files[piece.path] = os.open(data_dir / piece.path, os.O_RDONLY | os.O_CLOEXEC)
                    undo.callback(os.close, files[piece.path])
            undo.pop_all()
        return cls(body, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the files; more than once has no effect.
        """
        while self._files:
            _, descriptor = self._files.popitem()
            os.close(descriptor)

    async def blocks(self, readers: Executor) -> AsyncIterator[bytes]:
        """
        Give the body in blocks of about the limit.

        Raises:
            CorruptLogError: a file is shorter than it was said to be.
        """
        if isinstance(self._body, bytes):
            yield self._body
            return
        waiting: list[bytes] = []
        waiting_bytes = 0
        for segment in self._body.segments():
            async for block in self._read(segment, readers) if isinstance(segment, FilePiece) else _cut(segment):
                waiting.append(block)
                waiting_bytes += len(block)
                if waiting_bytes >= FILE_BLOCK_BYTES:
                    yield b"".join(waiting)
                    waiting.clear()
                    waiting_bytes = 0
        if waiting:
            yield b"".join(waiting)

    async def whole(self, readers: Executor) -> bytes:
        """
        Give the body at once.
        """
        return b"".join([block async for block in self.blocks(readers)])

    def runs(self) -> Iterator[bytes | Run]:
        """
        Give the body as bytes in memory and runs of open files.
        """
        if isinstance(self._body, bytes):
            yield self._body
            return
        for segment in self._body.segments():
            if isinstance(segment, FilePiece):
                yield Run(self._files[segment.path], segment.start_byte, segment.start_byte + segment.bytes_count)
            else:
                yield segment

    def read_now(self) -> bytes:
        """
        Give the body at once, read where the caller is: for bodies of about a block.

        Raises:
            CorruptLogError: a file is shorter than it was said to be.
        """
        parts: list[bytes] = []
        for run in self.runs():
            if isinstance(run, bytes):
                parts.append(run)
                continue
            part = os.pread(run.descriptor, run.end_byte - run.start_byte, run.start_byte)
            if len(part) < run.end_byte - run.start_byte:
                raise CorruptLogError(f"a file ends at byte {run.start_byte + len(part)}, before {run.end_byte}")
            parts.append(part)
        return b"".join(parts)

    async def _read(self, piece: FilePiece, readers: Executor) -> AsyncIterator[bytes]:
        descriptor = self._files[piece.path]
        place = piece.start_byte
        end = place + piece.bytes_count
        while place < end:
            wanted = min(end - place, FILE_BLOCK_BYTES)
            if piece.bytes_count <= FILE_BLOCK_BYTES:
                block = os.pread(descriptor, wanted, place)
            else:
                loop = asyncio.get_running_loop()
                block = await loop.run_in_executor(readers, os.pread, descriptor, wanted, place)
            if not block:
                raise CorruptLogError(f"{piece.path} ends at byte {place}, {end - place} bytes early")
            place += len(block)
            yield block


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    if len(data) <= FILE_BLOCK_BYTES:
        yield data
        return
    for start in range(0, len(data), FILE_BLOCK_BYTES):
        yield data[start : start + FILE_BLOCK_BYTES]
