from __future__ import annotations

import pytest

from harness.stream import data, frames, table, transaction
from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.replication.encode import (
    encode_delete,
    encode_insert,
    encode_logical_message,
    encode_origin,
    encode_relation,
    encode_truncate,
    encode_type,
    encode_update,
)
from penstock.replication.messages import (
    FRAGMENT_BYTES_MAX,
    Change,
    Fragment,
    Operation,
    RelationSeen,
    StreamEvent,
)
from penstock.replication.transactions import TransactionAssembler

pytestmark = pytest.mark.usefixtures("each_core")

T = table(1, "id", name="t")
U = table(2, "id", "v", name="u")
R1, R2 = encode_relation(T), encode_relation(U)


def insert(number: int, oid: int = 1) -> bytes:
    return encode_insert(oid, [str(number).encode()])


def fragments(events: list[StreamEvent]) -> list[Fragment]:
    return [event for event in events if isinstance(event, Fragment)]


def test_a_transaction_becomes_one_fragment() -> None:
    """
    Every kind of operation has its place; a truncate counts once for each table; other messages do not count.
    """
    assembler = TransactionAssembler()
    events = assembler.feed(
        frames(
            transaction(
                100,
                encode_origin(1, "o"),
                R1,
                insert(1),
                encode_type(9, "s", "t"),
                R2,
                encode_update(2, [b"2", b"n"], old=[b"2", b"o"]),
                encode_logical_message(1, "p", b"", is_transactional=True),
                encode_truncate([2, 1]),
                encode_delete(1, old=[b"1"]),
                xid=2**32 - 1,
            )
        )
    )
    first, second = RelationSeen(T), RelationSeen(U)
    changes = [
        Change(Operation.UPDATE, U, 2, (b"2", b"o"), (b"2", b"n")),
        Change(Operation.TRUNCATE, U, 4, None, None),
        Change(Operation.TRUNCATE, T, 6, None, None),
        Change(Operation.DELETE, T, 8, (b"1",), None),
    ]
    assert events == [
        first,
        Fragment(CommitLsn(100), 2**32 - 1, [Change(Operation.INSERT, T, 0, None, (b"1",))], True, None, T),
        second,
        Fragment(CommitLsn(100), 2**32 - 1, changes, False, EndLsn(108)),
    ]
    assert not assembler.is_inside_transaction


def test_positions_begin_again_with_each_transaction() -> None:
    """
    Several transactions in one run of bytes stay apart.

    Scenario H5.
    """
    assembler = TransactionAssembler()
    events = assembler.feed(
        frames(
            [
                *transaction(100, R1, insert(1), insert(2), xid=1),
                *transaction(200, insert(3), xid=2),
                *transaction(300, xid=3),
            ]
        )
    )
    told = fragments(events)
    assert [(f.commit_lsn.value, f.xid, f.is_first, f.end) for f in told] == [
        (100, 1, True, EndLsn(108)),
        (200, 2, True, EndLsn(208)),
        (300, 3, True, EndLsn(308)),
    ]
    assert [[change.op_position for change in f.changes] for f in told] == [[0, 2], [0], []]


def test_a_missing_old_row_is_marked() -> None:
    """
    An update or delete without its whole old row says so.
    """
    assembler = TransactionAssembler()
    messages = [R1, encode_update(1, [b"2"]), encode_update(1, [b"2"], key=[b"1"]), encode_delete(1, key=[b"2"])]
    (fragment,) = fragments(assembler.feed(frames(transaction(100, *messages))))
    assert [(change.old, change.is_old_missing) for change in fragment.changes] == [(None, True)] * 3


def test_the_end_of_the_bytes_ends_a_fragment() -> None:
    """
    Fed piece by piece the changes come at once; the last fragment may be empty; an empty piece tells nothing.
    """
    assembler = TransactionAssembler()
    payloads = transaction(100, R1, insert(1), insert(2))
    told: list[StreamEvent] = []
    for payload in payloads:
        told += assembler.feed(frames([payload]))
        assert assembler.feed(b"") == []
    assert [(len(f.changes), f.is_first, f.end) for f in fragments(told)] == [
        (1, True, None),
        (1, False, None),
        (0, False, EndLsn(108)),
    ]
    assert [change.op_position for f in fragments(told) for change in f.changes] == [0, 2]


