"""
`penstock snapshot`: writes the rows of a shape, as they are now, into a file.

Shell. The rows are held in memory until all are there, because later changes may concern earlier ones. The file is
written beside its name and takes it when it is whole.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from penstock.cli.explain import format_bytes
from penstock.cli.following import follow
from penstock.cli.tail import csv_field
from penstock.client.materialize import Materializer
from penstock.client.stream import MustRefetch, ShapeStream, UpToDate
from penstock.client.values import RowDecoder, Schema
from penstock.errors import ConfigError

FORMATS: Final = (".csv", ".jsonl", ".parquet")
# Names of types that Arrow has as well; everything else is written as the text that Postgres gives.
_ARROW: Final = {
    "bool": "bool_",
    "int2": "int16",
    "int4": "int32",
    "int8": "int64",
    "float4": "float32",
    "float8": "float64",
}

Row = Mapping[str, str | None]


def check_target(path: Path) -> None:
    """
    See to it that a file can be written, before anything is read.

    Raises:
        ConfigError: the format is none of ours, its library is missing, or there is no such folder.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--to {path}: the name must end with {', '.join(FORMATS)}, which says the format")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--to {path}: there is no folder {path.absolute().parent}; make it first")
    if path.suffix == ".parquet":
        _load_arrow()


def _load_arrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'penstock[arrow]', or write .csv or .jsonl") from error


def run_snapshot(url: str, stream: ShapeStream, path: Path, console: Console | None = None) -> int:
    """
    Read and write; gives how many rows there are.

    Raises:
        PenstockError: nobody answers, the shape is refused, or the file cannot be written.
    """
    check_target(path)
    out = console or Console(stderr=True)
    rows = Materializer()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task("reading", total=None, rows=0)
        for events in follow(url, stream, is_live=False, say=out.print):
            for event in events:
                match event:
                    case MustRefetch():
                        rows.clear()
                    case UpToDate():
                        pass
                    case message:
                        rows.apply(message)
            progress.update(task, rows=len(rows.rows))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            write_rows(beside, path.suffix, stream.schema or {}, list(rows.rows.values()))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    out.print(f"{len(rows.rows):,} rows, {format_bytes(path.stat().st_size)} in {path}", highlight=False, markup=False)
    return len(rows.rows)


def write_rows(path: Path, suffix: str, schema: Schema, rows: Sequence[Row]) -> None:
    """
    Write rows in one of `FORMATS`. CSV is what `COPY … CSV HEADER` writes; JSON lines and Parquet have typed values.
    """
    if suffix == ".parquet":
        _write_parquet(path, schema, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in (_csv(schema, rows) if suffix == ".csv" else _json(schema, rows)))


def _csv(schema: Schema, rows: Iterable[Row]) -> Iterable[str]:
    yield ",".join(csv_field(name) for name in schema)
    for row in rows:
        yield ",".join(csv_field(row.get(name)) for name in schema)


def _json(schema: Schema, rows: Iterable[Row]) -> Iterable[str]:
    decoder, encoder = RowDecoder(schema), msgspec.json.Encoder(decimal_format="string")
    for row in rows:
        yield encoder.encode(decoder.decode(row)).decode()


def _write_parquet(path: Path, schema: Schema, rows: Sequence[Row]) -> None:
    arrow, parquet = _load_arrow()
    decoder = RowDecoder(schema)
    decoded = [decoder.decode(row) for row in rows]
    arrays = {}
    for name, column in schema.items():
        known = None if column.get("dims") else _ARROW.get(column.get("type", ""))
        values = [row[name] for row in decoded] if known else [row[name] for row in rows]
        arrays[name] = arrow.array(values, type=getattr(arrow, known)() if known else arrow.string())
    parquet.write_table(arrow.table(arrays), path)
