"""
A table and what is known of its database, for tests of conditions without a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from penstock.errors import InvalidShapeError
from penstock.postgres.relation import Column
from penstock.where.clause import Clause, compile_where
from penstock.where.facts import DatabaseFacts, EnumType

MOOD_OID: Final = 50_000
POSITIVE_OID: Final = 50_002
COLUMNS: Final = (
    Column("id", 23, -1, "int4"),
    Column("v", 25, -1, "text"),
    Column("b", 16, -1, "bool"),
    Column("n", 1700, -1, "numeric"),
    Column("f", 701, -1, "float8"),
    Column("d", 1082, -1, "date"),
    Column("ts", 1114, -1, "timestamp"),
    Column("tz", 1184, -1, "timestamptz"),
    Column("u", 2950, -1, "uuid"),
    Column("j", 3802, -1, "jsonb"),
    Column("tags", 1007, -1, "int4", 1),
    Column("words", 1009, -1, "text", 1),
    Column("status", MOOD_OID, -1, "mood", is_enum=True),
    Column("positive", POSITIVE_OID, -1, "positive"),
    Column("c5", 1042, 9, "bpchar"),
    Column("addr", 869, -1, "inet"),
    Column("german", 25, -1, "text", collation="de-x-icu"),
    Column('Odd "name', 25, -1, "text"),
)
ORDER: Final = tuple(column.name for column in COLUMNS)
FACTS: Final = DatabaseFacts(
    enums={MOOD_OID: EnumType(MOOD_OID, "app", "mood", ("open", "closed"))}, domains={POSITIVE_OID: 23}
)
ROW: Final = {
    "id": "5",
    "v": "hello",
    "b": "t",
    "n": "1.50",
    "f": "1.5",
    "d": "2024-01-31",
    "ts": "2024-01-31 10:00:00",
    "tz": "2024-01-31 10:00:00+00",
    "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "j": '{"a": {"b": [1, 2]}, "c": null}',
    "tags": "{1,2,NULL}",
    "words": '{a,"b c"}',
    "status": "open",
    "positive": "7",
    "c5": "ab   ",
    "addr": "127.0.0.1",
    "german": "ä",
    'Odd "name': "x",
}


def clause(text: str, params: Sequence[str] = (), facts: DatabaseFacts = FACTS) -> Clause:
    """
    Understand a condition on the table.
    """
    return compile_where(text, params, COLUMNS, facts)


def row(**values: str | None) -> tuple[bytes | None, ...]:
    """
    Make a row like `ROW` but for some values.
    """
    merged = {**ROW, **values}
    return tuple(None if (value := merged[name]) is None else value.encode() for name in ORDER)


def evaluate(text: str, params: Sequence[str] = (), **values: str | None) -> bool | None:
    """
    Evaluate a condition on such a row, both ways.
    """
    made = clause(text, params)
    answer = made.compile(ORDER)(row(**values))
    assert made.compile_filter(ORDER)(row(**values)) is (answer is True)
    return answer


def refusal(text: str, params: Sequence[str] = (), facts: DatabaseFacts = FACTS) -> str:
    """
    Give the sentence with which a condition is refused.
    """
    with pytest.raises(InvalidShapeError) as refused:
        clause(text, params, facts)
    assert refused.value.field == "where"
    return refused.value.message
