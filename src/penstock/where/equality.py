"""
When values may be compared without being read: as the bytes that stand in a row, or as members of a set.

Owns which types have one text for each value, which casts leave it, and the keys that are equal when values are. Both the
functions of conditions and the index over shapes rest on it. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penstock.where.datetimes import date_rank
from penstock.where.tree import Cast, Collated, ColumnRef, Node
from penstock.where.values import INTEGERS, equality_key, formatter, text_is_value


def raw_column(node: Node) -> ColumnRef | None:
    """
    Give the column whose bytes are the node's value: itself, or under a collation or a cast that keeps the text.
    """
    while isinstance(node, Collated) or (isinstance(node, Cast) and not node.typmod and keeps_text(node)):
        node = node.arg
    return node if isinstance(node, ColumnRef) and text_is_value(node.type) else None


def keeps_text(node: Cast) -> bool:
    """
    Tell whether a cast leaves text and equality as they are.
    """
    source, target = node.arg.type, node.type
    plain = {"text", "varchar"}
    return (source in plain and target in plain) or (source in INTEGERS and target in INTEGERS and target >= source)


def same_text(column: str, one: str, other: str) -> bool:
    """
    Tell whether a column's bytes may be compared with the text of a constant.
    """
    if column in INTEGERS:
        return one in INTEGERS and other in INTEGERS
    if column in {"text", "varchar"}:
        return one in {"text", "varchar"} and other in {"text", "varchar"}
    return column == one == other


def raw_key(type_: str, value: Any) -> bytes:
    """
    Write a constant as it would stand in a row.
    """
    return formatter(type_)(value).encode()


def shared_key(args: Sequence[str]) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None] | None:
    """
    Give, for both sides of an equality, the functions to hashable values that are equal when the sides are.
    """
    left, right = args
    if left == right:
        return equality_key(left), equality_key(right)
    if left in {"float4", "float8"} and right in {"float4", "float8"}:
        return equality_key("float8"), equality_key("float8")
    if {left, right} == {"date", "timestamp"}:
        return (date_rank if left == "date" else None), (date_rank if right == "date" else None)
    return None
