"""
The relay log as the engine reads it: files and a position, never beyond the published end.

One read path for live, catch-up and recovery. The reader writes nothing; it holds one open file, so a segment that is
trimmed while it is read stays readable. A shell.

Theory of operation. Before the segment of the published end, each segment counts up to the byte that the header of the
next one names; that segment counts up to the published byte. A place with byte 0 stands before a segment's header,
whether the segment exists yet or not. Damage costs the rest of its segment, because descriptions and transactions may
begin in what cannot be read: the reader then stands before the next segment. When that does not exist yet, the writer
must begin one (`RecordedBoundary.damaged_segment` or `RelayWriter.roll`), and the reader gives nothing until it has.
A segment before which the reader stands may be trimmed when nothing in it is needed any more; that the next one begins no
later than what was read shows it, and is no damage.
What is published meanwhile in the damaged segment is never read, so the reader raises once more when it gets to the
next: whatever began to follow the log in between has missed something too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, Self

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import EndLsn
from penstock.relay.abc import RelayPlace, RelayRecord, SessionRecord
from penstock.relay.disk import ReadDisk, SystemReadDisk
from penstock.relay.epochs import EPOCH_FILE, EpochHeader, decode_epoch, epoch_name, epoch_numbers
from penstock.relay.records import scan
from penstock.relay.recovery import recover_segment
from penstock.relay.segments import SegmentHeader, decode_header, segment_name, segment_numbers

READ_BYTES_MIN: Final = 4096


class RelayReader:
    """
    Reads one epoch: a `RelaySource`. Belongs to one thread.
    """

    def __init__(self, folder: Path, epoch: int, *, disk: ReadDisk | None = None) -> None:
        """
        Stand before the first segment there is.

        Args:
            folder: of all epochs.
            epoch: the one to read; it must have been published.
            disk: another one in tests.
        """
        self._folder = folder / epoch_name(epoch)
        self._disk: Final[ReadDisk] = disk or SystemReadDisk()
        self._place = RelayPlace(0, 0)
        self._handle: int | None = None
        # Of the segment at the place, once it has been asked for: the byte up to which it counts.
        self._end: tuple[int, int] | None = None
        self._damaged_segment = 0
        self._is_gap_ahead = False
        # All that ends here or before was read, or is not needed.
        self._reached: EndLsn | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def place(self) -> RelayPlace:
        """
        Where the next read begins.
        """
        return self._place

    @property
    def damaged_segment(self) -> int:
        """
        The last segment in which damage was met; 0 for none. To be told to the writer, which may be in it still.
        """
        return self._damaged_segment

    def close(self) -> None:
        """
        Let go of the open file. The reader can go on afterwards.
        """
        handle, self._handle = self._handle, None
        if handle is not None:
            self._disk.close(handle)

    def seek(self, boundary: EndLsn) -> None:
        """
        See `RelaySource.seek`.

        Raises:
            CorruptLogError: the log does not reach back that far.
        """
        self.close()
        self._is_gap_ahead = False
        self._reached = boundary
        oldest: EndLsn | None = None
        for number in reversed(self._numbers()):
            try:
                oldest = self._header(number).start
            except CorruptLogError:
                # Just being made, just trimmed, or damaged: an older one is as good, and reading on will tell.
                continue
            if oldest <= boundary:
                self._place = RelayPlace(number, 0)
                return
        if oldest is None:
            # A spill buffer (`shapes` mode) may lose all its segments with the power; the first new one is the first.
            self._place = RelayPlace(0, 0)
            return
        raise CorruptLogError(f"the relay log reaches back to {oldest} and not to {boundary}")

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[RelayRecord]:
        """
        See `RelaySource.read`.

        Raises:
            CorruptLogError: what lies before `up_to_exclusive` cannot be read, or less lies there than was read before
                (the writer lost it). The reader stands before the next segment. Raised again when that is reached, if
                it did not exist yet.
            FormatVersionError: newer code wrote the segment.
        """
        if self._place.byte > 0 and up_to_exclusive < self._place:
            lost = self._place
            self._pass_over(up_to_exclusive.segment, up_to_exclusive)
            raise CorruptLogError(f"the relay log ended at {lost} and now ends at {up_to_exclusive}")
        if self._is_gap_ahead and self._place < up_to_exclusive:
            self._is_gap_ahead = False
            raise CorruptLogError(f"what followed the damage in segment {self._damaged_segment} was not read")
        try:
            return self._read(up_to_exclusive, bytes_max)
        except CorruptLogError as cause:
            number = self._place.segment or up_to_exclusive.segment
            self._pass_over(number, up_to_exclusive)
            raise CorruptLogError(
                f"segment {number} of epoch {int(self._folder.name)} is damaged: {cause.message}"
            ) from cause

    def _read(self, up_to: RelayPlace, bytes_max: int) -> list[RelayRecord]:
        records: list[RelayRecord] = []
        taken = 0
        while self._place < up_to and (taken < bytes_max or not records):
            try:
                taken += self._step(up_to, bytes_max - taken, records)
            except CorruptLogError:
                # What was read before it is good; the next call meets the damage again.
                if not records:
                    raise
                break
        return records

    def _step(self, up_to: RelayPlace, bytes_max: int, records: list[RelayRecord]) -> int:
        """
        Open a segment, read records of one, or go to the next; tell how many bytes were read.
        """
        if self._place.segment == 0:
            self._go_to(self._first())
        number, begin = self._place
        if begin == 0:
            if self._handle is None and self._pass_trimmed(number):
                return 0
            header, after = decode_header(self._reads())
            records.append(SessionRecord(header.descriptions))
            self._place = RelayPlace(number, after)
            return after
        stop = self._counts_up_to(up_to)
        if begin >= stop:
            self._go_to(number + 1)
            return 0
        for stored in scan(self._reads(), begin, stop, chunk_bytes=max(bytes_max, READ_BYTES_MIN)):
            records.append(stored.record)
            self._place = RelayPlace(number, stored.after)
            if stored.end is not None and (self._reached is None or stored.end > self._reached):
                self._reached = stored.end
            if stored.after - begin >= bytes_max:
                break
        return self._place.byte - begin

    def _counts_up_to(self, up_to: RelayPlace) -> int:
        number = self._place.segment
        if up_to.segment == number:
            return up_to.byte
        if self._end is None or self._end[0] != number:
            try:
                end = self._header(number + 1).predecessor_end
            except CorruptLogError:
                # That is the next segment's damage. This one counts as far as it would after a power cut.
                read_at_handle = self._reads()
                assert self._handle is not None
                end = recover_segment(read_at_handle, self._disk.size(self._handle)).valid_end
            self._end = (number, end)
        return self._end[1]

    def _reads(self) -> partial[bytes]:
        if self._handle is None:
            self._handle = self._opened(self._place.segment)
        return partial(self._disk.read, self._handle)

    def _opened(self, number: int) -> int:
        try:
            return self._disk.open(self._folder / segment_name(number))
        except FileNotFoundError as cause:
            raise CorruptLogError(f"segment {segment_name(number)} is not there") from cause

    def _header(self, number: int) -> SegmentHeader:
        handle = self._opened(number)
        try:
            return decode_header(partial(self._disk.read, handle))[0]
        finally:
            self._disk.close(handle)

    def _first(self) -> int:
        numbers = self._numbers()
        if not numbers:
            raise CorruptLogError("the epoch has no segment")
        return numbers[0]

    def _numbers(self) -> list[int]:
        try:
            return segment_numbers(self._disk.names(self._folder))
        except FileNotFoundError as cause:
            raise CorruptLogError(f"there is no epoch {self._folder.name}") from cause

    def _pass_trimmed(self, number: int) -> bool:
        """
        Go on to the oldest segment there is if the one at the place was trimmed unread; tells whether it was.
        """
        numbers = self._numbers()
        if number in numbers or self._reached is None:
            return False
        following = next((each for each in numbers if each > number), None)
        if following is None or self._header(following).start > self._reached:
            return False
        self._go_to(following)
        return True

    def _pass_over(self, number: int, up_to: RelayPlace) -> None:
        """
        Give up the rest of a segment.
        """
        self._damaged_segment = number
        self._is_gap_ahead = number >= up_to.segment
        self._go_to(number + 1)

    def _go_to(self, number: int) -> None:
        self.close()
        self._place = RelayPlace(number, 0)


def read_epoch(folder: Path, epoch: int, *, disk: ReadDisk | None = None) -> EpochHeader:
    """
    Read what identifies an epoch; its `start` is where an engine that knows nothing begins.

    Args:
        folder: of all epochs.
        epoch: the one.
        disk: another one in tests.

    Raises:
        CorruptLogError: it is not there, or damaged.
        FormatVersionError: newer code wrote it.
    """
    disk = disk or SystemReadDisk()
    try:
        handle = disk.open(folder / epoch_name(epoch) / EPOCH_FILE)
    except FileNotFoundError as cause:
        raise CorruptLogError(f"there is no epoch {epoch}") from cause
    try:
        return decode_epoch(partial(disk.read, handle))
    finally:
        disk.close(handle)


def epochs_in(folder: Path) -> list[int]:
    """
    List the epochs of a relay log, oldest first.
    """
    return epoch_numbers(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
