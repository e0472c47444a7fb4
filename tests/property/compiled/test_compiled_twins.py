from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stream import INT_OID, TEXT_OID, frames
from penstock.compiled import choice
from penstock.errors import DecodeError
from penstock.postgres.relation import StreamColumn
from penstock.replication.messages import Fragment, Operation, StreamEvent
from penstock.replication.transactions import TransactionAssembler
from penstock.wire.messages import headers_end, mark_last
from penstock.wire.rows import Elements, RowForm, compile_encoder
from stream_strategies import DESCRIPTIONS, TABLES, cuts, damaged, streams

pytestmark = pytest.mark.usefixtures("compiled_core")


@contextmanager
def using(is_compiled: bool) -> Iterator[None]:  # noqa: FBT001 - which of two
    """
    Make decoders and encoders of one kind.
    """
    choice.want(is_compiled)
    try:
        yield
    finally:
        choice.want(True)


def assemble(runs: list[bytes], *, is_compiled: bool) -> list[StreamEvent]:
    with using(is_compiled):
        assembler = TransactionAssembler()
        assembler.begin_session(DESCRIPTIONS)
        return [event for run in runs for event in assembler.feed(run)]


@given(st.data())
def test_both_cores_assemble_the_same(drawn: st.DataObject) -> None:
    """
    The same stream, cut anywhere, gives equal events.
    """
    payloads = [payload for payload in drawn.draw(streams()) if payload[:1] == b"w"]
    runs = [
        frames(payloads[start:end]) for start, end in itertools.pairwise(drawn.draw(cuts(len(payloads)))) if start < end
    ]
    assert assemble(runs, is_compiled=True) == assemble(runs, is_compiled=False)


def encode(events: list[StreamEvent], forms: dict[int, RowForm], *, is_compiled: bool) -> list[Elements]:
    """
    Make the messages of all changes that have what an encoder needs.
    """
    with using(is_compiled):
        encoders = {
            each.id.oid: compile_encoder(each.columns, forms[each.id.oid]) for each in TABLES if each.id.oid in forms
        }
    made = []
    for event in events:
        if not isinstance(event, Fragment):
            continue
        end = headers_end(event.xid, event.commit_lsn.value)
        for change in event.changes:
            encoder, place = encoders[change.relation.id.oid], change.op_position
            if change.operation is Operation.INSERT and change.new is not None:
                made.append(encoder.insert(change.new, end, place))
            elif change.old is not None and change.new is not None:
                made.append(encoder.update(change.old, change.new, end, place))
            elif change.old is not None:
                made.append(encoder.delete(change.old, end, place))
    return made


@settings(max_examples=200)
@given(st.data())
def test_both_cores_write_the_same(drawn: st.DataObject) -> None:
    """
    Stream bytes become the same log bytes, whichever of the two reads and whichever writes.
    """
    payloads = [payload for payload in drawn.draw(streams()) if payload[:1] == b"w"]
    forms = {}
    for each in TABLES:
        names = [column.name for column in each.columns]
        selected = tuple(drawn.draw(st.permutations(names)))
        keys = selected[: drawn.draw(st.integers(1, len(names)))]
        forms[each.id.oid] = RowForm('s"c', each.id.name, keys, selected, drawn.draw(st.booleans()))
    read = assemble([frames(payloads)], is_compiled=True)
    read_plainly = assemble([frames(payloads)], is_compiled=False)
    expected = encode(read_plainly, forms, is_compiled=False)
    assert encode(read, forms, is_compiled=True) == expected
    assert encode(read_plainly, forms, is_compiled=True) == expected
    assert encode(read, forms, is_compiled=False) == expected


@settings(max_examples=200)
@given(st.data())
def test_whole_transactions_are_written_as_their_changes_are(drawn: st.DataObject) -> None:
    """
    What is made of transactions at once is what is made of their changes one by one, with the last of each marked.
    """
    payloads = [payload for payload in drawn.draw(streams()) if payload[:1] == b"w"]
    is_full = drawn.draw(st.booleans())
    events = assemble([frames(payloads)], is_compiled=True)
    whole = [each for each in events if isinstance(each, Fragment) and each.is_first and each.end is not None]
    for table in TABLES:
        names = tuple(column.name for column in table.columns)
        form = RowForm("public", table.id.name, names[:1], names, is_full)
        encoder = compile_encoder(table.columns, form)
        assert encoder.transactions is not None
        assert encoder.messages is not None
        own = [each for each in whole if all(change.relation.id.oid == table.id.oid for change in each.changes)]
        usable = [
            each
            for each in own
            if not any(change.is_old_missing or change.operation is Operation.TRUNCATE for change in each.changes)
        ]
        expected = []
        for each in usable:
            made = [element for some in encode([each], {table.id.oid: form}, is_compiled=False) for element in some]
            if made:
                expected.append((each.commit_lsn.value, [*made[:-1], (made[-1][0], mark_last(made[-1][1]))]))
        assert [(commit, list(made)) for commit, made in encoder.transactions(usable) or ()] == expected
        if len(usable) < len(own):
            assert encoder.transactions(own) is None
        for each in own:
            end = headers_end(each.xid, each.commit_lsn.value)
            described = each.changes[0].relation if each.changes else table
            answer = encoder.messages(each.changes, described, end)
            if each not in usable:
                assert answer is None
                continue
            plain = encode([each], {table.id.oid: form}, is_compiled=False)
            assert answer == [element for some in plain for element in some]


@pytest.mark.parametrize("is_compiled", [True, False])
@given(streams(), st.integers(1, 5))
def test_a_fragment_names_the_relation_that_all_its_changes_have(
    is_compiled: bool,  # noqa: FBT001 - a parameter
    payloads: list[bytes],
    pieces_count: int,
) -> None:
    """
    However the stream is cut: one relation when there is one for all changes and nothing was emptied, else none.
    """
    data = [payload for payload in payloads if payload[:1] == b"w"]
    size = max(1, len(data) // pieces_count)
    pieces = [frames(data[at : at + size]) for at in range(0, len(data), size)]
    for event in assemble(pieces, is_compiled=is_compiled):
        if isinstance(event, Fragment):
            relations = {change.relation for change in event.changes}
            is_emptied = any(change.operation is Operation.TRUNCATE for change in event.changes)
            assert event.relation == (relations.pop() if len(relations) == 1 and not is_emptied else None)


@settings(max_examples=400)
@given(damaged(lambda draw: frames([payload for payload in draw(streams()) if payload[:1] == b"w"])))
def test_the_compiled_core_refuses_damage_by_its_own_error_only(fed: bytes) -> None:
    """
    Whatever the bytes are; what it takes, the Python takes too and reads the same.
    """
    try:
        events = assemble([fed], is_compiled=True)
    except DecodeError:
        return
    assert assemble([fed], is_compiled=False) == events


@given(st.integers(0, 2**63 - 3), st.binary(max_size=200))
def test_numbers_and_texts_of_any_size(place: int, text: bytes) -> None:
    """
    Every operation position and every text is written as Python writes it.
    """
    form = RowForm("public", "two", ("v",), ("v", "id"), is_full=True)
    with using(True):
        made = compile_encoder((StreamColumn("id", INT_OID, -1, True), StreamColumn("v", TEXT_OID, -1, True)), form)
    with using(False):
        plain = compile_encoder((StreamColumn("id", INT_OID, -1, True), StreamColumn("v", TEXT_OID, -1, True)), form)
    row = (b"7", text)
    assert made.insert(row, b",", place) == plain.insert(row, b",", place)
