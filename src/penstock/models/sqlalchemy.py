"""
What expressions and selects of SQLAlchemy 2 mean, as trees of ours. SQLModel's are the same.

Trees are read as SQLAlchemy's own compiler for Postgres reads them, so that a shape has the rows that the query has; values
go through the same processors of their types, and become parameters. What is not known here is refused by its name. Pure.
"""

from __future__ import annotations

import operator as plain
from collections.abc import Callable, Mapping
from typing import Any, Final

from penstock.errors import ExtraMissingError, InvalidShapeError
from penstock.models.expressions import (
    FALSE,
    NULL,
    TRUE,
    ArrayOf,
    Between,
    Case,
    Cast,
    Collated,
    Column,
    Expression,
    Extract,
    Function,
    Membership,
    Operation,
    Quantified,
    Subscript,
    Test,
    Value,
    join,
    negate,
)
from penstock.models.functions import require_function
from penstock.models.patterns import contains, rewrite_escape
from penstock.models.texts import write_value

try:
    import sqlalchemy as sa
except ModuleNotFoundError as _missing:
    raise ExtraMissingError('shapes of its models need sqlalchemy: pip install "penstock[sqlalchemy]"') from _missing

from sqlalchemy import types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.sql import elements, functions, operators, selectable

_DIALECT: Final = PGDialect()  # type: ignore[no-untyped-call]  # so SQLAlchemy has it
# As the drivers for Postgres have it; without, decimals would become floats on the way.
_DIALECT.supports_native_decimal = True
_EXACT_TYPES: Final = frozenset(
    {"int4", "int8", "timestamp", "timestamptz", "date", "time", "interval", "uuid", "bytea"}
)
"""Types that a value says by itself, whatever it is compared with."""

_BINARY: Final[Mapping[Any, str]] = {
    plain.eq: "=",
    plain.ne: "<>",
    plain.lt: "<",
    plain.le: "<=",
    plain.gt: ">",
    plain.ge: ">=",
    plain.add: "+",
    plain.sub: "-",
    plain.mul: "*",
    plain.mod: "%",
    operators.concat_op: "||",
    operators.bitwise_and_op: "&",
    operators.bitwise_or_op: "|",
    operators.bitwise_xor_op: "#",
    operators.is_distinct_from: "IS DISTINCT FROM",
    operators.is_not_distinct_from: "IS NOT DISTINCT FROM",
}
_LIKE: Final[Mapping[Any, tuple[str, str, str, bool]]] = {
    # Operator, what stands before and behind the text that is looked for, whether both are made lower case.
    operators.like_op: ("LIKE", "", "", False),
    operators.not_like_op: ("NOT LIKE", "", "", False),
    operators.ilike_op: ("ILIKE", "", "", False),
    operators.not_ilike_op: ("NOT ILIKE", "", "", False),
    operators.startswith_op: ("LIKE", "", "%", False),
    operators.not_startswith_op: ("NOT LIKE", "", "%", False),
    operators.endswith_op: ("LIKE", "%", "", False),
    operators.not_endswith_op: ("NOT LIKE", "%", "", False),
    operators.contains_op: ("LIKE", "%", "%", False),
    operators.not_contains_op: ("NOT LIKE", "%", "%", False),
    operators.istartswith_op: ("LIKE", "", "%", True),
    operators.not_istartswith_op: ("NOT LIKE", "", "%", True),
    operators.iendswith_op: ("LIKE", "%", "", True),
    operators.not_iendswith_op: ("NOT LIKE", "%", "", True),
    operators.icontains_op: ("LIKE", "%", "%", True),
    operators.not_icontains_op: ("NOT LIKE", "%", "%", True),
}
_NAMES: Final[tuple[tuple[type, str], ...]] = (
    # The first that fits, so subclasses stand before their bases.
    (types.Boolean, "bool"),
    (types.SmallInteger, "int2"),
    (types.BigInteger, "int8"),
    (types.Integer, "int4"),
    (types.REAL, "float4"),
    (types.Numeric, "numeric"),
    (types.Date, "date"),
    (types.Interval, "interval"),
    (postgresql.INTERVAL, "interval"),
    (types.LargeBinary, "bytea"),
    (postgresql.BYTEA, "bytea"),
    (postgresql.JSONB, "jsonb"),
    (types.JSON, "json"),
    (types.CHAR, "bpchar"),
    (types.NCHAR, "bpchar"),
    (types.String, "varchar"),
    (postgresql.INET, "inet"),
    (postgresql.CIDR, "cidr"),
    (postgresql.MONEY, "money"),
)
_REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    # What a select may have beside a table and a condition: attribute, name, what to do.
    "_setup_joins": ("JOIN", "a shape is of one table: follow the other one as a shape of its own"),
    "_distinct": ("DISTINCT", "rows of a table are distinct by their key"),
    "_distinct_on": ("DISTINCT ON", "pick the rows where they are read"),
    "_group_by_clauses": ("GROUP BY", "a shape has rows of the table: group them where they are read"),
    "_having_criteria": ("HAVING", "a shape has rows of the table: group them where they are read"),
    "_order_by_clauses": ("ORDER BY", "rows of a shape have no order: sort them where they are read"),
    "_limit_clause": ("LIMIT", "a shape has all rows of which its condition holds: ask for a subset of it instead"),
    "_offset_clause": ("OFFSET", "a shape has all rows of which its condition holds: ask for a subset of it instead"),
    "_fetch_clause": ("FETCH", "a shape has all rows of which its condition holds: ask for a subset of it instead"),
    "_for_update_arg": ("FOR UPDATE", "a shape locks nothing"),
    "_with_options": (
        "loader options",
        "say which columns with shape(...).columns(...), and follow other tables apart",
    ),
    "_prefixes": ("a prefix", "leave it out"),
    "_suffixes": ("a suffix", "leave it out"),
    "_independent_ctes": ("WITH", "a shape is of one table"),
}


