"""
Conditions as trees, whatever they were made from, and their text with parameters.

What SQLAlchemy and Django mean by an expression is said in the modules of their names, which make these trees; here is how
a tree is written in the language of `where`. A value is always a parameter and never a part of the text. Pure values.

A parameter takes its type from where it stands, as a quoted literal does, so most need no cast. One is written where the
type would be another than the value's own: in arithmetic and in functions, and beside a column that it does not fit, as
`1.5` beside an integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock.models.texts import RANGES
from penstock.postgres.quoting import quote_identifier
from penstock.where.types import element, is_array

_TEXTUAL: Final = frozenset({"text", "varchar", "name", "bpchar"})
_EXACT: Final = frozenset({"int2", "int4", "int8"})
_COMPARISONS: Final = frozenset(
    {"=", "<>", "<", "<=", ">", ">=", "LIKE", "ILIKE", "NOT LIKE", "NOT ILIKE", "IS DISTINCT FROM", "IS NOT DISTINCT FROM",
     "@>", "<@", "&&"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """
    A column of the shape's table.

    Attributes:
        name: as the database has it.
        type: as `penstock.where.types` names it, `enum` for an enum and `enum[]` for an array of one; None when the model
            does not say it in words that we know.
        enum: the name of its enum, empty when it is none.
        labels: those of its enum.
    """

    name: str
    type: str | None = None
    enum: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """
    A value, which becomes a parameter.

    Attributes:
        text: what Postgres reads.
        type: the type of a literal of it; None when it takes one from where it stands, whatever that is.
    """

    text: str
    type: str | None


@dataclass(frozen=True, slots=True)
class Word:
    """
    A constant of the grammar: TRUE, FALSE or NULL.
    """

    word: str


@dataclass(frozen=True, slots=True)
class Operation:
    """
    An operator with one operand, written before it, or two.
    """

    operator: str
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """
    A call.
    """

    name: str
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Extract:
    """
    A field of a date or a time.
    """

    field: str
    arg: Expression


@dataclass(frozen=True, slots=True)
class Junction:
    """
    Conditions that are joined by AND or OR.
    """

    is_and: bool
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """
    A condition that must not hold.
    """

    arg: Expression


@dataclass(frozen=True, slots=True)
class Test:
    """
    A test whose words stand behind: IS NULL, IS NOT TRUE and so on.
    """

    arg: Expression
    words: str


@dataclass(frozen=True, slots=True)
class Membership:
    """
    Whether a value is one of a list.
    """

    arg: Expression
    items: tuple[Expression, ...]
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    """
    Whether a value is between two, which count as well.
    """

    arg: Expression
    low: Expression
    high: Expression
    is_negated: bool = False
    is_symmetric: bool = False


@dataclass(frozen=True, slots=True)
class Quantified:
    """
    A comparison with ANY or ALL elements of an array.
    """

    arg: Expression
    operator: str
    array: Expression
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class Cast:
    """
    A cast, by the name of the type in SQL.
    """

    arg: Expression
    type: str


@dataclass(frozen=True, slots=True)
class Case:
    """
    The result that belongs to the first condition that holds.
    """

    whens: tuple[tuple[Expression, Expression], ...]
    default: Expression


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """
    An array of expressions.
    """

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Subscript:
    """
    An element of an array, or with two bounds a part of it; a bound that is None is left out.
    """

    arg: Expression
    bounds: tuple[Expression | None, ...]


@dataclass(frozen=True, slots=True)
class Collated:
    """
    A text that is compared by bytes.
    """

    arg: Expression


Expression: TypeAlias = (
    Column
    | Value
    | Word
    | Operation
    | Function
    | Extract
    | Junction
    | Negation
    | Test
    | Membership
    | Between
    | Quantified
    | Cast
    | Case
    | ArrayOf
    | Subscript
    | Collated
)

TRUE: Final = Word("TRUE")
FALSE: Final = Word("FALSE")
NULL: Final = Word("NULL")
_ATOMS: Final = (Column, Value, Word, Function, Extract, ArrayOf, Case, Cast, Subscript)


def join(args: Sequence[Expression], *, is_and: bool = True) -> Expression:
    """
    Join conditions; of none all hold and none does.
    """
    neutral, deciding = (TRUE, FALSE) if is_and else (FALSE, TRUE)
    kept: list[Expression] = []
    for arg in args:
        if arg == deciding:
            return deciding
        if isinstance(arg, Junction) and arg.is_and is is_and:
            kept.extend(arg.args)
        elif arg != neutral:
            kept.append(arg)
    if not kept:
        return neutral
    return kept[0] if len(kept) == 1 else Junction(is_and, tuple(kept))


def negate(arg: Expression) -> Expression:
    """
    Negate a condition.
    """
    if arg == TRUE:
        return FALSE
    return TRUE if arg == FALSE else Negation(arg)


@dataclass(frozen=True, slots=True)
class Written:
    """
    A condition as text.

    Attributes:
        text: the condition.
        params: values of `$1`, `$2` and so on.
        columns: those it names, by name.
    """

    text: str
    params: tuple[str, ...]
    columns: tuple[Column, ...]


def write(condition: Expression) -> Written:
    """
    Write a condition.
    """
    writer = _Writer()
    text = writer.write(condition)
    return Written(text, tuple(writer.params), tuple(writer.columns.values()))


class _Writer:
    """
    One condition being written.
    """

    def __init__(self) -> None:
        self.params: Final[list[str]] = []
        self.columns: Final[dict[str, Column]] = {}

    def write(self, node: Expression) -> str:
        match node:
            case Column():
                self.columns[node.name] = node
                return quote_identifier(node.name)
            case Value():
                return self._value(node, node.type)
            case Word():
                return node.word
            case Operation():
                return self._operation(node)
            case Function():
                return f"{node.name}({', '.join(self.write(arg) for arg in node.args)})"
            case Extract():
                return f"extract({node.field} FROM {self.write(node.arg)})"
            case Junction():
                # NOT binds tighter than AND, and AND than OR.
                parts = [f"({self.write(arg)})" if isinstance(arg, Junction) else self.write(arg) for arg in node.args]
                return (" AND " if node.is_and else " OR ").join(parts)
            case Negation():
                return f"NOT ({self.write(node.arg)})"
            case Test():
                return f"{self._operand(node.arg)} {node.words}"
            case Membership():
                arg = self._operand(node.arg)
                items = ", ".join(self._beside(item, node.arg) for item in node.items)
                return f"{arg} {'NOT ' * node.is_negated}IN ({items})"
            case Between():
                words = f"{'NOT ' * node.is_negated}BETWEEN{' SYMMETRIC' * node.is_symmetric}"
                arg, low, high = (
                    self._operand(node.arg),
                    self._beside(node.low, node.arg),
                    self._beside(node.high, node.arg),
                )
                return f"{arg} {words} {low} AND {high}"
            case Quantified():
                arg = self._beside_element(node.arg, node.array)
                array = self._beside_array(node.array, node.arg)
                return f"{arg} {node.operator} {'ALL' if node.is_all else 'ANY'} ({array})"
            case Cast():
                return f"{self._operand(node.arg)}::{node.type}"
            case Case():
                whens = " ".join(f"WHEN {self.write(when)} THEN {self.write(then)}" for when, then in node.whens)
                return f"CASE {whens} ELSE {self.write(node.default)} END"
            case ArrayOf():
                return f"ARRAY[{', '.join(self.write(item) for item in node.items)}]"
            case Subscript():
                arg = self.write(node.arg)
                bounds = ":".join("" if bound is None else self.write(bound) for bound in node.bounds)
                return f"{arg if isinstance(node.arg, Column) else f'({arg})'}[{bounds}]"
            case Collated():
                return f'{self._operand(node.arg)} COLLATE "C"'

    def _operation(self, node: Operation) -> str:
        if len(node.args) == 1:
            return f"{node.operator} {self._operand(node.args[0])}"
        left, right = node.args
        if node.operator in _COMPARISONS:
            return f"{self._beside(left, right)} {node.operator} {self._beside(right, left)}"
        return f"{self._operand(left)} {node.operator} {self._operand(right)}"

    def _operand(self, node: Expression) -> str:
        text = self.write(node)
        return text if isinstance(node, _ATOMS) else f"({text})"

    def _beside(self, node: Expression, other: Expression) -> str:
        """
        Write an operand of a comparison: without a cast where the other one gives it the type that it has.
        """
        if isinstance(node, Value) and isinstance(other, Column) and _fits(node, other.type):
            return self._value(node, None)
        return self._operand(node)

    def _beside_element(self, node: Expression, array: Expression) -> str:
        type_ = array.type if isinstance(array, Column) else None
        if isinstance(node, Value) and type_ is not None and is_array(type_) and _fits(node, element(type_)):
            return self._value(node, None)
        return self._operand(node)

    def _beside_array(self, array: Expression, node: Expression) -> str:
        if isinstance(array, Value) and isinstance(node, Column) and node.type and _fits(array, f"{node.type}[]"):
            return self._value(array, None)
        return self.write(array)

    def _value(self, value: Value, type_: str | None) -> str:
        # Each has a number of its own: one that stands in two places would need one type for both.
        self.params.append(value.text)
        return f"${len(self.params)}::{type_}" if type_ is not None else f"${len(self.params)}"


def _fits(value: Value, type_: str | None) -> bool:
    """
    Tell whether a text beside a column of a type means what a literal of the value's own type means.
    """
    if value.type is None or value.type == type_:
        return True
    if type_ is None:
        return False
    if is_array(type_) and is_array(value.type):
        inner, wanted = element(value.type), element(type_)
        return wanted == "enum" or (inner in _TEXTUAL and wanted in _TEXTUAL - {"bpchar"})
    if type_ == "enum":
        return value.type in _TEXTUAL
    if type_ in _TEXTUAL and value.type in _TEXTUAL:
        return type_ != "bpchar"
    if type_ in _EXACT and value.type in _EXACT:
        return int(value.text) in RANGES[type_]
    return type_ in {"numeric", "float8"} and value.type in _EXACT
