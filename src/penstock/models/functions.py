"""
Which functions of a library's vocabulary a condition may call: those of the language, and why not the others. Pure.
"""

from __future__ import annotations

from typing import Final

from penstock.errors import InvalidShapeError
from penstock.where.types import FUNCTIONS_BY_NAME

# What the grammar has words of its own for.
_SPECIAL: Final = frozenset({"coalesce", "greatest", "least", "nullif", "concat", "trim", "substring"})
_AGGREGATES: Final = frozenset({"count", "sum", "avg", "min", "max", "array_agg", "string_agg", "bool_and", "bool_or"})
_VOLATILE: Final = frozenset(
    {"now", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "random", "clock_timestamp",
     "statement_timestamp", "transaction_timestamp", "gen_random_uuid", "current_user", "session_user"}
)  # fmt: skip


def require_function(name: str) -> str:
    """
    Give the name of a function that conditions may call.

    Raises:
        InvalidShapeError: they may not.
    """
    known = name.lower()
    if known in _VOLATILE:
        raise InvalidShapeError(
            "where",
            f"a shape cannot have {known}(): its value changes without the row changing, so rows would enter and leave "
            "unseen; compute the value and compare with it",
        )
    if known in _AGGREGATES:
        raise InvalidShapeError(
            "where", f"a shape cannot have the aggregate {known}(): a condition is about one row; compute it later"
        )
    if known not in FUNCTIONS_BY_NAME and known not in _SPECIAL:
        raise InvalidShapeError(
            "where",
            f"a shape cannot have the function {name}(): those that conditions may call are listed in the reference of "
            "the language of where; keep its result in a column",
        )
    return known
