"""
Hand-made stream events, and a delivery that writes down what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from penstock.collector.abc import RoutedPart
from penstock.collector.filter.conditions import ConditionIndex
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import Column, RelationDescription, StreamColumn, TableId
from penstock.replication.messages import Change, Fragment, Operation
from penstock.shapes.condition import basis_of, shape_columns
from penstock.shapes.definition import ShapeDefinition
from penstock.where.clause import compile_where

Told = tuple[object, ...]


def relation(oid: int) -> RelationDescription:
    """
    Describe a table with one column.
    """
    return RelationDescription(TableId(oid, "public", f"t{oid}"), "f", (StreamColumn("id", 23, -1, is_key=True),))


def definition(oid: int) -> ShapeDefinition:
    """
    Define a shape of a whole table.
    """
    return ShapeDefinition(TableId(oid, "public", f"t{oid}"), (), ("id",), has_primary_key=True, selected=("id",))


def where_id_is(oid: int, number: int) -> ShapeDefinition:
    """
    Define a shape of the rows with this number.
    """
    return conditional(oid, f"id = {number}")


def conditional(oid: int, where: str) -> ShapeDefinition:
    """
    Define a shape with a condition.
    """
    columns = (Column("id", 23, -1, "int4"),)
    clause = compile_where(where, (), columns)
    return replace(
        definition(oid), columns=shape_columns(columns), where=clause.normalised, basis=basis_of(clause, columns)
    )


def insert(oid: int, position: int) -> Change:
    """
    Make an insert whose row names its position.
    """
    return Change(Operation.INSERT, relation(oid), position, None, (str(position).encode(),))


def truncate(oid: int, position: int) -> Change:
    """
    Make a truncate.
    """
    return Change(Operation.TRUNCATE, relation(oid), position, None, None)


def fragment(commit: int, *changes: Change, end: int | None = None, is_first: bool = True) -> Fragment:
    """
    Make a fragment; its transaction id is its commit LSN.
    """
    return Fragment(CommitLsn(commit), commit, list(changes), is_first, None if end is None else EndLsn(end))


@dataclass
class RecordedFacts:
    """
    Facts about partitions, given or to be found.
    """

    roots: dict[int, int] = field(default_factory=dict)
    to_find: dict[int, int] = field(default_factory=dict)

    def ancestors_of(self, relation_oid: int) -> tuple[int, ...] | None:
        """
        Answer what is recorded.
        """
        root = self.roots.get(relation_oid)
        if root is None:
            return None
        return () if root == relation_oid else (root,)

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        """
        Record it.
        """
        self.roots[relation_oid] = self.to_find.get(relation_oid, relation_oid)
        return self.ancestors_of(relation_oid) or ()


@dataclass
class RecordingDelivery:
    """
    Writes down every call in order, parts as (incarnation, commit, positions, end).
    """

    told: list[Told] = field(default_factory=list)
    parts: list[tuple[int, RoutedPart]] = field(default_factory=list)
    on_spoiled: Callable[[Sequence[int]], None] | None = None
    on_publish: Callable[[], None] | None = None

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        """
        Write parts down.
        """
        assert parts
        for incarnation in sorted(parts):
            for part in parts[incarnation]:
                self.parts.append((incarnation, part))
                positions = [change.op_position for change in part.changes]
                self.told.append((incarnation, part.commit_lsn.value, positions, part.end and part.end.value))
        if self.on_publish is not None:
            self.on_publish()

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        """
        Write it down.
        """
        self.told.append(("seen", description.id.oid, list(table_oids)))

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """
        Write it down.
        """
        self.told.append(("spoiled", sorted(table_oids), at.value, reason))
        assert xid == at.value, "transactions of these tests have one number for both"
        if self.on_spoiled is not None:
            self.on_spoiled(table_oids)


def lookups_count(index: ConditionIndex) -> int:
    """
    How much a row costs: hash lookups, and questions to all rows.
    """
    return len(index._probes) + len(index._everywhere.asked)
