"""
What a shape of a model is of: table, condition, parameters and columns, as clients send them and authorisation adds them.

Owns the value that everything here is made for, the look at a condition before it is sent anywhere, and the steps in which a
shape is put together. What is particular to SQLAlchemy and Django is behind `Source`. Pure values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self

from penstock.errors import InvalidShapeError
from penstock.models import expressions
from penstock.models.expressions import Expression, Written
from penstock.postgres.quoting import quote_name
from penstock.postgres.relation import Column
from penstock.where.clause import compile_where
from penstock.where.facts import DatabaseFacts, EnumType
from penstock.where.types import OID_BY_TYPE, element, is_array

_ENUM_OID: Final = 2**31
"""Oids from here on stand for enums, of which a model knows the names alone."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """
    A part of a table, in the protocol's words.

    Attributes:
        table: its name, with its schema if it is not in `public`, quoted where that is needed.
        where: the condition, None for all rows.
        params: the values of `$1`, `$2` … in it.
        columns: names of columns without quotes, none for all.
    """

    table: str
    where: str | None = None
    params: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def definition(self) -> TableShape:
        """
        Itself, so that it may stand wherever a shape of a model may.
        """
        return self


class Source(Protocol):
    """
    A model or a query: what reads the words of its library.
    """

    @property
    def name(self) -> str:
        """
        The model's name, for messages.
        """
        ...

    @property
    def table(self) -> tuple[str, str]:
        """
        Schema and name; an empty schema for the one that is searched first.
        """
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """
        The columns of the primary key.
        """
        ...

    @property
    def condition(self) -> Expression:
        """
        The condition that the query has by itself.
        """
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """
        The columns that the query asks for, none for all.
        """
        ...

    def read_condition(self, condition: Any) -> Expression:
        """
        Read a further condition.

        Raises:
            InvalidShapeError: a shape cannot have it.
        """
        ...

    def read_column(self, column: Any) -> str:
        """
        Give the name of a column.

        Raises:
            InvalidShapeError: it is none of this table.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelShape:
    """
    A shape of a model; made by `shape()`. A value: each step gives another one.

    Attributes:
        definition: table, condition, parameters and columns, to be sent or to be given to authorisation.
    """

    definition: TableShape
    _source: Source = field(repr=False, compare=False)
    _condition: Expression = field(repr=False)

    @classmethod
    def of(cls, source: Source) -> Self:
        """
        Begin with a model or a query.

        Raises:
            InvalidShapeError: a shape cannot be of it.
        """
        schema, name = source.table
        table = quote_name(name) if schema in {"", "public"} else f"{quote_name(schema)}.{quote_name(name)}"
        definition = TableShape(table, columns=_check_columns(source.columns, source))
        return cls(definition, source, expressions.TRUE)._with(source.condition)  # noqa: SLF001  our own

    def where(self, *conditions: Any) -> Self:
        """
        Leave only the rows of which these conditions hold as well.

        Args:
            conditions: expressions of SQLAlchemy, or `Q` objects of Django.

        Raises:
            InvalidShapeError: a shape cannot have one; the message names the construct, and what to do instead.
        """
        return self._with(*(self._source.read_condition(condition) for condition in conditions))

    def columns(self, *columns: Any) -> Self:
        """
        Leave only these columns; those of the primary key must be among them.

        Args:
            columns: attributes or columns of the model, or names of its fields.

        Raises:
            InvalidShapeError: one is not of the table, or the key is left out.
        """
        names = tuple(dict.fromkeys(self._source.read_column(column) for column in columns))
        return replace(self, definition=replace(self.definition, columns=_check_columns(names, self._source)))

    def _with(self, *conditions: Expression) -> Self:
        joined = expressions.join([self._condition, *conditions])
        if joined == expressions.TRUE:
            return self
        written = expressions.write(joined)
        check(written)
        return replace(
            self,
            definition=replace(self.definition, where=written.text, params=written.params),
            _condition=joined,
        )


def _check_columns(names: Sequence[str], source: Source) -> tuple[str, ...]:
    missing = [name for name in source.key if name not in names]
    if names and missing:
        raise InvalidShapeError(
            "columns",
            f"the columns leave out {missing[0]}, which is of the primary key of {source.name}: clients tell rows apart "
            "by it, so add it",
        )
    return tuple(names)


def check(written: Written) -> None:
    """
    Have a condition understood before it is sent, as far as the model says what its columns are.

    Raises:
        InvalidShapeError: the service would refuse it.
    """
    if any(column.type is None for column in written.columns):
        return
    names = sorted({column.enum for column in written.columns if column.enum})
    oids = {name: _ENUM_OID + 2 * number for number, name in enumerate(names)}
    enums = {}
    columns = []
    for column in written.columns:
        assert column.type is not None
        oid = OID_BY_TYPE.get(column.type, 1)
        if column.enum:
            at = oids[column.enum]
            oid = at + is_array(column.type)
            enums[at] = enums[at + 1] = EnumType(at, "", column.enum, column.labels)
        columns.append(Column(column.name, oid, -1, column.enum or element(column.type), int(is_array(column.type))))
    try:
        compile_where(written.text, written.params, columns, DatabaseFacts(enums=enums))
    except InvalidShapeError as refused:
        raise InvalidShapeError(
            "where", f"a shape cannot have the condition {written.text}: {refused.message}"
        ) from None
