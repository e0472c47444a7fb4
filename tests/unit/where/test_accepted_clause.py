from __future__ import annotations

import gc
import weakref

import pytest

from penstock.postgres.relation import Column, TableId
from penstock.shapes.condition import LATEST_COUNT_MAX, basis_of, condition_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.where.clause import compile_where

COLUMNS = (
    Column("id", 20, -1, "int8", pk_index=0),
    Column("account", 23, -1, "int4"),
    Column("title", 25, -1, "text"),
    Column("changed_at", 1184, -1, "timestamptz"),
)


def define(where: str) -> ShapeDefinition:
    clause = compile_where(where, (), COLUMNS)
    return ShapeDefinition(
        TableId(16384, "public", "items"),
        shape_columns(COLUMNS),
        ("id",),
        has_primary_key=True,
        selected=("id",),
        where=clause.normalised,
        basis=basis_of(clause, COLUMNS),
    )


@pytest.mark.parametrize(
    "where",
    [
        "id > 5 AND id <= 99999999999",
        "title LIKE 'a%' OR account IN (1, 2) AND NOT title IS NULL",
        "changed_at > '2026-01-01 00:00:00+00'",
        "length(title) + account > 2 * 3",
        "id = 1",
    ],
)
def test_an_accepted_text_gives_the_clause_that_reading_it_anew_gives(where: str) -> None:
    """
    What is left out for a text that was accepted before changes nothing about the clause.
    """
    normalised = compile_where(where, (), COLUMNS).normalised
    anew, accepted = compile_where(normalised, (), COLUMNS), compile_where(normalised, (), COLUMNS, is_accepted=True)
    assert accepted == anew
    assert accepted.truth == anew.truth
    assert accepted.truth is accepted.truth


def test_a_condition_is_not_compiled_again_while_its_shape_is_made() -> None:
    """
    Nobody holds it between two who ask for it; the latest few are there all the same, and no more of them.
    """
    made = condition_of(define("account = 1"))
    assert made is not None
    first = weakref.ref(made)
    del made
    gc.collect()
    assert first() is condition_of(define("account = 1"))
    for number in range(2, LATEST_COUNT_MAX + 2):
        condition_of(define(f"account = {number}"))
    gc.collect()
    assert first() is None


def test_a_released_condition_is_examined_without_compiling_it() -> None:
    """
    One that was accepted and released has nothing left to refuse, and evaluates when it is asked to.
    """
    condition = condition_of(define("account + 1 = 3"))
    assert condition is not None
    condition.release()
    condition.examine()
    assert condition.clause.compile_filter(["account"])((b"2",))
    assert not condition.clause.compile_filter(["account"])((b"3",))
