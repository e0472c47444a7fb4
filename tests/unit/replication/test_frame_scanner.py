from __future__ import annotations

import pytest

from harness.stream import data, frames, keepalive, split_frames, table, transaction
from penstock.errors import DecodeError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.replication.abc import FrameBatch
from penstock.replication.encode import (
    encode_begin,
    encode_insert,
    encode_logical_message,
    encode_origin,
    encode_relation,
    encode_type,
)
from penstock.replication.frames import (
    FRAME_BATCH_BYTES,
    FrameScanner,
    Keepalive,
    build_keepalive,
    encode_standby_status,
    frame,
)

T = table(16400, "id")
R = encode_relation(T)
I = encode_insert(16400, [b"1"])  # noqa: E741 - its name on the wire


def batches(drained: list[FrameBatch | EndLsn]) -> list[FrameBatch]:
    return [item for item in drained if isinstance(item, FrameBatch)]


@pytest.mark.parametrize("payload", [b"", b"x", b"k123", build_keepalive(Keepalive(1, 1, False)) + b"x"])
def test_other_payloads_are_refused(payload: bytes) -> None:
    """
    What is neither WAL data nor a keepalive, or too short or long for it, is a decode error.
    """
    with pytest.raises(DecodeError):
        FrameScanner(ZERO_COMMIT).feed([payload])


def test_the_status_sets_all_three_positions() -> None:
    """
    34 bytes; flushed and applied are equal, received is never less.
    """
    status = encode_standby_status(5, EndLsn(9), 7, is_reply_requested=True)
    assert status == b"r" + (9).to_bytes(8, "big") * 3 + (7).to_bytes(8, "big") + b"\1"
    assert len(status) == 34
    ahead = encode_standby_status(12, EndLsn(9), -1)
    assert ahead[1:17] == (12).to_bytes(8, "big") + (9).to_bytes(8, "big")
    assert ahead[-1] == 0


def test_frames_are_split_where_they_were_joined() -> None:
    """
    A cut-off frame is refused, at its length and in its payload.
    """
    joined = frame(b"abc") + frame(b"") + frame(b"d")
    assert list(split_frames(joined)) == [b"abc", b"", b"d"]
    for cut in (1, 3, 4, 6):
        with pytest.raises(DecodeError):
            list(split_frames(joined[:cut]))


def test_a_batch_ends_at_the_last_commit() -> None:
    """
    What follows the last commit waits for its own.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    first, second, third = (transaction(at, R, I, xid=at) for at in (100, 200, 300))
    scanner.feed([*first, *second, *third[:2]])
    (batch,) = batches(scanner.drain(0))
    assert batch.frames == frames([*first, *second])
    assert batch.transactions == ((CommitLsn(100), 100), (CommitLsn(200), 200))
    assert batch.descriptions == ((16400, R), (16400, R))
    assert batch.commit == (CommitLsn(200), EndLsn(208))
    assert scanner.is_inside_transaction
    assert scanner.received == 208
    assert scanner.drain(1) == []
    scanner.feed(third[2:])
    (batch,) = batches(scanner.drain(2))
    assert batch.frames == frames(third)
    assert batch.transactions == ((CommitLsn(300), 300),)
    assert batch.commit == (CommitLsn(300), EndLsn(308))


def test_a_large_transaction_leaves_in_parts() -> None:
    """
    Parts of about the limit lie inside the transaction; the last one ends with its commit; together they are all.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    row = encode_insert(16400, [b"x" * 10_000])
    small, large = transaction(50, R, I, xid=1), transaction(100, R, *[row] * 100, xid=2)
    scanner.feed([*small, *large])
    parts = batches(scanner.drain(0))
    assert b"".join(part.frames for part in parts) == frames([*small, *large])
    assert [part.commit for part in parts] == [
        (CommitLsn(50), EndLsn(58)),
        *[None] * (len(parts) - 2),
        (CommitLsn(100), EndLsn(108)),
    ]
    assert [part.transactions for part in parts] == [
        ((CommitLsn(50), 1),),
        ((CommitLsn(100), 2),),
        *[()] * (len(parts) - 2),
    ]
    assert len(parts) == 5
    assert all(FRAME_BATCH_BYTES <= len(part.frames) < FRAME_BATCH_BYTES + 20_000 for part in parts[1:-1])


