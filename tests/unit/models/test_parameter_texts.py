from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

import pytest

from penstock.errors import InvalidShapeError
from penstock.models.texts import write_value


class Size(enum.IntEnum):
    small = 1


class Word(str):
    """
    A subclass, as ORMs and drivers have of most types.
    """

    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "text", "type_"),
    [
        (True, "true", "bool"),
        (Size.small, "1", "int4"),
        (2**31, "2147483648", "int8"),
        (2**63, "9223372036854775808", "numeric"),
        (0.1, "0.1", "float8"),
        (float("-inf"), "-Infinity", "float8"),
        (float("nan"), "NaN", "float8"),
        (Decimal("1E+3"), "1000", "numeric"),
        (Decimal("-Infinity"), "-Infinity", "numeric"),
        (Word("a"), "a", "text"),
        (memoryview(b"\xff"), "\\xff", "bytea"),
        (dt.datetime.fromisoformat("2024-01-31 10:00:00"), "2024-01-31 10:00:00", "timestamp"),
        (dt.datetime.fromisoformat("2024-01-31 10:00:00+02:00"), "2024-01-31 08:00:00+00:00", "timestamptz"),
        (
            dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-1))),
            "9999-12-31 23:59:59.999999-01:00",
            "timestamptz",
        ),
        (dt.date(33, 4, 3), "0033-04-03", "date"),
        (dt.time(1, 2), "01:02:00", "time"),
        (dt.timedelta(days=-1, seconds=5, microseconds=7), "-1 days 5.000007 seconds", "interval"),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000", "uuid"),
        ({"é": [None]}, '{"é": [null]}', "jsonb"),
        ([1, None, 2**40], '{"1",NULL,"1099511627776"}', "int8[]"),
        ((["a"], ['"\\']), '{{"a"},{"\\"\\\\"}}', "text[]"),
        ([], "{}", "text[]"),
    ],
)
def test_values_are_written_as_postgres_reads_them(value: Any, text: str, type_: str) -> None:
    """
    In the forms that depend on no setting, with the type that a literal of it has.
    """
    assert write_value(value) == (text, type_)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (object(), "a object"),
        ("a\0", "character 0"),
        (dt.time(1, tzinfo=dt.UTC), "with a zone"),
        ({"a": float("nan")}, "JSON"),
        ([1, "a"], "int4 and text"),
    ],
)
def test_values_without_a_text_are_refused(value: Any, words: str) -> None:
    """
    The sentence says which, and what to do.
    """
    with pytest.raises(InvalidShapeError, match=words):
        write_value(value)
