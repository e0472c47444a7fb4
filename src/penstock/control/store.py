"""
The control store: one SQLite file that holds what must be true after a crash.

A thread of its own owns the connection, and no other process opens the file: write-ahead logging with
`synchronous=FULL`, so that a commit is one sync, and exclusive locking, so that there is no shared memory file and no
foreign reader to hold it up. Calls that wait at the same time are committed together, in the order they came.

What happens when the disk does not play along:

* no space: a call that only asks for more (a new shape, a fact) fails and may come again; one that must get through for
  anything to be freed (a tombstone, a checkpoint) may use the space of a reserve file that was allocated beforehand.
* any other failure: nothing is known about the file any more, so every later call fails too, until a restart.
* at start, a file that cannot be read is set aside under another name and an empty one takes its place: no shape
  survives that, and nothing that was served is contradicted, because every handle is new.

Durability order (O8): the mark of a clean stop is taken away, synced, before `open` returns, that is before anything else
of this run is written.

A shell. Everything but `_Connection` and the thread's loop runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from penstock.control.migrations import SCHEMA_VERSION, steps_from
from penstock.control.records import Recovered, ShapeRow, ShapeState, ShedRecord
from penstock.errors import (
    ConfigError,
    DecodeError,
    DiskFullError,
    FormatVersionError,
    PenstockError,
    ShapeError,
    SyncFailedError,
)
from penstock.postgres.lsn import EndLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import ShapeDefinition, decode_definition
from penstock.shapes.offset import BEFORE_ALL, LogOffset

T = TypeVar("T")

RESERVE_BYTES: Final = 8 << 20
"""Twice what the write-ahead log grows to before SQLite folds it back into the file."""
RESERVE_RETRY_S: Final = 60.0
"""How often a reserve that was used up is asked for again."""
BATCH_CALLS_MAX: Final = 1000
"""Calls committed together at most."""

_UNREADABLE: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})
_PRIMARY_CODE: Final = 0xFF
_TIMES: Final = msgspec.json.Encoder()
_READ_TIMES: Final = msgspec.json.Decoder(tuple[float, ...])


class _Call(NamedTuple):
    apply: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    may_use_reserve: bool


class _Outcome(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None


class SqliteControlStore:
    """
    The control store in a file; see `penstock.consumers.abc.ControlStore`.
    """

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        """
        Name the file; nothing is touched before `open`.

        Args:
            path: the database. The reserve lies beside it with `.reserve` added.
            reserve_bytes: how much space to hold for tombstones on a full disk.
        """
        self._queue: Final[SimpleQueue[_Call | None]] = SimpleQueue()
        self._file: Final = _File(path, reserve_bytes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recovered: Recovered | None = None
        self._is_open = False
        self._stopped: asyncio.Future[None] | None = None
        self.waiting_since: float | None = None
        """Since when, by the monotonic clock, the disk has been asked for what is asked now; None between two calls."""

    async def open(self) -> None:
        """
        Open or make the file, bring its tables up to date, read it, and take away the mark of a clean stop.

        Raises:
            FormatVersionError: newer code wrote it; it is left as it is.
            ConfigError: another process has it open.
            DiskFullError: no space.
            SyncFailedError: the disk refused.
        """
        assert self._loop is None
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Recovered] = self._loop.create_future()
        self._stopped = self._loop.create_future()
        threading.Thread(target=self._run, args=(opened,), name="control-store", daemon=True).start()
        self._recovered = await opened
        self._is_open = True

    @property
    def was_set_aside(self) -> bool:
        """
        Whether `open` found a file that could not be read.
        """
        return self._file.was_set_aside

    @property
    def has_reserve(self) -> bool:
        """
        Whether the reserve is there to write tombstones on a full disk.
        """
        return self._file.has_reserve

    async def load(self) -> Recovered:
        """
        Tell what `open` read; called once at start.
        """
        assert self._recovered is not None, "open comes first, and load but once"
        recovered, self._recovered = self._recovered, None
        return recovered

    async def close(self, *, is_clean: bool) -> None:
        """
        Do what was asked for and let go of the file.

        Args:
            is_clean: whether all shape logs are settled and the boundary says so.

        Raises:
            LogError: the mark could not be written. The file is closed all the same.
        """
        if not self._is_open:
            return
        try:
            if is_clean:
                await self._ask(_mark_clean, may_use_reserve=True)
        finally:
            self._is_open = False
            self._queue.put(None)
            assert self._stopped is not None
            await self._stopped

    async def create(self, handle: str, handle_us: int, definition: ShapeDefinition, chunk_bytes_max: int) -> int:
        """
        Add a row `CREATING`; answers the incarnation, from a counter that never returns.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        canonical = definition.canonical()

        def apply(connection: sqlite3.Connection) -> int:
            incarnation, epoch = connection.execute("SELECT incarnation_next, epoch FROM life").fetchone()
            connection.execute(
                "UPDATE life SET incarnation_next = incarnation_next + 1, handle_us_max = max(handle_us_max, ?)",
                (handle_us,),
            )
            connection.execute(
                "INSERT INTO shapes (incarnation, epoch, handle, definition, chunk_bytes_max, state, settled)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    incarnation,
                    epoch or 0,
                    handle,
                    canonical,
                    chunk_bytes_max,
                    ShapeState.CREATING.value,
                    str(BEFORE_ALL),
                ),
            )
            return int(incarnation)

        return await self._ask(apply)

    async def mark_live(self, incarnation: int, bounds: SnapshotBounds, settled: LogOffset) -> None:
        """
        The shape survives a crash from now on.

        Raises:
            ShapeError: it was given up in the meantime.
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        values = (
            ShapeState.LIVE.value,
            _snapshot_text(bounds.snapshot),
            str(bounds.horizon),
            str(settled),
            incarnation,
            ShapeState.CREATING.value,
        )

        def apply(connection: sqlite3.Connection) -> None:
            marked = connection.execute(
                "UPDATE shapes SET state = ?, snapshot = ?, horizon = ?, settled = ? WHERE incarnation = ? AND state = ?"
                " AND epoch >= (SELECT coalesce(epoch, 0) FROM life)",
                values,
            )
            if marked.rowcount != 1:
                raise ShapeError("the shape was given up before it was complete")

        await self._ask(apply)

    async def tombstone(self, incarnations: Collection[int], reason: str, at: EndLsn) -> None:
        """
        These are never served again. Those that are condemned already keep their reason.

        Raises:
            DiskFullError: no space, not even in the reserve.
            SyncFailedError: the store failed.
        """
        condemned = ShapeState.CONDEMNED.value
        rows = [(condemned, reason, str(at), incarnation, condemned) for incarnation in incarnations]

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE shapes SET state = ?, reason = ?, condemned_at = ? WHERE incarnation = ? AND state != ?", rows
            )

        await self._ask(apply, may_use_reserve=True)

    async def forget(self, incarnation: int) -> None:
        """
        Remove the row of a condemned incarnation whose files are gone. Rows of others stay.

        Raises:
            DiskFullError: no space, not even in the reserve.
            SyncFailedError: the store failed.
        """

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM shapes WHERE incarnation = ?"
                " AND (state = ? OR epoch < (SELECT coalesce(epoch, 0) FROM life))",
                (incarnation, ShapeState.CONDEMNED.value),
            )

        await self._ask(apply, may_use_reserve=True)

    async def checkpoint(self, boundary: EndLsn, settled: Mapping[int, LogOffset]) -> None:
        """
        Record the flush boundary, and how far shapes are settled.

        Raises:
            DiskFullError: no space, not even in the reserve.
            SyncFailedError: the store failed.
        """
        rows = [(str(offset), incarnation) for incarnation, offset in settled.items()]

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE life SET boundary = ?", (str(boundary),))
            connection.executemany("UPDATE shapes SET settled = ? WHERE incarnation = ?", rows)

        await self._ask(apply, may_use_reserve=True)

    async def record_fact(self, kind: str, key: str, value: bytes) -> None:
        """
        Record what the database answered while a commit was processed.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO facts VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
                (kind, key, value),
            )

        await self._ask(apply)

    async def record_sheds(self, changed: Collection[ShedRecord], gone: Collection[bytes]) -> None:
        """
        Remember definitions that were given up, and forget others, named by their canonical form.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the store failed.
        """
        rows = [(one.definition, one.name, one.reason, _TIMES.encode(one.times).decode()) for one in changed]
        keys = [(key,) for key in gone]

        def apply(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM sheds WHERE definition = ?", keys)
            connection.executemany("INSERT OR REPLACE INTO sheds VALUES (?, ?, ?, ?)", rows)

        await self._ask(apply)

    async def record_replay_version(self, version: int) -> None:
        """
        Record of which version all is that would be replayed, once more is served.

        Raises:
            DiskFullError: no space, not even in the reserve.
            SyncFailedError: the store failed.
        """

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE life SET replay_version = ?", (version,))

        await self._ask(apply, may_use_reserve=True)

    async def begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        """
        Condemn every shape there is, forget the facts, and take over the epoch.

        Of an epoch that is newer than the one before, one row says it of all shapes. The same epoch is begun again when
        its relay log does not reach back to what the shapes need; then each of them is told.

        Raises:
            DiskFullError: no space, not even in the reserve.
            SyncFailedError: the store failed.
        """

        def apply(connection: sqlite3.Connection) -> None:
            (known,) = connection.execute("SELECT coalesce(epoch, 0) FROM life").fetchone()
            assert epoch >= known, "epochs ascend"
            if epoch == known:
                connection.execute(
                    "UPDATE shapes SET state = ?, reason = ?, condemned_at = ? WHERE state != ?",
                    (ShapeState.CONDEMNED.value, reason, str(boundary), ShapeState.CONDEMNED.value),
                )
            connection.execute(
                "UPDATE life SET epoch = ?, boundary = ?, epoch_reason = ?", (epoch, str(boundary), reason)
            )
            connection.execute("DELETE FROM facts")

        await self._ask(apply, may_use_reserve=True)

    # --- within ------------------------------------------------------------------------------------------------------

    async def _ask(self, apply: Callable[[sqlite3.Connection], T], *, may_use_reserve: bool = False) -> T:
        assert self._is_open
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(apply, future, may_use_reserve))
        return await future

    def _run(self, opened: asyncio.Future[Recovered]) -> None:
        try:
            recovered = self._file.open()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for `open`
            self._tell([_Outcome(opened, None, error)])
            return
        self._tell([_Outcome(opened, recovered, None)])
        while (calls := self._next_calls()) is not None:
            self.waiting_since = time.monotonic()
            outcomes = self._file.commit(calls)
            self.waiting_since = None
            self._tell(outcomes)
        self._file.close()
        assert self._stopped is not None
        self._tell([_Outcome(self._stopped, None, None)])

    def _next_calls(self) -> list[_Call] | None:
        """
        Wait for a call and take those behind it; None when the last has been taken.
        """
        call = self._queue.get()
        if call is None:
            return None
        calls = [call]
        while len(calls) < BATCH_CALLS_MAX:
            try:
                call = self._queue.get_nowait()
            except Empty:
                break
            if call is None:
                self._queue.put(None)
                break
            calls.append(call)
        return calls

    def _tell(self, outcomes: list[_Outcome]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, outcomes)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


