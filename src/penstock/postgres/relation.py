"""
Tables and columns, as the catalog tells them and as the replication stream describes them.

Two sources, two types: a `Table` is read from the catalog by an ordinary connection and knows types, keys and
partition parents; a `RelationDescription` comes with the stream and knows only what decoding needs.

Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

NO_TYPMOD: Final = -1


class TableId(NamedTuple):
    """
    A table as one identity: a dropped and recreated table has another `oid`, a renamed one another name.
    """

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column as the catalog describes it.

    Attributes:
        name: the name as stored, unquoted.
        type_oid: `pg_attribute.atttypid`.
        typmod: `pg_attribute.atttypmod`, -1 for none.
        type_name: `pg_type.typname`; for an array that of its element.
        dims: declared dimensions, 0 when not an array.
        is_not_null: whether the column is NOT NULL.
        is_generated: whether it is GENERATED ... STORED.
        pk_index: place in the primary key from 0, None outside it.
        is_enum: whether the type (or the element type) is an enum.
        collation: `collname` when it is not the database's default one, else None.
    """

    name: str
    type_oid: int
    typmod: int
    type_name: str
    dims: int = 0
    is_not_null: bool = False
    is_generated: bool = False
    pk_index: int | None = None
    is_enum: bool = False
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """
    An ordinary or partitioned table.

    Attributes:
        id: its identity.
        columns: all live columns in catalog order.
        root_oid: the topmost partitioned table above it, or its own oid.
        replica_identity: `pg_class.relreplident`: `d`, `n`, `f` or `i`.
        is_partitioned: whether it is the parent of partitions (`relkind` `p`).
    """

    id: TableId
    columns: tuple[Column, ...]
    root_oid: int
    replica_identity: str
    is_partitioned: bool = False

    @property
    def pk_columns(self) -> tuple[str, ...]:
        """
        Names of the primary key columns in key order; empty without a primary key.
        """
        keyed = [(column.pk_index, column.name) for column in self.columns if column.pk_index is not None]
        return tuple(name for _, name in sorted(keyed))

    @property
    def key_columns(self) -> tuple[str, ...]:
        """
        The columns whose values name a row: the primary key, or all columns in catalog order without one.
        """
        return self.pk_columns or tuple(column.name for column in self.columns)


class StreamColumn(NamedTuple):
    """
    A column in a Relation message.
    """

    name: str
    type_oid: int
    typmod: int
    is_key: bool


class RelationDescription(NamedTuple):
    """
    What a Relation message says; in force on its connection until the next one for the same oid.
    """

    id: TableId
    replica_identity: str
    columns: tuple[StreamColumn, ...]
