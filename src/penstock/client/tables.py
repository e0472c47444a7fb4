"""
Rows as tables: Arrow, and by way of it polars, pandas and Parquet.

The header `electric-schema` names the type of each column, and that alone decides the type of the table's column, so that two
snapshots of a shape fit together whatever is in them; docs/guides/client.md has the table of it. Values go from the text that
Postgres writes to columns of Arrow without becoming objects of Python on the way, where Arrow can read the text itself.

What a column's type cannot hold (`infinity` in a timestamp, NaN in a decimal, an interval with months) is an error that names
the column and what to do, or NULL for who asks for that; never something else.

Pure: the libraries are imported when a table is asked for, and an error names the extra that brings them.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, TypeVar

from penstock.client.html import html_table
from penstock.client.values import Schema, decoder_of
from penstock.errors import ExtraMissingError, TableError

if TYPE_CHECKING:
    # The first has no types of its own, and its absence is nothing to whoever does not ask for tables.
    import pandas as pd
    import polars as pl
    import pyarrow as pa  # type: ignore[import-untyped]

R = TypeVar("R")

Misfits: TypeAlias = Literal["raise", "null"]
"""What becomes of a value that the type of its column cannot hold: an error, or NULL."""
Dialect: TypeAlias = Literal["arrow", "polars", "pandas"]
"""For whom a table is made: not all of them know all of Arrow's types."""
Texts: TypeAlias = Mapping[str, str | None]

DECIMAL_DIGITS_MAX: Final = 38
"""Of a decimal of 128 bits."""
WIDE_DECIMAL_DIGITS_MAX: Final = 76
"""Of a decimal of 256 bits."""

