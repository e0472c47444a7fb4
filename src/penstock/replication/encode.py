"""
Builds the messages of pgoutput, for tests and for sources that are simulated.

The counterpart of `replication.pgoutput`, in the plainest way, so that it can serve as its oracle. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from typing import Final, TypeAlias

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription


class Special(Enum):
    """
    What stands in a tuple besides text and NULL.
    """

    UNCHANGED = b"u"
    """A TOAST value that an update did not touch and that is not sent."""


UNCHANGED: Final = Special.UNCHANGED
Value: TypeAlias = bytes | Special | None


def encode_begin(commit_lsn: CommitLsn, committed_us: int, xid: int) -> bytes:
    """
    Build a Begin message.
    """
    return struct.pack(">cQqI", b"B", commit_lsn.value, committed_us, xid)


def encode_commit(commit_lsn: CommitLsn, end: EndLsn, committed_us: int) -> bytes:
    """
    Build a Commit message.
    """
    return struct.pack(">cBQQq", b"C", 0, commit_lsn.value, end.value, committed_us)


def encode_relation(description: RelationDescription) -> bytes:
    """
    Build a Relation message.
    """
    oid, schema, name = description.id
    columns = b"".join(
        struct.pack(">B", column.is_key) + _text(column.name) + struct.pack(">Ii", column.type_oid, column.typmod)
        for column in description.columns
    )
    head = b"R" + struct.pack(">I", oid) + _text("" if schema == "pg_catalog" else schema) + _text(name)
    return head + description.replica_identity.encode() + struct.pack(">H", len(description.columns)) + columns


def encode_type(oid: int, schema: str, name: str) -> bytes:
    """
    Build a Type message.
    """
    return b"Y" + struct.pack(">I", oid) + _text(schema) + _text(name)


def encode_origin(origin_lsn: int, name: str) -> bytes:
    """
    Build an Origin message.
    """
    return b"O" + struct.pack(">Q", origin_lsn) + _text(name)


def encode_logical_message(lsn: int, prefix: str, content: bytes, *, is_transactional: bool) -> bytes:
    """
    Build what `pg_logical_emit_message` makes.
    """
    return b"M" + struct.pack(">BQ", is_transactional, lsn) + _text(prefix) + struct.pack(">I", len(content)) + content


def encode_tuple(values: Sequence[Value]) -> bytes:
    """
    Build the tuple part of a row message.
    """
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, Special):
            parts.append(value.value)
        else:
            parts.append(b"t" + struct.pack(">I", len(value)) + value)
    return b"".join(parts)


def encode_insert(relation_oid: int, new: Sequence[Value]) -> bytes:
    """
    Build an Insert message.
    """
    return b"I" + struct.pack(">I", relation_oid) + b"N" + encode_tuple(new)


def encode_update(
    relation_oid: int, new: Sequence[Value], *, old: Sequence[Value] | None = None, key: Sequence[Value] | None = None
) -> bytes:
    """
    Build an Update message, with the whole old row, with its key, or with neither.
    """
    assert old is None or key is None
    before = b"" if old is None else b"O" + encode_tuple(old)
    before = before if key is None else b"K" + encode_tuple(key)
    return b"U" + struct.pack(">I", relation_oid) + before + b"N" + encode_tuple(new)


def encode_delete(
    relation_oid: int, *, old: Sequence[Value] | None = None, key: Sequence[Value] | None = None
) -> bytes:
    """
    Build a Delete message, with the whole old row or with its key.
    """
    assert (old is None) != (key is None)
    before = b"O" + encode_tuple(old) if old is not None else b"K" + encode_tuple(key or ())
    return b"D" + struct.pack(">I", relation_oid) + before


def encode_truncate(
    relation_oids: Sequence[int], *, is_cascade: bool = False, is_restarting_identity: bool = False
) -> bytes:
    """
    Build a Truncate message.
    """
    options = is_cascade | is_restarting_identity << 1
    return b"T" + struct.pack(f">IB{len(relation_oids)}I", len(relation_oids), options, *relation_oids)


def _text(value: str) -> bytes:
    """
    A string as the protocol ends it.
    """
    return value.encode() + b"\0"
