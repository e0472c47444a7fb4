"""
From a typed tree to a Python function of a row.

Theory of operation. The tree is written as one Python expression in three-valued logic, with NULL as None. A strict call
becomes `None if (t1 := <first>) is None or (t2 := <second>) is None else <body>`; a column is read from its text at the
place where it is used and only when evaluation comes there; AND and OR stop early. Equality of a column and a constant of
a type whose text tells its value compares bytes and reads nothing. What nests deeply, and what a list makes long, is moved
to functions of its own, because Python's compiler limits both.

Constants are not in the text but are arguments of the factory around it, so that conditions which differ in constants
alone share one text and one compiled factory (`Template`); subtrees without columns are computed once and are constants.

Two functions come of it: one gives true, false or None; the other gives whether the row is included, and is shorter, because
where only truth matters NULL is as good as false.

Invariants: a function never raises; a row on which evaluation fails gives None, or is not included. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from penstock.where import arrays
from penstock.where.equality import raw_column, raw_key, same_text, shared_key
from penstock.where.facts import CaseMapping
from penstock.where.failures import EvaluationError
from penstock.where.functions import Implementation, has_output, implement, implement_cast, type_word
from penstock.where.parse import reject_at
from penstock.where.template import FAILURES, Template, stack
from penstock.where.tree import (
    ArrayOf,
    BoolTest,
    Call,
    Case,
    Cast,
    Coalesce,
    Collated,
    ColumnRef,
    Concat,
    Const,
    Distinct,
    Extreme,
    InList,
    Logic,
    Node,
    Not,
    NullIf,
    NullTest,
    Quantified,
    Subscript,
    children,
)
from penstock.where.values import decoder, formatter, order_key

_NESTED_MAX: Final = 8  # levels in one expression; each is a few parentheses and Python takes 200
_LISTED_MAX: Final = 16
OPERATIONS_MAX: Final = 2000
"""Expressions that one function computes. Python's compiler takes a second for as many; sets of constants count as one."""


class _Text(NamedTuple):
    """
    A Python expression, safe to put anywhere.
    """

    code: str
    may_be_null: bool
    depth: int


@dataclass(slots=True)
class _Constant:
    value: Any


_COLUMN_CODE: Final = {
    "bool": "({0} == b't')",
    "int2": "int({0})",
    "int4": "int({0})",
    "int8": "int({0})",
    "float8": "float({0})",
    "text": "{0}.decode()",
    "varchar": "{0}.decode()",
    "bpchar": "{0}.decode()",
    "name": "{0}.decode()",
    "uuid": "{0}.decode()",
}


