from __future__ import annotations

import struct

import pytest

from harness.stream import INT_OID, table
from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.replication.encode import (
    UNCHANGED,
    encode_begin,
    encode_commit,
    encode_delete,
    encode_insert,
    encode_logical_message,
    encode_origin,
    encode_relation,
    encode_truncate,
    encode_tuple,
    encode_type,
    encode_update,
)
from penstock.replication.pgoutput import (
    GENERATED_COLUMNS_MAX,
    Begin,
    Commit,
    Delete,
    Ignored,
    Insert,
    Message,
    TableDecoder,
    Truncate,
    Update,
    decode_message,
    decode_relation,
)

OID = 16400
LONG = b"y" * 300
WIDE = GENERATED_COLUMNS_MAX + 1


def decode(message: bytes, *descriptions: RelationDescription) -> Message:
    described = descriptions or (table(OID, "a", "b"),)
    return decode_message(message, {each.id.oid: TableDecoder(each) for each in described})


def test_begin_and_commit() -> None:
    """
    Positions are unsigned, times signed, xids unsigned.
    """
    top = 2**64 - 1
    assert decode(encode_begin(CommitLsn(top), -5, 2**32 - 1)) == Begin(CommitLsn(top), -5, 2**32 - 1)
    assert decode(encode_commit(CommitLsn(1), EndLsn(top), 5)) == Commit(CommitLsn(1), EndLsn(top), 5)


def test_relation() -> None:
    """
    A description survives; the server's own schema has no name on the wire.
    """
    columns = (StreamColumn("größe", 23, -1, True), StreamColumn('we"ird', 1700, 655366, False))
    for schema in ("public", "pg_catalog"):
        description = RelationDescription(TableId(2**32 - 1, schema, "naïve"), "d", columns)
        assert decode(encode_relation(description)) == description
        assert b"pg_catalog" not in encode_relation(description)


def test_row_changes() -> None:
    """
    Rows are tuples of text and None.

    Scenario H1.
    """
    assert decode(encode_insert(OID, [b"1", None])) == Insert(OID, (b"1", None), False)
    assert decode(encode_insert(OID, [b"", LONG])) == Insert(OID, (b"", LONG), False)
    assert decode(encode_update(OID, [b"1", b"n"], old=[b"1", None])) == Update(OID, (b"1", None), (b"1", b"n"))
    assert decode(encode_delete(OID, old=[b"1", LONG])) == Delete(OID, (b"1", LONG))


def test_unchanged_values_come_from_the_old_row() -> None:
    """
    With the whole old row nothing is missing.
    """
    update = encode_update(OID, [UNCHANGED, b"n"], old=[LONG, b"o"])
    assert decode(update) == Update(OID, (LONG, b"o"), (LONG, b"n"))


def test_weak_identities_give_no_old_row() -> None:
    """
    A key is not an old row, nor is one with holes; what is unchanged is missing then.
    """
    assert decode(encode_update(OID, [UNCHANGED, b"n"], key=[b"k", None])) == Update(OID, None, (None, b"n"))
    assert decode(encode_update(OID, [b"1", b"n"])) == Update(OID, None, (b"1", b"n"))
    assert decode(encode_update(OID, [b"1", b"n"], old=[b"1", UNCHANGED])) == Update(OID, None, (b"1", b"n"))
    assert decode(encode_delete(OID, key=[b"k", None])) == Delete(OID, None)
    assert decode(encode_delete(OID, old=[b"k", UNCHANGED])) == Delete(OID, None)
    assert decode(encode_insert(OID, [b"1", UNCHANGED])) == Insert(OID, (b"1", None), True)


