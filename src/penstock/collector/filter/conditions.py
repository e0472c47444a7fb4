"""
The shapes with conditions on one table, looked up by the rows of its changes.

Theory of operation
-------------------

Shapes with the same condition form a *group*: it is looked up and handed changes as one. What leads a row to a group
depends on what `where.index_plan` makes of the condition, branch by branch; a row that is included satisfies every
requirement of some branch, so it is enough to look each branch up by something that it requires:

* a branch that requires values of columns is found by all these columns together: a *probe* is the tuple of columns, a
  hash from their values to groups. So shapes that differ in their constants alone cost one lookup of each row, however
  many they are and however often a value repeats in one of the columns;
* a branch that requires elements of an array only is found by one of these elements, that which fewest groups are
  waiting for; one that requires no element by any array at all;
* to a condition that no index can answer every row leads.

A row that was led to a group is asked the rest there (`buckets`): nothing when the branch says all, else what the branch
does not say, together for all groups whose questions differ in their constants alone. So the index knows of most changes
what they are to a group, and says so: a *verdict* tells whether the old and the new row are included, and nobody needs to
evaluate the condition again. That is proved when the columns of the condition are those that the row was asked about:
they are in the description as they were, and each of them could be read or the row is not included.

Why a lookup that is exact needs no evaluation. `is_exact` says that a row which can be evaluated is included when a
branch holds. A row that cannot be evaluated is not included; it is not found either, if it is found by all the columns
that the condition reads, or if these are of types whose text is their value, which cannot fail. Otherwise (branches in
several probes of which one may fail) the whole condition is asked.

A condition that no row can satisfy is in no probe, and gets no change.

Columns are those that the conditions were made for. As soon as a description comes in which one is missing or has
another type, those that read it get every change: they have to find out themselves that they cannot go on. Without its
old row an update or a delete concerns everybody, likewise. Of such changes there is no verdict.

Pure. Invariant: whatever was added in whatever order, removing it leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from penstock.collector.abc import INCLUDES_NEW, INCLUDES_OLD, UNKNOWN
from penstock.collector.filter.bound import ANY_ARRAY, Bound, Probe, ProbeColumn
from penstock.collector.filter.buckets import Everywhere, Group, Groups, Question, add_to, count_at, remove_from
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Change, Row
from penstock.shapes.condition import DESCRIPTIONS_COUNT_MAX, Condition
from penstock.where.clause import Clause, index_plan, question_of
from penstock.where.family import Family, Member
from penstock.where.index_plan import Branch, Contains, Equals, IndexPlan
from penstock.where.values import text_is_value

KEYS_COUNT_MAX: Final = 256
"""Places that one branch takes in a probe of several columns; one that would take more is found by one column alone."""


class Match(NamedTuple):
    """
    Shapes with the same condition, and the changes that may concern them.

    Attributes:
        incarnations: the shapes.
        changes: in their order.
        verdicts: of each change, as in `RoutedPart`.
    """

    incarnations: Sequence[int]
    changes: Sequence[Change]
    verdicts: Sequence[int]


class _Path(NamedTuple):
    """
    A branch's way to its group: a probe and the keys in it; whether they say all that the branch requires.
    """

    probe: Probe
    keys: frozenset[Hashable]
    is_whole: bool


_Found: TypeAlias = dict[Group, tuple[list[Change], list[int]]]


class ConditionIndex:
    """
    The groups of one table.
    """

    __slots__ = ("_bound", "_everywhere", "_groups", "_probes", "_questions")

    def __init__(self) -> None:
        """
        Begin without shapes.
        """
        # By identity: equal conditions are one object as long as one of them is held.
        self._groups: dict[Condition, Group] = {}
        self._probes: dict[tuple[tuple[ProbeColumn, ...], bool], Probe] = {}
        self._everywhere: Final = Everywhere()
        self._questions: dict[tuple[Family, tuple[tuple[int, int], ...]], Question] = {}
        # By identity of descriptions; forgotten when a probe, or a question to all rows, comes or goes.
        self._bound: dict[int, Bound] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def is_empty(self) -> bool:
        """
        Whether nothing is left of what was added.
        """
        return not (
            self._groups or self._probes or len(self._everywhere) or self._everywhere.batches or self._questions
        )

    def add(self, incarnation: int, condition: Condition) -> Group:
        """
        Add a shape; gives the group by which it is removed.
        """
        group = self._groups.get(condition)
        if group is None:
            group = Group(condition)
            self._register(group)
            self._groups[condition] = group
            condition.release()
        group.add(incarnation)
        return group

    def remove(self, incarnation: int, group: Group) -> None:
        """
        Remove a shape.
        """
        if not group.remove(incarnation):
            return
        del self._groups[group.condition]
        question = group.question
        if group.is_everywhere:
            assert question is not None
            before = self._way_to(question)
            self._everywhere.remove(group)
            if self._way_to(question) != before:
                self._bound.clear()
        for probe, key in zip(group.places[::2], group.places[1::2], strict=True):
            remove_from(probe.held, key, group)
            self._drop_if_empty(probe)
        group.row = ()
        if question is not None:
            question.uses_count -= 1
            if not question.uses_count:
                del self._questions[question.family, question.types]
                for bound in self._bound.values():
                    bound.forget(question)

    # --- where a condition is found ----------------------------------------------------------------------------------

    def _register(self, group: Group) -> None:
        clause = group.condition.clause
        plan = index_plan(clause)
        if plan is None or not all(plan.branches):
            self._ask(group, question_of(clause), frozenset())
            assert group.question is not None
            before = self._way_to(group.question)
            group.is_everywhere = True
            self._everywhere.add(group)
            if self._way_to(group.question) != before:
                self._bound.clear()
            return
        paths = [self._path(group, branch) for branch in plan.branches]
        member = _member(clause, plan, paths)
        found_by = frozenset(column[0] for path in paths for column in path.probe.columns)
        if member is None:
            group.is_proved = found_by.issuperset(group.condition.types)
        else:
            self._ask(group, member, found_by)
        places: dict[tuple[Probe, Hashable], None] = {(path.probe, key): None for path in paths for key in path.keys}
        for probe, key in places:
            add_to(probe.held, key, group)
        group.places = tuple(part for place in places for part in place)
        for path in paths:
            self._drop_if_empty(path.probe)

    def _ask(self, group: Group, member: Member, found_by: frozenset[str]) -> None:
        family = member.family
        types = tuple(group.condition.types[name] for name in family.columns)
        question = self._questions.get((family, types))
        if question is None:
            question = self._questions[family, types] = Question(family, types)
        question.uses_count += 1
        group.question = question
        group.row = (*member.constants, group)
        group.threshold = member.threshold
        group.is_proved = found_by.union(family.columns).issuperset(group.condition.types)

    def _way_to(self, question: Question) -> tuple[bool, bool]:
        """
        Tell how all rows are asked: whether at all, and whether with other questions.
        """
        return question in self._everywhere.asked, self._everywhere.is_batched(question)

    def _path(self, group: Group, branch: Branch) -> _Path:
        equals = _by_column(branch)
        if equals:
            return self._path_of_values(group, equals, is_all=all(isinstance(part, Equals) for part in branch))
        return self._path_of_elements(group, [part for part in branch if isinstance(part, Contains)])

    def _path_of_values(
        self, group: Group, equals: Mapping[tuple[str, str], frozenset[Hashable]], *, is_all: bool
    ) -> _Path:
        count = 1
        for keys in equals.values():
            count *= len(keys)
        if count > KEYS_COUNT_MAX and len(equals) > 1:
            fewest = min(equals, key=lambda column: len(equals[column]))
            equals, is_all = {fewest: equals[fewest]}, False
        names = sorted(equals)
        probe = self._probe(tuple(self._column(group, *name) for name in names), is_elements=False)
        if len(names) == 1:
            return _Path(probe, equals[names[0]], is_all)
        return _Path(probe, frozenset(product(*(equals[name] for name in names))), is_all)

    def _path_of_elements(self, group: Group, contains: Sequence[Contains]) -> _Path:
        best: tuple[int, Probe, Hashable] | None = None
        for part in contains:
            probe = self._probe((self._column(group, part.column, part.type),), is_elements=True)
            for key in part.keys or (ANY_ARRAY,):
                waiting = count_at(probe.held, key)
                # Any array at all is the last resort.
                waiting = waiting if part.keys else waiting + (1 << 60)
                if best is None or waiting < best[0]:
                    best = (waiting, probe, key)
        assert best is not None, "a branch has conditions"
        _, chosen, key = best
        for part in contains:
            probe = self._probe((self._column(group, part.column, part.type),), is_elements=True)
            if probe is not chosen:
                self._drop_if_empty(probe)
        is_whole = len(contains) == 1 and len(contains[0].keys) <= 1
        return _Path(chosen, frozenset((key,)), is_whole)

    @staticmethod
    def _column(group: Group, name: str, type_: str) -> ProbeColumn:
        return (name, *group.condition.types[name], type_)

    def _probe(self, columns: tuple[ProbeColumn, ...], *, is_elements: bool) -> Probe:
        probe = self._probes.get((columns, is_elements))
        if probe is None:
            probe = self._probes[columns, is_elements] = Probe(columns, is_elements=is_elements)
            self._bound.clear()
        return probe

    def _drop_if_empty(self, probe: Probe) -> None:
        if not probe.held and self._probes.pop((probe.columns, probe.is_elements), None) is not None:
            self._bound.clear()

    # --- looking up --------------------------------------------------------------------------------------------------

    def match(self, changes: Iterable[Change]) -> list[Match]:
        """
        Find the shapes that each change may concern; gives, for each group of them, its changes in their order.
        """
        found: _Found = {}
        bound: Bound | None = None
        for change in changes:
            relation = change.relation
            if bound is None or bound.relation is not relation:
                bound = self._bind(relation)
            if change.is_old_missing:
                for group in self._groups.values():
                    _note(found, group, change, UNKNOWN)
            elif change.old is None or change.new is None:
                self._match_one(found, change, bound)
            else:
                self._match_both(found, change, change.old, change.new, bound)
        return [Match(group.sequence, *chosen) for group, chosen in found.items()]

    @staticmethod
    def _match_one(found: _Found, change: Change, bound: Bound) -> None:
        hits: Groups = {}
        lost: Groups = {}
        new = change.new
        row = change.old if new is None else new
        if row is None:
            return
        for look_up in bound.look_ups:
            look_up(row, hits, lost)
        for ask, members, _ in bound.asks:
            ask(row, members, hits)
        for group in lost:
            hits.pop(group, None)
            _note(found, group, change, UNKNOWN)
        verdict = INCLUDES_OLD if new is None else INCLUDES_NEW
        for group in hits:
            _note(found, group, change, verdict if group.is_proved else UNKNOWN)

    @staticmethod
    def _match_both(found: _Found, change: Change, old: Row, new: Row, bound: Bound) -> None:
        before: Groups = {}
        after: Groups = {}
        lost: Groups = {}
        for look_up in bound.look_ups:
            look_up(new, after, lost)
            look_up(old, before, lost)
        asks = bound.asks
        if asks:
            changed = 0
            for at, bit in bound.asked_places:
                if old[at] != new[at]:
                    changed |= bit
            same: Groups = {}
            for ask, members, mask in asks:
                if changed & mask:
                    ask(new, members, after)
                    ask(old, members, before)
                else:
                    # Rows that do not differ in what is asked about are asked once.
                    ask(new, members, same)
            if same:
                after.update(same)
                before.update(same)
        for group in lost:
            after.pop(group, None)
            before.pop(group, None)
            _note(found, group, change, UNKNOWN)
        for group in after:
            verdict = INCLUDES_NEW | INCLUDES_OLD if group in before else INCLUDES_NEW
            _note(found, group, change, verdict if group.is_proved else UNKNOWN)
        for group in before:
            if group not in after:
                _note(found, group, change, INCLUDES_OLD if group.is_proved else UNKNOWN)

    def _bind(self, relation: RelationDescription) -> Bound:
        bound = self._bound.get(id(relation))
        if bound is None:
            if len(self._bound) >= DESCRIPTIONS_COUNT_MAX:
                self._bound.clear()
            bound = self._bound[id(relation)] = Bound(relation, self._probes.values(), self._everywhere)
        return bound


def _note(found: _Found, group: Group, change: Change, verdict: int) -> None:
    here = found.get(group)
    if here is None:
        found[group] = ([change], [verdict])
    else:
        here[0].append(change)
        here[1].append(verdict)


def _member(clause: Clause, plan: IndexPlan, paths: Sequence[_Path]) -> Member | None:
    """
    Say what is still to be asked of a row that was led to a condition; None when nothing is.
    """
    if not all(path.is_whole for path in paths):
        return question_of(clause)
    if not plan.is_exact:
        return question_of(clause, plan.residual)
    probes = {path.probe for path in paths}
    is_safe = len(probes) == 1 or all(text_is_value(column[3]) for probe in probes for column in probe.columns)
    return None if is_safe else question_of(clause)


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
