"""
Whatever a client and a server's rules say, a row is in the shape when both let it in.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer_kit import ITEMS
from penstock.consumers.resolve import resolve_shape
from penstock.errors import InvalidShapeError, RuleError
from penstock.shapes.offset import BEFORE_ALL
from penstock.shapes.reading import ShapeRequest, ShapeRule
from penstock.where.clause import Clause, compile_where

NAMES = tuple(column.name for column in ITEMS.columns)
VISIBLE = ("id", "title")

atoms = st.sampled_from(
    [
        "true",
        "false",
        "NULL::bool",
        "id = 1",
        "id <> $1::int",
        "n > 2",
        "10 / n > 3",
        "10 / (id - 2) < 9",
        "title = $2",
        "title LIKE '%a'",
        "title < 'b' COLLATE \"C\"",
        "body IS NULL",
        "coalesce(body, title) = 'a'",
        "n IN (1, 2, NULL)",
    ]
)
conditions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("{} OR {}".format, inner, inner),
        st.builds("NOT ({})".format, inner),
        st.builds("({}) IS NOT TRUE".format, inner),
    ),
    max_leaves=4,
)
params = st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["a", "b", "$1", "x') OR ('' = '"]))
rows = st.tuples(
    st.sampled_from([b"1", b"2", b"3"]),
    st.sampled_from([b"a", b"b", b"ba", b"$1", None]),
    st.sampled_from([b"0", b"1", b"3", None]),
    st.sampled_from([b"a", b"", None]),
)
# Texts that would reach beyond their place if they were put together as texts.
shards = st.lists(
    st.sampled_from([*"()'\"$-/*;, =", "true", " OR ", " AND ", "id", "1", "--", "/*", "*/", "\n", "$1"]), max_size=12
).map("".join)


def compiled(text: str, values: tuple[str, ...]) -> Clause:
    return compile_where(text, values, ITEMS.columns)


@settings(max_examples=60)
@given(conditions, params, st.lists(st.tuples(conditions, params), min_size=1, max_size=2), st.lists(rows, max_size=8))
@example("true OR true", ("1", "a"), [("title = $2", ("1", "b"))], [(b"1", b"a", b"1", None)])
def test_a_row_is_in_the_shape_when_client_and_rules_let_it_in(
    asked: str,
    values: tuple[str, str],
    added: list[tuple[str, tuple[str, str]]],
    table: list[tuple[bytes | None, ...]],
) -> None:
    """
    Joined conditions say what each says by itself with its own parameters, on every row.
    """
    rules = tuple(ShapeRule(text, mine) for text, mine in added)
    request = ShapeRequest("items", BEFORE_ALL, where=asked, params=values, rules=rules)
    definition = resolve_shape(request, ITEMS, are_generated_published=False)
    assert definition.where is not None
    joined = compiled(definition.where, ()).compile_filter(NAMES)
    each = [compiled(asked, values), *(compiled(text, mine) for text, mine in added)]
    for row in table:
        assert joined(row) == all(clause.compile_filter(NAMES)(row) for clause in each)


@settings(max_examples=150)
@given(shards, shards)
@example("true) OR (true", "")
@example("", "true) OR (true")
@example("true --", "id = 1")
def test_no_text_reaches_beyond_its_place(asked: str, added: str) -> None:
    """
    Whatever texts are put together, what is served is under the rule; or it is refused by itself.
    """
    rules = (ShapeRule("title = $1", ("mine",)), *((ShapeRule(added),) if added.strip() else ()))
    where = asked if asked.strip() else None
    request = ShapeRequest("items", BEFORE_ALL, where=where, rules=rules)
    try:
        definition = resolve_shape(request, ITEMS, are_generated_published=False)
    except RuleError:
        with pytest.raises(InvalidShapeError):
            compiled(added, ())
        return
    except InvalidShapeError:
        assert where is not None
        with pytest.raises(InvalidShapeError):
            compiled(where, ())
        return
    assert definition.where is not None
    joined = compiled(definition.where, ()).compile_filter(NAMES)
    assert not joined((b"1", b"theirs", b"1", b"a"))


@settings(max_examples=60)
@given(conditions, params)
def test_hidden_columns_are_in_no_condition_of_a_client(asked: str, values: tuple[str, str]) -> None:
    """
    With columns hidden, a client's condition is accepted only if it reads none of them.
    """
    rule = ShapeRule("n > $1", ("0",), VISIBLE)
    request = ShapeRequest("items", BEFORE_ALL, where=asked, params=values, rules=(rule,))
    reads = set(compiled(asked, values).columns)
    if reads <= set(VISIBLE):
        definition = resolve_shape(request, ITEMS, are_generated_published=False)
        assert set(definition.selected) == set(VISIBLE)
    else:
        with pytest.raises(InvalidShapeError) as caught:
            resolve_shape(request, ITEMS, are_generated_published=False)
        assert not isinstance(caught.value, RuleError)
