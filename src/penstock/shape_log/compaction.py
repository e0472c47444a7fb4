"""
What a compacted log says, and how its files are read.

Owns the rule by which changes are folded, and the format of the index of a compaction. A compaction holds the changes of
the first closed chunks of a log once more, with fewer of them: whoever reads there is sent to its file, and the chunks
that follow stay where they are. `docs/protocol/shape-log.md` shows the bytes.

The rule: updates of one key with no insert or delete of that key between them become one, at the place of the last. Of
a column named several times the last value counts, and the earliest old value. What survives keeps its place, so a reader
may continue from any place it ever had, and the last change always survives; of the headers only operation and
relation are kept.

Theory of operation. Read in the order of the log, an update is *closed* by the next change of its key and *merged* if
that is an update too. So one pass from the end marks what is merged, and one from the beginning gathers values until
their survivor comes. A window is folded at a time; what stands in two windows is not merged, which costs bytes and nothing
else.

Elements without their headers do not say where they stand, so the index has a place for every one of them, and all of it
is covered by a checksum at its end. It is written after the data are synced: an index that verifies proves its data, and
that is the whole swap.

Pure.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from penstock.errors import CorruptLogError
from penstock.shape_log.records import HEADER_BYTES, check_header, encode_header
from penstock.shapes.offset import LogOffset

COMPACTION_MAGIC: Final = b"PNSTKCMP"
KEPT_CHUNKS_COUNT: Final = 2
"""So many of the latest closed chunks stay as they are."""
WINDOW_BYTES_MAX: Final = 64 << 20
"""So many bytes of changes are folded at a time, and held in memory for that."""

_COUNTS: Final = struct.Struct(">QQQ")
_CHUNK_CELLS: Final = 5
_CHUNK: Final = struct.Struct(">5Q")
_PLACE: Final = struct.Struct(">QQQ")
_CRC: Final = struct.Struct(">I")


def data_name(number: int) -> str:
    """
    Name the data file of a compaction; 0 is the log itself.
    """
    assert number > 0
    return f"{number}.data"


def index_name(number: int) -> str:
    """
    Name the index of a compaction.
    """
    assert number > 0
    return f"{number}.index"


def number_of(name: str) -> int:
    """
    Tell which compaction a file belongs to; 0 for the log's own and for strangers.
    """
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix in {"data", "index"} and stem.isdecimal() and stem.isascii() else 0


# --- folding ---------------------------------------------------------------------------------------------------------


class _Headers(msgspec.Struct):
    operation: str
    relation: msgspec.Raw
    lsn: str = ""
    op_position: int = 0


class Change(msgspec.Struct):
    """
    A change message, as far as it matters here; values are JSON that nobody looks into.
    """

    key: msgspec.Raw
    value: dict[str, msgspec.Raw]
    headers: _Headers
    old_value: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


class _KeptHeaders(msgspec.Struct):
    operation: str
    relation: msgspec.Raw


class _Kept(msgspec.Struct):
    key: msgspec.Raw
    value: dict[str, msgspec.Raw]
    old_value: dict[str, msgspec.Raw] | msgspec.UnsetType
    headers: _KeptHeaders


class Placed(NamedTuple):
    """
    A change and its place in the log.
    """

    place: LogOffset
    change: Change


_CHANGES: Final = msgspec.json.Decoder(list[Change])
_ENCODER: Final = msgspec.json.Encoder()


def read_changes(data: bytes) -> list[Change]:
    """
    Read the elements of a chunk.

    Raises:
        CorruptLogError: they are no change messages.
    """
    try:
        return _CHANGES.decode(b"[%b]" % data)
    except msgspec.MsgspecError as cause:
        raise CorruptLogError("a chunk of a shape log does not hold change messages") from cause


def place_of(change: Change) -> LogOffset:
    """
    Give the place that a change message of the log itself carries.
    """
    return LogOffset(int(change.headers.lsn), change.headers.op_position)


def fold(changes: Sequence[Placed]) -> list[tuple[LogOffset, bytes]]:
    """
    Fold changes, given in the order of the log; answers what survives as (place, JSON).
    """
    is_merged = bytearray(len(changes))
    next_is_update: dict[bytes, bool] = {}
    for ordinal in range(len(changes) - 1, -1, -1):
        change = changes[ordinal].change
        is_update = change.headers.operation == "update"
        key = bytes(change.key)
        is_merged[ordinal] = is_update and next_is_update.get(key, False)
        next_is_update[key] = is_update
    waiting: dict[bytes, Change] = {}
    survivors: list[tuple[LogOffset, bytes]] = []
    for ordinal, (place, change) in enumerate(changes):
        before = waiting.pop(key, None) if (key := bytes(change.key)) in waiting else None
        value, old_value = change.value, change.old_value
        if before is not None:
            value = {**before.value, **value}
            if before.old_value is not msgspec.UNSET:
                old_value = {**(old_value or {}), **before.old_value}
        if is_merged[ordinal]:
            waiting[key] = Change(change.key, value, change.headers, old_value)
            continue
        headers = _KeptHeaders(change.headers.operation, change.headers.relation)
        survivors.append((place, _ENCODER.encode(_Kept(change.key, value, old_value, headers))))
    assert not waiting
    assert bool(survivors) == bool(changes)
    return survivors


# --- the files -------------------------------------------------------------------------------------------------------


class Compaction:
    """
    A compaction as it lies on the disk: the closed chunks at the beginning of a log, written once more.

    Attributes:
        number: of its files.
        source_chunks_count: how many closed chunks of the log it stands for.
        data_bytes: length of its data file.
        elements_count: how many changes it holds.
    """

    __slots__ = ("_cells", "data_bytes", "elements_count", "number", "source_chunks_count")

    def __init__(self, number: int, source_chunks_count: int, cells: array[int]) -> None:
        """
        Take over the table of chunks.
        """
        assert cells
        self.number: Final = number
        self.source_chunks_count: Final = source_chunks_count
        self._cells: Final = cells
        self.data_bytes: Final = cells[-3]
        self.elements_count: Final = cells[-2]

    def __len__(self) -> int:
        return len(self._cells) // _CHUNK_CELLS

    @property
    def last(self) -> LogOffset:
        """
        The place of its last change, which is that of the last change it stands for.
        """
        return self.chunk_last(len(self) - 1)

    def chunk_last(self, chunk: int) -> LogOffset:
        """
        Tell the place of a chunk's last change.
        """
        return LogOffset(self._cells[chunk * _CHUNK_CELLS], self._cells[chunk * _CHUNK_CELLS + 1])

    def chunk_start_byte(self, chunk: int) -> int:
        """
        Tell where a chunk's data begins.
        """
        return self.chunk_end_byte(chunk - 1) if chunk else HEADER_BYTES

    def chunk_end_byte(self, chunk: int) -> int:
        """
        Tell where a chunk's data ends.
        """
        return self._cells[chunk * _CHUNK_CELLS + 2]

    def elements(self, chunk: int) -> tuple[int, int]:
        """
        Tell which of all changes a chunk holds, as a range.
        """
        return self._cells[(chunk - 1) * _CHUNK_CELLS + 3] if chunk else 0, self._cells[chunk * _CHUNK_CELLS + 3]

    def chunk_crc(self, chunk: int) -> int:
        """
        Give the CRC-32 of a chunk's data.
        """
        return self._cells[chunk * _CHUNK_CELLS + 4]

    def find(self, after: LogOffset) -> int:
        """
        Tell the first chunk that ends behind a place; the number of chunks if none does.
        """
        return bisect_right(range(len(self)), after, key=self.chunk_last)

    def place_byte(self, element: int) -> int:
        """
        Tell where in the index the place of a change is.
        """
        return HEADER_BYTES + _COUNTS.size + len(self) * _CHUNK.size + element * _PLACE.size


PLACE_BYTES: Final = _PLACE.size


def decode_places(data: bytes) -> list[tuple[LogOffset, int]]:
    """
    Read places of the index: of each change its place, and the byte where it begins.
    """
    return [(LogOffset(tx, op), byte) for tx, op, byte in _PLACE.iter_unpack(data)]


class CompactionWriter:
    """
    Divides what survived into chunks and makes the index. A feeder.
    """

    def __init__(self, incarnation: int, chunk_bytes_max: int) -> None:
        """
        Begin behind the header of the data file.
        """
        self._incarnation: Final = incarnation
        self._chunk_bytes_max: Final = chunk_bytes_max
        self._end_byte = HEADER_BYTES
        self._chunk: list[bytes] = []
        self._chunk_bytes = 0
        self._chunks: Final[array[int]] = array("Q")
        self._places: Final = bytearray()
        self._elements_count = 0
        self._last = LogOffset(0, 0)

    def feed(self, survivors: Iterable[tuple[LogOffset, bytes]]) -> list[bytes]:
        """
        Add changes; answers the data of the chunks that closed.
        """
        closed: list[bytes] = []
        for place, element in survivors:
            comma = 1 if self._chunk else 0
            self._places.extend(_PLACE.pack(place.tx, place.op, self._end_byte + self._chunk_bytes + comma))
            self._chunk.append(element)
            self._chunk_bytes += comma + len(element)
            self._elements_count += 1
            self._last = place
            if self._chunk_bytes >= self._chunk_bytes_max:
                closed.append(self._close())
        return closed

    def finish(self, number: int, source_chunks_count: int) -> tuple[list[bytes], bytes, Compaction]:
        """
        Give the data of the last chunk, the bytes of the index, and what both amount to.
        """
        rest = [self._close()] if self._chunk else []
        header = encode_header(COMPACTION_MAGIC, self._incarnation, self._chunk_bytes_max)
        counts = _COUNTS.pack(source_chunks_count, len(self._chunks) // _CHUNK_CELLS, self._elements_count)
        cells = self._chunks
        chunks = b"".join(
            _CHUNK.pack(*cells[start : start + _CHUNK_CELLS]) for start in range(0, len(cells), _CHUNK_CELLS)
        )
        index = b"".join((header, counts, chunks, bytes(self._places)))
        return rest, index + _CRC.pack(zlib.crc32(index)), Compaction(number, source_chunks_count, self._chunks)

    def _close(self) -> bytes:
        data = b",".join(self._chunk)
        self._end_byte += len(data)
        self._chunks.extend((*self._last, self._end_byte, self._elements_count, zlib.crc32(data)))
        self._chunk = []
        self._chunk_bytes = 0
        return data


def read_index(index: bytes, number: int, incarnation: int, chunk_bytes_max: int) -> Compaction:
    """
    Read the index of a compaction.

    Raises:
        CorruptLogError: it does not verify, as when it was not written to its end.
        FormatVersionError: newer code wrote it.
    """
    check_header(index, COMPACTION_MAGIC, incarnation, chunk_bytes_max)
    body_bytes = len(index) - _CRC.size
    if (
        body_bytes < HEADER_BYTES + _COUNTS.size
        or zlib.crc32(index[:body_bytes]) != _CRC.unpack_from(index, body_bytes)[0]
    ):
        raise CorruptLogError("the index of a compaction does not verify")
    source_chunks_count, chunks_count, _ = _COUNTS.unpack_from(index, HEADER_BYTES)
    start = HEADER_BYTES + _COUNTS.size
    cells: array[int] = array("Q")
    for chunk in _CHUNK.iter_unpack(index[start : start + chunks_count * _CHUNK.size]):
        cells.extend(chunk)
    if not cells:
        raise CorruptLogError("the index of a compaction names no chunk")
    return Compaction(number, source_chunks_count, cells)
