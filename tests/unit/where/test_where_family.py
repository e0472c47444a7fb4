from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.where.clause import Clause, index_plan, question_of
from penstock.where.family import Family, bind_together
from where_table import ORDER, clause, row


def places(family: Family) -> tuple[int, ...]:
    return tuple(ORDER.index(name) for name in family.columns)


def asked(texts: Sequence[str], **values: str | None) -> list[str]:
    """Ask conditions of one family together; gives those that hold."""
    members = [question_of(clause(text)) for text in texts]
    (family,) = {member.family for member in members}
    found: dict[str, None] = {}
    rows = [(*member.constants, text) for member, text in zip(members, texts, strict=True)]
    family.bind(places(family))(row(**values), rows, found)
    return list(found)


@pytest.mark.parametrize(
    ("texts", "values", "expected"),
    [
        (["id > 4", "id > 5", "id > -1"], {}, ["id > 4", "id > -1"]),
        (["id > 4", "id > 5"], {"id": None}, []),
        (["NOT (v = 'hello')", "NOT (v = 'x')"], {}, ["NOT (v = 'x')"]),
        (["NOT (v = 'hello')", "NOT (v = 'x')"], {"v": None}, []),
        (["v LIKE 'h%'", "v LIKE '%x'", "v LIKE '_ello'"], {}, ["v LIKE 'h%'", "v LIKE '_ello'"]),
        (["coalesce(v, 'x') = 'x'", "coalesce(v, 'y') = 'y'"], {"v": None}, ["coalesce(v, 'x') = 'x'", "coalesce(v, 'y') = 'y'"]),
        (["n > 1.5", "n > 1.49", "n > 'NaN'"], {}, ["n > 1.49"]),
        (["n > 1.5", "n > 'Infinity'", "n > 'NaN'"], {"n": "NaN"}, ["n > 1.5", "n > 'Infinity'"]),
        (["f + 1 > 2", "f + 1 > 3"], {}, ["f + 1 > 2"]),
    ],
)  # fmt: skip
def test_each_gets_its_own_answer(texts: list[str], values: dict[str, str | None], expected: list[str]) -> None:
    """
    Conditions that differ in constants share one function and none of each other's answers.
    """
    assert asked(texts, **values) == expected


def test_one_that_fails_is_nobody_elses_fault() -> None:
    """
    Where an evaluation would be an error, that condition is not included, and those behind it are asked all the same.
    """
    assert asked(["10 / (id - 1) > 1", "10 / (id - 5) > 1", "10 / (id - 2) > 1"]) == [
        "10 / (id - 1) > 1",
        "10 / (id - 2) > 1",
    ]


def test_what_fails_before_the_loop_fails_only_those_who_come_to_it() -> None:
    """
    A part of the row that cannot be computed matters to a condition only if it gets so far.
    """
    texts = ["id = 5 OR id / (id - id) > 1", "id = 6 OR id / (id - id) > 1"]
    assert asked(texts) == ["id = 5 OR id / (id - id) > 1"]
    assert asked(texts, id="7") == []


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("is_turned", [False, True])
def test_an_order_says_what_the_condition_says(sign: str, is_turned: bool) -> None:  # noqa: FBT001 - a table
    """
    The row's value stands in the order's relation to the threshold exactly when the condition holds.
    """
    signs = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}
    for column, constants in {
        "id": ["4", "5", "6", "4.5", "9999999999"],
        "n": ["1.5", "1.50", "'NaN'", "'-Infinity'", "2"],
        "f": ["1.5", "'NaN'", "'Infinity'"],
        "d": ["'2024-01-31'", "'infinity'", "'2024-01-31 00:00:00'::timestamp"],
        "v": ["'hello'", "'hellp'", "''"],
    }.items():
        for constant in constants:
            made = clause(f"{constant} {sign} {column}" if is_turned else f"{column} {sign} {constant}")
            member = question_of(made)
            assert member.family.order is not None, made.normalised
            read = member.family.bind_order(places(member.family))
            for values in ({}, {column: None}):
                found = read(row(**values))
                holds = found is not None and signs[member.family.order.sign](found, member.threshold)
                assert holds is made.compile_filter(ORDER)(row(**values)), made.normalised


@pytest.mark.parametrize("text", ["tags > '{1}'", "id > NULL::int4", "id = 5", "id <> 5", "id % 2 > 0", "id > n"])
def test_only_a_column_against_a_constant_has_an_order(text: str) -> None:
    """
    Everything else is asked in a loop; so are arrays, whose order nobody sorts by.
    """
    assert question_of(clause(text)).family.order is None


def test_families_can_be_asked_by_one_function() -> None:
    """
    Conditions of any kind, one of each family, in one call; it says when what they share cannot be computed.
    """
    texts = ["id > 4", "v LIKE 'h%' AND n < 2", "NOT (f = 1)", "tags @> '{2}' AND id <> 7", "b", "10 / (id - 5) > 1"]
    members = [question_of(clause(text)) for text in texts]
    ask = bind_together([(member.family, places(member.family)) for member in members])
    constants = [constant for member in members for constant in member.constants]
    found: dict[str, None] = {}
    assert ask(row(), constants, texts, found)
    assert list(found) == texts[:-1]
    found.clear()
    unreadable = tuple(b"\xff{nonsense" for _ in ORDER)
    assert not ask(unreadable, constants, texts, found)
    assert not found


def test_what_an_index_has_answered_is_not_asked_again() -> None:
    """
    Of a conjunction only what no lookup says is left, and nothing when a lookup says all.
    """
    assert residual(clause("id = 5 AND v LIKE 'h%'")) == ("v",)
    assert residual(clause("id = 5 AND v LIKE 'h%' AND n IN (1, 2) AND f > 1")) == ("f", "v")
    assert residual(clause("id = 5 AND n = 1.5")) is None
    assert residual(clause("(id = 5 OR n = 1) AND f > 1")) == ("f", "id", "n")
    assert residual(clause("id = 5 OR (n = 1 AND f > 1)")) == ("f", "id", "n")


def residual(made: Clause) -> tuple[str, ...] | None:
    plan = index_plan(made)
    assert plan is not None
    assert plan.is_exact is (plan.residual is None)
    return None if plan.residual is None else tuple(sorted(question_of(made, plan.residual).family.columns))
