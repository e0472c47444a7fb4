from __future__ import annotations

import multiprocessing
import os
import stat
import zlib
from pathlib import Path

import pytest

from penstock.errors import FormatVersionError
from penstock.liveness.board import PAYLOAD_BYTES_MAX, Board, Cell

DISTINCT_WORDS = 500


def test_an_empty_cell_reads_as_nothing() -> None:
    """
    Nobody has said anything on a fresh board.
    """
    board = Board.create_in_memory()
    assert [board.read(cell) for cell in Cell] == [None] * len(Cell)
    board.close()


def test_the_last_word_stands(tmp_path: Path) -> None:
    """
    What one mapping writes another reads, the latest always, in each cell for itself.
    """
    writer = Board.create(tmp_path / "board")
    reader = Board.open(tmp_path / "board")
    for size in (0, 1, PAYLOAD_BYTES_MAX, 7):
        writer.write(Cell.PUBLISHED_END, b"x" * size)
        writer.write(Cell.web(15), b"y" * size)
        assert reader.read(Cell.PUBLISHED_END) == b"x" * size
        assert reader.read(Cell.web(15)) == b"y" * size
    assert reader.read(Cell.web(14)) is None
    writer.close()
    reader.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """
    The file is for its owner alone.
    """
    Board.create(tmp_path / "board").close()
    assert stat.S_IMODE((tmp_path / "board").stat().st_mode) == 0o600


def test_a_write_cut_off_leaves_the_word_before(tmp_path: Path) -> None:
    """
    A writer killed inside a write leaves its last word readable, and its successor goes on.
    """
    path = tmp_path / "board"
    first = Board.create(path)
    first.write(Cell.BREADCRUMB, b"one")
    first.write(Cell.BREADCRUMB, b"two")
    first.close()
    damaged = path.read_bytes().replace(b"two", b"twX")
    path.write_bytes(damaged)
    reader = Board.open(path)
    assert reader.read(Cell.BREADCRUMB) == b"one"
    successor = Board.open(path)
    successor.write(Cell.BREADCRUMB, b"three")
    assert reader.read(Cell.BREADCRUMB) == b"three"
    successor.write(Cell.BREADCRUMB, b"four")
    assert reader.read(Cell.BREADCRUMB) == b"four"
    reader.close()
    successor.close()


def test_a_reader_never_goes_back(tmp_path: Path) -> None:
    """
    When the newest slot is lost after it was read, the reader keeps what it knows.
    """
    path = tmp_path / "board"
    board = Board.create(path)
    board.write(Cell.BREADCRUMB, b"one")
    board.write(Cell.BREADCRUMB, b"two")
    reader = Board.open(path)
    assert reader.read(Cell.BREADCRUMB) == b"two"
    with path.open("r+b") as file:
        place = path.read_bytes().index(b"two")
        file.seek(place)
        file.write(b"XXX")
    assert reader.read(Cell.BREADCRUMB) == b"two"
    board.close()
    reader.close()


def test_other_files_are_not_boards(tmp_path: Path) -> None:
    """
    A file of another size or kind is refused.
    """
    Board.create(tmp_path / "board").close()
    blank = tmp_path / "blank"
    blank.write_bytes(bytes((tmp_path / "board").stat().st_size))
    short = tmp_path / "short"
    short.write_bytes(b"PNSTBRD1")
    for path in (blank, short):
        with pytest.raises(FormatVersionError):
            Board.open(path)


def _hammer(path: str) -> None:
    """
    Write as fast as possible until another cell says to stop; say last how often.
    """
    board = Board.open(Path(path))
    number = 0
    while board.read(Cell.SUPERVISOR) is None:
        number += 1
        body = number.to_bytes(8, "big") * (1 + number % 100)
        board.write(Cell.RECEIVER_STATE, body + zlib.crc32(body).to_bytes(4, "big"))
    board.write(Cell.RECORDED_BOUNDARY, number.to_bytes(8, "big"))
    board.close()


def test_a_reader_beside_a_writer_never_sees_a_mixture(tmp_path: Path) -> None:
    """
    While one process writes as fast as it can, another reads only whole words, in the order they were written.
    """
    path = tmp_path / "board"
    board = Board.create(path)
    writer = multiprocessing.get_context("spawn").Process(target=_hammer, args=(os.fspath(path),))
    writer.start()
    last = 0
    distinct = 0
    while distinct < DISTINCT_WORDS:
        word = board.read(Cell.RECEIVER_STATE)
        if word is None:
            continue
        body, checksum = word[:-4], word[-4:]
        assert zlib.crc32(body).to_bytes(4, "big") == checksum
        number = int.from_bytes(body[:8], "big")
        assert body == body[:8] * (1 + number % 100)
        assert number >= last
        distinct += number != last
        last = number
    board.write(Cell.SUPERVISOR, b"stop")
    writer.join(30)
    assert writer.exitcode == 0
    final = board.read(Cell.RECEIVER_STATE)
    count = board.read(Cell.RECORDED_BOUNDARY)
    assert final is not None
    assert final[:8] == count
    board.close()
