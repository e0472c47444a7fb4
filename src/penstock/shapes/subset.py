"""
Subsets: a query over a shape's rows, asked once.

Owns what a client may ask for and what is made of it. A subset's condition is understood by the language of conditions
and written anew, its order likewise, so that nothing of what a client wrote reaches the database as it was written.

Whoever is let into a shape by its condition must not learn of rows outside it. An expression that fails (division by
zero, a cast) tells by failing, and Postgres may ask it before the shape's own condition; so a condition that could fail
is marked, and asked only of rows that the shape has. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock.errors import InvalidShapeError, RequestError
from penstock.postgres.relation import Column
from penstock.where.clause import compile_where
from penstock.where.facts import DatabaseFacts
from penstock.where.ordering import compile_order
from penstock.where.parse import parse
from penstock.where.tree import (
    ArrayOf,
    BoolTest,
    Call,
    Cast,
    Coalesce,
    Collated,
    ColumnRef,
    Const,
    Distinct,
    InList,
    Logic,
    Node,
    Not,
    NullTest,
    Quantified,
    children,
)

FIELD: Final = "subset"
"""Where problems of subsets are in the answer's errors."""

NO_SUBQUERIES: Final = "Subqueries are not allowed in subsets"
NEEDS_ORDER: Final = "order_by is required when limit or offset is present"

SubsetProblems = dict[str, list[str]]

# What can only answer: comparisons of values that are there, and what joins them.
_SAFE_NODES: Final = (ArrayOf, BoolTest, Coalesce, Collated, ColumnRef, Const, Distinct, InList, Logic, Not, NullTest)
_SAFE_OPERATORS: Final = frozenset({"=", "<>", "<", "<=", ">", ">=", "@>", "<@", "&&"})


class SubsetRequest(msgspec.Struct, frozen=True):
    """
    What a client asks for beyond the shape, not yet compared with the catalog.

    Attributes:
        where: the clause as written.
        params: values of `$1`, `$2` and so on.
        limit: how many rows at most.
        offset: how many rows to leave out first.
        order_by: the clause as written.
        problems: what is wrong with the form, by field; said only when nothing is wrong with the shape.
    """

    where: str | None = None
    params: tuple[str, ...] = ()
    limit: int | None = None
    offset: int | None = None
    order_by: str | None = None
    problems: SubsetProblems = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subset:
    """
    What was understood.

    Attributes:
        where: the normalised clause, or None.
        can_fail: whether the clause may end in an error, and so must see rows of the shape only.
        order_by: the clause written anew, or None.
        limit: how many rows at most, or None.
        offset: how many rows to leave out first, or None.
    """

    where: str | None = None
    can_fail: bool = False
    order_by: str | None = None
    limit: int | None = None
    offset: int | None = None


def compile_subset(asked: SubsetRequest, queryable: Sequence[Column], facts: DatabaseFacts) -> Subset:
    """
    Understand what is asked for.

    Args:
        asked: the request.
        queryable: the columns of the table that may be named.
        facts: what else is known of the database.

    Raises:
        RequestError: 400, with all problems below `subset`.
    """
    problems = dict(asked.problems)
    where, can_fail, order_by = None, False, None
    if asked.where is not None and not {"where", "params"} & problems.keys():
        try:
            where, can_fail = _compile_condition(asked.where, asked.params, queryable, facts)
        except InvalidShapeError as error:
            problems["where"] = [error.message]
    if asked.order_by is not None and "order_by" not in problems:
        try:
            order_by = compile_order(asked.order_by, {column.name for column in queryable}) or None
        except InvalidShapeError as error:
            problems["order_by"] = [error.message]
    if problems:
        raise RequestError(400, "Invalid request", errors={FIELD: {key: list(said) for key, said in problems.items()}})
    return Subset(where, can_fail, order_by, asked.limit, asked.offset)


def _compile_condition(
    text: str, params: Sequence[str], columns: Sequence[Column], facts: DatabaseFacts
) -> tuple[str, bool]:
    if _has_subquery(parse(text)):
        raise InvalidShapeError("where", NO_SUBQUERIES)
    clause = compile_where(text, params, columns, facts)
    return clause.normalised, not cannot_fail(clause.tree)


def _has_subquery(tree: dict[str, Any]) -> bool:
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "SubLink" in node:
                return True
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return False


def cannot_fail(tree: Node) -> bool:
    """
    Tell whether a condition can be asked of any row without ending in an error.
    """
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case Call() if not node.is_operator or node.overload.name not in _SAFE_OPERATORS:
                return False
            case Quantified() if node.overload.name not in _SAFE_OPERATORS:
                return False
            case Cast() if node.is_explicit or not isinstance(node.arg, Const | ColumnRef):
                return False
            case Call() | Quantified() | Cast():
                pass
            case _ if not isinstance(node, _SAFE_NODES):
                return False
        waiting.extend(children(node))
    return True
