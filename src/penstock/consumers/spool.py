"""
Where the rows of subsets wait for whoever serves them. A shell.

A result is read from the database at the database's pace and served at the client's; in between it must not pile up in
memory, and a slow client must not hold a transaction open. What is small is passed on in memory; what is not goes to a
file of its own, which is deleted a moment after it was named to whoever serves it: an open file stays readable.

Limits: `inline_bytes_max` in memory for one result, `bytes_max` in files for all together. Nothing here outlives a
process: what is found at the start is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

from penstock.errors import RequestError
from penstock.shapes.reading import FilePiece, InlinePiece, Piece
from penstock.shapes.subset import FIELD

FOLDER_NAME: Final = "subsets"
INLINE_BYTES_MAX: Final = 1 << 20
BYTES_MAX: Final = 1 << 30
LIFE_S: Final = 10.0
"""How long a file can be opened after it was named."""

RETRY_AFTER_S: Final = 5


class Spool:
    """
    Holds results until they are being served.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bytes_max: int = BYTES_MAX,
        inline_bytes_max: int = INLINE_BYTES_MAX,
        life_s: float = LIFE_S,
    ) -> None:
        """
        Use a folder of its own below `data_dir`, made when it is needed.
        """
        self._data_dir: Final = data_dir
        self._bytes_max: Final = bytes_max
        self._inline_bytes_max: Final = inline_bytes_max
        self._life_s: Final = life_s
        self._named: Final[dict[str, tuple[asyncio.TimerHandle, int]]] = {}
        self._bytes_count = 0

    @property
    def bytes_count(self) -> int:
        """
        Bytes in files, those being written included.
        """
        return self._bytes_count

    def clear(self) -> None:
        """
        Delete what an earlier process left. To be called before anything is collected.
        """
        shutil.rmtree(self._data_dir / FOLDER_NAME, ignore_errors=True)

    def close(self) -> None:
        """
        Delete every file now.
        """
        for path in tuple(self._named):
            self._delete(path)

    async def collect(self, blocks: AsyncIterator[bytes]) -> tuple[Piece, ...]:
        """
        Take elements, each ended by a newline, and give them joined by commas.

        Raises:
            RequestError: they are more than there is room for.
        """
        waiting: list[bytes] = []
        waiting_bytes = 0
        file: _File | None = None
        separator = b""
        try:
            async for block in blocks:
                assert block.endswith(b"\n")
                # No element holds a line end: they are JSON, in which control characters are escaped.
                waiting.append(separator + block[:-1].replace(b"\n", b","))
                waiting_bytes += len(waiting[-1])
                separator = b","
                if waiting_bytes > self._inline_bytes_max:
                    file = file or await self._open()
                    self._count(file, waiting_bytes)
                    await file.write(waiting)
                    waiting, waiting_bytes = [], 0
            if file is None:
                return (InlinePiece(b"".join(waiting)),) if waiting else ()
            self._count(file, waiting_bytes)
            await file.write(waiting)
            await file.close()
        except BaseException as error:
            if file is not None:
                self._bytes_count -= file.bytes_count
                file.abandon()
            if isinstance(error, OSError):
                raise _no_room() from error
            raise
        timer = asyncio.get_running_loop().call_later(self._life_s, self._delete, file.path)
        self._named[file.path] = (timer, file.bytes_count)
        return (FilePiece(file.path, 0, file.bytes_count),)

    async def _open(self) -> _File:
        path = f"{FOLDER_NAME}/{secrets.token_hex(16)}"
        full_path = self._data_dir / path
        creating = asyncio.ensure_future(asyncio.to_thread(_create, full_path))
        try:
            return _File(path, full_path, await asyncio.shield(creating))
        except asyncio.CancelledError:
            # The thread goes on, and nobody would know of what it makes.
            creating.add_done_callback(partial(_drop, full_path))
            raise

    def _count(self, file: _File, more_bytes: int) -> None:
        file.bytes_count += more_bytes
        self._bytes_count += more_bytes
        if file.bytes_count > self._bytes_max:
            told = f"the rows have more than {self._bytes_max} bytes; ask for fewer"
            raise RequestError(400, "Invalid request", errors={FIELD: {"limit": [told]}})
        if self._bytes_count > self._bytes_max:
            raise _no_room()

    def _delete(self, path: str) -> None:
        timer, bytes_count = self._named.pop(path)
        timer.cancel()
        self._bytes_count -= bytes_count
        with contextlib.suppress(FileNotFoundError):
            (self._data_dir / path).unlink()


class _File:
    """
    A file being written, in threads.
    """

    def __init__(self, path: str, full_path: Path, descriptor: int) -> None:
        self.path: Final = path
        self.bytes_count = 0
        self._full_path: Final = full_path
        self._file: Final = os.fdopen(descriptor, "wb", buffering=0)
        self._writing: asyncio.Future[None] | None = None

    async def write(self, parts: list[bytes]) -> None:
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, b"".join(parts)))
        # A thread cannot be stopped: it ends, and then the file may be closed.
        await asyncio.shield(self._writing)

    async def close(self) -> None:
        await asyncio.to_thread(self._file.close)

    def abandon(self) -> None:
        """
        Give the name up at once, and the descriptor when the last write has ended.
        """
        self._full_path.unlink(missing_ok=True)
        if self._writing is None or self._writing.done():
            self._file.close()
        else:
            self._writing.add_done_callback(self._close_after)

    def _close_after(self, writing: asyncio.Future[None]) -> None:
        if not writing.cancelled():
            writing.exception()
        self._file.close()

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]


def _create(path: Path) -> int:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _drop(full_path: Path, creating: asyncio.Future[int]) -> None:
    if not creating.cancelled() and creating.exception() is None:
        full_path.unlink(missing_ok=True)
        os.close(creating.result())


def _no_room() -> RequestError:
    return RequestError(503, "There is no room for the rows of the subset", retry_after_s=RETRY_AFTER_S, is_known=True)
