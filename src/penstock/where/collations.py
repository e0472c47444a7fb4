"""
Which collation text compares with, and where it must be pinned to bytes.

What orders text or maps its letters can be computed here only as the database does it; where that is not known, the
condition says `COLLATE "C"`, to Postgres too. Pure.
"""

from __future__ import annotations

from penstock.postgres.relation import Column
from penstock.where.facts import DatabaseFacts
from penstock.where.functions import CASE_FUNCTIONS, COLLATION_USERS, ORDERING
from penstock.where.tree import Collated, Collation, ColumnRef, Node, children
from penstock.where.types import element
from penstock.where.values import TEXTUAL


def column_collation(column: Column) -> Collation:
    """
    Give a column's own collation.
    """
    if column.collation is None:
        return Collation.C if column.type_name == "name" else Collation.DEFAULT
    return Collation.C if column.collation in {"C", "POSIX", "ucs_basic"} else Collation.OTHER


def collate(node: Node) -> Node:
    """
    Pin a text to byte order.
    """
    return node if isinstance(node, Collated) else Collated(node, node.type, node.at)


def collation_of(*nodes: Node) -> tuple[Collation, bool]:
    """
    Give the collation that comes of operands, and whether it was written.

    A written one wins, then a column's own, then the database's. Where columns with different ones meet Postgres would
    not know; that counts as another one, so it is pinned.
    """
    found = [_collation(node) for node in nodes]
    if any(is_written for _, is_written in found):
        return Collation.C, True
    kinds = {collation for collation, _ in found}
    return next((kind for kind in (Collation.OTHER, Collation.C) if kind in kinds), Collation.DEFAULT), False


def _collation(node: Node) -> tuple[Collation, bool]:
    if isinstance(node, Collated):
        return Collation.C, True
    if isinstance(node, ColumnRef):
        return node.collation, False
    # What only passes through another type has lost its collation.
    below = [child for child in children(node) if _is_collatable(child.type)]
    return collation_of(*below)


def _is_collatable(type_: str) -> bool:
    return element(type_) in TEXTUAL


def settle_collation(name: str, args: list[Node], facts: DatabaseFacts) -> tuple[Collation, list[Node]]:
    """
    Find the collation a call works with, and pin it to bytes where ours may differ from the database's.
    """
    textual = [index for index, arg in enumerate(args) if element(arg.type) in TEXTUAL]
    if not textual or name not in COLLATION_USERS:
        return Collation.DEFAULT, args
    collation, _ = collation_of(*(args[index] for index in textual))
    must_pin = collation is Collation.OTHER
    if collation is Collation.DEFAULT:
        must_pin = (name in ORDERING and not facts.is_byte_ordered) or (name in CASE_FUNCTIONS and facts.case is None)
    if not must_pin:
        return collation, args
    first = textual[0]
    args[first] = collate(args[first])
    return Collation.C, args
