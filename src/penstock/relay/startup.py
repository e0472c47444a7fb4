"""
What a new process does with the segments of the last one: find what counts, cut the rest, and prove what it goes on from.

Theory of operation. Three things are known of what lies there: a synced segment that has a successor was synced up to
the end which the successor names; the newest segment may end anyhow; of segments that were never synced (`shapes` mode)
any part may be missing. So the newest is scanned, and unsynced ones are verified from front to back and cut at the first
hole, whatever mode comes next; in `relay` mode those that remain are synced.

**The past is not trusted.** A process may die between a failed sync and its consequences, and the next one would read
good bytes out of the page cache that are not on the disk; a sync answers yes then. So what the last process left in its
last segment is written once more, to a fresh file, before the first session goes on from it: `write_again`.

A shell around `recovery`. Both functions raise `OSError` when the disk refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import EndLsn
from penstock.relay.disk import Disk
from penstock.relay.epoch_folders import UNFINISHED
from penstock.relay.kept_segments import KeptSegment, KeptSegments
from penstock.relay.records import SCAN_BYTES
from penstock.relay.recovery import RecoveredSegment, recover_segment
from penstock.relay.sealed import ReadAt
from penstock.relay.segments import SegmentHeader, decode_header, segment_numbers

T = TypeVar("T")


def recover_segments(segments: KeptSegments, disk: Disk, *, is_synced: bool) -> RecoveredSegment | None:
    """
    Enter in `segments` what its folder holds, cut to what counts; give the last segment that does, None without any.

    Args:
        segments: of which nothing is known yet.
        disk: where they lie.
        is_synced: whether this process syncs.

    Raises:
        FormatVersionError: newer code wrote one of them.
    """
    return _Recovery(segments, disk, is_synced=is_synced).run()


def write_again(disk: Disk, path: Path, valid_end: int) -> bool:
    """
    Write a segment once more up to `valid_end`, to a fresh file in its place; tell whether it still held what it held.

    The folder is not synced: that comes with the segment that follows, before anything is confirmed.
    """
    copy = path.with_name(path.name + UNFINISHED)
    with suppress(FileNotFoundError):
        disk.unlink(copy)
    source = disk.open(path)
    try:
        target = disk.create(copy)
        try:
            for byte in range(0, valid_end, SCAN_BYTES):
                disk.write(target, (disk.read(source, byte, min(SCAN_BYTES, valid_end - byte)),))
            disk.sync(target)
            try:
                is_whole = recover_segment(partial(disk.read, target), valid_end).valid_end == valid_end
            except CorruptLogError:
                is_whole = False
        finally:
            disk.close(target)
    finally:
        disk.close(source)
    if is_whole:
        disk.rename(copy, path)
    return is_whole


class _Recovery:
    """
    One look through the segments of an epoch.
    """

    def __init__(self, segments: KeptSegments, disk: Disk, *, is_synced: bool) -> None:
        self._segments = segments
        self._disk = disk
        self._is_synced = is_synced

    def run(self) -> RecoveredSegment | None:
        folder = self._segments.folder
        names = self._disk.names(folder)
        for name in names:
            if name.endswith(UNFINISHED):
                self._disk.unlink(folder / name)
        return self._verify(self._headers(segment_numbers(names)))

    def _headers(self, numbers: Sequence[int]) -> dict[int, tuple[SegmentHeader, int]]:
        """
        Read all headers, in order. At the end those that do not verify are of segments in which nothing ever counted:
        they are removed. In between it is damage: readers will meet it, and the file stays until it is trimmed.
        """
        headers: dict[int, tuple[SegmentHeader, int]] = {}
        successor: EndLsn | None = None
        for number in reversed(numbers):
            try:
                header, after = self._ask(number, lambda read_at, _: decode_header(read_at))
                if header.number != number:
                    raise CorruptLogError("the segment's number is not that of its name")
            except CorruptLogError:
                if successor is None:
                    self._disk.unlink(self._segments.path(number))
                else:
                    size = self._ask(number, lambda _, size: size)
                    self._segments[number] = KeptSegment(successor, 0, 0, size)
                continue
            headers[number] = (header, after)
            successor = header.start
        return dict(sorted(headers.items()))

    def _verify(self, headers: dict[int, tuple[SegmentHeader, int]]) -> RecoveredSegment | None:
        """
        Go through the segments in order, scan those that no sync of a successor vouches for, and cut at a hole.

        A hole before a synced segment is damage that readers will meet and tell, and what follows it is good. Before an
        unsynced one it is where the power went, and nothing that follows counts.
        """
        numbers = list(headers)
        found: RecoveredSegment | None = None
        # The segment that must come next for there to be no hole; damaged ones are known by now.
        expected = min([*headers, *self._segments.numbers], default=0)
        for number, following in zip_longest(numbers, numbers[1:]):
            header, records_byte = headers[number]
            if number != expected and not header.is_synced:
                self._remove_after(found.header.number if found is not None else 0)
                return found
            limit = headers[following][0].predecessor_end if following == number + 1 else None
            expected = number + 1
            if header.is_synced and limit is not None:
                self._segments[number] = KeptSegment(header.start, records_byte, limit, limit)
                continue
            found = self._scan(number, limit)
            self._segments[number] = KeptSegment(header.start, records_byte, found.valid_end, found.valid_end)
            if limit is not None and found.verified_end < limit:
                expected = 0
        return found

    def _remove_after(self, number: int) -> None:
        # From the newest on, so that a power cut on the way leaves no hole at the front, which nobody would notice.
        for later in reversed(segment_numbers(self._disk.names(self._segments.folder))):
            if later > number:
                self._disk.unlink(self._segments.path(later))
                self._segments.forget(later)

    def _scan(self, number: int, limit: int | None) -> RecoveredSegment:
        """
        Find what counts of a segment, cut it, and sync it if this mode needs that.
        """
        handle = self._disk.open(self._segments.path(number))
        try:
            size = self._disk.size(handle)
            found = recover_segment(partial(self._disk.read, handle), size if limit is None else min(size, limit))
            if limit is None and found.valid_end < size:
                self._disk.truncate(handle, found.valid_end)
            if self._is_synced:
                self._disk.sync(handle)
            return found
        finally:
            self._disk.close(handle)

    def _ask(self, number: int, question: Callable[[ReadAt, int], T]) -> T:
        handle = self._disk.open(self._segments.path(number))
        try:
            return question(partial(self._disk.read, handle), self._disk.size(handle))
        finally:
            self._disk.close(handle)
