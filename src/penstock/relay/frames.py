"""
What the relay log must know about the frames it keeps: descriptions, commits, and which relations a frame names.

A run of frames is what `FrameBatch.frames` says: each frame a 4-byte big-endian length and the `w` payload as received
(one byte `w`, three 8-byte numbers, the message). Only five kinds of message are looked into, and only where the log
has to: when it scans its own files, and when it takes a transaction out that is too large to keep. Everything else
belongs to the replication stage. Message layouts are those of the chapter "Logical Replication Message Formats" of the
Postgres documentation, protocol version 1.

Pure functions over bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.replication.frames import FRAME_LENGTH_BYTES, MESSAGE_AT

_LENGTH: Final = struct.Struct(">I")
_OID: Final = struct.Struct(">I")
_COMMIT: Final = struct.Struct(">BQQ")
_TRUNCATE: Final = struct.Struct(">IB")
_W: Final = ord("w")
_R: Final = ord("R")
_C: Final = ord("C")
_T: Final = ord("T")
_ROW_KINDS: Final = frozenset(b"IUD")


class FrameCommit(NamedTuple):
    """
    The first commit in a run of frames.

    Attributes:
        commit_lsn: names the transaction that it ends.
        end: the position just past it.
        byte: where the frame after it begins.
    """

    commit_lsn: CommitLsn
    end: EndLsn
    byte: int


def messages(frames: bytes) -> Iterator[tuple[int, int, int]]:
    """
    Walk over a run of frames: where each frame begins, where its message begins, where both end.

    Raises:
        DecodeError: the run is not made of whole frames with messages in them.
    """
    at, stop = 0, len(frames)
    while at < stop:
        payload = at + FRAME_LENGTH_BYTES
        if payload > stop:
            raise DecodeError("a run of frames ends inside a length")
        end = payload + _LENGTH.unpack_from(frames, at)[0]
        if end > stop or end <= payload + MESSAGE_AT or frames[payload] != _W:
            raise DecodeError("a run of frames holds something that is not WAL data")
        yield at, payload + MESSAGE_AT, end
        at = end


def description_frames(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Give each frame that holds a Relation message, whole, by the oid it describes.

    Raises:
        DecodeError: as `messages`, or a message is too short.
    """
    for at, message, end in messages(frames):
        if frames[message] == _R:
            yield _oid(frames, message + 1, end), frames[at:end]


def touched(frames: bytes) -> set[int]:
    """
    Give the oids of all relations that the frames change.

    Raises:
        DecodeError: as `messages`, or a message is too short.
    """
    oids: set[int] = set()
    last = b""
    for _, message, end in messages(frames):
        kind = frames[message]
        if kind in _ROW_KINDS:
            # Neighbours mostly name the same relation: compare five bytes before decoding four.
            head = frames[message + 1 : message + 5]
            if head != last:
                oids.add(_oid(frames, message + 1, end))
                last = head
        elif kind == _T:
            oids.update(_truncated(frames, message + 1, end))
    return oids


def first_commit(frames: bytes) -> FrameCommit | None:
    """
    Find the first Commit message; None when there is none.

    Raises:
        DecodeError: as `messages`, or the message is too short.
    """
    for _, message, end in messages(frames):
        if frames[message] == _C:
            if message + 1 + _COMMIT.size > end:
                raise DecodeError("a Commit message is too short")
            _, commit_lsn, commit_end = _COMMIT.unpack_from(frames, message + 1)
            return FrameCommit(CommitLsn(commit_lsn), EndLsn(commit_end), end)
    return None


def _oid(frames: bytes, at: int, end: int) -> int:
    if at + _OID.size > end:
        raise DecodeError("a message is too short to name a relation")
    oid: int = _OID.unpack_from(frames, at)[0]
    return oid


def _truncated(frames: bytes, at: int, end: int) -> tuple[int, ...]:
    if at + _TRUNCATE.size > end:
        raise DecodeError("a Truncate message is too short")
    count = _TRUNCATE.unpack_from(frames, at)[0]
    first = at + _TRUNCATE.size
    if first + count * _OID.size > end:
        raise DecodeError("a Truncate message is too short")
    return struct.unpack_from(f">{count}I", frames, first)
