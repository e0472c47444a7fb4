"""
Many shapes with conditions on one table, as the engine has them: the table of `benchmarks.source`, described without a
server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Final

from msgspec.structs import replace

from penstock.postgres.relation import Column, RelationDescription, StreamColumn, TableId
from penstock.replication.messages import Change, Operation, Row
from penstock.shapes.condition import basis_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.where.clause import compile_where

TABLE_OID: Final = 16384
COLUMNS: Final = (
    Column("id", 20, -1, "int8", is_not_null=True, pk_index=0),
    Column("account", 23, -1, "int4", is_not_null=True),
    Column("title", 25, -1, "text", is_not_null=True),
    Column("status", 25, -1, "text", is_not_null=True),
    Column("body", 25, -1, "text"),
    Column("priority", 23, -1, "int4", is_not_null=True),
    Column("is_open", 16, -1, "bool", is_not_null=True),
    Column("changed_at", 1184, -1, "timestamptz", is_not_null=True),
)
TABLE: Final = TableId(TABLE_OID, "public", "events")
RELATION: Final = RelationDescription(
    TABLE, "f", tuple(StreamColumn(column.name, column.type_oid, column.typmod, is_key=True) for column in COLUMNS)
)

_NUMBERS: Final = ("id", "account", "priority", "length(title)", "length(status)", "length(body)")
_SIGNS: Final = (">", ">=", "<", "<=", "<>")


def shape_where(where: str) -> ShapeDefinition:
    """
    Define a shape of all columns.
    """
    clause = compile_where(where, (), COLUMNS)
    return ShapeDefinition(
        TABLE,
        shape_columns(COLUMNS),
        ("id",),
        has_primary_key=True,
        selected=tuple(sorted(column.name for column in COLUMNS)),
        where=clause.normalised,
        basis=basis_of(clause, COLUMNS),
    )


def shapes_of_accounts(numbers: Iterable[int]) -> list[ShapeDefinition]:
    """
    Define the shapes `account = number`, without compiling each condition.
    """
    first = shape_where("account = 0")
    assert first.where == '("account" = 0)'
    return [replace(first, where=f'("account" = {number})') for number in numbers]


def row(number: int, account: int) -> Row:
    """
    Make a row as the stream brings it.
    """
    return (
        b"%d" % number,
        b"%d" % account,
        b"Event number %d" % number,
        b"doing",
        b'She said "later" and went on with turbine %d' % (number % 97),
        b"%d" % (number % 5),
        b"t",
        b"2026-01-01 00:00:00+00",
    )


def inserts(accounts: Sequence[int], count: int) -> list[Change]:
    """
    Make changes whose rows belong to these accounts in turn.
    """
    return [
        Change(Operation.INSERT, RELATION, 0, None, row(place + 1, accounts[place % len(accounts)]))
        for place in range(count)
    ]


def sharing(count: int) -> list[str]:
    """
    Make conditions that no index answers and that differ in their constants alone; no row satisfies any of them.
    """
    return [f"id + account > {10**12 + number} AND priority < {number % 7}" for number in range(count)]


def sorted_by_constant(count: int) -> list[str]:
    """
    Make conditions that compare a column with a constant; no row satisfies any of them.
    """
    return [f"id > {10**12 + number}" for number in range(count)]


def distinct(count: int) -> list[str]:
    """
    Make conditions that no index answers, no two of which differ in their constants alone; a row satisfies few of them.
    """
    atoms = [f"{number} {sign} " for number in _NUMBERS for sign in _SIGNS]
    made = [f"{one}{_far(one)} AND {other}{place}" for place, (one, other) in enumerate(permutations(atoms, 2))]
    made += [
        f"({one}{_far(one)} AND is_open) AND {other}{place}"
        for place, (one, other) in enumerate(permutations(atoms, 2))
    ]
    return made[:count]


def _far(atom: str) -> int:
    """
    Give a constant that no row comes near, so that the comparison is false, or for an inequality true.
    """
    return 10**9 if ">" in atom else -1
