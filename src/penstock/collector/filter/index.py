"""
The filter index: from a changed table to the shapes that may be concerned.

Owns nothing but the mapping. The answer is a superset of the shapes that the change concerns, never a subset: whoever
gets a change too many drops it, whoever misses one is wrong for ever.

Where conditions come in. `affected(table)` answers for all changes of a table alike, which is exact for shapes without
a `where` and a superset for those with one. Conditions refine it per table, in `_TableShapes`: shapes with an indexable
condition leave `whole` for an index by column and value, asked once per change with its old and new row; those with any
other condition leave it for a list of residual conditions, evaluated once per distinct condition. Both answer per
change, so they get a method of their own beside `affected`; what is in `whole` goes on being shared by reference.

Pure. Adding and removing are O(1); the sequence for a table is built when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.shapes.definition import ShapeDefinition


class _TableShapes:
    """
    The shapes of one table.
    """

    __slots__ = ("sequence", "whole")

    def __init__(self) -> None:
        # A dict keeps the order of adding and removes in O(1).
        self.whole: dict[int, None] = {}
        self.sequence: tuple[int, ...] | None = None


class FilterIndex:
    """
    Shapes by what concerns them.
    """

    __slots__ = ("_table_of", "_tables")

    def __init__(self) -> None:
        self._tables: dict[int, _TableShapes] = {}
        self._table_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._table_of)

    def __contains__(self, incarnation: object) -> bool:
        return incarnation in self._table_of

    def add(self, incarnation: int, definition: ShapeDefinition) -> None:
        """
        Route to an incarnation from now on.
        """
        assert incarnation not in self._table_of, incarnation
        oid = definition.table.oid
        self._table_of[incarnation] = oid
        shapes = self._tables.get(oid)
        if shapes is None:
            shapes = self._tables[oid] = _TableShapes()
        shapes.whole[incarnation] = None
        shapes.sequence = None

    def remove(self, incarnation: int) -> bool:
        """
        Stop routing to an incarnation; tells whether it was there.
        """
        oid = self._table_of.pop(incarnation, None)
        if oid is None:
            return False
        shapes = self._tables[oid]
        del shapes.whole[incarnation]
        shapes.sequence = None
        if not shapes.whole:
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
        Give the incarnations that any change of this table may concern; a sequence that does not change under the caller.
        """
        shapes = self._tables.get(table_oid)
        if shapes is None:
            return ()
        if shapes.sequence is None:
            shapes.sequence = tuple(shapes.whole)
        return shapes.sequence
