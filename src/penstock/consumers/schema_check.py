"""
Whether a shape survives what became of its table.

A definition holds the table as it was when the shape was made, and the log was written with that in mind. It is
compared with a description from the stream at the first change that uses it (which is exact: a description is sent
before the first change that needs it, and one read again after a restart is older than the shape only in front of
changes the shape drops), and with the catalog from time to time, for tables nobody writes to.

Columns are compared by name, because a partition may order them differently from its root.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from penstock.postgres.relation import RelationDescription, Table, TableId
from penstock.shapes.definition import ShapeDefinition


class _Type(NamedTuple):
    type_oid: int
    typmod: int


def check_description(description: RelationDescription, definition: ShapeDefinition) -> str | None:
    """
    Compare with a description of the shape's table, or of a partition of it.

    Returns:
        Why the shape does not survive; None when it does.
    """
    mine = definition.table
    if description.id.oid == mine.oid or description.id[1:] == mine[1:]:
        reason = _check_identity(description.id, mine)
        if reason is not None:
            return reason
    types = {column.name: _Type(column.type_oid, column.typmod) for column in description.columns}
    return _check_columns(types, definition)


def check_table(table: Table | None, definition: ShapeDefinition) -> str | None:
    """
    Compare with what the catalog holds under the shape's name now; None for no such table.

    Returns:
        Why the shape does not survive; None when it does.
    """
    if table is None:
        return "table was dropped or renamed"
    reason = _check_identity(table.id, definition.table)
    if reason is not None:
        return reason
    if definition.has_primary_key and table.pk_columns != definition.key_columns:
        return "primary key changed"
    if not definition.has_primary_key and table.pk_columns:
        return "primary key was added"
    return _check_columns({column.name: _Type(column.type_oid, column.typmod) for column in table.columns}, definition)


def _check_identity(found: TableId, mine: TableId) -> str | None:
    if found.oid != mine.oid:
        return "table was dropped and created again"
    if found != mine:
        return "table was renamed"
    return None


def _check_columns(types: Mapping[str, _Type], definition: ShapeDefinition) -> str | None:
    # Without a primary key all columns name a row.
    is_whole = not definition.is_explicit or not definition.has_primary_key
    if is_whole and len(types) != len(definition.columns):
        return "number of columns changed"
    wanted = {*definition.selected, *definition.key_columns}
    if definition.basis is not None:
        wanted.update(column.name for column in definition.basis.columns)
    for column in definition.columns:
        if column.name not in wanted:
            continue
        found = types.get(column.name)
        if found is None:
            return f"column {column.name} was dropped or renamed"
        if found != (column.type_oid, column.typmod):
            return f"type of column {column.name} changed"
    return None
