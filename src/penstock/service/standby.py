"""
A service that waits for a data folder that another one owns, and meanwhile serves what lies there.

It reads the owner's copy of the catalog (see `handover`) and the files of shapes, as far as they hold whole transactions,
and asks the database which shape a request means. Nothing is written. A shape is served up to date for the end of its
files, which the owner moves at least once a second; whatever cannot be answered from that is sent away with a 503:
another handle than the one in the copy, because the copy may be the older one; a shape that is not in it; and a place
that is not in the files yet waits.

The folder's lock is asked for all the time. When it is ours the standby answers those who wait with a 503, which clients
repeat at once, and the caller goes on as the owner, on the same sockets.

Shell.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Final

import structlog
import uvloop

from penstock.consumers.resolve import resolve_shape, resolve_table_name, unknown_table
from penstock.database.inspector import CatalogInspector
from penstock.database.pool import ConnectionPool
from penstock.database.urls import parse_database_url
from penstock.errors import (
    ConnectionLostError,
    CorruptLogError,
    FormatVersionError,
    InvalidShapeError,
    LogError,
    PenstockError,
    RuleError,
)
from penstock.service.folder import FolderLock
from penstock.service.handover import CATALOG_NAME, CatalogCopy, CatalogRow, StandbyMark, decode_catalog
from penstock.service.settings import Settings
from penstock.service.web import serve_source
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.condition import needs_letters
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from penstock.shapes.reading import (
    FORBIDDEN,
    Advanced,
    Health,
    LogRange,
    Opened,
    OpenReply,
    Refused,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)
from penstock.where.facts import NO_FACTS
from penstock.wire.schema import schema_header

_log: Final = structlog.get_logger(__name__)

LOCK_POLL_S: Final = 0.05
LOOK_S: Final = 0.5
"""How often the files of a shape that is waited at are looked at."""
UNKNOWN_WAIT_S_MAX: Final = 5.0
"""How long a request waits for its shape to appear in the catalog."""
RETRY_AFTER_S: Final = 1
POOL_SIZE: Final = 2
LOGS_MAX: Final = 10_000
"""Shapes whose index is remembered."""
_REASON: Final = "Postgres lock acquisition"


class StandbySource:
    """
    What a standby can serve; implements `penstock.api.abc.ShapeSource`.
    """

    def __init__(self, folder: Path, store: FileShapeLogStore, inspector: CatalogInspector) -> None:
        """
        Read from this folder; ask the database what requests mean.
        """
        self._path: Final = folder / CATALOG_NAME
        self._store: Final = store
        self._inspector: Final = inspector
        self._stamp: tuple[int, int] | None = None
        self._copy = CatalogCopy(0, False, ())
        self._by_definition: dict[bytes, CatalogRow] = {}
        self._by_handle: dict[str, CatalogRow] = {}
        self._logs: Final[dict[int, FileShapeLog]] = {}

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        See `ShapeSource.open`.
        """
        try:
            return await self._open(request)
        except RuleError as error:
            _log.error("a request was denied, because what authorize added cannot be used", problem=error.message)
            return FORBIDDEN
        except InvalidShapeError as error:
            return Refused(400, "Invalid request", errors={error.field: [error.message]})
        except ConnectionLostError:
            return _refuse("Cannot connect to the database to verify the shape. Please try again later.")
        except PenstockError as error:
            _log.info("a shape cannot be served by the standby", error=error.message)
            return _refuse(f"Timeout waiting for {_REASON}")

    async def _open(self, request: ShapeRequest) -> OpenReply:
        found: tuple[CatalogRow, str] | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(UNKNOWN_WAIT_S_MAX):
                found = await self._await_row(request)
        if found is None:
            return _refuse(f"Timeout waiting for {_REASON}")
        row, schema = found
        if request.handle is not None and request.handle != row.handle:
            return _refuse(f"Timeout waiting for {_REASON}")
        log = await self._refresh(row)
        after = request.offset
        found_range = LogRange(log.last, log.last) if after is None else await log.read(after)
        return Opened(row.handle, schema, found_range, _lsn(log.last), is_replaying=True)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        See `ShapeSource.wait`.
        """
        while True:
            self._read_copy()
            row = self._by_handle.get(handle)
            if row is None:
                raise ConnectionLostError("the shape is not in the catalog")
            try:
                log = await self._refresh(row)
                if log.last > after:
                    return Advanced(await log.read(after), _lsn(log.last))
            except LogError as error:
                raise ConnectionLostError(error.message) from error
            await asyncio.sleep(LOOK_S)

    async def health(self) -> Health:
        """
        See `ShapeSource.health`.
        """
        return Health("waiting", _REASON, "another instance has the data folder")

    async def status(self) -> dict[str, object]:
        """
        See `ShapeSource.status`.
        """
        return {"state": "waiting", "waiting_for": _REASON, "problems": [], "shape_count": len(self._by_handle)}

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        """
        See `ShapeSource.list_shapes`: who has them is asked.
        """
        del question
        raise ConnectionLostError("another instance has the shapes")

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        See `ShapeSource.load_subset`.
        """
        del question
        return _refuse(f"Timeout waiting for {_REASON}")

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        See `ShapeSource.remove`.
        """
        del request
        return _refuse(f"Timeout waiting for {_REASON}")

    # --- within ------------------------------------------------------------------------------------------------------

    async def _await_row(self, request: ShapeRequest) -> tuple[CatalogRow, str]:
        """
        Find out which shape a request means, waiting for it to appear.
        """
        name = resolve_table_name(request)
        while True:
            self._read_copy()
            table = await self._inspector.find_table(*name)
            if table is None:
                raise unknown_table(name)
            facts = NO_FACTS
            if request.clauses:
                with_letters = any(map(needs_letters, request.clauses))
                facts = await self._inspector.find_facts(table, with_letters=with_letters)
            definition = await asyncio.to_thread(
                resolve_shape,
                request,
                table,
                are_generated_published=self._copy.are_generated_published,
                facts=facts,
            )
            row = self._by_definition.get(definition.canonical())
            if row is not None:
                return row, schema_header(table, definition.selected).decode()
            await asyncio.sleep(LOOK_S / 2)

    def _read_copy(self) -> None:
        """
        Read the copy of the catalog if there is another one.
        """
        try:
            found = os.stat(self._path)  # noqa: PTH116 - one call
        except FileNotFoundError:
            return
        stamp = found.st_ino, found.st_mtime_ns
        if stamp == self._stamp:
            return
        try:
            copy = decode_catalog(self._path.read_bytes())
        except (FileNotFoundError, CorruptLogError):
            return
        except FormatVersionError as error:
            # The owner is newer than we are: nothing of what it has can be served here.
            _log.warning("the owner's catalog cannot be read", error=error.message)
            copy = CatalogCopy(0, False, ())
        self._stamp, self._copy = stamp, copy
        self._by_definition = {row.definition: row for row in copy.rows}
        self._by_handle = {row.handle: row for row in copy.rows}
        alive = {row.incarnation for row in copy.rows}
        for incarnation in self._logs.keys() - alive:
            del self._logs[incarnation]

    async def _refresh(self, row: CatalogRow) -> FileShapeLog:
        """
        Give the log of a shape as its files stand now.

        Raises:
            LogError: they are gone, or do not verify.
        """
        known = self._logs.get(row.incarnation)
        settled = LogOffset.parse(row.settled) or SNAPSHOT_END
        log = await self._store.peek(row.handle, row.incarnation, row.chunk_bytes_max, settled=settled, known=known)
        if len(self._logs) >= LOGS_MAX and row.incarnation not in self._logs:
            self._logs.clear()
        self._logs[row.incarnation] = log
        return log


def stand_by(settings: Settings, listeners: Sequence[socket]) -> FolderLock | None:
    """
    Serve what can be served from a folder that somebody else owns, until it is ours; None when asked to end instead.
    """
    return uvloop.run(_stand_by(settings, listeners))


async def _stand_by(settings: Settings, listeners: Sequence[socket]) -> FolderLock | None:
    folder = settings.data_dir
    ca_file = settings.database_ca_certificate_file
    url = parse_database_url(
        settings.database_url, ca_file=None if ca_file is None else str(ca_file), defaults=settings.tcp_options()
    )
    pool = ConnectionPool(url, size=POOL_SIZE, application_name="penstock standby")
    store = FileShapeLogStore(folder)
    source = StandbySource(folder, store, CatalogInspector(pool))
    stopping, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
    mark = StandbyMark(folder)
    lock: FolderLock | None = None
    _log.info("another instance has the data folder: serving what lies there until it leaves", folder=str(folder))
    try:
        async with asyncio.TaskGroup() as group:
            # The server closes the sockets that it is given; ours stay for whoever comes after the standby.
            own = [listener.dup() for listener in listeners]
            group.create_task(serve_source(source, settings, own, stopping), name="serve from files")
            lock = await _await_lock(folder, mark, ended)
            stopping.set()
    finally:
        if is_main:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        mark.close()
        await pool.close()
        store.close()
    return lock


async def _await_lock(folder: Path, mark: StandbyMark, ended: asyncio.Event) -> FolderLock | None:
    """
    Wait for the folder; None when asked to end.
    """
    hold: Callable[[], bool] = mark.hold
    is_held = False
    while not ended.is_set():
        is_held = is_held or hold()
        lock = FolderLock.attempt(folder)
        if lock is not None:
            return lock
        with suppress(TimeoutError):
            async with asyncio.timeout(LOCK_POLL_S):
                await ended.wait()
    return None


def _lsn(last: LogOffset) -> int:
    return max(0, last.tx)


def _refuse(message: str) -> Refused:
    return Refused(503, message, retry_after_s=RETRY_AFTER_S, is_known=True)
