"""
ORDER BY clauses of subsets: plain columns and nothing else.

What is allowed in a clause that strangers write decides what they can ask of a table that they are to see in part only:
an expression could read columns they may not read, a function could take for ever. So a clause is made of columns by
name, a direction and a place for NULLs; constants are allowed, and order nothing. The answer is the clause written anew
from what was understood. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import pgparse  # type: ignore[import-not-found]  # an extension module without stubs

from penstock.errors import InvalidShapeError
from penstock.postgres.quoting import quote_identifier, quote_name
from penstock.where.parse import TEXT_BYTES_MAX

PREFIX: Final = "SELECT 1 ORDER BY "
FIELD: Final = "order_by"
TERMS_COUNT_MAX: Final = 1000
"""Columns in a clause; a table has at most 1600."""

_DIRECTIONS: Final = {"SORTBY_DEFAULT": "", "SORTBY_ASC": " ASC", "SORTBY_DESC": " DESC"}
_NULLS: Final = {
    "SORTBY_NULLS_DEFAULT": "",
    "SORTBY_NULLS_FIRST": " NULLS FIRST",
    "SORTBY_NULLS_LAST": " NULLS LAST",
}
_ALLOWED: Final = frozenset({"targetList", "sortClause", "limitOption", "op"})


def compile_order(text: str, columns: Collection[str]) -> str:
    """
    Read the clause after ORDER BY and write it anew; empty when it orders by nothing.

    Args:
        text: the clause. Places in messages count from the start of `SELECT 1 ORDER BY ` before it.
        columns: those that may be named.

    Raises:
        InvalidShapeError: anything but columns, directions and places of NULLs; the field is `order_by`.
    """
    try:
        bytes_count = len(text.encode())
    except UnicodeEncodeError:
        raise _refuse("the text is not valid Unicode") from None
    if bytes_count > TEXT_BYTES_MAX:
        raise _refuse(
            f"ORDER BY clause is {bytes_count} bytes, which is bigger than maximum size of {TEXT_BYTES_MAX} bytes"
        )
    if "\0" in text:
        raise _refuse(f"At location {text.index(chr(0)) + len(PREFIX)}: the character 0 is not valid in a clause")
    try:
        statements = pgparse.parse(PREFIX + text)
    except pgparse.PGQueryError as error:
        raise _refuse(f"At location {max(0, error.position - 1)}: {error.message}") from None
    except (RecursionError, ValueError):
        raise _refuse("the clause is nested too deeply") from None
    if len(statements) != 1 or "stmt_len" in statements[0]:
        raise _refuse("Unexpected `;` in order by")
    select = statements[0].get("stmt", {}).get("SelectStmt", {})
    if select.get("op") != "SETOP_NONE" or not select.keys() <= _ALLOWED or "sortClause" not in select:
        raise _refuse("malformed query ending with SQL clauses")
    terms = select["sortClause"]
    if len(terms) > TERMS_COUNT_MAX:
        raise _refuse(f"the clause is too long; up to {TERMS_COUNT_MAX} columns are supported")
    raw = (PREFIX + text).encode()
    written = [_write(term["SortBy"], columns, raw) for term in terms]
    return ", ".join(term for term in written if term)


def _write(term: Mapping[str, Any], columns: Collection[str], raw: bytes) -> str:
    ((kind, body),) = term["node"].items()
    at = int(body.get("location", len(PREFIX))) if isinstance(body, Mapping) else len(PREFIX)
    place = len(raw[:at].decode(errors="ignore"))
    if kind == "A_Const":
        return ""
    if kind == "ParamRef":
        number = int(body.get("number", 0))
        raise _refuse(f"At location {place}: parameter ${number} is not supported in ORDER BY clauses")
    if kind != "ColumnRef":
        raise _refuse(f"At location {place}: {kind} expressions are not allowed in ORDER BY clauses")
    fields = [field.get("String", {}).get("sval") for field in body.get("fields", ())]
    name = fields[0] if len(fields) == 1 else None
    if name is None or name not in columns:
        told = ".".join("*" if field is None else quote_name(field) for field in fields)
        raise _refuse(f"At location {place}: unknown reference {told}")
    direction = _DIRECTIONS.get(term.get("sortby_dir", "SORTBY_DEFAULT"))
    if direction is None:
        raise _refuse(f"At location {place}: USING is not allowed in ORDER BY clauses")
    return f"{quote_identifier(name)}{direction}{_NULLS[term.get('sortby_nulls', 'SORTBY_NULLS_DEFAULT')]}"


def _refuse(message: str) -> InvalidShapeError:
    return InvalidShapeError(FIELD, message)
