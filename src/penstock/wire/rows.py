"""
Rows of the stream as change messages, by code generated for each table and projection.

Owns the encoders; which change becomes which message is decided by the consumers, except where the decision is about
columns alone and therefore belongs into the generated code: an update that changes nothing served gives no message, one
that changes the key gives two.

Theory of operation. For one description of a table in the stream (order and types of columns) and one projection (what
is served of it) everything but the values is constant. So three functions are written as Python source, with all
constant bytes folded together, compiled once, and called with a row:

* an insert is one `join` of constants and raw values, after one search for characters that need escaping through the
  values of those types that can hold any; a row with a NULL takes a second such path, and one with a character to
  escape a third that looks at each value by itself;
* an update compares column by column;
* a delete is an insert of fewer columns.

Values are matched by name, because a partition may order its columns differently from its root.

Invariants: the output equals that of `wire.messages.change_message` byte for byte; it depends on nothing but the
arguments; no input makes an encoder raise once it is compiled.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.compiled.choice import Column, Core, core
from penstock.errors import ShapeError
from penstock.postgres.relation import StreamColumn
from penstock.wire.messages import UNSAFE_CHARACTERS, escape, json_string, json_value, relation_text

Row: TypeAlias = tuple[bytes | None, ...]
Elements: TypeAlias = tuple[tuple[int, bytes], ...]
"""Messages with their operation positions, in order."""

PLAIN_TYPE_OIDS: Final = frozenset(
    {16, 20, 21, 23, 26, 28, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950, 5069}
)
"""
Types whose text, under our session settings, never holds a quote, a backslash, a control character or a slash: bool, the
integers, oid, xid, floats, date and time types, interval (ISO 8601), numeric, uuid, xid8. A bytea begins with a backslash.
"""


class RowForm(NamedTuple):
    """
    What is served of a table's rows.

    Attributes:
        schema: of the shape's root table.
        table: its name.
        key_columns: columns that name a row, in key order; all of them are among `selected`.
        selected: columns served, in the order served.
        is_full: whether updates and deletes carry the whole row (`replica=full`).
    """

    schema: str
    table: str
    key_columns: tuple[str, ...]
    selected: tuple[str, ...]
    is_full: bool


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """
    Makes the messages of one table's changes for one projection.

    All take what `messages.headers_end` gives and the operation position.

    Attributes:
        insert: from the new row; always one message.
        update: from the old and the new row; none, one or two messages.
        delete: from the old row; always one message.
        messages: from many changes of the described relation, which is given too, with what `messages.headers_end`
            gives; None when one of the changes has to be looked at by itself. Only of the compiled core.
        transactions: from fragments that are whole transactions, of which all changes are of the described table: commit LSN and messages of each
            that has any, the last one marked; None when one of the changes has to be looked at by itself. Only of the
            compiled core.
    """

    insert: Callable[[Row, bytes, int], Elements]
    update: Callable[[Row, Row, bytes, int], Elements]
    delete: Callable[[Row, bytes, int], Elements]
    messages: Callable[[Sequence[Any], Any, bytes], list[tuple[int, bytes]] | None] | None = None
    transactions: Callable[[list[Any]], list[tuple[int, Sequence[tuple[int, bytes]]]] | None] | None = None


def _key_part(value: bytes | None) -> bytes:
    """
    Give one part of a key, escaped for JSON, with the slash before it.
    """
    return b"/_" if value is None else rb"/\"%b\"" % escape(value.replace(b"/", b"//"))


class _Source:
    """
    Lines of a module under construction, with its constants.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, object] = {
            "join": b"".join,
            "UNSAFE": UNSAFE_CHARACTERS,
            "E": b"",
            "NULL": json_value(None),
            "q": json_value,
            "k": _key_part,
        }

    def constant(self, value: bytes) -> str:
        name = f"C{len(self.names)}"
        self.names[name] = value
        return name

    def joined(self, pieces: Sequence[bytes | str]) -> str:
        """
        Write an expression that joins constants (bytes) and expressions (str), neighbouring constants folded.
        """
        terms: list[str] = []
        pending = b""
        for piece in pieces:
            if isinstance(piece, bytes):
                pending += piece
                continue
            if pending:
                terms.append(self.constant(pending))
                pending = b""
            terms.append(piece)
        if pending:
            terms.append(self.constant(pending))
        return f"join(({', '.join(terms)},))"


