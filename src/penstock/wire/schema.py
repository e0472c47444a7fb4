"""
The `electric-schema` header: what the columns of a shape are, as the catalog tells it at the time of the response.

Type modifiers are packed differently by every type of Postgres; the unpacking here follows `numerictypmodout`,
`intervaltypmodout` and their siblings in the server. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from penstock.postgres.relation import NO_TYPMOD, Column, Table

NO_SCHEMA: Final = b"null"
"""Header value when the table is gone."""

_VARIABLE_LENGTH_HEADER_BYTES: Final = 4
"""Postgres adds the size of its length word to the modifiers of character and numeric types."""

_INTERVAL_FULL_RANGE: Final = 0x7FFF
_INTERVAL_FULL_PRECISION: Final = 0xFFFF
_INTERVAL_FIELDS: Final = (
    (1 << 2, "YEAR"),
    (1 << 1, "MONTH"),
    (1 << 3, "DAY"),
    (1 << 10, "HOUR"),
    (1 << 11, "MINUTE"),
    (1 << 12, "SECOND"),
)


def schema_header(table: Table, selected: Sequence[str]) -> bytes:
    """
    Describe the selected columns, in catalog order, as JSON in ASCII (header values know no other letters).
    """
    wanted = frozenset(selected)
    described = {column.name: _describe(column) for column in table.columns if column.name in wanted}
    return json.dumps(described, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _describe(column: Column) -> dict[str, str | int | bool]:
    description: dict[str, str | int | bool] = {"type": column.type_name}
    if column.dims > 0:
        description["dims"] = column.dims
    if column.pk_index is not None:
        description["pk_index"] = column.pk_index
    if column.is_not_null:
        description["not_null"] = True
    return description | _describe_modifier(column.type_name, column.typmod)


def _describe_modifier(type_name: str, typmod: int) -> dict[str, str | int | bool]:
    if typmod <= NO_TYPMOD:
        return {}
    match type_name:
        case "varchar" | "text":
            return {"max_length": typmod - _VARIABLE_LENGTH_HEADER_BYTES} if typmod > 0 else {}
        case "bpchar":
            return {"length": typmod - _VARIABLE_LENGTH_HEADER_BYTES} if typmod > 0 else {}
        case "bit" | "varbit":
            return {"length": typmod}
        case "numeric":
            packed = typmod - _VARIABLE_LENGTH_HEADER_BYTES
            return {"precision": _signed((packed >> 16) & 0xFFFF, 16), "scale": _signed(packed & 0x7FF, 11)}
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return {"precision": typmod} if typmod > 0 else {}
        case "interval":
            return _describe_interval(typmod)
        case _:
            return {"type_mod": typmod}


def _describe_interval(typmod: int) -> dict[str, str | int | bool]:
    description: dict[str, str | int | bool] = {}
    precision = typmod & _INTERVAL_FULL_PRECISION
    if precision != _INTERVAL_FULL_PRECISION:
        description["precision"] = precision
    mask = (typmod >> 16) & _INTERVAL_FULL_RANGE
    if mask != _INTERVAL_FULL_RANGE:
        fields = [name for bit, name in _INTERVAL_FIELDS if mask & bit]
        if fields:
            description["fields"] = fields[0] if len(fields) == 1 else f"{fields[0]} TO {fields[-1]}"
    return description


def _signed(value: int, bits: int) -> int:
    """
    Read a two's complement number; the scale of a numeric has 11 bits since Postgres 15 (before, it never used more).
    """
    return value - (1 << bits) if value >> (bits - 1) else value
