"""
A condition as a typed tree: every literal has its value, every call its overload, every implicit cast its place.

Owns the shapes of the nodes. Checking makes them, normalising writes them, evaluating compiles them, and the index plan
takes them apart; membership in a subquery will be one more node, a column tested against a named set. Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from penstock.where.types import UNKNOWN, Overload


class Collation(Enum):
    """
    How the text of an expression compares.
    """

    DEFAULT = "default"
    """As the database says."""
    C = "C"
    """By bytes."""
    OTHER = "other"
    """By a collation of the column's own."""


@dataclass(frozen=True, slots=True)
class Const:
    """
    A literal or a parameter. While its type is unknown its value is its text.
    """

    type: str
    value: Any
    at: int = 0


@dataclass(frozen=True, slots=True)
class ColumnRef:
    """
    A column of the table; its type is the base type where it has a domain.
    """

    name: str
    type: str
    collation: Collation = Collation.DEFAULT
    is_domain: bool = False
    at: int = 0


@dataclass(frozen=True, slots=True)
class Cast:
    """
    A cast; one that was not written is not written back either.
    """

    arg: Node
    type: str
    is_explicit: bool
    typmod: tuple[int, ...] = ()
    at: int = 0


@dataclass(frozen=True, slots=True)
class Collated:
    """
    A text with `COLLATE "C"`.
    """

    arg: Node
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """
    An operator or a function.

    Attributes:
        overload: which one.
        args: the arguments, cast as it takes them.
        is_operator: how it is written.
        collation: the one it works with, where that matters.
        type: of its result.
    """

    overload: Overload
    args: tuple[Node, ...]
    is_operator: bool
    collation: Collation
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Concat:
    """
    The function `concat`.
    """

    args: tuple[Node, ...]
    type: str = "text"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Logic:
    """
    AND or OR over two or more.
    """

    is_and: bool
    args: tuple[Node, ...]
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Not:
    """
    NOT.
    """

    arg: Node
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class NullTest:
    """
    IS NULL or IS NOT NULL.
    """

    arg: Node
    is_negated: bool
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class BoolTest:
    """
    IS TRUE, IS FALSE or IS UNKNOWN (None), or their negations.
    """

    arg: Node
    value: bool | None
    is_negated: bool
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Distinct:
    """
    IS [NOT] DISTINCT FROM, over the `=` that decides it.
    """

    equal: Call
    is_negated: bool
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class InList:
    """
    IN or NOT IN over a list; every comparison has the same overload, and `arg` is cast for it.
    """

    arg: Node
    items: tuple[Node, ...]
    overload: Overload
    is_negated: bool
    collation: Collation
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Quantified:
    """
    A comparison with ANY or ALL elements of an array.
    """

    arg: Node
    array: Node
    overload: Overload
    is_all: bool
    collation: Collation
    type: str = "bool"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """
    CASE with conditions; one with a value to compare has become this.
    """

    whens: tuple[tuple[Node, Node], ...]
    default: Node
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Coalesce:
    """
    The first that is not NULL.
    """

    args: tuple[Node, ...]
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Extreme:
    """
    GREATEST or LEAST.
    """

    args: tuple[Node, ...]
    is_greatest: bool
    collation: Collation
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class NullIf:
    """
    NULLIF, over the `=` that decides it; the result is its first argument before that one was cast.
    """

    equal: Call
    first: Node
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """
    ARRAY[...]; of elements, or of arrays of the same type.
    """

    items: tuple[Node, ...]
    is_nested: bool
    type: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Subscript:
    """
    An element of an array, or a slice: then there are two ends for each dimension, None where one is left out.
    """

    arg: Node
    indices: tuple[Node | None, ...]
    is_slice: bool
    type: str
    at: int = 0


Node: TypeAlias = (
    Const
    | ColumnRef
    | Cast
    | Collated
    | Call
    | Concat
    | Logic
    | Not
    | NullTest
    | BoolTest
    | Distinct
    | InList
    | Quantified
    | Case
    | Coalesce
    | Extreme
    | NullIf
    | ArrayOf
    | Subscript
)


def children(node: Node) -> tuple[Node, ...]:
    """
    Give the nodes right below one.
    """
    match node:
        case Const() | ColumnRef():
            return ()
        case Cast() | Collated() | Not() | NullTest() | BoolTest():
            return (node.arg,)
        case Distinct():
            return node.equal.args
        case NullIf():
            return (*node.equal.args, node.first)
        case InList():
            return (node.arg, *node.items)
        case Quantified():
            return (node.arg, node.array)
        case Case():
            return (*(part for when in node.whens for part in when), node.default)
        case ArrayOf():
            return node.items
        case Subscript():
            return (node.arg, *(index for index in node.indices if index is not None))
        case _:
            return node.args


def columns_of(node: Node) -> tuple[str, ...]:
    """
    Name the columns a tree uses, sorted.
    """
    names = set()
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, ColumnRef):
            names.add(here.name)
        waiting.extend(children(here))
    return tuple(sorted(names))


def is_unknown(node: Node) -> bool:
    """
    Tell whether it is a literal that has no type yet.
    """
    return node.type == UNKNOWN
