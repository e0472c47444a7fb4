"""
The log of one incarnation: a tail in memory, files behind it.

The event loop's thread owns the object; threads get copies of what they need and hand results back. No file is held
open, and what is kept in memory of the files is a few numbers for each closed chunk.

Theory of operation. Three places move forward, each never before the one after it in this list:

* the *end of the files* (`_written`), moved by a settle when it returns;
* the *readable end* (`last`), moved by `commit`;
* the *settled end* (`_aligned`), where the files hold whole transactions and nothing else.

Normally the readable end is the greatest of them. While the first part of a large transaction was written before its
commit came, the end of the files is: then a reader is given bytes up to the settled end only, which is where the
readable end is too. When such a part is abandoned, the end of the files goes back to the settled end and the next settle
cuts the files there. Bytes that a reader was ever told of are never cut or changed.

A range ends at the first closed chunk behind the place asked for, or at the readable end if that comes first, although a
chunk may have closed behind it in a transaction that is not complete: whoever is told that he is up to date at some
place must have been given everything before it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum
from functools import partial
from typing import Final, TypeVar

from penstock.errors import CorruptLogError, ShapeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.compaction import KEPT_CHUNKS_COUNT, Compaction, data_name
from penstock.shape_log.compactor import CompactJob, Seen, SourceChunk, find_start_compacted, verify_chunk
from penstock.shape_log.disk import Disk, as_log_error
from penstock.shape_log.pool import DiskPool
from penstock.shape_log.reader import find_start, verify
from penstock.shape_log.records import DATA_NAME, HEADER_BYTES, SettleOutcome
from penstock.shape_log.recovery import ChunkTable, FileEnd, Recovered
from penstock.shape_log.tail import Tail
from penstock.shape_log.writer import SettleJob, SettleResult, SnapshotWriter
from penstock.shapes.offset import SNAPSHOT_END, LogOffset, snapshot_chunk_end
from penstock.shapes.reading import FilePiece, InlinePiece, LogRange

T = TypeVar("T")

SNAPSHOT_WRITE_BYTES: Final = 256 * 1024
"""Blocks of a snapshot are collected up to this length before they are handed to a thread."""


class _Snapshot(Enum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class LogFolder:
    """
    Where a log lives, and the threads that work on it.
    """

    __slots__ = ("disk", "open_part_bytes_max", "readers", "root", "synced", "writers")

    def __init__(
        self, *, root: str, disk: Disk, readers: DiskPool, writers: DiskPool, open_part_bytes_max: int
    ) -> None:
        """
        Share these between all logs of a data folder.
        """
        self.root: Final = root
        self.disk: Final = disk
        self.readers: Final = readers
        self.writers: Final = writers
        self.open_part_bytes_max: Final = open_part_bytes_max
        self.synced: Final[set[str]] = set()
        """Folders known to be durable in those above them."""


class FileShapeLog:
    """
    One shape log; see `penstock.consumers.abc.ShapeLog`.
    """

    __slots__ = (
        "__weakref__",
        "_abandoned_from",
        "_aligned",
        "_chunk_bytes_max",
        "_chunks",
        "_committed",
        "_compaction",
        "_folder",
        "_has_failed",
        "_is_compacting_now",
        "_is_compaction_verified",
        "_is_cut_needed",
        "_is_settling",
        "_last",
        "_path",
        "_progress",
        "_settled",
        "_snapshot",
        "_snapshot_ends",
        "_snapshot_error",
        "_tail",
        "_unverified",
        "_written",
        "handle",
        "incarnation",
        "is_compacting",
        "is_given_up",
        "seen",
    )

    def __init__(
        self,
        folder: LogFolder,
        path: str,
        handle: str,
        incarnation: int,
        chunk_bytes_max: int,
        *,
        is_compacting: bool = False,
    ) -> None:
        """
        Stand for a new log whose files hold their headers and nothing else.

        Args:
            folder: what all logs share.
            path: of the log's own folder, relative to the data folder.
            handle: the name clients know it by.
            incarnation: the number that is never used again.
            chunk_bytes_max: the threshold at which chunks close.
            is_compacting: whether it may be compacted.
        """
        self.incarnation = incarnation
        self.is_compacting = is_compacting
        self.is_given_up = False
        self.seen: Seen | None = None
        """What its files looked like when they were looked at, if another process writes them."""
        self._compaction: Compaction | None = None
        self._is_compacting_now = False
        self._is_compaction_verified: set[int] = set()
        self.handle = handle
        self._folder: Final = folder
        self._path: Final = path
        self._chunk_bytes_max: Final = chunk_bytes_max
        self._snapshot = _Snapshot.RUNNING
        self._snapshot_ends: array[int] = array("Q")
        self._snapshot_error: Exception | None = None
        self._progress: asyncio.Event | None = asyncio.Event()
        self._tail = Tail(chunk_bytes_max)
        self._chunks = ChunkTable()
        self._written = self._aligned = FileEnd(0, HEADER_BYTES, 0, SNAPSHOT_END)
        # As `last`; a plain tuple is made in half the time, once for each delivery.
        self._last: tuple[int, int] = SNAPSHOT_END
        self._committed: tuple[CommitLsn, EndLsn] | None = None
        self._settled: tuple[CommitLsn, EndLsn] | None = None
        self._unverified: set[int] | None = None
        # While a thread writes: from which ordinal on what it was given counts no more; None when all of it does.
        self._abandoned_from: int | None = None
        self._is_cut_needed = False
        self._is_settling = False
        self._has_failed = False

    def take_over(self, found: Recovered) -> None:
        """
        Stand for what was read from the files instead.
        """
        self._snapshot = _Snapshot.FINISHED
        self._progress = None
        self._snapshot_ends = found.snapshot_ends
        self._tail = Tail(self._chunk_bytes_max, found.open_chunk_bytes)
        self._chunks = found.chunks
        self._written = self._aligned = found.end
        self._last = found.end.last
        if found.aligned is not None:
            self._committed = self._settled = (CommitLsn(found.aligned[0]), EndLsn(found.aligned[1]))
        self.is_compacting = found.is_compacting
        self._compaction = found.compaction
        # Snapshot chunks count from 0, log chunks and the open one behind them downwards from -1.
        self._unverified = {*range(len(found.snapshot_ends)), *range(-1 - len(found.chunks), 0)}

    @property
    def last(self) -> LogOffset:
        """
        The latest readable place; `0_inf` while there are no changes.
        """
        return LogOffset._make(self._last)

    @property
    def settled(self) -> tuple[CommitLsn, EndLsn] | None:
        """
        The last transaction that is durable with everything before it; None when none was settled yet.
        """
        return self._settled

    @property
    def settled_offset(self) -> LogOffset:
        """
        The last place that the files are sure to hold after a power cut; `0_inf` while there are no changes in them.
        """
        return self._aligned.last

    @property
    def file_bytes(self) -> int:
        """
        Bytes in its data file, roughly what somebody reads who starts from the beginning.
        """
        return self._written.data_bytes

    @property
    def tail_bytes(self) -> int:
        """
        Bytes held in memory.
        """
        return self._tail.bytes_count

    def append(self, tx: int, elements: Sequence[tuple[int, bytes]]) -> int:
        """
        Add elements of the transaction with this commit LSN, as (position, JSON), after all before; not yet readable.
        Tells how many bytes they have.
        """
        assert self._committed is None or tx > self._committed[0].value, "transactions ascend"
        return self._tail.append(tx, elements)

    def commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Make everything appended readable. Called for each transaction delivered, also for one that added nothing.
        """
        assert self._committed is None or commit_lsn.value > self._committed[0].value, "transactions ascend"
        self._committed = (commit_lsn, end)
        last = self._tail.commit()
        if last is not None:
            self._last = last
            return
        self._last = self._written.last
        self._settle_nothing()

    def append_whole(
        self, transactions: Sequence[tuple[int, Sequence[tuple[int, bytes]]]], commit_lsn: CommitLsn, end: EndLsn
    ) -> None:
        """
        Add whole transactions, each as its commit LSN and its elements, and make them readable; nothing is half-way.

        Args:
            transactions: those of one delivery that add something, in order.
            commit_lsn: the last transaction delivered, whether or not it added anything.
            end: where that ends.
        """
        assert self._committed is None or commit_lsn.value > self._committed[0].value, "transactions ascend"
        if transactions:
            assert self._committed is None or transactions[0][0] > self._committed[0].value, "transactions ascend"
            self._tail.append_whole(transactions)
        self.commit(commit_lsn, end)

    def abandon_part(self) -> None:
        """
        Drop the elements appended since the last commit (those of a transaction whose rest will be read again).
        """
        tail = self._tail
        if self._is_settling:
            # Ordinals are given anew behind what is kept, so the lowest tells, however much comes and goes meanwhile.
            first = self._abandoned_from
            self._abandoned_from = tail.committed if first is None else min(first, tail.committed)
        if tail.committed < tail.base:
            self._return_to_aligned()
        tail.abandon()

    async def write_snapshot(self, blocks: AsyncIterator[bytes], end_element: bytes) -> None:
        """
        Write the snapshot part: blocks of whole lines, each line an element ended by a newline; then the last element.

        Chunks become readable as they close. Returns when all is written and synced.

        Raises:
            DiskFullError: no space; the shape must be given up by the caller or tried anew under another incarnation.
            SyncFailedError: likewise.
        """
        if self._snapshot_error is not None:
            # Given up while the database was being asked.
            raise self._snapshot_error
        assert self._snapshot is _Snapshot.RUNNING
        assert not self._snapshot_ends
        writer = SnapshotWriter(self._folder.disk, self._full_path, self._chunk_bytes_max)
        try:
            collected: list[bytes] = []
            collected_bytes = 0
            async for block in blocks:
                collected.append(block)
                collected_bytes += len(block)
                if collected_bytes >= SNAPSHOT_WRITE_BYTES:
                    written, collected, collected_bytes = collected, [], 0
                    self._snapshot_advanced(await self._write(partial(writer.write, written)))
            rest = collected
            folders = self._folders_above()

            def finish() -> tuple[array[int], FileEnd]:
                closed = writer.write(rest)
                last, end = writer.finish(end_element, folders)
                return closed + last, end

            ends, end = await self._write(finish)
        except BaseException as error:
            self.give_up(error if isinstance(error, Exception) else ShapeError("the snapshot was given up"))
            raise
        self._folder.synced.add(folders[0])
        self._written = self._aligned = end
        self._snapshot = _Snapshot.FINISHED
        self._snapshot_advanced(ends)
        self._progress = None
        self._settle_nothing()

    def give_up(self, error: Exception) -> None:
        """
        Tell whoever waits for a snapshot chunk that there will be no more.
        """
        self.is_given_up = True
        if self._snapshot is _Snapshot.RUNNING:
            self._snapshot = _Snapshot.FAILED
            self._snapshot_error = error
            self._snapshot_advanced(array("Q"))

    async def read(self, after: LogOffset) -> LogRange:
        """
        Find what a request at this place reads, waiting for a snapshot chunk that is being written.

        A place beyond `last` gives an empty range with `chunk_end` equal to that place.

        Raises:
            CorruptLogError: the files do not verify.
        """
        if after < SNAPSHOT_END:
            chunk = 0 if after.tx < 0 else after.op + 1
            if await self._has_snapshot_chunk(chunk):
                return await self._read_snapshot_chunk(chunk)
            after = SNAPSHOT_END
        if after >= self.last:
            return LogRange(chunk_end=after, last=self.last)
        if after >= self._written.last:
            start = self._tail.find(after)
            return self._tail_range(start)
        return await self._read_files(after)

    # --- settling, called by the store -------------------------------------------------------------------------------

    @property
    def is_settling(self) -> bool:
        """
        Whether a thread is writing this log's tail.
        """
        return self._is_settling

    @property
    def can_settle(self) -> bool:
        """
        Whether the snapshot is in the files, so that changes may follow it.
        """
        return self._snapshot is _Snapshot.FINISHED

    def begin_settle(self) -> SettleJob | SettleOutcome:
        """
        Tell what is to be written now, or what there is to say without writing.
        """
        assert self.can_settle
        assert not self._is_settling
        if self._has_failed:
            return SettleOutcome.FAILED
        tail = self._tail
        up_to = tail.past if tail.open_bytes > self._folder.open_part_bytes_max else max(tail.base, tail.committed)
        is_complete = tail.committed >= tail.base
        committed_count = tail.committed - tail.base if is_complete else 0
        is_aligning = committed_count > 0 or (is_complete and self._written != self._aligned)
        if up_to == tail.base and not is_aligning:
            self._settle_nothing()
            return SettleOutcome.SETTLED
        commit, end = self._committed or (CommitLsn(0), EndLsn(0))
        self._is_settling = True
        self._abandoned_from = None
        return SettleJob(
            folder=self._full_path,
            start=self._written,
            is_chunk_open=self._written.data_bytes > self._chunk_start_byte(len(self._chunks)),
            is_cut_needed=self._is_cut_needed,
            part=tail.front(up_to),
            committed_count=committed_count,
            is_aligning=is_aligning,
            commit=commit.value,
            end=end.value,
            base=tail.base,
        )

    def finish_settle(self, job: SettleJob, result: SettleResult) -> None:
        """
        Take over what a settle came to.
        """
        self._is_settling = False
        if result.outcome is not SettleOutcome.SETTLED:
            self._has_failed = result.outcome is SettleOutcome.FAILED
            self._is_cut_needed = True
            return
        self._is_cut_needed = False
        past = job.base + len(job.part.elements)
        bytes_count: int | None = result.elements_bytes
        for chunk in result.closed:
            self._chunks.add(chunk.last, chunk.end_byte, chunk.records_count)
        self._written = result.written
        if result.aligned is not None:
            self._aligned = result.aligned
            self._settled = (CommitLsn(job.commit), EndLsn(job.end))
        if self._abandoned_from is not None and self._abandoned_from < past:
            # Part of an incomplete transaction was written that has been abandoned since.
            past = job.base + job.committed_count if job.committed_count else self._tail.base
            bytes_count = None
            self._return_to_aligned()
        self._tail.drop(past, bytes_count)
        self._settle_nothing()

    # --- compacting, called by the store -----------------------------------------------------------------------------

    def begin_compaction(self, window_bytes_max: int) -> CompactJob | None:
        """
        Tell what can be compacted now; None when there is nothing, or it is under way.

        What is durable as whole transactions only, and not the latest closed chunks, which live readers are about to
        read.
        """
        before = self._compaction
        done = 0 if before is None else before.source_chunks_count
        count = min(len(self._chunks), self._aligned.chunks_count) - KEPT_CHUNKS_COUNT
        if not self.is_compacting or self._is_compacting_now or self._has_failed or self.is_given_up or count <= done:
            return None
        self._is_compacting_now = True
        chunks = self._chunks
        return CompactJob(
            folder=self._full_path,
            incarnation=self.incarnation,
            chunk_bytes_max=self._chunk_bytes_max,
            before=before,
            chunks=tuple(
                SourceChunk(
                    self._chunk_start_byte(chunk),
                    chunks.end_byte(chunk),
                    chunks.records_count(chunk - 1) if chunk else len(self._snapshot_ends) + 1,
                    chunks.records_count(chunk),
                )
                for chunk in range(done, count)
            ),
            source_chunks_count=count,
            window_bytes_max=window_bytes_max,
            is_given_up=lambda: self.is_given_up,
        )

    def finish_compaction(self, compaction: Compaction | None) -> None:
        """
        Send readers to a new compaction from now on; None when nothing came of it.
        """
        self._is_compacting_now = False
        if compaction is not None:
            self._compaction = compaction
            self._is_compaction_verified = set(range(len(compaction)))

    # --- within ------------------------------------------------------------------------------------------------------

    @property
    def _full_path(self) -> str:
        return f"{self._folder.root}/{self._path}"

    def _folders_above(self) -> list[str]:
        """
        Name the folders whose entries may not be durable: always the nearest, those above it once in this run.
        """
        fan_out = self._full_path.rpartition("/")[0]
        if fan_out in self._folder.synced:
            return [fan_out]
        return [fan_out, fan_out.rpartition("/")[0], self._folder.root]

    def _settle_nothing(self) -> None:
        """
        A commit that left nothing to write is as durable as what was there before it.
        """
        if self._has_failed or not self.can_settle or self._is_settling:
            return
        if self._tail.committed == self._tail.base and self._written == self._aligned:
            self._settled = self._committed

    def _return_to_aligned(self) -> None:
        self._chunks.cut(self._aligned.chunks_count)
        self._written = self._aligned
        self._is_cut_needed = True

    def _snapshot_advanced(self, ends: array[int]) -> None:
        self._snapshot_ends.extend(ends)
        progress = self._progress
        assert progress is not None
        self._progress = asyncio.Event()
        progress.set()

    async def _has_snapshot_chunk(self, chunk: int) -> bool:
        while chunk >= len(self._snapshot_ends):
            if self._snapshot is _Snapshot.FINISHED:
                return False
            if self._snapshot_error is not None:
                raise self._snapshot_error
            assert self._progress is not None
            await self._progress.wait()
        return True

    async def _read_snapshot_chunk(self, chunk: int) -> LogRange:
        start = self._snapshot_ends[chunk - 1] if chunk else HEADER_BYTES
        piece = FilePiece(self._data_path, start, self._snapshot_ends[chunk] - start)
        await self._verify_once(chunk, chunk, chunk + 1)
        return LogRange(chunk_end=snapshot_chunk_end(chunk), last=self.last, pieces=(piece,))

    async def _read_compacted(self, compaction: Compaction, after: LogOffset) -> LogRange:
        chunk = compaction.find(after)
        disk, folder = self._folder.disk, self._full_path
        if chunk not in self._is_compaction_verified:
            await self._look_up(lambda: verify_chunk(disk, folder, compaction, chunk))
            if compaction is self._compaction:
                self._is_compaction_verified.add(chunk)
        start = compaction.chunk_start_byte(chunk)
        if after > (compaction.chunk_last(chunk - 1) if chunk else SNAPSHOT_END):
            start = await self._look_up(lambda: find_start_compacted(disk, folder, compaction, chunk, after))
        piece = FilePiece(
            f"{self._path}/{data_name(compaction.number)}", start, compaction.chunk_end_byte(chunk) - start
        )
        return LogRange(compaction.chunk_last(chunk), self.last, (piece,))

    async def _read_files(self, after: LogOffset) -> LogRange:
        compaction = self._compaction
        if compaction is not None and after < compaction.last:
            return await self._read_compacted(compaction, after)
        chunk = self._chunks.find(after)
        chunk_start_byte = self._chunk_start_byte(chunk)
        from_record = self._chunks.records_count(chunk - 1) if chunk else len(self._snapshot_ends) + 1
        is_closed = chunk < len(self._chunks)
        is_all_readable = self._written.last <= self.last
        readable = self._written if is_all_readable else self._aligned
        if is_closed and self._chunks.last(chunk) <= self.last:
            end_byte, past_record = self._chunks.end_byte(chunk), self._chunks.records_count(chunk)
            answer = LogRange(chunk_end=self._chunks.last(chunk), last=self.last)
        else:
            end_byte, past_record = readable.data_bytes, readable.records_count
            is_whole = is_closed or not is_all_readable
            answer = LogRange(self.last, self.last) if is_whole else self._tail_range(self._tail.base)
        await self._verify_once(-1 - chunk, from_record, past_record)
        previous = self._chunks.last(chunk - 1) if chunk else SNAPSHOT_END
        start = chunk_start_byte
        if after > previous:
            start = await self._look_up(
                lambda: find_start(
                    self._folder.disk,
                    self._full_path,
                    after,
                    from_record=from_record,
                    up_to_record_exclusive=past_record,
                    chunk_start_byte=chunk_start_byte,
                )
            )
        assert start < end_byte
        piece = FilePiece(self._data_path, start, end_byte - start)
        return LogRange(answer.chunk_end, answer.last, (piece, *answer.pieces))

    def _tail_range(self, start: int) -> LogRange:
        past = self._tail.chunk_end(start)
        if past == start:
            return LogRange(chunk_end=self.last, last=self.last)
        inline = InlinePiece(self._tail.join(start, past))
        return LogRange(chunk_end=self._tail.place(past - 1), last=self.last, pieces=(inline,))

    @property
    def _data_path(self) -> str:
        return f"{self._path}/{DATA_NAME}"

    def _chunk_start_byte(self, chunk: int) -> int:
        if chunk:
            return self._chunks.end_byte(chunk - 1)
        return self._snapshot_ends[-1]

    async def _verify_once(self, key: int, from_record: int, up_to_record_exclusive: int) -> None:
        """
        Compare a chunk that an earlier run of the service wrote with its checksums, the first time it is read.
        """
        if self._unverified is None or key not in self._unverified:
            return
        await self._look_up(lambda: verify(self._folder.disk, self._full_path, from_record, up_to_record_exclusive))
        self._unverified.discard(key)
        if not self._unverified:
            self._unverified = None

    async def _look_up(self, call: Callable[[], T]) -> T:
        try:
            return await self._folder.readers.submit(self.incarnation, call)
        except FileNotFoundError as cause:
            raise CorruptLogError("the files of a shape log are gone") from cause
        except OSError as cause:
            raise as_log_error(cause, "reading a shape log") from cause

    async def _write(self, call: Callable[[], T]) -> T:
        try:
            # Whoever makes a shape waits for its files, and owes nothing by which others would find out that they hang.
            written = await self._folder.writers.answer(self.incarnation, call)
        except OSError as cause:
            raise as_log_error(cause, "writing the snapshot of a shape log") from cause
        if self._snapshot_error is not None:
            raise self._snapshot_error
        return written
