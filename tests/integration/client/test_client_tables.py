from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

import penstock
from integration.client.conftest import Ground
from penstock.cli.main import cli
from penstock.errors import ClientError, TableError

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

# By column: its type, values of it, and what Arrow makes of it. Arrays are of the values of the same line.
COLUMNS: Final[Mapping[str, tuple[str, tuple[str, ...], pa.DataType]]] = {
    "flag": ("bool", ("true", "false"), pa.bool_()),
    "small": ("int2", ("-32768", "32767"), pa.int16()),
    "whole": ("int4", ("-2147483648", "2147483647"), pa.int32()),
    "big": ("int8", ("-9223372036854775808", "9223372036854775807"), pa.int64()),
    "object": ("oid", ("4294967295",), pa.uint32()),
    "exact": ("numeric(10,2)", ("-12345678.90", "0.05"), pa.decimal128(10, 2)),
    "wide": ("numeric(60,20)", ("-1234567890123456789012345678901234567890.05",), pa.decimal256(60, 20)),
    "rounded": ("numeric(4,-2)", ("123400",), pa.decimal128(6, 0)),
    "tiny": ("numeric(2,4)", ("0.0012",), pa.decimal128(4, 4)),
    "free": ("numeric", ("0.10", "-1e30", "NaN"), pa.string()),
    "single": ("float4", ("0.1", "-1.5e-30", "Infinity"), pa.float32()),
    "double": ("float8", ("0.1", "1e300", "-Infinity"), pa.float64()),
    "day": ("date", ("2024-02-29", "0001-01-01", "9999-12-31"), pa.date32()),
    "at_time": ("time", ("10:00:00.5", "23:59:59.999999"), pa.time64("us")),
    "at_zone": ("timetz", ("10:00:00+05:30",), pa.string()),
    "local": ("timestamp", ("2024-05-01 10:00:00.123", "1969-12-31 23:59:59.999999"), pa.timestamp("us")),
    "moment": ("timestamptz", ("2024-05-01 10:00:00+02", "1999-12-31 23:59:59.999999Z"), pa.timestamp("us", "UTC")),
    "span": ("interval", ("1 day 02:00:00.000001", "-03:00:00"), pa.duration("us")),
    "mark": ("uuid", ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",), pa.uuid()),
    "bytes": ("bytea", ("\\x00ff27", "\\x"), pa.binary()),
    "doc": ("json", ('{"b":  1, "a": [null, "x"]}',), pa.string()),
    "docb": ("jsonb", ('{"b": 1, "ü": "\\u00e9"}',), pa.string()),
    "words": ("text", ("", 'a "b", c\'s\\ {}', "NULL", "äß漢🙂\n"), pa.string()),
    "bounded": ("varchar(20)", ("abc",), pa.string()),
    "padded": ("char(6)", ("abc",), pa.string()),
    "mood": ("table_mood", ("calm", "so-so"), pa.dictionary(pa.int32(), pa.string())),
    "address": ("inet", ("10.0.0.0/8",), pa.string()),
    "money": ("money", ("12.34",), pa.string()),
    "bits": ("bit(3)", ("101",), pa.string()),
    "span_of": ("int4range", ("[1,5)",), pa.string()),
}
# What psycopg is to be asked for where it would make something else of a column.
CASTS: Final = {
    **dict.fromkeys(("free", "at_zone", "doc", "docb", "mood", "address", "money", "span_of"), "text"),
    "single": "float8",
}


@dataclass
class Everything:
    """
    A table with a column of each type and an array of each, and a few rows.
    """

    ground: Ground
    name: str

    def expected(self) -> list[dict[str, Any]]:
        """
        What psycopg makes of the same rows, in order.
        """
        columns = ["id"]
        for column, (kind, _, _) in COLUMNS.items():
            cast = CASTS.get(column, kind)
            columns += [f"{column}::{cast}", f"{column}_s::{cast}[]"]
        with self.ground.database.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            cursor = connection.execute(f"SELECT {', '.join(columns)}, grid FROM {self.name} ORDER BY id".encode())
            assert cursor.description is not None
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def everything(ground: Ground) -> Everything:
    """
    Rows with every value, rows of NULL, arrays with NULL in them, and empty arrays.
    """
    name = f"everything_{uuid.uuid4().hex[:8]}"
    ground.database.execute("CREATE TYPE table_mood AS ENUM ('calm', 'wild', 'so-so')")
    made = "".join(f", {column} {kind}, {column}_s {kind}[]" for column, (kind, _, _) in COLUMNS.items())
    ground.database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY{made}, grid int[][])")
    with ground.database.connect() as connection:
        for number in range(5):
            values: dict[str, object] = {
                "id": number,
                "grid": [None, "{{1,2},{3,4}}", "{}", "{{NULL}}", "{{1}}"][number],
            }
            for column, (_, texts, _) in COLUMNS.items():
                values[column] = None if number == 1 else texts[number % len(texts)]
                values[f"{column}_s"] = None if number == 1 else [*texts, None][: number + 1] if number else []
            placeholders = ", ".join(
                f"%({column})s::{COLUMNS[column.removesuffix('_s')][0]}{'[]' if column.endswith('_s') else ''}"
                if column.removesuffix("_s") in COLUMNS
                else f"%({column})s"
                for column in values
            )
            connection.execute(f"INSERT INTO {name} ({', '.join(values)}) VALUES ({placeholders})".encode(), values)
    return Everything(ground, name)


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Rows in the order of their key.
    """
    return sorted(rows, key=lambda row: int(row["id"]))


def same(left: Any, right: Any) -> bool:
    """
    Equality in which NaN is equal to itself, and a tuple is a list.
    """
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right or (left != left and right != right))  # noqa: PLR0124  NaN


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """
    Compare row by row, and name the column that differs.
    """
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys()
        differing = {name: (row[name], wanted[name]) for name in wanted if not same(row[name], wanted[name])}
        assert not differing


def test_arrow_has_what_psycopg_gives(everything: Everything) -> None:
    """
    Each type of Postgres has the type of Arrow that the guide names, whatever is in it, and no value differs.
    """
    with penstock.Client(everything.ground.url) as client, client.shape(everything.name) as shape:
        table = shape.to_arrow()
        empty = client.subset(everything.name, where="false").to_arrow()
        some = client.subset(everything.name, where="id >= 0", order_by="id").to_arrow()
    for column, (_, _, kind) in COLUMNS.items():
        assert table.schema.field(column).type == kind, column
        assert table.schema.field(f"{column}_s").type == pa.list_(kind), column
    assert table.schema.field("grid").type == pa.list_(pa.list_(pa.int32()))
    assert_same(by_id(table.to_pylist()), everything.expected())
    assert_same(some.to_pylist(), everything.expected())
    assert empty.schema == table.schema
    table.validate(full=True)


def test_polars_has_what_psycopg_gives(everything: Everything) -> None:
    """
    Likewise, but UUIDs and very wide decimals are texts there, and enums categories.
    """
    with penstock.Client(everything.ground.url) as client, client.shape(everything.name) as shape:
        frame = shape.to_polars()
    assert frame.schema["mood"] == pl.Categorical
    assert frame.schema["moment"] == pl.Datetime("us", "UTC")
    assert_same(by_id(frame.to_dicts()), texts_of(everything.expected(), "mark", "wide"))


def test_pandas_has_what_psycopg_gives(everything: Everything) -> None:
    """
    Likewise; integers stay integers beside NULL, and enums are categories.
    """
    with penstock.Client(everything.ground.url) as client, client.shape(everything.name) as shape:
        frame = shape.to_pandas()
    assert str(frame.dtypes["big"]) == "int64[pyarrow]"
    assert str(frame.dtypes["mood"]) == "category"
    found = pa.Table.from_pandas(frame, preserve_index=False).to_pylist()
    assert_same(by_id(found), texts_of(everything.expected(), "mark"))


def texts_of(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    """
    Write some columns as text.
    """

    def as_text(value: Any) -> Any:
        return [as_text(each) for each in value] if isinstance(value, list) else None if value is None else f"{value}"

    return [
        {name: as_text(value) if name.removesuffix("_s") in columns else value for name, value in row.items()}
        for row in rows
    ]


def test_parquet_has_what_psycopg_gives(everything: Everything, tmp_path: Path) -> None:
    """
    The file of `penstock snapshot` has the same types as a table.
    """
    path = tmp_path / "rows.parquet"
    words = ["snapshot", everything.name, "--url", everything.ground.url, "--to", str(path)]
    answer = CliRunner().invoke(cli, words)
    assert answer.exit_code == 0, answer.output
    assert_same(by_id(pq.read_table(path).to_pylist()), everything.expected())


async def test_a_stream_of_batches_ends_in_the_rows_of_the_table(ground: Ground) -> None:
    """
    Inserts, updates with whole rows and deletes come with their operation; after a truncation a reset comes, then the rows.
    """
    table = ground.make_table(3)
    rows: dict[str, dict[str, Any]] = {}
    operations: list[str] = []

    def take(batch: pa.RecordBatch) -> None:
        assert batch.schema.names == ["_operation", "_key", "_lsn", "id", "n", "word"]
        for row in batch.to_pylist():
            operation, key = row.pop("_operation"), row.pop("_key")
            operations.append(operation)
            assert row.pop("_lsn") is not None or operation == "reset"
            if operation == "reset":
                assert set(row.values()) == {None}
                rows.clear()
            elif operation == "delete":
                assert rows.pop(key) == row
            else:
                rows[key] = row

    def has_row(number: int) -> bool:
        return any(row["id"] == number for row in rows.values())

    async def read_until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                take(await anext(stream))

    async with penstock.AsyncClient(ground.url) as client, client.stream_arrow(table) as stream:
        await read_until(lambda: len(rows) == 3)
        await asyncio.to_thread(ground.database.execute, f"UPDATE {table} SET n = NULL WHERE id = 2")
        await read_until(lambda: any(row["n"] is None for row in rows.values()))
        assert {row["id"]: row["n"] for row in rows.values()} == {1: 10, 2: None, 3: 30}
        assert all(row["word"] for row in rows.values())
        await asyncio.to_thread(ground.database.execute, f"DELETE FROM {table} WHERE id = 1")
        await read_until(lambda: len(rows) == 2)
        extra = 100
        while stream.state["offset"] == "-1":
            # It lags by a batch, and shapes may start over at any time.
            extra += 1
            await asyncio.to_thread(ground.write, table, extra, extra)
            await read_until(partial(has_row, extra))
        saved = json.loads(json.dumps(stream.state))
        assert not stream.freshness.is_stale
        await asyncio.to_thread(ground.database.execute, f"TRUNCATE {table}")
        await asyncio.to_thread(ground.write, table, 7, 8)
        await read_until(lambda: {row["id"] for row in rows.values()} == {7, 8})
    assert operations.count("reset") >= 1
    assert operations[:3] == ["insert"] * 3
    with penstock.Client(ground.url) as blocking, blocking.stream_arrow(table, state=saved) as again:
        # The log of the state is over, which is the first thing that is told.
        assert next(again).column("_operation").to_pylist()[0] == "reset"


def test_what_does_not_fit_is_named(ground: Ground) -> None:
    """
    It is an error that names the column and no value, NULL, or text, as one likes.
    """
    table = ground.make_table(0, columns="until timestamptz, price numeric(5,2), span interval, pair int[]")
    ground.database.execute(f"INSERT INTO {table} VALUES (1, 'infinity', 'NaN', '1 year', '[0:1]={{7,8}}')")
    with penstock.Client(ground.url) as client, client.shape(table) as shape:
        with pytest.raises(TableError, match=r"column 'until' .*text=\['until'\]") as refused:
            shape.to_arrow()
        assert "infinity'" not in refused.value.message
        nulls = {"id": 1, "until": None, "price": None, "span": None, "pair": None}
        assert shape.to_arrow(misfits="null").to_pylist() == [nulls]
        texts = {"id": 1, "until": "infinity", "price": "NaN", "span": "P1Y", "pair": "[0:1]={7,8}"}
        assert shape.to_arrow(text=["until", "price", "span", "pair"]).to_pylist() == [texts]
        with pytest.raises(TableError, match="no column 'untl'"):
            shape.to_polars(text=["untl"])
        with pytest.raises(ClientError, match="replica='full'"):
            client.stream_arrow(table, replica="default")
        with pytest.raises(ClientError, match="no option 'decode'"):
            client.stream_arrow(table, decode=False)