# By type of Postgres: the function of pyarrow that makes the type, and its arguments.
_PLAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "bool": ("bool_",),
    "int2": ("int16",),
    "int4": ("int32",),
    "int8": ("int64",),
    "oid": ("uint32",),
    "float4": ("float32",),
    "float8": ("float64",),
    "date": ("date32",),
    "time": ("time64", "us"),
    "timestamp": ("timestamp", "us"),
    "timestamptz": ("timestamp", "us", "UTC"),
    "interval": ("duration", "us"),
    "uuid": ("uuid",),
    "bytea": ("binary",),
}
# Types whose values are texts of all kinds. What is not among them, nor above, is taken for an enum: those are types of the
# user's own, of which the schema tells the name only.
_TEXTUAL: Final = frozenset(
    {
        *(
            "text",
            "varchar",
            "bpchar",
            "char",
            "name",
            "numeric",
            "timetz",
            "json",
            "jsonb",
            "jsonpath",
            "xml",
            "money",
        ),
        *("bit", "varbit", "inet", "cidr", "macaddr", "macaddr8", "point", "line", "lseg", "box", "path", "polygon"),
        *("circle", "tsvector", "tsquery", "pg_lsn", "pg_snapshot", "txid_snapshot", "xid", "xid8", "cid", "tid"),
        *("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "int4multirange"),
        *("int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange", "record"),
        *("regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regnamespace", "regrole"),
        *("regconfig", "regdictionary", "regcollation", "oidvector", "int2vector", "refcursor", "aclitem"),
        # Of extensions that are met everywhere.
        *("citext", "hstore", "ltree", "lquery", "ltxtquery", "cube", "geometry", "geography", "vector", "halfvec"),
        *("sparsevec", "isbn", "isbn13", "issn", "ean13"),
    }
)


def load(module: str, extra: str) -> Any:
    """
    Import a library that an extra brings.

    Raises:
        ExtraMissingError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        package = module.partition(".")[0]
        raise ExtraMissingError(f'this needs {package}: pip install "penstock[{extra}]"') from cause


@dataclass(frozen=True, slots=True)
class TableOptions:
    """
    How rows become a table.

    Attributes:
        text: columns to leave as the text that Postgres writes.
        misfits: what becomes of values that the type of their column cannot hold.
        dialect: for whom the table is made.
        extra: the extra that brings the libraries for it.
    """

    text: Collection[str] = ()
    misfits: Misfits = "raise"
    dialect: Dialect = "arrow"
    extra: str = "arrow"


def arrow_schema(schema: Schema, options: TableOptions = TableOptions()) -> pa.Schema:
    """
    Give the schema of the table that rows of a shape become.

    Raises:
        ExtraMissingError: pyarrow is not installed.
        TableError: `text` names a column that is not there.
    """
    arrow = load("pyarrow", options.extra)
    unknown = sorted(set(options.text) - set(schema))
    if unknown:
        raise TableError(f"there is no column {unknown[0]!r} to leave as text: there are {', '.join(schema)}")
    return arrow.schema([(name, _column_type(arrow, name, column, options)) for name, column in schema.items()])


def arrow_table(schema: Schema, rows: Sequence[Texts], options: TableOptions = TableOptions()) -> pa.Table:
    """
    Make a table of Arrow.

    Raises:
        ExtraMissingError: pyarrow is not installed.
        TableError: a value does not fit, and `misfits` does not say that this makes it NULL.
    """
    arrow = load("pyarrow", options.extra)
    return arrow.Table.from_arrays(arrow_columns(schema, rows, options), schema=arrow_schema(schema, options))


def arrow_columns(schema: Schema, rows: Sequence[Texts], options: TableOptions) -> list[Any]:
    """
    Make the columns of a table, or of a batch; errors as for `arrow_table`.
    """
    arrow = load("pyarrow", options.extra)
    return [
        _column(arrow, field, schema[field.name], [row.get(field.name) for row in rows], options)
        for field in arrow_schema(schema, options)
    ]


def polars_frame(schema: Schema, rows: Sequence[Texts], options: TableOptions = TableOptions()) -> pl.DataFrame:
    """
    Make a frame of polars; errors as for `arrow_table`.
    """
    polars = load("polars", "polars")
    table = arrow_table(schema, rows, replace(options, dialect="polars", extra="polars"))
    frame: pl.DataFrame = polars.from_arrow(table)
    return frame


def pandas_frame(schema: Schema, rows: Sequence[Texts], options: TableOptions = TableOptions()) -> pd.DataFrame:
    """
    Make a frame of pandas, whose columns stay those of Arrow, so that NULL does not make floats of integers; enums become
    categories. Errors as for `arrow_table`.
    """
    pandas = load("pandas", "pandas")
    table = arrow_table(schema, rows, replace(options, dialect="pandas", extra="pandas"))
    arrow = load("pyarrow", "pandas")
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=lambda kind: None if arrow.types.is_dictionary(kind) else pandas.ArrowDtype(kind)
    )
    return frame


class Tabular(ABC):
    """
    What can be taken as a table.
    """

    __slots__ = ()

    @abstractmethod
    def table_rows(self) -> tuple[Schema, Sequence[Texts]]:
        """
        Give the schema and the rows as text, as of one moment.
        """

    def to_arrow(self, *, text: Collection[str] = (), misfits: Misfits = "raise") -> pa.Table:
        """
        Give the rows as a `pyarrow.Table`, typed by what the server says about the columns.

        Args:
            text: columns to leave as the text that Postgres writes.
            misfits: `null` to make NULL of what the type of its column cannot hold, such as `infinity` in a timestamp.

        Raises:
            ExtraMissingError: `penstock[arrow]` is not installed.
            TableError: a value does not fit.
            ClientError: as for `rows`.
        """
        schema, rows = self.table_rows()
        return arrow_table(schema, rows, TableOptions(text, misfits))

    def to_polars(self, *, text: Collection[str] = (), misfits: Misfits = "raise") -> pl.DataFrame:
        """
        Give the rows as a `polars.DataFrame`. Arguments and errors as for `to_arrow`, with `penstock[polars]`.
        """
        schema, rows = self.table_rows()
        return polars_frame(schema, rows, TableOptions(text, misfits))

    def to_pandas(self, *, text: Collection[str] = (), misfits: Misfits = "raise") -> pd.DataFrame:
        """
        Give the rows as a `pandas.DataFrame` with columns of Arrow's types. Arguments and errors as for `to_arrow`, with
        `penstock[pandas]`.
        """
        schema, rows = self.table_rows()
        return pandas_frame(schema, rows, TableOptions(text, misfits))

    def _repr_html_(self) -> str:
        schema, rows = self.table_rows()
        return html_table(schema, rows, len(rows))


class Rows(tuple[R, ...], Tabular):  # noqa: SLOT001  a tuple has none to add to
    """
    Rows that were read once: a tuple of them that can be taken as a table.
    """

    _schema: Schema
    _texts: Sequence[Texts]

    @classmethod
    def of(cls, rows: Iterable[R], schema: Schema, texts: Sequence[Texts]) -> Self:
        """
        Make it of rows, and of the same as text.
        """
        made = cls(rows)
        made._schema, made._texts = schema, texts
        return made

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[tuple[R, ...]]]:
        # What is sent to other processes or kept is the rows.
        return (tuple, (tuple(self),))

    def table_rows(self) -> tuple[Schema, Sequence[Texts]]:
        """
        See `Tabular`.
        """
        return self._schema, self._texts


# --- types -----------------------------------------------------------------------------------------------------------


def _column_type(arrow: Any, name: str, column: Mapping[str, Any], options: TableOptions) -> Any:
    if name in options.text:
        return arrow.string()
    kind = _value_type(arrow, column, options.dialect)
    for _ in range(int(column.get("dims", 0))):
        kind = arrow.list_(kind)
    return kind


def _value_type(arrow: Any, column: Mapping[str, Any], dialect: Dialect) -> Any:
    name = column.get("type", "text")
    if name == "uuid" and dialect != "arrow":
        return arrow.string()
    if name in _PLAIN:
        make, *arguments = _PLAIN[name]
        return getattr(arrow, make)(*arguments)
    if name == "numeric" and "precision" in column:
        return _decimal_type(arrow, int(column["precision"]), int(column.get("scale", 0)), dialect)
    return arrow.string() if name in _TEXTUAL else arrow.dictionary(arrow.int32(), arrow.string())


def _decimal_type(arrow: Any, precision: int, scale: int, dialect: Dialect) -> Any:
    # Postgres allows a scale below zero, which rounds before the point, and one above the precision; others do not.
    digits = max(precision - min(scale, 0), scale)
    if digits <= DECIMAL_DIGITS_MAX:
        return arrow.decimal128(digits, max(scale, 0))
    if digits <= WIDE_DECIMAL_DIGITS_MAX and dialect != "polars":
        return arrow.decimal256(digits, max(scale, 0))
    return arrow.string()


# --- values ----------------------------------------------------------------------------------------------------------


class _MisfitError(Exception):
    """
    A type cannot hold a value, which is not ours to repeat in a message.
    """


def _column(
    arrow: Any, field: Any, column: Mapping[str, Any], texts: Sequence[str | None], options: TableOptions
) -> Any:
    dims = 0 if field.name in options.text else int(column.get("dims", 0))
    try:
        if dims:
            read = decoder_of({"type": "text", "dims": dims})
            assert read is not None, "an array is always read"
            values = [None if text is None else read(text) for text in texts]
            return _lists(arrow, field.type, values, options.misfits)
        return _values(arrow, field.type, texts, options.misfits)
    except _MisfitError:
        raise TableError(
            f"column {field.name!r} holds a value that {field.type} cannot{_reason(arrow, field.type)}: take the column as"
            f" text with text=[{field.name!r}], or such values as NULL with misfits='null'"
        ) from None


def _reason(arrow: Any, kind: Any) -> str:
    while _is_list(arrow, kind):
        kind = kind.value_type
    types = arrow.types
    if types.is_decimal(kind):
        return " (NaN, or an infinity)"
    if types.is_timestamp(kind) or types.is_date(kind):
        return " (infinity, or a year before 1 or after 9999)"
    if types.is_duration(kind):
        return " (an interval with months or years)"
    return " (24:00:00)" if types.is_time(kind) else ""


def _lists(arrow: Any, kind: Any, values: Sequence[Any], misfits: Misfits) -> Any:
    """
    Make a column of lists: of all their elements one column, and where each list begins in it.
    """
    offsets: list[int | None] = []
    elements: list[Any] = []
    inner = kind.value_type
    for value in values:
        # What could not be read as an array is still a text; of fewer dimensions than the column's, so are its elements.
        is_misfit = isinstance(value, str) or (
            isinstance(value, list)
            and any(isinstance(element, list) != _is_list(arrow, inner) for element in value if element is not None)
        )
        if is_misfit and misfits == "raise":
            raise _MisfitError
        if value is None or is_misfit:
            offsets.append(None)
        else:
            offsets.append(len(elements))
            elements.extend(value)
    offsets.append(len(elements))
    made = (_lists if _is_list(arrow, inner) else _values)(arrow, inner, elements, misfits)
    return arrow.ListArray.from_arrays(arrow.array(offsets, arrow.int32()), made, type=kind)


def _is_list(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_list(kind))


def _values(arrow: Any, kind: Any, texts: Sequence[str | None], misfits: Misfits) -> Any:
    make = _maker(arrow, kind)
    try:
        return make(texts)
    except (ValueError, OverflowError) as cause:
        # pyarrow's errors of this kind are ValueErrors.
        if misfits == "raise":
            raise _MisfitError from cause
        return make([text if text is None or _fits(make, text) else None for text in texts])


def _fits(make: Callable[[Sequence[str | None]], Any], text: str) -> bool:
    try:
        make([text])
    except (ValueError, OverflowError):
        return False
    return True


def _maker(arrow: Any, kind: Any) -> Callable[[Sequence[str | None]], Any]:
    """
    Give what makes a column of a type from texts; it raises `ValueError` where one does not fit.
    """
    compute = importlib.import_module("pyarrow.compute")

    def of_texts(texts: Sequence[str | None]) -> Any:
        return arrow.array(texts, arrow.string())

    def each(convert: Callable[[str], Any], stored: Any = kind) -> Callable[[Sequence[str | None]], Any]:
        return lambda texts: arrow.array([None if text is None else convert(text) for text in texts], stored)

    types = arrow.types
    if types.is_string(kind):
        return of_texts
    if types.is_dictionary(kind):
        return lambda texts: of_texts(texts).dictionary_encode()
    if types.is_boolean(kind):
        return each(_bool)
    if types.is_binary(kind):
        return each(_bytes)
    if types.is_duration(kind):
        return each(_duration)
    if types.is_time64(kind):
        # Arrow reads no times alone.
        return lambda texts: (
            compute.binary_join_element_wise("1970-01-01", of_texts(texts), " ").cast(arrow.timestamp("us")).cast(kind)
        )
    if isinstance(kind, arrow.BaseExtensionType):
        store = each(lambda text: bytes.fromhex(text.replace("-", "")), kind.storage_type)
        return lambda texts: arrow.ExtensionArray.from_storage(kind, store(texts))
    return lambda texts: of_texts(texts).cast(kind)


def _bool(text: str) -> bool:
    if text in {"t", "true"}:
        return True
    if text in {"f", "false"}:
        return False
    raise ValueError(text)


def _bytes(text: str) -> bytes:
    if not text.startswith("\\x"):
        raise ValueError(text)
    return bytes.fromhex(text[2:])


def _duration(text: str) -> Any:
    value = _READ_INTERVAL(text)
    if isinstance(value, str):
        raise ValueError(text)  # noqa: TRY004  it is the text that is wrong
    return value


_found = decoder_of({"type": "interval"})
assert _found is not None, "intervals are read"
_READ_INTERVAL: Final = _found
