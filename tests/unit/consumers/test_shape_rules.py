from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from consumer_kit import ITEMS
from penstock.api.closed import ClosedRanges
from penstock.consumers.refusals import refusal
from penstock.consumers.resolve import resolve_shape
from penstock.errors import InvalidShapeError, RuleError
from penstock.postgres.relation import Table
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, LogOffset
from penstock.shapes.reading import FilePiece, LogRange, Opened, Refused, ShapeRequest, ShapeRule

MINE = ShapeRule("title = $1", ("me",))
GENERATED = replace(
    ITEMS,
    columns=tuple(replace(column, is_generated=True) if column.name == "n" else column for column in ITEMS.columns),
)


def resolve(*rules: ShapeRule, table: Table = ITEMS, **fields: Any) -> ShapeDefinition:
    return resolve_shape(ShapeRequest("items", BEFORE_ALL, rules=rules, **fields), table, are_generated_published=False)


def refused(*rules: ShapeRule, table: Table = ITEMS, **fields: Any) -> tuple[str, str]:
    with pytest.raises(InvalidShapeError) as caught:
        resolve(*rules, table=table, **fields)
    return caught.value.field, caught.value.message


def test_a_rule_is_part_of_what_the_shape_is() -> None:
    """
    The same request under another rule is another shape; under an equal one, the same.
    """
    assert resolve(MINE) == resolve(ShapeRule("(title)=$1", ("me",)))
    others = [resolve(), resolve(ShapeRule("title = $1", ("you",))), resolve(ShapeRule("title = $1 OR true", ("me",)))]
    assert len({definition.identity() for definition in [resolve(MINE), *others]}) == 4
    assert resolve(MINE).identity() == resolve(where="title = 'me'").identity()


def test_a_rule_that_adds_nothing_changes_nothing() -> None:
    """
    Whoever may see all gets the shape that everybody gets without authorisation.
    """
    assert resolve(ShapeRule()) == resolve()
    assert resolve(ShapeRule(), ShapeRule(), where="n > 1") == resolve(where="n > 1")


def test_all_rules_hold() -> None:
    """
    Conditions are joined by AND, columns are those that all of them allow.
    """
    both = resolve(MINE, ShapeRule("n > $1", ("5",), ("id", "title")), ShapeRule(columns=("id", "n", "title")))
    assert both.selected == ("id", "title")
    assert both.where is not None
    assert "'me'" in both.where
    assert "5" in both.where
    assert " OR " not in both.where


def test_numbers_of_parameters_are_each_their_own() -> None:
    """
    `$1` of the client and of each rule are three values.
    """
    where = resolve(MINE, ShapeRule("title <> $1", ("nobody",)), where="body = $1", params=("text",)).where
    assert where is not None
    for word in ("'me'", "'nobody'", "'text'"):
        assert where.count(word) == 1


def test_a_condition_that_cannot_fail_is_joined_plainly() -> None:
    """
    So that an index can still answer it; one that can stands where only rows that the rule lets through get to.
    """
    plain = resolve(MINE, where="n > 1 OR n IS NULL").where
    assert plain is not None
    assert "CASE" not in plain
    guarded = resolve(MINE, where="10 / n > 1").where
    assert guarded is not None
    assert guarded.index("title") < guarded.index("CASE WHEN") < guarded.index("ELSE false")


def test_columns_that_a_rule_hides_are_not_there() -> None:
    """
    They are not served, cannot be listed or filtered by, and what is said of them is said of any unknown name.
    """
    rule = ShapeRule(columns=("id", "title"))
    assert resolve(rule).selected == ("id", "title")
    assert resolve(rule).is_explicit
    assert [column.name for column in resolve(rule).columns] == ["id", "title"]
    assert resolve(rule, columns=("id",)).selected == ("id",)
    assert resolve(rule, queryable_columns=("id",)).selected == ("id",)
    for fields in (
        {"columns": ("id", "NAME")},
        {"queryable_columns": ("id", "NAME")},
        {"where": "NAME = 'x'"},
        {"where": "id = 1 OR items.NAME IS NULL"},
    ):
        said = []
        for name in ("body", "nope"):
            asked: dict[str, Any] = {
                key: tuple(text.replace("NAME", name) for text in value)
                if isinstance(value, tuple)
                else value.replace("NAME", name)
                for key, value in fields.items()
            }
            said.append(refused(rule, **asked)[1].replace(name, "NAME"))
        assert said[0] == said[1]


def test_a_rule_may_read_what_it_hides() -> None:
    """
    Its own condition is asked of whole rows.
    """
    definition = resolve(ShapeRule("body IS NOT NULL", (), ("id",)))
    assert definition.selected == ("id",)
    assert [column.name for column in definition.columns] == ["id", "body"]


@pytest.mark.parametrize(
    "where", ["true) OR (true", "true)", "(true", "true --)", "true; true", "n = $1", "n = 1 /*", "", "   "]
)
def test_clauses_are_understood_alone(where: str) -> None:
    """
    What is no clause by itself is none behind a rule.
    """
    if where == "true --)":
        assert resolve(MINE, where=where) == resolve(MINE, where="true")
    else:
        assert refused(MINE, where=where)[0] == "where"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (ShapeRule("nope = 1"), "nope"),
        (ShapeRule("title = $1"), "refused"),
        (ShapeRule("n"), "refused"),
        (ShapeRule("true) OR (true"), "refused"),
        (ShapeRule(columns=("title",)), "must include its key, missing: id"),
        (ShapeRule(columns=("id", "nope")), "allowed: nope"),
    ],
)
def test_a_rule_that_does_not_fit_denies(rule: ShapeRule, words: str) -> None:
    """
    The log says what is wrong with it, the client is told that it may not.
    """
    with pytest.raises(RuleError) as caught:
        resolve(rule)
    assert words in caught.value.message
    assert refusal(caught.value) == Refused(403, "Forbidden")
    # Whatever the client's own faults are.
    with pytest.raises(RuleError):
        resolve(rule, columns=("nope",), where="id = 1")


def test_a_rule_cannot_ask_what_the_stream_does_not_bring() -> None:
    """
    A generated column is in no change, so a rule on one would let rows go stale; as a hidden one it does not matter.
    """
    with pytest.raises(RuleError, match="generated"):
        resolve(ShapeRule("n > 1"), table=GENERATED)
    assert resolve(ShapeRule(columns=("id", "title", "n")), table=GENERATED).selected == ("id", "title")


def test_what_is_said_of_a_condition_too_large_tells_nothing() -> None:
    """
    A condition that is too large only together with the rule is refused without a word of the rule.
    """
    ids = ", ".join(f"'{number:0>300}'" for number in range(200))
    where = f"title IN ({ids})"
    assert resolve(where=where).where is not None
    field, message = refused(ShapeRule("title <> $1", ("a secret word" * 1_000,)), where=where)
    assert field == "where"
    assert "together" in message
    assert "secret" not in message


def test_closed_ranges_are_remembered_by_rule() -> None:
    """
    While the engine is away, nobody is given what was read under another rule.
    """
    ranges = ClosedRanges()
    closed = LogRange(LogOffset(1, 0), LogOffset(2, 0), (FilePiece("x", 0, 1),))
    asked = ShapeRequest("items", BEFORE_ALL, rules=(MINE,))
    ranges.take_note(asked, Opened("h", "{}", closed, 1))
    assert ranges.find(asked) is not None
    for rules in ((), (ShapeRule("title = $1", ("you",)),), (MINE, MINE)):
        assert ranges.find(msgspec.structs.replace(asked, rules=rules)) is None
