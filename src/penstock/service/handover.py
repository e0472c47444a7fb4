"""
What an owner does for a standby on the same data folder, so that the folder can change hands under load.

A standby says that it is there by a shared lock on the file `standby`; the lock goes with its process, so the file says
nothing by itself. While one is there the owner settles at least once a second, and keeps a read-only copy of the
catalog of shapes beside it, renamed into place whenever a shape came or went. The standby reads that and the files of
shapes, and nothing else of ours.

The copy is no truth: it is a moment old, and whoever reads it must find the files to believe it. It is covered by a
checksum, because a power cut may leave a new name with old bytes.

Shell but for `encode_catalog` and `decode_catalog`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settling import Settler
from penstock.errors import CorruptLogError, FormatVersionError

_log: Final = structlog.get_logger(__name__)

STANDBY_NAME: Final = "standby"
CATALOG_NAME: Final = "catalog"
LOOK_S: Final = 0.5
"""How often the owner looks for a standby, settles for it and compares the copy."""
RETRY_S: Final = 5.0
"""How long to wait when the disk has refused that."""

_MAGIC: Final = b"PNSTKCAT"
_VERSION: Final = 1
_CRC_BYTES: Final = 4


class CatalogRow(msgspec.Struct, frozen=True, array_like=True):
    """
    A live shape.

    Attributes:
        incarnation, handle, chunk_bytes_max: as in the control store.
        definition: in canonical form.
        settled: a place that its files held when this was written.
    """

    incarnation: int
    handle: str
    chunk_bytes_max: int
    definition: bytes
    settled: str


class CatalogCopy(msgspec.Struct, frozen=True, array_like=True):
    """
    All live shapes, and what it takes to find out which one a request means.

    Attributes:
        version: of this format.
        are_generated_published: whether the stream brings generated columns.
        rows: the shapes.
    """

    version: int
    are_generated_published: bool
    rows: tuple[CatalogRow, ...]


_DECODER: Final = msgspec.msgpack.Decoder(CatalogCopy)


def encode_catalog(rows: tuple[CatalogRow, ...], *, are_generated_published: bool) -> bytes:
    """
    Give the bytes of a copy.
    """
    body = msgspec.msgpack.encode(CatalogCopy(_VERSION, are_generated_published, rows))
    return _MAGIC + zlib.crc32(body).to_bytes(_CRC_BYTES, "big") + body


def decode_catalog(data: bytes) -> CatalogCopy:
    """
    Read a copy.

    Raises:
        CorruptLogError: it does not verify.
        FormatVersionError: newer code wrote it.
    """
    head = len(_MAGIC) + _CRC_BYTES
    if data[: len(_MAGIC)] != _MAGIC or zlib.crc32(data[head:]) != int.from_bytes(data[len(_MAGIC) : head], "big"):
        raise CorruptLogError("the copy of the catalog does not verify")
    try:
        copy = _DECODER.decode(data[head:])
    except msgspec.MsgspecError as cause:
        raise CorruptLogError("the copy of the catalog holds something else") from cause
    if copy.version > _VERSION:
        raise FormatVersionError(f"the copy of the catalog has version {copy.version}, this code reads {_VERSION}")
    return copy


class StandbyMark:
    """
    The file by which a standby says that it is there.
    """

    def __init__(self, folder: Path) -> None:
        """
        Open it.
        """
        self._descriptor: Final = os.open(folder / STANDBY_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def hold(self) -> bool:
        """
        Say that we are there; False when the owner is just looking: try again.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_held(self) -> bool:
        """
        Tell whether somebody else says so.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """
        Let go of it.
        """
        os.close(self._descriptor)


class Handover:
    """
    The owner's side.

    Attributes:
        is_standby_there: whether there was a standby at the last look.
    """

    def __init__(
        self,
        folder: Path,
        registry: ConsumerRegistry,
        settler: Settler,
        *,
        are_generated_published: Callable[[], bool],
    ) -> None:
        """
        Take the ports; nothing is opened yet.
        """
        self._folder: Final = folder
        self._registry: Final = registry
        self._settler: Final = settler
        self._are_generated_published: Final = are_generated_published
        self._published: frozenset[int] | None = None
        self.is_standby_there = False

    async def run(self) -> None:
        """
        Look for a standby and serve it, until cancelled. What an owner before us published is taken away first.

        A disk that refuses, as one without room for the file does, costs the standby, and not the engine.
        """
        while True:
            try:
                await self._serve()
            except OSError as error:
                _log.error("no standby can be looked for", error=error.strerror)
            await asyncio.sleep(RETRY_S)

    async def _serve(self) -> None:
        self._published = None
        path = self._folder / CATALOG_NAME
        await asyncio.to_thread(path.unlink, missing_ok=True)
        mark = StandbyMark(self._folder)
        try:
            while True:
                await self._look(mark)
                await asyncio.sleep(LOOK_S)
        finally:
            mark.close()

    async def _look(self, mark: StandbyMark) -> None:
        is_there = await asyncio.to_thread(mark.is_held)
        if is_there != self.is_standby_there:
            _log.info("standby", is_there=is_there)
            self.is_standby_there = is_there
        if not is_there:
            return
        self._settler.hurry()
        live = {entry.incarnation: entry for entry in self._registry if entry.is_live and entry.condemned is None}
        if self._published == live.keys():
            return
        rows = tuple(
            CatalogRow(number, entry.handle, entry.chunk_bytes_max, entry.definition.canonical(), str(entry.settled))
            for number, entry in live.items()
        )
        data = encode_catalog(rows, are_generated_published=self._are_generated_published())
        try:
            await asyncio.to_thread(self._publish, data)
        except OSError as error:
            _log.error("the copy of the catalog cannot be written", error=error.strerror)
            return
        self._published = frozenset(live)

    def _publish(self, data: bytes) -> None:
        target = self._folder / CATALOG_NAME
        source = target.with_name(f"{CATALOG_NAME}.new")
        descriptor = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        source.replace(target)
