"""
The one text of a condition: what shape identity compares and what the snapshot's query says.

Every literal stands with its type, every function with its schema, every operation in parentheses; casts that nobody wrote
are left out, because Postgres puts them where we did. Reading the text again gives the same tree and the same text. Pure.
"""

from __future__ import annotations

from typing import Final

from penstock.postgres.quoting import quote_identifier, quote_literal
from penstock.where.facts import DatabaseFacts
from penstock.where.parse import reject_at
from penstock.where.tree import (
    ArrayOf,
    BoolTest,
    Call,
    Case,
    Cast,
    Coalesce,
    Collated,
    ColumnRef,
    Concat,
    Const,
    Distinct,
    Extreme,
    InList,
    Logic,
    Node,
    Not,
    NullIf,
    NullTest,
    Quantified,
    Subscript,
)
from penstock.where.types import element, is_array
from penstock.where.values import formatter

NORMALISED_BYTES_MAX: Final = 524_288
PARTS_MAX: Final = 100_000
"""Nodes that are written; one that stands in the text once and is compared twice is written twice."""


class _Writer:
    def __init__(self, facts: DatabaseFacts) -> None:
        self._facts = facts
        self._parts = 0

    def type_name(self, type_: str) -> str:
        inner = element(type_)
        if inner.startswith("enum:"):
            enum = self._facts.enums[int(inner.removeprefix("enum:"))]
            inner = f"{quote_identifier(enum.schema)}.{quote_identifier(enum.name)}"
        return f"{inner}[]" if is_array(type_) else inner

    def constant(self, node: Const, *, is_bare: bool = True) -> str:
        if node.value is None:
            return f"NULL::{self.type_name(node.type)}"
        if node.type == "bool":
            return "true" if node.value else "false"
        if node.type == "int4" and node.value >= 0 and is_bare:
            return str(node.value)
        return f"{quote_literal(formatter(node.type)(node.value))}::{self.type_name(node.type)}"

    def write(self, node: Node) -> str:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise reject_at(0, f"expression is too large; up to {PARTS_MAX} parts are supported")
        text = self._write(node)
        if len(text) > NORMALISED_BYTES_MAX:
            raise reject_at(0, f"expression is too large; up to {NORMALISED_BYTES_MAX} bytes are supported")
        return text

    def _list(self, nodes: tuple[Node, ...]) -> str:
        return ", ".join(map(self.write, nodes))

    def _write(self, node: Node) -> str:
        write = self.write
        match node:
            case Const():
                return self.constant(node)
            case ColumnRef() if node.is_domain:
                # Otherwise an array of such values would be an array of the domain, which no operator takes.
                return f"({quote_identifier(node.name)}::{self.type_name(node.type)})"
            case ColumnRef():
                return quote_identifier(node.name)
            case Cast():
                return self._cast(node)
            case Collated():
                return f'({write(node.arg)} COLLATE "C")'
            case Call():
                return self._call(node)
            case Concat():
                return f"pg_catalog.concat({self._list(node.args)})"
            case Logic():
                return f"({(' AND ' if node.is_and else ' OR ').join(map(write, node.args))})"
            case Not():
                return f"(NOT {write(node.arg)})"
            case NullTest():
                return f"({write(node.arg)} IS {'NOT ' if node.is_negated else ''}NULL)"
            case BoolTest():
                word = {True: "TRUE", False: "FALSE", None: "UNKNOWN"}[node.value]
                return f"({write(node.arg)} IS {'NOT ' if node.is_negated else ''}{word})"
            case Distinct():
                left, right = map(write, node.equal.args)
                return f"({left} IS {'NOT ' if node.is_negated else ''}DISTINCT FROM {right})"
            case InList():
                return f"({write(node.arg)} {'NOT ' if node.is_negated else ''}IN ({self._list(node.items)}))"
            case Quantified():
                word = "ALL" if node.is_all else "ANY"
                return f"({write(node.arg)} {node.overload.name} {word} ({write(node.array)}))"
            case Case():
                whens = " ".join(f"WHEN {write(when)} THEN {write(result)}" for when, result in node.whens)
                return f"(CASE {whens} ELSE {write(node.default)} END)"
            case Coalesce():
                return f"COALESCE({self._list(node.args)})"
            case Extreme():
                return f"{'GREATEST' if node.is_greatest else 'LEAST'}({self._list(node.args)})"
            case NullIf():
                return f"NULLIF({self._list(node.equal.args)})"
            case ArrayOf():
                if not node.items:
                    return f"'{{}}'::{self.type_name(node.type)}"
                return f"ARRAY[{self._list(node.items)}]"
            case Subscript():
                return self._subscript(node)

    def _cast(self, node: Cast) -> str:
        inner = self.write(node.arg)
        if not node.is_explicit:
            return inner
        if isinstance(node.arg, Const):
            inner = f"({self.constant(node.arg, is_bare=False)})"
        elif not inner.startswith(("(", '"')):
            inner = f"({inner})"
        typmod = f"({', '.join(map(str, node.typmod))})" if node.typmod else ""
        return f"({inner}::{self.type_name(node.type)}{typmod})"

    def _call(self, node: Call) -> str:
        name = node.overload.name
        if not node.is_operator:
            return f"pg_catalog.{name}({self._list(node.args)})"
        if len(node.args) == 1:
            arg = node.args[0]
            # A bare number after a sign would be read as one number.
            inner = self.constant(arg, is_bare=False) if isinstance(arg, Const) else self.write(arg)
            return f"({name} {inner})"
        left, right = map(self.write, node.args)
        return f"({left} {name} {right})"

    def _subscript(self, node: Subscript) -> str:
        ends = ["" if index is None else self.write(index) for index in node.indices]
        if node.is_slice:
            steps = "".join(f"[{ends[n]}:{ends[n + 1]}]" for n in range(0, len(ends), 2))
        else:
            steps = "".join(f"[{end}]" for end in ends)
        return f"({self.write(node.arg)}){steps}"


def normalise(node: Node, facts: DatabaseFacts) -> str:
    """
    Write a condition as SQL.

    Raises:
        InvalidShapeError: the text would be too large.
    """
    return _Writer(facts).write(node)
