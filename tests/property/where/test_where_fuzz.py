from __future__ import annotations

import random
import sys
from types import FrameType
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from penstock.errors import InvalidShapeError
from penstock.postgres.relation import Column
from penstock.where.clause import Clause, compile_where
from penstock.where.facts import DatabaseFacts, EnumType
from penstock.where.types import OID_BY_TYPE
from where_clauses import COLUMNS as WIDE
from where_clauses import Generator
from where_clauses import rows as wide_rows
from where_table import COLUMNS, FACTS, ORDER, row

CALLS_MAX = 60_000
CALLS_A_BYTE_MAX = 2_000

WORDS = [
    *(f" {column.name} " if column.name.islower() else '"Odd ""name"' for column in COLUMNS),
    *("(", ")", ",", "[", "]", ":", "'", '"', "$1", "$2", "::", ".", ";", "--", "/*", "\\", "E'", "NULL", "true", " 1", " -1", "1e9"),
    *(" = ", " <> ", " < ", "+", "-", "*", "/", "%", "^", "~", "||", "@>", "<@", "&&", "->", "->>", "#>", "?", "|/", "@", "!"),
    *(" AND ", " OR ", " NOT ", " IN ", " IS ", " BETWEEN ", " SYMMETRIC ", " LIKE ", " ANY ", " ALL ", " DISTINCT FROM ", " COLLATE "),
    *(" CASE ", " WHEN ", " THEN ", " ELSE ", " END ", "ARRAY[", "ROW(", "lower(", "concat(", "coalesce(", "greatest(", "nullif("),
    *("extract(year from ", "substring(", "interval ", "date ", "'1 day'", "'{1,2}'", "'{}'", "'NaN'", "'2024-01-01'", "'infinity'"),
    *("int4", "text", "numeric(3,1)", "varchar(2)", "timestamptz", "jsonb", "int4[]", "mood", "select ", " from ", " where ", "é", "\0"),
]  # fmt: skip


def understand(text: str, params: list[str]) -> Clause | None:
    """
    Understand a text or not, counting the calls it takes.
    """
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return compile_where(text, params, COLUMNS, FACTS)
    except InvalidShapeError:
        return None
    finally:
        sys.setprofile(before)
        assert calls <= CALLS_MAX + CALLS_A_BYTE_MAX * len(text), (calls, len(text))


def check(text: str, params: list[str]) -> None:
    """
    A clause evaluates on any row without raising and says the same again.
    """
    made = understand(text, params)
    if made is None:
        return
    for values in (row(), tuple(None for _ in ORDER), tuple(b"\xff" for _ in ORDER)):
        answer = made.compile(ORDER)(values)
        assert answer in {True, False, None}
        assert made.compile_filter(ORDER)(values) is (answer is True)
    again = compile_where(made.normalised, (), COLUMNS, FACTS)
    assert again.normalised == made.normalised


@given(parts=st.lists(st.sampled_from(WORDS), max_size=24), params=st.lists(st.text(max_size=8), max_size=2))
@example(parts=["id", " = ", "$1"], params=["\ud800"])
def test_any_words_are_a_clause_or_a_refusal(parts: list[str], params: list[str]) -> None:
    """
    Whatever the words of the language are put together to, the answer is a clause or a refusal, after bounded work.
    """
    check("".join(parts), params)


@given(text=st.text(max_size=60))
def test_any_text_is_a_clause_or_a_refusal(text: str) -> None:
    """
    The same for any characters at all.
    """
    check(text, [])


MOOD = 90_000
TYPES = {
    **OID_BY_TYPE,
    "mood": MOOD,
    "mood[]": MOOD + 1,
    "char(5)": OID_BY_TYPE["bpchar"],
    "positive": OID_BY_TYPE["int4"],
    "numeric(40,9)": OID_BY_TYPE["numeric"],
}
MOODS = EnumType(MOOD, "public", "mood", ("open", "closed", "it's", "Ünder way"))
WIDE_COLUMNS = tuple(
    Column(
        name, TYPES[declared], -1, declared.removesuffix("[]"), int(declared.endswith("[]")), is_enum="mood" in declared
    )
    for name, _, declared in WIDE
)
WIDE_FACTS = DatabaseFacts(enums={MOOD: MOODS, MOOD + 1: MOODS})


@given(seed=st.integers(0, 2**48))
def test_the_normalised_text_is_the_same_condition(seed: int) -> None:
    """
    Read again without parameters, it is written the same and selects the same rows.
    """
    text, params = Generator(random.Random(seed)).clause()
    try:
        made = compile_where(text, params, WIDE_COLUMNS, WIDE_FACTS)
    except InvalidShapeError:
        return
    again = compile_where(made.normalised, (), WIDE_COLUMNS, WIDE_FACTS)
    assert again.normalised == made.normalised
    order = [column.name for column in WIDE_COLUMNS]
    first, second = made.compile(order), again.compile(order)
    for values in wide_rows(seed, 8):
        encoded = tuple(None if value is None else value.encode() for value in values)
        assert first(encoded) is second(encoded)
