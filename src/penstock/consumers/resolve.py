"""
From what a client asks for to what a shape is.

Compares a request with the catalog: table, columns, what may be queried, the condition. The sentences are part of the contract, and so
is the order in which problems are found: one is reported at a time.

What the server adds by rules comes before what the client says: of a table with rules the client sees the columns that all
rules leave it, and hears of the others what it would hear if they did not exist. Its condition is understood by itself, by
those columns alone, before it is joined with those of the rules, so that no text can reach beyond its own place.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from penstock.errors import DecodeError, InvalidShapeError, RuleError
from penstock.postgres.relation import Column, Table
from penstock.shapes.condition import basis_of, condition_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.reading import ShapeRequest
from penstock.shapes.subset import cannot_fail
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
        RuleError: what the server adds does not fit the table.
    """
    keys = table.key_columns
    visible = visible_columns(request, table)
    known = [column.name for column in visible]
    queryable = _resolve_queryable(request.queryable_columns, keys, known)
    not_streamed = [column.name for column in table.columns if column.is_generated and not are_generated_published]
    added = _compile_rules(request, table, not_streamed, facts)
    generated = [name for name in not_streamed if name in known]
    listed: Sequence[str] | None = request.columns if request.columns is not None else request.queryable_columns
    if listed is None and any(rule.columns is not None for rule in request.rules):
        listed = [name for name in known if name in keys or name not in generated]
    if listed is None:
        if generated:
            raise InvalidShapeError("columns", _generated(generated) + _GENERATED_HINT)
        selected: Sequence[str] = known
    else:
        _check_listed(listed, keys, queryable, generated)
        selected = listed
    clause = None
    if request.where is not None:
        clause = compile_where(request.where, request.params, visible, facts)
        _check_readable(clause, generated)
    clause = _join(clause, added, table, facts)
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
    condition = condition_of(definition)
    if condition is not None:
        condition.examine()
    return definition


def visible_columns(request: ShapeRequest, table: Table) -> Sequence[Column]:
    """
    Give the columns of the table that the server's rules leave the client, in the order of the table.

    Raises:
        RuleError: a rule lists a column that is not there, or leaves out one of the key.
    """
    visible: Sequence[Column] = table.columns
    for rule in request.rules:
        if rule.columns is None:
            continue
        known = {column.name for column in table.columns}
        of_table = f'of "{table.id.schema}"."{table.id.name}"'
        unknown = [name for name in rule.columns if name not in known]
        if unknown:
            raise RuleError(f"columns that are none {of_table} are allowed: {', '.join(unknown)}")
        missing = [name for name in table.key_columns if name not in rule.columns]
        if missing:
            raise RuleError(f"the columns allowed {of_table} must include its key, missing: {', '.join(missing)}")
        visible = [column for column in visible if column.name in rule.columns]
    return visible


def _compile_rules(
    request: ShapeRequest, table: Table, not_streamed: Sequence[str], facts: DatabaseFacts
) -> list[Clause]:
    clauses = []
    for rule in request.rules:
        if rule.where is None:
            continue
        try:
            clause = compile_where(rule.where, rule.params, table.columns, facts)
            _check_readable(clause, not_streamed)
        except InvalidShapeError as cause:
            where = f'the condition added for "{table.id.schema}"."{table.id.name}"'
            raise RuleError(f"{where} is refused: {cause.message}") from cause
        clauses.append(clause)
    return clauses


def _join(asked: Clause | None, added: Sequence[Clause], table: Table, facts: DatabaseFacts) -> Clause | None:
    """
    Join the client's condition with those of the rules.

    A condition that can end in an error would tell, by ending so, of rows that the rules hide: Postgres asks the parts of
    an AND in an order of its own. So such a one stands in a CASE, which is asked only of rows that the rules let through.
    """
    if not added:
        return asked
    rules = " AND ".join(f"({clause.normalised})" for clause in added)
    text = rules
    if asked is not None and cannot_fail(asked.tree):
        text = f"{rules} AND ({asked.normalised})"
    elif asked is not None:
        text = f"{rules} AND (CASE WHEN {rules} THEN {asked.normalised} ELSE false END)"
    try:
        return compile_where(text, (), table.columns, facts)
    except InvalidShapeError as cause:
        # Places in this text are none of the client's, and tell of what is not its own.
        if asked is None:
            raise RuleError(f"the added condition is refused: {cause.message}") from cause
        raise InvalidShapeError("where", "the condition is too large together with that of the server") from cause


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
