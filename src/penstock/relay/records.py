"""
Records: what follows the header in a segment.

```
length u32 | crc32 u32 | kind u8 | payload          length and checksum cover kind and payload
```

A record that ends with a commit, a frontier or a stub says so up front (`StoredRecord.end`): places just past such a
record are the only ones that are ever published, so recovery and readers need not look into frames.

Pure functions over bytes and readers of bytes. Decoders raise `CorruptLogError` and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.abc import FramesRecord, FrontierRecord, RelayRecord, SessionRecord, StubRecord
from penstock.relay.sealed import ReadAt

KIND_FRAMES: Final = 1
KIND_SESSION: Final = 2
KIND_FRONTIER: Final = 3
KIND_STUB: Final = 4

RECORD_BYTES_MAX: Final = 2**32 - 1
"""Of kind and payload together; a row cannot be larger than 1 GiB, so a batch never comes near."""
SCAN_BYTES: Final = 1 << 20
"""How much is read at once where nobody says otherwise."""

_HEAD: Final = struct.Struct(">II")
_FRAMES: Final = struct.Struct(">BQQ")
_FRONTIER: Final = struct.Struct(">BQ")
_STUB: Final = struct.Struct(">BQIQI")
HEAD_BYTES: Final = _HEAD.size


class StoredRecord(NamedTuple):
    """
    A record as it lies in a segment.

    Attributes:
        record: what readers get.
        commit: the last commit in it, if it ends with one.
        end: the position reached with it, None when the place after it must not be published.
        after: the byte just past it in its segment.
    """

    record: RelayRecord
    commit: CommitLsn | None
    end: EndLsn | None
    after: int


def encode_frames(frames: bytes, commit: tuple[CommitLsn, EndLsn] | None) -> tuple[bytes, bytes]:
    """
    Encode a run of frames as two buffers, so that the frames are not copied.

    A commit at position 0 does not exist, so zeros stand for none.
    """
    commit_lsn, end = (commit[0].value, commit[1].value) if commit is not None else (0, 0)
    prefix = _FRAMES.pack(KIND_FRAMES, commit_lsn, end)
    length = len(prefix) + len(frames)
    assert length <= RECORD_BYTES_MAX, length
    return _HEAD.pack(length, crc32(frames, crc32(prefix))) + prefix, frames


def encode_session(options: Mapping[str, str]) -> bytes:
    """
    Encode the mark of a new connection with its stream options and session settings.
    """
    return _whole(bytes((KIND_SESSION,)) + msgspec.json.encode(dict(options)))


def encode_frontier(end: EndLsn) -> bytes:
    """
    Encode a position reached outside a transaction.
    """
    return _whole(_FRONTIER.pack(KIND_FRONTIER, end.value))


def encode_stub(stub: StubRecord) -> bytes:
    """
    Encode what stands for a transaction that is not kept.
    """
    oids: Sequence[int] = stub.relation_oids
    head = _STUB.pack(KIND_STUB, stub.commit_lsn.value, stub.xid, stub.end.value, len(oids))
    return _whole(head + struct.pack(f">{len(oids)}I", *oids))


def scan(read_at: ReadAt, start: int, stop: int, *, chunk_bytes: int = SCAN_BYTES) -> Iterator[StoredRecord]:
    """
    Read records from `start`, which must be the beginning of one, up to `stop`.

    Memory is bounded by the largest record and `chunk_bytes`.

    Raises:
        CorruptLogError: at the first record that does not verify or does not end by `stop`.
    """
    data, at, base = b"", 0, start
    while base + at < stop:
        needed = HEAD_BYTES
        if len(data) - at >= HEAD_BYTES:
            needed += _HEAD.unpack_from(data, at)[0]
        if needed > stop - base - at:
            raise CorruptLogError(f"the record at byte {base + at} ends beyond the end")
        if len(data) - at < needed:
            rest = data[at:]
            base, at = base + at, 0
            missing = needed - len(rest)
            data = rest + read_at(base + len(rest), min(max(missing, chunk_bytes), stop - base - len(rest)))
            if len(data) < needed:
                raise CorruptLogError(f"the file ends inside the record at byte {base}")
            continue
        if needed == HEAD_BYTES:
            # A length of nothing: what a file system leaves where it had a size before it had the bytes.
            raise CorruptLogError(f"the record at byte {base + at} is empty")
        yield _decode(data, at, needed, base)
        at += needed


def _decode(data: bytes, at: int, needed: int, base: int) -> StoredRecord:
    body = memoryview(data)[at + HEAD_BYTES : at + needed]
    if crc32(body) != _HEAD.unpack_from(data, at)[1]:
        raise CorruptLogError(f"the checksum of the record at byte {base + at} does not fit")
    after = base + at + needed
    try:
        match body[0]:
            case 1:
                _, commit_lsn, end = _FRAMES.unpack_from(body)
                record = FramesRecord(bytes(body[_FRAMES.size :]))
                if end == 0:
                    return StoredRecord(record, None, None, after)
                return StoredRecord(record, CommitLsn(commit_lsn), EndLsn(end), after)
            case 2:
                return StoredRecord(SessionRecord(), None, None, after)
            case 3:
                _, end = _FRONTIER.unpack(body)
                return StoredRecord(FrontierRecord(EndLsn(end)), None, EndLsn(end), after)
            case 4:
                _, commit_lsn, xid, end, count = _STUB.unpack_from(body)
                oids = struct.unpack(f">{count}I", body[_STUB.size :])
                stub = StubRecord(CommitLsn(commit_lsn), xid, oids, EndLsn(end))
                return StoredRecord(stub, stub.commit_lsn, stub.end, after)
            case kind:
                raise CorruptLogError(f"the record at byte {base + at} is of the unknown kind {kind}")
    except struct.error as cause:
        raise CorruptLogError(f"the record at byte {base + at} is malformed") from cause


def _whole(body: bytes) -> bytes:
    return _HEAD.pack(len(body), crc32(body)) + body
