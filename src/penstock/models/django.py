"""
What querysets, `Q` objects and expressions of Django mean, as trees of ours.

Lookups are read as Django's own compiler for Postgres writes them, so that a shape has the rows that the queryset has, and
values go through the same preparation by their fields. What is not known here is refused by its name. Nothing is asked of
the database. Shell: what a field's values are depends on Django's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    Column,
    Expression,
    Extract,
    Function,
    Membership,
    Operation,
    Subscript,
    Test,
    Value,
    join,
    negate,
)
from penstock.models.functions import require_function
from penstock.models.patterns import contains, escaped
from penstock.models.texts import write_json, write_value

try:
    from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
    from django.db import connections, models
except ModuleNotFoundError as _missing:
    raise ExtraMissingError('shapes of its models need django: pip install "penstock[django]"') from _missing

from django.db.models import expressions, functions, lookups
from django.db.models.fields import json as documents
from django.db.models.query_utils import DeferredAttribute
from django.db.models.sql.where import ExtraWhere, NothingNode, WhereNode

_ONE_TABLE: Final = "a shape is of one table: follow the other one as a shape of its own, or keep a copy in a column"
_OPERATORS: Final[Mapping[str, str]] = {
    "exact": "=",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
}
_PATTERNS: Final[Mapping[str, tuple[str, str, bool]]] = {
    # What stands before and behind the text that is looked for, and whether both are made upper case.
    "contains": ("%", "%", False),
    "startswith": ("", "%", False),
    "endswith": ("%", "", False),
    "icontains": ("%", "%", True),
    "istartswith": ("", "%", True),
    "iendswith": ("%", "", True),
}
_CONTAINMENTS: Final = frozenset({"@>", "<@", "&&", "?", "?&", "?|"})
_CONNECTORS: Final[Mapping[str, str]] = {sign: sign for sign in "+-*/&|#"} | {"%%": "%"}
_TYPES: Final[Mapping[str, str]] = {
    "boolean": "bool",
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "serial": "int4",
    "bigserial": "int8",
    "smallserial": "int2",
    "real": "float4",
    "double precision": "float8",
    "numeric": "numeric",
    "text": "text",
    "varchar": "varchar",
    "char": "bpchar",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamp with time zone": "timestamptz",
    "interval": "interval",
    "uuid": "uuid",
    "bytea": "bytea",
    "jsonb": "jsonb",
    "inet": "inet",
}
_WORDS_OF_FIELDS: Final[Mapping[str, str]] = {"week_day": "dow", "iso_week_day": "isodow", "iso_year": "isoyear"}


def source_of(of: Any) -> QuerySetSource:
    """
    Read a model, a manager or a queryset.

    Raises:
        InvalidShapeError: a shape cannot be of it.
    """
    if isinstance(of, type) and issubclass(of, models.Model):
        of = of._default_manager  # noqa: SLF001  documented, in spite of its name
    if isinstance(of, models.Manager):
        of = of.all()
    if isinstance(of, models.QuerySet):
        return QuerySetSource(of)
    raise _refuse(f"a {type(of).__name__}", "give a model or a queryset", "table")


class QuerySetSource:
    """
    A queryset of one table.
    """

    def __init__(self, queryset: models.QuerySet[Any]) -> None:
        """
        Look at all that it has.

        Raises:
            InvalidShapeError: a shape cannot be of it.
        """
        self._model: Final = queryset.model
        self._alias: Final = queryset.db
        connection = _connection(queryset.db)
        _check_query(queryset)
        self._columns: Final = tuple(_selected(queryset))
        self._condition: Final = _Reader(self._model, connection).read(queryset.query.where)

    @property
    def name(self) -> str:
        """
        The model's name.
        """
        return self._model._meta.object_name or self._model.__name__  # noqa: SLF001  Django's public name for it

    @property
    def table(self) -> tuple[str, str]:
        """
        Schema and name: Django knows no schemas, but projects put them into the name as `app"."items`.
        """
        schema, quoted, name = self._model._meta.db_table.strip('"').partition('"."')  # noqa: SLF001  as above
        return (schema, name) if quoted else ("", schema)

    @property
    def key(self) -> tuple[str, ...]:
        """
        The columns of the primary key.
        """
        meta: Any = self._model._meta  # noqa: SLF001  as above
        return tuple(field.column for field in getattr(meta, "pk_fields", None) or [meta.pk])

    @property
    def condition(self) -> Expression:
        """
        What its filters say.
        """
        return self._condition

    @property
    def columns(self) -> tuple[str, ...]:
        """
        The columns that `only()`, `defer()` or `values()` leave; none for whole rows.
        """
        return self._columns

    def read_condition(self, condition: Any) -> Expression:
        """
        Read a further condition. Errors as in `Source`.
        """
        if not isinstance(condition, models.Q) and not getattr(condition, "conditional", False):
            raise _refuse(f"{condition!r} as a condition", 'give a Q object, as in Q(status="open")')
        return QuerySetSource(self._model._base_manager.using(self._alias).filter(condition)).condition  # noqa: SLF001

    def read_column(self, column: Any) -> str:
        """
        Give the name of a column. Errors as in `Source`.
        """
        if isinstance(column, DeferredAttribute):
            column = column.field
        name = str(getattr(column, "name", column))
        return _column_of(self._model, name)


def _connection(alias: str) -> Any:
    try:
        connection = connections[alias]
    except ImproperlyConfigured as cause:
        raise _refuse(f"the database {alias}", f"Django cannot use it: {cause}", "table") from cause
    if connection.vendor != "postgresql":
        raise _refuse(
            f"the database {alias!r}, which is of {connection.vendor}",
            "shapes are of Postgres: set ENGINE to django.db.backends.postgresql",
            "table",
        )
    return connection


def _check_query(queryset: models.QuerySet[Any]) -> None:
    """
    Refuse what a queryset may have beside filters and columns.
    """
    query: Any = queryset.query
    meta: Any = queryset.model._meta  # noqa: SLF001  Django's public name for it
    later = "a shape has all rows of which its condition holds: ask for a subset of it instead"
    rows = "a shape has rows of the table: compute from them where they are read"
    found: tuple[tuple[object, str, str], ...] = (
        (query.combinator, f"{query.combinator}()", "join the filters with | and &, or follow two shapes"),
        (query.is_sliced, "a slice", later),
        (query.distinct, "distinct()", "rows of a table are distinct by their key"),
        (query.order_by or query.extra_order_by, "order_by()", "its rows have no order: sort them where they are read"),
        (query.extra or query.extra_tables, "extra()", "write it with filters and expressions"),
        (query.annotations, "annotate() or alias()", rows),
        (query.group_by, "GROUP BY", rows),
        (query.select_related, "select_related()", _ONE_TABLE),
        (queryset._prefetch_related_lookups, "prefetch_related()", _ONE_TABLE),  # type: ignore[attr-defined]  # noqa: SLF001  # no public way
        (query.select_for_update, "select_for_update()", "it locks nothing"),
    )
    for is_there, name, fix in found:
        if is_there:
            raise _refuse(name, fix, "table")
    parents = [parent for parent in meta.all_parents if not parent._meta.proxy and not parent._meta.abstract]  # noqa: SLF001
    if any(parent._meta.db_table != meta.db_table for parent in parents):  # noqa: SLF001  as above
        names = f"{meta.object_name}, whose rows are in its own table and in that of {parents[0].__name__}"
        raise _refuse(names, "follow both tables as shapes of their own", "table")
    used = {alias for alias, count in query.alias_refcount.items() if count}
    joined = sorted({query.alias_map[alias].table_name for alias in used} - {meta.db_table})
    if joined or len(used) > 1:
        raise _refuse(f"the join with {' and '.join(joined) or 'itself'} that its filters make", _ONE_TABLE, "table")


def _selected(queryset: models.QuerySet[Any]) -> Iterable[str]:
    query: Any = queryset.query
    meta: Any = queryset.model._meta  # noqa: SLF001  Django's public name for it
    if query.values_select:
        return [_column_of(queryset.model, name) for name in query.values_select]
    names, is_deferred = query.deferred_loading
    if not names:
        return []
    fields = [field for field in meta.concrete_fields if field.column is not None]
    chosen = {meta.pk.name if name == "pk" else name for name in names}
    # As Django does: the key always comes along.
    return [
        field.column
        for field in fields
        if field.primary_key or ({field.name, field.attname}.isdisjoint(chosen) == is_deferred)
    ]


def _column_of(model: type[models.Model], name: str) -> str:
    meta: Any = model._meta  # noqa: SLF001  Django's public name for it
    if "__" in name:
        raise _refuse(f"the column {name}, which is of another table", _ONE_TABLE, "columns")
    try:
        field = meta.pk if name == "pk" else meta.get_field(name)
    except FieldDoesNotExist:
        known = ", ".join(field.name for field in meta.concrete_fields)
        raise _refuse(f"the column {name}", f"{meta.object_name} has {known}", "columns") from None
    column = getattr(field, "column", None)
    if column is None:
        raise _refuse(f"the column {name}, which the table does not have", _ONE_TABLE, "columns")
    return str(column)


class _Reader:
    """
    Reads conditions over one model.
    """

    def __init__(self, model: type[models.Model], connection: Any) -> None:
        self._model: Final = model
        self._connection: Final = connection

    def read(self, node: Any) -> Expression:
        """
        Read any expression.

        Raises:
            InvalidShapeError: a shape cannot have it.
        """
        for kind, reader in _READERS:
            if isinstance(node, kind):
                return reader(self, node)
        raise _refuse(type(node).__name__, "write the condition with filters over the model's own fields")

    def _where(self, node: WhereNode) -> Expression:
        if node.connector not in {"AND", "OR"}:
            raise _refuse(str(node.connector), "write it with &, | and ~")
        joined = join([self.read(child) for child in node.children], is_and=node.connector == "AND")
        return negate(joined) if node.negated else joined

    # --- lookups -----------------------------------------------------------------------------------------------------

    def _lookup(self, node: lookups.Lookup[Any]) -> Expression:
        if node.bilateral_transforms:
            raise _refuse(f"a transform of both sides in {node.lookup_name}", "write the transform on each side")
        if isinstance(node, lookups.YearLookup) and node.rhs_is_direct_value():
            return self._year(node)
        if isinstance(node, lookups.IsNull):
            return Test(self.read(node.lhs), "IS NULL" if node.rhs else "IS NOT NULL")
        if isinstance(node, lookups.In):
            return self._membership(node)
        if isinstance(node, lookups.Range):
            low, high = (self._right(bound, node.lhs) for bound in self._listed(node.rhs))
            return Between(self.read(node.lhs), low, high)
        sign = getattr(node, "postgres_operator", None)
        if sign in _CONTAINMENTS:
            return self._containment(node, str(sign))
        if isinstance(node, lookups.IExact):
            left, right = self._text(node.lhs), self._right(node.rhs, node.lhs)
            return Operation("=", (Function("upper", (left,)), Function("upper", (right,))))
        if isinstance(node, lookups.PatternLookup) and node.lookup_name in _PATTERNS:
            return self._pattern(node)
        if isinstance(node, lookups.Regex):
            raise _refuse(f"the lookup {node.lookup_name}", "contains, startswith and the like are offered")
        sign = _OPERATORS.get(node.lookup_name or "")
        is_djangos = type(node).__module__.startswith("django.")
        if sign is None or not is_djangos or not isinstance(node, lookups.BuiltinLookup):
            raise _refuse(f"the lookup {node.lookup_name}", "keep what it computes in a column")
        return self._comparison(node, sign)

    def _comparison(self, node: lookups.Lookup[Any], sign: str) -> Expression:
        left = self.read(node.lhs)
        if isinstance(node, documents.JSONExact) and node.rhs is None:
            return Operation(sign, (left, Value("null", "jsonb")))
        if isinstance(node.rhs, bool) and getattr(node.lhs, "conditional", False):
            return Operation(sign, (left, TRUE if node.rhs else FALSE))
        return Operation(sign, (left, self._right(node.rhs, node.lhs)))

    def _year(self, node: Any) -> Expression:
        start, finish = node.year_lookup_bounds(self._connection, node.rhs)
        left = self.read(node.lhs.lhs)
        bounds = [Value(*write_value(_unwrapped(bound))) for bound in node.get_bound_params(start, finish)]
        if len(bounds) == 2:
            return Between(left, bounds[0], bounds[1])
        return Operation(_OPERATORS[node.lookup_name], (left, bounds[0]))

    def _membership(self, node: lookups.In[Any]) -> Expression:
        values = [value for value in self._listed(node.rhs) if value is not None]
        items = tuple(self._right(value, node.lhs) for value in values)
        return Membership(self.read(node.lhs), items) if items else FALSE

    @staticmethod
    def _listed(values: Any) -> list[Any]:
        if isinstance(values, expressions.ExpressionList):
            return list(values.get_source_expressions())
        if isinstance(values, list | tuple | set | frozenset):
            return list(values)
        raise _refuse("a subquery", _ONE_TABLE)

    def _containment(self, node: Any, sign: str) -> Expression:
        right = node.rhs
        if "?" in sign:
            key = str(right) if sign == "?" else [str(item) for item in right]
            return Operation(sign, (self.read(node.lhs), Value(*write_value(key))))
        return Operation(sign, (self.read(node.lhs), self._right(right, node.lhs)))

    def _pattern(self, node: lookups.PatternLookup) -> Expression:
        before, behind, is_upper = _PATTERNS[node.lookup_name or ""]
        left = self._text(node.lhs)
        right: Expression
        if node.rhs_is_direct_value():
            text, _ = write_value(str(_unwrapped(node.rhs)))
            right = Value(f"{before}{escaped(text)}{behind}", "text")
        else:
            right = self.read(node.rhs)
            for sought in ("\\", "%", "_"):
                right = Function("replace", (right, Value(sought, "text"), Value(f"\\{sought}", "text")))
            right = contains(right, before, behind)
        if is_upper:
            left, right = Function("upper", (left,)), Function("upper", (right,))
        return Operation("LIKE", (left, right))

    def _text(self, node: Any) -> Expression:
        """
        Read what a search in text is about: other types are searched as text.
        """
        if node.output_field.get_internal_type() == "GenericIPAddressField":
            raise _refuse("a search in an IP address", "keep its text in a column")
        read = self.read(node)
        is_text = isinstance(node.output_field, models.CharField | models.TextField)
        return read if is_text and not (isinstance(read, Column) and read.type == "bpchar") else Cast(read, "text")

    def _right(self, value: Any, left: Any) -> Expression:
        """
        Read the right side: an expression, or a value that the field on the left prepares.
        """
        if hasattr(value, "resolve_expression"):
            return self.read(value)
        field: Any = left.output_field
        return self._prepared(value, getattr(field, "target_field", field))

    def _prepared(self, value: Any, field: Any) -> Expression:
        prepare = getattr(field, "get_db_prep_value", None)
        sent = value if prepare is None else prepare(value, self._connection, prepared=True)
        if sent is None:
            return NULL
        if hasattr(sent, "dumps") and hasattr(sent, "obj"):
            # What psycopg calls a document, with the encoder that the field may have.
            return Value((sent.dumps or write_json)(sent.obj), "jsonb")
        text, type_ = write_value(_unwrapped(sent))
        return Value(text, None if isinstance(sent, list) and not sent else type_)

    # --- expressions -------------------------------------------------------------------------------------------------

    def _column(self, node: expressions.Col) -> Expression:
        field: Any = node.target
        if field.model._meta.db_table != self._model._meta.db_table:  # noqa: SLF001  Django's public name for it
            raise _refuse(f"the column {field.model.__name__}.{field.name}", _ONE_TABLE)
        return Column(field.column, _type_of(field, self._connection))

    def _value(self, node: Any) -> Expression:
        if node.value is None:
            return NULL
        if isinstance(node.value, bool):
            return TRUE if node.value else FALSE
        field: Any = node._output_field_or_none  # noqa: SLF001  the public one raises when there is none
        prepare = getattr(field, "get_db_prep_value", None)
        sent = node.value if prepare is None else prepare(node.value, connection=self._connection)
        if hasattr(sent, "dumps") and hasattr(sent, "obj"):
            return Value((sent.dumps or write_json)(sent.obj), "jsonb")
        return Value(*write_value(_unwrapped(sent)))

    def _combined(self, node: Any) -> Expression:
        sign = _CONNECTORS.get(node.connector)
        if sign is None:
            raise _refuse(f"the operator {node.connector}", "use + - * / % and comparisons")
        both = Operation(sign, (self.read(node.lhs), self.read(node.rhs)))
        left: Any = node.lhs
        is_of_days = isinstance(node, expressions.TemporalSubtraction) and (
            left.output_field.get_internal_type() == "DateField"
        )
        # Days between dates are a number for Postgres, and a length of time for Django.
        return Operation("*", (Value("1 day", "interval"), both)) if is_of_days else both

    def _function(self, node: expressions.Func) -> Expression:
        name = node.extra.get("function") or node.function
        if name == "ARRAY":
            # What lookups of arrays make of a list.
            parts: list[Any] = node.get_source_expressions()
            if all(isinstance(part, expressions.Value) for part in parts):
                return Value(*write_value([_unwrapped(part.value) for part in parts]))
            return ArrayOf(tuple(self.read(part) for part in parts))
        is_plain = node.template == expressions.Func.template and node.arg_joiner == expressions.Func.arg_joiner
        if not name or not is_plain or node.extra.get("template"):
            raise _refuse(f"the function {type(node).__name__}", "keep its result in a column")
        args = tuple(self.read(part) for part in node.get_source_expressions())
        return Function(require_function(str(name)), args)

    def _position(self, node: expressions.Func) -> Expression:
        return Function("strpos", tuple(self.read(part) for part in node.get_source_expressions()))

    def _concatenated(self, node: Any) -> Expression:
        parts = []
        for part in node.get_source_expressions():
            read = self.read(part)
            is_text = isinstance(part.output_field, models.CharField | models.TextField)
            parts.append(Function("coalesce", (read if is_text else Cast(read, "text"), Value("", "text"))))
        return Operation("||", (parts[0], parts[1]))

    def _only(self, node: Any) -> Expression:
        (inner,) = node.get_source_expressions()
        return self.read(inner)

    def _negated(self, node: Any) -> Expression:
        return negate(self._only(node))

    def _case(self, node: expressions.Case) -> Expression:
        whens = tuple((self.read(when.condition), self.read(when.result)) for when in node.cases)
        return Case(whens, self.read(node.default)) if whens else self.read(node.default)

    def _cast(self, node: functions.Cast) -> Expression:
        (inner,) = node.get_source_expressions()
        type_ = node.output_field.cast_db_type(self._connection)
        if type_ is None:
            raise _refuse("a cast to a field without a column", "cast to a field that the database knows")
        return Cast(self.read(inner), type_)

    def _in_utc(self, node: Any, what: str) -> Expression:
        """
        Read a date or a time; that with a time zone as it is in UTC.
        """
        read = self.read(node.lhs)
        zone = node.get_tzname() if isinstance(node.lhs.output_field, models.DateTimeField) else None
        if zone is None:
            return read
        if zone.upper() not in {"UTC", "ETC/UTC"}:
            raise _refuse(
                f"{what} in the time zone {zone}",
                "the rules of time zones differ from machine to machine: pass tzinfo=datetime.UTC, set TIME_ZONE to UTC, "
                "or compare with the moments themselves, as in at__gte=...",
            )
        return Function("timezone", (Value("UTC", "text"), read))

    def _extract(self, node: Any) -> Expression:
        field = str(node.lookup_name)
        read = self._in_utc(node, f"the {field.replace('_', ' ')}")
        if not field.replace("_", "").isalpha():
            raise _refuse(f"the field {field!r}", "year, month, day and the like are offered")
        if field == "second" and type(node.lhs.output_field) is not models.DateField:
            read = Function("date_trunc", (Value("second", "text"), read))
        extracted = Extract(_WORDS_OF_FIELDS.get(field, field), read)
        return Operation("+", (extracted, Value("1", "int4"))) if field == "week_day" else extracted

    def _truncated(self, node: Any) -> Expression:
        if isinstance(node, functions.TruncDate):
            return Cast(self._in_utc(node, "the date"), "date")
        if isinstance(node, functions.TruncTime):
            return Cast(self._in_utc(node, "the time"), "time")
        raise _refuse(type(node).__name__, "compare with the first and the last moment, as in at__range=(...)")

    def _member(self, node: documents.KeyTransform) -> Expression:
        keys = [node.key_name]
        inner: Any = node.lhs
        while isinstance(inner, documents.KeyTransform):
            keys.insert(0, inner.key_name)
            inner = inner.lhs
        left = self.read(inner)
        if len(keys) > 1:
            return Operation(node.postgres_nested_operator, (left, Value(*write_value(keys))))
        try:
            key: int | str = int(keys[0])
        except ValueError:
            key = keys[0]
        return Operation(node.postgres_operator, (left, Value(*write_value(key))))

    def _array_transform(self, node: Any) -> Expression:
        """
        Read what the fields of `django.contrib.postgres` make of an array: its length, an element, a part.
        """
        kind, array = type(node).__name__, self.read(node.lhs)
        if kind == "ArrayLenTransform":
            length = Function("array_length", (array, Value("1", "int4")))
            counted = Function("coalesce", (length, Value("0", "int4")))
            return Case(((Test(array, "IS NULL"), NULL),), counted)
        if kind == "IndexTransform":
            return Subscript(array, (Value(str(int(node.index)), "int4"),))
        if kind == "SliceTransform":
            end = None if node.end is None else Value(str(int(node.end)), "int4")
            return Subscript(array, (Value(str(int(node.start)), "int4"), end))
        return self._function(node)


def _refusing(what: str, fix: str) -> Callable[[_Reader, Any], Expression]:
    def refuse(_reader: _Reader, _node: Any) -> Expression:
        raise _refuse(what, fix)

    return refuse


_NOW: Final = "its value changes without the row changing: compute the moment, and compare with it"

# The first that fits, so subclasses stand before their bases.
_READERS: Final[tuple[tuple[Any, Callable[[_Reader, Any], Expression]], ...]] = (
    (WhereNode, _Reader._where),  # noqa: SLF001  ours
    (NothingNode, lambda _reader, _node: FALSE),
    (ExtraWhere, _refusing("extra()", "write it with filters and expressions")),
    (lookups.Lookup, _Reader._lookup),  # noqa: SLF001
    (expressions.Col, _Reader._column),  # noqa: SLF001
    (expressions.Value, _Reader._value),  # noqa: SLF001
    (expressions.CombinedExpression, _Reader._combined),  # noqa: SLF001
    (expressions.NegatedExpression, _Reader._negated),  # noqa: SLF001
    (expressions.ExpressionWrapper, _Reader._only),  # noqa: SLF001
    (expressions.Case, _Reader._case),  # noqa: SLF001
    (expressions.RawSQL, _refusing("RawSQL", "write it with filters and expressions")),
    ((expressions.Subquery, models.sql.Query), _refusing("a subquery", _ONE_TABLE)),
    (models.Aggregate, _refusing("an aggregate", "a condition is about one row: compute it later")),
    (expressions.Window, _refusing("a window function", "a condition is about one row: compute it later")),
    (functions.Now, _refusing("Now()", _NOW)),
    (functions.Cast, _Reader._cast),  # noqa: SLF001
    (functions.ConcatPair, _Reader._concatenated),  # noqa: SLF001
    (functions.Concat, _Reader._only),  # noqa: SLF001
    (functions.StrIndex, _Reader._position),  # noqa: SLF001
    (functions.Extract, _Reader._extract),  # noqa: SLF001
    (functions.datetime.TruncBase, _Reader._truncated),  # noqa: SLF001
    (documents.KeyTransform, _Reader._member),  # noqa: SLF001
    (lookups.Transform, _Reader._array_transform),  # noqa: SLF001
    (expressions.Func, _Reader._function),  # noqa: SLF001
)


def _type_of(field: Any, connection: Any) -> str | None:
    """
    Name a field's type as the language of conditions does; None for one that it does not know.
    """
    text = str(field.db_type(connection) or "")
    # Without a length, and the brackets of an array.
    known = _TYPES.get(text.partition("(")[0].partition("[")[0].strip())
    return f"{known}[]" if known is not None and text.endswith("]") else known


def _unwrapped(value: Any) -> Any:
    """
    Take a value out of what psycopg has for binary strings and addresses.
    """
    if type(value).__module__.startswith("psycopg") and hasattr(value, "obj"):
        return value.obj
    if hasattr(value, "addr"):
        return str(value.addr)
    return value


def _refuse(what: str, fix: str, field: str = "where") -> InvalidShapeError:
    return InvalidShapeError(field, f"a shape cannot have {what}: {fix}")
