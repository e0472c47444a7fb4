"""
Changes as elements, once for all shapes that are served the same of a table.

Two shapes share a projection when their definitions differ in nothing but the condition and the kind of log. What a
projection makes of a change is kept with the change, and what it makes of a list of changes is kept for as long as the
caller says (one delivery), so that the thousandth shape is handed references.

Pure. Invariants: the result depends on the change, its transaction and the projection alone; it is either a list of
elements or the reason why no shape of this projection can follow the change.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from penstock.collector.abc import RoutedChange, RoutedPart
from penstock.consumers.schema_check import check_description
from penstock.errors import ShapeError
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Operation
from penstock.shapes.definition import LogMode, Replica, ShapeDefinition
from penstock.wire.messages import headers_end, mark_last
from penstock.wire.rows import Elements, RowEncoder, RowForm, compile_encoder

Element: TypeAlias = tuple[int, bytes]

_DESCRIPTIONS_COUNT_MAX: Final = 1024
"""Encoders kept by one projection, one for each partition in use; at the limit all are compiled anew."""


class Rotate(NamedTuple):
    """
    The log of the shape cannot be continued.

    Attributes:
        reason: in words for operators.
    """

    reason: str


class Converted(NamedTuple):
    """
    What a list of changes became.

    Attributes:
        plain: the elements.
        marked: the same, with the last one marked as the last of its transaction.
    """

    plain: Sequence[Element]
    marked: Sequence[Element]


Shared: TypeAlias = dict[tuple[int, "Projection"], Converted | Rotate]
"""
What lists of changes became, by identity of list and projection. Valid only while the lists are alive: for one delivery.
"""

_EMPTY: Final = Converted((), ())


class Projection:
    """
    What a group of shapes is served of one table.
    """

    __slots__ = ("__weakref__", "_definition", "_encoder", "_encoders", "_form", "_relation")

    def __init__(self, definition: ShapeDefinition) -> None:
        """
        Serve what this definition says, leaving aside its condition and kind of log.
        """
        self._definition: Final = definition
        self._form: Final = RowForm(
            definition.table.schema,
            definition.table.name,
            definition.key_columns,
            definition.selected,
            definition.replica is Replica.FULL,
        )
        self._relation: RelationDescription | None = None
        self._encoder: RowEncoder | Rotate = Rotate("no description yet")
        self._encoders: dict[RelationDescription, RowEncoder | Rotate] = {}

    @property
    def definition(self) -> ShapeDefinition:
        """
        One of the definitions that are served this.
        """
        return self._definition

    def convert(self, part: RoutedPart) -> Converted | Rotate:
        """
        Make the elements of all changes of a part.
        """
        end = headers_end(part.xid, part.commit_lsn.value)
        plain: list[Element] = []
        for change in part.changes:
            elements = change.encoded.get(self)
            if elements is None:
                made = self._encode(change, end)
                if isinstance(made, Rotate):
                    return made
                elements = change.encoded[self] = made
            plain.extend(elements)
        if not plain:
            return _EMPTY
        op, element = plain[-1]
        return Converted(plain, [*plain[:-1], (op, mark_last(element))])

    def _encode(self, change: RoutedChange, end: bytes) -> Elements | Rotate:
        if change.operation is Operation.TRUNCATE:
            return Rotate("table was truncated")
        if change.is_old_missing:
            return Rotate("a row came without its old values: replica identity is not full")
        encoder = self._encoder if change.relation is self._relation else self._take_description(change.relation)
        if isinstance(encoder, Rotate):
            return encoder
        old, new = change.old, change.new
        match change.operation:
            case Operation.INSERT:
                assert new is not None
                return encoder.insert(new, end, change.op_position)
            case Operation.UPDATE:
                assert old is not None
                assert new is not None
                return encoder.update(old, new, end, change.op_position)
            case Operation.DELETE:
                assert old is not None
                return encoder.delete(old, end, change.op_position)

    def _take_description(self, relation: RelationDescription) -> RowEncoder | Rotate:
        encoder = self._encoders.get(relation)
        if encoder is None:
            reason = check_description(relation, self._definition)
            try:
                encoder = Rotate(reason) if reason is not None else compile_encoder(relation.columns, self._form)
            except ShapeError as error:
                encoder = Rotate(error.message)
            if len(self._encoders) >= _DESCRIPTIONS_COUNT_MAX:
                self._encoders.clear()
            self._encoders[relation] = encoder
        self._relation = relation
        self._encoder = encoder
        return encoder


class Projections:
    """
    Gives shapes that are served the same one projection; forgets those that no shape holds any more.
    """

    def __init__(self) -> None:
        """
        Begin with none.
        """
        self._known: Final[weakref.WeakValueDictionary[bytes, Projection]] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, definition: ShapeDefinition) -> Projection:
        """
        Find or make the projection of a definition.
        """
        bare = msgspec.structs.replace(definition, where=None, log=LogMode.FULL)
        key = bare.canonical()
        projection = self._known.get(key)
        if projection is None:
            projection = self._known[key] = Projection(bare)
        return projection
