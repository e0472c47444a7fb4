"""
Conditions that differ in their constants alone, asked of a row together.

Theory of operation. The members of a *family* share one function, which takes a row and the members' constants and yields
those whose condition is true. What depends on the row alone (reading a column, a call of columns only) is computed once
for all of them, in front of the loop. It is computed even where a condition would not have come to it; so when that
fails, the function falls back to the conditions as they are written, each for itself. A member whose evaluation fails
is not included, and says nothing about the others.

A condition that compares what depends on the row alone with one constant (`column > constant`) has an `Order` as well:
the member is included when the constant is on one side of the row's value. So members that are sorted by their
constants are found by a binary search, and cost nothing but those that are found.

Families of one member each can be written into one function (`bind_together`): reading columns is shared by all of
them, and there is one call where there were many. When what they share fails, the owner asks each for itself.

Invariant: a member is yielded exactly when `Clause.compile_filter` of its condition answers true. Pure.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.errors import InvalidShapeError
from penstock.where.datetimes import date_rank
from penstock.where.evaluate import Emitter
from penstock.where.facts import CaseMapping
from penstock.where.functions import type_word
from penstock.where.template import Row, compile_source, load
from penstock.where.tree import Call, Const, Node, children
from penstock.where.types import is_array
from penstock.where.values import INTEGERS, order_key

Found: TypeAlias = dict[Any, None]
Ask: TypeAlias = Callable[[Row, Sequence[tuple[Any, ...]], Found], None]
"""Takes a row and members, each a tuple of its constants and what to yield; adds what is yielded to a dict."""
Read: TypeAlias = Callable[[Row], Any]
"""Gives what a row is ordered by; None when no member is included."""

_TURNED: Final = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CONSTANT: Final = re.compile(r"\bk(\d+)\b")
_PART: Final = re.compile(r"\bh(\d+)\b")
_COLUMN: Final = re.compile(r"r\[@(\d+)@\]")


@dataclass(frozen=True, slots=True)
class Order:
    """
    How members are ordered.

    Attributes:
        sign: a member is included when the row's value stands in this relation to its threshold.
        source: of the module whose `make` gives a `Read`.
    """

    sign: str
    source: str


@dataclass(frozen=True, slots=True)
class Parts:
    """
    A condition in parts, as text.

    Attributes:
        prelude: what depends on the row alone; the n-th is named `hn` in the rest.
        body: the condition, with `kn` for the n-th constant.
        constants_count: how many constants there are; not all of them need be in the body.
    """

    prelude: tuple[str, ...]
    body: str
    constants_count: int


@dataclass(frozen=True, slots=True)
class Family:
    """
    Conditions without their constants. Equal ones share their functions.

    Attributes:
        source: of the module whose `make` gives an `Ask`, with `@n@` where a row's place for the n-th column goes.
        columns: the columns that are read, in the order of their numbers.
        names: objects that the sources name.
        order: how members are ordered, if they are.
        parts: for writing it into one function with other families; None where that is not possible.
    """

    source: str
    columns: tuple[str, ...]
    names: tuple[tuple[str, object], ...]
    order: Order | None = None
    parts: Parts | None = field(default=None, compare=False)

    def bind(self, places: Sequence[int]) -> Ask:
        """
        Give the function for rows that have the columns at these places.
        """
        made: Ask = load(self.source, places, self.names)()
        return made

    def bind_order(self, places: Sequence[int]) -> Read:
        """
        Give what rows are ordered by, for families that are.
        """
        assert self.order is not None
        made: Read = load(self.order.source, places, self.names)()
        return made


class Member(NamedTuple):
    """
    A condition as one of a family.

    Attributes:
        family: which.
        constants: its own.
        threshold: what it is ordered by, if the family is; never None then.
    """

    family: Family
    constants: tuple[Any, ...]
    threshold: Any = None


def family_of(node: Node, case: CaseMapping | None) -> Member:
    """
    Find the family of a condition.

    Raises:
        InvalidShapeError: a part without columns cannot be computed, or it is too large; never for the condition of a
            clause, or a part of one.
    """
    plain = Emitter(case)
    body = plain.truth(node).code
    constants = plain.constants
    apart = None if plain.functions else _write_apart(node, case, len(constants), plain.columns)
    names = dict(plain.names)
    if apart is None:
        source = _module(plain, body)
    else:
        source = _module(plain, body, *apart)
        names.update(apart[0].names)
    parts = None
    # How letters are mapped is an object that another condition may have another one of, under the same name.
    if not plain.functions and "case" not in names:
        prelude, text = ((), body) if apart is None else (apart[0].prelude, apart[1])
        parts = Parts(prelude, text, len(constants))
    ordering = _order_of(node, case)
    if ordering is not None:
        names.update(ordering.names)
    order, threshold = (None, None) if ordering is None else (ordering.order, ordering.threshold)
    family = Family(source, plain.columns, tuple(sorted(names.items())), order, parts)
    return Member(family, constants, threshold)


def _write_apart(
    node: Node, case: CaseMapping | None, constants_count: int, columns: tuple[str, ...]
) -> tuple[Emitter, str] | None:
    """
    Write a condition with what depends on the row alone apart; None where that is not possible or no use.
    """
    shared = Emitter(case, is_shared=True)
    try:
        text = shared.truth(node).code
    except InvalidShapeError:
        return None  # counted twice, it is too large
    is_same = len(shared.constants) == constants_count and shared.columns == columns
    return (shared, text) if shared.prelude and is_same and not shared.functions else None


def _module(plain: Emitter, body: str, shared: Emitter | None = None, text: str = "") -> str:
    """
    Write the function of a row and members.
    """
    names = "".join(f"k{index}, " for index in range(len(plain.constants)))
    lines: list[str] = []
    if shared is not None:
        # One alone comes to what it needs, and no further.
        lines += ["        if len(members) > 1:", "            try:"]
        lines += [f"                {line}" for line in shared.prelude]
        lines += ["            except FAILURES:", "                pass", "            else:"]
        lines += [f"        {line}" for line in _loop(names, text)]
        lines += ["                return"]
    lines += _loop(names, body, plain.functions)
    rest = _COLUMN.sub(r"c\1", "\n".join(lines))
    columns = "".join(f"        c{index} = r[@{index}@]\n" for index in range(len(plain.columns)))
    return sys.intern(f"def make():\n    def ask(r, members, found):\n{columns}{rest}\n    return ask\n")


def _loop(names: str, body: str, functions: Sequence[str] = ()) -> list[str]:
    return [
        f"        for {names}member, in members:",
        *(indent(function, "        ") for function in functions),
        "            try:",
        f"                if {body}:",
        "                    found[member] = None",
        "            except FAILURES:",
        "                pass",
    ]


AskTogether: TypeAlias = Callable[[Row, Sequence[Any], Sequence[Any], Found], bool]
"""Takes a row, the constants of all members in a row, and what to yield for each; tells whether they could be asked."""


def bind_together(families: Sequence[tuple[Family, Sequence[int]]]) -> AskTogether:
    """
    Write families that have `parts` into one function, for rows that have the columns of each at these places.

    It asks one member of each.
    """
    shared: dict[str, str] = {}
    names: dict[str, object] = {}
    columns: dict[int, None] = {}
    lines: list[str] = []
    first = 0
    for number, (family, places) in enumerate(families):
        parts = family.parts
        assert parts is not None
        names.update(family.names)
        columns.update(dict.fromkeys(places))
        local: list[str] = []
        for text in parts.prelude:
            value = _rewrite(text.partition(" = ")[2], places, first, ())
            local.append(shared.setdefault(value, f"p{len(shared)}"))
        lines += ["        try:", f"            if {_rewrite(parts.body, places, first, local)}:"]
        lines += [f"                found[members[{number}]] = None", "        except FAILURES:", "            pass"]
        first += parts.constants_count
    head = ["def make():", "    def ask(r, ks, members, found):"]
    head += [f"        c{at} = r[{at}]" for at in columns]
    if shared:
        head += ["        try:", *(f"            {name} = {text}" for text, name in shared.items())]
        head += ["        except FAILURES:", "            return False"]
    source = "\n".join([*head, *lines, "        return True", "    return ask\n"])
    made: AskTogether = compile_source(source, tuple(names.items()))()
    return made


def _rewrite(text: str, places: Sequence[int], first: int, parts: Sequence[str]) -> str:
    """
    Give columns, constants and parts the names that they have among many families.
    """
    text = _COLUMN.sub(lambda match: f"c{places[int(match[1])]}", text)
    text = _CONSTANT.sub(lambda match: f"ks[{first + int(match[1])}]", text)
    return _PART.sub(lambda match: parts[int(match[1])], text)


class _Ordering(NamedTuple):
    order: Order
    names: tuple[tuple[str, object], ...]
    threshold: Any


def _order_of(node: Node, case: CaseMapping | None) -> _Ordering | None:
    """
    Find how the members of a family are ordered; None when they are not.
    """
    if not isinstance(node, Call) or not node.is_operator or node.overload.name not in _TURNED or len(node.args) != 2:
        return None
    keys = _keys(node.overload.args)
    if keys is None:
        return None
    emitter = Emitter(case)
    for index, sign in ((0, node.overload.name), (1, _TURNED[node.overload.name])):
        constant = emitter.constant_value(node.args[1 - index])
        if constant is None or constant.value is None or not _is_row_only(node.args[index]):
            continue
        body = emitter.value(node.args[index]).code
        row_key, threshold_key = keys[index], keys[1 - index]
        rank = f"rank_{type_word(node.overload.args[index])}"
        names = emitter.names if row_key is None else (*emitter.names, (rank, row_key))
        found = "t" if row_key is None else f"None if t is None else {rank}(t)"
        source = "\n".join(
            [
                "def make():",
                *emitter.functions,
                "    def read(r):",
                "        try:",
                f"            t = {body}",
                f"            return {found}",
                "        except FAILURES:",
                "            return None",
                "    return read\n",
            ]
        )
        threshold = constant.value if threshold_key is None else threshold_key(constant.value)
        return _Ordering(Order(sign, sys.intern(source)), names, threshold)
    return None


_Key: TypeAlias = Callable[[Any], Any] | None


def _keys(types: Sequence[str]) -> tuple[_Key, _Key] | None:
    """
    Give the functions of both sides whose results compare as the sides do, and are totally ordered; None where there are none.
    """
    left, right = types
    if left == right and not is_array(left):
        key = order_key(left)
        return key, key
    if left in INTEGERS and right in INTEGERS:
        return None, None
    if {left, right} == {"float4", "float8"}:
        key = order_key("float8")
        return key, key
    if {left, right} == {"date", "timestamp"}:
        return (date_rank if left == "date" else None), (date_rank if right == "date" else None)
    return None


def _is_row_only(node: Node) -> bool:
    """
    Tell whether there is no constant in a node, so that it has one value for a row whatever the constants are.
    """
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Const):
            return False
        waiting.extend(children(here))
    return True
