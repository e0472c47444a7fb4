"""
The segment files of one epoch: which there are, how far each counts, and making and removing them.

A shell: what it knows is what the disk thread has done, and it makes and removes files in the epoch's folder.

Invariants: the newest segment is never trimmed; no segment counts beyond its size; `size_bytes` is the sum of all sizes
at any time, and may be read from any thread.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from penstock.postgres.lsn import EndLsn
from penstock.relay.disk import Disk
from penstock.relay.segments import SegmentHeader, encode_header, segment_name


@dataclass(slots=True)
class KeptSegment:
    """
    A segment on disk: what later ones and trimming must know of it.

    Attributes:
        start: everything in it ends after this position.
        records_byte: where its records begin.
        valid_end: the byte up to which it counts.
        size: of its file, in bytes; see `KeptSegments.resize`.
    """

    start: EndLsn
    records_byte: int
    valid_end: int
    size: int


class KeptSegments:
    """
    The segments of one epoch that are on disk.

    Attributes:
        folder: where they lie.
        size_bytes: of all of them.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        """
        Know of none yet.
        """
        self._disk = disk
        self._segments: dict[int, KeptSegment] = {}
        self.folder = folder
        self.size_bytes = 0

    @property
    def numbers(self) -> list[int]:
        """
        The numbers of all segments, in order.
        """
        return sorted(self._segments)

    def path(self, number: int) -> Path:
        """
        Name the file of a segment.
        """
        return self.folder / segment_name(number)

    def get(self, number: int) -> KeptSegment | None:
        """
        Give what is known of a segment; None when it is not here.
        """
        return self._segments.get(number)

    def __getitem__(self, number: int) -> KeptSegment:
        """
        Give what is known of a segment that is here.
        """
        return self._segments[number]

    def __setitem__(self, number: int, segment: KeptSegment) -> None:
        """
        Know of one more segment.
        """
        assert segment.valid_end <= segment.size, "a segment counts beyond its end"
        assert number not in self._segments, "a segment comes twice"
        self._segments[number] = segment
        self.size_bytes += segment.size

    def resize(self, number: int, size: int) -> None:
        """
        Know that a file has another size now.
        """
        segment = self._segments[number]
        self.size_bytes += size - segment.size
        segment.size = size

    def forget(self, number: int) -> None:
        """
        Know nothing of a segment any more, if anything was known.
        """
        segment = self._segments.pop(number, None)
        if segment is not None:
            self.size_bytes -= segment.size

    def trim(self, below: EndLsn) -> None:
        """
        Remove segments, the oldest first, that lie wholly at or below a position. What the disk refuses stays for later.
        """
        for number, successor in pairwise(self.numbers):
            if self._segments[successor].start > below:
                break
            try:
                self._disk.unlink(self.path(number))
            except FileNotFoundError:
                pass
            except OSError:
                break
            self.forget(number)


def write_segment(disk: Disk, folder: Path, header: SegmentHeader, *, is_synced: bool) -> tuple[int, int]:
    """
    Make the file of a segment, with its header; give an open handle and its length.

    Args:
        disk: where.
        folder: in which folder; its sync is the caller's.
        header: the segment's.
        is_synced: whether to sync the file.

    Raises:
        OSError: the disk refuses; there is no such file then, or nothing in it counts.
    """
    data = encode_header(header)
    path = folder / segment_name(header.number)
    try:
        handle = disk.create(path)
    except FileExistsError:
        # A try before this one that could not be completed; nothing in it ever counted.
        disk.unlink(path)
        handle = disk.create(path)
    try:
        disk.write(handle, (data,))
        if is_synced:
            disk.sync(handle)
    except OSError:
        disk.close(handle)
        with suppress(OSError):
            disk.unlink(path)
        raise
    return handle, len(data)
