from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.client.tables import TableOptions, arrow_table
from penstock.client.values import RowDecoder

WORDS = st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), max_size=8)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# By column: what the schema says, and texts as Postgres writes them.
COLUMNS: dict[str, tuple[dict[str, Any], st.SearchStrategy[str]]] = {
    "i": ({"type": "int8"}, st.integers(-(2**63), 2**63 - 1).map(str)),
    "n": (
        {"type": "numeric", "precision": 38, "scale": 9},
        st.decimals(-(10**28), 10**28, places=9, allow_nan=False).map(lambda value: f"{value:f}"),
    ),
    "f": ({"type": "float8"}, st.floats(allow_nan=False).map(lambda value: repr(value).replace("inf", "Infinity"))),
    "b": ({"type": "bool"}, st.sampled_from(["t", "f", "true", "false"])),
    "d": ({"type": "date"}, st.dates().map(str)),
    "t": ({"type": "time"}, st.times().map(str)),
    "ts": ({"type": "timestamp"}, st.datetimes().map(str)),
    "tz": ({"type": "timestamptz"}, st.datetimes(timezones=st.just(dt.UTC)).map(lambda at: str(at)[:-3])),
    "u": ({"type": "uuid"}, st.uuids().map(str)),
    "by": ({"type": "bytea"}, st.binary(max_size=8).map(lambda value: "\\x" + value.hex())),
    "w": ({"type": "text"}, WORDS),
    "m": ({"type": "mood"}, WORDS),
    "ws": ({"type": "text", "dims": 1}, st.lists(WORDS.map(quoted) | st.just("NULL")).map(lambda each: f"{{{','.join(each)}}}")),
    "is": ({"type": "int4", "dims": 2}, st.lists(st.integers(0, 9)).map(lambda each: f"{{{{{','.join(map(str, each)) or 'NULL'}}}}}")),
}  # fmt: skip
SCHEMA = {name: column for name, (column, _) in COLUMNS.items()}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | texts for name, (_, texts) in COLUMNS.items()}), max_size=5)


@given(ROWS)
def test_tables_hold_what_the_clients_decode(rows: list[dict[str, str | None]]) -> None:
    """
    A column of Arrow gives the same values of Python as a row does, and NULL stays NULL.
    """
    decoder = RowDecoder(SCHEMA)
    assert arrow_table(SCHEMA, rows).to_pylist() == [decoder.decode(row) for row in rows]


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(SCHEMA, st.none() | st.text(max_size=12))), max_size=3))
def test_no_text_makes_a_table_fail_that_may_have_nulls(rows: list[dict[str, str | None]]) -> None:
    """
    Whatever a server sends, a table comes of it; as text, nothing is lost.
    """
    assert arrow_table(SCHEMA, rows, TableOptions(misfits="null")).num_rows == len(rows)
    assert arrow_table(SCHEMA, rows, TableOptions(text=tuple(SCHEMA))).to_pylist() == json.loads(json.dumps(rows))


def test_decimals_keep_their_digits() -> None:
    """
    The scale of the column is that of the values.
    """
    (row,) = arrow_table({"n": SCHEMA["n"]}, [{"n": "1.5"}]).to_pylist()
    assert str(row["n"]) == str(Decimal("1.500000000"))
