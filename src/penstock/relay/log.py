"""
The relay log on disk, as its one writer sees it: where its parts meet.

`RelayLog` is what the disk thread of `writer` drives; it has no thread and no queue of its own, so every step of it can
be tested on a disk that fails. It decides what a session, a group of batches and a recorded boundary mean for the parts,
and tells in our own errors what the disk refused:

| Part | Responsibility |
| --- | --- |
| `epoch_folders` | epochs on disk: finding, making and removing them (O7) |
| `startup` | what counts of the last process's segments, and its proof |
| `kept_segments` | the segments of the epoch, and trimming |
| `segment_writer` | the segment being written: the order of write, sync and publication (O1, S10) |
| `batches` | batches made into records, stubs for too large transactions |
| `publication` | the published end |
| `watched_disk` | which disk call has not returned |

A shell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from penstock.errors import CorruptLogError, DecodeError, LogError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.relay.abc import PublishedEnd, Publisher, RelayPlace
from penstock.relay.batches import BatchWriter
from penstock.relay.disk import Disk
from penstock.relay.epoch_folders import EpochFolders
from penstock.relay.epochs import Acknowledge, EpochHeader, NewEpoch, RecordedBoundary, decide_epoch
from penstock.relay.kept_segments import KeptSegments
from penstock.relay.limits import RelayLimits
from penstock.relay.publication import Publication
from penstock.relay.records import encode_session
from penstock.relay.segment_writer import SegmentWriter
from penstock.relay.startup import recover_segments, write_again
from penstock.relay.watched_disk import WatchedDisk, refused
from penstock.replication.abc import FrameBatch, SessionStart, SlotIdentity

Submitted: TypeAlias = FrameBatch | EndLsn


class RelayLog:
    """
    The relay log of one folder.

    Methods that write raise `LogError`; the log then takes nothing until `begin_session` succeeds. All methods are
    called from one thread at a time; properties may be read from any.
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
        self._acknowledge = acknowledge
        self._is_synced = acknowledge is Acknowledge.RELAY
        self._limits = limits
        self._wall_clock = wall_clock
        self._disk = WatchedDisk(disk, clock)
        self._folders = EpochFolders(folder, self._disk)
        self._publication = Publication(publisher)
        self._segment = SegmentWriter(self._publication, self._disk, limits, is_synced=self._is_synced)
        self._batches = BatchWriter(self._segment, transaction_bytes_max=limits.kept_transaction_bytes_max)
        # The newest epoch and its segments; None before the first.
        self._newest: tuple[EpochHeader, KeptSegments] | None = None
        # What the last process wrote and this one has not proven yet: the number of its last segment.
        self._unproven: int | None = None

    # What others ask.

    @property
    def published(self) -> PublishedEnd | None:
        """
        How far it may be read; None before the first epoch.
        """
        return self._publication.latest

    @property
    def epoch(self) -> EpochHeader | None:
        """
        The newest epoch; None before the first.
        """
        newest = self._newest
        return newest[0] if newest is not None else None

    @property
    def end(self) -> EndLsn:
        """
        The position of the published end; zero before the first epoch.
        """
        return self._publication.end

    @property
    def relay_bytes(self) -> int:
        """
        Bytes of all segments of all epochs on disk.
        """
        newest = self._newest
        return self._folders.older_bytes + (newest[1].size_bytes if newest is not None else 0)

    @property
    def disk_call_since(self) -> float | None:
        """
        When the disk call that has not returned began, on `clock`; None between calls.
        """
        return self._disk.call_since

    # Start.

    def open(self) -> None:
        """
        Find what the last process left, cut it to what counts, and publish its end.

        Raises:
            FormatVersionError: newer code wrote it; nothing was touched.
            LogError: the disk refuses.
        """
        try:
            epoch = self._folders.recover()
            if epoch is not None:
                self._recover_epoch(epoch)
        except OSError as cause:
            raise refused(cause, "opening the relay log") from cause

    def _recover_epoch(self, epoch: EpochHeader) -> None:
        segments = KeptSegments(self._folders.path(epoch.epoch), self._disk)
        self._newest = epoch, segments
        last = recover_segments(segments, self._disk, is_synced=self._is_synced)
        if last is None:
            # The folder was made with a segment in it, so it was taken from us; the slot's position will tell.
            place, end, commit = RelayPlace(0, 0), epoch.start, ZERO_COMMIT
        else:
            place, end, commit = RelayPlace(last.header.number, last.valid_end), last.end, last.last_commit
            self._unproven = last.header.number if self._is_synced else None
        self._segment.follow(epoch.epoch, segments, place.segment)
        self._publication.publish(epoch.epoch, place, end, commit)

    # Sessions and epochs.

    def begin_session(self, start: SessionStart, recorded: RecordedBoundary) -> CommitLsn:
        """
        Decide the epoch, be ready for frames of a new connection, and answer the last commit that is kept.

        Raises:
            LogError: the disk refuses; the log stays closed until this succeeds.
        """
        try:
            self._begin_session(start, recorded)
        except OSError as cause:
            self._abandon()
            raise refused(cause, "beginning a session") from cause
        return self._publication.commit

    def _begin_session(self, start: SessionStart, recorded: RecordedBoundary) -> None:
        found = start.identity
        self._folders.skip_to(recorded.epoch)
        decision = self._decide_epoch(found, recorded)
        if decision is None and not self._prove():
            decision = NewEpoch("the relay log no longer holds what it held at start")
        is_inside = self._batches.is_inside
        self._batches.forget()
        self._segment.begin_connection(start.options)
        if decision is not None:
            self._begin_epoch(found, decision.reason)
        elif is_inside or not self._segment.is_open:
            self._segment.begin()
        else:
            self._segment.add((encode_session(start.options),))
            self._segment.flush()

    def _decide_epoch(self, found: SlotIdentity, recorded: RecordedBoundary) -> NewEpoch | None:
        """
        Tell which epoch begins with the slot that was found; None to go on in the newest.
        """
        epoch = self.epoch
        known = epoch if epoch is not None and epoch.epoch >= recorded.epoch else None
        if known is None and epoch is not None and not found.is_new:
            return NewEpoch(_missing(recorded.epoch))
        decision = decide_epoch(
            found,
            known,
            recorded_end=self._confirmable_end(recorded),
            kept_end=self.end,
            acknowledge=self._acknowledge,
        )
        return decision if isinstance(decision, NewEpoch) else None

    def _confirmable_end(self, recorded: RecordedBoundary) -> EndLsn:
        """
        The greatest position that may have been confirmed in this epoch.
        """
        epoch = self.epoch
        if self._is_synced or epoch is None:
            return self.end
        return recorded.boundary if recorded.epoch == epoch.epoch else epoch.start

    def _prove(self) -> bool:
        """
        Make sure of what the last process left; tell whether it is still there.
        """
        number = self._unproven
        if number is None:
            return True
        assert self._newest is not None
        _, segments = self._newest
        is_whole = write_again(self._disk, segments.path(number), segments[number].valid_end)
        if is_whole:
            self._unproven = None
        return is_whole

    def _begin_epoch(self, found: SlotIdentity, reason: str) -> None:
        header = EpochHeader(
            epoch=self._folders.reserve(),
            system_id=found.system_id,
            timeline=found.timeline,
            slot_name=found.slot_name,
            start=found.consistent_point if found.consistent_point is not None else found.confirmed,
            created_s=self._wall_clock(),
            reason=reason,
        )
        first = self._segment.first_header(header.epoch, header.start)
        handle, size = self._folders.make(header, first)
        self._segment.let_go()
        if self._newest is not None:
            epoch, segments = self._newest
            self._folders.retire(epoch.epoch, segments.size_bytes)
        segments = KeptSegments(self._folders.path(header.epoch), self._disk)
        self._newest = header, segments
        self._unproven = None
        self._segment.take_up(segments, handle, first, size)

    def _abandon(self) -> None:
        """
        Take nothing more until a session begins: a write or a sync failed.
        """
        self._segment.abandon()
        self._batches.forget()

    # Appending.

    def append(self, items: Sequence[Submitted]) -> None:
        """
        Keep a group of batches and frontiers: write, check, sync, check, publish.

        Raises:
            LogError: the disk refuses. What was not published is given up; the log stays closed until `begin_session`.
            DecodeError: a transaction that is too large to keep is not made of frames; given up likewise.
        """
        assert self._segment.is_open, "frames without a session"
        try:
            for item in items:
                if self._segment.is_full and not self._batches.is_inside:
                    self._segment.flush()
                    self._segment.begin()
                if isinstance(item, EndLsn):
                    self._batches.add_frontier(item)
                else:
                    self._batches.add(item)
            self._segment.flush()
        except OSError as cause:
            self._abandon()
            raise refused(cause, "writing the relay log") from cause
        except (LogError, DecodeError):
            self._abandon()
            raise

    def roll(self) -> None:
        """
        Begin another segment as soon as no transaction is open: readers that met damage go on there.
        """
        self._segment.roll()

    # Trimming.

    def trim(self, recorded: RecordedBoundary) -> None:
        """
        Remove segments and epochs that the engine has recorded as not needed, and leave a segment that it cannot read.
        What cannot be removed stays for later.

        Raises:
            LogError: room had to be made by beginning a segment, and the disk refused; or the shapes belong to a later
                epoch, which is not there, so that another session has to begin.
        """
        if self._newest is None:
            return
        epoch, segments = self._newest
        if recorded.epoch < epoch.epoch:
            return
        if recorded.epoch > epoch.epoch:
            # Found only now because the engine had not told when the session began.
            raise CorruptLogError(_missing(recorded.epoch))
        if recorded.damaged_segment >= self._segment.number > 0:
            self.roll()
        self._folders.remove_older()
        if self._is_newest_in_the_way(recorded):
            try:
                self._segment.begin()
            except OSError as cause:
                self._abandon()
                raise refused(cause, "beginning a segment") from cause
        segments.trim(recorded.trim_below)

    def _is_newest_in_the_way(self, recorded: RecordedBoundary) -> bool:
        """
        Whether the log is full of a newest segment that nobody needs: it goes only when it is not the newest.
        """
        return (
            self._segment.is_open
            and not self._batches.is_inside
            and self.relay_bytes >= self._limits.relay_bytes_max
            and self._segment.has_records
            and recorded.trim_below >= self.end
        )

    def close(self) -> None:
        """
        Let go of the segment; nothing is lost that was not published.
        """
        self._abandon()


def _missing(epoch: int) -> str:
    return f"the shapes belong to epoch {epoch}, whose relay log is not there"
