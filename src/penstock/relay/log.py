"""
The relay log on disk, as its one writer sees it: segments, epochs, and the order of syncs.

`RelayLog` is what the disk thread of `writer` drives; it has no thread and no queue of its own, so every step of it can
be tested on a disk that fails. A shell.

Theory of operation, in terms of the design's rules:

* **O1** (`relay` mode). `append` writes a group of records, checks, syncs, checks, then publishes; what may be confirmed
  is what is published. A segment and its header are synced, with the folder, before the first record in it is.
  In `shapes` mode nothing is synced, and what may be confirmed is the engine's recorded boundary (O2).
* **O7**. An epoch's folder is built under another name, synced, renamed, and its parent synced, before `begin_session`
  answers, and so before anything of it can be confirmed.
* **S10**. After any failed write or sync the segment takes no more bytes. It is cut back to its published end, so that no
  later reader of the page cache takes for durable what the disk refused; a successor names that end. No sync is tried
  again on a file where one has failed.
* **Nothing is written twice.** What must be taken back (an open transaction when a connection ends, a transaction that
  grew too large) lies beyond the published end; the successor leaves it out. So a record that verifies is in its place.
* **The past is not trusted.** A process may die between a failed sync and its consequences, and the next one would read
  good bytes out of the page cache that are not on the disk; a sync answers yes then. So what the last process left in
  its last segment is written once more, to a fresh file, before the first session goes on from it.
* **Unsynced segments** (`shapes` mode) are verified from front to back at start and cut at the first hole, whatever
  mode comes next; in `relay` mode those that remain are synced.

Invariants: the published end is at the end of a record that ends with a commit, frontier or stub, or where records of a
segment begin; it does not move back within an epoch; the newest segment is never trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Final, ParamSpec, TypeAlias, TypeVar

from penstock.errors import CorruptLogError, DecodeError, DiskFullError, LogError, SyncFailedError
from penstock.postgres.lsn import ZERO_COMMIT, ZERO_END, CommitLsn, EndLsn
from penstock.relay.abc import FramesRecord, PublishedEnd, Publisher, RelayPlace, StubRecord
from penstock.relay.disk import NO_SPACE, Disk, remove_tree
from penstock.relay.epochs import (
    EPOCH_FILE,
    Acknowledge,
    EpochHeader,
    NewEpoch,
    RecordedBoundary,
    decide_epoch,
    decode_epoch,
    encode_epoch,
    epoch_name,
    epoch_numbers,
)
from penstock.relay.frames import description_frames, first_commit, touched
from penstock.relay.records import SCAN_BYTES, encode_frames, encode_frontier, encode_session, encode_stub, scan
from penstock.relay.recovery import RecoveredSegment, recover_segment
from penstock.relay.segments import SegmentHeader, decode_header, encode_header, segment_name, segment_numbers
from penstock.replication.abc import FrameBatch, SessionStart, SlotIdentity

Submitted: TypeAlias = FrameBatch | EndLsn

_UNFINISHED: Final = ".new"
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """
    The limits of a relay log.

    Attributes:
        segment_bytes_max: a segment that has reached it is followed by another at the next commit.
        queue_bytes_max: frames waiting for the disk; when reached, the socket is not read.
        group_bytes_max: frames written and synced at once.
        relay_bytes_max: all segments; when reached, the socket is not read between transactions.
        transaction_bytes_max: a larger transaction is not kept, a stub takes its place; None for a quarter of
            `relay_bytes_max`. A transaction that came in one batch is kept whatever its size.
        session_wait_s_max: how long a new connection waits for the disk thread.
        disk_hung_s: a disk call that takes longer is reported as hanging.
        look_s: how often the disk thread looks at the recorded boundary without being told.
    """

    segment_bytes_max: int = 64 * _MIB
    queue_bytes_max: int = 64 * _MIB
    group_bytes_max: int = 16 * _MIB
    relay_bytes_max: int = 10 * _GIB
    transaction_bytes_max: int | None = None
    session_wait_s_max: float = 30.0
    disk_hung_s: float = 10.0
    look_s: float = 1.0

    @property
    def kept_transaction_bytes_max(self) -> int:
        """
        The largest transaction that is kept, in bytes of frames.
        """
        return self.relay_bytes_max // 4 if self.transaction_bytes_max is None else self.transaction_bytes_max


@dataclass(slots=True)
class _Segment:
    """
    A segment on disk: what later ones and trimming must know of it.
    """

    start: EndLsn
    records_byte: int
    valid_end: int
    size: int


@dataclass(slots=True)
class _OpenTransaction:
    """
    The transaction whose commit has not come.

    Once it is too large, `relations` and `descriptions` hold what its stub needs; before, they are None and empty.
    """

    commit_lsn: CommitLsn
    xid: int
    start: int
    size: int = 0
    relations: set[int] | None = None
    descriptions: dict[int, bytes] = field(default_factory=dict)


class RelayLog:
    """
    The relay log of one folder.

    Methods that write raise `LogError`; the log then takes nothing until `begin_session` succeeds. All methods are
    called from one thread at a time; the attributes below may be read from any.

    Attributes:
        published: how far it may be read; None before the first epoch.
        relay_bytes: bytes of all segments of all epochs on disk.
        disk_call_since: when the disk call that has not returned began, on `clock`; None between calls.
    """

    def __init__(
        self,
        *,
        folder: Path,
        publisher: Publisher,
        acknowledge: Acknowledge,
        limits: RelayLimits,
        disk: Disk,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """
        Touch nothing yet; see `open`.
        """
        self._folder = folder
        self._publisher = publisher
        self._is_synced = acknowledge is Acknowledge.RELAY
        self._acknowledge = acknowledge
        self._limits = limits
        self._disk = disk
        self._clock = clock
        self._wall_clock = wall_clock
        self.published: PublishedEnd | None = None
        self.relay_bytes = 0
        self.disk_call_since: float | None = None

        self._epoch: EpochHeader | None = None
        self._epoch_floor = 0
        self._older: dict[int, int] = {}
        self._segments: dict[int, _Segment] = {}
        # What the last process wrote and this one has not proven yet: the number of its last segment.
        self._unproven: int | None = None
        # The segment being written; None while nothing can be.
        self._handle: int | None = None
        self._number = 0
        self._position = 0
        self._unsynced = 0
        self._pending: list[bytes] = []
        self._candidate: tuple[int, EndLsn, CommitLsn] | None = None
        self._open: _OpenTransaction | None = None
        self._descriptions: dict[int, bytes] = {}
        self._options: Mapping[str, str] = {}
        self._end = ZERO_END
        self._commit = ZERO_COMMIT
        self._published_commit = ZERO_COMMIT
        self._is_roll_wanted = False

    # What others ask.

    @property
    def epoch(self) -> EpochHeader | None:
        """
        The newest epoch; None before the first.
        """
        return self._epoch

    @property
    def end(self) -> EndLsn:
        """
        The position of the published end; zero before the first epoch.
        """
        return EndLsn(self.published.end) if self.published is not None else ZERO_END

    # Start.

    def open(self) -> None:
        """
        Find what the last process left, cut it to what counts, and publish its end.

        Raises:
            FormatVersionError: newer code wrote it; nothing was touched.
            LogError: the disk refuses.
        """
        try:
            self._recover()
        except OSError as cause:
            raise _told(cause, "opening the relay log") from cause

    def _recover(self) -> None:
        disk = self._disk
        self._at_disk(disk.make_folder, self._folder)
        # All that is synced below would be gone with the name of the folder itself. Whoever made it may have died before
        # this, so it is done at every start.
        self._at_disk(disk.sync_folder, self._folder.parent)
        self._remove_unfinished()
        numbers = epoch_numbers(self._at_disk(disk.names, self._folder))
        self._epoch_floor = max(numbers, default=0)
        for number in numbers:
            self._older[number] = self._folder_bytes(number)
        if numbers:
            # Only the newest is asked: an older one may not stand in for it, its slot has been left behind.
            self._epoch = self._read_epoch(numbers[-1])
        if self._epoch is not None:
            del self._older[self._epoch.epoch]
            self._recover_epoch(self._epoch)
        self._count_bytes()

    def _recover_epoch(self, epoch: EpochHeader) -> None:
        folder = self._epoch_folder
        names = self._at_disk(self._disk.names, folder)
        for name in names:
            if name.endswith(_UNFINISHED):
                self._at_disk(self._disk.unlink, folder / name)
        headers = self._headers(segment_numbers(names))
        last = self._verify(headers)
        if last is None:
            # The folder was made with a segment in it, so it was taken from us; the slot's position will tell.
            self._end, self._commit = epoch.start, ZERO_COMMIT
            place = RelayPlace(0, 0)
        else:
            self._end, self._commit = last.end, last.last_commit
            place = RelayPlace(last.header.number, last.valid_end)
            self._unproven = last.header.number if self._is_synced else None
            self._number = last.header.number
        self._publish(place, self._end, self._commit)

    def _headers(self, numbers: Sequence[int]) -> dict[int, tuple[SegmentHeader, int]]:
        """
        Read all headers, in order. At the end those that do not verify are of segments in which nothing ever counted:
        they are removed. In between it is damage: readers will meet it, and the file stays until it is trimmed.
        """
        headers: dict[int, tuple[SegmentHeader, int]] = {}
        successor: EndLsn | None = None
        for number in reversed(numbers):
            try:
                header, after = self._on_segment(number, lambda read_at, _: decode_header(read_at))
                if header.number != number:
                    raise CorruptLogError("the segment's number is not that of its name")
            except CorruptLogError:
                if successor is None:
                    self._at_disk(self._disk.unlink, self._path(number))
                else:
                    size = self._on_segment(number, lambda _, size: size)
                    self._segments[number] = _Segment(successor, 0, 0, size)
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
        expected = min([*headers, *self._segments], default=0)
        for number, following in zip_longest(numbers, numbers[1:]):
            header, records_byte = headers[number]
            if number != expected and not header.is_synced:
                self._remove_after(found.header.number if found is not None else 0)
                return found
            limit = headers[following][0].predecessor_end if following == number + 1 else None
            expected = number + 1
            if header.is_synced and limit is not None:
                self._segments[number] = _Segment(header.start, records_byte, limit, limit)
                continue
            found = self._scan_segment(number, limit)
            self._segments[number] = _Segment(header.start, records_byte, found.valid_end, found.valid_end)
            if limit is not None and found.verified_end < limit:
                expected = 0
        return found

    def _remove_after(self, number: int) -> None:
        # From the newest on, so that a power cut on the way leaves no hole at the front, which nobody would notice.
        for later in reversed(segment_numbers(self._at_disk(self._disk.names, self._epoch_folder))):
            if later > number:
                self._at_disk(self._disk.unlink, self._path(later))
                self._segments.pop(later, None)

    def _scan_segment(self, number: int, limit: int | None) -> RecoveredSegment:
        """
        Find what counts of a segment, cut it, and sync it if this mode needs that.
        """
        handle = self._at_disk(self._disk.open, self._path(number))
        try:
            size = self._at_disk(self._disk.size, handle)
            read_at = partial(self._disk.read, handle)
            found = recover_segment(read_at, size if limit is None else min(size, limit))
            if limit is None and found.valid_end < size:
                self._at_disk(self._disk.truncate, handle, found.valid_end)
            if self._is_synced:
                self._at_disk(self._disk.sync, handle)
            return found
        finally:
            self._disk.close(handle)

    def _read_epoch(self, number: int) -> EpochHeader | None:
        try:
            handle = self._at_disk(self._disk.open, self._folder / epoch_name(number) / EPOCH_FILE)
        except FileNotFoundError:
            return None
        try:
            header = decode_epoch(partial(self._disk.read, handle))
        except CorruptLogError:
            return None
        finally:
            self._disk.close(handle)
        return header if header.epoch == number else None

    # Sessions and epochs.

    def begin_session(self, start: SessionStart, recorded: RecordedBoundary) -> CommitLsn:
        """
        Decide the epoch, be ready for frames of a new connection, and answer the last commit that is kept.

        Raises:
            LogError: the disk refuses; the log stays closed until this succeeds.
        """
        try:
            return self._begin_session(start, recorded)
        except OSError as cause:
            self._abandon()
            raise _told(cause, "beginning a session") from cause

    def _begin_session(self, start: SessionStart, recorded: RecordedBoundary) -> CommitLsn:
        found = start.identity
        self._epoch_floor = max(self._epoch_floor, recorded.epoch)
        known = self._epoch if self._epoch is not None and self._epoch.epoch >= recorded.epoch else None
        decision = decide_epoch(
            found,
            known,
            recorded_end=self._confirmable_end(recorded),
            kept_end=self.end,
            acknowledge=self._acknowledge,
        )
        if known is None and self._epoch is not None and not found.is_new:
            decision = NewEpoch(_missing(recorded.epoch))
        if not isinstance(decision, NewEpoch) and not self._prove():
            decision = NewEpoch("the relay log no longer holds what it held at start")
        self._options = start.options
        self._descriptions = {}
        if isinstance(decision, NewEpoch):
            self._begin_epoch(found, decision.reason)
        elif self._handle is None or self._open is not None:
            self._begin_segment()
        else:
            self._open = None
            self._add((encode_session(start.options),))
            self._flush()
        return self._published_commit

    def _confirmable_end(self, recorded: RecordedBoundary) -> EndLsn:
        """
        The greatest position that may have been confirmed in this epoch.
        """
        if self._is_synced or self._epoch is None:
            return self.end
        return recorded.boundary if recorded.epoch == self._epoch.epoch else self._epoch.start

    def _prove(self) -> bool:
        """
        Write the last process's last segment once more, to a fresh file; tell whether it still held what it held.
        """
        number = self._unproven
        if number is None:
            return True
        disk, path, segment = self._disk, self._path(number), self._segments[number]
        copy = path.with_name(path.name + _UNFINISHED)
        with suppress(FileNotFoundError):
            self._at_disk(disk.unlink, copy)
        source = self._at_disk(disk.open, path)
        try:
            target = self._at_disk(disk.create, copy)
            try:
                for byte in range(0, segment.valid_end, SCAN_BYTES):
                    data = self._at_disk(disk.read, source, byte, min(SCAN_BYTES, segment.valid_end - byte))
                    self._at_disk(disk.write, target, (data,))
                self._at_disk(disk.sync, target)
                try:
                    found = recover_segment(partial(disk.read, target), segment.valid_end)
                    is_whole = found.valid_end == segment.valid_end
                except CorruptLogError:
                    is_whole = False
            finally:
                disk.close(target)
        finally:
            disk.close(source)
        if is_whole:
            # The folder is synced with the segment that follows, before anything is confirmed.
            self._at_disk(disk.rename, copy, path)
            self._unproven = None
        return is_whole

    def _remove_unfinished(self) -> None:
        """
        Remove epochs that were not completed.
        """
        for name in self._at_disk(self._disk.names, self._folder):
            if name.endswith(_UNFINISHED):
                self._at_disk(remove_tree, self._disk, self._folder / name)

    def _begin_epoch(self, found: SlotIdentity, reason: str) -> None:
        disk = self._disk
        # A number is used once, also by a try that fails half way.
        self._epoch_floor += 1
        header = EpochHeader(
            epoch=self._epoch_floor,
            system_id=found.system_id,
            timeline=found.timeline,
            slot_name=found.slot_name,
            start=found.consistent_point if found.consistent_point is not None else found.confirmed,
            created_s=self._wall_clock(),
            reason=reason,
        )
        folder = self._folder / epoch_name(header.epoch)
        unfinished = folder.with_name(folder.name + _UNFINISHED)
        self._remove_unfinished()
        self._at_disk(disk.make_folder, unfinished)
        handle = self._at_disk(disk.create, unfinished / EPOCH_FILE)
        try:
            self._at_disk(disk.write, handle, (encode_epoch(header),))
            self._at_disk(disk.sync, handle)
        finally:
            disk.close(handle)
        # The first segment is a part of the epoch, so that one without any has lost something.
        segment = SegmentHeader(
            epoch=header.epoch,
            number=1,
            is_synced=self._is_synced,
            options=self._options,
            start=header.start,
            last_commit=ZERO_COMMIT,
            predecessor_end=0,
            descriptions=(),
        )
        handle, size = self._write_segment(unfinished, segment, is_synced=True)
        try:
            self._at_disk(disk.sync_folder, unfinished)
            self._at_disk(disk.rename, unfinished, folder)
            self._at_disk(disk.sync_folder, self._folder)
        except OSError:
            disk.close(handle)
            self._older[header.epoch] = size
            raise
        self._let_go()
        if self._epoch is not None:
            self._older[self._epoch.epoch] = sum(segment.size for segment in self._segments.values())
        self._epoch = header
        self._segments = {}
        self._unproven = None
        self._take_up(handle, segment, size)
        self._end, self._commit = header.start, ZERO_COMMIT
        self._publish(RelayPlace(1, size), header.start, ZERO_COMMIT)

    # Segments.

    def _begin_segment(self) -> None:
        """
        Begin a segment after the published end, whatever else the one before it may hold.
        """
        assert self._epoch is not None
        assert not self._pending
        previous = self._segments.get(self._number)
        folder = self._epoch_folder
        header = SegmentHeader(
            epoch=self._epoch.epoch,
            number=self._number + 1,
            is_synced=self._is_synced,
            options=self._options,
            start=self.end,
            last_commit=self._published_commit,
            predecessor_end=previous.valid_end if previous is not None else 0,
            descriptions=tuple(self._descriptions.values()),
        )
        handle, size = self._write_segment(folder, header, is_synced=self._is_synced)
        if self._is_synced:
            try:
                self._at_disk(self._disk.sync_folder, folder)
            except OSError:
                self._disk.close(handle)
                raise
        self._let_go()
        self._take_up(handle, header, size)
        self._end, self._commit = self.end, self._published_commit

    def _write_segment(self, folder: Path, header: SegmentHeader, *, is_synced: bool) -> tuple[int, int]:
        """
        Make the file with its header; give an open handle and its length.
        """
        data = encode_header(header)
        path = folder / segment_name(header.number)
        try:
            handle = self._at_disk(self._disk.create, path)
        except FileExistsError:
            # A try before this one that could not be completed; nothing in it ever counted.
            self._at_disk(self._disk.unlink, path)
            handle = self._at_disk(self._disk.create, path)
        try:
            self._at_disk(self._disk.write, handle, (data,))
            if is_synced:
                self._at_disk(self._disk.sync, handle)
        except OSError:
            self._disk.close(handle)
            with suppress(OSError):
                self._disk.unlink(path)
            raise
        return handle, len(data)

    def _take_up(self, handle: int, header: SegmentHeader, size: int) -> None:
        self._handle = handle
        self._number = header.number
        self._segments[header.number] = _Segment(header.start, size, size, size)
        self._position = size
        self._unsynced = 0
        self._open = None
        self._is_roll_wanted = False
        self._count_bytes()

    def _let_go(self) -> None:
        """
        Close the segment being written and give back what lies beyond its valid end.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        segment = self._segments[self._number]
        if segment.valid_end < segment.size:
            with suppress(OSError):
                self._disk.truncate(handle, segment.valid_end)
                segment.size = segment.valid_end
        with suppress(OSError):
            # Everything that counts has been synced, so there is nothing left that closing could lose.
            self._disk.close(handle)

    def _abandon(self) -> None:
        """
        Take nothing more until a session begins: a write or a sync failed.
        """
        self._pending = []
        self._candidate = None
        self._let_go()
        self._open = None
        self._end, self._commit = self.end, self._published_commit
        self._count_bytes()

    # Appending.

    def append(self, items: Sequence[Submitted]) -> None:
        """
        Keep a group of batches and frontiers: write, check, sync, check, publish.

        Raises:
            LogError: the disk refuses. What was not published is given up; the log stays closed until `begin_session`.
            DecodeError: a transaction that is too large to keep is not made of frames; given up likewise.
        """
        assert self._handle is not None, "frames without a session"
        try:
            for item in items:
                if self._open is None and self._is_segment_full:
                    self._flush()
                    self._begin_segment()
                if isinstance(item, EndLsn):
                    self._add_frontier(item)
                else:
                    self._add_batch(item)
            self._flush()
        except OSError as cause:
            self._abandon()
            raise _told(cause, "writing the relay log") from cause
        except (LogError, DecodeError):
            self._abandon()
            raise

    def roll(self) -> None:
        """
        Begin another segment as soon as no transaction is open: readers that met damage go on there.
        """
        self._is_roll_wanted = True

    @property
    def _is_segment_full(self) -> bool:
        has_records = self._position > self._segments[self._number].records_byte
        return has_records and (self._is_roll_wanted or self._position >= self._limits.segment_bytes_max)

    def _add_frontier(self, end: EndLsn) -> None:
        assert self._open is None, "a frontier inside a transaction"
        if end > self._end:
            self._add((encode_frontier(end),), end)

    def _add_batch(self, batch: FrameBatch) -> None:
        for oid, description in batch.descriptions:
            self._descriptions[oid] = description
        if self._open is None and batch.commit is None and batch.transactions:
            commit_lsn, xid = batch.transactions[-1]
            self._open = _OpenTransaction(commit_lsn, xid, self._position)
        transaction = self._open
        if transaction is not None and batch.commit is None:
            transaction.size += len(batch.frames)
            if transaction.relations is None and transaction.size > self._limits.kept_transaction_bytes_max:
                self._take_back(transaction)
        if transaction is not None and transaction.relations is not None:
            self._add_to_stub(transaction, batch)
            return
        self._add_frames(batch.frames, batch.commit)

    def _add_frames(self, frames: bytes, commit: tuple[CommitLsn, EndLsn] | None) -> None:
        if commit is None:
            self._add(encode_frames(frames, None))
        else:
            self._add(encode_frames(frames, commit), commit[1], commit[0])
            self._open = None

    def _take_back(self, transaction: _OpenTransaction) -> None:
        """
        Give up what is written of a transaction, but for the relations it touched; its stub goes to a new segment.
        """
        self._flush()
        handle = self._handle
        assert handle is not None
        relations: set[int] = set()
        for stored in scan(partial(self._disk.read, handle), transaction.start, self._position):
            assert isinstance(stored.record, FramesRecord)
            relations |= touched(stored.record.frames)
        # Descriptions in what is taken back are in force, hence in the header of the new segment.
        self._begin_segment()
        transaction.start = self._position
        transaction.relations = relations
        self._open = transaction

    def _add_to_stub(self, transaction: _OpenTransaction, batch: FrameBatch) -> None:
        """
        Drop frames of a transaction that is too large; when its commit is among them, write the stub and go on.
        """
        assert transaction.relations is not None
        commit = first_commit(batch.frames) if batch.commit is not None else None
        frames = batch.frames[: commit.byte] if commit is not None else batch.frames
        transaction.relations |= touched(frames)
        transaction.descriptions.update(description_frames(frames))
        if commit is None:
            assert batch.commit is None, "a batch that ends at a commit holds one"
            return
        assert commit.commit_lsn == transaction.commit_lsn, "the commit is not that of the open transaction"
        if transaction.descriptions:
            self._add_frames(b"".join(transaction.descriptions.values()), None)
        stub = StubRecord(commit.commit_lsn, transaction.xid, tuple(sorted(transaction.relations)), commit.end)
        self._add((encode_stub(stub),), stub.end, stub.commit_lsn)
        self._open = None
        if commit.byte < len(batch.frames):
            self._add_frames(batch.frames[commit.byte :], batch.commit)

    def _add(self, buffers: Sequence[bytes], end: EndLsn | None = None, commit: CommitLsn | None = None) -> None:
        """
        Put a record in line; `end` when the place after it may be published.
        """
        self._pending.extend(buffers)
        self._position += sum(map(len, buffers))
        if end is not None:
            self._end = end
            self._commit = commit or self._commit
            self._candidate = (self._position, self._end, self._commit)

    def _flush(self) -> None:
        """
        Write what is in line; sync and publish up to the last place that may be.
        """
        handle = self._handle
        assert handle is not None
        pending, self._pending = self._pending, []
        candidate, self._candidate = self._candidate, None
        segment = self._segments[self._number]
        if pending:
            written = self._position - segment.size
            segment.size = self._position
            self.relay_bytes += written
            self._unsynced += written
            self._at_disk(self._disk.write, handle, pending)
        if self._is_synced and (candidate is not None or self._unsynced >= self._limits.group_bytes_max):
            # Without a commit it is only to spare a large transaction one very long sync at its end.
            self._at_disk(self._disk.sync, handle)
            self._unsynced = 0
        if candidate is not None:
            byte, end, commit = candidate
            segment.valid_end = byte
            self._publish(RelayPlace(self._number, byte), end, commit)

    def _publish(self, place: RelayPlace, end: EndLsn, commit: CommitLsn) -> None:
        assert self._epoch is not None
        published = PublishedEnd(self._epoch.epoch, place, end.value)
        if self.published is not None and self.published.epoch == published.epoch:
            assert published.place > self.published.place, "the published end moves back"
            assert published.end >= self.published.end, "the published end moves back"
        self._published_commit = commit
        self.published = published
        self._publisher.publish(published)

    # Trimming.

    def trim(self, recorded: RecordedBoundary) -> None:
        """
        Remove segments and epochs that the engine has recorded as not needed, and leave a segment that it cannot read.
        What cannot be removed stays for later.

        Raises:
            LogError: room had to be made by beginning a segment, and the disk refused; or the shapes belong to a later
                epoch, which is not there, so that another session has to begin.
        """
        if self._epoch is None or recorded.epoch < self._epoch.epoch:
            return
        if recorded.epoch > self._epoch.epoch:
            # Found only now because the engine had not told when the session began.
            raise CorruptLogError(_missing(recorded.epoch))
        if recorded.damaged_segment >= self._number > 0:
            self.roll()
        for number in list(self._older):
            if self._at_disk(remove_tree, self._disk, self._folder / epoch_name(number)):
                del self._older[number]
        if self._is_newest_in_the_way(recorded):
            try:
                self._begin_segment()
            except OSError as cause:
                self._abandon()
                raise _told(cause, "beginning a segment") from cause
        numbers = sorted(self._segments)
        for number, successor in pairwise(numbers):
            if self._segments[successor].start > recorded.trim_below:
                break
            try:
                self._at_disk(self._disk.unlink, self._path(number))
            except FileNotFoundError:
                pass
            except OSError:
                break
            del self._segments[number]
        self._count_bytes()

    def _is_newest_in_the_way(self, recorded: RecordedBoundary) -> bool:
        """
        Whether the log is full of a newest segment that nobody needs: it goes only when it is not the newest.
        """
        return (
            self._handle is not None
            and self._open is None
            and self.relay_bytes >= self._limits.relay_bytes_max
            and self._position > self._segments[self._number].records_byte
            and recorded.trim_below >= self._end
        )

    def close(self) -> None:
        """
        Let go of the segment; nothing is lost that was not published.
        """
        self._abandon()

    # Small things.

    @property
    def _epoch_folder(self) -> Path:
        assert self._epoch is not None
        return self._folder / epoch_name(self._epoch.epoch)

    def _path(self, number: int) -> Path:
        return self._epoch_folder / segment_name(number)

    def _on_segment(self, number: int, ask: Callable[[Callable[[int, int], bytes], int], T]) -> T:
        handle = self._at_disk(self._disk.open, self._path(number))
        try:
            return ask(partial(self._disk.read, handle), self._disk.size(handle))
        finally:
            self._disk.close(handle)

    def _folder_bytes(self, epoch: int) -> int:
        folder = self._folder / epoch_name(epoch)
        total = 0
        for number in segment_numbers(self._at_disk(self._disk.names, folder)):
            handle = self._at_disk(self._disk.open, folder / segment_name(number))
            try:
                total += self._disk.size(handle)
            finally:
                self._disk.close(handle)
        return total

    def _count_bytes(self) -> None:
        self.relay_bytes = sum(segment.size for segment in self._segments.values()) + sum(self._older.values())

    def _at_disk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Make a disk call, seen by whoever watches for one that does not return.
        """
        self.disk_call_since = self._clock()
        try:
            return call(*args, **kwargs)
        finally:
            self.disk_call_since = None


def _missing(epoch: int) -> str:
    return f"the shapes belong to epoch {epoch}, whose relay log is not there"


def _told(cause: OSError, doing: str) -> LogError:
    """
    Say what the disk refused.
    """
    text = f"{doing} failed: {cause.strerror or cause}"
    if cause.errno in NO_SPACE:
        return DiskFullError(f"{text}; free some space on the disk of the relay log")
    return SyncFailedError(text)
