"""
A small JSON document under a checksum: the opening of every segment, and the header file of an epoch.

```
magic 8 bytes | version u32 | length u32 | crc32 u32 | JSON, `length` bytes
```

Numbers are big-endian. The checksum covers magic, version, length and JSON. These twenty bytes stay as they are in all
versions, so that old code can tell a newer file from a damaged one.

Pure functions over bytes and readers of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar
from zlib import crc32

import msgspec

from penstock.errors import CorruptLogError, FormatVersionError

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Reads at a position at most so many bytes; fewer only where the file ends."""

DOCUMENT_BYTES_MAX: Final = 1 << 30
_HEAD: Final = struct.Struct(">8sII")
_CRC: Final = struct.Struct(">I")
_HEAD_BYTES: Final = _HEAD.size + _CRC.size

T = TypeVar("T")


def seal(magic: bytes, version: int, document: object) -> bytes:
    """
    Encode a document, which msgspec must know how to write.
    """
    assert len(magic) == 8, magic
    body = msgspec.json.encode(document)
    assert len(body) <= DOCUMENT_BYTES_MAX, len(body)
    head = _HEAD.pack(magic, version, len(body))
    return head + _CRC.pack(crc32(body, crc32(head))) + body


def unseal(magic: bytes, version: int, kind: type[T], read_at: ReadAt) -> tuple[T, int]:
    """
    Decode a document from the beginning of a file; answer it and its length in bytes, head included.

    Raises:
        CorruptLogError: it is not such a document, or damaged.
        FormatVersionError: it verifies, but newer code wrote it.
    """
    head = read_at(0, _HEAD_BYTES)
    if len(head) < _HEAD_BYTES or head[:8] != magic:
        raise CorruptLogError(f"the file does not begin with {magic.decode('ascii', 'replace').strip()!r}")
    _, found, length = _HEAD.unpack_from(head)
    if length > DOCUMENT_BYTES_MAX:
        raise CorruptLogError("the header's length is damaged")
    body = read_at(_HEAD_BYTES, length)
    if len(body) < length or _CRC.unpack_from(head, _HEAD.size)[0] != crc32(body, crc32(head[: _HEAD.size])):
        raise CorruptLogError("the header's checksum does not fit")
    if found > version:
        raise FormatVersionError(
            f"the file has format version {found}, this program knows {version}: start the newer one"
        )
    try:
        return msgspec.json.decode(body, type=kind), _HEAD_BYTES + length
    except msgspec.MsgspecError as cause:
        raise CorruptLogError("the header does not hold what its version says") from cause
