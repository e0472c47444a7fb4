"""
ORDER BY clauses of subsets, from anybody.
"""

from __future__ import annotations

import pgparse  # type: ignore[import-not-found]  # an extension module without stubs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidShapeError
from penstock.postgres.relation import Column
from penstock.shapes.subset import SubsetRequest, compile_subset
from penstock.where.facts import NO_FACTS
from penstock.where.ordering import compile_order

COLUMNS = ("id", "Name", 'qu"ote', "äö")
WORDS = st.sampled_from(
    ["id", '"Name"', '"qu""ote"', '"äö"', "name", "asc", "desc", "nulls", "first", "last", ",", "1", "'a'", "(", ")",
     "select", ";", "$1", "::text", ".", "using", "<", "limit", "collate", '"C"', "--", "/*", "case", "null", "\0"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=8).map(" ".join)))
def test_any_text_gives_columns_or_a_refusal(text: str) -> None:
    """
    What is accepted is written anew: it reads as a list of the columns that may be named, and again as itself (E7).
    """
    try:
        written = compile_order(text, COLUMNS)
    except InvalidShapeError:
        return
    if not written:
        return
    assert compile_order(written, COLUMNS) == written
    (statement,) = pgparse.parse(f"SELECT 1 ORDER BY {written}")
    for term in statement["stmt"]["SelectStmt"]["sortClause"]:
        ((field,),) = [term["SortBy"]["node"]["ColumnRef"]["fields"]]
        assert field["String"]["sval"] in COLUMNS


@pytest.mark.parametrize(
    ("where", "can_fail"),
    [
        ("id = 1", False),
        ("id IN (1, 2) AND (t > 'a' OR t IS NULL)", False),
        ("NOT (id = ANY ('{1,2}'))", False),
        ("coalesce(t, 'x') <> 'x'", False),
        ("id / 2 = 1", True),
        ("id + 1 = 2", True),
        ("t::int = 1", True),
        ("t LIKE 'a%'", True),
        ("lower(t) = 'a'", True),
    ],
)
def test_what_could_fail_is_marked(where: str, can_fail: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """
    Only comparisons of what is there, and what joins them, cannot; everything else sees rows of the shape alone (E2).
    """
    columns = [Column("id", 23, -1, "int4"), Column("t", 25, -1, "text")]
    assert compile_subset(SubsetRequest(where=where), columns, NO_FACTS).can_fail is can_fail
