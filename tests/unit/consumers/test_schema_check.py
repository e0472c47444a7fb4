from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from consumer_kit import DESCRIPTION, ITEMS
from penstock.consumers.schema_check import check_description, check_table
from penstock.postgres.relation import Column, RelationDescription, StreamColumn, Table, TableId
from penstock.shapes.definition import ShapeColumn, ShapeDefinition

WHOLE = ShapeDefinition(
    ITEMS.id,
    tuple(ShapeColumn(column.name, column.type_oid, column.typmod) for column in ITEMS.columns),
    ("id",),
    has_primary_key=True,
    selected=("body", "id", "n", "title"),
)
LISTED = msgspec.structs.replace(WHOLE, selected=("id", "n"), is_explicit=True)
MORE = StreamColumn("more", 23, -1, is_key=True)


def with_columns(*columns: StreamColumn) -> RelationDescription:
    return DESCRIPTION._replace(columns=columns)


def test_an_unchanged_table_is_survived() -> None:
    """
    The same columns under the same identity are no reason, in any order, from any partition.

    Scenario H16.
    """
    assert check_description(DESCRIPTION, WHOLE) is None
    assert check_table(ITEMS, WHOLE) is None
    partition = RelationDescription(TableId(555, "public", "items_2024"), "f", tuple(reversed(DESCRIPTION.columns)))
    assert check_description(partition, WHOLE) is None


@pytest.mark.parametrize("definition", [WHOLE, LISTED])
def test_a_renamed_or_replaced_table_is_not_survived(definition: ShapeDefinition) -> None:
    """
    Another name for the oid, and another oid for the name, end the log.

    Scenario H16.
    """
    renamed = DESCRIPTION._replace(id=TableId(100, "other", "items"))
    assert check_description(renamed, definition) == "table was renamed"
    again = DESCRIPTION._replace(id=TableId(101, "public", "items"))
    assert check_description(again, definition) == "table was dropped and created again"
    assert check_table(None, definition) == "table was dropped or renamed"
    assert check_table(replace(ITEMS, id=TableId(101, "public", "items")), definition) is not None


def test_a_new_column_matters_only_to_shapes_of_all_columns() -> None:
    """
    A shape that lists its columns does not see others come or go.
    """
    wider = with_columns(*DESCRIPTION.columns, MORE)
    assert check_description(wider, WHOLE) == "number of columns changed"
    assert check_description(wider, LISTED) is None
    without_title = with_columns(*(column for column in DESCRIPTION.columns if column.name != "title"))
    assert check_description(without_title, LISTED) is None


@pytest.mark.parametrize("definition", [WHOLE, LISTED])
def test_a_selected_column_must_stay_as_it_is(definition: ShapeDefinition) -> None:
    """
    Dropping, renaming or retyping a selected column ends the log, a changed modifier too.
    """
    renamed = with_columns(*(c._replace(name="m") if c.name == "n" else c for c in DESCRIPTION.columns))
    assert check_description(renamed, definition) == "column n was dropped or renamed"
    retyped = with_columns(*(c._replace(type_oid=20) if c.name == "n" else c for c in DESCRIPTION.columns))
    assert check_description(retyped, definition) == "type of column n changed"
    modified = with_columns(*(c._replace(typmod=8) if c.name == "n" else c for c in DESCRIPTION.columns))
    assert check_description(modified, definition) == "type of column n changed"


def test_another_primary_key_is_not_survived() -> None:
    """
    The catalog knows primary keys, which the stream does not tell.
    """

    def keyed(*names: str) -> Table:
        columns = [replace(column, pk_index=None) for column in ITEMS.columns]
        return replace(
            ITEMS,
            columns=tuple(
                replace(column, pk_index=names.index(column.name)) if column.name in names else column
                for column in columns
            ),
        )

    assert check_table(keyed("id"), WHOLE) is None
    assert check_table(keyed("id", "n"), WHOLE) == "primary key changed"
    assert check_table(keyed(), WHOLE) == "primary key changed"
    keyless = msgspec.structs.replace(
        WHOLE, key_columns=tuple(column.name for column in ITEMS.columns), has_primary_key=False
    )
    assert check_table(keyed(), keyless) is None
    assert check_table(keyed("id"), keyless) == "primary key was added"


def test_a_default_or_nullability_is_no_reason() -> None:
    """
    What does not change the bytes of a row is survived.
    """
    columns = tuple(
        Column(
            column.name, column.type_oid, column.typmod, column.type_name, is_not_null=True, pk_index=column.pk_index
        )
        for column in ITEMS.columns
    )
    assert check_table(replace(ITEMS, columns=columns), WHOLE) is None


def test_without_a_key_a_new_column_names_rows_too() -> None:
    """
    Two rows that differ in the new column alone would be one: also a shape that lists all columns begins anew.
    """
    keyless = msgspec.structs.replace(
        WHOLE, key_columns=tuple(column.name for column in ITEMS.columns), has_primary_key=False, is_explicit=True
    )
    assert check_description(DESCRIPTION, keyless) is None
    assert check_description(with_columns(*DESCRIPTION.columns, MORE), keyless) == "number of columns changed"