def source_of(of: Any) -> SelectSource:
    """
    Read a mapped class, a table or a select.

    Raises:
        InvalidShapeError: a shape cannot be of it.
    """
    if isinstance(of, sa.Select):
        return SelectSource(of)
    if isinstance(of, selectable.CompoundSelect):
        raise _refuse("UNION and the like", "join the conditions with or_(), or follow two shapes", "table")
    if isinstance(of, sa.Table) or (isinstance(of, type) and sa.inspect(of, raiseerr=False) is not None):
        return SelectSource(sa.select(of))
    raise _refuse(f"an object of {_name(of)}", "give a mapped class, a table or a select()", "table")


class SelectSource:
    """
    A select of one table.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        """
        Look at all that it has.

        Raises:
            InvalidShapeError: a shape cannot be of it.
        """
        for attribute, (name, fix) in _REFUSED.items():
            found: Any = getattr(statement, attribute, None)
            if found is not None and found is not False and not (isinstance(found, tuple | list) and not found):
                raise _refuse(name, fix, "table")
        inherited = self._inherited(statement)
        self._table: Final = self._find_table(statement)
        self._columns: Final = tuple(self._selected(statement))
        self._reader: Final = _Reader(self._table)
        conditions = [*inherited, *statement._where_criteria]  # noqa: SLF001  `whereclause` is these joined
        self._condition: Final = join([self._reader.read(condition) for condition in conditions])

    @property
    def name(self) -> str:
        """
        The table's name.
        """
        return self._table.fullname

    @property
    def table(self) -> tuple[str, str]:
        """
        Schema and name.
        """
        return self._table.schema or "", self._table.name

    @property
    def key(self) -> tuple[str, ...]:
        """
        The columns of the primary key.
        """
        return tuple(column.name for column in self._table.primary_key.columns)

    @property
    def condition(self) -> Expression:
        """
        The WHERE of the select.
        """
        return self._condition

    @property
    def columns(self) -> tuple[str, ...]:
        """
        The columns of the select, none for whole rows.
        """
        return self._columns

    def read_condition(self, condition: Any) -> Expression:
        """
        Read a further condition. Errors as in `Source`.
        """
        try:
            clause = sa.and_(condition)
        except sa.exc.ArgumentError:
            raise _refuse(f"{condition!r} as a condition", "compare a column, as in Item.status == 'open'") from None
        return self._reader.read(clause)

    def read_column(self, column: Any) -> str:
        """
        Give the name of a column. Errors as in `Source`.
        """
        if isinstance(column, str):
            if column in self._table.c:
                return str(self._table.c[column].name)
            raise _refuse(f"the column {column}", f"{self.name} has {', '.join(self._table.c.keys())}", "columns")
        clause = column.__clause_element__() if hasattr(column, "__clause_element__") else column
        found = self._reader.read(clause) if isinstance(clause, elements.ClauseElement) else None
        if not isinstance(found, Column):
            raise _refuse(f"{_name(clause)} as a column", "give columns of the table, as in Item.title", "columns")
        return found.name

    @staticmethod
    def _find_table(statement: sa.Select[Any]) -> sa.Table:
        froms = [*statement.columns_clause_froms, *(one for one in statement._from_obj)]  # noqa: SLF001  no public way
        for one in froms:
            if isinstance(one, selectable.Join):
                raise _refuse("JOIN", _REFUSED["_setup_joins"][1], "table")
            if not isinstance(one, sa.Table):
                raise _refuse(
                    "an alias or a subquery in FROM", "select from the mapped class or the table itself", "table"
                )
        names = sorted({one.fullname for one in froms if isinstance(one, sa.Table)})
        if len(names) != 1:
            what = f"{' and '.join(names)} in one query" if names else "a select without a table"
            raise _refuse(what, _REFUSED["_setup_joins"][1], "table")
        table = next(one for one in froms if isinstance(one, sa.Table))
        # Of a mapped class it is a copy that knows the class; the table itself has the columns.
        return table.metadata.tables.get(table.fullname, table)

    def _selected(self, statement: sa.Select[Any]) -> list[str]:
        raw = list(statement._raw_columns)  # noqa: SLF001  the public ones have whole tables taken apart
        if len(raw) == 1 and isinstance(raw[0], sa.Table):
            return []
        names = []
        for column in raw:
            if not isinstance(column, sa.Column):
                what = "an aggregate or an expression" if not isinstance(column, sa.Table) else "a table and more"
                raise _refuse(
                    f"{what} among its columns", "select the columns as they are, and compute later", "columns"
                )
            names.append(column.name)
        return names

    @staticmethod
    def _inherited(statement: sa.Select[Any]) -> list[Any]:
        """
        Give the condition of a class that shares its table with others, which the ORM adds when it runs the select.
        """
        conditions = []
        for raw in statement._raw_columns:  # noqa: SLF001  as above
            mapper: Any = raw._annotations.get("parentmapper")  # noqa: SLF001  as above
            if mapper is None or mapper.inherits is None:
                continue
            if not mapper.single:
                raise _refuse(
                    f"{mapper.class_.__name__}, whose rows are in the tables of two classes",
                    f"take a shape of the table alone: shape({mapper.class_.__name__}.__table__)",
                    "table",
                )
            identities = [below.polymorphic_identity for below in mapper.self_and_descendants]
            conditions.append(mapper.polymorphic_on.in_(identities))
        return conditions[:1]


class _Reader:
    """
    Reads expressions over one table.
    """

    def __init__(self, table: sa.Table) -> None:
        self._table: Final = table

    def read(self, node: Any) -> Expression:
        """
        Read any expression.

        Raises:
            InvalidShapeError: a shape cannot have it.
        """
        for kind, reader in _READERS:
            if isinstance(node, kind):
                return reader(self, node)
        raise _refuse(_name(node), "write the condition with columns, values and operators")

    def _column(self, node: Any) -> Expression:
        table = node.table
        if not isinstance(table, sa.Table):
            raise _refuse(
                f"the column {node.name} of an alias or a subquery",
                f"use the columns of {self._table.fullname} themselves",
            )
        if table.fullname != self._table.fullname:
            raise _refuse(
                f"the column {table.fullname}.{node.name}",
                f"the shape is of {self._table.fullname} alone: keep what the condition needs in a column of its own",
            )
        name, enum, labels = type_of(node.type)
        return Column(str(node.name), name, enum, labels)

    def _value(self, node: elements.BindParameter[Any]) -> Expression:
        if node.required and node.value is None and node.callable is None:
            raise _refuse(f"bindparam({node.key!r}) without a value", "give the value")
        return write_bound(node.effective_value, node.type)

    def _items(self, node: Any) -> tuple[Expression, ...]:
        if isinstance(node, elements.Grouping):
            return self._items(node.element)
        if isinstance(node, elements.BindParameter):
            values: Any = node.effective_value
            return tuple(write_bound(value, node.type) for value in values)
        if isinstance(node, elements.ClauseList | elements.ExpressionClauseList):
            return tuple(self.read(item) for item in node.clauses)
        raise _refuse("IN with a subquery", "follow the other table as a shape of its own, or keep a column")

    def _list(self, node: elements.ExpressionClauseList[Any]) -> Expression:
        parts = [self.read(clause) for clause in node.clauses]
        if isinstance(node, postgresql.array):
            if not parts:
                name, _, _ = type_of(node.type)
                return Cast(Value("{}", None), name or "text[]")
            return ArrayOf(tuple(parts))
        if node.operator in {operators.and_, operators.or_}:
            return join(parts, is_and=node.operator is operators.and_)
        sign = _BINARY.get(node.operator)
        if sign is None:
            raise _refuse(f"the operator {_operator_name(node.operator)}", "use AND, OR and comparisons")
        result = parts[0]
        for part in parts[1:]:
            result = Operation(sign, (result, part))
        return result

    def _binary(self, node: elements.BinaryExpression[Any]) -> Expression:
        operator = node.operator
        if isinstance(node.right, elements.CollectionAggregate):
            return self._quantified(node)
        if operator in _LIKE:
            return self._like(node)
        if operator in {operators.in_op, operators.not_in_op}:
            is_negated = operator is operators.not_in_op
            items = self._items(node.right)
            return Membership(self.read(node.left), items, is_negated) if items else (TRUE if is_negated else FALSE)
        if operator in {operators.between_op, operators.not_between_op}:
            low, high = self._items(node.right)
            return Between(
                self.read(node.left),
                low,
                high,
                is_negated=operator is operators.not_between_op,
                is_symmetric=bool(node.modifiers.get("symmetric")),
            )
        if operator in {operators.is_, operators.is_not}:
            return self._test(node)
        if operator is operators.collate:
            return self._collated(node)
        if operator in {operators.json_getitem_op, operators.json_path_getitem_op}:
            return self._member(node)
        if operator is operators.getitem:
            return self._element(node)
        left, right = self.read(node.left), self.read(node.right)
        if operator is plain.truediv:
            is_fraction = isinstance(node.right.type, types.Numeric | types.Float)
            return Operation("/", (left, right if is_fraction else Cast(right, "numeric")))
        if operator is plain.floordiv:
            quotient = Operation("/", (left, right))
            is_whole = all(isinstance(side.type, types.Integer) for side in (node.left, node.right))
            return quotient if is_whole else Function("floor", (quotient,))
        sign = operator.opstring if isinstance(operator, operators.custom_op) else _BINARY.get(operator)
        if sign is None:
            raise _refuse(f"the operator {_operator_name(operator)}", "LIKE, ILIKE and comparisons are offered")
        return Operation(sign, (left, right))

    def _quantified(self, node: elements.BinaryExpression[Any]) -> Expression:
        aggregate: Any = node.right
        sign = _LIKE[node.operator][0] if node.operator in _LIKE else _BINARY.get(node.operator)
        if sign is None:
            raise _refuse(f"{_operator_name(node.operator)} with ANY or ALL", "compare with = or <>")
        array = self.read(_ungrouped(aggregate.element))
        return Quantified(self.read(node.left), sign, array, is_all=aggregate.operator is operators.all_op)

    def _like(self, node: elements.BinaryExpression[Any]) -> Expression:
        sign, before, behind, is_lower = _LIKE[node.operator]
        left, right = self.read(node.left), self.read(node.right)
        escape = node.modifiers.get("escape")
        if escape is not None:
            right = rewrite_escape(right, escape)
        if is_lower:
            left, right = Function("lower", (left,)), Function("lower", (right,))
        return Operation(sign, (left, contains(right, before, behind)))

    def _test(self, node: elements.BinaryExpression[Any]) -> Expression:
        word = {elements.Null: "NULL", elements.True_: "TRUE", elements.False_: "FALSE"}.get(type(node.right))
        if word is None:
            raise _refuse("IS with anything but NULL, TRUE and FALSE", "compare with == or is_distinct_from()")
        return Test(self.read(node.left), f"IS {'NOT ' * (node.operator is operators.is_not)}{word}")

    def _collated(self, node: elements.BinaryExpression[Any]) -> Expression:
        collation = getattr(node.right, "collation", None)
        if collation != "C":
            raise _refuse(f"the collation {collation}", 'collate("C") is offered, which compares by bytes')
        return Collated(self.read(node.left))

    def _member(self, node: elements.BinaryExpression[Any]) -> Expression:
        is_path = node.operator is operators.json_path_getitem_op
        key: Any = _ungrouped(node.right)
        if isinstance(key, elements.BindParameter):
            value: Any = key.effective_value
            right: Expression = Value(*write_value([str(step) for step in value] if is_path else value))
        else:
            right = self.read(key)
        is_document = isinstance(_plain_type(node.type), types.JSON)
        sign = ("#>" if is_path else "->") if is_document else ("#>>" if is_path else "->>")
        member = Operation(sign, (self.read(node.left), right))
        return member if is_document else Cast(member, _sql_type(node.type))

    def _element(self, node: elements.BinaryExpression[Any]) -> Expression:
        array = self.read(node.left)
        if isinstance(node.right, elements.Slice):
            bounds = tuple(self.read(bound) for bound in (node.right.start, node.right.stop))
            return Subscript(array, tuple(None if bound == NULL else bound for bound in bounds))
        return Subscript(array, (self.read(node.right),))

    def _unary(self, node: elements.UnaryExpression[Any]) -> Expression:
        arg = _ungrouped(node.element)
        if node.modifier is None:
            if node.operator in {operators.inv, operators.is_false}:
                return negate(self.read(arg))
            if node.operator is operators.is_true:
                return self.read(arg)
            if node.operator is operators.neg:
                return Operation("-", (self.read(arg),))
            if node.operator is operators.bitwise_not_op:
                return Operation("~", (self.read(arg),))
        if node.operator is operators.exists:
            raise _refuse("EXISTS, has() or any()", "follow the other table as a shape of its own, or keep a column")
        raise _refuse(
            f"the operator {_operator_name(node.operator or node.modifier)}", "use comparisons, AND, OR and NOT"
        )

    def _function(self, node: functions.FunctionElement[Any]) -> Expression:
        name: str = getattr(node, "name", type(node).__name__)
        package = ".".join(getattr(node, "packagenames", ()))
        args = tuple(self.read(clause) for clause in node.clauses)
        return Function(require_function(f"{package}.{name}" if package else name), args)

    def _case(self, node: elements.Case[Any]) -> Expression:
        value = None if node.value is None else self.read(node.value)
        whens = []
        for condition, result in node.whens:
            when = self.read(condition)
            whens.append((when if value is None else Operation("=", (value, when)), self.read(result)))
        return Case(tuple(whens), NULL if node.else_ is None else self.read(node.else_))

    def _extract(self, node: elements.Extract) -> Expression:
        if not node.field.isalpha():
            raise _refuse(f"the field {node.field!r}", "extract() takes year, month, day and the like")
        return Extract(node.field.lower(), self.read(node.expr))

    def _cast(self, node: elements.Cast[Any]) -> Expression:
        return Cast(self.read(_ungrouped(node.clause)), _sql_type(node.type))

    def _coerced(self, node: elements.TypeCoerce[Any]) -> Expression:
        return self.read(node.typed_expression)

    def _inner(self, node: Any) -> Expression:
        return self.read(node.element)


def _constant(expression: Expression) -> Callable[[_Reader, Any], Expression]:
    return lambda _reader, _node: expression


def _refusing(what: str, fix: str) -> Callable[[_Reader, Any], Expression]:
    def refuse(_reader: _Reader, _node: Any) -> Expression:
        raise _refuse(what, fix)

    return refuse


# The first that fits, so subclasses stand before their bases.
_READERS: Final[tuple[tuple[Any, Callable[[_Reader, Any], Expression]], ...]] = (
    (sa.Column, _Reader._column),  # noqa: SLF001  ours
    (elements.BindParameter, _Reader._value),  # noqa: SLF001
    (elements.Null, _constant(NULL)),
    (elements.True_, _constant(TRUE)),
    (elements.False_, _constant(FALSE)),
    (elements.Label, _Reader._inner),  # noqa: SLF001
    (elements.AsBoolean, _Reader._unary),  # noqa: SLF001
    (elements.CollectionAggregate, _refusing("ANY or ALL by itself", "compare a value with it")),
    (elements.UnaryExpression, _Reader._unary),  # noqa: SLF001
    (elements.BinaryExpression, _Reader._binary),  # noqa: SLF001
    (elements.ExpressionClauseList, _Reader._list),  # noqa: SLF001
    (elements.Case, _Reader._case),  # noqa: SLF001
    (elements.TypeCoerce, _Reader._coerced),  # noqa: SLF001
    (elements.Cast, _Reader._cast),  # noqa: SLF001
    (elements.Extract, _Reader._extract),  # noqa: SLF001
    (elements.Over, _refusing("a window function", "a condition is about one row")),
    (elements.FunctionFilter, _refusing("an aggregate", "a condition is about one row")),
    (elements.WithinGroup, _refusing("an aggregate", "a condition is about one row")),
    (functions.FunctionElement, _Reader._function),  # noqa: SLF001
    (elements.Tuple, _refusing("tuple_()", "compare the columns one by one, and join them with and_()")),
    (elements.TextClause, _refusing("text()", "write it with columns, or send the text to the client as `where`")),
    (elements.ColumnClause, _refusing("a column without a table", "use the columns of the model")),
    (
        (selectable.SelectBase, selectable.ScalarSelect, selectable.Exists),
        _refusing("a subquery", "follow the other table as a shape of its own, or keep a column"),
    ),
    (elements.Grouping, _Reader._inner),  # noqa: SLF001
)


def write_bound(value: Any, type_: types.TypeEngine[Any]) -> Expression:
    """
    Write a value as its type has it sent to Postgres.

    Raises:
        InvalidShapeError: there is no text for it.
    """
    if isinstance(type_, types.JSON.JSONPathType):
        # A path into a document: an array of texts.
        return Value(*write_value([str(step) for step in value]))
    processor = type_.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    sent = processor(value) if processor is not None else value
    if sent is None:
        return NULL
    text, natural = write_value(sent)
    name, enum, _ = type_of(type_)
    if enum:
        return Value(text, None)
    if natural in _EXACT_TYPES or name is None or (name.endswith("[]") and not natural.endswith("[]")):
        return Value(text, natural)
    # Texts are sent as VARCHAR, beside which a CHAR(n) is compared without its padding.
    return Value(text, "varchar" if name == "bpchar" else name)


def type_of(type_: types.TypeEngine[Any]) -> tuple[str | None, str, tuple[str, ...]]:
    """
    Name a type as the language of conditions does: the name, and of an enum its own name and its labels.
    """
    found: Any = _plain_type(type_)
    match found:
        case types.ARRAY():
            name, enum, labels = type_of(found.item_type)
            return (None if name is None else f"{name}[]"), enum, labels
        case postgresql.DOMAIN():
            return type_of(found.data_type)
        case types.Enum():
            is_native = found.native_enum and found.name is not None
            return ("enum", str(found.name), tuple(found.enums)) if is_native else ("varchar", "", ())
        case types.Uuid():
            return ("uuid" if found.native_uuid else "bpchar"), "", ()
        case types.DateTime():
            return ("timestamptz" if found.timezone else "timestamp"), "", ()
        case types.Time():
            return ("timetz" if found.timezone else "time"), "", ()
        case types.REAL():
            return "float4", "", ()
        case types.Float():
            # FLOAT(24) and below are of single precision.
            return ("float4" if found.precision is not None and found.precision <= 24 else "float8"), "", ()
        case postgresql.CITEXT():
            return None, "", ()
    return next((name for kind, name in _NAMES if isinstance(found, kind)), None), "", ()


def _plain_type(type_: types.TypeEngine[Any]) -> types.TypeEngine[Any]:
    found: types.TypeEngine[Any] = type_.dialect_impl(_DIALECT)
    while isinstance(found, types.TypeDecorator):
        found = found.load_dialect_impl(_DIALECT).dialect_impl(_DIALECT)
    return found


def _sql_type(type_: types.TypeEngine[Any]) -> str:
    return type_.compile(dialect=_DIALECT)


def _ungrouped(node: Any) -> Any:
    while isinstance(node, elements.Grouping):
        node = node.element
    return node


def _operator_name(operator: Any) -> str:
    name = getattr(operator, "opstring", None) or getattr(operator, "__name__", str(operator))
    return str(name).removesuffix("_op")


def _name(node: Any) -> str:
    return type(node).__name__


def _refuse(what: str, fix: str, field: str = "where") -> InvalidShapeError:
    return InvalidShapeError(field, f"a shape cannot have {what}: {fix}")
