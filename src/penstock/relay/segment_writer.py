"""
The segment that is being written: records in line, the order of write, sync and publication, and its end.

Theory of operation, in terms of the design's rules:

* **O1** (`relay` mode). `flush` writes a group of records, checks, syncs, checks, then publishes; what may be confirmed
  is what is published. A segment and its header are synced, with the folder, before the first record in it is.
  In `shapes` mode nothing is synced, and what may be confirmed is the engine's recorded boundary (O2).
* **S10**. After any failed write or sync the segment takes no more bytes: `abandon`. It is cut back to its published end,
  so that no later reader of the page cache takes for durable what the disk refused; a successor names that end. No sync is
  tried again on a file where one has failed.
* **Nothing is written twice.** What must be taken back lies beyond the published end; the successor leaves it out. So a
  record that verifies is in its place.

States: closed (no handle: at start, and after a failure) and open. In both it knows the segments of the epoch and the
number of the newest, which the next one follows.

A shell. Methods that write raise `OSError`; `abandon` must follow then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.relay.abc import RelayPlace
from penstock.relay.disk import Disk
from penstock.relay.kept_segments import KeptSegment, KeptSegments, write_segment
from penstock.relay.limits import RelayLimits
from penstock.relay.publication import Publication
from penstock.relay.records import StoredRecord, scan
from penstock.relay.segments import SegmentHeader


class SegmentWriter:
    """
    Writes the newest segment of an epoch.

    Attributes:
        position: the byte after all records, also those in line.
    """

    def __init__(self, publication: Publication, disk: Disk, limits: RelayLimits, *, is_synced: bool) -> None:
        """
        Write nothing before there is an epoch; see `follow` and `take_up`.
        """
        self._publication = publication
        self._disk = disk
        self._limits = limits
        self._is_synced = is_synced
        self._epoch = 0
        self._segments: KeptSegments | None = None
        # The segment being written; None while nothing can be.
        self._handle: int | None = None
        self._number = 0
        self.position = 0
        self._unsynced = 0
        self._is_roll_wanted = False
        # Records in line, and the last place among them that may be published.
        self._pending: list[bytes] = []
        self._candidate: tuple[int, EndLsn, CommitLsn] | None = None
        # What the header of the next segment says of the connection.
        self._options: Mapping[str, str] = {}
        self._descriptions: dict[int, bytes] = {}

    # What others ask.

    @property
    def is_open(self) -> bool:
        """
        Whether records can be added.
        """
        return self._handle is not None

    @property
    def number(self) -> int:
        """
        The number of the newest segment; 0 before the first.
        """
        return self._number

    @property
    def end(self) -> EndLsn:
        """
        The position reached with all records, also those in line.
        """
        return self._candidate[1] if self._candidate is not None else self._publication.end

    @property
    def has_records(self) -> bool:
        """
        Whether there are any behind the header, also in line.
        """
        return self.position > self._kept[self._number].records_byte

    @property
    def is_full(self) -> bool:
        """
        Whether another segment is due as soon as no transaction is open.
        """
        is_due = self._is_roll_wanted or self.position >= self._limits.segment_bytes_max
        return is_due and self.has_records

    def scan(self, start: int) -> Iterator[StoredRecord]:
        """
        Read again the records from a byte on; those in line must have been flushed.

        Raises:
            CorruptLogError: one does not verify.
        """
        assert self._handle is not None, "reading what is closed"
        return scan(partial(self._disk.read, self._handle), start, self.position)

    # Beginning and ending.

    def follow(self, epoch: int, segments: KeptSegments, number: int) -> None:
        """
        Go on with an epoch that was found: the next segment comes after `number`.
        """
        self._epoch, self._segments, self._number = epoch, segments, number

    def begin_connection(self, options: Mapping[str, str]) -> None:
        """
        Forget the descriptions of the connection before; a new one has these options.
        """
        self._options = options
        self._descriptions = {}

    def describe(self, oid: int, description: bytes) -> None:
        """
        Put a Relation message in force: segments from the next one on say it in their headers.
        """
        self._descriptions[oid] = description

    def roll(self) -> None:
        """
        Have another segment begin as soon as no transaction is open.
        """
        self._is_roll_wanted = True

    def first_header(self, epoch: int, start: EndLsn) -> SegmentHeader:
        """
        Give the header of the first segment of a new epoch; see `take_up`.
        """
        return SegmentHeader(
            epoch=epoch,
            number=1,
            is_synced=self._is_synced,
            options=self._options,
            start=start,
            last_commit=ZERO_COMMIT,
            predecessor_end=0,
            descriptions=(),
        )

    def begin(self) -> None:
        """
        Begin a segment after the published end, whatever else the one before it may hold.
        """
        assert not self._pending
        segments = self._kept
        previous = segments.get(self._number)
        header = SegmentHeader(
            epoch=self._epoch,
            number=self._number + 1,
            is_synced=self._is_synced,
            options=self._options,
            start=self._publication.end,
            last_commit=self._publication.commit,
            predecessor_end=previous.valid_end if previous is not None else 0,
            descriptions=tuple(self._descriptions.values()),
        )
        handle, size = write_segment(self._disk, segments.folder, header, is_synced=self._is_synced)
        if self._is_synced:
            try:
                self._disk.sync_folder(segments.folder)
            except OSError:
                self._disk.close(handle)
                raise
        self.let_go()
        self._open(handle, header, size)

    def take_up(self, segments: KeptSegments, handle: int, header: SegmentHeader, size: int) -> None:
        """
        Go on in the first segment of a new epoch, which has been made with it, and publish where that begins.
        """
        assert self._handle is None, "the segment of another epoch is open"
        self._epoch, self._segments = header.epoch, segments
        self._open(handle, header, size)
        self._publication.publish(header.epoch, RelayPlace(header.number, size), header.start, header.last_commit)

    def let_go(self) -> None:
        """
        Close the segment being written and give back what lies beyond its valid end.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        segment = self._kept[self._number]
        if segment.valid_end < segment.size:
            with suppress(OSError):
                self._disk.truncate(handle, segment.valid_end)
                self._kept.resize(self._number, segment.valid_end)
        with suppress(OSError):
            # Everything that counts has been synced, so there is nothing left that closing could lose.
            self._disk.close(handle)

    def abandon(self) -> None:
        """
        Give up what is in line, and take nothing more until another segment begins: a write or a sync failed.
        """
        self._pending = []
        self._candidate = None
        self.let_go()

    # Records.

    def add(self, buffers: Sequence[bytes], end: EndLsn | None = None, commit: CommitLsn | None = None) -> None:
        """
        Put a record in line.

        Args:
            buffers: its bytes.
            end: the position reached with it, when the place after it may be published.
            commit: the last commit in it; None for none.
        """
        self._pending.extend(buffers)
        self.position += sum(map(len, buffers))
        if end is not None:
            if commit is None:
                commit = self._candidate[2] if self._candidate is not None else self._publication.commit
            self._candidate = (self.position, end, commit)

    def flush(self) -> None:
        """
        Write what is in line; sync and publish up to the last place that may be.
        """
        handle = self._handle
        assert handle is not None
        pending, self._pending = self._pending, []
        candidate, self._candidate = self._candidate, None
        segments = self._kept
        segment = segments[self._number]
        if pending:
            self._unsynced += self.position - segment.size
            segments.resize(self._number, self.position)
            self._disk.write(handle, pending)
        if self._is_synced and (candidate is not None or self._unsynced >= self._limits.group_bytes_max):
            # Without a commit it is only to spare a large transaction one very long sync at its end.
            self._disk.sync(handle)
            self._unsynced = 0
        if candidate is not None:
            byte, end, commit = candidate
            segment.valid_end = byte
            self._publication.publish(self._epoch, RelayPlace(self._number, byte), end, commit)

    # Inside.

    @property
    def _kept(self) -> KeptSegments:
        assert self._segments is not None, "there is no epoch"
        return self._segments

    def _open(self, handle: int, header: SegmentHeader, size: int) -> None:
        self._handle = handle
        self._number = header.number
        self._kept[header.number] = KeptSegment(header.start, size, size, size)
        self.position = size
        self._unsynced = 0
        self._is_roll_wanted = False