class _Writer:
    """
    Writes the three functions for one description and one form.
    """

    def __init__(self, columns: Sequence[StreamColumn], form: RowForm) -> None:
        self._index = {column.name: index for index, column in enumerate(columns)}
        self._plain = {column.name for column in columns if column.type_oid in PLAIN_TYPE_OIDS}
        self._form = form
        missing = [name for name in (*form.selected, *form.key_columns) if name not in self._index]
        if missing:
            raise ShapeError(f"the stream does not have column {missing[0]} of table {form.schema}.{form.table}")
        self._start = b'{"key":"%b' % escape(relation_text(form.schema, form.table))
        self._relation = b'"relation":[%b,%b]' % (
            json_string(form.schema.encode()),
            json_string(form.table.encode()),
        )
        self.source = _Source()

    def _cell(self, row: str, name: str) -> str:
        return f"{row}[{self._index[name]}]"

    def _raw_key(self, row: str) -> list[bytes | str]:
        """
        Give the key of a row without NULLs and characters to escape.
        """
        pieces: list[bytes | str] = []
        for name in self._form.key_columns:
            cell = self._cell(row, name)
            pieces += [rb"/\"", cell if name in self._plain else f"{cell}.replace(b'/', b'//')", rb"\""]
        return pieces

    def _safe_key(self, row: str) -> list[bytes | str]:
        return [
            rf"(b'/_' if {cell} is None else b'/\\\"%b\\\"' % {cell})" if name in self._plain else f"k({cell})"
            for name in self._form.key_columns
            for cell in [self._cell(row, name)]
        ]

    def _safe_value(self, row: str, name: str) -> str:
        """
        Write a value as JSON; only what may hold something to escape is searched.
        """
        cell = self._cell(row, name)
        return f"(NULL if {cell} is None else b'\"%b\"' % {cell})" if name in self._plain else f"q({cell})"

    def _raw_values(self, row: str, names: Sequence[str]) -> list[bytes | str]:
        pieces: list[bytes | str] = []
        for number, name in enumerate(names):
            pieces += [b",%b:" % self._name(name) if number else b"%b:" % self._name(name)]
            pieces += [b'"', self._cell(row, name), b'"']
        return pieces

    def _nullable_values(self, row: str, names: Sequence[str]) -> list[bytes | str]:
        pieces: list[bytes | str] = []
        for number, name in enumerate(names):
            pieces += [b",%b:" % self._name(name) if number else b"%b:" % self._name(name)]
            cell = self._cell(row, name)
            pieces.append(f"NULL if {cell} is None else b'\"%b\"' % {cell}")
        return pieces

    def _safe_values(self, row: str, names: Sequence[str]) -> list[bytes | str]:
        pieces: list[bytes | str] = []
        for number, name in enumerate(names):
            pieces += [b",%b:" % self._name(name) if number else b"%b:" % self._name(name)]
            pieces.append(self._safe_value(row, name))
        return pieces

    @staticmethod
    def _name(name: str) -> bytes:
        return json_string(name.encode())

    def _headers(self, operation: bytes) -> bytes:
        return b',"headers":{"operation":"%b",%b' % (operation, self._relation)

    def _whole(
        self,
        key: list[bytes | str],
        values: list[bytes | str],
        operation: bytes,
        extra: Sequence[bytes | str] = (),
        position: str = "b'%d}}' % op",
    ) -> list[bytes | str]:
        """
        Give the pieces of a message without `old_value`.
        """
        return [self._start, *key, b'","value":{', *values, b"}", self._headers(operation), *extra, "end", position]

    def _write_single(self, function: str, operation: bytes, names: Sequence[str]) -> None:
        """
        Write a function that makes one message of one row.
        """
        source = self.source
        raw = source.joined(self._whole(self._raw_key("row"), self._raw_values("row", names), operation))
        safe = source.joined(self._whole(self._safe_key("row"), self._safe_values("row", names), operation))
        some = source.joined(self._whole(self._safe_key("row"), self._nullable_values("row", names), operation))
        texts = [self._cell("row", name) for name in names if name not in self._plain]
        source.lines.append(f"def {function}(row, end, op):")
        source.lines.append("    if None not in row:")
        self._write_if_clean(texts, raw)
        source.lines.append("    else:")
        self._write_if_clean([f"{text} or E" for text in texts], some)
        source.lines.append(f"    return ((op, {safe}),)")

    def _write_if_clean(self, texts: Sequence[str], message: str) -> None:
        """
        Return the message if no text holds anything to escape.
        """
        lines = self.source.lines
        if texts:
            lines.append(f"        texts = join(({', '.join(texts)},))")
            lines.append("        if texts.translate(None, UNSAFE) == texts:")
            lines.append(f"            return ((op, {message}),)")
        else:
            lines.append(f"        return ((op, {message}),)")

    def _write_key_change(self) -> None:
        source, form = self.source, self._form
        gone_names = form.selected if form.is_full else form.key_columns
        old_key, new_key = self._safe_key("old"), self._safe_key("new")
        start = escape(relation_text(form.schema, form.table))
        gone = self._whole(
            old_key,
            self._safe_values("old", gone_names),
            b"delete",
            [b',"key_change_to":"%b' % start, *new_key, b'"'],
        )
        come = self._whole(
            new_key,
            self._safe_values("new", form.selected),
            b"insert",
            [b',"key_change_from":"%b' % start, *old_key, b'"'],
            position="b'%d}}' % (op + 1)",
        )
        source.lines.append("def key_change(old, new, end, op):")
        source.lines.append("    return (")
        source.lines.append(f"        (op, {source.joined(gone)}),")
        source.lines.append(f"        (op + 1, {source.joined(come)}),")
        source.lines.append("    )")

    def _write_update(self) -> None:
        source, form = self.source, self._form
        key_set = set(form.key_columns)
        others = [name for name in form.selected if name not in key_set]
        source.lines.append("def update(old, new, end, op):")
        changed_key = " or ".join(
            f"{self._cell('old', name)} != {self._cell('new', name)}" for name in form.key_columns
        )
        source.lines.append(f"    if {changed_key}:")
        source.lines.append("        return key_change(old, new, end, op)")
        source.lines.append("    parts = []")
        row = "old" if form.is_full else "new"
        for name in others:
            source.lines.append(f"    if {self._cell('old', name)} != {self._cell('new', name)}:")
            if form.is_full:
                source.lines.append("        if parts:")
                source.lines.append(f"            parts.append({source.constant(b',')})")
            label = source.constant((b"%b:" if form.is_full else b",%b:") % self._name(name))
            source.lines.append(f"        parts.append({label})")
            source.lines.append(f"        parts.append({self._safe_value(row, name)})")
        source.lines.append("    if not parts:")
        source.lines.append("        return ()")
        head: list[bytes | str] = [self._start, *self._safe_key("new"), b'","value":{']
        if form.is_full:
            head += [*self._safe_values("new", form.selected), b'},"old_value":{']
        else:
            head += self._safe_values("new", form.key_columns)
        pieces: list[bytes | str] = [*head, "join(parts)", b"}", self._headers(b"update"), "end", "b'%d}}' % op"]
        source.lines.append(f"    return ((op, {source.joined(pieces)}),)")

    def bind(self, compiled: Core) -> RowEncoder:
        """
        Give the functions of the compiled core what is constant for these columns and this form.
        """
        form = self._form
        key_set = set(form.key_columns)
        made = compiled.RowWriter(
            escape(relation_text(form.schema, form.table)),
            self._headers(b"insert"),
            self._headers(b"update"),
            self._headers(b"delete"),
            self._places(form.key_columns),
            self._places(form.selected),
            self._places([name for name in form.selected if name not in key_set]),
            form.is_full,
        )
        return RowEncoder(
            insert=made.insert,
            update=made.update,
            delete=made.delete,
            messages=made.messages,
            transactions=made.transactions,
        )

    def _places(self, names: Sequence[str]) -> list[Column]:
        """
        Give the places of columns in a row, each with the label before its value and whether that needs no escaping.
        """
        return [(self._index[name], b"%b:" % self._name(name), name in self._plain) for name in names]

    def write(self) -> RowEncoder:
        """
        Write and compile the functions as Python.
        """
        form = self._form
        self._write_single("insert", b"insert", form.selected)
        self._write_single("delete", b"delete", form.selected if form.is_full else form.key_columns)
        self._write_key_change()
        self._write_update()
        names = self.source.names
        # Only constants and positions enter the text; names of columns are values of constants.
        exec("\n".join(self.source.lines), names)  # noqa: S102
        return RowEncoder(insert=names["insert"], update=names["update"], delete=names["delete"])  # type: ignore[arg-type]


def compile_encoder(columns: Sequence[StreamColumn], form: RowForm) -> RowEncoder:
    """
    Make the encoder of a table described by `columns` for one form: the compiled one, or generated Python.

    Raises:
        ShapeError: the table in the stream lacks a column of the form.
    """
    assert form.key_columns
    assert set(form.key_columns) <= set(form.selected)
    writer = _Writer(columns, form)
    compiled = core()
    return writer.write() if compiled is None else writer.bind(compiled)
