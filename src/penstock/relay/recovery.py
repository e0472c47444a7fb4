"""
Recovery: what a segment still holds after anything may have happened to its end.

Theory of operation. Bytes are only ever appended, and only places just past a commit, a frontier or a stub are
published. So whatever a power cut leaves of the last segment, the good part is found by reading from its header on:
records that verify are what was written; the first one that does not, ends what can be known. Of the good part only
the run up to the last publishable record counts. What follows it is an open transaction or a few descriptions, void
in either case, since a new connection sends both again. The result is a prefix of what was written, and it includes
all that was published, because that was synced first (O1).

Damage below the published end also cuts here. That is safe and not silent: the end is then below what the slot has
confirmed, which begins a new epoch (`epochs.decide_epoch`).

Pure functions over readers of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.records import scan
from penstock.relay.sealed import ReadAt
from penstock.relay.segments import SegmentHeader, decode_header


@dataclass(frozen=True, slots=True)
class RecoveredSegment:
    """
    What counts of a segment.

    Attributes:
        header: its header.
        records_byte: where its records begin.
        valid_end: the byte up to which it counts.
        last_commit: the last commit kept in it or before it.
        end: the position reached with it.
        verified_end: the byte up to which records verify; beyond `valid_end` they are void.
        damage: why the scan ended before the file did; None when it did not.
    """

    header: SegmentHeader
    records_byte: int
    valid_end: int
    last_commit: CommitLsn
    end: EndLsn
    verified_end: int
    damage: str | None


def recover_segment(read_at: ReadAt, size: int) -> RecoveredSegment:
    """
    Find what counts of a segment whose end is not known.

    Args:
        read_at: reads its bytes.
        size: of the file, or up to where to look, in bytes.

    Raises:
        CorruptLogError: it has no header that verifies; nothing in it counts.
        FormatVersionError: newer code wrote it.
    """
    header, records_byte = decode_header(read_at)
    valid_end = verified_end = records_byte
    last_commit, end = header.last_commit, header.start
    damage = None
    try:
        for stored in scan(read_at, records_byte, size):
            verified_end = stored.after
            if stored.end is not None:
                valid_end, end = stored.after, stored.end
                last_commit = stored.commit or last_commit
    except CorruptLogError as cause:
        damage = cause.message
    return RecoveredSegment(
        header=header,
        records_byte=records_byte,
        valid_end=valid_end,
        last_commit=last_commit,
        end=end,
        verified_end=verified_end,
        damage=damage,
    )