def test_many_small_transactions_are_cut_by_bytes() -> None:
    """
    A long drain leaves in batches of about the limit, each with what belongs to it.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    rows = [encode_insert(16400, [b"x" * (number % 97)]) for number in range(10_000)]
    whole = [payload for at, row in enumerate(rows, start=100) for payload in transaction(100 * at, row, xid=at)]
    was_full = scanner.has_full_batch
    scanner.feed(whole)
    assert (was_full, scanner.has_full_batch) == (False, True)
    parts = batches(scanner.drain(0))
    assert b"".join(part.frames for part in parts) == frames(whole)
    assert all(abs(len(part.frames) - FRAME_BATCH_BYTES) < 300 for part in parts[:-1])
    for part in parts:
        assert part.commit is not None
        assert part.commit[0] == part.transactions[-1][0]
        assert len(list(split_frames(part.frames))) == 3 * len(part.transactions)
    assert sum(len(part.transactions) for part in parts) == 10_000


def test_what_was_kept_is_dropped_but_for_descriptions() -> None:
    """
    A transaction sent again goes, the descriptions in it come with the next one, also when they fill a batch.
    """
    scanner = FrameScanner(CommitLsn(200))
    wide = encode_relation(table(1, *(f"column_{number:030}" for number in range(7000))))
    again, last, fresh = transaction(100, R, I), transaction(200, I, wide, I), transaction(300, I)
    scanner.feed([*again, *last])
    assert scanner.drain(0) == []
    assert scanner.received == 208
    scanner.feed(fresh)
    parts = batches(scanner.drain(0))
    assert b"".join(part.frames for part in parts) == frames([again[1], last[2], *fresh])
    assert parts[0].descriptions == ((16400, R), (1, wide))
    assert parts[0].transactions == ((CommitLsn(300), 7),)
    assert [part.commit for part in parts] == [None, (CommitLsn(300), EndLsn(308))]


def test_descriptions_of_dropped_transactions_wait_behind_a_frontier() -> None:
    """
    A frontier may pass them: they say nothing that could be lost.
    """
    scanner = FrameScanner(CommitLsn(100))
    again, fresh = transaction(100, R, I), transaction(300, I)
    scanner.feed([*again, keepalive(250)])
    assert scanner.drain(0) == [EndLsn(250)]
    scanner.feed(fresh)
    (batch,) = batches(scanner.drain(0))
    assert batch.frames == frames([again[1], *fresh])


def test_an_empty_transaction_is_a_position() -> None:
    """
    A commit without anything in it becomes a frontier and no frames.

    Scenario H5.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    scanner.feed([*transaction(100, R, I), *transaction(200)])
    assert scanner.drain(0)[1:] == [EndLsn(208)]
    scanner.feed(transaction(300))
    scanner.feed(transaction(400, I))
    (batch,) = scanner.drain(5)
    assert isinstance(batch, FrameBatch)
    assert batch.transactions == ((CommitLsn(400), 7),)


def test_frontiers_are_rare_unless_asked_for() -> None:
    """
    At most one in a second, the newest; at once when the server waits for a reply; never one that is not new.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    due = [scanner.frontier_due_at]
    scanner.feed([keepalive(10)])
    assert scanner.drain(100.0) == [EndLsn(10)]
    scanner.feed([keepalive(10), keepalive(20), keepalive(15)])
    assert [*due, scanner.frontier_due_at] == [None, 101.0]
    assert scanner.drain(100.9) == []
    assert scanner.drain(101.0) == [EndLsn(20)]
    assert scanner.drain(200.0) == []
    asked = [scanner.is_reply_requested]
    scanner.feed([keepalive(30, is_reply_requested=True)])
    assert [*asked, scanner.is_reply_requested] == [False, True]
    assert scanner.drain(101.1) == [EndLsn(30)]
    scanner.feed([keepalive(30, is_reply_requested=True)])
    assert scanner.drain(101.2) == []
    assert scanner.received == scanner.server_end == 30


def test_no_frontier_inside_a_transaction() -> None:
    """
    A keepalive inside a transaction says nothing, and one before it is forgotten when it begins.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    whole = transaction(100, R, I)
    scanner.feed([keepalive(90, is_reply_requested=True), *whole[:2], keepalive(500, is_reply_requested=True)])
    assert scanner.drain(10) == []
    assert scanner.is_reply_requested
    assert scanner.server_end == 500
    assert scanner.received == 90
    scanner.feed([*whole[2:], keepalive(108)])
    assert [type(item) for item in scanner.drain(20)] == [FrameBatch]
    scanner.feed([keepalive(109)])
    assert scanner.drain(30) == [EndLsn(109)]


