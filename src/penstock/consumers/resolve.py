"""
From what a client asks for to what a shape is.

Compares a request with the catalog: table, columns, what may be queried, the condition. The sentences are part of the contract, and so
is the order in which problems are found: one is reported at a time.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from penstock.errors import DecodeError, InvalidShapeError
from penstock.postgres.relation import Table
from penstock.shapes.condition import basis_of, condition_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.reading import ShapeRequest
from penstock.where.clause import Clause, compile_where
from penstock.where.facts import NO_FACTS, DatabaseFacts
from penstock.wire.identifiers import parse_relation


class TableName(NamedTuple):
    """
    A table as the client means it.
    """

    schema: str
    name: str


def resolve_table_name(request: ShapeRequest) -> TableName:
    """
    Read the identifier of the table.

    Raises:
        InvalidShapeError: it is none.
    """
    try:
        return TableName(*parse_relation(request.table))
    except DecodeError as cause:
        raise InvalidShapeError("table", cause.message) from cause


def unknown_table(name: TableName) -> InvalidShapeError:
    """
    Say that there is no such table.
    """
    return InvalidShapeError(
        "table",
        f'Table "{name.schema}"."{name.name}" does not exist. '
        "If the table name contains capitals or special characters you must quote it.",
    )


def resolve_shape(
    request: ShapeRequest, table: Table, *, are_generated_published: bool, facts: DatabaseFacts = NO_FACTS
) -> ShapeDefinition:
    """
    Make the definition of what is asked for.

    Args:
        request: what is asked for.
        table: the table it names, as it is now.
        are_generated_published: whether the stream brings generated columns (Postgres 18 and later).
        facts: what conditions depend on besides the table.

    Raises:
        InvalidShapeError: something named is not there, or must not be asked for.
    """
    keys = table.key_columns
    known = [column.name for column in table.columns]
    queryable = _resolve_queryable(request.queryable_columns, keys, known)
    generated = [column.name for column in table.columns if column.is_generated and not are_generated_published]
    listed = request.columns if request.columns is not None else request.queryable_columns
    if listed is None:
        if generated:
            raise InvalidShapeError("columns", _generated(generated) + _GENERATED_HINT)
        selected: Sequence[str] = known
    else:
        _check_listed(listed, keys, queryable, generated)
        selected = listed
    clause = None
    if request.where is not None:
        clause = compile_where(request.where, request.params, table.columns, facts)
        _check_readable(clause, generated)
    columns = table.columns
    if listed is not None:
        # What becomes of other columns is no concern of this shape, nor of who it is.
        wanted = {*selected, *keys, *(() if clause is None else clause.columns)}
        columns = tuple(column for column in columns if column.name in wanted)
    definition = ShapeDefinition(
        table=table.id,
        columns=shape_columns(columns),
        key_columns=keys,
        has_primary_key=bool(table.pk_columns),
        selected=tuple(sorted(selected)),
        is_explicit=listed is not None,
        where=None if clause is None else clause.normalised,
        basis=None if clause is None else basis_of(clause, table.columns),
        replica=request.replica,
        log=request.log,
    )
    # What a restart will do must work now.
    condition_of(definition)
    return definition


def _check_readable(clause: Clause, generated: Sequence[str]) -> None:
    """
    A condition may read columns that are not served, but none that the stream does not bring.
    """
    missing = [name for name in generated if name in clause.columns]
    if missing:
        raise InvalidShapeError(
            "where", f"The following columns are generated and cannot be used in where: {', '.join(missing)}"
        )


_GENERATED_HINT = (
    ". You can exclude them from the shape by explicitly listing which columns to fetch in the 'columns' query param"
)


def _generated(names: Sequence[str]) -> str:
    return f"The following columns are generated and cannot be included in the shape: {', '.join(names)}"


def _resolve_queryable(listed: Sequence[str] | None, keys: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """
    Give the columns that may be asked for.
    """
    if listed is None:
        return known
    missing = [name for name in keys if name not in listed]
    if missing:
        raise InvalidShapeError(
            "queryable_columns",
            f"The list of queryable columns must include all primary key columns, missing: {', '.join(missing)}",
        )
    unknown = [name for name in listed if name not in known]
    if unknown:
        raise InvalidShapeError(
            "queryable_columns",
            f"The following queryable columns are not found on the table: {', '.join(unknown)}",
        )
    return listed


def _check_listed(
    listed: Sequence[str], keys: Sequence[str], queryable: Sequence[str], generated: Sequence[str]
) -> None:
    missing = [name for name in keys if name not in listed]
    if missing:
        raise InvalidShapeError(
            "columns", f"The list of columns must include all primary key columns, missing: {', '.join(missing)}"
        )
    # A column is found once: its second mention is as unknown as any other name.
    rest = list(dict.fromkeys(queryable))
    unknown: list[str] = []
    for name in listed:
        if name in rest:
            rest.remove(name)
        else:
            unknown.append(name)
    if unknown:
        raise InvalidShapeError("columns", f"The following columns are not found on the table: {', '.join(unknown)}")
    not_served = [name for name in listed if name in generated]
    if not_served:
        raise InvalidShapeError("columns", _generated(not_served))
