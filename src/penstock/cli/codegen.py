"""
`penstock codegen`: writes classes for the rows of tables, for `row_type=` of the clients.

Shell in so far as it asks the catalog; what is written is decided by plain functions, and is the same for the same tables
whenever and wherever it is made. The types are those that the clients decode (docs/guides/client.md, "Values").
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

import psycopg

from penstock.errors import ConfigError, ConnectionLostError

Style: TypeAlias = Literal["dataclass", "typeddict", "msgspec", "pydantic"]
EnumStyle: TypeAlias = Literal["literal", "enum"]
STYLES: Final[tuple[Style, ...]] = ("dataclass", "typeddict", "msgspec", "pydantic")
ENUM_STYLES: Final[tuple[EnumStyle, ...]] = ("literal", "enum")
CONNECT_S_MAX: Final = 10
LINE_CHARS_MAX: Final = 100

PYTHON_TYPES: Final[Mapping[str, str]] = {
    "bool": "bool",
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "int"),
    "numeric": "Decimal",
    **dict.fromkeys(("float4", "float8"), "float"),
    "date": "dt.date",
    **dict.fromkeys(("time", "timetz"), "dt.time"),
    **dict.fromkeys(("timestamp", "timestamptz"), "dt.datetime"),
    "interval": "dt.timedelta",
    "uuid": "UUID",
    "bytea": "bytes",
    **dict.fromkeys(("json", "jsonb"), "Any"),
}
"""What the clients make of a type by its name; of all others they make text."""

# By name, also without its schema where the search path finds it; without names, all of the schema public that a person made.
_TABLES: Final = """
SELECT n.nspname, c.relname, (
  SELECT json_agg(json_build_array(a.attname, coalesce(e.typname, t.typname),
      CASE WHEN e.oid IS NULL THEN 0 ELSE greatest(a.attndims, 1) END, a.attnotnull,
      (SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_enum l WHERE l.enumtypid = coalesce(e.oid, t.oid)))
    ORDER BY a.attnum)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typlen = -1 AND t.typcategory = 'A'
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND {condition}
ORDER BY n.nspname, c.relname
"""
_WHOLE_SCHEMA: Final = "n.nspname = 'public' AND NOT c.relispartition"
_BY_NAME: Final = "c.oid = to_regclass(%(name)s)"


@dataclass(frozen=True, slots=True)
class ColumnSeen:
    """
    A column as the catalog tells it.

    Attributes:
        name: its name.
        type_name: of its type, or of its elements' for an array.
        dims: dimensions of an array; 0 for none.
        is_not_null: whether it always has a value.
        labels: of an enum, in order; empty for other types.
    """

    name: str
    type_name: str
    dims: int
    is_not_null: bool
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableSeen:
    """
    A table as the catalog tells it.
    """

    schema: str
    name: str
    columns: tuple[ColumnSeen, ...]


def read_tables(database_url: str, names: Sequence[str]) -> list[TableSeen]:
    """
    Ask for tables; for all of the schema public without names.

    Raises:
        ConnectionLostError: the database cannot be asked.
        ConfigError: there is no such table, or none at all.
    """
    try:
        with psycopg.connect(
            database_url, autocommit=True, connect_timeout=CONNECT_S_MAX, application_name="penstock codegen"
        ) as connection:
            if not names:
                found = _ask(connection, _WHOLE_SCHEMA, "")
                if not found:
                    raise ConfigError("the schema public holds no tables: name those you mean, with their schema")
                return found
            tables: dict[tuple[str, str], TableSeen] = {}
            for name in names:
                found = _ask(connection, _BY_NAME, name)
                if not found:
                    raise ConfigError(f"there is no table {name}: write it as SQL does, with its schema if need be")
                tables |= {(table.schema, table.name): table for table in found}
            return list(tables.values())
    except psycopg.Error as error:
        raise ConnectionLostError(f"the database cannot be asked: {str(error).strip()}") from error


def _ask(connection: psycopg.Connection[Any], condition: str, name: str) -> list[TableSeen]:
    query = _TABLES.format(condition=condition).encode()
    return [
        TableSeen(
            schema,
            table,
            tuple(
                ColumnSeen(column, kind, dims, is_not_null, tuple(labels or ()))
                for column, kind, dims, is_not_null, labels in columns or ()
            ),
        )
        for schema, table, columns in connection.execute(query, {"name": name}).fetchall()
    ]


def select_columns(table: TableSeen, names: Sequence[str]) -> TableSeen:
    """
    Keep some columns, for a shape that has only those; all without names.

    Raises:
        ConfigError: there is no such column.
    """
    known = {column.name for column in table.columns}
    for name in names:
        if name not in known:
            raise ConfigError(f"--columns: {table.name} has no column {name}; it has {', '.join(sorted(known))}")
    kept = tuple(column for column in table.columns if not names or column.name in names)
    return TableSeen(table.schema, table.name, kept)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_models(tables: Sequence[TableSeen], *, style: Style = "dataclass", enums: EnumStyle = "literal") -> str:
    """
    Write a module with a class for each table.

    Raises:
        ConfigError: a column has a name that the style cannot have.
    """
    # Names first: two tables, or two enums, may come to the same one.
    classes = _class_names([(table.schema, table.name) for table in tables], taken=set(_IMPORTED))
    enum_names = sorted(
        {(column.type_name, column.labels) for table in tables for column in table.columns if column.labels}
    )
    enum_classes = _class_names([("", name) for name, _ in enum_names], taken={*_IMPORTED, *classes.values()})
    written = [_ENUMS[enums](enum_classes["", name], labels) for name, labels in enum_names]
    for table in tables:
        types = [
            (column, _python_type(column, enum_classes.get(("", column.type_name)) if column.labels else None))
            for column in table.columns
        ]
        written.append(_STYLES[style](classes[table.schema, table.name], table, types))
    body = "\n\n\n".join(written)
    return f"{_HEAD}\n\n{_imports(body)}\n\n\n{body}\n"


_HEAD: Final = '''"""
Rows of tables, written by `penstock codegen`; write it again when the tables have changed.
"""

from __future__ import annotations'''
# What the written code may use, by the word in it; in the order of import blocks.
_IMPORTS: Final = (
    (
        ("dt.", "import datetime as dt"),
        ("@dataclass", "from dataclasses import dataclass"),
        ("Decimal", "from decimal import Decimal"),
        ("StrEnum", "from enum import StrEnum"),
    ),
    (("msgspec.", "import msgspec"),),
)
_TYPING: Final = ("Any", "Literal", "TypeAlias", "TypedDict")
_PYDANTIC: Final = ("BaseModel", "ConfigDict", "Field")
_TYPE_WORDS: Final = frozenset(
    {"bool", "int", "float", "str", "bytes", "list", "dt", "Any", "Decimal", "UUID", "msgspec"}
)
# Attributes of pydantic's models that are no methods of ours to hide.
_PYDANTIC_WORDS: Final = frozenset(
    {
        *(
            "construct",
            "copy",
            "dict",
            "from_orm",
            "json",
            "parse_file",
            "parse_obj",
            "parse_raw",
            "schema",
            "schema_json",
        ),
        *("update_forward_refs", "validate"),
        *(f"model_{word}" for word in ("computed_fields", "config", "construct", "copy", "dump", "dump_json", "extra")),
        *(
            f"model_{word}"
            for word in ("fields", "fields_set", "json_schema", "parametrized_name", "post_init", "rebuild")
        ),
        *(f"model_{word}" for word in ("validate", "validate_json", "validate_strings")),
    }
)
_IMPORTED: Final = frozenset({"UUID", "Decimal", "StrEnum", *_TYPING, *_PYDANTIC})


def _imports(body: str) -> str:
    standard = [line for word, line in _IMPORTS[0] if word in body]
    if typing := [word for word in _TYPING if re.search(rf"\b{word}\b", body)]:
        standard.append(f"from typing import {', '.join(typing)}")
    if re.search(r"\bUUID\b", body):
        standard.append("from uuid import UUID")
    others = [line for word, line in _IMPORTS[1] if word in body]
    if pydantic := [word for word in _PYDANTIC if re.search(rf"\b{word}\b", body)]:
        others.append(f"from pydantic import {', '.join(pydantic)}")
    return "\n\n".join("\n".join(block) for block in (standard, others) if block)


def _class_names(names: Iterable[tuple[str, str]], *, taken: set[str]) -> dict[tuple[str, str], str]:
    """
    Give each a name of its own: that of the table, with its schema before it where that is taken, else with a number.
    """
    found: dict[tuple[str, str], str] = {}
    for schema, name in names:
        wanted = _camel(name)
        if wanted in taken and schema:
            wanted = _camel(f"{schema}_{name}")
        free, number = wanted, 1
        while free in taken:
            number += 1
            free = f"{wanted}{number}"
        taken.add(free)
        found[schema, name] = free
    return found


def _camel(name: str) -> str:
    words = [word for word in re.split(r"[^0-9A-Za-z]+", name) if word]
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined[:1].isalpha() else f"Table{joined}"


def _python_type(column: ColumnSeen, enum: str | None) -> str:
    one = enum or PYTHON_TYPES.get(column.type_name, "str")
    if column.dims:
        # Elements may be NULL whatever the column is.
        one = one if one == "Any" else f"{one} | None"
        for _ in range(column.dims):
            one = f"list[{one}]"
    return one if column.is_not_null or one == "Any" else f"{one} | None"


def _is_plain(name: str, reserved: Collection[str] = ()) -> bool:
    """
    Tell whether a column's name can be an attribute, and hides nothing that the types of others are written with.
    """
    is_word = name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not name.startswith("_")
    return is_word and name not in _TYPE_WORDS and name not in reserved


def _attribute(name: str, taken: set[str]) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "column"
    if plain[0].isdigit():
        plain = f"column_{plain}"
    while plain in taken or not _is_plain(plain) or plain in _PYDANTIC_WORDS:
        plain += "_"
    taken.add(plain)
    return plain


_Typed: TypeAlias = Sequence[tuple[ColumnSeen, str]]


def _docstring(table: TableSeen) -> str:
    named = f"{table.schema}.{table.name}".replace("\\", "\\\\").replace('"', '\\"')
    return f'    """\n    A row of {named}.\n    """'


def _attributes(columns: _Typed, alias: Callable[[str], str], reserved: Collection[str] = ()) -> list[str]:
    """
    Write the attributes of a class; those with another name than the column's say which.
    """
    taken = {column.name for column, _ in columns if _is_plain(column.name, reserved)}
    lines = []
    for column, kind in columns:
        if _is_plain(column.name, reserved):
            lines.append(f"    {column.name}: {kind}")
        else:
            lines.append(f"    {_attribute(column.name, taken)}: {kind} = {alias(_quote(column.name))}")
    return lines


def _dataclass(name: str, table: TableSeen, columns: _Typed) -> str:
    for column, _ in columns:
        if not _is_plain(column.name):
            raise ConfigError(
                f"the column {column.name!r} of {table.name} cannot be an attribute of a dataclass: leave it out with"
                " --columns, or choose --style msgspec, pydantic or typeddict"
            )
    lines = [f"    {column.name}: {kind}" for column, kind in columns]
    return "\n".join(
        [f"@dataclass(frozen=True, slots=True)\nclass {name}:", _docstring(table), "", *(lines or ["    pass"])]
    )


def _typeddict(name: str, table: TableSeen, columns: _Typed) -> str:
    if all(_is_plain(column.name) for column, _ in columns):
        lines = [f"    {column.name}: {kind}" for column, kind in columns]
        return "\n".join([f"class {name}(TypedDict):", _docstring(table), "", *(lines or ["    pass"])])
    # Types in a call are looked at when it is made, and all that they name stands above.
    fields = [f"        {_quote(column.name)}: {kind}," for column, kind in columns]
    return "\n".join([f"{name} = TypedDict(", f'    "{name}",', "    {", *fields, "    },", ")"])


def _msgspec(name: str, table: TableSeen, columns: _Typed) -> str:
    lines = _attributes(columns, lambda quoted: f"msgspec.field(name={quoted})")
    head = f"class {name}(msgspec.Struct, frozen=True, kw_only=True):"
    return "\n".join([head, _docstring(table), "", *(lines or ["    pass"])])


def _pydantic(name: str, table: TableSeen, columns: _Typed) -> str:
    lines = _attributes(columns, lambda quoted: f"Field(alias={quoted})", _PYDANTIC_WORDS)
    # Fields of their own prefixes are warned of by pydantic, and columns are called what they are called.
    config = "    model_config = ConfigDict(frozen=True, protected_namespaces=())"
    return "\n".join([f"class {name}(BaseModel):", _docstring(table), "", config, "", *lines])


def _literal(name: str, labels: tuple[str, ...]) -> str:
    line = f"{name}: TypeAlias = Literal[{', '.join(map(_quote, labels))}]"
    if len(line) <= LINE_CHARS_MAX:
        return line
    return "\n".join([f"{name}: TypeAlias = Literal[", *(f"    {_quote(label)}," for label in labels), "]"])


def _enum(name: str, labels: tuple[str, ...]) -> str:
    taken = {"NAME", "VALUE"}
    members = [f"    {_attribute(label.upper(), taken)} = {_quote(label)}" for label in labels]
    return "\n".join([f"class {name}(StrEnum):", f'    """\n    Labels of the enum {name}.\n    """', "", *members])


def _quote(text: str) -> str:
    # As JSON writes it Python reads it, but for what is beyond the first plane, which is left as it is.
    quoted = json.dumps(text, ensure_ascii=False)
    if '"' in text and "'" not in text:
        # As formatters like it.
        return "'" + quoted[1:-1].replace('\\"', '"') + "'"
    return quoted


_STYLES: Final[Mapping[Style, Callable[[str, TableSeen, _Typed], str]]] = {
    "dataclass": _dataclass,
    "typeddict": _typeddict,
    "msgspec": _msgspec,
    "pydantic": _pydantic,
}
_ENUMS: Final[Mapping[EnumStyle, Callable[[str, tuple[str, ...]], str]]] = {"literal": _literal, "enum": _enum}


def run_codegen(
    database_url: str, names: Sequence[str], *, columns: Sequence[str], style: str, enums: str, path: Path | None
) -> str:
    """
    Ask and write; gives what was written.

    Raises:
        PenstockError: the database cannot be asked, or something is not there or cannot be written.
    """
    tables = read_tables(database_url, names)
    if columns and len(tables) != 1:
        raise ConfigError("--columns is of one table: name it")
    text = write_models(
        [select_columns(table, columns) for table in tables],
        style=cast("Style", style),
        enums=cast("EnumStyle", enums),
    )
    if path is not None:
        try:
            path.write_text(text)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    return text
