"""
From text to Postgres's own parse tree, within bounds.

Owns the limits, and the sentences for what is no condition at all. The grammar is Postgres's (libpg_query); its tree comes as
dictionaries, and they are only walked here and in `check`.

What hostile text can do is bounded before anything recursive looks at it: by bytes, by the depth of the tree, by its nodes. The
parser itself keeps its stack on the heap and refuses what would make that too large. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import pgparse  # type: ignore[import-not-found]  # an extension module without stubs

from penstock.errors import InvalidShapeError

TEXT_BYTES_MAX: Final = 65_536
DEPTH_MAX: Final = 120
"""How deep expressions may nest, in levels of the typed tree; a chain of operators is one level each."""
_TREE_DEPTH_MAX: Final = 600  # of dictionaries and lists, four or five a level
_SHALLOW_BYTES: Final = _TREE_DEPTH_MAX // 5 - 20  # a shorter text has not the operators for it
PREFIX: Final = "SELECT 1 WHERE "

_TOO_DEEP: Final = f"expression is nested too deeply; up to {DEPTH_MAX} levels are supported"
_CLAUSES: Final = "malformed query ending with SQL clauses"
_ALLOWED: Final = frozenset({"targetList", "whereClause", "limitOption", "op"})


class RejectedError(InvalidShapeError):
    """
    A condition that is refused, with the place in the user's text.
    """


def reject(reason: str, hint: str = "") -> InvalidShapeError:
    """
    Make the error for a condition as a whole.
    """
    return RejectedError("where", f"{reason}. {hint}" if hint else reason)


def reject_at(at: int, reason: str, hint: str = "") -> InvalidShapeError:
    """
    Make the error for a place: `at` is in the prefixed text, as the parser counts; the answer is in the user's.
    """
    return reject(f"At location {max(0, at - len(PREFIX))}: {reason}", hint)


def too_deep() -> InvalidShapeError:
    """
    Make the error for what nests too deeply.
    """
    return reject_at(0, _TOO_DEEP)


def parse(text: str) -> dict[str, Any]:
    """
    Give the tree of the expression, one of the grammar's nodes: `{"A_Expr": {...}}` and so on, places in bytes.

    Raises:
        InvalidShapeError: it is too long, too deep, or no single expression.
    """
    try:
        bytes_count = len(text.encode())
    except UnicodeEncodeError:
        raise reject("the text is not valid Unicode") from None
    if bytes_count > TEXT_BYTES_MAX:
        raise reject(
            f"WHERE clause is {bytes_count} bytes, which is bigger than maximum size of {TEXT_BYTES_MAX} bytes"
        )
    if "\0" in text:
        raise reject_at(text.index("\0") + len(PREFIX), "the character 0 is not valid in a condition")
    try:
        statements = pgparse.parse(PREFIX + text)
    except pgparse.PGQueryError as error:
        raise reject(f"At location {max(0, error.position - 1)}: {error.message}") from None
    except (RecursionError, ValueError):
        raise too_deep() from None
    expression = _only_expression(statements)
    if bytes_count >= _SHALLOW_BYTES:
        _check_depth(expression)
    return expression


def _only_expression(statements: list[dict[str, Any]]) -> dict[str, Any]:
    if len(statements) != 1:
        raise reject('unescaped ";" causing statement split')
    select = statements[0].get("stmt", {}).get("SelectStmt")
    if select is None or select.get("op") != "SETOP_NONE" or not select.keys() <= _ALLOWED:
        raise reject(_CLAUSES)
    if "stmt_len" in statements[0]:
        raise reject('unescaped ";" causing statement split')
    expression: dict[str, Any] | None = select.get("whereClause")
    if expression is None or len(select.get("targetList", ())) != 1:
        raise reject(_CLAUSES)
    return expression


def _check_depth(expression: dict[str, Any]) -> None:
    waiting: list[tuple[Any, int]] = [(expression, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _TREE_DEPTH_MAX:
            raise too_deep()
        if isinstance(node, dict):
            waiting.extend((value, depth + 1) for value in node.values() if isinstance(value, dict | list))
        else:
            waiting.extend((value, depth + 1) for value in node if isinstance(value, dict | list))
