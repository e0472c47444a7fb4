"""
What a restart concludes from the files of a shape log.

The index is read whole: it must verify record by record and each record must continue the one before. Of the data, what
lies behind the settled position of the catalog is compared with its checksums now, the rest when it is first read. Then
the log is cut behind the last run that ends with a whole transaction; everything behind that is replayed from the relay
log and comes out the same.

Pure; the caller reads the files.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.errors import CorruptLogError, DecodeError
from penstock.shape_log.compaction import Compaction
from penstock.shape_log.records import (
    HEADER_BYTES,
    INDEX_MAGIC,
    RECORD_BYTES,
    IndexRecord,
    RecordKind,
    check_header,
    decode_record,
)
from penstock.shapes.offset import OP_INFINITY, SNAPSHOT_END, LogOffset, snapshot_chunk_end


class FileEnd(NamedTuple):
    """
    How far the files of a log are good.

    Attributes:
        records_count: records in the index.
        data_bytes: length of the data file.
        chunks_count: closed log chunks.
        last: place of the last element; `0_inf` when there are no changes.
    """

    records_count: int
    data_bytes: int
    chunks_count: int
    last: LogOffset


class ChunkTable:
    """
    The closed log chunks of a shape, compactly.
    """

    __slots__ = ("_cells",)

    _WIDTH = 4

    def __init__(self) -> None:
        """
        Begin with none.
        """
        self._cells = array("Q")

    def __len__(self) -> int:
        return len(self._cells) // self._WIDTH

    def add(self, last: LogOffset, end_byte: int, records_count: int) -> None:
        """
        Add the next chunk: the place of its last element, where its data ends, how many records end with it.
        """
        self._cells.extend((last.tx, last.op, end_byte, records_count))

    def cut(self, count: int) -> None:
        """
        Forget all but the first chunks.
        """
        del self._cells[count * self._WIDTH :]

    def last(self, chunk: int) -> LogOffset:
        """
        Tell the place of a chunk's last element.
        """
        return LogOffset(self._cells[chunk * self._WIDTH], self._cells[chunk * self._WIDTH + 1])

    def end_byte(self, chunk: int) -> int:
        """
        Tell where a chunk's data ends.
        """
        return self._cells[chunk * self._WIDTH + 2]

    def records_count(self, chunk: int) -> int:
        """
        Tell how many records of the index end with this chunk.
        """
        return self._cells[chunk * self._WIDTH + 3]

    def find(self, after: LogOffset) -> int:
        """
        Tell the first chunk that ends behind a place; the number of chunks if none does.
        """
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.last(middle) > after:
                high = middle
            else:
                low = middle + 1
        return low


class Recovered(NamedTuple):
    """
    A log as its files tell it.

    Attributes:
        snapshot_ends: where the data of each snapshot chunk ends.
        chunks: the closed log chunks.
        end: where the files are to be cut.
        open_chunk_bytes: length of the elements in the chunk that is not closed, without commas.
        aligned: commit LSN and end of the last transaction, as numbers; None when there are no changes.
        is_compacting: whether the log may be compacted.
        compaction: the compaction that counts; None without one.
    """

    snapshot_ends: array[int]
    chunks: ChunkTable
    end: FileEnd
    open_chunk_bytes: int
    aligned: tuple[int, int] | None
    is_compacting: bool = False
    compaction: Compaction | None = None


def survey(index: bytes, incarnation: int, chunk_bytes_max: int) -> list[IndexRecord]:
    """
    Read the records of an index up to the first that does not verify or does not continue the one before.

    Raises:
        CorruptLogError: the header is not that of this log's index.
        FormatVersionError: newer code wrote it.
    """
    check_header(index, INDEX_MAGIC, incarnation, chunk_bytes_max)
    records: list[IndexRecord] = []
    end_byte = HEADER_BYTES
    last = LogOffset(0, -1)
    is_snapshot = True
    for ordinal in range((len(index) - HEADER_BYTES) // RECORD_BYTES):
        try:
            record = decode_record(index, ordinal, HEADER_BYTES + ordinal * RECORD_BYTES)
        except DecodeError:
            break
        if record.kind is RecordKind.SNAPSHOT_CHUNK:
            continues = is_snapshot and record.last == snapshot_chunk_end(ordinal)
        elif record.kind is RecordKind.SNAPSHOT_END:
            continues = is_snapshot and ordinal > 0
            is_snapshot = False
        else:
            is_behind = last < record.first <= record.last if record.elements_count else record.last == last
            continues = not is_snapshot and is_behind
        if record.start_byte != end_byte or not continues:
            break
        records.append(record)
        end_byte = record.end_byte
        last = SNAPSHOT_END if record.kind is RecordKind.SNAPSHOT_END else record.last
    return records


def conclude(
    records: Sequence[IndexRecord], data_bytes: int, settled: LogOffset, verifies: Callable[[IndexRecord], bool]
) -> Recovered:
    """
    Decide where a log is cut.

    Args:
        records: from `survey`.
        data_bytes: length of the data file.
        settled: the position the catalog says is settled.
        verifies: compares the data of a run with its checksum; asked only of runs that end behind `settled`.

    Raises:
        CorruptLogError: the snapshot is not whole, or less is good than the catalog says.
    """
    snapshot_ends: array[int] = array("Q")
    end = FileEnd(0, 0, 0, SNAPSHOT_END)
    aligned: tuple[int, int] | None = None
    is_whole = False
    for ordinal, record in enumerate(records):
        if record.end_byte > data_bytes:
            break
        if record.kind is RecordKind.SNAPSHOT_CHUNK:
            snapshot_ends.append(record.end_byte)
        elif record.kind is RecordKind.SNAPSHOT_END:
            is_whole = True
            end = FileEnd(ordinal + 1, record.end_byte, 0, SNAPSHOT_END)
        elif record.last > settled and not verifies(record):
            break
        elif record.is_aligned:
            aligned = (record.commit, record.end)
            end = FileEnd(ordinal + 1, record.end_byte, 0, record.last)
    complete = SNAPSHOT_END if aligned is None else LogOffset(aligned[0], OP_INFINITY)
    if not is_whole:
        raise CorruptLogError("the files of a shape log do not hold the whole snapshot")
    if complete < settled:
        raise CorruptLogError("the files of a shape log hold less than was settled")
    chunks = ChunkTable()
    open_chunk_bytes = 0
    for ordinal, record in enumerate(records[: end.records_count]):
        if record.kind is not RecordKind.RUN:
            continue
        # Between two elements of a chunk stands a comma, also in front of a run that continues the chunk.
        commas = record.elements_count - (0 if open_chunk_bytes else 1)
        open_chunk_bytes += record.bytes_count - max(0, commas)
        if record.is_chunk_end:
            chunks.add(record.last, record.end_byte, ordinal + 1)
            open_chunk_bytes = 0
    return Recovered(snapshot_ends, chunks, end._replace(chunks_count=len(chunks)), open_chunk_bytes, aligned)
