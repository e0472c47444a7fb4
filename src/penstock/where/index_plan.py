"""
What of a condition an index can answer: the values a column must have for a row to be included.

Owns the analysis, not the index. A plan is a disjunction of branches, each a conjunction of conditions that are necessary for
it: a row that is included satisfies all conditions of some branch. So an index that looks up any one condition of each branch
never misses; whether a candidate is included is for the whole condition to say, unless the plan `is_exact`.

Keys are what rows hold: the bytes of a value where equal values have equal text, and otherwise what the type's canonicaliser
makes of them. NULL is never a key. Pure values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from penstock.where.equality import raw_column, raw_key, same_text
from penstock.where.evaluate import Emitter
from penstock.where.facts import CaseMapping
from penstock.where.tree import Call, Cast, Collated, ColumnRef, InList, Logic, Node, Quantified
from penstock.where.types import element, is_array
from penstock.where.values import decoder, equality_key, text_is_value

BRANCHES_MAX: Final = 64
"""Branches that a plan has at most; a condition that would have more keeps only part of what could be indexed."""


@dataclass(frozen=True, slots=True)
class Equals:
    """
    The column's value is one of these.

    Attributes:
        column: its name.
        type: its type, for `canonicaliser`.
        keys: of the values; empty when no row can be included.
    """

    column: str
    type: str
    keys: frozenset[Hashable]


@dataclass(frozen=True, slots=True)
class Contains:
    """
    The column is an array that has all of these elements; without any, it is not NULL.

    Attributes:
        column: its name.
        type: the array's type, for `element_canonicaliser`.
        keys: of the elements.
    """

    column: str
    type: str
    keys: frozenset[Hashable]


Condition: TypeAlias = Equals | Contains
Branch: TypeAlias = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """
    What an index can answer.

    Attributes:
        branches: at least one of them holds for every included row; none at all when no row can be included.
        is_exact: whether a row is included as soon as a branch holds.
        residual: what a row for which a branch holds must satisfy besides to be included; None when nothing. A part of
            the condition, or all of it.
    """

    branches: tuple[Branch, ...]
    is_exact: bool
    residual: Node | None = None


def canonicaliser(type_: str) -> Callable[[bytes], Hashable] | None:
    """
    Give the function from a row's text to a key of `Equals`; None when the text is the key.

    It raises one of `evaluate.FAILURES` on text that is no value of the type.
    """
    if text_is_value(type_):
        return None
    read, key = decoder(type_), equality_key(type_)
    if key is None:
        return read
    return lambda data: key(read(data))


def element_canonicaliser(type_: str) -> Callable[[bytes], frozenset[Hashable]]:
    """
    Give the function from an array's text to the keys of its elements, for `Contains`.
    """
    read, key = decoder(type_), equality_key(element(type_))

    def keys(data: bytes) -> frozenset[Hashable]:
        items = [item for item in read(data).items if item is not None]
        return frozenset(items if key is None else map(key, items))

    return keys


class _Planner:
    def __init__(self, case: CaseMapping | None) -> None:
        self._constants = Emitter(case)

    def plan(self, node: Node) -> IndexPlan | None:
        """
        Analyse a node.
        """
        plan = self._plan(node)
        if plan is None or plan.is_exact or plan.residual is not None:
            return plan
        return replace(plan, residual=node)

    def _plan(self, node: Node) -> IndexPlan | None:
        if isinstance(node, Logic):
            return self._all(node) if node.is_and else self._any(node)
        condition = self._condition(node)
        if condition is None:
            return None
        return IndexPlan(((condition,),) if condition.keys or isinstance(condition, Contains) else (), is_exact=True)

    def _any(self, node: Logic) -> IndexPlan | None:
        branches: list[Branch] = []
        is_exact = True
        for arg in node.args:
            plan = self.plan(arg)
            if plan is None:
                return None
            branches.extend(plan.branches)
            is_exact = is_exact and plan.is_exact
        merged = _merge(branches)
        return IndexPlan(merged, is_exact) if len(merged) <= BRANCHES_MAX else None

    def _all(self, node: Logic) -> IndexPlan | None:
        plans = [self.plan(arg) for arg in node.args]
        known = [plan for plan in plans if plan is not None]
        if not known:
            return None
        is_exact = len(known) == len(plans)
        branches: tuple[Branch, ...] = ((),)
        for plan in sorted(known, key=lambda plan: len(plan.branches)):
            if len(branches) * len(plan.branches) > BRANCHES_MAX:
                is_exact = False
                continue
            branches = tuple(one + other for one in branches for other in plan.branches)
            is_exact = is_exact and plan.is_exact
        if is_exact:
            return IndexPlan(branches, is_exact=True)
        # What is one requirement of values, whole, need not be asked again of rows that fulfil it.
        left = [arg for arg, plan in zip(node.args, plans, strict=True) if not _is_one_requirement(plan)]
        residual = node if not left else left[0] if len(left) == 1 else Logic(is_and=True, args=tuple(left))
        return IndexPlan(branches, is_exact=False, residual=residual)

    def _condition(self, node: Node) -> Condition | None:
        match node:
            case Call() if node.is_operator and len(node.args) == 2:
                for index in (0, 1):
                    condition = self._binary(node, node.args[index], node.args[1 - index], is_swapped=index == 1)
                    if condition is not None:
                        return condition
            case InList() if not node.is_negated:
                values = [self._constants.constant_value(item) for item in node.items]
                if any(value is None for value in values):
                    return None
                present = [value.value for value in values if value is not None and value.value is not None]
                return self._equals(node.arg, node.overload.args[1], present)
            case Quantified() if not node.is_all and node.overload.name == "=":
                return self._quantified(node)
        return None

    def _binary(self, node: Call, column: Node, other: Node, *, is_swapped: bool) -> Condition | None:
        constant = self._constants.constant_value(other)
        if constant is None:
            return None
        name = node.overload.name
        if name == "=":
            present = [] if constant.value is None else [constant.value]
            return self._equals(column, other.type, present)
        if name == ("<@" if is_swapped else "@>") and is_array(other.type) and isinstance(column, ColumnRef):
            if constant.value is None or None in constant.value.items:
                return Equals(column.name, column.type, frozenset())
            return self._contains(column, constant.value.items)
        return None

    def _quantified(self, node: Quantified) -> Condition | None:
        array = self._constants.constant_value(node.array)
        if array is not None:
            items = () if array.value is None else array.value.items
            return self._equals(node.arg, element(node.array.type), [item for item in items if item is not None])
        value = self._constants.constant_value(node.arg)
        column = _unwrap(node.array)
        if value is None or column is None or node.overload.args[0] != element(column.type):
            return None
        if value.value is None:
            return None  # an empty array gives false, so it is all one
        return self._contains(column, (value.value,))

    @staticmethod
    def _contains(column: ColumnRef, items: tuple[Any, ...]) -> Contains:
        key = equality_key(element(column.type))
        return Contains(column.name, column.type, frozenset(items if key is None else map(key, items)))

    @staticmethod
    def _equals(node: Node, type_: str, values: list[Any]) -> Equals | None:
        raw = raw_column(node)
        if raw is not None:
            if not same_text(raw.type, node.type, type_):
                return None
            return Equals(raw.name, raw.type, frozenset(raw_key(type_, value) for value in values))
        column = _unwrap(node)
        if column is None or column.type != type_:
            return None
        key = equality_key(type_)
        return Equals(column.name, column.type, frozenset(values if key is None else map(key, values)))


def _unwrap(node: Node) -> ColumnRef | None:
    while isinstance(node, Collated) or (isinstance(node, Cast) and node.type == node.arg.type and not node.typmod):
        node = node.arg
    return node if isinstance(node, ColumnRef) else None


def _is_one_requirement(plan: IndexPlan | None) -> bool:
    """
    Tell whether a plan says all of its condition by one branch of values, which is part of every branch then.
    """
    if plan is None or not plan.is_exact or len(plan.branches) != 1:
        return False
    return all(isinstance(part, Equals) for part in plan.branches[0])


def _merge(branches: list[Branch]) -> tuple[Branch, ...]:
    """
    Make one branch of those that ask one column each and the same one.
    """
    merged: dict[tuple[str, str], frozenset[Hashable]] = {}
    others: list[Branch] = []
    for branch in branches:
        if len(branch) == 1 and isinstance(branch[0], Equals):
            key = (branch[0].column, branch[0].type)
            merged[key] = merged.get(key, frozenset()) | branch[0].keys
        else:
            others.append(branch)
    equal: list[Branch] = [(Equals(column, type_, keys),) for (column, type_), keys in merged.items()]
    return (*equal, *others)


def plan_index(node: Node, case: CaseMapping | None) -> IndexPlan | None:
    """
    Analyse a condition; None when some included row may satisfy no condition that an index knows.
    """
    return _Planner(case).plan(node)