class _File:
    """
    The database file and its reserve; used by the store's thread alone.
    """

    def __init__(self, path: Path, reserve_bytes: int) -> None:
        self._path: Final = path
        self._reserve: Final = path.with_name(path.name + ".reserve")
        self._reserve_bytes: Final = reserve_bytes
        self._reserve_tried_s = -RESERVE_RETRY_S
        self._connection: sqlite3.Connection | None = None
        self._failure: SyncFailedError | None = None
        self.was_set_aside = False
        self.has_reserve = False

    def open(self) -> Recovered:
        """
        Read everything and take away the mark of a clean stop.
        """
        try:
            recovered = self._read()
        except _UnreadableError:
            self._set_aside()
            recovered = self._read()
        except BaseException:
            self.close()
            raise
        self._make_reserve()
        return recovered

    def commit(self, calls: list[_Call]) -> list[_Outcome]:
        """
        Commit these calls together, or as many as there is space for.
        """
        if self._failure is not None:
            return [_Outcome(call.future, None, self._failure) for call in calls]
        full: list[_Outcome] = []
        try:
            outcomes = self._try(calls)
            if outcomes is None:
                error = DiskFullError("no space in the control store")
                full = [_Outcome(call.future, None, error) for call in calls if not call.may_use_reserve]
                calls = [call for call in calls if call.may_use_reserve]
                outcomes = self._try(calls)
            if outcomes is None and self.has_reserve:
                self._reserve.unlink(missing_ok=True)
                self.has_reserve = False
                outcomes = self._try(calls)
        except Exception as cause:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._failure = SyncFailedError(f"the control store failed ({cause}); restart when its disk is well")
            return full + [_Outcome(call.future, None, self._failure) for call in calls]
        if outcomes is None:
            error = DiskFullError("no space in the control store, and its reserve is used up")
            return full + [_Outcome(call.future, None, error) for call in calls]
        if not full and not self.has_reserve:
            self._make_reserve()
        return full + outcomes

    def close(self) -> None:
        """
        Let go of the file.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try(self, calls: list[_Call]) -> list[_Outcome] | None:
        """
        Commit these calls; None, and nothing done, when there is no space for all of them.
        """
        connection = self._connection
        assert connection is not None
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_apply(connection, call) for call in calls]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if _code(error) == sqlite3.SQLITE_FULL:
                return None
            raise
        return outcomes

    def _read(self) -> Recovered:
        is_new = not self._path.exists()
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            connection = self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise FormatVersionError(
                    f"the control store has version {version}, this code reads up to {SCHEMA_VERSION}: start the newer"
                    " version, or another data folder"
                )
            self._write_steps(connection, steps_from(version))
            if not is_new:
                _check(connection)
            recovered = _read_all(connection)
            self._write_steps(connection, ("UPDATE life SET is_clean = 0",))
        except sqlite3.Error as error:
            raise _as_start_error(error) from error
        if is_new:
            _sync_folder(self._path.parent)
        return recovered

    def _write_steps(self, connection: sqlite3.Connection, steps: tuple[str, ...]) -> None:
        if not steps:
            return
        connection.execute("BEGIN IMMEDIATE")
        for statement in steps:
            connection.execute(statement)
        connection.execute("COMMIT")

    def _set_aside(self) -> None:
        self.close()
        number = 1
        while (target := self._path.with_name(f"{self._path.name}.unreadable-{number}")).exists():
            number += 1
        self._path.rename(target)
        for suffix in ("-wal", "-shm"):
            companion = self._path.with_name(self._path.name + suffix)
            if companion.exists():
                companion.rename(target.with_name(target.name + suffix))
        _sync_folder(self._path.parent)
        self.was_set_aside = True

    def _make_reserve(self) -> None:
        """
        Hold space for a full disk; without space for it now, ask again later.
        """
        now_s = time.monotonic()
        if now_s - self._reserve_tried_s < RESERVE_RETRY_S:
            return
        self._reserve_tried_s = now_s
        try:
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _allocate(descriptor, self._reserve_bytes)
            finally:
                os.close(descriptor)
        except OSError:
            with suppress(OSError):
                self._reserve.unlink(missing_ok=True)
        else:
            self.has_reserve = True


class _UnreadableError(PenstockError):
    """
    The file holds no control store, or a damaged one.
    """


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _apply(connection: sqlite3.Connection, call: _Call) -> _Outcome:
    """
    Apply one call, or nothing of it when it is at fault itself.
    """
    connection.execute("SAVEPOINT call")
    try:
        outcome = _Outcome(call.future, call.apply(connection), None)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            raise  # the file's fault, and so that of all
        connection.execute("ROLLBACK TO call")
        outcome = _Outcome(call.future, None, error)
    connection.execute("RELEASE call")
    return outcome


def _mark_clean(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE life SET is_clean = 1")


def _check(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _UnreadableError("the control store is damaged")


def _read_all(connection: sqlite3.Connection) -> Recovered:
    try:
        epoch, boundary, handle_us_max, is_clean, replay_version = connection.execute(
            "SELECT epoch, boundary, handle_us_max, is_clean, replay_version FROM life"
        ).fetchone()
        rows = connection.execute(
            "SELECT incarnation, handle, definition, state, chunk_bytes_max, snapshot, horizon, settled, epoch"
            " FROM shapes ORDER BY incarnation"
        )
        shapes = tuple(_shape_row(row, epoch or 0) for row in rows)
        facts = {(kind, key): value for kind, key, value in connection.execute("SELECT kind, key, value FROM facts")}
        sheds = tuple(
            ShedRecord(definition, name, reason, _READ_TIMES.decode(times))
            for definition, name, reason, times in connection.execute(
                "SELECT definition, name, reason, times FROM sheds ORDER BY definition"
            )
        )
        return Recovered(
            epoch, EndLsn.parse(boundary), shapes, facts, handle_us_max, bool(is_clean), sheds, int(replay_version)
        )
    except (DecodeError, msgspec.MsgspecError, ValueError, TypeError) as cause:
        raise _UnreadableError("the control store holds what it cannot hold") from cause


def _shape_row(row: tuple[Any, ...], epoch: int) -> ShapeRow:
    incarnation, handle, definition, state, chunk_bytes_max, snapshot, horizon, settled, own_epoch = row
    offset = LogOffset.parse(settled)
    if offset is None:
        raise DecodeError("not an offset in the control store")
    bounds = None if snapshot is None else SnapshotBounds(Snapshot.parse(snapshot), InsertLsn.parse(horizon))
    return ShapeRow(
        incarnation,
        handle,
        decode_definition(definition),
        ShapeState.CONDEMNED if own_epoch < epoch else ShapeState(state),
        chunk_bytes_max,
        bounds,
        offset,
    )


def _snapshot_text(snapshot: Snapshot) -> str:
    return f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, sorted(snapshot.running)))}"


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE


def _as_start_error(error: sqlite3.Error) -> PenstockError:
    code = _code(error)
    if code in _UNREADABLE:
        return _UnreadableError("the control store cannot be read")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return ConfigError("another process has the control store open: stop it, or use another data folder")
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError("no space for the control store")
    return SyncFailedError(f"the control store cannot be opened ({error})")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, bytes_count: int) -> None:
    """
    Give a file this length with real space behind it.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, bytes_count)
    else:
        os.pwrite(descriptor, bytes(bytes_count), 0)
