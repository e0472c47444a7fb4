from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from harness.stream import data, frames, split_frames, transaction
from penstock.errors import DecodeError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.replication.abc import FrameBatch
from penstock.replication.encode import (
    UNCHANGED,
    Value,
    encode_delete,
    encode_insert,
    encode_relation,
    encode_update,
)
from penstock.replication.frames import FrameScanner
from penstock.replication.messages import Change, Fragment, RelationSeen, Row, StreamEvent
from penstock.replication.pgoutput import (
    Delete,
    Insert,
    Message,
    TableDecoder,
    Update,
    decode_message,
    decode_relation,
    decode_tuple,
)
from penstock.replication.transactions import TransactionAssembler
from stream_strategies import DESCRIPTIONS, TABLES, changes, cuts, damaged, rows, streams


def scan(payloads: Sequence[bytes], places: Sequence[int], last_kept: CommitLsn) -> list[FrameBatch | EndLsn]:
    """
    Feed and drain, part by part, a second apart so that every frontier is due.
    """
    scanner = FrameScanner(last_kept)
    drained: list[FrameBatch | EndLsn] = []
    for turn, (start, end) in enumerate(itertools.pairwise(places)):
        scanner.feed(payloads[start:end])
        drained += scanner.drain(2.0 * turn)
    return drained


def assemble(runs: Sequence[bytes]) -> list[StreamEvent]:
    assembler = TransactionAssembler()
    return [event for run in runs for event in assembler.feed(run)]


def join(events: Sequence[StreamEvent]) -> list[tuple[CommitLsn, int, list[Change], EndLsn | None] | RelationSeen]:
    """
    Put the fragments of each transaction together, and check that they are in order.
    """
    joined: list[tuple[CommitLsn, int, list[Change], EndLsn | None] | RelationSeen] = []
    parts: list[Fragment] = []
    for event in events:
        if isinstance(event, RelationSeen):
            joined.append(event)
        elif isinstance(event, Fragment):
            assert event.is_first is not bool(parts)
            assert event.changes or event.end is not None
            parts.append(event)
            if event.end is not None:
                told = [change for part in parts for change in part.changes]
                assert [change.op_position for change in told] == list(range(0, 2 * len(told), 2))
                joined.append((event.commit_lsn, event.xid, told, event.end))
                parts = []
    return joined


@given(st.data())
def test_any_split_of_the_stream_gives_the_same(drawn: st.DataObject) -> None:
    """
    However payloads come together, the same frames leave in the same order, and never a position before its frames.
    """
    payloads = drawn.draw(streams())
    last_kept = CommitLsn(drawn.draw(st.integers(0, 500)))
    whole = scan(payloads, [0, len(payloads)], last_kept)
    parts = scan(payloads, drawn.draw(cuts(len(payloads))), last_kept)
    kept = [b"".join(item.frames for item in run if isinstance(item, FrameBatch)) for run in (whole, parts)]
    assert kept[0] == kept[1]
    begun = [
        [begin for item in run if isinstance(item, FrameBatch) for begin in item.transactions] for run in (whole, parts)
    ]
    assert begun[0] == begun[1]
    assert all(commit > last_kept for commit, _ in begun[0])
    reached = 0
    for item in parts:
        end = item if isinstance(item, EndLsn) else item.commit[1] if item.commit is not None else None
        if end is not None:
            assert end.value > reached
            reached = end.value


@given(st.data())
def test_any_split_of_the_frames_gives_the_same(drawn: st.DataObject) -> None:
    """
    However frames are fed, the same transactions with the same places come out.
    """
    payloads = [payload for payload in drawn.draw(streams()) if payload[:1] == b"w"]
    places = drawn.draw(cuts(len(payloads)))
    runs = [frames(payloads[start:end]) for start, end in itertools.pairwise(places)]
    assert join(assemble(runs)) == join(assemble([frames(payloads)]))


@given(st.data())
def test_what_is_sent_again_leaves_no_trace(drawn: st.DataObject) -> None:
    """
    A connection that begins again anywhere gives, after what was kept, exactly the rest, and it can be decoded.
    """
    payloads = drawn.draw(streams())
    first = scan(payloads, [0, drawn.draw(st.integers(0, len(payloads)))], ZERO_COMMIT)
    commits = [item.commit[0] for item in first if isinstance(item, FrameBatch) and item.commit is not None]
    last_kept = commits[-1] if commits else ZERO_COMMIT
    again = scan(payloads, [0, len(payloads)], last_kept)
    whole = scan(payloads, [0, len(payloads)], ZERO_COMMIT)
    told = [event for event in join(assemble(frames_of(first, is_committed=True))) if isinstance(event, tuple)]
    told += [event for event in join(assemble(frames_of(again))) if isinstance(event, tuple)]
    assert told == [event for event in join(assemble(frames_of(whole))) if isinstance(event, tuple)]


