"""
Segments: the files of one epoch.

A segment opens with a header (see `sealed`) that makes it self-contained: whoever begins to read here knows the
descriptions in force, the position it starts at, and how far its predecessor counts. Records follow. A segment begins
outside a transaction, always; a large transaction makes a large segment. Bytes are appended and never rewritten: what
must be taken back (an open transaction, the rest of a failed write) is left behind by a successor that names an
earlier end. Numbers have no holes but those at the front that trimming makes.

Pure values and functions over bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import LSN_MAX, CommitLsn, EndLsn
from penstock.relay.sealed import ReadAt, seal, unseal

SEGMENT_MAGIC: Final = b"PNSTKSEG"
SEGMENT_VERSION: Final = 1
_NAME: Final = re.compile(r"([0-9]{10})\.relay", re.ASCII)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """
    What a segment says about itself.

    Attributes:
        epoch: the epoch it belongs to.
        number: its number, the same as in its name.
        is_synced: whether it was written in `relay` mode, where nothing counts before its sync.
        options: stream options and session settings of the connection it begins on.
        start: everything in it ends after this position, everything before it at or below.
        last_commit: the last commit kept before it; zero for none.
        predecessor_end: the byte up to which the segment with the number before counts; 0 in the first of an epoch.
        descriptions: Relation messages in force, each from its `R`.
    """

    epoch: int
    number: int
    is_synced: bool
    options: Mapping[str, str]
    start: EndLsn
    last_commit: CommitLsn
    predecessor_end: int
    descriptions: tuple[bytes, ...]


class _Document(msgspec.Struct, frozen=True):
    epoch: int
    number: int
    is_synced: bool
    options: dict[str, str]
    start: int
    last_commit: int
    predecessor_end: int
    descriptions: tuple[bytes, ...]


def encode_header(header: SegmentHeader) -> bytes:
    """
    Encode the header.
    """
    document = _Document(
        epoch=header.epoch,
        number=header.number,
        is_synced=header.is_synced,
        options=dict(header.options),
        start=header.start.value,
        last_commit=header.last_commit.value,
        predecessor_end=header.predecessor_end,
        descriptions=header.descriptions,
    )
    return seal(SEGMENT_MAGIC, SEGMENT_VERSION, document)


def decode_header(read_at: ReadAt) -> tuple[SegmentHeader, int]:
    """
    Decode the header of a segment; answer it and the byte at which records begin.

    Raises:
        CorruptLogError: there is no such header, or it is damaged.
        FormatVersionError: newer code wrote it.
    """
    document, after = unseal(SEGMENT_MAGIC, SEGMENT_VERSION, _Document, read_at)
    if not (0 <= document.start <= LSN_MAX and 0 <= document.last_commit <= LSN_MAX):
        raise CorruptLogError("the header names an impossible position")
    if document.number <= 0 or document.predecessor_end < 0:
        raise CorruptLogError("the header names an impossible number or end")
    header = SegmentHeader(
        epoch=document.epoch,
        number=document.number,
        is_synced=document.is_synced,
        options=document.options,
        start=EndLsn(document.start),
        last_commit=CommitLsn(document.last_commit),
        predecessor_end=document.predecessor_end,
        descriptions=document.descriptions,
    )
    return header, after


def segment_name(number: int) -> str:
    """
    Name the file of a segment.
    """
    assert 0 < number < 10**10, number
    return f"{number:010}.relay"


def segment_numbers(names: Iterable[str]) -> list[int]:
    """
    Pick the segments out of a folder's names, in order; other names are ignored.
    """
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
