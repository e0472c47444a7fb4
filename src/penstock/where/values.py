"""
One value of each type: reading literals, reading what Postgres wrote, writing as Postgres would, and comparing.

Values are Python's: bool, int, float, `Decimal`, str, bytes, and those of `datetimes`, `arrays` and `documents`. Whether two
of them are equal and which comes first is asked of `order_key`: equal keys mean equal values. Pure.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from typing import Any, Final

from penstock.where import arrays, datetime_texts, datetimes, documents, numbers, texts
from penstock.where.failures import EvaluationError
from penstock.where.types import element, is_array

Value = Any

INTEGERS: Final = frozenset({"int2", "int4", "int8"})
TEXTUAL: Final = frozenset({"text", "varchar", "bpchar", "name"})
BASE_TYPES: Final = frozenset(
    {
        "bool", "bytea", "name", "int2", "int4", "int8", "text", "float4", "float8", "bpchar", "varchar", "date",
        "time", "timestamp", "timestamptz", "interval", "numeric", "uuid", "jsonb",
    }
)  # fmt: skip
"""The types that conditions compute with, beside enums and arrays of all these."""

# Types of which equal values have equal text, so that rows are compared without reading them.
_TEXT_IS_VALUE: Final = frozenset(
    {
        "bool",
        "bytea",
        "name",
        "int2",
        "int4",
        "int8",
        "text",
        "varchar",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "uuid",
    }
)
_ORDERED_AS_THEY_ARE: Final = frozenset(
    {
        "bool",
        "bytea",
        "name",
        "int2",
        "int4",
        "int8",
        "text",
        "varchar",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "uuid",
    }
)

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_TRUE: Final = frozenset({"t", "tr", "tru", "true"})
_FALSE: Final = frozenset({"f", "fa", "fal", "fals", "false"})
_HEX: Final = re.compile(r"\\x(?:[0-9a-fA-F]{2})*", re.ASCII)


def is_known(type_: str) -> bool:
    """
    Tell whether conditions can compute with a type.
    """
    inner = element(type_)
    return inner in BASE_TYPES or inner.startswith("enum:")


def text_is_value(type_: str) -> bool:
    """
    Tell whether equal values always have equal text in the replication stream.
    """
    return type_ in _TEXT_IS_VALUE or (type_.startswith("enum:") and not is_array(type_))


def _parse_bool(text: str) -> bool:
    word = text.strip(" \t\n\r\f\v").lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise EvaluationError("not a boolean")


def _parse_uuid(text: str) -> str:
    lower = text.lower()
    if not _UUID.fullmatch(lower):
        raise EvaluationError("not a uuid")
    return lower


def _parse_bytea(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise EvaluationError("not a bytea in hex form")
    return bytes.fromhex(text[2:])


def _column_bytea(data: bytes) -> bytes:
    return bytes.fromhex(data[2:].decode())


_PARSE: Final[dict[str, Callable[[str], Value]]] = {
    "bool": _parse_bool,
    "bytea": _parse_bytea,
    "name": lambda text: texts.clip_name(texts.no_nul(text)),
    "int2": lambda text: numbers.int2(numbers.parse_integer(text)),
    "int4": lambda text: numbers.int4(numbers.parse_integer(text)),
    "int8": lambda text: numbers.int8(numbers.parse_integer(text)),
    "text": texts.no_nul,
    "varchar": texts.no_nul,
    "bpchar": texts.no_nul,
    "float4": numbers.parse_single,
    "float8": numbers.parse_double,
    "numeric": numbers.parse_numeric,
    "date": datetime_texts.parse_date,
    "time": datetime_texts.parse_time,
    "timestamp": datetime_texts.parse_timestamp,
    "timestamptz": datetime_texts.parse_timestamptz,
    "interval": datetime_texts.parse_interval,
    "uuid": _parse_uuid,
    "jsonb": documents.parse_document,
}
_FORMAT: Final[dict[str, Callable[[Value], str]]] = {
    "bool": lambda value: "t" if value else "f",
    "bytea": lambda value: "\\x" + value.hex(),
    "name": str,
    "int2": str,
    "int4": str,
    "int8": str,
    "text": str,
    "varchar": str,
    "bpchar": str,
    "float4": numbers.format_single,
    "float8": numbers.format_double,
    "numeric": numbers.format_numeric,
    "date": datetime_texts.format_date,
    "time": datetime_texts.format_time,
    "timestamp": datetime_texts.format_timestamp,
    "timestamptz": datetime_texts.format_timestamptz,
    "interval": datetime_texts.format_interval,
    "uuid": str,
    "jsonb": documents.format_document,
}
_COLUMN: Final[dict[str, Callable[[bytes], Value]]] = {
    "bool": lambda data: data == b"t",
    "bytea": _column_bytea,
    "int2": int,
    "int4": int,
    "int8": int,
    "float4": numbers.column_single,
    "float8": float,
    "numeric": numbers.column_numeric,
    "jsonb": documents.column_document,
}


def parser(type_: str) -> Callable[[str], Value]:
    """
    Give the reader of a type's literals; it raises `EvaluationError`.
    """
    if is_array(type_):
        item = parser(element(type_))
        return lambda text: arrays.parse_array(text, item)
    return texts.no_nul if type_.startswith("enum:") else _PARSE[type_]


def formatter(type_: str) -> Callable[[Value], str]:
    """
    Give the writer of a type: what its output function writes under our session settings.
    """
    if is_array(type_):
        item = formatter(element(type_))
        return lambda array: arrays.format_array(array, item)
    return str if type_.startswith("enum:") else _FORMAT[type_]


@functools.cache
def decoder(type_: str) -> Callable[[bytes], Value]:
    """
    Give the reader of a column's text.
    """
    if is_array(type_):
        item = _text_decoder(element(type_))
        return lambda data: arrays.parse_array(data.decode(), item)
    if type_ in _COLUMN:
        return _COLUMN[type_]
    if type_ in TEXTUAL or type_ == "uuid" or type_.startswith("enum:"):
        return bytes.decode
    parse = _PARSE[type_]
    return lambda data: parse(data.decode())


def _text_decoder(type_: str) -> Callable[[str], Value]:
    if type_ in INTEGERS:
        return int
    if type_ in TEXTUAL or type_ == "uuid" or type_.startswith("enum:"):
        return str
    decode = decoder(type_)
    return lambda text: decode(text.encode())


def _array_key(item: Callable[[Value], Any]) -> Callable[[arrays.Array], Any]:
    def key(array: arrays.Array) -> Any:
        # NULL elements are equal to each other and greater than all others.
        values = tuple((True, None) if value is None else (False, item(value)) for value in array.items)
        shape = (
            len(array.items),
            len(array.bounds),
            tuple(n for _, n in array.bounds),
            tuple(n for n, _ in array.bounds),
        )
        return values, shape

    return key


@functools.cache
def order_key(type_: str) -> Callable[[Value], Any] | None:
    """
    Give the function whose results compare as the values do, by bytes for text; None when values do so themselves.

    Raises:
        LookupError: the type has no order here (jsonb).
    """
    if is_array(type_):
        return _array_key(order_key(element(type_)) or _itself)
    if type_ in _ORDERED_AS_THEY_ARE or type_.startswith("enum:"):
        return None
    keys: dict[str, Callable[[Value], Any]] = {
        "float4": numbers.float_rank,
        "float8": numbers.float_rank,
        "numeric": numbers.numeric_rank,
        "bpchar": texts.unpad,
        "interval": datetimes.span,
    }
    return keys[type_]


@functools.cache
def equality_key(type_: str) -> Callable[[Value], Any] | None:
    """
    Give the function whose results are hashable and equal exactly when the values are; None when values are that.
    """
    if element(type_) == "jsonb":
        if is_array(type_):
            return _array_key(_document_key)
        return _document_key
    return order_key(type_)


def _itself(value: Value) -> Any:
    return value


def _document_key(document: documents.Document) -> Any:
    return _freeze(document.root)


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return "object", frozenset((key, _freeze(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_freeze, value))
    return documents.kind(documents.Document(value)), value


COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
