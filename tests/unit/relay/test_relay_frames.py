from __future__ import annotations

import pytest

from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.frames import description_frames, first_commit, messages, touched
from penstock.replication.encode import (
    encode_begin,
    encode_commit,
    encode_delete,
    encode_insert,
    encode_truncate,
    encode_update,
)
from relay_kit import describe, framed

BEGIN = framed(encode_begin(CommitLsn(10), 0, 5), 10)
COMMIT = framed(encode_commit(CommitLsn(10), EndLsn(18), 0), 10)


def test_every_changed_relation_is_found() -> None:
    """All kinds of changes name their relations, descriptions and commits do not."""
    frames = b"".join(
        framed(message, 1)
        for message in (
            describe(99),
            encode_insert(1, [b"x"]),
            encode_insert(1, [b"y"]),
            encode_update(2, [b"x"], old=[b"y"]),
            encode_delete(3, old=[b"x"]),
            encode_truncate([4, 5]),
            encode_insert(1, [b"x"]),
        )
    )
    assert touched(BEGIN + frames + COMMIT) == {1, 2, 3, 4, 5}


def test_descriptions_are_found_whole() -> None:
    """A description comes as its frame, ready to be kept."""
    frames = BEGIN + framed(describe(7), 1) + framed(encode_insert(7, [b"x"]), 1) + framed(describe(8), 1)
    assert list(description_frames(frames)) == [(7, framed(describe(7), 1)), (8, framed(describe(8), 1))]


def test_the_first_commit_is_found() -> None:
    """The first commit tells its positions and where the next frame begins."""
    other = framed(encode_commit(CommitLsn(20), EndLsn(28), 0), 20)
    found = first_commit(BEGIN + COMMIT + BEGIN + other)
    assert found == (CommitLsn(10), EndLsn(18), len(BEGIN + COMMIT))
    assert first_commit(BEGIN) is None


@pytest.mark.parametrize(
    "frames",
    [
        b"\0\0",
        b"\0\0\0\x08w",
        framed(b"", 1),
        framed(b"I\0\0", 1),
        framed(b"T\0\0\0\x02\0\0\0\0\x01", 1),
        framed(b"T\0", 1),
        framed(b"R\0", 1),
        framed(b"C\0", 1),
        BEGIN[:4] + b"k" + BEGIN[5:],
        BEGIN[:-1],
    ],
)
def test_rubbish_is_not_frames(frames: bytes) -> None:
    """Bytes that are no frames, or frames too short for their message, raise the decoder's own error."""
    with pytest.raises(DecodeError):
        [list(messages(frames)), touched(frames), first_commit(frames), list(description_frames(frames))]
