"""
The filter index: from the changes of a table to the shapes that they may concern.

Owns nothing but the mapping. The answer is a superset of the shapes that a change concerns, never a subset: whoever
gets a change too many drops it, whoever misses one is wrong for ever.

Shapes without a condition are concerned by every change of their table, and `whole` names them all at once. Those with
one are looked up change by change (`match`), by its old and its new row, in `conditions`.

Pure. Adding and removing take a time that does not depend on the number of shapes; sequences for callers are built when
they are next asked for, and never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.collector.filter.buckets import Group
from penstock.collector.filter.conditions import ConditionIndex, Match
from penstock.replication.messages import Change
from penstock.shapes.condition import condition_of
from penstock.shapes.definition import ShapeDefinition

_NOBODY: tuple[int, ...] = ()


class _TableShapes:
    """
    The shapes of one table: those without a condition, those with one, and both.
    """

    __slots__ = ("all", "all_sequence", "whole", "whole_sequence")

    def __init__(self) -> None:
        # Dicts keep the order of adding and remove in O(1).
        self.all: dict[int, Group | None] = {}
        self.whole: dict[int, None] = {}
        self.all_sequence: tuple[int, ...] | None = None
        self.whole_sequence: tuple[int, ...] | None = None


class FilterIndex:
    """
    Shapes by what concerns them.
    """

    __slots__ = ("_table_of", "_tables", "conditional")

    def __init__(self) -> None:
        self._tables: dict[int, _TableShapes] = {}
        self._table_of: dict[int, int] = {}
        self.conditional: dict[int, ConditionIndex] = {}
        """By table, the shapes with a condition: only where there are any."""

    def __len__(self) -> int:
        return len(self._table_of)

    def __contains__(self, incarnation: object) -> bool:
        return incarnation in self._table_of

    def add(self, incarnation: int, definition: ShapeDefinition) -> None:
        """
        Route to an incarnation from now on.
        """
        assert incarnation not in self._table_of, incarnation
        condition = condition_of(definition)
        oid = definition.table.oid
        self._table_of[incarnation] = oid
        shapes = self._tables.get(oid)
        if shapes is None:
            shapes = self._tables[oid] = _TableShapes()
        shapes.all_sequence = None
        if condition is None:
            shapes.all[incarnation] = None
            shapes.whole[incarnation] = None
            shapes.whole_sequence = None
            return
        conditional = self.conditional.get(oid)
        if conditional is None:
            conditional = self.conditional[oid] = ConditionIndex()
        shapes.all[incarnation] = conditional.add(incarnation, condition)

    def remove(self, incarnation: int) -> bool:
        """
        Stop routing to an incarnation; tells whether it was there.
        """
        oid = self._table_of.pop(incarnation, None)
        if oid is None:
            return False
        shapes = self._tables[oid]
        group = shapes.all.pop(incarnation)
        shapes.all_sequence = None
        if group is None:
            del shapes.whole[incarnation]
            shapes.whole_sequence = None
        else:
            conditional = self.conditional[oid]
            conditional.remove(incarnation, group)
            if not len(conditional):
                del self.conditional[oid]
        if not shapes.all:
            del self._tables[oid]
        return True

    def has_table(self, table_oid: int) -> bool:
        """
        Tell whether any shape is on this table.
        """
        return table_oid in self._tables

    def tables(self) -> Sequence[int]:
        """
        List the tables with shapes.
        """
        return tuple(self._tables)

    def affected(self, table_oid: int) -> Sequence[int]:
        """
        Give all incarnations on this table, for what concerns them whatever its rows are.
        """
        shapes = self._tables.get(table_oid)
        if shapes is None:
            return _NOBODY
        if shapes.all_sequence is None:
            shapes.all_sequence = tuple(shapes.all)
        return shapes.all_sequence

    def whole(self, table_oid: int) -> Sequence[int]:
        """
        Give the incarnations without a condition on this table: any change of it concerns them.
        """
        shapes = self._tables.get(table_oid)
        if shapes is None:
            return _NOBODY
        if shapes.whole_sequence is None:
            shapes.whole_sequence = tuple(shapes.whole)
        return shapes.whole_sequence

    def match(self, by_table: Mapping[int, Sequence[Change]]) -> list[Match]:
        """
        Find the incarnations with a condition that changes may concern, each with the changes for it.

        Nobody is named twice; the changes are in their order.
        """
        found: list[Match] = []
        for table_oid, changes in by_table.items():
            conditional = self.conditional.get(table_oid)
            if conditional is not None:
                found += conditional.match(changes)
        return found
