"""
What requests mean: the table as the catalog of the database knows it, and the definition that follows.

Form: shell over `resolve`, which decides. It asks the inspector, and remembers what it found by what was asked, for as
long as the table is the same.

Limits: `resolved_count_max` requests remembered; beyond that all are forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec

from penstock.consumers.abc import Inspector
from penstock.consumers.resolve import resolve_shape, resolve_table_name, unknown_table
from penstock.errors import ConnectionLostError, InvalidShapeError
from penstock.postgres.relation import Table
from penstock.shapes.condition import Condition, condition_of, needs_letters
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.reading import ShapeRequest
from penstock.where.facts import NO_FACTS
from penstock.wire.schema import schema_header

LONG_CLAUSE_LENGTH: Final = 2000
"""Longer texts are compiled in a thread: one of the greatest length takes more than a second."""

_ENCODER: Final = msgspec.msgpack.Encoder()


class Resolved(NamedTuple):
    """
    What a request means.
    """

    table: Table
    definition: ShapeDefinition
    key: bytes
    schema: str
    condition: Condition | None
    """Held so that it need not be compiled again."""


class Resolver:
    """
    Finds out what requests mean.
    """

    def __init__(
        self,
        inspector: Inspector,
        *,
        are_generated_published: Callable[[], bool],
        is_made: Callable[[bytes], bool],
        resolved_count_max: int,
    ) -> None:
        """
        Know of nothing yet.

        Args:
            inspector: the catalog of the database.
            are_generated_published: whether the stream brings generated columns.
            is_made: whether there is a shape for the key of a definition.
            resolved_count_max: how many requests are remembered.
        """
        self._inspector: Final = inspector
        self._are_generated_published: Final = are_generated_published
        self._is_made: Final = is_made
        self._resolved_count_max: Final = resolved_count_max
        self._resolved: Final[dict[bytes, Resolved]] = {}

    def known(self, request: ShapeRequest) -> Resolved | None:
        """
        Give what the request meant when it was last asked; None when that is not remembered.
        """
        return self._resolved.get(_request_key(request))

    async def resolve(self, request: ShapeRequest) -> Resolved:
        """
        Find out what it means now.

        Raises:
            PenstockError: it means nothing, or the database does not answer and no shape is there for what it meant.
        """
        name = resolve_table_name(request)
        asked = _request_key(request)
        known = self._resolved.get(asked)
        try:
            table = await self._inspector.find_table(*name)
        except ConnectionLostError:
            if known is not None and self._is_made(known.key):
                return known
            raise
        if table is None:
            raise unknown_table(name)
        if known is not None and known.table is table:
            return known
        try:
            return await self._remember(request, asked, table)
        except InvalidShapeError:
            # The table may have changed since it was last looked at.
            self._inspector.forget(table.id.oid)
            table = await self._inspector.find_table(*name)
            if table is None:
                raise unknown_table(name) from None
            return await self._remember(request, asked, table)

    async def _remember(self, request: ShapeRequest, asked: bytes, table: Table) -> Resolved:
        facts = NO_FACTS
        clauses = request.clauses
        if clauses:
            facts = await self._inspector.find_facts(table, with_letters=any(map(needs_letters, clauses)))
        resolve = partial(
            resolve_shape, request, table, are_generated_published=self._are_generated_published(), facts=facts
        )
        is_long = sum(map(len, clauses)) > LONG_CLAUSE_LENGTH
        definition = await asyncio.to_thread(resolve) if is_long else resolve()
        schema = schema_header(table, definition.selected).decode()
        resolved = Resolved(table, definition, definition.identity(), schema, condition_of(definition))
        if len(self._resolved) >= self._resolved_count_max:
            self._resolved.clear()
        self._resolved[asked] = resolved
        return resolved


def _request_key(request: ShapeRequest) -> bytes:
    """
    Give what two requests share that mean the same shape.
    """
    return _ENCODER.encode(
        (
            request.table,
            request.columns,
            request.queryable_columns,
            request.where,
            request.params,
            request.replica,
            request.log,
            request.rules,
        )
    )
