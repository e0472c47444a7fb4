"""
Writes and finds compactions, in threads.

Order: the data, synced; then the index, synced; then the folder. An index that verifies is therefore the proof of its
data, and the newest such is the compaction that counts; what else lies there is deleted at the next start. The
compaction before stays until the one after, because somebody may have been told of its file and not opened it yet.

A shell of plain calls.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from penstock.errors import CorruptLogError
from penstock.shape_log.compaction import (
    PLACE_BYTES,
    Compaction,
    CompactionWriter,
    Placed,
    data_name,
    decode_places,
    fold,
    index_name,
    number_of,
    place_of,
    read_changes,
    read_index,
)
from penstock.shape_log.disk import Disk
from penstock.shape_log.reader import look, recover, verify
from penstock.shape_log.records import (
    DATA_MAGIC,
    DATA_NAME,
    HEADER_BYTES,
    INDEX_NAME,
    check_header,
    encode_header,
    tells_compacting,
)
from penstock.shape_log.recovery import Recovered
from penstock.shapes.offset import LogOffset

_PLACE = itemgetter(0)


@dataclass(frozen=True, slots=True)
class SourceChunk:
    """
    A closed chunk of the log itself.

    Attributes:
        start_byte, end_byte: its data.
        from_record, up_to_record_exclusive: its records in the index.
    """

    start_byte: int
    end_byte: int
    from_record: int
    up_to_record_exclusive: int


@dataclass(frozen=True, slots=True)
class CompactJob:
    """
    What is to be compacted.

    Attributes:
        folder: of the log.
        incarnation: whose it is.
        chunk_bytes_max: threshold of chunks.
        before: the compaction so far; None for the first.
        chunks: the closed chunks behind it.
        source_chunks_count: how many closed chunks of the log that makes in all.
        window_bytes_max: how much is folded at a time.
        is_given_up: asked between windows: whether the log is no more.
    """

    folder: str
    incarnation: int
    chunk_bytes_max: int
    before: Compaction | None
    chunks: tuple[SourceChunk, ...]
    source_chunks_count: int
    window_bytes_max: int
    is_given_up: Callable[[], bool]


def compact(disk: Disk, job: CompactJob) -> Compaction | None:
    """
    Write the next compaction; None when the log was given up meanwhile.

    Raises:
        CorruptLogError: what was to be compacted does not verify.
        OSError: as the disk says.
    """
    numbers = {number_of(name) for name in disk.list_folder(job.folder)}
    number = max(numbers, default=0) + 1
    keep = 0 if job.before is None else job.before.number
    for old in sorted(numbers - {0, keep}):
        _remove(disk, job.folder, old)
    writer = CompactionWriter(job.incarnation, job.chunk_bytes_max)
    end_byte = HEADER_BYTES
    with closing(disk.open(f"{job.folder}/{data_name(number)}", is_new=True)) as data:
        data.write(0, encode_header(DATA_MAGIC, job.incarnation, job.chunk_bytes_max))
        for window in _windows(disk, job):
            if job.is_given_up():
                return None
            for chunk in writer.feed(fold(window)):
                data.write(end_byte, chunk)
                end_byte += len(chunk)
        rest, index_bytes, compaction = writer.finish(number, job.source_chunks_count)
        for chunk in rest:
            data.write(end_byte, chunk)
        data.sync()
    with closing(disk.open(f"{job.folder}/{index_name(number)}", is_new=True)) as index:
        index.write(0, index_bytes)
        index.sync()
    disk.sync_folder(job.folder)
    return compaction


def recover_compacted(disk: Disk, folder: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> Recovered:
    """
    Recover a log as `reader.recover` does, and its compaction with it.

    The newest compaction that was written to its end counts; what is left of others is deleted.

    Raises: as `reader.recover`.
    """
    found = recover(disk, folder, incarnation, chunk_bytes_max, settled)
    is_compacting = tells_compacting(disk.read(f"{folder}/{DATA_NAME}", 0, HEADER_BYTES))
    compaction: Compaction | None = None
    for number in sorted({number_of(name) for name in disk.list_folder(folder)} - {0}, reverse=True):
        if compaction is None:
            with suppress(CorruptLogError, FileNotFoundError):
                compaction = _read(disk, folder, number, incarnation, chunk_bytes_max)
            if compaction is not None and not _fits(compaction, found):
                compaction = None
        if compaction is None or compaction.number != number:
            _remove(disk, folder, number)
    return found._replace(is_compacting=is_compacting, compaction=compaction)


class Seen(NamedTuple):
    """
    What the files of a log looked like, so that a change is noticed.

    Attributes:
        index_bytes: length of the index.
        compactions: numbers of compactions, whole or not.
        end: how far the log was good.
    """

    index_bytes: int
    compactions: frozenset[int]
    end: LogOffset


def peek_compacted(
    disk: Disk, folder: str, incarnation: int, chunk_bytes_max: int, *, settled: LogOffset, before: Seen | None
) -> tuple[Seen, Recovered] | None:
    """
    Conclude what files hold that another process writes, and leave them as they are; None when they have not changed.

    Raises: as `reader.look`.
    """
    index_bytes = disk.size(f"{folder}/{INDEX_NAME}")
    numbers = frozenset(number_of(name) for name in disk.list_folder(folder)) - {0}
    if before is not None:
        if (index_bytes, numbers) == before[:2]:
            return None
        settled = max(settled, before.end)
    found = look(disk, folder, incarnation, chunk_bytes_max, settled)
    for number in sorted(numbers, reverse=True):
        with suppress(CorruptLogError, FileNotFoundError):
            compaction = _read(disk, folder, number, incarnation, chunk_bytes_max)
            if _fits(compaction, found):
                found = found._replace(compaction=compaction)
                break
    return Seen(index_bytes, numbers, found.end.last), found


def _fits(compaction: Compaction, found: Recovered) -> bool:
    """
    Tell whether the log still has the chunks that a compaction stands for.
    """
    count = compaction.source_chunks_count
    return 0 < count <= len(found.chunks) and found.chunks.last(count - 1) == compaction.last


def verify_chunk(disk: Disk, folder: str, compaction: Compaction, chunk: int) -> None:
    """
    Compare a chunk with its checksum.

    Raises:
        CorruptLogError: they differ.
        OSError: as the disk says.
    """
    _read_chunk(disk, folder, compaction, chunk)


def find_start_compacted(disk: Disk, folder: str, compaction: Compaction, chunk: int, after: LogOffset) -> int:
    """
    Find the byte at which the first change of a chunk behind a place begins; there is one.

    Raises:
        OSError: as the disk says.
    """
    places = _read_places(disk, folder, compaction, chunk)
    return places[bisect_right(places, after, key=_PLACE)][1]


def _windows(disk: Disk, job: CompactJob) -> Iterator[list[Placed]]:
    """
    Read the changes in order, as many at a time as may be held.
    """
    window: list[Placed] = []
    window_bytes = 0
    for changes, bytes_count in _sources(disk, job):
        if window and window_bytes + bytes_count > job.window_bytes_max:
            yield window
            window, window_bytes = [], 0
        window += changes
        window_bytes += bytes_count
    yield window


def _sources(disk: Disk, job: CompactJob) -> Iterator[tuple[list[Placed], int]]:
    before = job.before
    for chunk in range(0 if before is None else len(before)):
        assert before is not None
        data = _read_chunk(disk, job.folder, before, chunk)
        places = _read_places(disk, job.folder, before, chunk)
        changes = read_changes(data)
        if len(changes) != len(places):
            raise CorruptLogError("a compaction does not hold what its index says")
        yield [Placed(place, change) for (place, _), change in zip(places, changes, strict=True)], len(data)
    for source in job.chunks:
        verify(disk, job.folder, source.from_record, source.up_to_record_exclusive)
        data = disk.read(f"{job.folder}/{DATA_NAME}", source.start_byte, source.end_byte - source.start_byte)
        yield [Placed(place_of(change), change) for change in read_changes(data)], len(data)


def _read_chunk(disk: Disk, folder: str, compaction: Compaction, chunk: int) -> bytes:
    start, end = compaction.chunk_start_byte(chunk), compaction.chunk_end_byte(chunk)
    data = disk.read(f"{folder}/{data_name(compaction.number)}", start, end - start)
    if zlib.crc32(data) != compaction.chunk_crc(chunk):
        raise CorruptLogError("the data of a compaction does not verify")
    return data


def _read_places(disk: Disk, folder: str, compaction: Compaction, chunk: int) -> list[tuple[LogOffset, int]]:
    first, past = compaction.elements(chunk)
    path = f"{folder}/{index_name(compaction.number)}"
    return decode_places(disk.read(path, compaction.place_byte(first), (past - first) * PLACE_BYTES))


def _read(disk: Disk, folder: str, number: int, incarnation: int, chunk_bytes_max: int) -> Compaction:
    path = f"{folder}/{index_name(number)}"
    compaction = read_index(disk.read(path, 0, disk.size(path)), number, incarnation, chunk_bytes_max)
    data_path = f"{folder}/{data_name(number)}"
    check_header(disk.read(data_path, 0, HEADER_BYTES), DATA_MAGIC, incarnation, chunk_bytes_max)
    if disk.size(data_path) != compaction.data_bytes:
        raise CorruptLogError("the data of a compaction has another length than its index says")
    return compaction


def _remove(disk: Disk, folder: str, number: int) -> None:
    # The index first: without it the data are nobody's, and the other way round they would be missed.
    for name in (index_name(number), data_name(number)):
        disk.remove_file(f"{folder}/{name}")
