"""
From a query string to a request whose parameters have the right form.

The order in which problems are looked for, and their words, are part of the contract: as soon as one stage finds any,
the later ones are skipped. What needs the catalog (whether the table exists, what its columns are, what the clause
means) is the engine's to check, after everything here; only the names of the parameters' keys are checked before it.

Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from penstock.errors import DecodeError, Problems
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.offset import BEFORE_ALL, LogOffset
from penstock.shapes.reading import RemoveRequest, ShapeRequest
from penstock.wire import names
from penstock.wire.identifiers import parse_columns, parse_relation

QueryValue: TypeAlias = "str | list[QueryValue] | dict[str, QueryValue]"
Query: TypeAlias = Mapping[str, QueryValue]

NESTING_MAX: Final = 8
"""Bracketed parts of a parameter's name."""

CURSOR_DIGITS_MAX: Final = 18

_BLANK: Final = "can't be blank"
_INVALID: Final = "is invalid"
_STRAY_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BRACKETED: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_E = TypeVar("_E", bound=Enum)


class LogRequest(msgspec.Struct, frozen=True):
    """
    A valid request for a part of a log.

    Attributes:
        shape: what the engine is asked.
        cursor: what the client echoes of the last live response, 0 without one.
        is_sse: whether the answer is a stream of events.
    """

    shape: ShapeRequest
    cursor: int = 0
    is_sse: bool = False

    @property
    def offset_text(self) -> str:
        """
        The place asked for, in the canonical form that goes into the entity tag.
        """
        return names.OFFSET_NOW if self.shape.offset is None else str(self.shape.offset)


# --- the query string ------------------------------------------------------------------------------------------------


def decode_query(raw: bytes) -> Query:
    """
    Decode a query string; of duplicates the last wins, and `a[b]=c` gives `{"a": {"b": "c"}}`.

    Raises:
        DecodeError: a percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    """
    query: dict[str, QueryValue] = {}
    for pair in raw.split(b"&"):
        if pair:
            key, _, value = pair.partition(b"=")
            _insert(query, _decode_text(key), _decode_text(value))
    return query


def find_secret(query: Query) -> str | None:
    """
    Give the secret that the client sent; the newer of the two names wins.
    """
    for name in (names.SECRET, names.API_SECRET):
        value = query.get(name)
        if isinstance(value, str):
            return value
    return None


def find_handle(query: Query) -> str | None:
    """
    Give the handle that the client sent, before anything is validated.
    """
    value = query.get(names.HANDLE)
    return value if isinstance(value, str) else None


def _decode_text(raw: bytes) -> str:
    if b"%" not in raw and b"+" not in raw:
        plain = raw
    elif _STRAY_PERCENT.search(raw):
        raise DecodeError("the query holds a percent sign that encodes nothing")
    else:
        plain = unquote_to_bytes(raw.replace(b"+", b" "))
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise DecodeError("the query is not UTF-8") from cause


def _insert(query: dict[str, QueryValue], key: str, value: str) -> None:
    match = _BRACKETED.fullmatch(key) if key.endswith("]") else None
    if match is None:
        query[key] = value
        return
    path = [match[1], *match[2][1:-1].split("][")]
    if len(path) > NESTING_MAX:
        raise DecodeError("the query nests too deep")
    level = query
    for place, name in enumerate(path[:-1]):
        inner = level.get(name)
        if path[place + 1] == "":
            items = inner if isinstance(inner, list) else []
            level[name] = items
            items.append(value)
            return
        if not isinstance(inner, dict):
            inner = {}
            level[name] = inner
        level = inner
    level[path[-1]] = value


# --- validation ------------------------------------------------------------------------------------------------------


def validate(query: Query) -> LogRequest | Problems:
    """
    Check everything that can be checked without the catalog. The subset must have been taken out before.
    """
    if any(key.startswith(names.SUBSET_PREFIX) for key in query):
        return {names.SUBSET: ["is not supported by this version"]}
    casts = _Casts(query)
    table = casts.text(names.TABLE)
    offset_text = casts.text(names.OFFSET)
    handle = casts.text(names.HANDLE)
    is_live = casts.flag(names.LIVE)
    is_sse = casts.sse_flag()
    where = casts.text(names.WHERE)
    params = casts.params()
    columns = casts.columns(names.COLUMNS)
    queryable_columns = casts.columns(names.QUERYABLE_COLUMNS)
    replica = casts.choice(names.REPLICA, Replica.DEFAULT)
    log = casts.choice(names.LOG, LogMode.FULL)
    is_compacting = casts.boolean(names.EXPERIMENTAL_COMPACTION)
    if casts.problems:
        return casts.problems

    if offset_text is None:
        return {names.OFFSET: [_BLANK]}
    is_now = offset_text == names.OFFSET_NOW
    offset = None if is_now else LogOffset.parse(offset_text)
    if offset is None and not is_now:
        return {names.OFFSET: ["has invalid format"]}
    needs_handle = offset is not None and offset != BEFORE_ALL
    if needs_handle and handle is None:
        return {names.HANDLE: ["can't be blank when offset != -1"]}
    if is_live and not needs_handle:
        place = "offset is 'now'" if is_now else "offset == -1"
        return {names.LIVE: [f"can't be true when {place}"]}
    if is_sse and not is_live:
        return {names.LIVE_SSE: ["can't be true unless live is also true"]}
    if table is None:
        return {names.TABLE: [_BLANK]}
    values = _check_shape(table, where, params)
    if isinstance(values, dict):
        return values
    shape = ShapeRequest(
        table=table,
        offset=offset,
        handle=handle if needs_handle else None,
        columns=columns,
        queryable_columns=queryable_columns,
        where=where,
        params=values,
        replica=replica,
        log=log,
        is_live=is_live,
        is_compacting=is_compacting,
    )
    return LogRequest(shape, _parse_cursor(query.get(names.CURSOR)), is_sse)


