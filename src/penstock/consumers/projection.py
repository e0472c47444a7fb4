"""
Changes as elements, once for all shapes that are served the same of a table.

Two shapes share a projection when their definitions differ in nothing but the kind of log; a `Selection` is the
projection of shapes with a condition, and has its elements made by the projection of the same shapes without one. What
is made of a change for shapes with a condition is kept with the change, and what is made of a list of changes is kept
for as long as the caller says (one delivery), so that the thousandth shape is handed references.

With a condition, what becomes of a change depends on whether the row was in the shape before and is in it after:

======  =====  ==============================================================================================
before  after  elements
======  =====  ==============================================================================================
no      no     none
no      yes    an insert of the whole new row
yes     no     a delete of the old row, under its old key
yes     yes    as without a condition: an update, or a delete and an insert if the key changed, or nothing
======  =====  ==============================================================================================

All stand at the position of the change; only the insert of a changed key stands one behind.

Pure. Invariants: the result depends on the change, its transaction and the projection alone; it is either a list of
elements or the reason why no shape of this projection can follow the change. Only a row for which the condition is true
is in the shape: not one for which it is NULL, nor one on which its evaluation fails.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from penstock.collector.abc import INCLUDES_NEW, INCLUDES_OLD, UNKNOWN, RoutedPart, WholeRun
from penstock.consumers.schema_check import check_description
from penstock.errors import ShapeError
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Change, Operation
from penstock.shapes.condition import Condition, condition_of
from penstock.shapes.definition import LogMode, Replica, ShapeDefinition
from penstock.where.template import Includes
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


Shared: TypeAlias = dict[tuple[int, "Projection"], Sequence[Element] | Rotate]
"""
What lists of changes became, by identity of list and projection. Valid only while the lists are alive: for one delivery.
"""

Transactions: TypeAlias = Sequence[tuple[int, Sequence[Element]]]
"""Whole transactions that have elements: commit LSN and elements of each, in commit order."""

_NOT_TOGETHER: Final = object()

_INCLUDES_BOTH: Final = INCLUDES_NEW | INCLUDES_OLD

_TRUNCATED: Final = Rotate("table was truncated")
_OLD_MISSING: Final = Rotate("a row came without its old values: replica identity is not full")


def _mark(plain: Sequence[Element]) -> Sequence[Element]:
    """
    Mark the last element as the last of its transaction.
    """
    if not plain:
        return ()
    op, element = plain[-1]
    marked = (op, mark_last(element))
    return (marked,) if len(plain) == 1 else [*plain[:-1], marked]


class Projection:
    """
    What a group of shapes is served of one table.
    """

    __slots__ = ("__weakref__", "_definition", "_encoder", "_encoders", "_entered", "_form", "_left", "_relation")

    def __init__(self, definition: ShapeDefinition) -> None:
        """
        Serve what this definition says, leaving aside its kind of log.
        """
        self._definition: Final = definition
        # Under these it is kept with a change what the change is to shapes that a row enters or leaves by it.
        self._entered: Final = object()
        self._left: Final = object()
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

    def convert(self, part: RoutedPart) -> Sequence[Element] | Rotate:
        """
        Make the elements of all changes of a part; if it ends its transaction, the last is marked.
        """
        end = headers_end(part.xid, part.commit_lsn.value)
        if part.changes:
            relation = part.changes[0].relation
            encoder = self._encoder_for(relation)
            if isinstance(encoder, RowEncoder) and encoder.messages is not None:
                together = encoder.messages(part.changes, relation, end)
                if together is not None:
                    return together if part.end is None else _mark(together)
        plain: list[Element] = []
        for change in part.changes:
            elements = self._encode(change, end)
            if isinstance(elements, Rotate):
                return elements
            plain += elements
        return plain if part.end is None else _mark(plain)

    def convert_run(self, run: WholeRun) -> Transactions | None:
        """
        Make the elements of whole transactions, each with its commit LSN, without those that have none.

        Returns:
            None when one of them is out of the ordinary; then they are to be converted one by one.
        """
        known = run.encoded.get(self)
        if known is not None:
            return cast("Transactions", known) if known is not _NOT_TOGETHER else None
        made = self._convert_run(run)
        run.encoded[self] = _NOT_TOGETHER if made is None else made
        return made

    def _convert_run(self, run: WholeRun) -> Transactions | None:
        relation = run.relation
        if relation is None:
            return None
        encoder = self._encoder_for(relation)
        if isinstance(encoder, Rotate):
            return None
        if encoder.transactions is not None:
            return encoder.transactions(run.fragments)
        made: list[tuple[int, Sequence[Element]]] = []
        for fragment in run.fragments:
            commit = fragment.commit_lsn.value
            end = headers_end(fragment.xid, commit)
            plain: list[Element] = []
            for change in fragment.changes:
                if change.is_old_missing:
                    return None
                elements = self._encode(change, end)
                assert not isinstance(elements, Rotate)
                plain += elements
            if plain:
                made.append((commit, _mark(plain)))
        return made

    def kept(self, change: Change, end: bytes) -> Elements | Rotate:
        """
        Make the elements of a change whose rows all are in the shape.
        """
        return self._remembered(change, end, self, self._encode)

    def entered(self, change: Change, end: bytes) -> Elements | Rotate:
        """
        Make the elements of an update that moves a row into the shape.
        """
        return self._remembered(change, end, self._entered, self._encode_entered)

    def left(self, change: Change, end: bytes) -> Elements | Rotate:
        """
        Make the elements of an update that moves a row out of the shape.
        """
        return self._remembered(change, end, self._left, self._encode_left)

    @staticmethod
    def _remembered(
        change: Change, end: bytes, key: object, encode: Callable[[Change, bytes], Elements | Rotate]
    ) -> Elements | Rotate:
        encoded = change.encoded
        if encoded is None:
            encoded = change.encoded = {}
        elements = encoded.get(key)
        if elements is not None:
            return elements
        made = encode(change, end)
        if not isinstance(made, Rotate):
            encoded[key] = made
        return made

    def _encode_entered(self, change: Change, end: bytes) -> Elements | Rotate:
        encoder = self._encoder_for(change.relation)
        assert change.new is not None
        return encoder if isinstance(encoder, Rotate) else encoder.insert(change.new, end, change.op_position)

    def _encode_left(self, change: Change, end: bytes) -> Elements | Rotate:
        encoder = self._encoder_for(change.relation)
        assert change.old is not None
        return encoder if isinstance(encoder, Rotate) else encoder.delete(change.old, end, change.op_position)

    def _encoder_for(self, relation: RelationDescription) -> RowEncoder | Rotate:
        return self._encoder if relation is self._relation else self._take_description(relation)

    def _encode(self, change: Change, end: bytes) -> Elements | Rotate:
        if change.operation is Operation.TRUNCATE:
            return _TRUNCATED
        if change.is_old_missing:
            return _OLD_MISSING
        relation = change.relation
        encoder = self._encoder if relation is self._relation else self._take_description(relation)
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


class Selection(Projection):
    """
    What a group of shapes with the same condition is served of one table.
    """

    __slots__ = ("_condition", "_includes", "_selected_relation", "_whole")

    def __init__(self, definition: ShapeDefinition, condition: Condition, whole: Projection) -> None:
        """
        Serve what this definition says, having elements made by the projection without its condition.
        """
        super().__init__(definition)
        self._condition: Final = condition
        self._whole: Final = whole
        self._selected_relation: RelationDescription | None = None
        self._includes: Includes | Rotate = Rotate("no description yet")

    def convert(self, part: RoutedPart) -> Sequence[Element] | Rotate:
        """
        Make the elements of all changes of a part; if it ends its transaction, the last is marked.
        """
        end = headers_end(part.xid, part.commit_lsn.value)
        plain: list[Element] = []
        verdicts = part.verdicts or repeat(UNKNOWN)
        for change, verdict in zip(part.changes, verdicts):  # noqa: B905 - one of them may have no end
            made = self._judge(change, end) if verdict < 0 else self._convert(change, end, verdict)
            if isinstance(made, Rotate):
                return made
            plain.extend(made)
        return plain if part.end is None else _mark(plain)

    def _judge(self, change: Change, end: bytes) -> Elements | Rotate:
        """
        Evaluate the condition on the rows of a change, and make its elements.
        """
        if change.operation is Operation.TRUNCATE:
            return _TRUNCATED
        if change.is_old_missing:
            return _OLD_MISSING
        relation = change.relation
        includes = self._includes if relation is self._selected_relation else self._select_from(relation)
        if isinstance(includes, Rotate):
            return includes
        old, new = change.old, change.new
        verdict = INCLUDES_OLD if old is not None and includes(old) else 0
        if new is not None and includes(new):
            verdict |= INCLUDES_NEW
        return self._convert(change, end, verdict)

    def _convert(self, change: Change, end: bytes, verdict: int) -> Elements | Rotate:
        """
        Make the elements of a change of which it is known what satisfies the condition.
        """
        if verdict == 0:
            return ()
        if verdict == _INCLUDES_BOTH or change.operation is not Operation.UPDATE:
            return self._whole.kept(change, end)
        return self._whole.entered(change, end) if verdict == INCLUDES_NEW else self._whole.left(change, end)

    def _select_from(self, relation: RelationDescription) -> Includes | Rotate:
        reason = check_description(relation, self._definition)
        # After the check the condition finds its columns as they were.
        includes = self._condition.includes(relation) if reason is None else None
        self._includes = includes if includes is not None else Rotate(reason or "a column of the condition changed")
        self._selected_relation = relation
        return self._includes


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
        served = msgspec.structs.replace(definition, log=LogMode.FULL)
        key = served.canonical()
        projection = self._known.get(key)
        if projection is None:
            projection = self._known[key] = self._make(served)
        return projection

    def _make(self, served: ShapeDefinition) -> Projection:
        condition = condition_of(served)
        if condition is None:
            return Projection(served)
        whole = self.of(msgspec.structs.replace(served, where=None, basis=None))
        return Selection(served, condition, whole)