def test_a_frontier_follows_the_frames_before_it() -> None:
    """
    In one drain the batch comes first.

    Scenario H9.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    scanner.feed([*transaction(100, R, I), keepalive(300)])
    batch, frontier = scanner.drain(0)
    assert isinstance(batch, FrameBatch)
    assert frontier == EndLsn(300)


def test_positions_up_to_the_last_kept_commit_are_no_news() -> None:
    """
    After a reconnect the server starts further back.
    """
    scanner = FrameScanner(CommitLsn(200))
    scanner.feed([keepalive(150)])
    assert scanner.drain(0) == []
    scanner.feed([*transaction(200, I), keepalive(205)])
    assert scanner.drain(0) == []
    scanner.feed([keepalive(209)])
    assert scanner.drain(0) == [EndLsn(209)]


def test_behind_is_read_from_begin_and_commit() -> None:
    """
    The verdict holds from one to the next, also over a drain; a keepalive outside says caught up.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    late, prompt = transaction(100, R, I, delay_us=5001), transaction(200, I, delay_us=5000)
    verdicts = []
    for payloads in (late[:1], late[1:], prompt, late[:1], [keepalive(1)], late[1:], [keepalive(300)]):
        scanner.feed(payloads)
        scanner.drain(0)
        verdicts.append(scanner.is_behind)
    assert verdicts == [True, True, False, True, True, True, False]


def test_messages_without_a_table_are_kept_only_inside() -> None:
    """
    Types, origins and logical messages outside a transaction are of no concern.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    outside = [
        encode_origin(1, "o"),
        encode_type(9, "s", "t"),
        encode_logical_message(1, "p", b"c", is_transactional=False),
    ]
    scanner.feed(map(data, outside))
    assert scanner.drain(0) == []
    inside = transaction(100, *outside, R, I)
    scanner.feed(inside)
    (batch,) = batches(scanner.drain(0))
    assert batch.frames == frames(inside)


def test_long_frames_have_long_lengths() -> None:
    """
    A frame of any length is kept whole.
    """
    for length in (1, 1990, 2015, 2016, 2100, 70_000, 600_000):
        scanner = FrameScanner(ZERO_COMMIT)
        whole = transaction(100, R, encode_insert(16400, [b"x" * length]))
        scanner.feed(map(memoryview, whole))
        parts = batches(scanner.drain(0))
        assert list(split_frames(b"".join(part.frames for part in parts))) == whole


@pytest.mark.parametrize(
    "payloads",
    [
        [data(I)],
        [data(b"?")],
        transaction(100)[1:],
        [*transaction(100)[:1], *transaction(200)[:1]],
        [*transaction(100)[:1], *transaction(200)[1:]],
        [data(encode_begin(CommitLsn(1), 0, 1)[:-1])],
        [transaction(100)[0], transaction(100)[1][:-1]],
        [transaction(100)[0], data(b"R")],
        [data(b"")],
    ],
    ids=[
        "outside",
        "unknown",
        "end only",
        "twice begun",
        "other end",
        "short begin",
        "short end",
        "short relation",
        "empty",
    ],
)
def test_nonsense_is_refused(payloads: list[bytes]) -> None:
    """
    What is no stream is a decode error.
    """
    with pytest.raises(DecodeError):
        FrameScanner(ZERO_COMMIT).feed(payloads)
