"""
The shapes with conditions on one table, looked up by the rows of its changes.

Theory of operation
-------------------

Shapes with the same condition form a *group*: it is looked up, evaluated and handed changes as one. What is asked of a
row depends on what `where.index_plan` makes of the condition, branch by branch; a row that is included satisfies every
requirement of some branch, so it is enough to look each branch up by something that it requires:

* a branch that requires values of columns is found by all these columns together: a *probe* is the tuple of columns, a
  hash from their values to groups. So shapes that differ in their constants alone cost one lookup of each row, however
  many they are and however often a value repeats in one of the columns;
* a branch that requires elements of an array only is found by one of these elements, that which fewest groups are
  waiting for; one that requires no element by any array at all;
* a condition that no index can answer is evaluated, once for its group.

A condition that no row can satisfy is in no probe, and gets no change.

Columns are those that the conditions were made for. As soon as a description comes in which one is missing or has
another type, those that read it get every change: they have to find out themselves that they cannot go on. Without its
old row an update or a delete concerns everybody, likewise.

Pure. Invariant: whatever was added in whatever order, removing it leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from penstock.collector.abc import RoutedChange
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Row
from penstock.shapes.condition import DESCRIPTIONS_COUNT_MAX, Condition
from penstock.where.clause import index_plan
from penstock.where.evaluate import FAILURES, Includes
from penstock.where.index_plan import Branch, Contains, Equals, canonicaliser, element_canonicaliser

KEYS_COUNT_MAX: Final = 256
"""Places that one branch takes in a probe of several columns; one that would take more is found by one column alone."""

_Column: TypeAlias = tuple[str, int, int, str]
"""Name, type oid, modifier; and the type as the language knows it."""
_Groups: TypeAlias = dict["Group", None]
_Reader: TypeAlias = Callable[[bytes], Hashable]
_Evaluated: TypeAlias = list[tuple["Group", Includes | None]]
Match: TypeAlias = tuple[Sequence[int], Sequence[RoutedChange]]
"""Shapes with the same condition, and the changes that may concern them."""
_ANY_ARRAY: Final = object()
"""Stands for the elements of an array that must have none in particular."""


class Group:
    """
    Shapes with the same condition.

    Attributes:
        condition: theirs.
        incarnations: theirs.
        places: where it is registered, as probes and keys in them.
    """

    __slots__ = ("condition", "incarnations", "places", "sequence")

    def __init__(self, condition: Condition) -> None:
        self.condition: Final = condition
        self.incarnations: dict[int, None] = {}
        self.places: list[tuple[_Probe, Hashable]] = []
        self.sequence: tuple[int, ...] | None = None


class _Probe:
    """
    Groups by what they require of some columns.

    Attributes:
        columns: which; one for elements of an array.
        is_elements: whether it is elements of an array that are looked up.
        groups: by the values of the columns, as a tuple unless it is one column; or by element.
        members: how often each group is registered here.
    """

    __slots__ = ("columns", "groups", "is_elements", "members")

    def __init__(self, columns: tuple[_Column, ...], *, is_elements: bool) -> None:
        self.columns: Final = columns
        self.is_elements: Final = is_elements
        self.groups: dict[Hashable, _Groups] = {}
        self.members: dict[Group, int] = {}

    def add(self, key: Hashable, group: Group) -> None:
        here = self.groups.setdefault(key, {})
        if group in here:
            return
        here[group] = None
        self.members[group] = self.members.get(group, 0) + 1
        group.places.append((self, key))

    def remove(self, key: Hashable, group: Group) -> None:
        here = self.groups[key]
        del here[group]
        if not here:
            del self.groups[key]
        count = self.members.pop(group) - 1
        if count:
            self.members[group] = count


class ConditionIndex:
    """
    The groups of one table.
    """

    __slots__ = ("_bound", "_evaluated", "_groups", "_probes")

    def __init__(self) -> None:
        """
        Begin without shapes.
        """
        # By identity: equal conditions are one object as long as one of them is held.
        self._groups: dict[Condition, Group] = {}
        self._probes: dict[tuple[tuple[_Column, ...], bool], _Probe] = {}
        self._evaluated: _Groups = {}
        # By identity of descriptions; forgotten when a probe, or a condition to evaluate, comes or goes.
        self._bound: dict[int, _Bound] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def lookups_count(self) -> int:
        """
        How much a row costs: hash lookups and evaluations.
        """
        return len(self._probes) + len(self._evaluated)

    def add(self, incarnation: int, condition: Condition) -> Group:
        """
        Add a shape; gives the group by which it is removed.
        """
        group = self._groups.get(condition)
        if group is None:
            group = self._groups[condition] = Group(condition)
            self._register(group)
        group.incarnations[incarnation] = None
        group.sequence = None
        return group

    def remove(self, incarnation: int, group: Group) -> None:
        """
        Remove a shape.
        """
        del group.incarnations[incarnation]
        group.sequence = None
        if group.incarnations:
            return
        del self._groups[group.condition]
        if group in self._evaluated:
            del self._evaluated[group]
            self._bound.clear()
        for probe, key in group.places:
            probe.remove(key, group)
            if not probe.groups:
                self._probes.pop((probe.columns, probe.is_elements), None)
                self._bound.clear()

    # --- where a condition is found ----------------------------------------------------------------------------------

    def _register(self, group: Group) -> None:
        plan = index_plan(group.condition.clause)
        if plan is None or not all(plan.branches):
            self._evaluated[group] = None
            self._bound.clear()
            return
        for branch in plan.branches:
            equals = _by_column(branch)
            if equals:
                self._register_values(group, equals)
            else:
                self._register_elements(group, [part for part in branch if isinstance(part, Contains)])

    def _register_values(self, group: Group, equals: Mapping[tuple[str, str], frozenset[Hashable]]) -> None:
        count = 1
        for keys in equals.values():
            count *= len(keys)
        if count > KEYS_COUNT_MAX and len(equals) > 1:
            fewest = min(equals, key=lambda column: len(equals[column]))
            equals = {fewest: equals[fewest]}
        names = sorted(equals)
        probe = self._probe(tuple(self._column(group, *name) for name in names), is_elements=False)
        if len(names) == 1:
            for key in equals[names[0]]:
                probe.add(key, group)
        else:
            for values in product(*(equals[name] for name in names)):
                probe.add(values, group)
        self._drop_if_empty(probe)

    def _register_elements(self, group: Group, contains: Sequence[Contains]) -> None:
        best: tuple[int, _Probe, Hashable] | None = None
        for part in contains:
            probe = self._probe((self._column(group, part.column, part.type),), is_elements=True)
            for key in part.keys or (_ANY_ARRAY,):
                waiting = len(probe.groups.get(key, ()))
                # Any array at all is the last resort.
                waiting = waiting if part.keys else waiting + (1 << 60)
                if best is None or waiting < best[0]:
                    best = (waiting, probe, key)
        assert best is not None, "a branch has conditions"
        best[1].add(best[2], group)
        for part in contains:
            self._drop_if_empty(self._probe((self._column(group, part.column, part.type),), is_elements=True))

    @staticmethod
    def _column(group: Group, name: str, type_: str) -> _Column:
        return (name, *group.condition.types[name], type_)

    def _probe(self, columns: tuple[_Column, ...], *, is_elements: bool) -> _Probe:
        probe = self._probes.get((columns, is_elements))
        if probe is None:
            probe = self._probes[columns, is_elements] = _Probe(columns, is_elements=is_elements)
            self._bound.clear()
        return probe

    def _drop_if_empty(self, probe: _Probe) -> None:
        if not probe.groups:
            self._probes.pop((probe.columns, probe.is_elements), None)
            self._bound.clear()

    # --- looking up --------------------------------------------------------------------------------------------------

    def match(self, changes: Iterable[RoutedChange]) -> list[Match]:
        """
        Find the shapes that each change may concern; gives, for each group of them, its changes in their order.
        """
        found: dict[Group, list[RoutedChange]] = {}
        bound: _Bound | None = None
        for change in changes:
            relation = change.relation
            if bound is None or bound.relation is not relation:
                bound = self._bind(relation)
            for group in self._candidates(change, bound):
                if group in found:
                    found[group].append(change)
                else:
                    found[group] = [change]
        return [(_sequence(group), chosen) for group, chosen in found.items()]

    def _candidates(self, change: RoutedChange, bound: _Bound) -> Iterable[Group]:
        if change.is_old_missing:
            return self._groups.values()
        old, new = change.old, change.new
        hits: _Groups = {}
        for look_up in bound.probes:
            if new is not None:
                look_up(new, hits)
            if old is not None:
                look_up(old, hits)
        for group, includes in bound.evaluated:
            if includes is None or (new is not None and includes(new)) or (old is not None and includes(old)):
                hits[group] = None
        return hits

    def _bind(self, relation: RelationDescription) -> _Bound:
        bound = self._bound.get(id(relation))
        if bound is None:
            if len(self._bound) >= DESCRIPTIONS_COUNT_MAX:
                self._bound.clear()
            places = {(column.name, column.type_oid, column.typmod): at for at, column in enumerate(relation.columns)}
            probes = [_BoundProbe(probe, places).look_up for probe in self._probes.values()]
            evaluated = [(group, group.condition.includes(relation)) for group in self._evaluated]
            bound = self._bound[id(relation)] = _Bound(relation, probes, evaluated)
        return bound


class _Bound(NamedTuple):
    """
    What is asked of the rows of a description. It holds the description, so that its identity is nobody else's.
    """

    relation: RelationDescription
    probes: list[Callable[[Row, _Groups], None]]
    evaluated: _Evaluated


class _BoundProbe:
    """
    A probe that knows where its columns are in the rows of a description.
    """

    __slots__ = ("_look_up", "_probe", "_readers", "look_up")

    def __init__(self, probe: _Probe, places: Mapping[tuple[str, int, int], int]) -> None:
        self._probe: Final = probe
        self._readers: list[tuple[int, _Reader | None]] = []
        self.look_up: Callable[[Row, _Groups], None]
        if any(column[:3] not in places for column in probe.columns):
            self.look_up = self._all
            return
        if probe.is_elements:
            column = probe.columns[0]
            self._readers = [(places[column[:3]], element_canonicaliser(column[3]))]
            self.look_up = self._elements
            return
        self._readers = [(places[column[:3]], canonicaliser(column[3])) for column in probe.columns]
        self.look_up = self._value if len(self._readers) == 1 else self._values

    def _all(self, row: Row, hits: _Groups) -> None:
        """
        Find everybody: a column is not what it was.
        """
        del row
        hits.update(dict.fromkeys(self._probe.members))

    def _value(self, row: Row, hits: _Groups) -> None:
        at, read = self._readers[0]
        value = row[at]
        if value is None:
            return
        try:
            found = self._probe.groups.get(value if read is None else read(value))
        except FAILURES:
            # No condition on this value is true, since it cannot be read.
            return
        if found is not None:
            hits.update(found)

    def _values(self, row: Row, hits: _Groups) -> None:
        key: list[Hashable] = []
        try:
            for at, read in self._readers:
                value = row[at]
                if value is None:
                    return
                key.append(value if read is None else read(value))
        except FAILURES:
            return
        found = self._probe.groups.get(tuple(key))
        if found is not None:
            hits.update(found)

    def _elements(self, row: Row, hits: _Groups) -> None:
        at, read = self._readers[0]
        value = row[at]
        if value is None:
            return
        groups = self._probe.groups
        if _ANY_ARRAY in groups:
            hits.update(groups[_ANY_ARRAY])
        assert read is not None
        try:
            elements = read(value)
        except FAILURES:
            return
        assert isinstance(elements, frozenset)
        for element in elements:
            found = groups.get(element)
            if found is not None:
                hits.update(found)


def _by_column(branch: Branch) -> dict[tuple[str, str], frozenset[Hashable]]:
    """
    Give the values that a branch requires of each column.
    """
    equals: dict[tuple[str, str], frozenset[Hashable]] = {}
    for part in branch:
        if isinstance(part, Equals):
            column = (part.column, part.type)
            equals[column] = equals[column] & part.keys if column in equals else part.keys
    return equals


def _sequence(group: Group) -> tuple[int, ...]:
    if group.sequence is None:
        group.sequence = tuple(group.incarnations)
    return group.sequence
