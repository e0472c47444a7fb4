"""
`penstock snapshot`: writes the rows of a shape, as they are now, into a file.

Shell. The rows are held in memory until all are there, because later changes may concern earlier ones. The file is
written beside its name and takes it when it is whole.
"""

from __future__ import annotations

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
from penstock.client.tables import TableOptions, arrow_table, load
from penstock.client.values import RowDecoder, Schema
from penstock.errors import ConfigError, ExtraMissingError, TableError

FORMATS: Final = (".csv", ".jsonl", ".parquet")
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
        _load_parquet()


def _load_parquet() -> Any:
    try:
        return load("pyarrow.parquet", "arrow")
    except ExtraMissingError as error:
        raise ConfigError(f"Parquet is another matter: {error.message}; or write .csv or .jsonl") from error


def run_snapshot(
    url: str, stream: ShapeStream, path: Path, console: Console | None = None, *, text: Sequence[str] = ()
) -> int:
    """
    Read and write; gives how many rows there are. `text` names columns that Parquet is to have as text.

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
            write_rows(beside, path.suffix, stream.schema or {}, list(rows.rows.values()), text=text)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    out.print(f"{len(rows.rows):,} rows, {format_bytes(path.stat().st_size)} in {path}", highlight=False, markup=False)
    return len(rows.rows)


def write_rows(path: Path, suffix: str, schema: Schema, rows: Sequence[Row], *, text: Sequence[str] = ()) -> None:
    """
    Write rows in one of `FORMATS`. CSV is what `COPY … CSV HEADER` writes; JSON lines and Parquet have typed values, the latter
    those of `penstock.client.tables`.

    Raises:
        ConfigError: a value does not fit its column in Parquet, or there is no such column.
    """
    if suffix == ".parquet":
        _write_parquet(path, schema, rows, text)
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


def _write_parquet(path: Path, schema: Schema, rows: Sequence[Row], text: Sequence[str]) -> None:
    parquet = _load_parquet()
    try:
        parquet.write_table(arrow_table(schema, rows, TableOptions(text)), path)
    except TableError as error:
        raise ConfigError(
            f"{error.message.partition(': ')[0]}: give --text with the column, or write .jsonl"
        ) from error
