"""
Operands and their types: literals and parameters read, casts written and implied, and the sentences for what cannot be.

Owns what an expression is checked against (columns, facts, the types that parameters turned out to have) and the work that
is left: every node costs one of `WORK_MAX`, and so do copies of an operand that is written once and compared twice. What
the operands stand in is `check`'s business. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.errors import InvalidShapeError
from penstock.postgres.quoting import quote_name
from penstock.postgres.relation import Column
from penstock.where.facts import DatabaseFacts
from penstock.where.failures import EvaluationError
from penstock.where.functions import READ_TEXT, implement_cast
from penstock.where.parse import PREFIX, reject_at
from penstock.where.tree import ArrayOf, Call, Cast, ColumnRef, Const, Node, is_unknown
from penstock.where.types import TYPE_BY_OID, UNKNOWN, cast_context, element, is_array, is_enum
from penstock.where.values import is_known, parser

WORK_MAX: Final = 100_000
NO_OPERATOR: Final = "Could not select an operator overload"
TYPES_HINT: Final = (
    "Supported types are bool, int2, int4, int8, float4, float8, numeric, text, varchar, bpchar, date, time, timestamp, "
    "timestamptz, interval, uuid, bytea, jsonb, enums of the table, and arrays of these"
)
CASTABLE: Final = {
    name: name
    for name in (
        "bool", "bytea", "name", "int2", "int4", "int8", "text", "float4", "float8", "bpchar", "varchar", "date",
        "time", "timestamp", "timestamptz", "interval", "numeric", "uuid", "jsonb",
    )
}  # fmt: skip


def column_type(column: Column, facts: DatabaseFacts) -> str:
    """
    Give a column's type; that of a domain is its base type.
    """
    oid = facts.domains.get(column.type_oid, column.type_oid)
    if (known := TYPE_BY_OID.get(oid)) is not None:
        return known
    if (enum := facts.enums.get(oid)) is not None:
        return f"enum:{enum.oid}" if oid == enum.oid else f"enum:{enum.oid}[]"
    if column.is_enum:
        return f"enum:{oid}[]" if column.dims else f"enum:{oid}"
    return f"other:{column.type_oid}"


def word_of(node: Mapping[str, Any]) -> str:
    """
    Give a name out of the grammar's node for it, empty when it is another node.
    """
    text: str = node.get("String", {}).get("sval", "")
    return text


class Parameter(Const):
    """
    A literal that came as a parameter.
    """

    __slots__ = ("number",)

    def __init__(self, type_: str, value: str, at: int, number: int) -> None:
        super().__init__(type_, value, at)
        object.__setattr__(self, "number", number)

    number: int


class Operands:
    """
    What an expression is checked against, and how its operands get their types.
    """

    def __init__(self, text: str, columns: Sequence[Column], facts: DatabaseFacts) -> None:
        """
        Check against these columns; `text` serves to count places.
        """
        self.facts = facts
        self._columns = {column.name: column for column in columns}
        self._text = (PREFIX + text).encode()
        self._is_ascii = text.isascii()
        self._param_types: dict[int, str] = {}
        self._work = 0

    # --- places and names --------------------------------------------------------------------------------------------

    def _at(self, node: Mapping[str, Any]) -> int:
        at = int(node.get("location", 0))
        return at if self._is_ascii else len(self._text[:at].decode(errors="ignore"))

    def type_name(self, type_: str) -> str:
        """
        Write a type for a message.
        """
        inner = element(type_)
        if inner.startswith("enum:"):
            oid = int(inner.removeprefix("enum:"))
            known = self.facts.enums.get(oid)
            inner = f"enum {known.name if known else self._enum_name(inner)}"
        elif inner.startswith("other:"):
            oid = int(inner.removeprefix("other:"))
            inner = next((c.type_name for c in self._columns.values() if c.type_oid == oid), inner)
        return f"{inner}[]" if is_array(type_) else inner

    def _enum_name(self, type_: str) -> str:
        for column in self._columns.values():
            if element(column_type(column, self.facts)) == type_:
                return column.type_name
        return type_

    def _describe(self, node: Node) -> str:
        if isinstance(node, ColumnRef):
            return f"reference {quote_name(node.name)} of type {self.type_name(node.type)}"
        if isinstance(node, Call) and not node.is_operator:
            return f"function {node.overload.name} returning {self.type_name(node.type)}"
        return f"expression of type {self.type_name(node.type)}"

    def _spend(self, cost: int = 1) -> None:
        self._work += cost
        if self._work > WORK_MAX:
            raise reject_at(0, f"expression is too large; up to {WORK_MAX} parts are supported")

    # --- casts -------------------------------------------------------------------------------------------------------

    def literal(self, node: Node, type_: str) -> Const:
        """
        Read a literal of unknown type as one of a type.
        """
        assert isinstance(node, Const)
        if isinstance(node, Parameter) and (seen := self._param_types.setdefault(node.number, type_)) != type_:
            raise reject_at(
                node.at,
                f"type conflict for ${node.number}: {self.type_name(seen)} and {self.type_name(type_)}",
                "A parameter has one type, or an explicit cast at each place",
            )
        if node.value is None:
            return Const(type_, None, node.at)
        text = node.value
        inner = element(type_)
        complaint = f"invalid syntax for type {self.type_name(type_)}: {text[:200]}"
        try:
            if not is_known(type_):
                raise EvaluationError(complaint)
            read = READ_TEXT.get(type_) or parser(type_)
            value = read(text)
        except (EvaluationError, ValueError):
            raise reject_at(node.at, complaint, _literal_hint(type_)) from None
        if inner.startswith("enum:"):
            self._check_labels(value.items if is_array(type_) else (value,), inner, node.at, complaint)
        return Const(type_, value, node.at)

    def _check_labels(self, labels: Sequence[object], type_: str, at: int, complaint: str) -> None:
        known = self.facts.enums.get(int(type_.removeprefix("enum:")))
        if known is None:
            raise reject_at(at, complaint, "An enum compares with its own labels")
        if known.labels is not None and not all(label is None or label in known.labels for label in labels):
            raise reject_at(at, complaint, "An enum compares with its own labels")

    def coerce(self, node: Node, type_: str) -> Node:
        """
        Make a node an argument of a type; the cast is known to exist.
        """
        if node.type == type_:
            return node
        if is_unknown(node):
            return self.literal(node, type_)
        self._spend()
        if implement_cast(node.type, type_) is None:
            raise self._no_operator(node.at)
        return Cast(node, type_, is_explicit=False, at=node.at)

    def _no_operator(self, at: int) -> InvalidShapeError:
        return reject_at(at, NO_OPERATOR, TYPES_HINT)

    def _written_type(self, name: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int]:
        at = self._at(name)
        words = [word_of(word) for word in name.get("names", ())]
        bounds = name.get("arrayBounds", ())
        shown = ".".join(words[1:] if words[:1] == ["pg_catalog"] else words)
        type_: str | None = None
        if words[:1] == ["pg_catalog"] or len(words) == 1:
            type_ = CASTABLE.get(words[-1])
        if type_ is None:
            type_ = self._enum_by_name(words)
        if type_ is None or name.get("setof") or name.get("pct_type"):
            raise reject_at(at, f"unsupported type {shown}", TYPES_HINT)
        typmod = self._typmod(name, type_, is_array_type=bool(bounds), at=at)
        return (f"{type_}[]" if bounds else type_), typmod, at

    def _enum_by_name(self, words: Sequence[str]) -> str | None:
        found = {
            f"enum:{enum.oid}"
            for column in self._columns.values()
            if (enum := self.facts.enums.get(self.facts.domains.get(column.type_oid, column.type_oid))) is not None
            and enum.name == words[-1]
            and (len(words) == 1 or (len(words) == 2 and enum.schema == words[0]))
        }
        return found.pop() if len(found) == 1 else None

    def _typmod(self, name: Mapping[str, Any], type_: str, *, is_array_type: bool, at: int) -> tuple[int, ...]:
        parts = name.get("typmods", ())
        if not parts:
            return ()
        values = []
        for part in parts:
            body = part.get("A_Const", {})
            if "ival" not in body:
                raise reject_at(at, f"unsupported type {type_} with such a modifier", "A length is a plain integer")
            values.append(int(body["ival"].get("ival", 0)))
        limits = {"varchar": (1, 10_485_760), "bpchar": (1, 10_485_760), "numeric": (1, 1000)}
        is_valid = type_ in limits and not is_array_type and limits[type_][0] <= values[0] <= limits[type_][1]
        if type_ == "numeric":
            is_valid = is_valid and len(values) <= 2 and 0 <= (values[1] if len(values) == 2 else 0) <= values[0]
        else:
            is_valid = is_valid and len(values) == 1
        if not is_valid:
            raise reject_at(
                at,
                f"unsupported type {type_} with a modifier",
                "Modifiers are supported for varchar(n), char(n) and numeric(p, s), and not for their arrays",
            )
        return tuple(values) if type_ != "numeric" or len(values) == 2 else (values[0], 0)

    def _cast_to(self, node: Node, type_: str, typmod: tuple[int, ...], at: int) -> Node:
        if is_unknown(node):
            # A parameter with a cast is of that type here, and may have another one elsewhere.
            node = self.literal(Const(UNKNOWN, node.value, node.at) if isinstance(node, Const) else node, type_)
            return Cast(node, type_, is_explicit=True, typmod=typmod, at=at) if typmod else node
        if node.type == type_ and not typmod:
            return node
        complaint = f"unknown cast from type {self.type_name(node.type)} to type {self.type_name(type_)}"
        if node.type != type_ and cast_context(node.type, type_) is None:
            raise reject_at(at, complaint)
        if implement_cast(node.type, type_) is None:
            raise reject_at(
                at,
                complaint,
                "Texts from rows are cast to numbers, bool, uuid and jsonb; what depends on the session's time zone or "
                "date style is not offered",
            )
        if isinstance(node, ArrayOf) and is_array(type_):
            # As the grammar has it for a cast right behind ARRAY[...]: the elements are cast.
            inner = type_ if node.is_nested else element(type_)
            return ArrayOf(tuple(self._cast_to(item, inner, (), at) for item in node.items), node.is_nested, type_, at)
        made = Cast(node, type_, is_explicit=True, typmod=typmod, at=at)
        self._try_constant(node, type_, at)
        return made

    def _try_constant(self, node: Node, type_: str, at: int) -> None:
        if isinstance(node, Const) and node.value is not None:
            implementation = implement_cast(node.type, type_)
            assert implementation is not None
            try:
                implementation.function(1)(node.value)
            except (ArithmeticError, ValueError):
                shown = node.value if isinstance(node.value, str) else str(node.value)
                source = self.type_name(node.type)
                raise reject_at(
                    at, f'could not cast value "{shown[:200]}" from {source} to {self.type_name(type_)}'
                ) from None


def _literal_hint(type_: str) -> str:
    hints = {
        "date": "Dates are written as 2024-01-31, with BC behind where needed, or epoch, infinity, -infinity",
        "time": "Times are written with seconds: 10:30:00, with a fraction of up to six digits, or with AM or PM",
        "timestamp": "Timestamps are written as 2024-01-31 10:30:00, or epoch, infinity, -infinity",
        "timestamptz": "A timestamptz is written with its offset: 2024-01-31 10:30:00+00, or epoch, infinity, -infinity",
        "interval": "Intervals are written as P1DT2H or 1 day 2 hours, with fractions of seconds only",
        "bytea": "A bytea is written in hex form: \\x00ff",
        "jsonb": "Documents are written as JSON",
    }
    if is_array(type_):
        return "Arrays are written as {1,2,NULL}"
    if is_enum(type_):
        return "Its labels are not known here; compare its text: status::text = 'open'"
    return hints.get(type_, "")