def frames_of(drained: Sequence[FrameBatch | EndLsn], *, is_committed: bool = False) -> list[bytes]:
    return [
        item.frames
        for item in drained
        if isinstance(item, FrameBatch) and (item.commit is not None or not is_committed)
    ]


def plainly(message: bytes, tables: dict[int, TableDecoder]) -> Row | None:
    """
    Read the new row of an insert by the plain decoder.
    """
    count = len(tables[int.from_bytes(message[1:5], "big")].description.columns)
    return decode_tuple(message, 6, count, None)[0]


TABLES_BY_OID: Final = {each.id.oid: TableDecoder(each) for each in TABLES}


@given(st.sampled_from(TABLES), st.data())
def test_rows_survive(description: RelationDescription, drawn: st.DataObject) -> None:
    """
    Decoding what was encoded gives the same rows, by the generated functions and by the plain decoder.
    """
    oid, count = description.id.oid, len(description.columns)
    old, new = drawn.draw(rows(count)), drawn.draw(rows(count))
    are_unchanged = drawn.draw(st.tuples(*[st.booleans()] * count))
    insert = encode_insert(oid, new)
    assert decode_message(insert, TABLES_BY_OID) == Insert(oid, new, False)
    assert plainly(insert, TABLES_BY_OID) == new
    sent: list[Value] = [UNCHANGED if hidden else value for hidden, value in zip(are_unchanged, new, strict=True)]
    filled = tuple(before if hidden else value for hidden, before, value in zip(are_unchanged, old, new, strict=True))
    assert decode_message(encode_update(oid, sent, old=old), TABLES_BY_OID) == Update(oid, old, filled)
    assert decode_message(encode_delete(oid, old=old), TABLES_BY_OID) == Delete(oid, old)


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)


@given(
    st.builds(
        RelationDescription,
        st.builds(TableId, st.integers(0, 2**32 - 1), names.filter(bool), names),
        st.sampled_from("dnfi"),
        st.lists(
            st.builds(StreamColumn, names, st.integers(0, 2**32 - 1), st.integers(-1, 2**31 - 1), st.booleans()),
            max_size=6,
        ).map(tuple),
    )
)
def test_descriptions_survive(description: RelationDescription) -> None:
    """
    Decoding what was encoded gives the same description.
    """
    assert decode_relation(encode_relation(description)) == description


messages = damaged(lambda draw: draw(changes() | st.sampled_from(DESCRIPTIONS)))


@given(st.binary(max_size=60) | messages)
def test_decoding_raises_only_decode_errors(message: bytes) -> None:
    """
    Whatever the bytes are.
    """
    try:
        decoded: Message | None = decode_message(message, TABLES_BY_OID)
    except DecodeError:
        decoded = None
    assert decoded is None or message


@given(damaged(lambda draw: frames([payload for payload in draw(streams()) if payload[:1] == b"w"])))
def test_assembling_raises_only_decode_errors(fed: bytes) -> None:
    """
    Whatever the bytes are; and what comes out before is in order.
    """
    assembler = TransactionAssembler()
    assembler.begin_session(DESCRIPTIONS)
    try:
        join(assembler.feed(fed))
        assert b"".join(map(len_prefixed, split_frames(fed))) == fed
    except DecodeError:
        assembler.begin_session([])
    assert assembler.feed(b"") == []


def len_prefixed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


@given(st.lists(st.binary(max_size=60) | damaged(lambda draw: data(draw(changes()))), max_size=5))
def test_scanning_raises_only_decode_errors(payloads: list[bytes]) -> None:
    """
    Whatever the bytes are; what leaves are whole frames.
    """
    scanner = FrameScanner(ZERO_COMMIT)
    try:
        scanner.feed(transaction(100)[:1])
        scanner.feed(payloads)
    except DecodeError:
        return
    for item in scanner.drain(0):
        assert not isinstance(item, FrameBatch) or list(split_frames(item.frames))
