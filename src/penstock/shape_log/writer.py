"""
Writes shape log files, in threads.

Order of one settle (O3): what is left of an earlier attempt is cut off; data and index record are written; both files
are synced; only then does the event loop hear of it. The record carries the checksum of the data, so the two may reach
the disk in any order, and a power cut in between leaves a record that does not verify. A write that finds no space
leaves the log as it was, to be cut at the next attempt. After any other failure, and after every failed sync, nothing
is known about these files and they are not touched again.

A shell of plain calls; one call at a time for each folder.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock.shape_log.chunks import RunPlan, SnapshotCutter, plan_runs, runs_joiner
from penstock.shape_log.disk import NO_SPACE_ERRNOS, Disk, OpenFile
from penstock.shape_log.records import (
    DATA_MAGIC,
    DATA_NAME,
    HEADER_BYTES,
    INDEX_MAGIC,
    INDEX_NAME,
    IndexRecord,
    RecordKind,
    SettleOutcome,
    encode_header,
    encode_record,
    record_byte,
)
from penstock.shape_log.recovery import FileEnd
from penstock.shape_log.tail import TailPart
from penstock.shapes.offset import SNAPSHOT_END, LogOffset, snapshot_chunk_end

BLOCK_BYTES_TARGET: Final = 4 << 20
"""Runs are joined and written together up to about this size: a thread that writes waits for the interpreter's lock once
for each."""


def create_files(
    disk: Disk, folder: str, incarnation: int, chunk_bytes_max: int, *, is_compacting: bool = False
) -> None:
    """
    Make the folder of a new log and its two files. Nothing is durable yet: nobody counts on the log before its snapshot.
    """
    disk.make_folder(folder)
    for name, magic in ((DATA_NAME, DATA_MAGIC), (INDEX_NAME, INDEX_MAGIC)):
        with closing(disk.open(f"{folder}/{name}", is_new=True)) as file:
            file.write(0, encode_header(magic, incarnation, chunk_bytes_max, is_compacting=is_compacting))


class ClosedChunk(NamedTuple):
    """
    A log chunk that closed; the values of `ChunkTable.add`.
    """

    last: LogOffset
    end_byte: int
    records_count: int


@dataclass(frozen=True, slots=True)
class SettleJob:
    """
    What is to be written.

    Attributes:
        folder: of the log.
        start: where to write.
        is_chunk_open: whether the chunk at `start` holds elements already.
        is_cut_needed: whether there may be bytes behind `start`.
        part: the elements.
        committed_count: how many of them belong to complete transactions.
        is_aligning: whether the log is complete up to `commit` with the last of those, or as it is if there are none.
        commit: commit LSN of the last complete transaction, as a number.
        end: where it ended.
        base: ordinal of the first element.
    """

    folder: str
    start: FileEnd
    is_chunk_open: bool
    is_cut_needed: bool
    part: TailPart
    committed_count: int
    is_aligning: bool
    commit: int
    end: int
    base: int


@dataclass(frozen=True, slots=True)
class SettleResult:
    """
    What was written.

    Attributes:
        outcome: how it ended; the rest counts only when settled.
        aligned: how far the files are complete transactions; None when nothing changed there.
        written: how far they are good.
        closed: log chunks that closed.
        elements_bytes: how many bytes the elements have, without commas.
    """

    outcome: SettleOutcome
    aligned: FileEnd | None
    written: FileEnd
    closed: list[ClosedChunk]
    elements_bytes: int = 0


def settle(disk: Disk, job: SettleJob) -> SettleResult:
    """
    Write and sync.
    """
    is_syncing = False
    try:
        with (
            closing(disk.open(f"{job.folder}/{DATA_NAME}", is_new=False)) as data,
            closing(disk.open(f"{job.folder}/{INDEX_NAME}", is_new=False)) as index,
        ):
            if job.is_cut_needed:
                data.truncate(job.start.data_bytes)
                index.truncate(record_byte(job.start.records_count))
            writing = _Writing(job, data)
            writing.write_all()
            index.write(record_byte(job.start.records_count), b"".join(writing.records))
            is_syncing = True
            if writing.end.data_bytes > job.start.data_bytes:
                data.sync()
            index.sync()
    except OSError as error:
        is_harmless = error.errno in NO_SPACE_ERRNOS and not is_syncing
        outcome = SettleOutcome.NO_SPACE if is_harmless else SettleOutcome.FAILED
        return SettleResult(outcome, None, job.start, [])
    return SettleResult(SettleOutcome.SETTLED, writing.aligned, writing.end, writing.closed, writing.elements_bytes)


class _Writing:
    """
    The data of one settle being written, a block at a time, so that no second copy of all of it is in memory.

    Attributes:
        records: of the index, for what was written.
        end: how far the files will be good.
        aligned: how far they are complete transactions; None when nothing changed there.
        closed: log chunks that closed.
        elements_bytes: how many bytes the elements have, without commas.
    """

    def __init__(self, job: SettleJob, data: OpenFile) -> None:
        self._job: Final = job
        self._data: Final = data
        self._join: Final = runs_joiner()
        self._is_chunk_open = job.is_chunk_open
        self.records: Final[list[bytes]] = []
        self.end = job.start
        self.aligned: FileEnd | None = None
        self.closed: Final[list[ClosedChunk]] = []
        self.elements_bytes = 0

    def write_all(self) -> None:
        job = self._job
        if job.is_aligning and job.committed_count == 0:
            self._mark()
        block: list[RunPlan] = []
        block_bytes = 0
        sizes = [len(element) for _, element in job.part.elements]
        for plan in plan_runs(sizes, job.part.boundaries, job.committed_count):
            block.append(plan)
            block_bytes += plan.bytes_count
            self.elements_bytes += plan.bytes_count
            if block_bytes >= BLOCK_BYTES_TARGET:
                self._write(block)
                block, block_bytes = [], 0
        if block:
            self._write(block)

    def _mark(self) -> None:
        """
        Say that what is in the files is complete, with a record of no data.
        """
        job, end = self._job, self.end
        mark = IndexRecord(
            RecordKind.RUN,
            end.data_bytes,
            0,
            0,
            0,
            end.last,
            end.last,
            is_aligned=True,
            commit=job.commit,
            end=job.end,
        )
        self.records.append(encode_record(mark, end.records_count))
        self.end = self.aligned = end._replace(records_count=end.records_count + 1)

    def _write(self, block: list[RunPlan]) -> None:
        part = self._job.part
        runs: list[tuple[int, int, bool]] = []
        for plan in block:
            runs.append((plan.from_inclusive, plan.up_to_exclusive, self._is_chunk_open))
            self._is_chunk_open = not plan.is_chunk_end
        joined, checksums = self._join(part.elements, runs)
        self._data.write(self.end.data_bytes, joined)
        for plan, (_, _, has_comma), checksum in zip(block, runs, checksums, strict=True):
            self._count(plan, plan.bytes_count + plan.elements_count - (0 if has_comma else 1), checksum)

    def _count(self, plan: RunPlan, bytes_count: int, checksum: int) -> None:
        job, end = self._job, self.end
        is_aligned = plan.is_committed_end and job.is_aligning
        record = IndexRecord(
            RecordKind.RUN,
            end.data_bytes,
            bytes_count,
            checksum,
            plan.elements_count,
            job.part.place(plan.from_inclusive),
            job.part.place(plan.up_to_exclusive - 1),
            plan.is_chunk_end,
            is_aligned,
            job.commit if is_aligned else 0,
            job.end if is_aligned else 0,
        )
        self.records.append(encode_record(record, end.records_count))
        chunks_count = end.chunks_count + (1 if plan.is_chunk_end else 0)
        self.end = FileEnd(end.records_count + 1, record.end_byte, chunks_count, record.last)
        if plan.is_chunk_end:
            self.closed.append(ClosedChunk(record.last, record.end_byte, self.end.records_count))
        if is_aligned:
            self.aligned = self.end


class SnapshotWriter:
    """
    Writes the snapshot part of one log. Called from one thread at a time; keeps no file open in between.
    """

    def __init__(self, disk: Disk, folder: str, chunk_bytes_max: int) -> None:
        """
        Begin behind the headers that `create_files` wrote.
        """
        self._disk: Final = disk
        self._folder: Final = folder
        self._cutter: Final = SnapshotCutter(chunk_bytes_max)
        self._end_byte = HEADER_BYTES
        self._chunk_start_byte = HEADER_BYTES
        self._chunk_elements_count = 0
        self._chunk_crc = 0
        self._records_count = 0

    def write(self, blocks: list[bytes]) -> array[int]:
        """
        Write blocks of whole lines; answers where the chunks end that closed.

        Raises:
            OSError: as the disk says.
        """
        closed: array[int] = array("Q")
        with closing(self._disk.open(f"{self._folder}/{DATA_NAME}", is_new=False)) as data:
            for block in blocks:
                for piece in self._cutter.feed(block):
                    data.write(self._end_byte, piece.data)
                    self._count(piece.data, piece.elements_count)
                    if piece.is_chunk_end:
                        self._close_chunk(closed)
        return closed

    def finish(self, end_element: bytes, folders: Sequence[str]) -> tuple[array[int], FileEnd]:
        """
        Write the last element and sync everything; answers where the last chunk ends, and where the files do.

        Args:
            end_element: the last element.
            folders: the folders above the files whose entries may not be durable yet.

        Raises:
            OSError: as the disk says.
        """
        closed: array[int] = array("Q")
        with closing(self._disk.open(f"{self._folder}/{DATA_NAME}", is_new=False)) as data:
            piece = self._cutter.finish(end_element)
            data.write(self._end_byte, piece.data)
            self._count(piece.data, piece.elements_count)
            self._close_chunk(closed)
            data.sync()
        last = snapshot_chunk_end(self._records_count - 1)
        record = IndexRecord(RecordKind.SNAPSHOT_END, self._end_byte, 0, 0, 0, last, last)
        with closing(self._disk.open(f"{self._folder}/{INDEX_NAME}", is_new=False)) as index:
            index.write(record_byte(self._records_count), encode_record(record, self._records_count))
            index.sync()
        for folder in (self._folder, *folders):
            self._disk.sync_folder(folder)
        return closed, FileEnd(self._records_count + 1, self._end_byte, 0, SNAPSHOT_END)

    def _count(self, data: bytes, elements_count: int) -> None:
        self._end_byte += len(data)
        self._chunk_elements_count += elements_count
        self._chunk_crc = zlib.crc32(data, self._chunk_crc)

    def _close_chunk(self, closed: array[int]) -> None:
        place = snapshot_chunk_end(self._records_count)
        record = IndexRecord(
            RecordKind.SNAPSHOT_CHUNK,
            self._chunk_start_byte,
            self._end_byte - self._chunk_start_byte,
            self._chunk_crc,
            self._chunk_elements_count,
            place,
            place,
            is_chunk_end=True,
        )
        with closing(self._disk.open(f"{self._folder}/{INDEX_NAME}", is_new=False)) as index:
            index.write(record_byte(self._records_count), encode_record(record, self._records_count))
        self._records_count += 1
        self._chunk_start_byte = self._end_byte
        self._chunk_elements_count = self._chunk_crc = 0
        closed.append(self._end_byte)
