"""
The messages of pgoutput, protocol version 1, in text format.

It owns the layout of messages and of the tuples in them. Which relation an oid names is state of a connection and an
argument here; transactions and places in them belong to `replication.transactions`.

Form: pure functions and values. Two decoders of tuples stand side by side: `decode_tuple`, plain and for every case,
and functions generated for one list of column widths, which read the two common cases (text, NULL) without a loop and
leave everything else to the plain one. Both give the same rows; a property test holds them together.

Layouts are those of the chapter "Logical Replication Message Formats" of the Postgres documentation. Whatever the
bytes are, nothing but `DecodeError` comes out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from penstock.compiled.choice import RowDecoder
from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.replication.messages import Row

GENERATED_COLUMNS_MAX: Final = 256
"""Wider tables are decoded by the plain loop: compiling a function for them takes too long at once."""

GENERATED_FUNCTIONS_MAX: Final = 4096
"""So many generated functions are kept; one serves all tables whose columns have the same widths."""

# Types whose text is always shorter than 256 bytes: bool, int8, int2, int4, oid, xid, cid, tid, float4, float8,
# macaddr, inet, cidr, date, time, timestamp, timestamptz, interval, timetz, uuid, pg_lsn, macaddr8, xid8.
_SHORT_TYPES: Final = frozenset(
    {16, 20, 21, 23, 26, 28, 29, 27, 700, 701, 829, 869, 650}
    | {1082, 1083, 1114, 1184, 1186, 1266, 2950, 3220, 774, 5069}
)

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_BEGIN: Final = struct.Struct(">xQqI")
_COMMIT: Final = struct.Struct(">xBQQq")
_COLUMN_TAIL: Final = struct.Struct(">Ii")
_TRUNCATE_HEAD: Final = struct.Struct(">xIB")

_TEXT: Final = ord("t")
_NULL: Final = ord("n")
_UNCHANGED: Final = ord("u")
_NEW: Final = ord("N")
_OLD: Final = ord("O")
_KEY: Final = ord("K")


@dataclass(frozen=True, slots=True)
class Begin:
    """
    A transaction begins; `committed_us` counts microseconds since 2000-01-01.
    """

    commit_lsn: CommitLsn
    committed_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """
    A transaction ends; `committed_us` counts microseconds since 2000-01-01.
    """

    commit_lsn: CommitLsn
    end: EndLsn
    committed_us: int


@dataclass(frozen=True, slots=True)
class Insert:
    """
    A row came. `is_incomplete` says that it did not come whole.
    """

    relation_oid: int
    new: Row
    is_incomplete: bool


@dataclass(frozen=True, slots=True)
class Update:
    """
    A row changed. Without its whole old row (`old` is None) unchanged TOAST values of `new` are missing and None.
    """

    relation_oid: int
    old: Row | None
    new: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """
    A row went. `old` is None when only its key came.
    """

    relation_oid: int
    old: Row | None


@dataclass(frozen=True, slots=True)
class Truncate:
    """
    Tables were emptied.
    """

    relation_oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """
    A message of no concern: a type, an origin, or what `pg_logical_emit_message` made.
    """

    kind: str


Message: TypeAlias = Begin | Commit | RelationDescription | Insert | Update | Delete | Truncate | Ignored

RowReader: TypeAlias = Callable[[bytes, int, int], Row | None]
"""Reads the tuple at a place that ends the message at another; None when it needs the plain decoder."""

RowStep: TypeAlias = Callable[[bytes, int], tuple[Row, int] | None]
"""Reads the tuple at a place and tells where it ended; None when it needs the plain decoder."""

RowMerge: TypeAlias = Callable[[bytes, int, int, Row], Row | None]
"""As `RowReader`, with the old row, from which unchanged values are taken."""


class TableDecoder:
    """
    Decodes the rows of one relation.

    Attributes:
        description: the relation.
        read: for a whole row that ends its message.
        step: for a row that is followed by another.
        merge: for a new row that follows its old one.
    """

    __slots__ = ("description", "merge", "read", "step")

    def __init__(self, description: RelationDescription) -> None:
        """
        Find or generate the functions for these columns.
        """
        self.description = description
        self.read: RowReader
        self.step: RowStep
        self.merge: RowMerge
        if len(description.columns) <= GENERATED_COLUMNS_MAX:
            self.read, self.step, self.merge = _generate(
                tuple(column.type_oid in _SHORT_TYPES for column in description.columns)
            )
        else:
            self.read, self.step, self.merge = _plain_read, _plain_step, _plain_merge

    def insert(self, data: bytes, at: int, end: int) -> tuple[Row, bool]:
        """
        Decode what follows the oid in an Insert message; tell also whether the row is incomplete.

        Raises:
            DecodeError: the bytes are not such a message.
        """
        try:
            if data[at] != _NEW:
                raise DecodeError("an Insert message without a new row")
            row = self.read(data, at + 1, end)
            if row is not None:
                return row, False
            row, at, unchanged = decode_tuple(data, at + 1, len(self.description.columns), None)
        except (IndexError, struct.error) as cause:
            raise _too_short() from cause
        _check_end(at, end)
        return row, unchanged > 0

    def update(self, data: bytes, at: int, end: int) -> tuple[Row | None, Row]:
        """
        Decode what follows the oid in an Update message: the whole old row, if it came, and the new row.

        Raises:
            DecodeError: the bytes are not such a message.
        """
        count = len(self.description.columns)
        old: Row | None = None
        try:
            kind = data[at]
            if kind == _OLD:
                stepped = self.step(data, at + 1)
                if stepped is not None:
                    old, at = stepped
                else:
                    old, at, unchanged = decode_tuple(data, at + 1, count, None)
                    if unchanged:
                        old = None
                kind = data[at]
            elif kind == _KEY:
                _, at, _ = decode_tuple(data, at + 1, count, None)
                kind = data[at]
            if kind != _NEW:
                raise DecodeError("an Update message without a new row")
            new = self.read(data, at + 1, end) if old is None else self.merge(data, at + 1, end, old)
            if new is None:
                new, at, _ = decode_tuple(data, at + 1, count, old)
                _check_end(at, end)
        except (IndexError, struct.error) as cause:
            raise _too_short() from cause
        return old, new

    def delete(self, data: bytes, at: int, end: int) -> Row | None:
        """
        Decode what follows the oid in a Delete message: the whole old row, None when only its key came.

        Raises:
            DecodeError: the bytes are not such a message.
        """
        try:
            kind = data[at]
            if kind == _OLD:
                row = self.read(data, at + 1, end)
                if row is not None:
                    return row
            elif kind != _KEY:
                raise DecodeError("a Delete message without an old row or a key")
            row, at, unchanged = decode_tuple(data, at + 1, len(self.description.columns), None)
        except (IndexError, struct.error) as cause:
            raise _too_short() from cause
        _check_end(at, end)
        return None if kind == _KEY or unchanged else row


def decode_message(message: bytes, tables: Mapping[int, RowDecoder]) -> Message:
    """
    Decode any message.

    Args:
        message: from its first byte, the kind.
        tables: decoders of the relations described so far, by oid.

    Raises:
        DecodeError: it is not a message of pgoutput, protocol version 1, or names a relation that was not described.
    """
    try:
        kind = message[:1]
        if kind == b"B":
            commit_lsn, committed_us, xid = _BEGIN.unpack(message)
            return Begin(CommitLsn(commit_lsn), committed_us, xid)
        if kind == b"C":
            _, commit_lsn, end, committed_us = _COMMIT.unpack(message)
            return Commit(CommitLsn(commit_lsn), EndLsn(end), committed_us)
        if kind == b"R":
            return decode_relation(message)
        if kind == b"T":
            return Truncate(decode_truncate(message))
        if kind in {b"Y", b"O", b"M"}:
            return Ignored(kind.decode())
        if kind not in {b"I", b"U", b"D"}:
            raise DecodeError(f"not a message of pgoutput: it begins with {kind!r}")
        oid = _U32.unpack_from(message, 1)[0]
        table = tables.get(oid)
        if table is None:
            raise unknown_relation(oid)
        if kind == b"I":
            return Insert(oid, *table.insert(message, 5, len(message)))
        if kind == b"U":
            return Update(oid, *table.update(message, 5, len(message)))
        return Delete(oid, table.delete(message, 5, len(message)))
    except struct.error as cause:
        raise _too_short() from cause


def decode_relation(message: bytes) -> RelationDescription:
    """
    Decode a Relation message, from its `R`.

    Raises:
        DecodeError: it is not one.
    """
    try:
        if message[0] != ord("R"):
            raise DecodeError("not a Relation message")
        oid = _U32.unpack_from(message, 1)[0]
        schema, at = _string(message, 5)
        name, at = _string(message, at)
        identity = chr(message[at])
        count = _U16.unpack_from(message, at + 1)[0]
        at += 3
        columns = []
        for _ in range(count):
            is_key = message[at] & 1 == 1
            column, at = _string(message, at + 1)
            type_oid, typmod = _COLUMN_TAIL.unpack_from(message, at)
            at += 8
            columns.append(StreamColumn(column, type_oid, typmod, is_key))
    except (IndexError, struct.error, UnicodeDecodeError) as cause:
        raise DecodeError("a Relation message is malformed") from cause
    _check_end(at, len(message))
    # The server leaves the name of its own schema empty.
    return RelationDescription(TableId(oid, schema or "pg_catalog", name), identity, tuple(columns))


def decode_truncate(message: bytes) -> tuple[int, ...]:
    """
    Decode a Truncate message, from its `T`; give the oids of its relations.

    Raises:
        DecodeError: it is not one.
    """
    try:
        count, _ = _TRUNCATE_HEAD.unpack_from(message)
        if len(message) != _TRUNCATE_HEAD.size + 4 * count:
            raise _too_short()
        oids: tuple[int, ...] = struct.unpack_from(f">{count}I", message, _TRUNCATE_HEAD.size)
    except struct.error as cause:
        raise _too_short() from cause
    return oids


def decode_tuple(data: bytes, at: int, count: int, old: Row | None) -> tuple[Row, int, int]:
    """
    Decode a tuple in the plain way.

    Args:
        data: what holds it.
        at: where it begins.
        count: how many columns the relation has.
        old: whence unchanged values are taken; without it they become None.

    Returns:
        The row, the place after it, and how many unchanged values could not be filled.

    Raises:
        DecodeError: the bytes are not a tuple of so many columns in text format.
        IndexError: they end in it.
        struct.error: likewise.
    """
    if _U16.unpack_from(data, at)[0] != count:
        raise DecodeError("a row does not have the columns that its relation was described with")
    at += 2
    values: list[bytes | None] = []
    unchanged = 0
    for index in range(count):
        kind = data[at]
        at += 1
        if kind == _TEXT:
            start = at + 4
            at = start + _U32.unpack_from(data, at)[0]
            values.append(data[start:at])
        elif kind == _NULL:
            values.append(None)
        elif kind == _UNCHANGED:
            if old is None:
                unchanged += 1
                values.append(None)
            else:
                values.append(old[index])
        else:
            raise DecodeError(f"a column is neither text nor NULL nor unchanged: {kind:#04x}")
    if at > len(data):
        raise _too_short()
    return tuple(values), at, unchanged


def unknown_relation(oid: int) -> DecodeError:
    """
    Say that a change names a relation that was not described.
    """
    return DecodeError(f"a change names the relation {oid}, which this connection has not described")


def _string(message: bytes, at: int) -> tuple[str, int]:
    """
    Read a string up to its NUL; give it and the place after it.
    """
    end = message.find(0, at)
    if end < 0:
        raise IndexError(at)
    return message[at:end].decode(), end + 1


def _too_short() -> DecodeError:
    return DecodeError("a message of pgoutput does not have the length that its contents ask for")


def _check_end(at: int, end: int) -> None:
    """
    Insist that a message ends where its contents do.
    """
    if at != end:
        raise _too_short()


def _plain_read(_data: bytes, _at: int, _end: int) -> Row | None:
    return None


def _plain_step(_data: bytes, _at: int) -> tuple[Row, int] | None:
    return None


def _plain_merge(_data: bytes, _at: int, _end: int, _old: Row) -> Row | None:
    return None


@lru_cache(maxsize=GENERATED_FUNCTIONS_MAX // 3)
def _generate(are_short: tuple[bool, ...]) -> tuple[RowReader, RowStep, RowMerge]:
    """
    Compile the three functions for columns of which some are known to be short.

    A value's length is read from its last byte alone where the type is short, else from all four. A wrong length leads
    past the end or to a byte that is no kind, so one comparison at the end of the message is enough: places only grow.
    """
    names = "".join(f"c{index}, " for index in range(len(are_short)))
    source = [
        *("def read(d, p, e):", *_body(are_short, has_old=False)),
        *("    if p != e:", "        raise DecodeError(TOO_SHORT)", f"    return ({names})"),
        *("def step(d, p):", *_body(are_short, has_old=False)),
        *("    if p > len(d):", "        raise DecodeError(TOO_SHORT)", f"    return ({names}), p"),
        *("def merge(d, p, e, old):", *_body(are_short, has_old=True)),
        *("    if p != e:", "        raise DecodeError(TOO_SHORT)", f"    return ({names})"),
    ]
    namespace: dict[str, object] = {
        "DecodeError": DecodeError,
        "TOO_SHORT": str(_too_short()),
        "WRONG_COUNT": "a row does not have the columns that its relation was described with",
        "length": _U32.unpack_from,
    }
    # The text is made of numbers that we counted ourselves; nothing of the stream is in it.
    exec("\n".join(source), namespace)  # noqa: S102
    read, step, merge = namespace["read"], namespace["step"], namespace["merge"]
    return read, step, merge  # type: ignore[return-value]  # what exec made has no types


def _body(are_short: tuple[bool, ...], *, has_old: bool) -> list[str]:
    """
    Give the lines that read the columns of the tuple at `p` in `d` into `c0`, `c1` and so on.
    """
    count = len(are_short)
    lines = [
        f"    if d[p] != {count >> 8} or d[p + 1] != {count & 255}:",
        "        raise DecodeError(WRONG_COUNT)",
        "    p += 2",
    ]
    for index, is_short in enumerate(are_short):
        length = "d[p + 4]" if is_short else "length(d, p + 1)[0]"
        lines += [
            f"    if d[p] == {_TEXT}:",
            "        q = p + 5",
            f"        p = q + {length}",
            f"        c{index} = d[q:p]",
            f"    elif d[p] == {_NULL}:",
            f"        c{index} = None",
            "        p += 1",
        ]
        if has_old:
            lines += [f"    elif d[p] == {_UNCHANGED}:", f"        c{index} = old[{index}]", "        p += 1"]
        lines += ["    else:", "        return None"]
    return lines