class Emitter:
    """
    Writes one template.
    """

    def __init__(self, case: CaseMapping | None, *, is_shared: bool = False) -> None:
        """
        Begin an empty template.

        Args:
            case: the database's mapping of letters.
            is_shared: whether it will be asked of one row with many constants: what depends on the row alone is then
                written apart (`prelude`) and has a name in the rest.
        """
        self._case = case
        self._is_shared = is_shared
        self._prelude: list[str] = []
        self._parts: dict[tuple[str, str], str] = {}
        self._row_only: dict[int, bool] = {}
        self._columns: dict[str, int] = {}
        self._constants: list[Any] = []
        self._names: dict[str, object] = {}
        self._functions: list[str] = []
        self._temporaries = 0
        self._operations = 0
        self._constant_of: dict[int, _Constant | None] = {}
        self._kept: list[Node] = []  # so that no id is reused while it serves as a key

    def template(self, body: str, on_failure: str) -> Template:
        """
        Finish: a `make` that gives the function.
        """
        arguments = ", ".join(f"k{index}" for index in range(len(self._constants)))
        lines = [f"def make({arguments}):", *self._functions]
        lines += [
            "    def clause(r):",
            "        try:",
            f"            return {body}",
            "        except FAILURES:",
            f"            return {on_failure}",
            "    return clause",
        ]
        names = tuple(sorted(self._names.items()))
        return Template(sys.intern("\n".join(lines) + "\n"), tuple(self._columns), names, tuple(self._constants))

    @property
    def constants(self) -> tuple[Any, ...]:
        """
        What stands for `k0`, `k1` and so on.
        """
        return tuple(self._constants)

    @property
    def columns(self) -> tuple[str, ...]:
        """
        The columns that are read, in the order of their numbers.
        """
        return tuple(self._columns)

    @property
    def names(self) -> tuple[tuple[str, object], ...]:
        """
        Objects that the text names.
        """
        return tuple(sorted(self._names.items()))

    @property
    def functions(self) -> tuple[str, ...]:
        """
        Definitions of the functions that the text calls.
        """
        return tuple(self._functions)

    @property
    def prelude(self) -> tuple[str, ...]:
        """
        Assignments of what depends on the row alone, `h0`, `h1` and so on.
        """
        return tuple(self._prelude)

    # --- what depends on the row alone -------------------------------------------------------------------------------

    def _is_row_only(self, node: Node) -> bool:
        if isinstance(node, Const):
            return False
        known = self._row_only.get(id(node))
        if known is None:
            self._kept.append(node)
            known = self._row_only[id(node)] = all(self._is_row_only(child) for child in children(node))
        return known

    def _set_apart(self, code: str) -> str:
        self._prelude.append(f"h{len(self._prelude)} = {code}")
        return f"h{len(self._prelude) - 1}"

    def _part_of_row(self, node: Node) -> _Text | None:
        """
        Write a node that depends on the row alone apart; None when it does not, or is not to be.
        """
        if not self._is_shared or isinstance(node, ColumnRef) or not self._is_row_only(node):
            return None
        self._is_shared = False
        text = self.value(node)
        self._is_shared = True
        return _Text(self._set_apart(text.code), text.may_be_null, 0)

    def _column_apart(self, node: ColumnRef) -> str:
        place = (node.name, node.type)
        if place not in self._parts:
            column = self._column(node.name)
            value = f"None if {column} is None else {self._read(node.type, column)}"
            self._parts[place] = self._set_apart(value)
        return self._parts[place]

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _constant(self, value: Any) -> str:
        self._constants.append(value)
        return f"k{len(self._constants) - 1}"

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _name(self, name: str, value: object) -> str:
        self._names[name] = value
        return name

    def _column(self, name: str) -> str:
        return f"r[@{self._columns.setdefault(name, len(self._columns))}@]"

    def _read(self, type_: str, code: str) -> str:
        if (template := _COLUMN_CODE.get(type_)) is not None:
            return template.format(code)
        return f"{self._name(f'read_column_{type_word(type_)}', decoder(type_))}({code})"

    def _outline(self, text: _Text) -> _Text:
        if text.depth < _NESTED_MAX:
            return text
        name = f"f{len(self._functions)}"
        self._functions.append(f"    def {name}(r):\n        return {text.code}")
        return _Text(f"{name}(r)", text.may_be_null, 1)

    def _count(self, at: int) -> None:
        self._operations += 1
        if self._operations > OPERATIONS_MAX:
            raise reject_at(
                at,
                f"expression is too large; up to {OPERATIONS_MAX} operations on columns are supported",
                "Constants in IN (...) and = ANY ('{...}') do not count",
            )

    # --- constants ---------------------------------------------------------------------------------------------------

    def constant_value(self, node: Node) -> _Constant | None:
        """
        Compute a subtree without columns; None when there are any.

        Raises:
            InvalidShapeError: Postgres would answer with an error.
        """
        if isinstance(node, Const):
            return _Constant(node.value)
        if isinstance(node, ColumnRef):
            return None
        key = id(node)
        if key not in self._constant_of:
            self._kept.append(node)
            self._constant_of[key] = self._compute(node)
        return self._constant_of[key]

    def _compute(self, node: Node) -> _Constant | None:
        below = [self.constant_value(child) for child in children(node)]
        values = [child.value for child in below if child is not None]
        if len(values) != len(below):
            return self._simplify(node, values)
        try:
            if isinstance(node, Collated):
                return _Constant(values[0])
            if isinstance(node, ArrayOf):
                return _Constant(stack(*values) if node.is_nested else arrays.of_items(values))
            if isinstance(node, Cast):
                implementation = self._cast(node)
                return _Constant(None if values[0] is None else implementation.function(1)(values[0]))
            if isinstance(node, Call):
                implementation = self._implementation(node)
                if implementation.is_strict and None in values:
                    return _Constant(None)
                return _Constant(implementation.function(len(values))(*values))
            emitter = Emitter(self._case)
            emitter._constant_of = self._constant_of
            template = emitter.template(emitter._write(node).code, "fail()")
            names = (*template.names, ("fail", _fail))
            return _Constant(Template(template.source, (), names, template.constants).bind(())(()))
        except FAILURES:
            raise reject_at(
                node.at, "Failed to apply function to constant arguments", "Postgres would answer with an error here"
            ) from None

    def _simplify(self, node: Node, values: Sequence[Any]) -> _Constant | None:
        """
        Give what some constants decide alone, as Postgres's planner does: the rest is not evaluated and cannot fail.
        """
        if isinstance(node, Logic):
            decisive = not node.is_and
            return _Constant(decisive) if any(value is decisive for value in values) else None
        if isinstance(node, Case):
            return self._simplify_case(node)
        if isinstance(node, Coalesce):
            for arg in node.args:
                constant = self.constant_value(arg)
                if constant is None or constant.value is not None:
                    return constant
        if isinstance(node, Call) and None in values and self._implementation(node).is_strict:
            return _Constant(None)
        return None

    def _simplify_case(self, node: Case) -> _Constant | None:
        for when, result in node.whens:
            condition = self.constant_value(when)
            if condition is None:
                return None
            if condition.value is True:
                return self.constant_value(result)
        return self.constant_value(node.default)

    # --- expressions -------------------------------------------------------------------------------------------------

    def value(self, node: Node) -> _Text:
        """
        Write a node; NULL is None.
        """
        self._count(node.at)
        constant = self.constant_value(node)
        if constant is not None:
            if constant.value is None:
                return _Text("None", True, 0)
            return _Text(self._constant(constant.value), False, 0)
        return self._part_of_row(node) or self._outline(self._write(node))

    def _argument(self, node: Node) -> tuple[list[str], str, int]:
        """
        Write an argument of a strict call: the tests after which it is not NULL, and its value then.
        """
        if isinstance(node, ColumnRef):
            if self._is_shared:
                value = self._column_apart(node)
                return [f"{value} is None"], value, 0
            name = self._temporary()
            return [f"({name} := {self._column(node.name)}) is None"], self._read(node.type, name), 1
        text = self.value(node)
        if not text.may_be_null:
            return [], text.code, text.depth
        if text.code == "None":
            return ["True"], "None", 0
        name = self._temporary()
        return [f"({name} := {text.code}) is None"], name, text.depth

    def _strict(self, implementation: Implementation, args: Sequence[Node]) -> tuple[list[str], str, int]:
        """
        Write a strict call: the tests, the body, the depth.
        """
        tests: list[str] = []
        values: list[str] = []
        depth = 0
        template = implementation.template
        prepared = self.constant_value(args[1]) if implementation.prepare and len(args) == 2 else None
        for index, node in enumerate(args):
            if index == 1 and prepared is not None and prepared.value is not None and implementation.prepare:
                function, template = implementation.prepare
                values.append(self._constant(function(prepared.value)))
                continue
            found, value, below = self._argument(node)
            depth = max(depth, below)
            if template.count(f"{{{index}}}") > 1 and not value.isidentifier():
                name = self._temporary()
                found.append(f"({name} := {value}) is None")
                value = name
            tests += found
            values.append(value)
        for name, bound in implementation.names.items():
            self._name(name, bound)
        return tests, f"({template.format(*values)})", depth + 1

    def _null_if_any(self, tests: Sequence[str], body: str, depth: int, *, may_be_null: bool) -> _Text:
        if not tests:
            return _Text(body, may_be_null, depth)
        return _Text(f"(None if {' or '.join(tests)} else {body})", True, depth + 1)

    def _implementation(self, node: Call) -> Implementation:
        found = implement(node.overload, is_operator=node.is_operator, collation=node.collation, case=self._case)
        assert found is not None, node.overload
        return found

    def _cast(self, node: Cast) -> Implementation:
        found = implement_cast(node.arg.type, node.type)
        assert found is not None, node
        if not node.typmod:
            return found
        wrap = {
            "varchar": "({%s})[: {n}]",
            "bpchar": "T.pad({%s}, {n})",
            "numeric": "N.limit_numeric({%s}, {n})",
        }[node.type]
        inner = found.template
        text = wrap.replace("{n}", ", ".join(map(str, node.typmod))).replace("{%s}", inner)
        return Implementation(text, names=found.names, may_be_null=found.may_be_null)

    def _write(self, node: Node) -> _Text:
        match node:
            case Const():
                return self.value(node)
            case ColumnRef():
                tests, value, depth = self._argument(node)
                return self._null_if_any(tests, value, depth, may_be_null=False)
            case Collated():
                return self.value(node.arg)
            case Cast():
                implementation = self._cast(node)
                tests, body, depth = self._strict(implementation, (node.arg,))
                return self._null_if_any(tests, body, depth, may_be_null=implementation.may_be_null)
            case Call():
                return self._call(node)
            case Concat():
                return self._concat(node)
            case Logic():
                return self._logic([self.value(arg) for arg in node.args], is_and=node.is_and)
            case Not():
                tests, value, depth = self._argument(node.arg)
                return self._null_if_any(tests, f"(not {value})", depth + 1, may_be_null=False)
            case NullTest():
                return self._null_test(node)
            case BoolTest():
                text = self.value(node.arg)
                sign = "is not" if node.is_negated else "is"
                return _Text(f"({text.code} {sign} {node.value})", False, text.depth + 1)
            case Distinct():
                return self._distinct(node)
            case InList():
                return self._in_list(node)
            case Quantified():
                return self._quantified(node)
            case Case():
                return self._case_of(node)
            case Coalesce():
                return self._coalesce(node)
            case Extreme():
                key = order_key(node.type)
                word = "greatest" if node.is_greatest else "least"
                name = "None" if key is None else self._name(f"order_{type_word(node.type)}", key)
                return self._variadic(f"{word}({name}, ", [self.value(arg) for arg in node.args], may_be_null=True)
            case NullIf():
                return self._null_if(node)
            case ArrayOf():
                word = "stack(" if node.is_nested else "arrays.of_items(("
                close = ")" if node.is_nested else ",))"
                return self._variadic(word, [self.value(item) for item in node.items], may_be_null=False, close=close)
            case Subscript():
                return self._subscript(node)

    def _variadic(self, opening: str, parts: Sequence[_Text], *, may_be_null: bool, close: str = ")") -> _Text:
        depth = max((part.depth for part in parts), default=0) + 1
        return _Text(f"{opening}{', '.join(part.code for part in parts)}{close}", may_be_null, depth)

    def _call(self, node: Call) -> _Text:
        if (raw := self._raw_equality(node)) is not None:
            test, body = raw
            return _Text(f"(None if {test} else {body})", True, 2)
        implementation = self._implementation(node)
        if implementation.is_strict:
            tests, body, depth = self._strict(implementation, node.args)
            return self._null_if_any(tests, body, depth, may_be_null=implementation.may_be_null)
        parts = [self.value(arg) for arg in node.args]
        for name, value in implementation.names.items():
            self._name(name, value)
        body = implementation.template.format(*(part.code for part in parts))
        return _Text(f"({body})", implementation.may_be_null, max(part.depth for part in parts) + 1)

    def _raw_equality(self, node: Call) -> tuple[str, str] | None:
        """
        Compare a column's bytes with a constant's, where text tells the value: the test for NULL, the comparison.
        """
        if not node.is_operator or node.overload.name not in {"=", "<>"}:
            return None
        for one, other in (node.args, node.args[::-1]):
            column = raw_column(one)
            if column is None:
                continue
            constant = self.constant_value(other)
            if constant is None or constant.value is None or not same_text(column.type, one.type, other.type):
                continue
            name = self._temporary()
            key = self._constant(raw_key(other.type, constant.value))
            sign = "==" if node.overload.name == "=" else "!="
            return f"({name} := {self._column(column.name)}) is None", f"({name} {sign} {key})"
        return None

    def _concat(self, node: Concat) -> _Text:
        parts = []
        for arg in node.args:
            # Unlike a cast, concat() writes `t` and keeps the padding of a char(n).
            text = self.value(arg)
            if arg.type in {"text", "varchar", "bpchar", "name"}:
                parts.append(text)
                continue
            assert has_output(arg.type)
            write = self._name(f"format_{type_word(arg.type)}", formatter(arg.type))
            name = self._temporary()
            code = f"(None if ({name} := {text.code}) is None else {write}({name}))"
            parts.append(_Text(code, text.may_be_null, text.depth + 1))
        return self._variadic("glue(", parts, may_be_null=False)

    def _logic(self, parts: list[_Text], *, is_and: bool) -> _Text:
        while len(parts) > _LISTED_MAX:
            groups = [parts[start : start + _LISTED_MAX] for start in range(0, len(parts), _LISTED_MAX)]
            parts = [
                self._outline(self._logic(group, is_and=is_and)._replace(depth=_NESTED_MAX))
                if len(group) > 1
                else group[0]
                for group in groups
            ]
        depth = max(part.depth for part in parts) + 1
        if not any(part.may_be_null for part in parts):
            word = " and " if is_and else " or "
            return _Text(f"({word.join(part.code for part in parts)})", False, depth)
        stop = "False" if is_and else "True"
        steps = []
        nulls = []
        for part in parts:
            name = self._temporary()
            steps.append(f"{stop} if ({name} := {part.code}) is {stop} else ")
            if part.may_be_null:
                nulls.append(f"{name} is None")
        return _Text(
            f"({''.join(steps)}None if {' or '.join(nulls)} else {'True' if is_and else 'False'})", True, depth
        )

    def _null_test(self, node: NullTest) -> _Text:
        sign = "is not" if node.is_negated else "is"
        if isinstance(node.arg, ColumnRef):
            return _Text(f"({self._column(node.arg.name)} {sign} None)", False, 1)
        text = self.value(node.arg)
        return _Text(f"({text.code} {sign} None)", False, text.depth + 1)

    def _distinct(self, node: Distinct) -> _Text:
        left, right = (self.value(arg) for arg in node.equal.args)
        one, two = self._temporary(), self._temporary()
        implementation = self._implementation(node.equal)
        equal = self._name(f"function_{_word_of(node.equal)}", implementation.function(2))
        depth = max(left.depth, right.depth) + 2
        same, differs = ("True", "False") if node.is_negated else ("False", "True")
        wanted = "" if node.is_negated else "not "
        code = (
            f"(({same} if ({two} := {right.code}) is None else {differs}) if ({one} := {left.code}) is None "
            f"else {differs} if ({two} := {right.code}) is None else {wanted}{equal}({one}, {two}))"
        )
        return _Text(code, False, depth)

    def _in_list(self, node: InList) -> _Text:
        constants = [self.constant_value(item) for item in node.items]
        known = [constant for constant in constants if constant is not None]
        if len(known) == len(constants):
            return self._in_set(node, [constant.value for constant in known])
        tests, value, depth = self._argument(node.arg)
        name = self._temporary()
        function = self._name(f"function_{_word_of(node)}", _comparison(node, self._case))
        parts = [self.value(item) for item in node.items]
        wanted = "all_of" if node.is_negated else "any_of"
        if node.is_negated:
            function = f"(lambda a, b: not {function}(a, b))"
        items = ", ".join(part.code for part in parts)
        body = f"{wanted}({function}, {name}, arrays.of_items(({items},)))"
        deepest = max(depth, *(part.depth for part in parts)) + 2
        return self._null_if_any([*tests, f"({name} := {value}) is None"], body, deepest, may_be_null=True)

    def _in_set(self, node: InList | Quantified, values: Sequence[Any]) -> _Text:
        is_negated = node.is_negated if isinstance(node, InList) else node.is_all
        test, value, found, has_null = self._membership(node, values)
        if is_negated:
            body = f"False if {value} in {found} else {'None' if has_null else 'True'}"
        else:
            body = f"True if {value} in {found} else {'None' if has_null else 'False'}"
        return _Text(f"(None if {test} else {body})" if test else f"({body})", bool(test) or has_null, 3)

    def _membership(self, node: InList | Quantified, values: Sequence[Any]) -> tuple[str, str, str, bool]:
        """
        Write the test whether a value is among constants: test for NULL, the value, the set, whether a NULL is in it.
        """
        present = [value for value in values if value is not None]
        has_null = len(present) != len(values)
        item_type = node.overload.args[1]
        column = raw_column(node.arg)
        if column is not None and same_text(column.type, node.arg.type, item_type):
            name = self._temporary()
            keys = frozenset(raw_key(item_type, value) for value in present)
            return f"({name} := {self._column(column.name)}) is None", name, self._constant(keys), has_null
        tests, value, _ = self._argument(node.arg)
        shared = shared_key(node.overload.args)
        if shared is not None:
            left, right = shared
            if left is not None:
                value = f"{self._name(f'equal_{type_word(node.overload.args[0])}', left)}({value})"
            present = [value_ if right is None else right(value_) for value_ in present]
        return " or ".join(tests), value, self._constant(frozenset(present)), has_null

    def _quantified(self, node: Quantified) -> _Text:
        constant = self.constant_value(node.array)
        is_membership = node.overload.name == ("<>" if node.is_all else "=")
        if constant is not None and constant.value is not None and constant.value.items and is_membership:
            return self._in_set(node, constant.value.items)
        value, array = self.value(node.arg), self._argument(node.array)
        function = self._name(f"function_{_word_of(node)}", _comparison(node, self._case))
        tests, items, depth = array
        body = f"{'all_of' if node.is_all else 'any_of'}({function}, {value.code}, {items})"
        return self._null_if_any(tests, body, max(depth, value.depth) + 1, may_be_null=True)

    def _case_of(self, node: Case) -> _Text:
        text = self.value(node.default)
        whens = [(self.truth(when), self.value(result)) for when, result in node.whens]
        for condition, result in reversed(whens):
            depth = max(text.depth, condition.depth, result.depth) + 1
            code = f"({result.code} if {condition.code} else {text.code})"
            text = self._outline(_Text(code, text.may_be_null or result.may_be_null, depth))
        return text

    def _coalesce(self, node: Coalesce) -> _Text:
        parts = [self.value(arg) for arg in node.args]
        text = parts[-1]
        for part in reversed(parts[:-1]):
            if not part.may_be_null:
                text = part
                continue
            name = self._temporary()
            code = f"({text.code} if ({name} := {part.code}) is None else {name})"
            text = self._outline(_Text(code, text.may_be_null, max(text.depth, part.depth) + 1))
        return text

    def _null_if(self, node: NullIf) -> _Text:
        first, equal = self.value(node.first), self.value(node.equal)
        return _Text(f"(None if {equal.code} is True else {first.code})", True, max(first.depth, equal.depth) + 1)

    def _subscript(self, node: Subscript) -> _Text:
        tests, array, depth = self._argument(node.arg)
        values = []
        for index in node.indices:
            if index is None:
                values.append("None")
                continue
            found, value, below = self._argument(index)
            depth = max(depth, below)
            tests += found
            values.append(value)
        word = "cut" if node.is_slice else "subscript"
        body = f"A.{word}({array}, {', '.join(values)})"
        return self._null_if_any(tests, body, depth + 1, may_be_null=not node.is_slice)

    # --- where only truth matters ------------------------------------------------------------------------------------

    def truth(self, node: Node) -> _Text:
        """
        Write whether a condition is true; NULL is as good as false.
        """
        self._count(node.at)
        constant = self.constant_value(node)
        if constant is not None:
            return _Text("True" if constant.value is True else "False", False, 0)
        if (part := self._part_of_row(node)) is not None:
            return part._replace(code=f"({part.code} is True)", may_be_null=False, depth=1)
        match node:
            case Logic():
                return self._outline(self._truth_of(node))
            case Call() if (raw := self._raw_equality(node)) is not None:
                test, body = raw
                return _Text(f"({test.removesuffix(' None')} not None and {body})", False, 2)
            case Call():
                implementation = self._implementation(node)
                if implementation.is_strict and not implementation.may_be_null:
                    tests, body, depth = self._strict(implementation, node.args)
                    code = f"(not ({' or '.join(tests)}) and {body})" if tests else body
                    return self._outline(_Text(code, False, depth + 1))
            case InList() if all(self.constant_value(item) is not None for item in node.items):
                values = [found.value for item in node.items if (found := self.constant_value(item)) is not None]
                if not node.is_negated:
                    test, value, keys, _ = self._membership(node, values)
                    code = f"(not ({test}) and {value} in {keys})" if test else f"({value} in {keys})"
                    return _Text(code, False, 3)
        text = self.value(node)
        return _Text(f"({text.code} is True)", False, text.depth + 1)

    def _truth_of(self, node: Logic) -> _Text:
        parts = [self.truth(arg) for arg in node.args]
        word = " and " if node.is_and else " or "
        return _Text(f"({word.join(part.code for part in parts)})", False, max(part.depth for part in parts) + 1)


def _fail() -> None:
    raise EvaluationError("a constant cannot be computed")


def _word_of(node: Call | InList | Quantified) -> str:
    """
    Write an overload and its collation as part of a Python name.
    """
    spelled = "".join(letter if letter.isalnum() else f"_{ord(letter):x}" for letter in node.overload.name)
    words = [spelled, *(type_word(type_) for type_ in node.overload.args), node.collation.value]
    return "_".join(words)


def _comparison(node: InList | Quantified, case: CaseMapping | None) -> Callable[[Any, Any], Any]:
    found = implement(node.overload, is_operator=True, collation=node.collation, case=case)
    assert found is not None
    return found.function(2)


def emit(node: Node, case: CaseMapping | None) -> Template:
    """
    Write the template of a condition that has three values.

    Raises:
        InvalidShapeError: a part without columns cannot be computed, or it is too large.
    """
    emitter = Emitter(case)
    return emitter.template(emitter.value(node).code, "None")


def emit_truth(node: Node, case: CaseMapping | None) -> Template:
    """
    Write the template that tells whether a row is included.

    Raises:
        InvalidShapeError: likewise.
    """
    emitter = Emitter(case)
    return emitter.template(emitter.truth(node).code, "False")