def test_a_large_transaction_is_cut_by_bytes() -> None:
    """
    A fragment holds about the limit.

    Scenario H5.
    """
    row = encode_insert(1, [b"x" * 10_000])
    count = 3 * FRAGMENT_BYTES_MAX // 10_000
    told = fragments(TransactionAssembler().feed(frames(transaction(100, R1, *[row] * count))))
    assert len(told) == 3
    assert [f.is_first for f in told] == [True, False, False]
    assert [f.end for f in told] == [None, None, EndLsn(108)]
    assert [change.op_position for f in told for change in f.changes] == list(range(0, 2 * count, 2))


def test_a_description_is_told_when_it_is_new() -> None:
    """
    Repeated it is not, changed it is, and rows have the columns of the one in force.
    """
    assembler = TransactionAssembler()
    changed = table(1, "id", "more", name="t")
    events = assembler.feed(
        frames(
            [
                *transaction(100, R1, insert(1)),
                *transaction(200, R1, insert(2), R1, insert(3)),
                *transaction(300, encode_relation(changed), encode_insert(1, [b"4", None])),
                *transaction(400, R1, insert(5)),
            ]
        )
    )
    assert [event.description for event in events if isinstance(event, RelationSeen)] == [T, changed, T]
    assert len(fragments(events)) == 4
    first, second = (f.changes[0].relation for f in fragments(events)[:2])
    assert first is second


def test_a_new_session_forgets_and_voids() -> None:
    """
    An open transaction is gone, and of the descriptions only those of the session are in force and told if new.
    """
    assembler = TransactionAssembler()
    assembler.feed(frames(transaction(100, R1, R2, insert(1))[:-1]))
    was_inside = assembler.is_inside_transaction
    other = table(3, "id", name="other")
    assert assembler.begin_session([R1, encode_relation(other)]) == [RelationSeen(other)]
    assert (was_inside, assembler.is_inside_transaction) == (True, False)
    (fragment,) = fragments(assembler.feed(frames(transaction(100, insert(1), insert(1, oid=3)))))
    assert [change.relation for change in fragment.changes] == [T, other]
    assert fragment.is_first
    with pytest.raises(DecodeError, match="relation 2"):
        assembler.feed(frames(transaction(200, encode_insert(2, [b"1", b"2"]))))


def test_a_description_may_come_outside_a_transaction() -> None:
    """
    As it does when the transaction it came with was dropped.
    """
    assembler = TransactionAssembler()
    events = assembler.feed(frames([data(R1), *transaction(100, insert(1))]))
    assert events[0] == RelationSeen(T)
    assert len(fragments(events)) == 1


BEGIN, COMMIT = transaction(100)


@pytest.mark.parametrize(
    "fed",
    [
        frames([data(R1), data(insert(1))]),
        frames([data(R1), data(encode_truncate([1]))]),
        frames([COMMIT]),
        frames([BEGIN, BEGIN]),
        frames([BEGIN, transaction(200)[1]]),
        frames([BEGIN + b"x"]),
        frames([BEGIN, COMMIT[:-1]]),
        frames([BEGIN, data(insert(1))]),
        frames([BEGIN, data(encode_update(1, [b"1"]))]),
        frames([BEGIN, data(encode_delete(1, key=[b"1"]))]),
        frames([BEGIN, data(encode_truncate([1]))]),
        frames([BEGIN, data(b"?1234")]),
        frames([BEGIN, data(b"I")]),
        frames([BEGIN])[:-1],
        frames([BEGIN]) + b"\0\0",
        frames([b"k" + BEGIN[1:]]),
    ],
)
def test_nonsense_is_refused(fed: bytes) -> None:
    """
    What is no pgoutput stream, or names what was not described, is a decode error; a new session starts afresh.
    """
    assembler = TransactionAssembler()
    with pytest.raises(DecodeError):
        assembler.feed(fed)
    assembler.begin_session([R1])
    assert len(fragments(assembler.feed(frames(transaction(300, insert(1)))))) == 1


def test_a_session_needs_descriptions_that_are_some() -> None:
    """
    Other bytes are refused.
    """
    with pytest.raises(DecodeError):
        TransactionAssembler().begin_session([b"I"])
