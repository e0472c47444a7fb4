"""
All shape logs of a data folder.

Each incarnation has a folder of its own, `shapes/<2 hex digits>/<incarnation>-<handle>`, spread over 256 folders by a
hash of the incarnation. What is given up is renamed to `trash/` beside `shapes/` and deleted by and by, so that a name
is free at once and an open reader keeps its file. Incarnations never return, so neither do folders.

Settling hands one log at a time to a few threads. A sync that hangs takes one log and its thread: the thread is
replaced, the log is left out of the answer, and `hung` names it until the call returns.

A shell, owned by the event loop's thread.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar
from weakref import WeakValueDictionary

from penstock.errors import CorruptLogError, ShapeError, SyncFailedError
from penstock.shape_log.compaction import WINDOW_BYTES_MAX, Compaction
from penstock.shape_log.compactor import compact, peek_compacted, recover_compacted
from penstock.shape_log.disk import Disk, PosixDisk, as_log_error
from penstock.shape_log.log import FileShapeLog, LogFolder
from penstock.shape_log.pool import DiskPool
from penstock.shape_log.records import DATA_NAME, SettleOutcome
from penstock.shape_log.writer import SettleJob, SettleResult, create_files, settle
from penstock.shapes.offset import LogOffset

T = TypeVar("T")

SHAPES_NAME: Final = "shapes"
TRASH_NAME: Final = "trash"

SETTLE_THREADS_MAX: Final = 8
READ_THREADS_MAX: Final = 4
REPLACED_THREADS_MAX: Final = 8
"""How many hanging threads are replaced; with more the pool shrinks, and at last nothing settles any more."""
SETTLE_TIMEOUT_S: Final = 30.0
OPEN_PART_BYTES_MAX: Final = 4 << 20
"""A settle writes the elements of a transaction that is not complete when they take more memory than this."""

_HANDLE: Final = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_FOLDER: Final = re.compile(r"(\d+)-[A-Za-z0-9_-]{1,200}", re.ASCII)
_CHECKS_PER_TIMEOUT: Final = 8


class _Numbered(Protocol):
    incarnation: int


class FileShapeLogStore:
    """
    Shape logs in files; see `penstock.consumers.abc.ShapeLogStore`.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        disk: Disk | None = None,
        settle_threads_max: int = SETTLE_THREADS_MAX,
        read_threads_max: int = READ_THREADS_MAX,
        replaced_threads_max: int = REPLACED_THREADS_MAX,
        settle_timeout_s: float = SETTLE_TIMEOUT_S,
        open_part_bytes_max: int = OPEN_PART_BYTES_MAX,
        compaction_window_bytes: int = WINDOW_BYTES_MAX,
    ) -> None:
        """
        Keep the shape logs of this data folder; nothing is touched yet.

        Args:
            data_folder: what the paths in ranges are relative to.
            disk: where it is; the file system by default.
            settle_threads_max: how many logs are written at once.
            read_threads_max: how many look-ups run at once.
            replaced_threads_max: how many hanging threads are replaced, of each kind.
            settle_timeout_s: after how long a write or sync counts as hanging.
            open_part_bytes_max: how much of an incomplete transaction a log keeps in memory through a settle.
            compaction_window_bytes: how much of a log a compaction holds in memory.
        """
        self._root: Final = str(data_folder)
        self._disk: Final = disk or PosixDisk()
        self._writers: Final = DiskPool(
            "shape-log-writer",
            threads_max=settle_threads_max,
            replaced_max=replaced_threads_max,
            deadline_s=settle_timeout_s,
        )
        self._readers: Final = DiskPool(
            "shape-log-reader",
            threads_max=read_threads_max,
            replaced_max=replaced_threads_max,
            deadline_s=settle_timeout_s,
        )
        self._sweeper: Final = DiskPool(
            "shape-log-sweeper", threads_max=1, replaced_max=replaced_threads_max, deadline_s=settle_timeout_s
        )
        self._folder: Final = LogFolder(
            root=self._root,
            disk=self._disk,
            readers=self._readers,
            writers=self._writers,
            open_part_bytes_max=open_part_bytes_max,
        )
        self._compactor: Final = DiskPool(
            "shape-log-compactor", threads_max=1, replaced_max=0, deadline_s=settle_timeout_s
        )
        self._compaction_window_bytes: Final = compaction_window_bytes
        self._compacting: Final[dict[int, asyncio.Future[Compaction | None]]] = {}
        self._logs: Final[WeakValueDictionary[int, FileShapeLog]] = WeakValueDictionary()
        self._in_flight: Final[dict[int, asyncio.Future[SettleResult]]] = {}

    async def create(
        self, handle: str, incarnation: int, chunk_bytes_max: int, *, is_compacting: bool = False
    ) -> FileShapeLog:
        """
        Make the folder of a new incarnation, whose log may be compacted or not.

        Raises:
            DiskFullError: no space.
            SyncFailedError: the disk refused otherwise.
        """
        path = self._path(handle, incarnation)
        call = partial(
            create_files,
            self._disk,
            f"{self._root}/{path}",
            incarnation,
            chunk_bytes_max,
            is_compacting=is_compacting,
        )
        try:
            await self._writers.answer(incarnation, call)
        except OSError as cause:
            raise as_log_error(cause, "creating a shape log") from cause
        log = FileShapeLog(self._folder, path, handle, incarnation, chunk_bytes_max, is_compacting=is_compacting)
        self._logs[incarnation] = log
        return log

    async def load(self, handle: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> FileShapeLog:
        """
        Open the files of a live shape after a restart, verify them and cut off what does not belong to a whole commit.

        Raises:
            CorruptLogError: they verify less than `settled`.
            FormatVersionError: newer code wrote them.
            SyncFailedError: the disk refused, or an earlier object for the same files is still being written.
        """
        writing = self._in_flight.get(incarnation)
        if writing is not None:
            await asyncio.wait([writing], timeout=self._writers.deadline_s)
            if not writing.done():
                raise SyncFailedError("a write to these files has not returned")
        compacting = self._compacting.get(incarnation)
        if compacting is not None:
            # What it writes would be taken for the leavings of a crash.
            await asyncio.wait([compacting])
        path = self._path(handle, incarnation)
        call = partial(recover_compacted, self._disk, f"{self._root}/{path}", incarnation, chunk_bytes_max, settled)
        found = await self._run(self._writers, incarnation, call, "loading a shape log")
        log = FileShapeLog(self._folder, path, handle, incarnation, chunk_bytes_max)
        log.take_over(found)
        self._logs[incarnation] = log
        return log

    async def peek(
        self, handle: str, incarnation: int, chunk_bytes_max: int, *, settled: LogOffset, known: FileShapeLog | None
    ) -> FileShapeLog:
        """
        See what the files of a log hold that another process writes, and touch none of them.

        Args:
            handle: of the shape.
            incarnation: likewise.
            chunk_bytes_max: likewise.
            settled: a place that is known to be good; what lies behind it is verified.
            known: what was seen before; given again when nothing was added.

        Raises:
            CorruptLogError: they verify less than `settled`, or are not there any more.
            FormatVersionError: newer code writes them.
            LogError: the disk refused.
        """
        path = self._path(handle, incarnation)
        folder = f"{self._root}/{path}"
        before = None if known is None else known.seen
        call = partial(peek_compacted, self._disk, folder, incarnation, chunk_bytes_max, settled=settled, before=before)
        try:
            found = await self._run(self._readers, incarnation, call, "looking at a shape log")
        except SyncFailedError as cause:
            if isinstance(cause.__cause__, FileNotFoundError):
                raise CorruptLogError("the files of a shape log are gone") from cause
            raise
        if found is None:
            assert known is not None
            return known
        log = FileShapeLog(self._folder, path, handle, incarnation, chunk_bytes_max)
        log.take_over(found[1])
        log.seen = found[0]
        return log

    async def settle(self, logs: Collection[_Numbered]) -> Mapping[int, SettleOutcome]:
        """
        Write and sync the tails of these logs up to their last commit; answers by incarnation.

        Left out of the answer are logs whose snapshot is still being written, and those whose files do not answer in
        time (see `hung`); both may be passed again.
        """
        mine = [log for log in logs if isinstance(log, FileShapeLog)]
        assert len(mine) == len(logs), "another store's log"
        await self._until_done([self._in_flight[log.incarnation] for log in mine if log.is_settling])
        outcomes: dict[int, SettleOutcome] = {}
        settling: dict[int, asyncio.Future[SettleResult]] = {}
        for log in mine:
            if log.is_settling or not log.can_settle:
                continue
            job = log.begin_settle()
            if isinstance(job, SettleOutcome):
                outcomes[log.incarnation] = job
                continue
            settling[log.incarnation] = self._start(log, job)
        await self._until_done(settling.values())
        for incarnation, future in settling.items():
            if future.done():
                is_ours = future.exception() is not None
                outcomes[incarnation] = SettleOutcome.FAILED if is_ours else future.result().outcome
        return outcomes

    async def compact_log(self, log: _Numbered) -> bool:
        """
        Compact what can be compacted of a log now; tells whether anything was.

        Raises:
            CorruptLogError: its files do not verify.
            LogError: the disk refused; the log is as it was.
        """
        assert isinstance(log, FileShapeLog), "another store's log"
        job = log.begin_compaction(self._compaction_window_bytes)
        if job is None:
            return False
        future = self._compactor.submit(log.incarnation, partial(compact, self._disk, job))
        self._compacting[log.incarnation] = future
        compaction: Compaction | None = None
        try:
            compaction = await asyncio.shield(future)
        except FileNotFoundError:
            return False  # given up meanwhile: its folder has another name
        except OSError as cause:
            raise as_log_error(cause, "compacting a shape log") from cause
        finally:
            if future.done():
                self._compacting.pop(log.incarnation, None)
            log.finish_compaction(compaction)
        return compaction is not None

    def hung(self) -> list[int]:
        """
        Name the incarnations whose files do not answer.
        """
        return sorted({*self._writers.overdue(), *self._readers.overdue()})

    async def discard(self, handle: str, incarnation: int) -> None:
        """
        Rename the folder away and delete it lazily; open readers keep their files. Idempotent.

        Raises:
            LogError: the disk refused.
        """
        log = self._logs.get(incarnation)
        if log is not None:
            log.give_up(ShapeError("the shape was given up"))
        call = partial(self._throw_away, self._path(handle, incarnation))
        thrown = await self._run(self._readers, incarnation, call, "discarding a shape log")
        if thrown is not None:
            self._remove_later(incarnation, thrown)

    async def discard_unknown(self, known: Collection[int]) -> None:
        """
        At start: discard every folder whose incarnation is not known, and empty the trash.

        Raises:
            LogError: the disk refused.
        """
        keep = frozenset(known)

        def sweep() -> list[str]:
            shapes = f"{self._root}/{SHAPES_NAME}"
            for fan_out in self._disk.list_folder(shapes):
                for name in self._disk.list_folder(f"{shapes}/{fan_out}"):
                    named = _FOLDER.fullmatch(name)
                    if named is not None and int(named[1]) not in keep:
                        self._throw_away(f"{SHAPES_NAME}/{fan_out}/{name}")
            trash = f"{self._root}/{TRASH_NAME}"
            return [f"{trash}/{name}" for name in self._disk.list_folder(trash)]

        for thrown in await self._run(self._sweeper, 0, sweep, "discarding unknown shape logs"):
            self._remove_later(0, thrown)

    async def empty_trash(self) -> None:
        """
        Delete what was thrown away and could not be deleted at once.

        Raises:
            LogError: the disk refused.
        """
        trash = f"{self._root}/{TRASH_NAME}"
        for name in await self._run(self._sweeper, 0, partial(self._disk.list_folder, trash), "looking into the trash"):
            self._remove_later(0, f"{trash}/{name}")

    async def weigh(self, shapes: Collection[tuple[str, int]]) -> Mapping[int, int]:
        """
        Tell how many bytes the files of these shapes hold, named by handle and incarnation, without opening them.

        Raises:
            LogError: the disk refused.
        """
        folders = [(incarnation, f"{self._root}/{self._path(handle, incarnation)}") for handle, incarnation in shapes]

        def weigh() -> dict[int, int]:
            sizes: dict[int, int] = {}
            for incarnation, folder in folders:
                # It may be given up meanwhile.
                with suppress(FileNotFoundError):
                    sizes[incarnation] = self._disk.size(f"{folder}/{DATA_NAME}")
            return sizes

        return await self._run(self._sweeper, 0, weigh, "measuring shape logs")

    def close(self) -> None:
        """
        End the threads when they have done what they were given.
        """
        for pool in (self._writers, self._readers, self._sweeper, self._compactor):
            pool.close()

    def _start(self, log: FileShapeLog, job: SettleJob) -> asyncio.Future[SettleResult]:
        future = self._writers.submit(log.incarnation, partial(settle, self._disk, job))
        self._in_flight[log.incarnation] = future

        def finish(done: asyncio.Future[SettleResult]) -> None:
            del self._in_flight[log.incarnation]
            error = done.exception()
            if error is None:
                log.finish_settle(job, done.result())
                return
            # Our own fault, told loudly; it must not cost the other logs of this settle anything.
            done.get_loop().call_exception_handler({"message": "a settle failed", "exception": error, "future": done})
            log.finish_settle(job, SettleResult(SettleOutcome.FAILED, None, job.start, []))

        future.add_done_callback(finish)
        return future

    async def _until_done(self, futures: Collection[asyncio.Future[SettleResult]]) -> None:
        """
        Wait until each of these is done, or hangs, or waits behind nothing but such as hang.
        """
        pending = set(futures)
        while pending:
            timeout_s = self._writers.deadline_s / _CHECKS_PER_TIMEOUT
            _, pending = await asyncio.wait(pending, timeout=timeout_s)
            overdue = frozenset(self._writers.overdue())
            if self._writers.is_exhausted:
                return
            pending -= {future for incarnation, future in self._in_flight.items() if incarnation in overdue}

    def _throw_away(self, path: str) -> str | None:
        trash = f"{self._root}/{TRASH_NAME}"
        target = f"{trash}/{path.rpartition('/')[2]}"
        self._disk.make_folder(trash)
        if self._disk.list_folder(target):
            self._disk.remove_tree(target)  # half deleted when a power cut undid the rename
        return target if self._disk.rename(f"{self._root}/{path}", target) else None

    def _remove_later(self, incarnation: int, path: str) -> None:
        future = self._sweeper.submit(incarnation, partial(self._disk.remove_tree, path))
        # What cannot be deleted now is found in the trash at the next start.
        future.add_done_callback(lambda done: done.exception())

    async def _run(self, pool: DiskPool, incarnation: int, call: Callable[[], T], doing: str) -> T:
        try:
            return await pool.submit(incarnation, call)
        except OSError as cause:
            raise as_log_error(cause, doing) from cause

    def _path(self, handle: str, incarnation: int) -> str:
        assert _HANDLE.fullmatch(handle), "a handle is a file name"
        fan_out = zlib.crc32(incarnation.to_bytes(8, "big")) & 0xFF
        return f"{SHAPES_NAME}/{fan_out:02x}/{incarnation}-{handle}"
