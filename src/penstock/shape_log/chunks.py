"""
Where chunks and runs end, and where in a run an offset lies.

A chunk is what one response serves and caches for ever, so its end depends on nothing but the elements and the
threshold: not on when something was written, nor in which portions. A run is what one index record covers: a part of a
chunk, as much as a search is willing to scan.

Theory of operation of the search: every element of a log carries its own place, `"lsn":"<digits>","op_position":<digits>`
in its headers, and this text occurs nowhere else. A quotation mark inside a JSON string is preceded by a backslash, so
`op_position":` can only end a member's name; behind such a name stands a number without quotation marks only in the
headers, because values, old values and keys are strings or null whatever a column is called. From the last element at or
before the offset its end is found by walking braces outside strings; one comma further the wanted element begins.

Pure.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from penstock.compiled import choice
from penstock.errors import CorruptLogError
from penstock.shape_log.records import RUN_BYTES_TARGET
from penstock.shapes.offset import LogOffset

_PLACE: Final = re.compile(rb'"lsn":"(\d{1,20})","op_position":(\d{1,20})(?=[,}])')
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_DEPTH_OF_HEADERS: Final = 2


class RunPlan(NamedTuple):
    """
    Elements that one index record will cover, as a range of their indexes, and how many bytes they have without commas.
    """

    from_inclusive: int
    up_to_exclusive: int
    bytes_count: int
    is_chunk_end: bool
    is_committed_end: bool

    @property
    def elements_count(self) -> int:
        """
        How many they are.
        """
        return self.up_to_exclusive - self.from_inclusive


def plan_runs(sizes: Sequence[int], boundaries: Sequence[int], committed_count: int) -> Iterator[RunPlan]:
    """
    Divide elements of these sizes into runs.

    Args:
        sizes: length of each element in bytes.
        boundaries: how many elements precede each chunk end, ascending.
        committed_count: how many elements belong to complete transactions; the others follow them.
    """
    count = len(sizes)
    up_to = list(accumulate(sizes))
    ends = sorted({*boundaries, committed_count, count})
    chunk_ends = set(boundaries)
    start = before = next_end = 0
    while start < count:
        while ends[next_end] <= start:
            next_end += 1
        # As many as reach the target, but none behind the next end.
        past = min(bisect_left(up_to, before + RUN_BYTES_TARGET, start) + 1, ends[next_end])
        yield RunPlan(start, past, up_to[past - 1] - before, past in chunk_ends, past == committed_count)
        start, before = past, up_to[past - 1]


def find_after(run: bytes, after: LogOffset, elements_count: int) -> int:
    """
    Tell at which byte of a run's data the first element behind a place begins; its length if there is none.

    Raises:
        CorruptLogError: the elements do not carry their places.
    """
    matches = list(_PLACE.finditer(run))
    if len(matches) != elements_count:
        raise CorruptLogError("an element of a shape log does not carry its place")
    before = bisect_right(matches, after, key=lambda match: LogOffset(int(match[1]), int(match[2])))
    if before == 0:
        return 1 if run.startswith(b",") else 0
    return min(_element_end(run, matches[before - 1].end()) + 1, len(run))


def _element_end(run: bytes, inside_headers: int) -> int:
    depth = _DEPTH_OF_HEADERS
    for token in _TOKEN.finditer(run, inside_headers):
        text = token[0]
        if text == b"{":
            depth += 1
        elif text == b"}":
            depth -= 1
            if depth == 0:
                return token.end()
    raise CorruptLogError("an element of a shape log does not end")


class SnapshotPiece(NamedTuple):
    """
    Bytes of a snapshot chunk to be written next.
    """

    data: bytes
    elements_count: int
    is_chunk_end: bool


class JoinLines(Protocol):
    """
    Makes lines the elements of a chunk.
    """

    def __call__(self, block: bytes, start: int, end: int, is_first: bool, /) -> tuple[bytes, int]:  # noqa: FBT001 - a twin
        """
        Write the lines from `start` up to `end` joined by commas; tell also how many there are.
        """


def join_lines(block: bytes, start: int, end: int, is_first: bool) -> tuple[bytes, int]:  # noqa: FBT001 - as its twin
    """
    Write the lines from `start` up to `end` with commas instead of newlines between them, and one before them unless they
    are the first; tell also how many there are.
    """
    lines = block[start:end]
    joined = lines.replace(b"\n", b",")
    return joined if is_first else b"," + joined, lines.count(b"\n") + 1


class JoinRuns(Protocol):
    """
    Makes elements the bytes of a file.
    """

    def __call__(
        self, elements: list[tuple[int, bytes]], runs: list[tuple[int, int, bool]], /
    ) -> tuple[bytes, list[int]]:
        """
        Join the elements of each run, and all runs; tell also the checksum of each.
        """


def join_runs(elements: list[tuple[int, bytes]], runs: list[tuple[int, int, bool]]) -> tuple[bytes, list[int]]:
    """
    Join the elements of each run by commas, and all runs; tell also the checksum of each.

    Args:
        elements: as (position, JSON).
        runs: of each the indexes of its first element and behind its last, and whether a comma comes before it.
    """
    joined = [
        b",".join([b"", *(element for _, element in elements[first:past])])
        if has_comma
        else b",".join([element for _, element in elements[first:past]])
        for first, past, has_comma in runs
    ]
    return b"".join(joined), [zlib.crc32(run) for run in joined]


_compiled: JoinLines | None = None
_compiled_runs: JoinRuns | None = None
with suppress(ImportError):
    from penstock.compiled import copying  # type: ignore[attr-defined]  # there only where it was built

    _compiled = copying.join_lines
    _compiled_runs = copying.join_runs


def runs_joiner() -> JoinRuns:
    """
    Give the compiled `join_runs` where it was built and is wanted, otherwise the plain one.
    """
    return join_runs if _compiled_runs is None or choice.core() is None else _compiled_runs


class SnapshotCutter:
    """
    Divides the lines of a snapshot into chunks. A feeder without a buffer: blocks consist of whole lines.

    A chunk ends behind the line with which its lines, each counted with its newline, reach the threshold.
    """

    __slots__ = ("_chunk_bytes", "_chunk_bytes_max", "_join_lines")

    def __init__(self, chunk_bytes_max: int) -> None:
        """
        Begin with an empty chunk.
        """
        assert chunk_bytes_max > 0
        self._chunk_bytes_max: Final = chunk_bytes_max
        self._chunk_bytes = 0
        self._join_lines: Final = join_lines if _compiled is None or choice.core() is None else _compiled

    def feed(self, block: bytes) -> Iterator[SnapshotPiece]:
        """
        Give what to write for a block of whole lines.
        """
        assert not block or block.endswith(b"\n")
        start = 0
        while start < len(block):
            missing = self._chunk_bytes_max - self._chunk_bytes
            if len(block) - start < missing:
                yield self._piece(block, start, len(block) - 1, is_chunk_end=False)
                return
            newline = block.index(b"\n", max(start, start + missing - 1))
            yield self._piece(block, start, newline, is_chunk_end=True)
            start = newline + 1

    def finish(self, end_element: bytes) -> SnapshotPiece:
        """
        Give the last element, which ends the last chunk: the open one, or one of its own when none is open.
        """
        element = end_element.removesuffix(b"\n")
        return self._piece(element, 0, len(element), is_chunk_end=True)

    def _piece(self, block: bytes, start: int, end: int, *, is_chunk_end: bool) -> SnapshotPiece:
        data, elements_count = self._join_lines(block, start, end, self._chunk_bytes == 0)
        self._chunk_bytes = 0 if is_chunk_end else self._chunk_bytes + end - start + 1
        return SnapshotPiece(data, elements_count, is_chunk_end)
