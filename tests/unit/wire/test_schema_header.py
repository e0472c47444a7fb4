from __future__ import annotations

import json

import pytest

from penstock.postgres.relation import Column, Table, TableId
from penstock.wire.schema import schema_header


def describe(*columns: Column, selected: tuple[str, ...] | None = None) -> dict[str, dict[str, object]]:
    table = Table(TableId(1, "public", "t"), columns, 1, "f")
    header = schema_header(table, selected or tuple(column.name for column in columns))
    described: dict[str, dict[str, object]] = json.loads(header)
    return described


def test_key_nullability_and_dimensions_are_told() -> None:
    """
    A primary key column has its place, a NOT NULL column says so, an array has its dimensions.
    """
    found = describe(
        Column("id", 20, -1, "int8", is_not_null=True, pk_index=0), Column("tags", 1009, -1, "text", dims=1)
    )
    assert found == {"id": {"type": "int8", "pk_index": 0, "not_null": True}, "tags": {"type": "text", "dims": 1}}


def test_only_selected_columns_are_told() -> None:
    """
    Columns that the shape does not serve are left out.
    """
    found = describe(Column("id", 20, -1, "int8"), Column("x", 25, -1, "text"), selected=("x",))
    assert found == {"x": {"type": "text"}}


def test_header_is_ascii() -> None:
    """
    Names that ASCII cannot hold are escaped, because header values hold nothing else.
    """
    table = Table(TableId(1, "public", "t"), (Column("größe", 25, -1, "text"),), 1, "f")
    header = schema_header(table, ["größe"])
    assert header.isascii()
    assert json.loads(header) == {"größe": {"type": "text"}}


INTERVAL_FULL = 0x7FFF << 16


@pytest.mark.parametrize(
    ("type_name", "typmod", "modifier"),
    [
        ("varchar", -1, {}),
        ("varchar", 14, {"max_length": 10}),
        ("bpchar", 5, {"length": 1}),
        ("bpchar", -1, {}),
        ("bit", 3, {"length": 3}),
        ("varbit", 8, {"length": 8}),
        ("numeric", -1, {}),
        ("numeric", (10 << 16 | 2) + 4, {"precision": 10, "scale": 2}),
        ("numeric", (5 << 16 | (-2 & 0x7FF)) + 4, {"precision": 5, "scale": -2}),
        ("numeric", (1000 << 16 | 1000) + 4, {"precision": 1000, "scale": 1000}),
        ("time", 3, {"precision": 3}),
        ("timetz", 1, {"precision": 1}),
        ("timestamp", 0, {}),
        ("timestamptz", 6, {"precision": 6}),
        ("interval", -1, {}),
        ("interval", INTERVAL_FULL | 3, {"precision": 3}),
        ("interval", 6 << 16 | 0xFFFF, {"fields": "YEAR TO MONTH"}),
        ("interval", 1 << 28 | 0xFFFF, {"fields": "SECOND"}),
        ("interval", 1 << 28 | 2, {"fields": "SECOND", "precision": 2}),
        ("interval", (1 << 3 | 1 << 10 | 1 << 11 | 1 << 12) << 16 | 0xFFFF, {"fields": "DAY TO SECOND"}),
        ("interval", 1 << 4 << 16 | 0xFFFF, {}),
        ("int4", -1, {}),
        ("geometry", 17, {"type_mod": 17}),
    ],
)
def test_type_modifiers_are_unpacked(type_name: str, typmod: int, modifier: dict[str, object]) -> None:
    """
    Each type's modifier is told in the words of the contract.
    """
    assert describe(Column("c", 1, typmod, type_name)) == {"c": {"type": type_name, **modifier}}
