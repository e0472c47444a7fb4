"""
What the conditions of a table ask of rows, for one description of them: which place of a row holds which column.

Owns nothing that outlives the description but references to the probes and members, which stay as they are while groups
come and go: only when a probe or a question to all rows comes or goes, the owner (`conditions`) makes a new one of these.

A row leads to groups, which go to `hits` when it is included as far as they are asked; to `lost` go those of which
nobody can tell, because a column they read is not there as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from penstock.collector.filter.buckets import (
    Batch,
    Bucket,
    Everywhere,
    Group,
    Groups,
    Held,
    Members,
    Question,
    SortedMembers,
    all_of,
)
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Row
from penstock.where.family import Ask
from penstock.where.index_plan import canonicaliser, element_canonicaliser
from penstock.where.template import FAILURES

ProbeColumn: TypeAlias = tuple[str, int, int, str]
"""Name, type oid, modifier; and the type as the language knows it."""
ANY_ARRAY: Final = object()
"""Stands for the elements of an array that must have none in particular."""

_Reader: TypeAlias = Callable[[bytes], Hashable]


class Probe:
    """
    Groups by what they require of some columns.

    Attributes:
        columns: which; one for elements of an array.
        is_elements: whether it is elements of an array that are looked up.
        held: by the values of the columns, as a tuple unless it is one column; or by element.
    """

    __slots__ = ("columns", "held", "is_elements")

    def __init__(self, columns: tuple[ProbeColumn, ...], *, is_elements: bool) -> None:
        """
        Hold nothing.
        """
        self.columns: Final = columns
        self.is_elements: Final = is_elements
        self.held: Held = {}


class LookUp(Protocol):
    """
    Looks one row up.
    """

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        """
        Add the groups that the row leads to.
        """
        ...


class Bound:
    """
    What is asked of the rows of a description.

    Attributes:
        relation: the description; held, so that its identity is nobody else's.
        look_ups: what leads rows to groups.
        asks: what all rows are asked: the function, its members, and the columns it is about as bits.
        asked_places: where these columns are in a row, each with its bit.
    """

    __slots__ = ("_functions", "_places", "asked_places", "asks", "look_ups", "relation")

    def __init__(self, relation: RelationDescription, probes: Iterable[Probe], everywhere: Everywhere) -> None:
        """
        Find the places of all columns that are asked about.
        """
        self.relation: Final = relation
        self._places: Final = {
            (column.name, column.type_oid, column.typmod): at for at, column in enumerate(relation.columns)
        }
        self._functions: dict[Question, tuple[Ask, _Search | None] | None] = {}
        self.look_ups: list[LookUp] = [self._look_up_in(probe) for probe in probes]
        self.asks: list[tuple[Callable[[Row, Any, Groups], None], Any, int]] = []
        bits: dict[int, int] = {}
        alone = dict(everywhere.asked)
        for batch in everywhere.batches:
            together = self._batch(batch, everywhere)
            if together is not None:
                self.asks.append((together, None, self._mask(batch.questions, bits)))
                for question in batch.questions:
                    del alone[question]
        for question, members in alone.items():
            functions = self._functions_of(question)
            if functions is None:
                self.look_ups.append(_Lost(members))
                continue
            ask, search = functions
            mask = self._mask((question,), bits)
            if isinstance(members, SortedMembers):
                assert search is not None
                self.asks.append((search, members, mask))
            else:
                self.asks.append((ask, members.rows, mask))
        self.asked_places: list[tuple[int, int]] = list(bits.items())

    def _mask(self, questions: Iterable[Question], bits: dict[int, int]) -> int:
        """
        Give the columns that questions are about as bits.
        """
        mask = 0
        for question in questions:
            for at in self._places_of(question) or ():
                mask |= bits.setdefault(at, 1 << len(bits))
        return mask

    def _batch(self, batch: Batch, everywhere: Everywhere) -> Callable[[Row, None, Groups], None] | None:
        """
        Give the function that asks the questions of a batch; None when a column of one is not there as it was.
        """
        places: list[tuple[int, ...]] = []
        groups: list[Group] = []
        constants: list[Any] = []
        for question in batch.questions:
            here = self._places_of(question)
            if here is None:
                return None
            (group,) = everywhere.asked[question]
            places.append(here)
            groups.append(group)
            constants += group.row[:-1]
        ask = batch.ask(tuple(places))

        def together(row: Row, members: None, found: Groups) -> None:
            del members
            if not ask(row, constants, groups, found):
                # What they share cannot be computed: one of them may not need it.
                for group in groups:
                    self.ask_one(group, row, found, {})

        return together

    def forget(self, question: Question) -> None:
        """
        Nobody asks this any more.
        """
        self._functions.pop(question, None)

    def ask_one(self, group: Group, row: Row, hits: Groups, lost: Groups) -> None:
        """
        Ask a row the question of one group that it was led to.
        """
        assert group.question is not None
        functions = self._functions_of(group.question)
        if functions is None:
            lost[group] = None
        else:
            functions[0](row, (group.row,), hits)

    def ask_all(self, bucket: Bucket, row: Row, hits: Groups, lost: Groups) -> None:
        """
        Ask a row the questions of the groups that it was led to.
        """
        hits.update(bucket.sure)
        for question, members in bucket.asked.items():
            functions = self._functions_of(question)
            if functions is None:
                lost.update(dict.fromkeys(members))
            elif isinstance(members, SortedMembers):
                search = functions[1]
                assert search is not None
                search(row, members, hits)
            else:
                functions[0](row, members.rows, hits)

    def _functions_of(self, question: Question) -> tuple[Ask, _Search | None] | None:
        """
        Give the functions of a question; None when a column of it is not there as it was.
        """
        if question in self._functions:
            return self._functions[question]
        places = self._places_of(question)
        functions = None
        if places is not None:
            functions = (question.ask(places), None if question.family.order is None else question.search(places))
        self._functions[question] = functions
        return functions

    def _places_of(self, question: Question) -> tuple[int, ...] | None:
        columns = zip(question.family.columns, question.types, strict=True)
        found = [self._places.get((name, *type_)) for name, type_ in columns]
        places = tuple(at for at in found if at is not None)
        return places if len(places) == len(found) else None

    def _look_up_in(self, probe: Probe) -> LookUp:
        places = [self._places.get(column[:3]) for column in probe.columns]
        known = [at for at in places if at is not None]
        if len(known) != len(places):
            return _LostProbe(probe)
        if probe.is_elements:
            return _Elements(self, probe, known[0])
        readers = [canonicaliser(column[3]) for column in probe.columns]
        if len(known) == 1:
            return _Value(self, probe, known[0], readers[0])
        return _Values(self, probe, list(zip(known, readers, strict=True)))


_Search: TypeAlias = Callable[[Row, SortedMembers, Groups], None]


class _Lost:
    """
    Finds members of which nobody can tell.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Members) -> None:
        self._members: Final = members

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        del row, hits
        lost.update(dict.fromkeys(self._members))


