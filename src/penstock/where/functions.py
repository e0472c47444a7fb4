"""
What can be evaluated: for every overload and cast that we offer, the Python that does what Postgres does.

Owns the tables. An implementation is a template of a Python expression over its arguments, which the compiler puts in place
and which names modules by one letter (`NAMES`). It is only ever given values that are not NULL, unless `is_strict` is false.

Where Postgres answers with an error, an implementation may answer anything or raise `EvaluationError`: the snapshot of
such a shape has failed. It must never raise where Postgres has an answer. That is why texts that come from rows are not
cast to dates and times: there are more forms of these than we read, and they depend on the session. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from penstock.where import arrays, datetime_fields, datetimes, documents, numbers, patterns, texts
from penstock.where.facts import CaseMapping
from penstock.where.failures import EvaluationError
from penstock.where.tree import Collation
from penstock.where.types import Overload, element, is_array, is_enum
from penstock.where.values import COMPARISONS, INTEGERS, equality_key, formatter, is_known, order_key

NAMES: Final[Mapping[str, object]] = {
    "A": arrays,
    "D": datetimes,
    "F": datetime_fields,
    "J": documents,
    "N": numbers,
    "P": patterns,
    "T": texts,
    "Decimal": Decimal,
}


@dataclass(frozen=True, slots=True)
class Implementation:
    """
    How to compute something.

    Attributes:
        template: a Python expression with `{0}`, `{1}` ... for the arguments.
        names: objects that the template names, beside `NAMES`; a name always stands for the same object.
        is_strict: whether a NULL argument makes the result NULL without asking.
        may_be_null: whether the result may be NULL though no argument is.
        prepare: for a constant second argument: a function to put it through once, and the template to use then.
    """

    template: str
    names: Mapping[str, object] = field(default_factory=dict)
    is_strict: bool = True
    may_be_null: bool = False
    prepare: tuple[Callable[[Any], Any], str] | None = None

    def function(self, arity: int) -> Callable[..., Any]:
        """
        Give it as a function of its arguments.
        """
        return _function(self.template, arity, tuple(self.names.items()))


@functools.cache
def _function(template: str, arity: int, names: tuple[tuple[str, object], ...]) -> Callable[..., Any]:
    arguments = [f"a{index}" for index in range(arity)]
    source = f"lambda {', '.join(arguments)}: {template.format(*arguments)}"
    made: Callable[..., Any] = eval(source, {**NAMES, **dict(names)})  # noqa: S307 - our own templates
    return made


def type_word(type_: str) -> str:
    """
    Write a type as part of a Python name.
    """
    return type_.replace("[]", "_array").replace(":", "_")


# --- tables ----------------------------------------------------------------------------------------------------------

_INTEGER_RANKS: Final = {"int2": 0, "int4": 1, "int8": 2}


def _operators() -> dict[tuple[str, tuple[str, ...]], Implementation]:
    table: dict[tuple[str, tuple[str, ...]], Implementation] = {}

    def add(name: str, args: str, template: str, **options: Any) -> None:
        table[name, tuple(args.split())] = Implementation(template, **options)

    for left in INTEGERS:
        add("-", left, f"N.{left}(-{{0}})")
        add("+", left, "{0}")
        add("@", left, f"N.{left}(abs({{0}}))")
        add("~", left, "~{0}")
        add("%", f"{left} {left}", "N.integer_remainder({0}, {1})")
        for sign in "&|":
            add(sign, f"{left} {left}", f"({{0}} {sign} {{1}})")
        add("#", f"{left} {left}", "({0} ^ {1})")
        for right in INTEGERS:
            wider = left if _INTEGER_RANKS[left] >= _INTEGER_RANKS[right] else right
            for sign in "+-*":
                add(sign, f"{left} {right}", f"N.{wider}({{0}} {sign} {{1}})")
            add("/", f"{left} {right}", f"N.{wider}(N.integer_quotient({{0}}, {{1}}))")
    words = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
    for sign, word in words.items():
        add(sign, "numeric numeric", f"N.numeric_{word}({{0}}, {{1}})")
        add(sign, "float4 float4", f"N.single_{word}({{0}}, {{1}})")
        for pair in ("float8 float8", "float4 float8", "float8 float4"):
            add(sign, pair, f"N.double_{word}({{0}}, {{1}})")
    add("%", "numeric numeric", "N.numeric_remainder({0}, {1})")
    for number in ("float4", "float8", "numeric"):
        add("+", number, "{0}")
    # Signs of a Decimal are changed by copying: arithmetic would round it to the context.
    for number in ("float4", "float8"):
        add("@", number, "abs({0})")
        add("-", number, "-{0}")
    add("@", "numeric", "{0}.copy_abs()")
    add("-", "numeric", "N.tidy({0}.copy_negate())")
    add("|/", "float8", "N.square_root({0})")

    add("+", "date int4", "D.date_plus({0}, {1})")
    add("+", "int4 date", "D.date_plus({1}, {0})")
    add("-", "date int4", "D.date_plus({0}, -{1})")
    add("-", "date date", "D.date_minus({0}, {1})")
    add("+", "date time", "D.date_at({0}, {1})")
    add("+", "time date", "D.date_at({1}, {0})")
    for sign, word in (("+", "plus"), ("-", "minus")):
        add(sign, "date interval", f"D.timestamp_{word}(D.date_to_timestamp({{0}}), {{1}})")
        add(sign, "timestamp interval", f"D.timestamp_{word}({{0}}, {{1}})")
        add(sign, "timestamptz interval", f"D.timestamp_{word}({{0}}, {{1}})")
        add(sign, "time interval", f"D.time_{word}({{0}}, {{1}})")
        add(sign, "interval interval", f"D.interval_{word}({{0}}, {{1}})")
    add("+", "interval date", "D.timestamp_plus(D.date_to_timestamp({1}), {0})")
    add("+", "interval timestamp", "D.timestamp_plus({1}, {0})")
    add("+", "interval timestamptz", "D.timestamp_plus({1}, {0})")
    add("+", "interval time", "D.time_plus({1}, {0})")
    add("-", "timestamp timestamp", "D.timestamp_difference({0}, {1})")
    add("-", "timestamptz timestamptz", "D.timestamp_difference({0}, {1})")
    add("-", "time time", "D.Interval(0, 0, {0} - {1})")
    add("-", "interval", "D.negate_interval({0})")
    add("*", "interval float8", "D.interval_times({0}, {1})")
    add("*", "float8 interval", "D.interval_times({1}, {0})")

    add("||", "text text", "({0} + {1})")
    add("||", "bytea bytea", "({0} + {1})")
    like = (patterns.compile_like, "{1}({0})")
    for left in ("text", "bpchar", "name"):
        add("~~", f"{left} text", "P.like({0}, {1})", prepare=like)
        add("!~~", f"{left} text", "not P.like({0}, {1})", prepare=(patterns.compile_like, "not {1}({0})"))
    joining = {"is_strict": False, "may_be_null": True}
    add("||", "anycompatiblearray anycompatiblearray", "A.join({0}, {1})", **joining)
    add("||", "anycompatiblearray anycompatible", "A.append({0}, {1})", is_strict=False)
    add("||", "anycompatible anycompatiblearray", "A.prepend({0}, {1})", is_strict=False)

    nullable = {"may_be_null": True}
    add("->", "jsonb text", "J.field({0}, {1})", **nullable)
    add("->", "jsonb int4", "J.item({0}, {1})", **nullable)
    add("->>", "jsonb text", "J.field_text({0}, {1})", **nullable)
    add("->>", "jsonb int4", "J.item_text({0}, {1})", **nullable)
    add("#>", "jsonb text[]", "J.walk({0}, {1})", **nullable)
    add("#>>", "jsonb text[]", "J.walk_text({0}, {1})", **nullable)
    add("@>", "jsonb jsonb", "J.contains({0}, {1})")
    add("<@", "jsonb jsonb", "J.contains({1}, {0})")
    add("?", "jsonb text", "J.has_key({0}, {1})")
    add("?|", "jsonb text[]", "J.has_any_key({0}, {1})")
    add("?&", "jsonb text[]", "J.has_all_keys({0}, {1})")
    return table


def _functions() -> dict[tuple[str, tuple[str, ...]], Implementation]:
    table: dict[tuple[str, tuple[str, ...]], Implementation] = {}

    def add(called: str, args: str, template: str, **options: Any) -> None:
        for name in called.split():
            table[name, tuple(args.split())] = Implementation(template, **options)

    for integer in INTEGERS:
        add("abs", integer, f"N.{integer}(abs({{0}}))")
        add("mod", f"{integer} {integer}", "N.integer_remainder({0}, {1})")
    for number in ("float4", "float8"):
        add("abs", number, "abs({0})")
    add("abs", "numeric", "{0}.copy_abs()")
    for name in ("round", "floor", "ceil", "trunc", "sign"):
        add(name, "float8", f"N.{name}_double({{0}})")
        add(name, "numeric", f"N.{name}_numeric({{0}})")
    add("ceiling", "float8", "N.ceil_double({0})")
    add("ceiling", "numeric", "N.ceil_numeric({0})")
    add("round", "numeric int4", "N.round_numeric({0}, {1})")
    add("trunc", "numeric int4", "N.trunc_numeric({0}, {1})")
    add("mod", "numeric numeric", "N.numeric_remainder({0}, {1})")
    add("div", "numeric numeric", "N.numeric_div({0}, {1})")
    add("sqrt", "float8", "N.square_root({0})")

    add("length char_length character_length", "text", "len({0})")
    add("length char_length character_length", "bpchar", "len(T.unpad({0}))")
    add("length octet_length", "bytea", "len({0})")
    add("octet_length", "text", "T.octets({0})")
    add("octet_length", "bpchar", "T.octets({0})")
    for args in ("text int4", "text int4 int4"):
        add("substring substr", args, f"T.substring({', '.join(f'{{{n}}}' for n in range(len(args.split())))})")
    for name, function in (("btrim", "strip"), ("ltrim", "strip_left"), ("rtrim", "strip_right")):
        add(name, "text", f"T.{function}({{0}})")
        add(name, "text text", f"T.{function}({{0}}, {{1}})")
    add("replace", "text text text", "T.replace({0}, {1}, {2})")
    add("starts_with", "text text", "{0}.startswith({1})")
    add("position strpos", "text text", "T.position({0}, {1})")
    add("split_part", "text text int4", "T.split_part({0}, {1}, {2})")
    add("left", "text int4", "T.left({0}, {1})")
    add("right", "text int4", "T.right({0}, {1})")
    add("reverse", "text", "{0}[::-1]")
    for left in ("text", "name"):
        add("like", f"{left} text", "P.like({0}, {1})")
        add("notlike", f"{left} text", "not P.like({0}, {1})")

    add("justify_days", "interval", "D.justify_days({0})")
    add("justify_hours", "interval", "D.justify_hours({0})")
    add("justify_interval", "interval", "D.justify_interval({0})")
    add("isfinite", "date", "{0} not in (D.DATE_INFINITY, D.DATE_MINUS_INFINITY)")
    for type_ in ("timestamp", "timestamptz"):
        add("isfinite", type_, "{0} not in (D.INFINITY, D.MINUS_INFINITY)")
    add("isfinite", "interval", "D.is_finite_interval({0})")
    for type_ in ("date", "time", "timestamp", "interval"):
        add("extract", f"text {type_}", f"F.extract_{type_}({{0}}, {{1}})", may_be_null=True)
        part = f"F_part(F.extract_{type_}({{0}}, {{1}}))"
        add("date_part", f"text {type_}", part, may_be_null=True, names={"F_part": _part})
    add("extract", "text timestamptz", "F.extract_timestamp({0}, {1})", may_be_null=True)
    add(
        "date_part",
        "text timestamptz",
        "F_part(F.extract_timestamp({0}, {1}))",
        may_be_null=True,
        names={"F_part": _part},
    )
    add("date_trunc", "text timestamp", "F.trunc_timestamp({0}, {1})")
    add("date_trunc", "text interval", "F.trunc_interval({0}, {1})")
    add("timezone", "text timestamp", "{1}")
    add("timezone", "text timestamptz", "{1}")

    add("cardinality", "anyarray", "len({0}.items)")
    add("array_ndims", "anyarray", "A.dimensions({0})", may_be_null=True)
    add("array_length", "anyarray int4", "A.length({0}, {1})", may_be_null=True)
    add("array_lower", "anyarray int4", "A.lower_bound({0}, {1})", may_be_null=True)
    add("array_upper", "anyarray int4", "A.upper_bound({0}, {1})", may_be_null=True)
    add("array_cat", "anycompatiblearray anycompatiblearray", "A.join({0}, {1})", is_strict=False, may_be_null=True)
    add("array_append", "anycompatiblearray anycompatible", "A.append({0}, {1})", is_strict=False)
    add("array_prepend", "anycompatible anycompatiblearray", "A.prepend({0}, {1})", is_strict=False)

    add("jsonb_typeof", "jsonb", "J.kind({0})")
    add("jsonb_array_length", "jsonb", "J.array_length({0})")
    return table


def _part(value: Decimal | None) -> float | None:
    return None if value is None else numbers.decimal_to_double(value)


_OPERATORS: Final = _operators()
_FUNCTIONS: Final = _functions()

# Calls whose first argument names a field or a zone, which must be a constant.
FIELD_FUNCTIONS: Final = frozenset({"extract", "date_part", "date_trunc"})
ZONES_OF_UTC: Final = frozenset({"utc", "gmt", "z", "zulu", "uct", "universal", "etc/utc", "etc/gmt", "etc/zulu"})

# Operators and functions that ask a collation which texts are equal, so that a column with one of its own is pinned.
COLLATION_USERS: Final = frozenset(
    {"=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "lower", "upper", "like", "notlike", "replace"}
    | {"starts_with", "position", "strpos", "split_part", "@>", "<@", "&&", "array_position"}
)
ORDERING: Final = frozenset({"<", ">", "<=", ">="})
CASE_FUNCTIONS: Final = frozenset({"lower", "upper", "~~*", "!~~*"})


# --- looking up ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def implement(
    overload: Overload, *, is_operator: bool, collation: Collation, case: CaseMapping | None
) -> Implementation | None:
    """
    Find how to evaluate a call; None when we do not offer it.
    """
    name, declared = overload.name, overload.declared
    if not all(is_known(type_) for type_ in (*overload.args, overload.result)):
        return None
    if is_operator and name in COMPARISONS:
        return _comparison(overload)
    if name in {"@>", "<@", "&&"} and declared == ("anyarray", "anyarray"):
        return _array_containment(overload)
    if name == "||" and "anynonarray" in declared:
        return _concatenation(overload)
    if name == "array_position" and len(declared) == 2:
        return _array_position(overload)
    if name in CASE_FUNCTIONS and all(type_ in {"text", "bpchar", "name"} for type_ in declared):
        return _case_function(overload, None if collation is Collation.C else case)
    return (_OPERATORS if is_operator else _FUNCTIONS).get((name, declared))


def _comparison(overload: Overload) -> Implementation | None:
    sign, (left, right) = overload.name, overload.args
    if overload.declared == ("record", "record"):
        return None
    python = {"=": "==", "<>": "!="}.get(sign, sign)
    if left != right:
        if left in INTEGERS and right in INTEGERS:
            return Implementation(f"({{0}} {python} {{1}})")
        if {left, right} == {"float4", "float8"}:
            left = right = "float8"
        elif {left, right} == {"date", "timestamp"}:
            sides = [f"D.date_rank({{{n}}})" if t == "date" else f"{{{n}}}" for n, t in enumerate((left, right))]
            return Implementation(f"({sides[0]} {python} {sides[1]})")
        elif {left, right} == {"name", "text"} and sign in {"=", "<>"}:
            return Implementation(f"({{0}} {python} {{1}})")
        else:
            return None
    inner = element(left)
    if sign not in {"=", "<>"} and (inner == "jsonb" or inner.startswith("enum:")):
        return None
    if left == "jsonb":
        return Implementation("J.same({0}, {1})" if sign == "=" else "not J.same({0}, {1})")
    if sign in {"=", "<>"} and left in {"float4", "float8", "numeric"}:
        word = "numeric" if left == "numeric" else "float"
        return Implementation(("" if sign == "=" else "not ") + f"N.{word}_eq({{0}}, {{1}})")
    key = equality_key(left) if sign in {"=", "<>"} else order_key(left)
    if key is None:
        return Implementation(f"({{0}} {python} {{1}})")
    word = f"{'equal' if sign in {'=', '<>'} else 'order'}_{type_word(left)}"
    return Implementation(f"({word}({{0}}) {python} {word}({{1}}))", names={word: key})


def _itself(value: Any) -> Any:
    return value


def _array_containment(overload: Overload) -> Implementation:
    inner = element(overload.args[0])
    key = equality_key(inner) or _itself
    word = f"keys_{type_word(inner)}"
    keys = functools.partial(_element_keys, key)
    if overload.name == "&&":
        return Implementation(f"not ({word}({{0}}) - {{{{None}}}}).isdisjoint({word}({{1}}))", names={word: keys})
    whole, part = ("{0}", "{1}") if overload.name == "@>" else ("{1}", "{0}")
    # A NULL element is in nothing: it must not be found on the other side.
    return Implementation(f"{word}({part}) <= {word}({whole}) - {{{{None}}}}", names={word: keys})


def _element_keys(key: Callable[[Any], Any], array: arrays.Array) -> frozenset[Any]:
    return frozenset(None if item is None else (key(item),) for item in array.items)


def _array_position(overload: Overload) -> Implementation:
    inner = element(overload.args[0])
    word = f"position_{type_word(inner)}"
    find = functools.partial(_find, equality_key(inner) or _itself)
    return Implementation(f"{word}({{0}}, {{1}})", names={word: find}, is_strict=False, may_be_null=True)


def _find(key: Callable[[Any], Any], array: arrays.Array | None, wanted: Any) -> int | None:
    if array is None or not array.items:
        return None
    if len(array.bounds) != 1:
        raise EvaluationError("searching for elements in multidimensional arrays is not supported")
    for index, item in enumerate(array.items):
        if (item is None) if wanted is None else (item is not None and key(item) == key(wanted)):
            return index + array.bounds[0][0]
    return None


def _concatenation(overload: Overload) -> Implementation | None:
    left, right = overload.args
    sides = []
    names: dict[str, object] = {}
    for index, type_ in enumerate((left, right)):
        if type_ == "text":
            sides.append(f"{{{index}}}")
            continue
        cast = implement_cast(type_, "text")
        if cast is None:
            return None
        sides.append(cast.template.replace("{0}", f"{{{index}}}"))
        names.update(cast.names)
    return Implementation(f"({sides[0]} + {sides[1]})", names=names)


def _case_function(overload: Overload, case: CaseMapping | None) -> Implementation:
    lower, upper = ("T.ASCII_LOWER", "T.ASCII_UPPER") if case is None else ("case.lower", "case.upper")
    names = {} if case is None else {"case": case}
    if overload.name == "lower":
        return Implementation(f"{{0}}.translate({lower})", names=names)
    if overload.name == "upper":
        return Implementation(f"{{0}}.translate({upper})", names=names)
    negation = "not " if overload.name.startswith("!") else ""
    return Implementation(f"{negation}P.like({{0}}.translate({lower}), {{1}}.translate({lower}))", names=names)


# --- casts -----------------------------------------------------------------------------------------------------------

_BOOL_WORDS: Final = "('true' if {0} else 'false')"
_CASTS: Final[dict[tuple[str, str], str]] = {
    ("bool", "int4"): "int({0})",
    ("int4", "bool"): "({0} != 0)",
    ("bool", "text"): _BOOL_WORDS,
    ("bool", "varchar"): _BOOL_WORDS,
    ("bool", "bpchar"): _BOOL_WORDS,
    ("float4", "float8"): "{0}",
    ("float8", "float4"): "N.to_single({0})",
    ("float4", "numeric"): "N.single_to_decimal({0})",
    ("float8", "numeric"): "N.double_to_decimal({0})",
    ("numeric", "float4"): "N.decimal_to_single({0})",
    ("numeric", "float8"): "N.decimal_to_double({0})",
    ("text", "varchar"): "{0}",
    ("varchar", "text"): "{0}",
    ("text", "bpchar"): "{0}",
    ("varchar", "bpchar"): "{0}",
    ("bpchar", "text"): "T.unpad({0})",
    ("bpchar", "varchar"): "T.unpad({0})",
    ("name", "text"): "{0}",
    ("name", "varchar"): "{0}",
    ("name", "bpchar"): "{0}",
    ("text", "name"): "T.clip_name({0})",
    ("varchar", "name"): "T.clip_name({0})",
    ("bpchar", "name"): "T.clip_name(T.unpad({0}))",
    ("date", "timestamp"): "D.date_to_timestamp({0})",
    ("timestamp", "date"): "D.timestamp_to_date({0})",
    ("timestamp", "time"): "D.timestamp_to_time({0})",
    ("time", "interval"): "D.Interval(0, 0, {0})",
    ("interval", "time"): "D.interval_to_time({0})",
    ("jsonb", "bool"): "J.to_bool({0})",
    ("jsonb", "numeric"): "J.to_number({0})",
    ("jsonb", "float4"): "(None if {0}.root is None else N.decimal_to_single(J.to_number({0})))",
    ("jsonb", "float8"): "(None if {0}.root is None else N.decimal_to_double(J.to_number({0})))",
}
for _integer in INTEGERS:
    for _other in INTEGERS - {_integer}:
        _CASTS[_integer, _other] = f"N.{_other}({{0}})"
    _CASTS[_integer, "float8"] = "float({0})"
    _CASTS[_integer, "float4"] = "N.integer_to_single({0})"
    _CASTS[_integer, "numeric"] = "Decimal({0})"
    _CASTS["float4", _integer] = _CASTS["float8", _integer] = f"N.{_integer}(N.double_to_integer({{0}}))"
    _CASTS["numeric", _integer] = f"N.{_integer}(N.numeric_to_integer({{0}}))"
    _CASTS["jsonb", _integer] = (
        f"(None if {{0}}.root is None else N.{_integer}(N.numeric_to_integer(J.to_number({{0}}))))"
    )

# Types whose text does not depend on the session, or only on what our snapshots set.
_TO_TEXT: Final = frozenset(
    {
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "date",
        "time",
        "timestamp",
        "interval",
        "uuid",
        "jsonb",
        "bytea",
    }
)


def has_output(type_: str) -> bool:
    """
    Tell whether a value of this type can be written as text.
    """
    inner = element(type_)
    return inner in _TO_TEXT or inner in {"bool", "text", "varchar", "bpchar", "name"} or inner.startswith("enum:")


@functools.lru_cache(maxsize=4096)
def implement_cast(source: str, target: str) -> Implementation | None:
    """
    Find how to evaluate a cast; None when we do not offer it.
    """
    if source == target:
        return Implementation("{0}")
    if (template := _CASTS.get((source, target))) is not None:
        return Implementation(template, may_be_null=source == "jsonb" or (source, target) == ("timestamp", "time"))
    if is_array(source) and is_array(target):
        item = implement_cast(element(source), element(target))
        if item is None:
            return None
        function = functools.partial(_cast_items, item.function(1))
        word = f"cast_{type_word(source)}_{type_word(target)}"
        return Implementation(f"{word}({{0}})", names={word: function})
    if target in {"text", "varchar", "bpchar"} and (source in _TO_TEXT or is_enum(source) or is_array(source)):
        if not has_output(source):
            return None
        word = f"format_{type_word(source)}"
        return Implementation(f"{word}({{0}})", names={word: formatter(source)})
    if source in {"text", "varchar", "bpchar"} and (read := READ_TEXT.get(target)) is not None:
        argument = "T.unpad({0})" if source == "bpchar" else "{0}"
        word = f"read_{target}"
        return Implementation(f"{word}({argument})", names={word: read})
    return None


def _cast_items(function: Callable[[Any], Any], array: arrays.Array) -> arrays.Array:
    return arrays.Array(array.bounds, tuple(None if item is None else function(item) for item in array.items))


_SPACE: Final = " \t\n\r\f\v"
_ANY_INTEGER: Final = re.compile(
    r"([+-]?)(?:0[xX]((?:_?[0-9a-fA-F])+)|0[oO]((?:_?[0-7])+)|0[bB]((?:_?[01])+)|([0-9](?:_?[0-9])*))", re.ASCII
)
_UNDERSCORES: Final = re.compile(r"(?<=[0-9])_(?=[0-9])")
_HEX_FLOAT: Final = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?")
_UUID: Final = re.compile(r"(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}", re.ASCII)


def _read_integer(text: str) -> int:
    """
    Read what any version of Postgres reads: hexadecimal and underscores since 16, an error before.
    """
    match = _ANY_INTEGER.fullmatch(text.strip(_SPACE))
    if match is None or len(text) > 4000:
        raise EvaluationError("invalid input syntax for type integer")
    sign, sixteen, eight, two, ten = match.groups()
    digits, base = next((d, b) for d, b in ((sixteen, 16), (eight, 8), (two, 2), (ten, 10)) if d)
    value = int(digits.replace("_", ""), base)
    return -value if sign == "-" else value


def _read_numeric(text: str) -> Decimal:
    try:
        return Decimal(_read_integer(text))
    except EvaluationError:
        return numbers.parse_numeric(_UNDERSCORES.sub("", text))


def _read_double(text: str) -> float:
    word = text.strip(_SPACE)
    if _HEX_FLOAT.fullmatch(word):
        return numbers.check_double(float.fromhex(word))
    return numbers.parse_double(text)


def _read_single(text: str) -> float:
    word = text.strip(_SPACE)
    if _HEX_FLOAT.fullmatch(word):
        return numbers.decimal_to_single(Decimal(float.fromhex(word)))
    return numbers.parse_single(text)


def _read_bool(text: str) -> bool:
    word = text.strip(_SPACE).lower()
    if word and ("true".startswith(word) or "yes".startswith(word) or word in {"on", "1"}):
        return True
    if word and ("false".startswith(word) or "no".startswith(word) or word in {"of", "off", "0"}):
        return False
    raise EvaluationError("invalid input syntax for type boolean")


def _read_uuid(text: str) -> str:
    word = text.lower()
    if word.startswith("{") and word.endswith("}"):
        word = word[1:-1]
    if not _UUID.fullmatch(word):
        raise EvaluationError("invalid input syntax for type uuid")
    digits = word.replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


READ_TEXT: Final[dict[str, Callable[[str], Any]]] = {
    "int2": lambda text: numbers.int2(_read_integer(text)),
    "int4": lambda text: numbers.int4(_read_integer(text)),
    "int8": lambda text: numbers.int8(_read_integer(text)),
    "float4": _read_single,
    "float8": _read_double,
    "numeric": _read_numeric,
    "bool": _read_bool,
    "uuid": _read_uuid,
    "jsonb": documents.parse_document,
}
"""Types that a text may become whatever row it comes from: their input depends on nothing but the text."""
