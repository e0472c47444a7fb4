from __future__ import annotations

from penstock.consumers.entries import ShapeEntry
from penstock.postgres.relation import TableId
from penstock.service.engine.listing import WHERE_CHARS_MAX, list_shapes
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.reading import SHAPES_LISTED_MAX, ShapesQuestion


def entry(number: int, table: str = "items", *, where: str | None = None, **fields: object) -> ShapeEntry:
    """
    A shape that is on disk only.
    """
    definition = ShapeDefinition(
        TableId(1, "public", table), (), ("id",), has_primary_key=True, selected=("id",), where=where
    )
    found = ShapeEntry(number, f"{number}-1", definition, 1000)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def handles(entries: list[ShapeEntry], **question: object) -> list[str]:
    return [shape.handle for shape in list_shapes(entries, ShapesQuestion(**question), 100.0).shapes]  # type: ignore[arg-type]


def test_shapes_come_in_the_order_that_was_asked_for() -> None:
    """
    The largest, the one that was read last, or the table first; those made earlier first among equals; pages fit together.
    """
    entries = [
        entry(1, "b", file_bytes=5, read_at=10.0),
        entry(2, "a", file_bytes=None, read_at=None),
        entry(3, "c", file_bytes=9, read_at=99.0),
        entry(4, "a", file_bytes=5, read_at=10.0),
    ]
    assert handles(entries) == ["3-1", "1-1", "4-1", "2-1"]
    assert handles(entries, order="read") == ["3-1", "1-1", "4-1", "2-1"]
    assert handles(entries, order="table") == ["2-1", "4-1", "1-1", "3-1"]
    assert handles(entries, limit=2) + handles(entries, limit=2, skip=2) == handles(entries)
    assert handles(entries, table="a") == ["4-1", "2-1"]
    assert list_shapes(entries, ShapesQuestion(table="a", limit=1), 100.0).total == 2


def test_what_is_told_is_bounded() -> None:
    """
    Long conditions are cut off, and no more shapes are listed than there may be.
    """
    entries = [entry(number, where="x" * 10_000) for number in range(SHAPES_LISTED_MAX + 5)]
    listed = list_shapes(entries, ShapesQuestion(limit=10**9), 100.0)
    assert (listed.total, len(listed.shapes)) == (SHAPES_LISTED_MAX + 5, SHAPES_LISTED_MAX)
    assert {len(shape.where or "") for shape in listed.shapes} == {WHERE_CHARS_MAX + 1}


def test_a_shape_is_described() -> None:
    """
    What it is, how it stands, and when it was read.
    """
    (shape,) = list_shapes([entry(1, "Odd", read_at=97.5, file_bytes=7)], ShapesQuestion(), 100.0).shapes
    assert (shape.table, shape.where, shape.columns) == ('"public"."Odd"', None, None)
    assert (shape.state, shape.bytes, shape.read_s, shape.clients) == ("idle", 7, 2.5, 0)
    (ending,) = list_shapes([entry(2, condemned="why")], ShapesQuestion(), 100.0).shapes
    assert (ending.state, ending.read_s) == ("ending", None)
