from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consumer_kit import ITEMS
from penstock.consumers.resolve import resolve_shape, resolve_table_name, unknown_table
from penstock.errors import InvalidShapeError
from penstock.postgres.relation import Column, Table
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL
from penstock.shapes.reading import ShapeRequest

KEYLESS = replace(ITEMS, columns=tuple(replace(column, pk_index=None) for column in ITEMS.columns))
GENERATED = replace(
    ITEMS,
    columns=tuple(replace(column, is_generated=True) if column.name == "n" else column for column in ITEMS.columns),
)


def resolve(table: Table = ITEMS, *, are_generated_published: bool = False, **fields: Any) -> ShapeDefinition:
    return resolve_shape(
        ShapeRequest("items", BEFORE_ALL, **fields), table, are_generated_published=are_generated_published
    )


def refused(table: Table = ITEMS, **fields: Any) -> tuple[str, str]:
    with pytest.raises(InvalidShapeError) as caught:
        resolve(table, **fields)
    return caught.value.field, caught.value.message


def test_without_columns_all_are_selected() -> None:
    """
    Selected columns are sorted; the table's own order and its key are kept beside them.
    """
    definition = resolve()
    assert definition.selected == ("body", "id", "n", "title")
    assert [column.name for column in definition.columns] == ["id", "title", "n", "body"]
    assert (definition.key_columns, definition.has_primary_key, definition.is_explicit) == (("id",), True, False)


def test_listing_columns_makes_another_shape() -> None:
    """
    The order of the list does not matter; that there is one does.

    Scenario F11.
    """
    assert resolve(columns=("title", "id")) == resolve(columns=("id", "title"))
    assert resolve(columns=("id", "title", "n", "body")) != resolve()
    assert resolve(columns=("id", "title", "n", "body")).is_explicit


def test_columns_that_are_not_listed_are_no_part_of_a_shape() -> None:
    """
    A shape that lists its columns stays the same shape when the table gets another; one of all columns does not.

    Scenario F11.
    """
    wider = replace(ITEMS, columns=(*ITEMS.columns, Column("more", 23, -1, "int4")))
    for columns, where in ((("id", "n"), None), (("id",), "title = 'x'")):
        request = ShapeRequest("items", BEFORE_ALL, columns=columns, where=where)
        before = resolve_shape(request, ITEMS, are_generated_published=False)
        assert resolve_shape(request, wider, are_generated_published=False) == before
        assert {column.name for column in before.columns} == {"id", "n" if where is None else "title"}
    whole = ShapeRequest("items", BEFORE_ALL)
    assert resolve_shape(whole, wider, are_generated_published=False) != resolve_shape(
        whole, ITEMS, are_generated_published=False
    )


def test_a_table_without_key_is_keyed_by_all_columns() -> None:
    """
    All columns are the key, in table order, and a list must name them all.
    """
    definition = resolve(KEYLESS)
    assert definition.key_columns == ("id", "title", "n", "body")
    assert not definition.has_primary_key
    assert refused(KEYLESS, columns=("id", "n")) == (
        "columns",
        "The list of columns must include all primary key columns, missing: title, body",
    )


def test_problems_with_columns_are_found_in_order() -> None:
    """
    A missing key column comes before an unknown one, that before a generated one; each is named (B11).
    """
    missing = "The list of columns must include all primary key columns, missing: id"
    assert refused(columns=("nope",)) == ("columns", missing)
    unknown = "The following columns are not found on the table: nope"
    assert refused(GENERATED, columns=("id", "n", "nope")) == ("columns", unknown)
    generated = "The following columns are generated and cannot be included in the shape: n"
    assert refused(GENERATED, columns=("id", "n")) == ("columns", generated)


def test_a_column_named_twice_is_not_found() -> None:
    """
    The second mention is refused like an unknown name.
    """
    assert refused(columns=("id", "id")) == ("columns", "The following columns are not found on the table: id")


def test_generated_columns_need_a_server_that_publishes_them() -> None:
    """
    Without a list the sentence tells how to leave them out; where they are published they are columns like others
    (B11).
    """
    field, message = refused(GENERATED)
    assert field == "columns"
    assert message == (
        "The following columns are generated and cannot be included in the shape: n. You can exclude them from the shape "
        "by explicitly listing which columns to fetch in the 'columns' query param"
    )
    assert "n" in resolve(GENERATED, are_generated_published=True).selected
    assert resolve(GENERATED, columns=("id", "title")).selected == ("id", "title")


def test_queryable_columns_limit_and_stand_in_for_columns() -> None:
    """
    They bound what may be listed, and are what is selected when nothing is listed (B27).
    """
    assert resolve(queryable_columns=("id", "n")).selected == ("id", "n")
    assert resolve(queryable_columns=("id", "n"), columns=("id",)).selected == ("id",)
    assert refused(queryable_columns=("id", "n"), columns=("id", "title")) == (
        "columns",
        "The following columns are not found on the table: title",
    )
    assert refused(queryable_columns=("n",)) == (
        "queryable_columns",
        "The list of queryable columns must include all primary key columns, missing: id",
    )
    assert refused(queryable_columns=("id", "x")) == (
        "queryable_columns",
        "The following queryable columns are not found on the table: x",
    )


def test_table_names_follow_the_identifier_rules() -> None:
    """
    Names are folded or quoted; what is no identifier is refused with the identifier's own sentence.
    """
    assert resolve_table_name(ShapeRequest("Foo", BEFORE_ALL)) == ("public", "foo")
    assert resolve_table_name(ShapeRequest('s."B.c"', BEFORE_ALL)) == ("s", "B.c")
    with pytest.raises(InvalidShapeError, match=r"too many delimiters: a\.b\.c") as caught:
        resolve_table_name(ShapeRequest("a.b.c", BEFORE_ALL))
    assert caught.value.field == "table"
    assert unknown_table(resolve_table_name(ShapeRequest("nope", BEFORE_ALL))).message == (
        'Table "public"."nope" does not exist. If the table name contains capitals or special characters you must '
        "quote it."
    )
