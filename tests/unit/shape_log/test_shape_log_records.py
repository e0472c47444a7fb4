from __future__ import annotations

import struct
import zlib

import pytest

from penstock.errors import CorruptLogError, DecodeError, FormatVersionError
from penstock.shape_log.records import (
    DATA_MAGIC,
    HEADER_BYTES,
    INDEX_MAGIC,
    RECORD_BYTES,
    IndexRecord,
    RecordKind,
    check_header,
    decode_record,
    encode_header,
    encode_record,
)
from penstock.shapes.offset import LogOffset

RECORD = IndexRecord(
    RecordKind.RUN,
    32,
    1000,
    0xDEADBEEF,
    3,
    LogOffset(2**63 + 5, 0),
    LogOffset(2**63 + 5, 4),
    True,
    True,
    2**63 + 5,
    2**64 - 1,
)


def test_record_keeps_everything() -> None:
    """
    A record reads back as it was written, with positions of full width.
    """
    data = encode_record(RECORD, 7)
    assert len(data) == RECORD_BYTES
    assert decode_record(data, 7) == RECORD


def test_every_turned_bit_of_a_record_is_noticed() -> None:
    """
    No bit of a record can turn without being noticed, and a record counts in its own place only.
    """
    data = encode_record(RECORD, 7)
    for bit in range(len(data) * 8):
        turned = bytearray(data)
        turned[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            decode_record(bytes(turned), 7)
    with pytest.raises(DecodeError):
        decode_record(data, 8)
    with pytest.raises(DecodeError):
        decode_record(data[:-1], 7)


def test_header_names_its_log() -> None:
    """
    A header fits only its own file, log and threshold.
    """
    header = encode_header(DATA_MAGIC, 4, 999)
    assert len(header) == HEADER_BYTES
    check_header(header + b"more", DATA_MAGIC, 4, 999)
    for wrong in (
        (header, INDEX_MAGIC, 4, 999),
        (header, DATA_MAGIC, 5, 999),
        (header, DATA_MAGIC, 4, 998),
        (header[:-1], DATA_MAGIC, 4, 999),
        (header[:-1] + bytes([header[-1] ^ 1]), DATA_MAGIC, 4, 999),
    ):
        with pytest.raises(CorruptLogError):
            check_header(*wrong)


def test_newer_version_is_refused_and_not_called_damage() -> None:
    """
    A file of newer code is refused as such.
    """
    body = struct.pack(">8sHHQQ", DATA_MAGIC, 2, 0, 4, 999)
    with pytest.raises(FormatVersionError):
        check_header(body + struct.pack(">I", zlib.crc32(body)), DATA_MAGIC, 4, 999)
