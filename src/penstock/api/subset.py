"""
Subset parameters: from the query string or a body to what the engine is asked.

Owns the folding of `subset__…` parameters, the merging of a body with the query, and the forms that values may have; what
they mean is for the engine to check, because that needs the catalog. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from penstock.api.params import Query, QueryValue, number_params
from penstock.shapes.subset import NEEDS_ORDER, SubsetProblems, SubsetRequest
from penstock.wire import names

BODY_BYTES_MAX: Final = 8_000_000
"""Longest body of a POST."""

JsonObject: TypeAlias = dict[str, Any]

SUBSET_KEYS: Final = frozenset({"where", "order_by", "limit", "offset", "params", "where_expr", "order_by_expr"})
"""Keys of a body that belong to the subset when the body does not say `subset` itself."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_INTEGER_MAX: Final = 2**63 - 1


class BodyError(Exception):
    """
    A body that is no JSON object; the attributes are what the answer says.
    """

    def __init__(self, error: str, details: str | None = None) -> None:
        super().__init__(error)
        self.envelope: Final[dict[str, object]] = {"error": error}
        if details is not None:
            self.envelope["details"] = details


def parse_body(body: bytes) -> JsonObject:
    """
    Read the body of a POST, whatever its content type says; an empty one is an empty object.

    Raises:
        BodyError: it is no JSON object.
    """
    if not body:
        return {}
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError("Invalid JSON in request body", str(error)) from error
    if not isinstance(decoded, dict):
        raise BodyError("Request body must be a JSON object")
    return decoded


def fold_query(query: Query) -> tuple[Query, JsonObject | None]:
    """
    Take the subset out of a query: the parameters left, and what was under `subset__`, None when nothing was.
    """
    prefix = names.SUBSET_PREFIX
    nested = query.get(names.SUBSET)
    if not isinstance(nested, dict) and not any(key.startswith(prefix) for key in query):
        return query, None
    subset: JsonObject = dict(nested) if isinstance(nested, dict) else {}
    subset |= {key.removeprefix(prefix): value for key, value in query.items() if key.startswith(prefix)}
    rest = {key: value for key, value in query.items() if key != names.SUBSET and not key.startswith(prefix)}
    return rest, subset


def merge_body(query: Query, subset: JsonObject | None, body: JsonObject) -> tuple[Query, JsonObject | None]:
    """
    Let a body override the query.

    An object under `subset` is the subset's and all else the request's; without one, the keys that a subset has are the
    subset's: an `offset` in a body counts rows, the place in the log is named by the query.
    """
    inner = body.get(names.SUBSET)
    prefixed = {key: value for key, value in body.items() if key.startswith(names.SUBSET_PREFIX)}
    if isinstance(inner, dict):
        for_subset = inner
        taken = prefixed.keys() | {names.SUBSET}
    else:
        for_subset = {key: value for key, value in body.items() if key in SUBSET_KEYS}
        taken = prefixed.keys() | SUBSET_KEYS | {names.SUBSET}
    if for_subset or prefixed or isinstance(inner, dict):
        named = {key.removeprefix(names.SUBSET_PREFIX): value for key, value in prefixed.items()}
        subset = {**(subset or {}), **for_subset, **named}
    for_request = {key: value for key, value in body.items() if key not in taken}
    merged = dict(query)
    for key, value in for_request.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _as_query_value(value)
    return merged, subset


def read_subset(raw: Mapping[str, Any]) -> SubsetRequest:
    """
    Check the forms of a subset's fields. What is wrong is kept with it, because problems of the shape come first.
    """
    problems: SubsetProblems = {}
    where = _text("where", raw.get("where"), problems)
    order_by = _text("order_by", raw.get("order_by"), problems)
    limit = _integer("limit", raw.get("limit"), problems)
    offset = _integer("offset", raw.get("offset"), problems)
    params = _params(raw.get("params"), problems)
    if limit is not None and limit <= 0:
        problems["limit"] = ["must be greater than 0"]
    if offset is not None and offset < 0:
        problems["offset"] = ["must be greater than or equal to 0"]
    if (limit is not None or offset is not None) and order_by is None and "order_by" not in problems:
        problems["order_by"] = [NEEDS_ORDER]
    return SubsetRequest(where, params, limit, offset, order_by, problems)


def _text(name: str, value: Any, problems: SubsetProblems) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        problems[name] = ["is invalid"]
        return None
    return value if value.strip() else None


def _integer(name: str, value: Any, problems: SubsetProblems) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value):
        number = int(value)
    if number is None or abs(number) > _INTEGER_MAX:
        problems[name] = ["is invalid"]
        return None
    return number


def _params(value: Any, problems: SubsetProblems) -> tuple[str, ...]:
    if isinstance(value, str):
        if not value.strip():
            return ()
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            problems["params"] = ["params must be valid JSON"]
            return ()
    if value is None:
        return ()
    if not isinstance(value, dict):
        problems["params"] = ["params must be a JSON object"]
        return ()
    numbered = number_params({key: _stringify(item) for key, item in value.items()})
    if isinstance(numbered, str):
        problems["params"] = [numbered]
        return ()
    return numbered


def _stringify(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _as_query_value(value: Any) -> QueryValue:
    """
    Give a value of a body the form that it has in a query.
    """
    if isinstance(value, dict):
        return {key: _as_query_value(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_as_query_value(item) for item in value]
    return _stringify(value)
