from __future__ import annotations

import struct
from zlib import crc32

import pytest

from penstock.errors import CorruptLogError, FormatVersionError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.relay.abc import FramesRecord, FrontierRecord, RelayRecord, SessionRecord, StubRecord
from penstock.relay.epochs import EPOCH_MAGIC, EpochHeader, decode_epoch, encode_epoch, epoch_name, epoch_numbers
from penstock.relay.records import encode_frames, encode_frontier, encode_session, encode_stub, scan
from penstock.relay.sealed import ReadAt, seal
from penstock.relay.segments import SegmentHeader, decode_header, encode_header, segment_name, segment_numbers

STUB = StubRecord(CommitLsn(70), 7, (16384, 16390), EndLsn(80))
HEADER = SegmentHeader(
    epoch=3,
    number=9,
    is_synced=True,
    options={"proto_version": "1", "datestyle": "ISO"},
    start=EndLsn(2**64 - 1),
    last_commit=CommitLsn(5),
    predecessor_end=4711,
    descriptions=(b"R\x00\xff", b"R2"),
)
EPOCH = EpochHeader(3, "7000000000000000001", 2, "penstock", EndLsn(17), 1.5, "the slot is new")


def reader(data: bytes) -> ReadAt:
    return lambda byte, count: data[byte : byte + count]


def whole(body: bytes) -> bytes:
    return struct.pack(">II", len(body), crc32(body)) + body


@pytest.mark.parametrize(
    ("buffers", "record", "commit", "end"),
    [
        (encode_frames(b"abc", None), FramesRecord(b"abc"), None, None),
        (encode_frames(b"", (CommitLsn(1), EndLsn(2))), FramesRecord(b""), CommitLsn(1), EndLsn(2)),
        ((encode_session({"a": "b"}),), SessionRecord(), None, None),
        ((encode_frontier(EndLsn(9)),), FrontierRecord(EndLsn(9)), None, EndLsn(9)),
        ((encode_stub(STUB),), STUB, STUB.commit_lsn, STUB.end),
    ],
)
def test_a_record_comes_back(
    buffers: tuple[bytes, ...], record: RelayRecord, commit: CommitLsn | None, end: EndLsn | None
) -> None:
    """Each kind of record is read as it was written, and says whether its end may be published."""
    data = b"".join(buffers)
    (stored,) = scan(reader(b"head" + data), 4, 4 + len(data))
    assert (stored.record, stored.commit, stored.end, stored.after) == (record, commit, end, 4 + len(data))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 30, 1000])
def test_chunks_do_not_matter(chunk_bytes: int) -> None:
    """However little is read at once, the records are the same."""
    data = b"".join(b"".join(encode_frames(bytes([size]) * size, None)) for size in range(40))
    stored = list(scan(reader(data), 0, len(data), chunk_bytes=chunk_bytes))
    assert [each.record for each in stored] == [FramesRecord(bytes([size]) * size) for size in range(40)]
    assert stored[-1].after == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0",
        b"\0" * 64,
        whole(b""),
        whole(b"\x09rest"),
        whole(b"\x00"),
        whole(b"\x01short"),
        whole(b"\x03\0\0\0\0\0\0\0\x01\0"),
        whole(b"\x04" + struct.pack(">QIQI", 1, 2, 3, 4)),
        whole(b"\x04" + b"\0" * 3),
        encode_frontier(EndLsn(9))[:-1],
        encode_frontier(EndLsn(9))[:-1] + b"\xff",
        struct.pack(">II", 2**32 - 1, 0) + b"\0" * 20,
    ],
)
def test_rubbish_is_corrupt(data: bytes) -> None:
    """Whatever is not a whole record that verifies raises the log's own error."""
    with pytest.raises(CorruptLogError):
        list(scan(reader(data), 0, len(data)))


def test_a_file_shorter_than_promised_is_corrupt() -> None:
    """A record below the end that counts must be there."""
    data = encode_frontier(EndLsn(9))
    with pytest.raises(CorruptLogError, match="ends inside"):
        list(scan(reader(data[:-2]), 0, len(data)))


def test_a_segment_header_comes_back() -> None:
    """A header is read as it was written, and tells where records begin."""
    data = encode_header(HEADER)
    assert decode_header(reader(data + b"records")) == (HEADER, len(data))


def test_an_epoch_header_comes_back() -> None:
    """An epoch's header file is read as it was written."""
    assert decode_epoch(reader(encode_epoch(EPOCH))) == EPOCH


@pytest.mark.parametrize("data", [encode_header(HEADER), encode_epoch(EPOCH)])
def test_a_damaged_header_is_corrupt(data: bytes) -> None:
    """No byte of a header can change unnoticed, and no part of one is one."""
    decode = decode_header if data.startswith(b"PNSTKSEG") else decode_epoch
    for byte in range(len(data)):
        with pytest.raises(CorruptLogError):
            decode(reader(data[:byte] + bytes([data[byte] ^ 0x20]) + data[byte + 1 :]))
        with pytest.raises(CorruptLogError):
            decode(reader(data[:byte]))


def test_a_length_beyond_reason_is_corrupt() -> None:
    """A damaged length is not taken for a reason to read a gigabyte."""
    with pytest.raises(CorruptLogError, match="length"):
        decode_epoch(reader(EPOCH_MAGIC + b"\0\0\0\x01\xff\xff\xff\xff\0\0\0\0"))


def test_newer_files_are_refused_as_such() -> None:
    """A header of a later version that verifies is not called damaged."""
    with pytest.raises(FormatVersionError):
        decode_epoch(reader(seal(EPOCH_MAGIC, 2, {"other": "fields"})))


@pytest.mark.parametrize(
    "document",
    [
        {"epoch": 1},
        {"epoch": 0, "system_id": "", "timeline": 1, "slot_name": "", "start": 1, "created_s": 0, "reason": ""},
        {"epoch": 1, "system_id": "", "timeline": 1, "slot_name": "", "start": -1, "created_s": 0, "reason": ""},
    ],
)
def test_an_impossible_epoch_is_corrupt(document: dict[str, object]) -> None:
    """A document that verifies but cannot be, is not believed."""
    with pytest.raises(CorruptLogError):
        decode_epoch(reader(seal(EPOCH_MAGIC, 1, document)))


@pytest.mark.parametrize("field", ["number", "start", "last_commit", "predecessor_end"])
def test_an_impossible_segment_is_corrupt(field: str) -> None:
    """A header that verifies but names impossible numbers is not believed."""
    document: dict[str, object] = {
        "epoch": 1,
        "number": 1,
        "is_synced": True,
        "options": {},
        "start": 0,
        "last_commit": ZERO_COMMIT.value,
        "predecessor_end": 0,
        "descriptions": (),
        field: -1,
    }
    with pytest.raises(CorruptLogError):
        decode_header(reader(seal(b"PNSTKSEG", 1, document)))


def test_names_sort_and_others_are_ignored() -> None:
    """Names of segments and epochs are read back in order; other files in a folder are not taken for them."""
    assert segment_numbers([segment_name(12), "x", segment_name(3), segment_name(3) + ".new", "1.relay"]) == [3, 12]
    assert epoch_numbers([epoch_name(12), "1", epoch_name(3), epoch_name(3) + ".new"]) == [3, 12]