@pytest.mark.parametrize("count", [0, 1, 2, GENERATED_COLUMNS_MAX, WIDE, 1600])
def test_tables_of_any_width(count: int) -> None:
    """
    Narrow tables use generated functions, wide ones the plain loop; the rows are the same.
    """
    description = table(OID, *(f"c{number}" for number in range(count)))
    row = tuple(None if number % 3 == 0 else str(number).encode() for number in range(count))
    holes = tuple(UNCHANGED if number % 2 else value for number, value in enumerate(row))
    assert decode(encode_insert(OID, row), description) == Insert(OID, row, False)
    assert decode(encode_update(OID, holes, old=row), description) == Update(OID, row, row)
    assert decode(encode_delete(OID, old=row), description) == Delete(OID, row)


def test_short_types_read_the_same() -> None:
    """
    For types of short text the length's last byte says all.
    """
    description = table(OID, "a", "b", type_oid=INT_OID)
    longest = b"1" * 255
    update = encode_update(OID, [longest, None], old=[b"", longest])
    assert decode(update, description) == Update(OID, (b"", longest), (longest, None))


def test_truncate_names_all_tables() -> None:
    """
    Options are of no concern.

    Scenario H1.
    """
    assert decode(encode_truncate([1, 2, 2**32 - 1], is_cascade=True)) == Truncate((1, 2, 2**32 - 1))
    assert decode(encode_truncate([], is_restarting_identity=True)) == Truncate(())


def test_others_are_ignored() -> None:
    """
    Types, origins and logical messages are known and ignored.

    Scenario H1.
    """
    assert decode(encode_type(1, "s", "t")) == Ignored("Y")
    assert decode(encode_origin(1, "o")) == Ignored("O")
    assert decode(encode_logical_message(1, "p", b"", is_transactional=True)) == Ignored("M")


INSERT = encode_insert(OID, [b"1", b"2"])
UPDATE = encode_update(OID, [b"1", b"2"], old=[b"1", b"2"])
DELETE = encode_delete(OID, old=[b"1", b"2"])
RELATION = encode_relation(table(OID, "a"))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"?",
        b"B123",
        b"C123",
        b"T",
        encode_truncate([1]) + b"x",
        encode_truncate([1])[:-1],
        b"I\0",
        encode_insert(OID + 1, [b"1", b"2"]),
        encode_insert(OID, [b"1"]),
        encode_insert(OID, [b"1", b"2", b"3"]),
        INSERT + b"x",
        INSERT[:-1],
        INSERT[:5] + b"O" + INSERT[6:],
        INSERT.replace(b"t", b"b", 1),
        INSERT.replace(struct.pack(">I", 1), struct.pack(">I", 2**32 - 1), 1),
        UPDATE + b"x",
        UPDATE[:-1],
        UPDATE[:5] + b"X" + UPDATE[6:],
        UPDATE[: 6 + len(encode_tuple([b"1", b"2"]))],
        encode_update(OID, [b"1", UNCHANGED]) + b"x",
        encode_update(OID, [b"1"], old=[b"1", b"2"]),
        DELETE + b"x",
        DELETE[:-1],
        DELETE[:5],
        encode_delete(OID, old=[UNCHANGED, b"12"])[:-1],
        encode_delete(OID, key=[b"1"]),
        DELETE[:5] + b"N" + DELETE[6:],
        encode_delete(OID, key=[b"1", b"2"]) + b"x",
        encode_delete(OID, old=[b"1"]),
        RELATION[:-1],
        RELATION + b"x",
        RELATION[:6],
        RELATION.replace(b"public", b"pub\xffic"),
    ],
)
@pytest.mark.parametrize("type_oid", [INT_OID, 25])
def test_malformed_messages_are_refused(message: bytes, type_oid: int) -> None:
    """
    Too short, too long, of the wrong kind, for another table: always a decode error.
    """
    with pytest.raises(DecodeError):
        decode(message, table(OID, "a", "b", type_oid=type_oid))


def test_only_relations_are_relations() -> None:
    """
    Asked for a description, nothing else will do.
    """
    for message in (b"", INSERT):
        with pytest.raises(DecodeError):
            decode_relation(message)