def validate_removal(query: Query) -> RemoveRequest | Problems:
    """
    Check a request to remove a shape. Flags are read strictly here, and what does not name the shape is dropped.
    """
    casts = _Casts(query)
    table = casts.text(names.TABLE)
    casts.text(names.OFFSET)
    handle = casts.text(names.HANDLE)
    for name in (names.LIVE, names.LIVE_SSE, names.EXPERIMENTAL_LIVE_SSE, names.EXPERIMENTAL_COMPACTION):
        casts.boolean(name)
    where = casts.text(names.WHERE)
    params = casts.params()
    columns = casts.columns(names.COLUMNS)
    queryable_columns = casts.columns(names.QUERYABLE_COLUMNS)
    replica = casts.choice(names.REPLICA, Replica.DEFAULT)
    log = casts.choice(names.LOG, LogMode.FULL)
    if casts.problems:
        return casts.problems
    if table is None:
        if handle is None:
            return {names.HANDLE: ["can't be blank when shape definition is missing"]}
        return RemoveRequest(handle=handle)
    values = _check_shape(table, where, params)
    if isinstance(values, dict):
        return values
    shape = ShapeRequest(
        table=table,
        offset=BEFORE_ALL,
        columns=columns,
        queryable_columns=queryable_columns,
        where=where,
        params=values,
        replica=replica,
        log=log,
    )
    return RemoveRequest(shape, handle)


class _Casts:
    """
    The first stage: every parameter to its type, with all problems gathered.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self.problems: Problems = {}

    def text(self, name: str) -> str | None:
        """
        A string that is not blank and that Postgres could hold.
        """
        value = self._query.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or "\0" in value:
            self._refuse(name)
            return None
        return value if value.strip() else None

    def flag(self, name: str) -> bool:
        """
        Present is true, unless it says literally `false`.
        """
        return name in self._query and self._query[name] != "false"

    def boolean(self, name: str, report_as: str | None = None) -> bool:
        value = self.text(name)
        if value in {None, "false", "0"}:
            return False
        if value not in {"true", "1"}:
            self._refuse(report_as or name)
        return True

    def sse_flag(self) -> bool:
        if names.LIVE_SSE in self._query:
            return self.flag(names.LIVE_SSE)
        return self.boolean(names.EXPERIMENTAL_LIVE_SSE, report_as=names.LIVE_SSE)

    def params(self) -> dict[str, str]:
        value = self._query.get(names.PARAMS)
        if value is None or (isinstance(value, str) and not value.strip()):
            return {}
        texts: dict[str, str] = {}
        if isinstance(value, dict):
            texts = {key: text for key, text in value.items() if isinstance(text, str) and "\0" not in text}
        if not isinstance(value, dict) or len(texts) != len(value):
            self._refuse(names.PARAMS)
        return texts

    def columns(self, name: str) -> tuple[str, ...] | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            return parse_columns(text)
        except DecodeError as error:
            self._refuse(name, error.message)
            return None

    def choice(self, name: str, default: _E) -> _E:
        text = self.text(name)
        for member in type(default):
            if member.value == text:
                return member
        if text is not None:
            self._refuse(name)
        return default

    def _refuse(self, name: str, message: str = _INVALID) -> None:
        told = self.problems.setdefault(name, [])
        assert isinstance(told, list)
        told.append(message)


def _check_shape(table: str, where: str | None, params: Mapping[str, str]) -> tuple[str, ...] | Problems:
    """
    Check the table's name, and give the values of the condition in order; without a condition there are none.
    """
    try:
        parse_relation(table)
    except DecodeError as error:
        return {names.TABLE: [error.message]}
    values = number_params(params) if where is not None else ()
    return {names.PARAMS: [values]} if isinstance(values, str) else values


def number_params(params: Mapping[str, str]) -> tuple[str, ...] | str:
    """
    Put the values in the order of their numbers; a string says why that cannot be done.
    """
    if not all(_INTEGER.fullmatch(key) for key in params):
        return "Parameters can only use numbers as keys"
    numbered = {int(key): value for key, value in params.items() if len(key) < 10}
    if len(numbered) != len(params) or sorted(numbered) != list(range(1, len(params) + 1)):
        return "Parameters must be numbered sequentially, starting from 1"
    return tuple(numbered[number] for number in sorted(numbered))


def _parse_cursor(value: QueryValue | None) -> int:
    if not isinstance(value, str) or len(value) > CURSOR_DIGITS_MAX or not _INTEGER.fullmatch(value):
        return 0
    return int(value)
