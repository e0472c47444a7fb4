"""
Values of Python as parameters: the text that Postgres reads, and the type that a literal of it would have.

The forms are those that mean one thing whatever a session's settings are, as the language of `where` asks for. Pure.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from penstock.errors import InvalidShapeError

INT2: Final = range(-(2**15), 2**15)
INT4: Final = range(-(2**31), 2**31)
INT8: Final = range(-(2**63), 2**63)
RANGES: Final[Mapping[str, range]] = {"int2": INT2, "int4": INT4, "int8": INT8}
# From the narrowest on: an array takes the widest type that its elements have.
_WIDTHS: Final = ("int4", "int8", "numeric", "float8")


def write_value(value: Any) -> tuple[str, str]:
    """
    Write a value; gives its text and its type.

    Raises:
        InvalidShapeError: there is no text for it.
    """
    match value:
        case enum.Enum():
            return write_value(value.value)
        case bool():
            return ("true" if value else "false"), "bool"
        case int():
            # Ranges look at each of their numbers when asked for one of a subclass of int, as psycopg's are.
            number = int(value)
            return str(number), "int4" if number in INT4 else "int8" if number in INT8 else "numeric"
        case float():
            return _write_float(value), "float8"
        case Decimal():
            return _write_decimal(value), "numeric"
        case str():
            return _check_text(str(value)), "text"
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex(), "bytea"
        case dt.datetime():
            return _write_datetime(value), "timestamp" if value.utcoffset() is None else "timestamptz"
        case dt.date():
            return value.isoformat(), "date"
        case dt.time():
            if value.tzinfo is not None:
                raise _refuse("a time of day with a zone (Postgres advises against its type, too): leave the zone out")
            return value.isoformat(), "time"
        case dt.timedelta():
            return write_interval(value), "interval"
        case uuid.UUID():
            return str(value), "uuid"
        case ipaddress.IPv4Address() | ipaddress.IPv6Address():
            return str(value), "inet"
        case dict():
            return write_json(value), "jsonb"
        case list() | tuple():
            return _write_array(value), f"{_common_type(value)}[]"
        case None:
            raise _refuse("None, which is equal to nothing: ask whether the column is null")
        case other:
            raise _refuse(f"a {type(other).__name__}: give a text, a number, a date, a UUID or the like")


def write_json(value: Any) -> str:
    """
    Write a document.

    Raises:
        InvalidShapeError: it holds what JSON cannot.
    """
    try:
        return _check_text(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as cause:
        raise _refuse(f"no document of JSON: {cause}") from None


def write_interval(value: dt.timedelta) -> str:
    """
    Write a length of time, in the verbose form: that of ISO 8601 has no place for a sign before a fraction everywhere.
    """
    text = f"{value.days} days {value.seconds} seconds"
    return f"{text[: -len(' seconds')]}.{value.microseconds:06d} seconds" if value.microseconds else text


def _write_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(float(value))


def _write_decimal(value: Decimal) -> str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return "Infinity" if value > 0 else "-Infinity"
    return format(value, "f")


def _write_datetime(value: dt.datetime) -> str:
    offset = value.utcoffset()
    if offset is None:
        return value.isoformat(" ")
    try:
        return value.astimezone(dt.UTC).isoformat(" ")
    except OverflowError:
        # Within a day of the first or the last that Python knows: as it stands, then, offset and all.
        return value.isoformat(" ")


def _write_array(value: Sequence[Any]) -> str:
    return "{" + ",".join(_write_element(item) for item in value) + "}"


def _write_element(item: Any) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, list | tuple):
        return _write_array(item)
    text = write_value(item)[0].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _common_type(value: Sequence[Any]) -> str:
    types: set[str] = set()
    waiting = list(value)
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple):
            waiting.extend(item)
        elif item is not None:
            types.add(write_value(item)[1])
    if types <= set(_WIDTHS) and types:
        return max(types, key=_WIDTHS.index)
    if len(types) > 1:
        raise _refuse(f"a list of {' and '.join(sorted(types))}: its elements must be of one type")
    return types.pop() if types else "text"


def _check_text(text: str) -> str:
    if "\0" in text:
        raise _refuse("a text with the character 0, which Postgres does not store")
    return text


def _refuse(what: str) -> InvalidShapeError:
    return InvalidShapeError("params", f"a shape cannot have as a parameter {what}")
