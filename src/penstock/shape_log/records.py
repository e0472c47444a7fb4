"""
The words and formats of shape log files.

A folder holds two append-only files per generation: `data` with nothing but JSON elements behind its header, and
`index` with records of one size that say what the data is. Everything that must be checked (lengths, checksums, where
transactions end) lies in the index, so that the data can be sent as it is. `docs/protocol/shape-log.md` shows the bytes.

Pure.
"""

from __future__ import annotations

import struct
import zlib
from enum import Enum, IntEnum
from typing import Final, NamedTuple

from penstock.errors import CorruptLogError, DecodeError, FormatVersionError
from penstock.shapes.offset import LogOffset

FORMAT_VERSION: Final = 1
DATA_NAME: Final = "0.data"
INDEX_NAME: Final = "0.index"
"""Names begin with the generation, so that a compaction can write the next one beside it."""

DATA_MAGIC: Final = b"PNSTKDAT"
INDEX_MAGIC: Final = b"PNSTKIDX"

RUN_BYTES_TARGET: Final = 64 * 1024
"""A run ends at the first element that makes it this long: what a search inside it has to scan at most, plus one."""

_HEADER: Final = struct.Struct(">8sHHQQI")
_RECORD: Final = struct.Struct(">BBHIIQQQQQQQQQ")
_CRC: Final = struct.Struct(">I")
HEADER_BYTES: Final = _HEADER.size
RECORD_BYTES: Final = _CRC.size + _RECORD.size


class SettleOutcome(Enum):
    """
    How a settle ended for one shape.
    """

    SETTLED = "settled"
    NO_SPACE = "no space"
    """A write found no space: nothing of the tail is lost, it may be tried again."""
    FAILED = "failed"
    """A sync or write failed otherwise: the files are not to be trusted any more."""


class RecordKind(IntEnum):
    """
    What a record of the index says.
    """

    SNAPSHOT_CHUNK = 1
    """A chunk of the snapshot is complete; both its places are `0_k`."""
    SNAPSHOT_END = 2
    """The snapshot is complete; what follows are changes."""
    RUN = 3
    """Elements of one log chunk; or none at all, when only the end of their transaction had to be recorded."""


# Plain numbers: an index may have hundreds of thousands of records, and a flag of `enum` costs as much as all the rest.
_CHUNK_END: Final = 1
_ALIGNED: Final = 2


class IndexRecord(NamedTuple):
    """
    A record of the index.

    Attributes:
        kind: what it says.
        start_byte: where its bytes begin in the data file. A run that continues a chunk begins with the comma.
        bytes_count: how many they are.
        data_crc: their CRC-32.
        elements_count: how many elements they hold.
        first: place of the first element.
        last: place of the last element.
        is_chunk_end: whether the chunk closes behind it.
        is_aligned: whether the log is complete up to `commit` with it, and holds nothing of a later transaction.
        commit: commit LSN of the last complete transaction, as a number; 0 when not aligned.
        end: where that transaction ended; 0 when not aligned.
    """

    kind: RecordKind
    start_byte: int
    bytes_count: int
    data_crc: int
    elements_count: int
    first: LogOffset
    last: LogOffset
    is_chunk_end: bool = False
    is_aligned: bool = False
    commit: int = 0
    end: int = 0

    @property
    def end_byte(self) -> int:
        """
        The place just past its bytes.
        """
        return self.start_byte + self.bytes_count


def encode_header(magic: bytes, incarnation: int, chunk_bytes_max: int, *, is_compacting: bool = False) -> bytes:
    """
    Give the first bytes of a file.
    """
    assert len(magic) == len(DATA_MAGIC)
    body = _HEADER.pack(magic, FORMAT_VERSION, int(is_compacting), incarnation, chunk_bytes_max, 0)[: -_CRC.size]
    return body + _CRC.pack(zlib.crc32(body))


def tells_compacting(header: bytes) -> bool:
    """
    Tell whether the log that begins with this verified header may be compacted.
    """
    return bool(_HEADER.unpack_from(header)[2])


def check_header(data: bytes, magic: bytes, incarnation: int, chunk_bytes_max: int) -> None:
    """
    Compare the first bytes of a file with what they must be.

    Raises:
        CorruptLogError: they are something else.
        FormatVersionError: newer code wrote them.
    """
    if len(data) < HEADER_BYTES or data[: len(magic)] != magic:
        raise CorruptLogError("not a file of a shape log")
    _, version, _, found_incarnation, found_chunk_bytes_max, crc = _HEADER.unpack_from(data)
    if crc != zlib.crc32(data[: HEADER_BYTES - _CRC.size]):
        raise CorruptLogError("the header of a shape log file does not verify")
    if version > FORMAT_VERSION:
        raise FormatVersionError(f"a shape log file has version {version}, this code reads up to {FORMAT_VERSION}")
    if (found_incarnation, found_chunk_bytes_max) != (incarnation, chunk_bytes_max):
        raise CorruptLogError("a shape log file belongs to another log")


def encode_record(record: IndexRecord, ordinal: int) -> bytes:
    """
    Give the bytes of the record with this place in the index.
    """
    flags = (_CHUNK_END if record.is_chunk_end else 0) | (_ALIGNED if record.is_aligned else 0)
    body = _RECORD.pack(
        record.kind,
        flags,
        0,
        ordinal,
        record.data_crc,
        record.start_byte,
        record.bytes_count,
        record.elements_count,
        *record.first,
        *record.last,
        record.commit,
        record.end,
    )
    return _CRC.pack(zlib.crc32(body)) + body


def decode_record(data: bytes, ordinal: int, start_byte: int = 0) -> IndexRecord:
    """
    Read the record with this place in the index.

    Raises:
        DecodeError: the bytes do not verify, or stand in the wrong place.
    """
    body = data[start_byte + _CRC.size : start_byte + RECORD_BYTES]
    if len(body) < _RECORD.size or _CRC.unpack_from(data, start_byte)[0] != zlib.crc32(body):
        raise DecodeError("an index record does not verify")
    number, flags, _, found, data_crc, start, count, elements, first_tx, first_op, last_tx, last_op, commit, end = (
        _RECORD.unpack(body)
    )
    kind = _KINDS.get(number)
    if found != ordinal or kind is None:
        raise DecodeError("an index record stands in the wrong place")
    return IndexRecord(
        kind,
        start,
        count,
        data_crc,
        elements,
        LogOffset(first_tx, first_op),
        LogOffset(last_tx, last_op),
        flags & _CHUNK_END != 0,
        flags & _ALIGNED != 0,
        commit,
        end,
    )


def record_byte(ordinal: int) -> int:
    """
    Tell where the record with this place in the index begins.
    """
    return HEADER_BYTES + ordinal * RECORD_BYTES


_KINDS: Final = {int(kind): kind for kind in RecordKind}
