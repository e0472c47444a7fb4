r"""
From the text that Postgres writes to values of Python.

The header `electric-schema` names the type of each column. What has an exact counterpart in Python becomes that; what has
none stays the text it is: `infinity` and years before 1 or after 9999, intervals with months, `24:00:00`, arrays whose
first index is not 1, and every type that is not listed here, enums, domains and composites among them. The forms are those
of the settings that servers of the protocol use: ISO dates, ISO 8601 intervals, `\x` for bytes.

Pure values. Invariant: no text makes a decoder fail; what cannot be represented comes back unchanged.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

import msgspec

from penstock.errors import ProtocolError

Decoder: TypeAlias = Callable[[str], Any]
"""Makes a value from the text of one; raises `ValueError` where there is none."""

Schema: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What `electric-schema` says: by column `type`, and where they apply `dims`, `pk_index`, `not_null` and so on."""

_DATE: Final = r"\d{4}-\d\d-\d\d"
_TIME: Final = r"\d\d:\d\d:\d\d(?:\.\d{1,6})?"
_ZONE: Final = r"[+-]\d\d(?::\d\d){0,2}"
_IS_DATE: Final = re.compile(_DATE, re.ASCII).fullmatch
_IS_TIME: Final = re.compile(_TIME, re.ASCII).fullmatch
_IS_TIMETZ: Final = re.compile(_TIME + _ZONE, re.ASCII).fullmatch
_IS_TIMESTAMP: Final = re.compile(f"{_DATE} {_TIME}", re.ASCII).fullmatch
_IS_TIMESTAMPTZ: Final = re.compile(f"{_DATE} {_TIME}{_ZONE}", re.ASCII).fullmatch
_INTERVAL: Final = re.compile(
    r"P(?:(?P<D>-?\d+)D)?(?:T(?:(?P<H>-?\d+)H)?(?:(?P<M>-?\d+)M)?(?:(?P<S>-?\d+(?:\.\d{1,6})?)S)?)?", re.ASCII
)
_IS_BYTES: Final = re.compile(r"\\x(?:[0-9a-f]{2})*", re.ASCII).fullmatch
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
# One step through the text of an array, by separator: a brace or a separator, a quoted or a plain element.
_ARRAY_TOKENS: Final = {
    separator: re.compile(rf'([{{}}{separator}])|"((?:[^"\\]|\\.)*)"|([^{{}}{separator}"]+)', re.DOTALL)
    for separator in ",;"
}
_SCHEMA: Final = msgspec.json.Decoder(dict[str, dict[str, Any]])


def read_schema(header: str) -> Schema:
    """
    Read the header `electric-schema`.

    Raises:
        ProtocolError: it is not what it should be.
    """
    try:
        return _SCHEMA.decode(header)
    except msgspec.DecodeError as cause:
        raise ProtocolError("the header electric-schema is not JSON: is a proxy changing it?") from cause


def _bool(text: str) -> bool:
    if text in {"t", "true"}:
        return True
    if text in {"f", "false"}:
        return False
    raise ValueError(text)


def _checked(matches: Callable[[str], object], make: Decoder) -> Decoder:
    def decode(text: str) -> Any:
        if not matches(text):
            raise ValueError(text)
        return make(text)

    return decode


def _interval(text: str) -> dt.timedelta:
    match = _INTERVAL.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ValueError(text)
    # In microseconds, because a sum of floats would not be exact.
    seconds = Decimal(match["S"] or 0)
    minutes = (int(match["D"] or 0) * 24 + int(match["H"] or 0)) * 60 + int(match["M"] or 0)
    return dt.timedelta(microseconds=minutes * 60_000_000 + int(seconds * 1_000_000))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as cause:
        raise ValueError("too deep") from cause


_DECODERS: Final[Mapping[str, Decoder]] = {
    "bool": _bool,
    "int2": int,
    "int4": int,
    "int8": int,
    "oid": int,
    "numeric": Decimal,
    "float4": float,
    "float8": float,
    "date": _checked(_IS_DATE, dt.date.fromisoformat),
    "time": _checked(_IS_TIME, dt.time.fromisoformat),
    "timetz": _checked(_IS_TIMETZ, dt.time.fromisoformat),
    "timestamp": _checked(_IS_TIMESTAMP, dt.datetime.fromisoformat),
    "timestamptz": _checked(_IS_TIMESTAMPTZ, dt.datetime.fromisoformat),
    "interval": _interval,
    "uuid": uuid.UUID,
    "bytea": _checked(_IS_BYTES, lambda text: bytes.fromhex(text[2:])),
    "json": _json,
    "jsonb": _json,
}


def _safe(decode: Decoder) -> Decoder:
    def decode_or_keep(text: str) -> Any:
        try:
            return decode(text)
        except (ValueError, OverflowError, InvalidOperation):
            return text

    return decode_or_keep


def _read_array(text: str, decode: Decoder, separator: str) -> list[Any]:
    """
    Read the text of an array (Postgres documentation, "Array Input and Output Syntax").
    """
    if not text.startswith("{"):
        raise ValueError(text)  # bounds of its own, `[0:1]={1,2}`, which a list cannot hold
    top: list[Any] = []
    open_lists: list[list[Any]] = [top]
    token = _ARRAY_TOKENS[separator]
    position = 0
    while position < len(text):
        match = token.match(text, position)
        if match is None:
            raise ValueError(text)
        position = match.end()
        mark, quoted, bare = match.groups()
        if mark == "{":
            inner: list[Any] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
        elif mark == "}":
            open_lists.pop()
            if not open_lists:
                raise ValueError(text)
        elif bare is not None:
            open_lists[-1].append(None if bare == "NULL" else decode(bare))
        elif mark is None:
            open_lists[-1].append(decode(_ESCAPED.sub(r"\1", quoted)))
    if len(open_lists) != 1 or len(top) != 1:
        raise ValueError(text)
    elements: list[Any] = top[0]
    return elements


def _array_of(decode: Decoder, separator: str) -> Decoder:
    return lambda text: _read_array(text, decode, separator)


def decoder_of(column: Mapping[str, Any], own: Mapping[str, Decoder] | None = None) -> Decoder | None:
    """
    Choose the decoder of a column; None when its values stay text.

    Args:
        column: what the schema says about it.
        own: decoders by name of type that go before ours. Where one raises `ValueError`, the text stays.
    """
    name = column.get("type", "")
    decode = (own or {}).get(name) or _DECODERS.get(name)
    if column.get("dims"):
        # Boxes are the one built-in type whose elements are separated otherwise, because they hold commas.
        return _safe(_array_of(_safe(decode or str), ";" if name == "box" else ","))
    return _safe(decode) if decode is not None else None


class RowDecoder:
    """
    Decodes the rows of one shape.
    """

    def __init__(self, schema: Schema, *, own: Mapping[str, Decoder] | None = None, is_raw: bool = False) -> None:
        """
        Choose a decoder for each column.

        Args:
            schema: what the server says about the columns.
            own: decoders by name of type that go before ours.
            is_raw: leave all values as the text they are.
        """
        self.schema: Final = schema
        chosen = {} if is_raw else {name: decoder_of(column, own) for name, column in schema.items()}
        self._decoders: Final = {name: decode for name, decode in chosen.items() if decode is not None}

    def decode(self, texts: Mapping[str, str | None]) -> dict[str, Any]:
        """
        Decode a row or a part of one; NULL is None.
        """
        decoders = self._decoders
        return {
            name: text if text is None or (decode := decoders.get(name)) is None else decode(text)
            for name, text in texts.items()
        }
