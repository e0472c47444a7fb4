"""
What makes a shape the same shape.

A definition holds everything that decides which bytes a shape serves, with all types and keys resolved against the
catalog when the shape was made. It is stored with the shape and is enough to replay its log after a restart without
asking Postgres anything.

Definitions of many shapes of a table hold the same lists of columns; equal parts of them are one object in memory.

Pure values, but for the memory of these parts.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final, TypeVar, cast

import msgspec
from msgspec.structs import force_setattr

from penstock.postgres.relation import TableId


class Replica(Enum):
    """
    How much of a row an update or a delete carries.
    """

    DEFAULT = "default"
    FULL = "full"


class LogMode(Enum):
    """
    Whether the log begins with the rows or with nothing.
    """

    FULL = "full"
    CHANGES_ONLY = "changes_only"


class ShapeColumn(msgspec.Struct, frozen=True, array_like=True):
    """
    A column of the shape's table at the time the shape was made.
    """

    name: str
    type_oid: int
    typmod: int


class ConditionColumn(msgspec.Struct, frozen=True, array_like=True):
    """
    What a condition depends on of a column that it reads, besides type and modifier.

    Attributes:
        name: the column's.
        type_name: as in `postgres.relation.Column`, and so the others.
        dims: likewise.
        is_enum: likewise.
        collation: likewise.
    """

    name: str
    type_name: str
    dims: int
    is_enum: bool
    collation: str | None


class ConditionEnum(msgspec.Struct, frozen=True, array_like=True):
    """
    An enum type among the columns of a condition. Its labels are not part of it: that the condition names only such was
    seen to when it was understood, and which others there are is of no concern to it.

    Attributes:
        oid: of the column's type: the enum's, or that of its arrays.
        enum_oid: the enum's.
        schema: where the enum lives.
        name: its name.
    """

    oid: int
    enum_oid: int
    schema: str
    name: str


class ConditionBasis(msgspec.Struct, frozen=True, array_like=True):
    """
    What was known of the database when a condition was understood, as far as it mattered.

    Attributes:
        columns: those the condition reads, by name.
        encoding: of the database.
        is_byte_ordered: whether text compares by bytes there.
        case: names the recorded mapping of letters to their cases; empty when it does not matter.
        enums: types of these columns, by oid.
        domains: pairs of the oids of a domain among these types and of the type under it, by oid.
    """

    columns: tuple[ConditionColumn, ...]
    encoding: str
    is_byte_ordered: bool
    case: str = ""
    enums: tuple[ConditionEnum, ...] = ()
    domains: tuple[tuple[int, int], ...] = ()


class ShapeDefinition(msgspec.Struct, frozen=True):
    """
    A subset of one table.

    Attributes:
        table: the root table the client named.
        columns: the columns of the table that matter to the shape, in catalog order: all of them unless the client listed
            some, else those and the ones in key and condition.
        key_columns: the columns that name a row, in key order (all columns when there is no primary key).
        has_primary_key: whether `key_columns` is a primary key.
        selected: names of the columns served, sorted.
        is_explicit: whether the client listed the columns; all of them listed is another shape than none listed.
        where: the normalised clause with its parameters filled in, or None.
        basis: under what the clause was understood; there is one when there is a clause.
        replica: how much updates and deletes carry.
        log: whether there is an initial snapshot of rows.
    """

    table: TableId
    columns: tuple[ShapeColumn, ...]
    key_columns: tuple[str, ...]
    has_primary_key: bool
    selected: tuple[str, ...]
    is_explicit: bool = False
    where: str | None = None
    basis: ConditionBasis | None = None
    replica: Replica = Replica.DEFAULT
    log: LogMode = LogMode.FULL

    def __post_init__(self) -> None:
        """
        Take the parts that other definitions have as well.
        """
        for name in ("table", "columns", "key_columns", "selected", "basis"):
            part = getattr(self, name)
            if part is not None:
                force_setattr(self, name, _share(part))

    def canonical(self) -> bytes:
        """
        Give the bytes that are equal for equal definitions, for looking up and hashing.
        """
        return _ENCODER.encode(self)

    def identity(self) -> bytes:
        """
        Give 16 bytes that are equal for equal definitions and for no others: a hash nobody finds a second definition for.
        """
        return hashlib.blake2b(self.canonical(), digest_size=16).digest()

    def digest(self) -> int:
        """
        Give 27 bits of a hash of the canonical form; different definitions may share it.
        """
        return int.from_bytes(hashlib.blake2b(self.canonical(), digest_size=4).digest(), "big") >> 5


PARTS_COUNT_MAX: Final = 8192
"""Parts of definitions that are remembered; at the limit they are forgotten, and later definitions share new ones."""
_Part = TypeVar("_Part")
_parts: Final[dict[object, object]] = {}


def _share(part: _Part) -> _Part:
    """
    Give the first part that was equal to this one.
    """
    if len(_parts) >= PARTS_COUNT_MAX:
        _parts.clear()
    # Parts are equal only to parts of their own kind.
    return cast("_Part", _parts.setdefault(part, part))


_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")
_DECODER: Final = msgspec.msgpack.Decoder(ShapeDefinition)


def decode_definition(data: bytes) -> ShapeDefinition:
    """
    Read a canonical form back.
    """
    return _DECODER.decode(data)
