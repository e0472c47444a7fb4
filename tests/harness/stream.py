"""
Hand-made replication streams: tables, messages and copy payloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.replication.encode import encode_begin, encode_commit
from penstock.replication.frames import FRAME_LENGTH_BYTES, Keepalive, XLogData, build_keepalive, build_xlog_data, frame

TEXT_OID: Final = 25
INT_OID: Final = 23


def table(oid: int, *columns: str, name: str = "t", type_oid: int = TEXT_OID) -> RelationDescription:
    """
    Describe a table of text columns with a full replica identity.
    """
    described = tuple(StreamColumn(column, type_oid, -1, index == 0) for index, column in enumerate(columns))
    return RelationDescription(TableId(oid, "public", name), "f", described)


def data(message: bytes, *, sent_us: int = 0, at: int = 0) -> bytes:
    """
    Wrap a message as WAL data.
    """
    return build_xlog_data(XLogData(at, at, sent_us, message))


def keepalive(wal_end: int, *, is_reply_requested: bool = False) -> bytes:
    """
    Build a keepalive.
    """
    return build_keepalive(Keepalive(wal_end, 0, is_reply_requested))


def transaction(commit: int, *messages: bytes, xid: int = 7, delay_us: int = 0, end: int | None = None) -> list[bytes]:
    """
    Wrap messages as a whole transaction whose commit record is eight bytes long.
    """
    ended = commit + 8 if end is None else end
    whole = [
        encode_begin(CommitLsn(commit), 0, xid),
        *messages,
        encode_commit(CommitLsn(commit), EndLsn(ended), 0),
    ]
    return [data(message, sent_us=delay_us, at=commit) for message in whole]


def frames(payloads: Sequence[bytes]) -> bytes:
    """
    Put payloads of WAL data together as in a batch.
    """
    return b"".join(map(frame, payloads))


def split_frames(frames: bytes) -> Iterator[bytes]:
    """
    Give the `w` payloads of `FrameBatch.frames`, one after the other.

    Raises:
        DecodeError: the last frame is cut off.
    """
    at = 0
    while at < len(frames):
        start = at + FRAME_LENGTH_BYTES
        at = start + int.from_bytes(frames[at:start], "big")
        if start > len(frames) or at > len(frames):
            raise DecodeError("a frame is cut off")
        yield frames[start:at]
