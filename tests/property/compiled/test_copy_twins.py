from __future__ import annotations

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.compiled import choice
from penstock.database.copy_frames import BUFFER_BYTES, CopyAnswer, GatherRows, choose_gather_rows, gather_rows
from penstock.errors import DecodeError
from penstock.shape_log.chunks import SnapshotCutter, SnapshotPiece, join_runs, runs_joiner

pytestmark = pytest.mark.usefixtures("compiled_core")

LINES = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"d") + b"\n"), max_size=30)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def written(lines: list[bytes]) -> bytes:
    """
    The answer to a copy of these rows, with a notice among them.
    """
    rows = [message(b"d", line) for line in lines]
    rows.insert(len(rows) // 2, message(b"N", b"SNOTICE\0\0"))
    ends = [message(b"c", b""), message(b"C", b"COPY 1\0"), message(b"Z", b"T")]
    return b"".join([message(b"H", b"\0\0\1\0\0"), *rows, *ends])


def read(data: bytes, sizes: list[int], gather: GatherRows) -> tuple[list[bytes], CopyAnswer]:
    """
    Feed an answer in portions of these sizes, and the rest at once.
    """
    answer = CopyAnswer(gather)
    taken = []
    at = 0
    for size in [*sizes, len(data)]:
        while size > 0 and at < len(data) and not answer.is_complete:
            room = answer.room()
            count = min(size, len(room), len(data) - at)
            room[:count] = data[at : at + count]
            room.release()
            answer.feed(count)
            at, size = at + count, size - count
        taken.append(answer.take())
    return taken, answer


@given(LINES, st.lists(st.integers(1, 60), max_size=40))
def test_an_answer_cut_anywhere_gives_its_rows(lines: list[bytes], sizes: list[int]) -> None:
    """
    Both twins give the rows in order and whole, as soon as the other does, wherever the bytes are cut.
    """
    python, ended = read(written(lines), sizes, gather_rows)
    compiled, _ = read(written(lines), sizes, choose_gather_rows())
    assert compiled == python
    assert b"".join(python) == b"".join(lines)
    assert all(block.endswith(b"\n") for block in python if block)
    assert ended.is_complete
    assert ended.refusal is None


@given(LINES, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_raises_nothing_but_our_error(lines: list[bytes], changes: list[tuple[int, int]]) -> None:
    """
    Both twins take damaged bytes alike, and say at most that they are no answer.
    """
    data = bytearray(written(lines))
    for at, byte in changes:
        data[at % len(data)] = byte

    def outcome(gather: GatherRows) -> list[bytes] | str:
        try:
            return read(bytes(data) + written([]), [], gather)[0]
        except DecodeError as error:
            return error.message

    assert outcome(choose_gather_rows()) == outcome(gather_rows)


@given(st.lists(LINES.filter(bool), max_size=6), st.integers(1, 200))
def test_both_cutters_write_the_same_chunks(blocks: list[list[bytes]], chunk_bytes_max: int) -> None:
    """
    The same blocks give the same pieces, whoever joins the lines.
    """

    def cut(*, is_compiled: bool) -> list[SnapshotPiece]:
        choice.want(is_compiled)
        try:
            cutter = SnapshotCutter(chunk_bytes_max)
        finally:
            choice.want(True)
        return [*(piece for lines in blocks for piece in cutter.feed(b"".join(lines))), cutter.finish(b"{}")]

    pieces = cut(is_compiled=True)
    assert pieces == cut(is_compiled=False)
    assert sum(piece.elements_count for piece in pieces) == sum(map(len, blocks)) + 1
    assert b"".join(piece.data for piece in pieces).count(b"{}") >= 1


@given(
    st.lists(st.lists(st.binary(max_size=20) | st.binary(max_size=600), min_size=1, max_size=6), max_size=6), st.data()
)
def test_both_joiners_of_runs_write_the_same(parts: list[list[bytes]], drawn: st.DataObject) -> None:
    """
    The same elements give the same bytes and checksums, and each run its own.
    """
    elements = [(0, element) for part in parts for element in part]
    ends = list(itertools.accumulate(map(len, parts)))
    commas = drawn.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    runs = list(zip([0, *ends[:-1]], ends, commas, strict=True)) if parts else []
    joined, checksums = runs_joiner()(elements, runs)
    assert (joined, checksums) == join_runs(elements, runs)
    wanted = [b"," * has_comma + b",".join(part) for part, has_comma in zip(parts, commas, strict=True)]
    assert joined == b"".join(wanted)
    assert checksums == [zlib.crc32(run) for run in wanted]


@pytest.mark.parametrize("runs", [[(0, 2, False)], [(-1, 1, True)], [(1, 1, False)]])
def test_runs_of_what_is_not_there_are_refused(runs: list[tuple[int, int, bool]]) -> None:
    """
    Nothing outside of the elements is read.
    """
    with pytest.raises(ValueError, match="not there"):
        runs_joiner()([(0, b"{}")], runs)


@pytest.mark.parametrize("length", [BUFFER_BYTES - 10, BUFFER_BYTES, 3 * BUFFER_BYTES])
def test_a_row_longer_than_the_buffer_comes_whole(length: int) -> None:
    """
    Memory for one long row is taken, and given back behind it.
    """
    lines = [b"a\n", b"x" * length + b"\n", b"b\n"]
    for gather in (gather_rows, choose_gather_rows()):
        taken, answer = read(written(lines), [], gather)
        assert b"".join(taken) == b"".join(lines)
        assert answer.is_complete


def test_an_error_of_the_server_is_read_with_its_fields() -> None:
    """
    A refusal before the rows or among them ends the answer, and its fields are there.
    """
    error = message(b"E", b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0") + message(b"Z", b"E")
    head = message(b"H", b"\0\0\1\0\0") + message(b"d", b"1\n")
    for data in (error, head + error):
        _, answer = read(data, [3], choose_gather_rows())
        assert answer.is_complete
        assert answer.refusal == {b"S": b"ERROR", b"V": b"ERROR", b"C": b"22012", b"M": b"division by zero"}


@pytest.mark.parametrize(
    "data",
    [
        message(b"D", b"\0\0"),
        message(b"d", b"1\n"),
        message(b"Z", b"I"),
        b"\0\0\0\x08 done",
        b"S\0\0\0\3",
        b"S\x7f\0\0\0",
        message(b"H", b"") + b"d\0\0\0\0",
        message(b"H", b"") + b"d\xff\xff\xff\xff",
        message(b"H", b"") + message(b"H", b""),
        message(b"H", b"") + message(b"Z", b"I") + message(b"S", b""),
    ],
)
def test_what_is_no_answer_to_a_copy_is_refused(data: bytes) -> None:
    """
    The rest of another message, or an answer to something else, is not taken for rows.
    """
    for gather in (gather_rows, choose_gather_rows()):
        with pytest.raises(DecodeError):
            read(data, [], gather)
