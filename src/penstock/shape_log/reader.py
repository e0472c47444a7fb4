"""
Reads shape log files, in threads: at first touch after a restart, and to find a place inside a chunk.

A shell of plain calls.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import closing

from penstock.errors import CorruptLogError, DecodeError
from penstock.shape_log.chunks import find_after
from penstock.shape_log.disk import Disk
from penstock.shape_log.records import (
    DATA_MAGIC,
    DATA_NAME,
    HEADER_BYTES,
    INDEX_NAME,
    RECORD_BYTES,
    IndexRecord,
    RecordKind,
    check_header,
    decode_record,
    record_byte,
)
from penstock.shape_log.recovery import Recovered, conclude, survey
from penstock.shapes.offset import LogOffset

_RECORDS_AT_ONCE = 128
_DATA_BYTES_AT_ONCE = 1 << 20


def recover(disk: Disk, folder: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> Recovered:
    """
    Verify the files of a log, cut off what does not belong to a whole transaction, and make the rest durable.

    The process that wrote it may have died before its sync, or after one that failed: good bytes in the page cache prove
    nothing, and a sync without anything to write would answer yes. So what lies behind `settled` is written once more.

    Raises:
        CorruptLogError: they verify less than `settled`, or are not there.
        FormatVersionError: newer code wrote them.
        OSError: as the disk says.
    """
    data_path, index_path = f"{folder}/{DATA_NAME}", f"{folder}/{INDEX_NAME}"
    try:
        check_header(disk.read(data_path, 0, HEADER_BYTES), DATA_MAGIC, incarnation, chunk_bytes_max)
        data_bytes, index_bytes = disk.size(data_path), disk.size(index_path)
        records = survey(disk.read(index_path, 0, index_bytes), incarnation, chunk_bytes_max)
    except FileNotFoundError as cause:
        raise CorruptLogError("the files of a shape log are gone") from cause
    recovered = conclude(records, data_bytes, settled, lambda record: _is_intact(disk, data_path, record))
    proven_data, proven_records = _proven(records[: recovered.end.records_count], settled)
    for path, size, start, end in (
        (data_path, data_bytes, proven_data, recovered.end.data_bytes),
        (index_path, index_bytes, record_byte(proven_records), record_byte(recovered.end.records_count)),
    ):
        if size == end == start:
            continue
        with closing(disk.open(path, is_new=False)) as file:
            if size != end:
                file.truncate(end)
            for byte in range(start, end, _DATA_BYTES_AT_ONCE):
                file.write(byte, disk.read(path, byte, min(_DATA_BYTES_AT_ONCE, end - byte)))
            file.sync()
    return recovered


def look(disk: Disk, folder: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> Recovered:
    """
    Conclude what the files of a log hold, as `recover` does, and leave them as they are: another process writes them.

    Raises:
        CorruptLogError: they verify less than `settled`.
        FormatVersionError: newer code writes them.
        OSError: as the disk says.
    """
    data_path, index_path = f"{folder}/{DATA_NAME}", f"{folder}/{INDEX_NAME}"
    check_header(disk.read(data_path, 0, HEADER_BYTES), DATA_MAGIC, incarnation, chunk_bytes_max)
    records = survey(disk.read(index_path, 0, disk.size(index_path)), incarnation, chunk_bytes_max)
    # The data are written before the records that name them, so the length is asked after those were read.
    return conclude(records, disk.size(data_path), settled, lambda record: _is_intact(disk, data_path, record))


def _proven(records: Sequence[IndexRecord], settled: LogOffset) -> tuple[int, int]:
    """
    Tell how many bytes of data and how many records the catalog vouches for.

    Raises:
        AssertionError: there is no whole snapshot among them.
    """
    proven: tuple[int, int] | None = None
    for ordinal, record in enumerate(records):
        if record.kind is RecordKind.SNAPSHOT_END or (record.kind is RecordKind.RUN and record.last <= settled):
            proven = record.end_byte, ordinal + 1
    assert proven is not None, "the snapshot is whole"
    return proven


def verify(disk: Disk, folder: str, from_record: int, up_to_record_exclusive: int) -> None:
    """
    Compare the data of these records with their checksums.

    Raises:
        CorruptLogError: they differ.
        OSError: as the disk says.
    """
    for start in range(from_record, up_to_record_exclusive, _RECORDS_AT_ONCE):
        for record in _records(disk, folder, start, min(start + _RECORDS_AT_ONCE, up_to_record_exclusive)):
            if not _is_intact(disk, f"{folder}/{DATA_NAME}", record):
                raise CorruptLogError("the data of a shape log does not verify")


def find_start(
    disk: Disk,
    folder: str,
    after: LogOffset,
    *,
    from_record: int,
    up_to_record_exclusive: int,
    chunk_start_byte: int,
) -> int:
    """
    Find the byte of the data file at which the first element behind a place begins.

    Args:
        disk: where the folder is.
        folder: of the log.
        after: the place.
        from_record: the first record of the chunk.
        up_to_record_exclusive: behind the last record of the chunk; one of them ends behind the place.
        chunk_start_byte: where the data of the chunk begins.

    Raises:
        CorruptLogError: what was read does not verify.
        OSError: as the disk says.
    """
    record = _first_ending_behind(disk, folder, after, from_record, up_to_record_exclusive)
    if record.first > after:
        return record.start_byte + (0 if record.start_byte == chunk_start_byte else 1)
    run = disk.read(f"{folder}/{DATA_NAME}", record.start_byte, record.bytes_count)
    if len(run) != record.bytes_count or zlib.crc32(run) != record.data_crc:
        raise CorruptLogError("the data of a shape log does not verify")
    return record.start_byte + find_after(run, after, record.elements_count)


def _first_ending_behind(
    disk: Disk, folder: str, after: LogOffset, from_record: int, up_to_record_exclusive: int
) -> IndexRecord:
    """
    Bisect records in the file until few are left, then those few in memory.
    """
    path = f"{folder}/{INDEX_NAME}"
    low, high = from_record, up_to_record_exclusive
    block = b""
    block_start = 0
    found: IndexRecord | None = None
    while low < high:
        middle = (low + high) // 2
        if block:
            record = _decode(block, middle, (middle - block_start) * RECORD_BYTES)
        elif high - low <= _RECORDS_AT_ONCE:
            block = disk.read(path, record_byte(low), (high - low) * RECORD_BYTES)
            block_start = low
            continue
        else:
            record = _decode(disk.read(path, record_byte(middle), RECORD_BYTES), middle, 0)
        if record.last > after:
            found, high = record, middle
        else:
            low = middle + 1
    if found is None:
        raise CorruptLogError("the index of a shape log does not lead to its data")
    return found


def _records(disk: Disk, folder: str, from_record: int, up_to_exclusive: int) -> list[IndexRecord]:
    count = up_to_exclusive - from_record
    data = disk.read(f"{folder}/{INDEX_NAME}", record_byte(from_record), count * RECORD_BYTES)
    return [_decode(data, from_record + place, place * RECORD_BYTES) for place in range(count)]


def _decode(data: bytes, ordinal: int, start_byte: int) -> IndexRecord:
    try:
        return decode_record(data, ordinal, start_byte)
    except DecodeError as cause:
        raise CorruptLogError("the index of a shape log does not verify") from cause


def _is_intact(disk: Disk, data_path: str, record: IndexRecord) -> bool:
    crc = 0
    for start in range(record.start_byte, record.end_byte, _DATA_BYTES_AT_ONCE):
        count = min(_DATA_BYTES_AT_ONCE, record.end_byte - start)
        data = disk.read(data_path, start, count)
        if len(data) != count:
            return False
        crc = zlib.crc32(data, crc)
    return crc == record.data_crc
