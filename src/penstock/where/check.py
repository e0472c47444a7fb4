"""
From Postgres's parse tree to a typed one: names looked up, literals read, overloads chosen, casts put in.

Owns the rules of what is allowed and the sentences for what is not. Resolution follows `parse_expr.c` and `parse_func.c` of
Postgres; the texts of refusals are those that clients of the protocol know, each followed by a sentence about what is
supported instead.

How single operands get their types is in `operands`, which also bounds the work. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

from penstock.errors import InvalidShapeError
from penstock.postgres.quoting import quote_name
from penstock.postgres.relation import Column
from penstock.where import datetime_fields, numbers
from penstock.where.collations import collate, column_collation, settle_collation
from penstock.where.facts import DatabaseFacts
from penstock.where.failures import EvaluationError
from penstock.where.functions import FIELD_FUNCTIONS, ZONES_OF_UTC, has_output, implement
from penstock.where.operands import (
    CASTABLE,
    NO_OPERATOR,
    TYPES_HINT,
    WORK_MAX,
    Operands,
    Parameter,
    column_type,
    word_of,
)
from penstock.where.parse import DEPTH_MAX, reject, reject_at, too_deep
from penstock.where.tree import (
    ArrayOf,
    BoolTest,
    Call,
    Case,
    Cast,
    Coalesce,
    Collated,
    Collation,
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
    is_unknown,
)
from penstock.where.types import (
    FUNCTIONS_BY_NAME,
    OPERATORS_BY_NAME,
    UNKNOWN,
    Overload,
    cast_context,
    choose_function,
    choose_operator,
    common_type,
    element,
    is_array,
)
from penstock.where.values import TEXTUAL, is_known, order_key

_VOLATILE: Final = frozenset(
    {
        "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "random", "gen_random_uuid",
        "uuid_generate_v4", "nextval", "currval", "lastval", "txid_current", "pg_current_xact_id", "current_setting",
        "age", "pg_sleep", "setseed", "random_normal", "uuidv4", "uuidv7", "current_database", "current_schema",
    }
)  # fmt: skip
_AGGREGATES: Final = frozenset(
    {
        "count", "sum", "avg", "min", "max", "array_agg", "string_agg", "bool_and", "bool_or", "every", "json_agg",
        "jsonb_agg", "json_object_agg", "jsonb_object_agg", "stddev", "variance", "any_value",
    }
)  # fmt: skip
_BOOL_TESTS: Final = {"TRUE": True, "FALSE": False, "UNKNOWN": None}

_Transformer: TypeAlias = "Callable[[Checker, Mapping[str, Any]], Node]"


class Checker(Operands):
    """
    Checks one expression.
    """

    def __init__(self, text: str, params: Sequence[str], columns: Sequence[Column], facts: DatabaseFacts) -> None:
        """
        Check against these columns; `text` serves to count places.
        """
        super().__init__(text, columns, facts)
        self._params = params
        self._depth = 0

    def condition(self, expression: Mapping[str, Any]) -> Node:
        """
        Check a whole condition.

        Raises:
            InvalidShapeError: it is refused.
        """
        node = self.transform(expression)
        if is_unknown(node):
            if isinstance(node, Const) and node.value is None:
                raise reject("WHERE clause must return a boolean")
            node = self.coerce(node, "bool")
        if node.type != "bool":
            raise reject("WHERE clause must return a boolean")
        return node

    # --- walking -----------------------------------------------------------------------------------------------------

    def transform(self, node: Mapping[str, Any]) -> Node:
        """
        Check a node of the grammar.
        """
        self._spend()
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise too_deep()
        ((name, body),) = node.items()
        transformer = self._TRANSFORMERS.get(name)
        if transformer is None:
            raise reject_at(
                self._at(body) if isinstance(body, dict) else 0,
                f"{name} is not supported in this context",
                "Conditions are made of columns, literals, parameters, operators and functions that depend on the row alone",
            )
        try:
            return transformer(self, body)
        finally:
            self._depth -= 1

    def _constant(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        if body.get("isnull"):
            return Const(UNKNOWN, None, at)
        if "boolval" in body:
            return Const("bool", bool(body["boolval"].get("boolval", False)), at)
        if "ival" in body:
            return Const("int4", int(body["ival"].get("ival", 0)), at)
        if "fval" in body:
            return self._number(str(body["fval"]["fval"]), at)
        if "sval" in body:
            return Const(UNKNOWN, str(body["sval"].get("sval", "")), at)
        raise reject_at(at, "BitString values are not supported", "Integers may be written as 0x1f or 0b101")

    def _number(self, text: str, at: int) -> Const:
        digits = text.replace("_", "")
        try:
            if digits.lower().lstrip("-").startswith(("0x", "0o", "0b")):
                value = int(digits, 0)
            elif len(digits) <= 20 and digits.lstrip("-").isdigit():
                value = numbers.parse_integer(digits)
            else:
                return Const("numeric", numbers.parse_numeric(digits), at)
            if -(2**31) <= value < 2**31:
                return Const("int4", value, at)
            if -(2**63) <= value < 2**63:
                return Const("int8", value, at)
            return Const("numeric", numbers.parse_numeric(str(value)), at)
        except (EvaluationError, ValueError):
            raise reject_at(at, f"invalid syntax for type numeric: {text[:40]}") from None

    def _column(self, body: Mapping[str, Any]) -> Node:
        fields = body.get("fields", ())
        at = self._at(body)
        if len(fields) != 1 or "String" not in fields[0]:
            name = ".".join(quote_name(word_of(field)) if "String" in field else "*" for field in fields)
            raise reject_at(at, f"unknown reference {name}")
        name = word_of(fields[0])
        column = self._columns.get(name)
        if column is None:
            raise reject_at(at, f"unknown reference {quote_name(name)}")
        is_domain = column.type_oid in self.facts.domains
        return ColumnRef(name, column_type(column, self.facts), column_collation(column), is_domain, at)

    def _parameter(self, body: Mapping[str, Any]) -> Node:
        number = int(body.get("number", 0))
        at = self._at(body)
        if not 1 <= number <= len(self._params):
            raise reject_at(at, f"parameter ${number} was not provided")
        text = self._params[number - 1]
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise reject_at(at, "invalid syntax for type text: character 0 and halves of surrogate pairs are not valid")
        return Parameter(UNKNOWN, text, at, number)

    def _written_cast(self, body: Mapping[str, Any]) -> Node:
        type_, typmod, at = self._written_type(body["typeName"])
        inner = body["arg"]
        if is_array(type_) and "A_ArrayExpr" in inner:
            return self._array(inner["A_ArrayExpr"], element(type_))
        node = self.transform(inner)
        return self._cast_to(node, type_, typmod, at)

    # --- operators ---------------------------------------------------------------------------------------------------

    def _expression(self, body: Mapping[str, Any]) -> Node:
        kind = body.get("kind", "")
        transformer = self._KINDS.get(kind)
        if transformer is None:
            name = word_of(body.get("name", [{}])[-1])
            raise reject_at(self._at(body), f'expression "{name}" of :{kind} is not currently supported')
        return transformer(self, body)

    def _operator_name(self, body: Mapping[str, Any]) -> str:
        words = [word_of(word) for word in body.get("name", ())]
        if len(words) > 1 and words[0] != "pg_catalog":
            raise self._unknown_operator(".".join(words), self._at(body), is_unary="lexpr" not in body)
        return words[-1]

    @staticmethod
    def _unknown_operator(name: str, at: int, *, is_unary: bool) -> InvalidShapeError:
        return reject_at(
            at,
            f'unknown {"unary" if is_unary else "binary"} operator "{name}"',
            "Supported are comparisons, arithmetic, bit operations, ||, LIKE and ILIKE, @> <@ && on arrays, "
            "-> ->> #> #>> @> <@ ? ?| ?& on jsonb",
        )

    def _plain_operator(self, body: Mapping[str, Any]) -> Node:
        name, at = self._operator_name(body), self._at(body)
        if "lexpr" not in body:
            return self._apply(name, (self.transform(body["rexpr"]),), at)
        if "RowExpr" in body["lexpr"] or "RowExpr" in body["rexpr"]:
            raise reject_at(at, NO_OPERATOR, "Rows do not compare; compare their columns and join them with AND")
        left, right = self.transform(body["lexpr"]), self.transform(body["rexpr"])
        return self._apply(name, (left, right), at)

    def _overload(self, name: str, types: Sequence[str], at: int) -> Overload:
        signatures = OPERATORS_BY_NAME.get(name)
        if signatures is None or not any(len(args) == len(types) for args, _ in signatures):
            raise self._unknown_operator(name, at, is_unary=len(types) == 1)
        if name in {"=", "<>", "<", ">", "<=", ">="} and "record" in types:
            raise self._no_operator(at)
        chosen = choose_operator(name, tuple(types))
        if chosen is None:
            raise self._no_operator(at)
        return chosen

    def _apply(self, name: str, args: Sequence[Node], at: int) -> Call:
        self._spend()
        overload = self._overload(name, [arg.type for arg in args], at)
        return self._call(overload, args, at, is_operator=True)

    def _call(self, overload: Overload, args: Sequence[Node], at: int, *, is_operator: bool) -> Call:
        if is_operator and not all(is_known(type_) for type_ in overload.args):
            raise self._no_operator(at)
        coerced = [self.coerce(arg, type_) for arg, type_ in zip(args, overload.args, strict=True)]
        collation, coerced = self._pin(overload.name, coerced)
        implementation = implement(overload, is_operator=is_operator, collation=collation, case=self.facts.case)
        if implementation is None:
            if is_operator and overload.name not in {"=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/"}:
                raise self._unknown_operator(overload.name, at, is_unary=len(args) == 1)
            if is_operator:
                raise self._no_operator(at)
            raise self._no_function(overload.name, len(args), at)
        return Call(overload, tuple(coerced), is_operator, collation, overload.result, at)

    def _pin(self, name: str, args: Sequence[Node]) -> tuple[Collation, list[Node]]:
        collation, settled = settle_collation(name, list(args), self.facts)
        if any(one is not other for one, other in zip(settled, args, strict=True)):
            self._spend()
        return collation, settled

    # --- comparisons with more than one operand ----------------------------------------------------------------------

    @staticmethod
    def _logic_of(*, is_and: bool, args: Sequence[Node], at: int) -> Node:
        """
        Join conditions, those that are joined the same way already in one list, as the grammar does.
        """
        flat: list[Node] = []
        for arg in args:
            flat.extend(arg.args if isinstance(arg, Logic) and arg.is_and is is_and else (arg,))
        return flat[0] if len(flat) == 1 else Logic(is_and, tuple(flat), at=at)

    def _in_list(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        is_negated = self._operator_name(body) == "<>"
        if "RowExpr" in body["lexpr"]:
            raise reject_at(at, NO_OPERATOR, "Rows do not compare; compare their columns and join them with AND")
        left = self.transform(body["lexpr"])
        items = [self.transform(item) for item in body["rexpr"].get("List", {}).get("items", ())]
        plain = [item for item in items if not _has_column(item)]
        others = [item for item in items if _has_column(item)]
        parts: list[Node] = []
        shared = common_type([left.type, *(item.type for item in plain)]) if len(plain) > 1 else None
        if shared is not None and shared != "record":
            overload = self._overload("=", (left.type, shared), at)
            # The elements become the shared type first, then what the operator takes, as an array of them would.
            typed = [self.coerce(item, shared) for item in plain]
            first = self._call(overload, (left, typed[0]), at, is_operator=True)
            cast = [self.coerce(item, overload.args[1]) for item in typed]
            parts.append(InList(first.args[0], tuple(cast), overload, is_negated, first.collation, at=at))
        else:
            others = items
        parts.extend(self._apply("<>" if is_negated else "=", (left, item), at) for item in others)
        return self._logic_of(is_and=is_negated, args=parts, at=at)

    def _distinct(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        left, right = self.transform(body["lexpr"]), self.transform(body["rexpr"])
        is_negated = body["kind"] == "AEXPR_NOT_DISTINCT"
        return Distinct(self._apply("=", (left, right), at), is_negated, at=at)

    def _null_if(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        equal = self._apply("=", (self.transform(body["lexpr"]), self.transform(body["rexpr"])), at)
        first = equal.args[0]
        if isinstance(first, Cast) and not first.is_explicit:
            first = first.arg
        if isinstance(first, Collated) and isinstance(first.arg, Cast) and not first.arg.is_explicit:
            first = first.arg.arg
        return NullIf(equal, first, first.type, at)

    def _between(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        kind = body["kind"]
        value = self.transform(body["lexpr"])
        low, high = (self.transform(end) for end in body["rexpr"]["List"]["items"])
        self._spend(_size(value) * (3 if "SYM" in kind else 1))

        def within(first: Node, last: Node) -> Node:
            above = self._apply(">=", (value, first), at)
            return self._logic_of(is_and=True, args=(above, self._apply("<=", (value, last), at)), at=at)

        def outside(first: Node, last: Node) -> Node:
            below = self._apply("<", (value, first), at)
            return self._logic_of(is_and=False, args=(below, self._apply(">", (value, last), at)), at=at)

        if "NOT" in kind:
            if "SYM" in kind:
                return self._logic_of(is_and=True, args=(outside(low, high), outside(high, low)), at=at)
            return outside(low, high)
        if "SYM" in kind:
            return self._logic_of(is_and=False, args=(within(low, high), within(high, low)), at=at)
        return within(low, high)

    def _quantified(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        name = self._operator_name(body)
        left, right = self.transform(body["lexpr"]), self.transform(body["rexpr"])
        if not is_unknown(right) and not is_array(right.type):
            raise reject_at(
                self._at(next(iter(body["rexpr"].values()))),
                "argument of ANY must be an array",
                "Or list the values with IN",
            )
        item = UNKNOWN if is_unknown(right) else element(right.type)
        overload = self._overload(name, (left.type, item), at)
        if overload.result != "bool":
            raise reject_at(at, "ANY/ALL requires operator that returns bool")
        array = self.coerce(right, f"{overload.args[1]}[]")
        arg = self.coerce(left, overload.args[0])
        collation, (arg, array) = self._pin(name, [arg, array])
        if implement(overload, is_operator=True, collation=collation, case=self.facts.case) is None:
            raise self._no_operator(at)
        is_all = body["kind"] == "AEXPR_OP_ALL"
        return Quantified(arg, array, overload, is_all, collation, at=at)

    # --- logic -------------------------------------------------------------------------------------------------------

    def _to_bool(self, node: Node) -> Node:
        if is_unknown(node):
            return self.literal(node, "bool")
        if node.type != "bool":
            raise reject_at(
                node.at,
                f"{self._describe(node)} is not castable to bool",
                "AND, OR and NOT join conditions; compare the value",
            )
        return node

    def _logic(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        args = [self._to_bool(self.transform(arg)) for arg in body["args"]]
        if body["boolop"] == "NOT_EXPR":
            return Not(args[0], at=at)
        return self._logic_of(is_and=body["boolop"] == "AND_EXPR", args=args, at=at)

    def _null_test(self, body: Mapping[str, Any]) -> Node:
        node = self.transform(body["arg"])
        if is_unknown(node):
            node = self.literal(node, "text")
        return NullTest(node, body["nulltesttype"] == "IS_NOT_NULL", at=self._at(body))

    def _bool_test(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        words = str(body["booltesttype"]).removeprefix("IS_").split("_")
        node = self.transform(body["arg"])
        if is_unknown(node):
            node = self.literal(node, "bool")
        if node.type != "bool":
            shown = f"IS {' '.join(words)}"
            raise reject_at(
                at, f"argument of {shown} must be bool, not {self.type_name(node.type)}", "Compare the value first"
            )
        return BoolTest(node, _BOOL_TESTS[words[-1]], words[0] == "NOT", at=at)

    # --- the rest of the expressions ---------------------------------------------------------------------------------

    def _common(self, nodes: Sequence[Node], what: str, at: int) -> tuple[str, list[Node]]:
        type_ = common_type([node.type for node in nodes])
        if type_ is None or not is_known(type_):
            first = nodes[0].type
            other = next((node.type for node in nodes if node.type != first), first)
            raise reject_at(
                at,
                f"{what} types {self.type_name(other)} and {self.type_name(first)} cannot be matched",
                "Cast them to one type",
            )
        return type_, [self.coerce(node, type_) for node in nodes]

    def _coalesce(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        type_, args = self._common([self.transform(arg) for arg in body["args"]], "COALESCE", at)
        return Coalesce(tuple(args), type_, at)

    def _extreme(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        is_greatest = body.get("op", "IS_GREATEST") == "IS_GREATEST"
        what = "GREATEST" if is_greatest else "LEAST"
        type_, args = self._common([self.transform(arg) for arg in body["args"]], what, at)
        try:
            order_key(type_)
            if element(type_).startswith("enum:"):
                raise LookupError
        except LookupError:
            raise reject_at(at, f"could not identify an ordering of type {self.type_name(type_)}", TYPES_HINT) from None
        collation, args = self._pin("<", args)
        return Extreme(tuple(args), is_greatest, collation, type_, at)

    def _case(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        whens = [when["CaseWhen"] for when in body["args"]]
        conditions: list[Node] = []
        if "arg" in body:
            value = self.transform(body["arg"])
            if is_unknown(value):
                value = self.literal(value, "text")
            self._spend(_size(value) * len(whens))
            conditions = [self._apply("=", (value, self.transform(when["expr"])), at) for when in whens]
        else:
            conditions = [self._to_bool(self.transform(when["expr"])) for when in whens]
        results = [self.transform(when["result"]) for when in whens]
        default = self.transform(body["defresult"]) if "defresult" in body else Const(UNKNOWN, None, at)
        # Postgres looks at the default first, then at the branches in order.
        type_, cast = self._common([default, *results], "CASE", at)
        return Case(tuple(zip(conditions, cast[1:], strict=True)), cast[0], type_, at)

    def _array(self, body: Mapping[str, Any], wanted: str | None = None) -> Node:
        self._spend()
        at = self._at(body)
        raw = body.get("elements", ())
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise too_deep()
        try:
            items = [
                self._array(item["A_ArrayExpr"], wanted) if "A_ArrayExpr" in item and wanted else self.transform(item)
                for item in raw
            ]
        finally:
            self._depth -= 1
        if not items:
            if wanted is None:
                raise reject_at(at, "cannot determine type of empty array", "Write the type: ARRAY[]::int4[]")
            return ArrayOf((), is_nested=False, type=f"{wanted}[]", at=at)
        is_nested = any(is_array(item.type) for item in items)
        if wanted is not None:
            target = f"{wanted}[]" if is_nested else wanted
            cast = [self._cast_to(item, target, (), item.at) for item in items]
            return ArrayOf(tuple(cast), is_nested, f"{wanted}[]", at)
        type_ = common_type([item.type for item in items])
        if type_ is None or not is_known(type_):
            first = items[0].type
            other = next((item.type for item in items if item.type != first), first)
            raise reject_at(
                at,
                f"ARRAY types {self.type_name(other)} and {self.type_name(first)} cannot be matched",
                "Cast the elements to one type",
            )
        cast = [self.coerce(item, type_) for item in items]
        return ArrayOf(tuple(cast), is_nested, type_ if is_nested else f"{type_}[]", at)

    def _indirection(self, body: Mapping[str, Any]) -> Node:
        node = self.transform(body["arg"])
        steps = body.get("indirection", ())
        if not all("A_Indices" in step for step in steps):
            raise reject_at(node.at, "A_Indirection is not supported in this context", "Only arrays take subscripts")
        if not is_array(node.type) or not is_known(node.type):
            raise reject_at(
                node.at,
                f"cannot subscript type {self.type_name(node.type)} because it is not an array",
                "Members of jsonb are taken with -> and ->>",
            )
        if len(steps) > 6:
            raise reject_at(node.at, "number of array dimensions exceeds the maximum allowed (6)")
        is_slice = any(step["A_Indices"].get("is_slice") for step in steps)
        indices: list[Node | None] = []
        for step in steps:
            part = step["A_Indices"]
            upper = self._index(part["uidx"]) if "uidx" in part else None
            if not is_slice:
                assert upper is not None
                indices.append(upper)
            elif part.get("is_slice"):
                indices += [self._index(part["lidx"]) if "lidx" in part else None, upper]
            else:
                indices += [Const("int4", 1, node.at), upper]
        return Subscript(node, tuple(indices), is_slice, node.type if is_slice else element(node.type), node.at)

    def _index(self, raw: Mapping[str, Any]) -> Node:
        node = self.transform(raw)
        if is_unknown(node):
            return self.literal(node, "int4")
        if node.type == "int4":
            return node
        if node.type in {"int2", "int8", "numeric", "float4", "float8"}:
            return Cast(node, "int4", is_explicit=True, at=node.at)
        raise reject_at(node.at, "array subscript must have type integer")

    def _collate(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        words = [word_of(word) for word in body.get("collname", ())]
        if words[:1] == ["pg_catalog"]:
            words = words[1:]
        if words not in (["C"], ["POSIX"]):
            raise reject_at(at, "CollateClause is not supported in this context", 'Only COLLATE "C" is supported')
        node = self.transform(body["arg"])
        if is_unknown(node):
            node = self.literal(node, "text")
        if element(node.type) not in TEXTUAL:
            raise reject_at(at, f"collations are not supported by type {self.type_name(node.type)}")
        return collate(node)

    def _subquery(self, body: Mapping[str, Any]) -> Node:
        raise reject_at(
            self._at(body),
            "only `value IN (SELECT ...)` sublinks are supported right now",
            "Subqueries are not supported yet",
        )

    def _row(self, body: Mapping[str, Any]) -> Node:
        raise reject_at(
            self._at(body), NO_OPERATOR, "Rows do not compare; compare their columns and join them with AND"
        )

    # --- functions ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _no_function(name: str, arity: int, at: int) -> InvalidShapeError:
        hint = "Supported functions are listed in the reference of the where language"
        if name.rpartition(".")[2] in _VOLATILE:
            hint = "Its value depends on more than the row, so rows would enter and leave unseen; send a value as parameter"
        elif name in {"substring", "similar_to_escape", "like_escape"} or name.startswith("regexp"):
            hint = "Regular expressions and ESCAPE are not supported; LIKE and ILIKE with backslash are"
        elif name == "timezone":
            hint = "Only the zone UTC is supported: the rules of others differ between machines"
        elif name in FIELD_FUNCTIONS:
            hint = (
                "The field must be a literal that the type has, and a timestamptz has only epoch, because other fields "
                "depend on a time zone; use AT TIME ZONE 'UTC' first"
            )
        return reject_at(at, f"unknown or unsupported function {name}/{arity}", hint)

    def _function(self, body: Mapping[str, Any]) -> Node:
        at = self._at(body)
        words = [word_of(word) for word in body.get("funcname", ())]
        is_builtin = len(words) == 1 or words[0] == "pg_catalog"
        name = words[-1] if is_builtin else ".".join(words)
        raw = body.get("args", ())
        if body.get("func_variadic"):
            raise reject_at(at, "explicit VARIADIC function calls are not currently supported", "List the arguments")
        special = ("agg_star", "agg_distinct", "agg_filter", "over", "agg_order", "agg_within_group")
        if any(body.get(flag) for flag in special) or (is_builtin and name in _AGGREGATES):
            raise reject_at(
                at,
                "aggregation is not supported in this context",
                "A condition is about one row; take apart what must be summed",
            )
        if any("NamedArgExpr" in arg for arg in raw):
            raise self._no_function(name, len(raw), at)
        if name == "concat" and is_builtin and raw:
            return self._concat([self.transform(arg) for arg in raw], at)
        signatures = FUNCTIONS_BY_NAME.get(name) if is_builtin else None
        if signatures is None and not (is_builtin and len(raw) == 1 and name in CASTABLE):
            raise self._no_function(name, len(raw), at)
        if any("RowExpr" in arg for arg in raw):
            raise self._no_function(name, len(raw), at)
        args = [self.transform(arg) for arg in raw]
        types = [arg.type for arg in args]
        if len(args) == 1 and name in CASTABLE and (signatures is None or types[0] == UNKNOWN):
            return self._type_function(name, args[0], at)
        if signatures is None or not any(len(declared) == len(types) for declared, _ in signatures):
            raise self._no_function(name, len(raw), at)
        overload = choose_function(name, tuple(types))
        if overload is None:
            shown = ", ".join(self.type_name(type_) for type_ in types)
            raise reject_at(at, f"Could not select a function overload for {name}({shown})", "Cast the arguments")
        if name in FIELD_FUNCTIONS | {"timezone"}:
            args = self._field(overload, args, at)
        return self._call(overload, args, at, is_operator=False)

    def _type_function(self, name: str, arg: Node, at: int) -> Node:
        if is_unknown(arg):
            return self.literal(arg, name)
        if arg.type != name and cast_context(arg.type, name) is None:
            shown = self.type_name(arg.type)
            raise reject_at(at, f"Could not select a function overload for {name}({shown})", "Write a cast with ::")
        return self._cast_to(arg, name, (), at)

    def _concat(self, args: Sequence[Node], at: int) -> Node:
        nodes: list[Node] = []
        for arg in args:
            node = self.literal(arg, "text") if is_unknown(arg) else arg
            if not is_known(node.type) or not has_output(node.type):
                shown = ", ".join(self.type_name(one.type) for one in args)
                raise reject_at(
                    at, f"Could not select a function overload for concat({shown})", "Cast the arguments to text"
                )
            nodes.append(node)
        return Concat(tuple(nodes), at=at)

    def _field(self, overload: Overload, args: Sequence[Node], at: int) -> list[Node]:
        """
        Check the field or zone that a call names, and write it as we know it.
        """
        first = self.coerce(args[0], "text")
        type_ = overload.args[1]
        word = first.value if isinstance(first, Const) else None
        known: str | None = None
        if isinstance(word, str):
            if overload.name == "timezone":
                known = "UTC" if word.lower() in ZONES_OF_UTC else None
            elif type_ == "timestamptz":
                known = "epoch" if word.lower() == "epoch" and overload.name != "date_trunc" else None
            elif overload.name == "date_trunc":
                known = datetime_fields.known_truncation(word, type_) if type_ in {"timestamp", "interval"} else None
            elif type_ in {"date", "time", "timestamp", "interval"}:
                known = datetime_fields.known_field(word, type_)
        if known is None:
            raise self._no_function(overload.name, len(args), at)
        return [Const("text", known, first.at), *args[1:]]

    # --- what checks what ---------------------------------------------------------------------------------------------

    _TRANSFORMERS: ClassVar[Mapping[str, _Transformer]] = {
        "A_Const": _constant,
        "ColumnRef": _column,
        "ParamRef": _parameter,
        "A_Expr": _expression,
        "BoolExpr": _logic,
        "TypeCast": _written_cast,
        "FuncCall": _function,
        "NullTest": _null_test,
        "BooleanTest": _bool_test,
        "CoalesceExpr": _coalesce,
        "MinMaxExpr": _extreme,
        "CaseExpr": _case,
        "A_ArrayExpr": _array,
        "A_Indirection": _indirection,
        "CollateClause": _collate,
        "SubLink": _subquery,
        "RowExpr": _row,
    }
    _KINDS: ClassVar[Mapping[str, _Transformer]] = {
        "AEXPR_OP": _plain_operator,
        "AEXPR_LIKE": _plain_operator,
        "AEXPR_ILIKE": _plain_operator,
        "AEXPR_SIMILAR": _plain_operator,
        "AEXPR_IN": _in_list,
        "AEXPR_DISTINCT": _distinct,
        "AEXPR_NOT_DISTINCT": _distinct,
        "AEXPR_NULLIF": _null_if,
        "AEXPR_BETWEEN": _between,
        "AEXPR_NOT_BETWEEN": _between,
        "AEXPR_BETWEEN_SYM": _between,
        "AEXPR_NOT_BETWEEN_SYM": _between,
        "AEXPR_OP_ANY": _quantified,
        "AEXPR_OP_ALL": _quantified,
    }


def _has_column(node: Node) -> bool:
    waiting = [node]
    while waiting:
        here = waiting.pop()
        if isinstance(here, ColumnRef):
            return True
        waiting.extend(children(here))
    return False


def _size(node: Node) -> int:
    count = 0
    waiting = [node]
    while waiting and count < WORK_MAX:
        count += 1
        waiting.extend(children(waiting.pop()))
    return count
