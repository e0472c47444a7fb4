"""What becomes of changes in shapes with a condition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace as replace_facts
from typing import Any

import pytest
from msgspec.structs import replace

from consumer_kit import DESCRIPTION, ITEMS, row
from penstock.collector.abc import INCLUDES_NEW, UNKNOWN, RoutedPart
from penstock.collector.filter.index import FilterIndex
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.projection import Projections, Rotate
from penstock.consumers.resolve import resolve_shape
from penstock.consumers.schema_check import check_description
from penstock.errors import InvalidShapeError
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import Column, StreamColumn
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.messages import Change, Operation, Row
from penstock.shapes.condition import condition_of, know_letters, letters_of
from penstock.shapes.definition import Replica, ShapeDefinition, decode_definition
from penstock.shapes.offset import BEFORE_ALL
from penstock.shapes.reading import ShapeRequest
from penstock.where.facts import NO_FACTS, CaseMapping, DatabaseFacts, EnumType

BOUNDS = SnapshotBounds(Snapshot(10, 14, frozenset()), InsertLsn(1000))


def shape(where: str | None, *params: str, **fields: Any) -> ShapeDefinition:
    request = ShapeRequest("items", BEFORE_ALL, where=where, params=params, **fields)
    return resolve_shape(request, ITEMS, are_generated_published=False)


def change(operation: str, old: Row | None, new: Row | None, *, position: int = 4, **fields: Any) -> Change:
    return Change(Operation(operation), fields.pop("relation", DESCRIPTION), position, old, new, **fields)


def part(*changes: Change) -> RoutedPart:
    return RoutedPart(CommitLsn(2000), 20, changes, EndLsn(2008))


def answer(definition: ShapeDefinition, *changes: Change) -> list[tuple[int, str, str, Any]] | Rotate:
    """The elements as (position, operation, last part of the key, value)."""
    handler = ShapeHandler(Projections().of(definition), BOUNDS)
    found = handler.handle(part(*changes), {})
    return found if isinstance(found, Rotate) else [told(*element) for element in found]


def told(op: int, element: bytes) -> tuple[int, str, str, Any]:
    message = json.loads(element)
    return op, message["headers"]["operation"], message["key"].rpartition("/")[2].strip('"'), message["value"]


IN, OUT, NULL = row(1, b"in"), row(1, b"out"), row(1, None)
WHOLE = {"id": "1", "title": "in", "n": "0", "body": None}
MOVES: Sequence[tuple[str, Row | None, Row | None, list[tuple[int, str, str, Any]]]] = (
    ("insert", None, IN, [(4, "insert", "1", WHOLE)]),
    ("insert", None, OUT, []),
    ("insert", None, NULL, []),
    ("delete", IN, None, [(4, "delete", "1", {"id": "1"})]),
    ("delete", OUT, None, []),
    ("delete", NULL, None, []),
    ("update", IN, row(1, b"in", 5), [(4, "update", "1", {"id": "1", "n": "5"})]),
    ("update", IN, IN, []),
    ("update", IN, OUT, [(4, "delete", "1", {"id": "1"})]),
    ("update", IN, NULL, [(4, "delete", "1", {"id": "1"})]),
    ("update", OUT, IN, [(4, "insert", "1", WHOLE)]),
    ("update", NULL, IN, [(4, "insert", "1", WHOLE)]),
    ("update", OUT, row(1, b"else"), []),
    ("update", OUT, NULL, []),
    # The key changes too: both halves only if the row stays in the shape.
    ("update", IN, row(2, b"in"), [(4, "delete", "1", {"id": "1"}), (5, "insert", "2", {**WHOLE, "id": "2"})]),
    ("update", IN, row(2, b"out"), [(4, "delete", "1", {"id": "1"})]),
    ("update", OUT, row(2, b"in"), [(4, "insert", "2", {**WHOLE, "id": "2"})]),
    ("update", OUT, row(2, b"out"), []),
)


@pytest.mark.parametrize(("operation", "old", "new", "expected"), MOVES)
def test_a_row_enters_stays_and_leaves(operation: str, old: Row | None, new: Row | None, expected: list[Any]) -> None:
    """
    C21: a change becomes what it is to the rows of the shape, and only true lets a row in; NULL does not.
    """
    assert answer(shape("title = 'in'"), change(operation, old, new)) == expected


@pytest.mark.parametrize(("operation", "old", "new", "expected"), MOVES)
def test_what_routing_found_out_is_not_asked_again(
    operation: str, old: Row | None, new: Row | None, expected: list[Any]
) -> None:
    """
    A change that is routed with a verdict becomes the same; one of no concern is not routed.
    """
    definition = shape("title = 'in'")
    index = FilterIndex()
    index.add(1, definition)
    matches = index.match({100: [change(operation, old, new)]})
    if not matches:
        assert expected == []
        return
    ((incarnations, changes, verdicts),) = matches
    assert incarnations == (1,)
    assert UNKNOWN not in verdicts
    handler = ShapeHandler(Projections().of(definition), BOUNDS)
    found = handler.handle(RoutedPart(CommitLsn(2000), 20, changes, EndLsn(2008), verdicts), {})
    assert not isinstance(found, Rotate)
    assert [told(*element) for element in found] == expected


def test_a_verdict_does_not_hide_that_the_table_changed() -> None:
    """
    A shape whose row is found is ended all the same when another column of its table is gone.
    """
    definition = shape("title = 'in'")
    changed = DESCRIPTION._replace(columns=DESCRIPTION.columns[:-1])
    index = FilterIndex()
    index.add(1, definition)
    ((_, changes, verdicts),) = index.match({100: [change("insert", None, IN[:-1], relation=changed)]})
    assert list(verdicts) == [INCLUDES_NEW]
    handler = ShapeHandler(Projections().of(definition), BOUNDS)
    found = handler.handle(RoutedPart(CommitLsn(2000), 20, changes, EndLsn(2008), verdicts), {})
    assert found == Rotate("number of columns changed")


def test_a_leaving_row_is_told_whole_with_full_replica() -> None:
    """
    With `replica=full` a delete carries the old row, and an entering row says nothing of its past.
    """
    definition = shape("title = 'in'", replica=Replica.FULL)
    assert answer(definition, change("update", IN, row(2, b"out", 9))) == [(4, "delete", "1", WHOLE)]
    handler = ShapeHandler(Projections().of(definition), BOUNDS)
    found = handler.handle(part(change("update", OUT, IN)), {})
    assert not isinstance(found, Rotate)
    message = json.loads(found[0][1])
    assert message["value"] == WHOLE
    assert "old_value" not in message
    assert message["headers"]["last"]


def test_a_condition_may_read_what_is_not_served() -> None:
    """
    Such a column decides about membership and is not sent; an update of it alone, within the shape, is no message.
    """
    definition = shape("n > 3", columns=("id", "title"))
    assert answer(definition, change("update", row(1, b"a", 1), row(1, b"a", 4))) == [
        (4, "insert", "1", {"id": "1", "title": "a"})
    ]
    assert answer(definition, change("update", row(1, b"a", 4), row(1, b"a", 5))) == []
    assert answer(definition, change("update", row(1, b"a", 4), row(1, b"b", 3))) == [(4, "delete", "1", {"id": "1"})]


def test_only_the_last_message_of_the_shape_is_marked() -> None:
    """
    Of three inserts of which the last is not for the shape, the second is the last.
    """
    handler = ShapeHandler(Projections().of(shape("n > 3")), BOUNDS)
    rows = [row(1, n=4), row(2, n=5), row(3, n=0)]
    found = handler.handle(
        part(*(change("insert", None, new, position=2 * place) for place, new in enumerate(rows))), {}
    )
    assert not isinstance(found, Rotate)
    assert [(op, "last" in json.loads(element)["headers"]) for op, element in found] == [(0, False), (2, True)]


def test_a_row_on_which_evaluation_fails_is_not_in_the_shape() -> None:
    """
    A division by zero lets nobody in, and ends nothing.
    """
    definition = shape("10 / n > 1")
    assert answer(definition, change("insert", None, row(1, n=0))) == []
    assert answer(definition, change("update", row(1, n=0), row(1, n=5))) == [
        (4, "insert", "1", {"id": "1", "title": "a", "n": "5", "body": None})
    ]
    assert answer(definition, change("update", row(1, n=5), row(1, n=0))) == [(4, "delete", "1", {"id": "1"})]


@pytest.mark.parametrize("operation", ["update", "delete"])
def test_without_the_old_row_nobody_can_tell(operation: str) -> None:
    """
    The shape ends, even if the new row is not for it.

    Scenario H2.
    """
    lost = change(operation, None, OUT if operation == "update" else None, is_old_missing=True)
    assert isinstance(answer(shape("title = 'in'"), lost), Rotate)
    assert isinstance(answer(shape("title = 'in'"), change("truncate", None, None)), Rotate)


def test_a_partition_may_order_its_columns_differently() -> None:
    """
    Columns are found by name, whichever description comes, and in turns.
    """
    turned = DESCRIPTION._replace(columns=tuple(reversed(DESCRIPTION.columns)))
    handler = ShapeHandler(Projections().of(shape("title = 'in'")), BOUNDS)
    changes = [
        change("insert", None, IN, position=0),
        change("insert", None, tuple(reversed(row(2, b"in"))), position=2, relation=turned),
        change("insert", None, tuple(reversed(row(3, b"out"))), position=4, relation=turned),
        change("insert", None, row(4, b"in"), position=6),
    ]
    found = handler.handle(part(*changes), {})
    assert not isinstance(found, Rotate)
    assert [told(*element)[2] for element in found] == ["1", "2", "4"]


def test_a_column_of_the_condition_alone_ends_the_shape_too() -> None:
    """
    It was dropped, or its type changed; a column that does not matter may go.
    """
    definition = shape("n > 3", columns=("id", "title"))
    without = DESCRIPTION._replace(columns=tuple(c for c in DESCRIPTION.columns if c.name != "n"))
    assert check_description(without, definition) == "column n was dropped or renamed"
    retyped = DESCRIPTION._replace(
        columns=tuple(StreamColumn(c.name, 20, -1, is_key=True) if c.name == "n" else c for c in DESCRIPTION.columns)
    )
    assert check_description(retyped, definition) == "type of column n changed"
    assert isinstance(answer(definition, change("insert", None, row(1), relation=retyped)), Rotate)
    bodiless = DESCRIPTION._replace(columns=tuple(c for c in DESCRIPTION.columns if c.name != "body"))
    assert check_description(bodiless, definition) is None


def test_equal_conditions_are_one_shape_and_compiled_once() -> None:
    """
    White space, parameters and their spelling in the text do not matter; another constant does.

    Scenario F11.
    """
    assert shape("n   >  3") == shape("(n > 3)")
    assert shape("title = $1", "x", "spare") == shape("title = 'x'::text", "other")
    assert shape("n > 3") != shape("n > 4")
    one = condition_of(shape("n > 3"))
    assert one is condition_of(replace(shape("n > 3", columns=("id",)), replica=Replica.FULL))


def test_a_stored_definition_is_enough_to_go_on() -> None:
    """
    What was read back from the store selects the same rows, without parameters and without the catalog.

    Scenario H23.
    """
    definition = shape("title = $1 AND n IN (1, 2) AND body IS NULL", 'it\'s \\ "quoted" $1')
    again = decode_definition(definition.canonical())
    assert again == definition
    condition = condition_of(again)
    assert condition is not None
    includes = condition.includes(DESCRIPTION)
    assert includes is not None
    assert includes(row(1, b'it\'s \\ "quoted" $1', 2))
    assert not includes(row(1, b'it\'s \\ "quoted" $1', 3))


def test_letters_are_mapped_as_the_database_did_when_the_shape_was_made() -> None:
    """
    The mapping is named by the definition only where it matters, and is found again by that name.
    """
    facts = replace_facts(NO_FACTS, case=CaseMapping({ord("Ä"): ord("ä")}, {ord("ä"): ord("Ä")}))
    made = {}
    for where in ("lower(title) = 'ä'", "title = 'ä'"):
        request = ShapeRequest("items", BEFORE_ALL, where=where)
        made[where] = resolve_shape(request, ITEMS, are_generated_published=False, facts=facts)
    lower, plain = made.values()
    assert lower.basis is not None
    assert plain == shape("title = 'ä'"), "the mapping does not matter"
    assert know_letters(letters_of(lower.basis.case)) == lower.basis.case
    entered = answer(lower, change("insert", None, row(1, "Ä".encode())))
    assert not isinstance(entered, Rotate)
    assert [op for op, *_ in entered] == [4]
    with pytest.raises(InvalidShapeError, match="not known any more"):
        condition_of(replace(lower, basis=replace(lower.basis, case="0" * 24)))


def test_shapes_share_what_became_of_a_change() -> None:
    """
    Shapes with different conditions and the same outcome are handed the same objects.
    """
    projections = Projections()
    inside = change("update", row(1, n=5), row(1, n=6))
    moving = change("update", row(1, n=1), row(1, n=6), position=6)
    begun = replace(part(inside, moving), end=None)
    found = [projections.of(shape(where)).convert(begun) for where in ("n > 3", "n > 4", "n > 5", None)]
    three, four, five, whole = [made for made in found if not isinstance(made, Rotate)]
    assert three[0] is four[0]
    assert whole[0] == three[0]
    assert three[1] is four[1] is five[1]
    assert whole[1] != three[1]
    assert projections.of(shape("n > 3")) is not projections.of(shape("n > 4"))


@pytest.mark.parametrize(
    ("where", "params", "message"),
    [
        ("1 x 1", (), 'At location 17: syntax error at or near "x"'),
        ("nope = 1", (), "At location 0: unknown reference nope"),
        ("n = $2", ("1",), "At location 4: parameter $2 was not provided"),
    ],
)
def test_a_condition_that_is_refused_says_why(where: str, params: tuple[str, ...], message: str) -> None:
    """
    B13, B14: the sentence of the language passes through under `where`.
    """
    with pytest.raises(InvalidShapeError) as caught:
        shape(where, *params)
    assert (caught.value.field, caught.value.message) == ("where", message)


@pytest.mark.parametrize("where", ["m = 'low'", "ms @> '{low}'", "'low' = ANY (ms) AND m IN ('low', 'it''s')"])
def test_which_other_labels_an_enum_has_is_no_part_of_a_shape(where: str) -> None:
    """
    A definition with labels goes on from its stored form, on arrays alone too, and stays the same when a label is added.

    Scenario F11.
    """
    table = replace_facts(
        ITEMS,
        columns=(
            *ITEMS.columns,
            Column("m", 16400, -1, "tone", is_enum=True),
            Column("ms", 16399, -1, "tone", dims=1, is_enum=True),
        ),
    )

    def define(*labels: str) -> ShapeDefinition:
        tone = EnumType(16400, "public", "tone", labels)
        facts = DatabaseFacts(enums={16400: tone, 16399: tone})
        request = ShapeRequest("items", BEFORE_ALL, where=where)
        return resolve_shape(request, table, are_generated_published=False, facts=facts)

    before = define("low", "it's")
    assert define("low", "it's", "lower") == before
    assert condition_of(decode_definition(before.canonical())) is not None