class _LostProbe:
    """
    Finds everybody in a probe: a column is not what it was.
    """

    __slots__ = ("_probe",)

    def __init__(self, probe: Probe) -> None:
        self._probe: Final = probe

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        del row, hits
        lost.update(all_of(self._probe.held))


class _Value:
    """
    Looks a row up by the value of one column.
    """

    __slots__ = ("_at", "_bound", "_held", "_read")

    def __init__(self, bound: Bound, probe: Probe, at: int, read: _Reader | None) -> None:
        self._bound: Final = bound
        self._held: Final = probe.held
        self._at: Final = at
        self._read: Final = read

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        value = row[self._at]
        if value is None:
            return
        if self._read is None:
            found = self._held.get(value)
        else:
            try:
                found = self._held.get(self._read(value))
            except FAILURES:
                # No condition on this value is true, since it cannot be read.
                return
        if found is not None:
            _reach(found, self._bound, row, hits, lost)


class _Values:
    """
    Looks a row up by the values of several columns.
    """

    __slots__ = ("_bound", "_held", "_readers")

    def __init__(self, bound: Bound, probe: Probe, readers: Sequence[tuple[int, _Reader | None]]) -> None:
        self._bound: Final = bound
        self._held: Final = probe.held
        self._readers: Final = readers

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        key: list[Hashable] = []
        try:
            for at, read in self._readers:
                value = row[at]
                if value is None:
                    return
                key.append(value if read is None else read(value))
        except FAILURES:
            return
        found = self._held.get(tuple(key))
        if found is not None:
            _reach(found, self._bound, row, hits, lost)


class _Elements:
    """
    Looks a row up by the elements of an array.
    """

    __slots__ = ("_at", "_bound", "_held", "_read")

    def __init__(self, bound: Bound, probe: Probe, at: int) -> None:
        self._bound: Final = bound
        self._held: Final = probe.held
        self._at: Final = at
        self._read: Final = element_canonicaliser(probe.columns[0][3])

    def __call__(self, row: Row, hits: Groups, lost: Groups) -> None:
        value = row[self._at]
        if value is None:
            return
        try:
            elements = self._read(value)
        except FAILURES:
            return
        held = self._held
        for element in (ANY_ARRAY, *elements):
            found = held.get(element)
            if found is not None:
                _reach(found, self._bound, row, hits, lost)


def _reach(found: Group | Bucket, bound: Bound, row: Row, hits: Groups, lost: Groups) -> None:
    if isinstance(found, Bucket):
        bound.ask_all(found, row, hits, lost)
    elif found.question is None:
        hits[found] = None
    else:
        bound.ask_one(found, row, hits, lost)
