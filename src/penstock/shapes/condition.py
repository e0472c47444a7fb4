"""
The condition of a shape, as it is asked of rows in the stream.

Owns the way from a stored definition to a compiled clause (no catalog is asked: the definition holds what the clause was
understood under), and the binding of a clause to descriptions of tables, which may order their columns differently.

Conditions are one object for all shapes with the same text, types and facts, as long as somebody holds it; its clause is
compiled once, and given up when the index has taken what it needs of it. So are mappings of letters, which are too large to be in every definition: a definition has the name of one,
and whoever keeps definitions keeps the mappings that they name. Pure, but for these two memories.
"""

from __future__ import annotations

import functools
import hashlib
import re
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from penstock.errors import InvalidShapeError
from penstock.postgres.relation import Column, RelationDescription
from penstock.shapes.definition import ConditionBasis, ConditionColumn, ConditionEnum, ShapeColumn, ShapeDefinition
from penstock.where.clause import Clause, compile_where
from penstock.where.facts import CaseMapping, DatabaseFacts, EnumType
from penstock.where.template import Includes

DESCRIPTIONS_COUNT_MAX: Final = 1024
"""Descriptions for which a condition stays bound, one for each partition in use; at the limit all are bound anew."""

_Types: TypeAlias = tuple[tuple[str, int, int], ...]


class Condition:
    """
    A condition that compiles, and the types of the columns it reads.

    It holds no more than it takes to compile it again: many shapes are there, and few of them are asked something that
    an index does not answer.

    Attributes:
        types: by column, type oid and modifier that it was made for.
    """

    __slots__ = ("__weakref__", "_basis", "_bound", "_clause", "_where", "types")

    def __init__(self, where: str, basis: ConditionBasis, types: Mapping[str, tuple[int, int]]) -> None:
        """
        Compile it, bound to no description.

        Raises:
            InvalidShapeError: this version does not understand a text that another one stored.
        """
        self._where: Final = where
        self._basis: Final = basis
        self.types: Final = types
        self._clause: Clause | None = self._compile()
        # By identity, because a description is long to compare; kept with it, so that the identity is not used again.
        self._bound: dict[int, tuple[RelationDescription, Includes | None]] | None = None

    def _compile(self) -> Clause:
        return compile_where(self._where, (), _columns(self._basis, self.types), _facts(self._basis), is_accepted=True)

    @property
    def clause(self) -> Clause:
        """
        The clause; compiled again after `release`.
        """
        if self._clause is None:
            self._clause = self._compile()
        return self._clause

    def examine(self) -> None:
        """
        Do what binding will do, for what it may refuse.

        Raises:
            InvalidShapeError: it does.
        """
        if self._clause is not None:
            _ = self._clause.truth

    def release(self) -> None:
        """
        Give the clause up, until it is asked for again.
        """
        self._clause = None

    def includes(self, relation: RelationDescription) -> Includes | None:
        """
        Give the function that tells whether a row of this description is included.

        Returns:
            None when a column of the condition is not there as it was, or this version cannot evaluate what another one
            accepted: nobody can tell.
        """
        bound = self._bound
        if bound is None:
            bound = self._bound = {}
        known = bound.get(id(relation))
        if known is not None:
            return known[1]
        if len(bound) >= DESCRIPTIONS_COUNT_MAX:
            bound.clear()
        includes = self._bind(relation)
        bound[id(relation)] = (relation, includes)
        return includes

    def _bind(self, relation: RelationDescription) -> Includes | None:
        found = {column.name: (column.type_oid, column.typmod) for column in relation.columns}
        if any(found.get(name) != type_ for name, type_ in self.types.items()):
            return None
        try:
            return self.clause.compile_filter([column.name for column in relation.columns])
        except InvalidShapeError:
            # Code of another version accepted it.
            return None


_cases: Final[dict[str, CaseMapping]] = {}
_CASE_DECODER: Final = msgspec.msgpack.Decoder(tuple[dict[int, int], dict[int, int]])
# Too many found are harmless; one that is not found is mapped as in `COLLATE "C"`, by everybody.
_LETTERS: Final = re.compile(r"lower|upper|ilike|~~\*", re.IGNORECASE)

LATEST_COUNT_MAX: Final = 16
"""Conditions held though no shape has them: whoever makes a shape asks for its condition several times before one does."""

_latest: Final[deque[Condition]] = deque(maxlen=LATEST_COUNT_MAX)
_conditions: Final[weakref.WeakValueDictionary[tuple[str, ConditionBasis, _Types], Condition]] = (
    weakref.WeakValueDictionary()
)


def condition_of(definition: ShapeDefinition) -> Condition | None:
    """
    Compile the condition of a definition, or find it compiled; None when it has none.

    Raises:
        InvalidShapeError: this version does not understand a text that another one stored.
    """
    if definition.where is None:
        return None
    basis = definition.basis
    assert basis is not None, "a definition with a clause has a basis"
    types = _types_of(definition.columns, basis.columns)
    key = (definition.where, basis, types.listed)
    condition = _conditions.get(key)
    if condition is None:
        condition = _conditions[key] = Condition(definition.where, basis, types.by_name)
        _latest.append(condition)
    return condition


class _ReadTypes(NamedTuple):
    listed: _Types
    by_name: Mapping[str, tuple[int, int]]


@functools.lru_cache(maxsize=4096)
def _types_of(columns: tuple[ShapeColumn, ...], read: tuple[ConditionColumn, ...]) -> _ReadTypes:
    """
    Give the types of the columns that a condition reads: one object for all conditions that read the same ones.
    """
    types = {column.name: (column.type_oid, column.typmod) for column in columns}
    mine = {column.name: types[column.name] for column in read}
    return _ReadTypes(tuple((name, *type_) for name, type_ in mine.items()), mine)


def needs_letters(where: str) -> bool:
    """
    Tell whether a condition may depend on how letters are mapped to their cases.
    """
    return _LETTERS.search(where) is not None


def know_letters(data: bytes) -> str:
    """
    Learn a mapping of letters, as `letters_of` gives it; answers its name.
    """
    name = hashlib.blake2b(data, digest_size=12).hexdigest()
    if name not in _cases:
        _cases[name] = CaseMapping(*_CASE_DECODER.decode(data))
    return name


def letters_of(name: str) -> bytes:
    """
    Give a mapping that is known, for keeping.
    """
    return _encode_case(_cases[name])


def _encode_case(mapping: CaseMapping) -> bytes:
    return msgspec.msgpack.encode((dict(sorted(mapping.lower.items())), dict(sorted(mapping.upper.items()))))


def _columns(basis: ConditionBasis, types: Mapping[str, tuple[int, int]]) -> list[Column]:
    return [
        Column(
            column.name,
            *types[column.name],
            column.type_name,
            column.dims,
            is_enum=column.is_enum,
            collation=column.collation,
        )
        for column in basis.columns
    ]


def _facts(basis: ConditionBasis) -> DatabaseFacts:
    return DatabaseFacts(
        encoding=basis.encoding,
        is_byte_ordered=basis.is_byte_ordered,
        case=_case(basis.case),
        enums={
            oid: EnumType(enum.enum_oid, enum.schema, enum.name, None)
            for enum in basis.enums
            for oid in (enum.oid, enum.enum_oid)
        },
        domains=dict(basis.domains),
    )


def _case(name: str) -> CaseMapping | None:
    if not name:
        return None
    mapping = _cases.get(name)
    if mapping is None:
        raise InvalidShapeError("where", "the mapping of letters that the condition was made for is not known any more")
    return mapping


def basis_of(clause: Clause, columns: Sequence[Column]) -> ConditionBasis:
    """
    Say under what a clause was understood, so far as it matters to its columns.
    """
    facts = clause.facts
    read = {column.name: column for column in columns if column.name in clause.columns}
    oids = {column.type_oid for column in read.values()}
    oids |= {facts.domains[oid] for oid in oids if oid in facts.domains}
    return ConditionBasis(
        columns=tuple(
            ConditionColumn(name, column.type_name, column.dims, column.is_enum, column.collation)
            for name, column in sorted(read.items())
        ),
        encoding=facts.encoding,
        is_byte_ordered=facts.is_byte_ordered,
        case=know_letters(_encode_case(facts.case)) if facts.case and needs_letters(clause.normalised) else "",
        enums=tuple(
            ConditionEnum(oid, enum.oid, enum.schema, enum.name)
            for oid, enum in sorted(facts.enums.items())
            if oid in oids
        ),
        domains=tuple(sorted((oid, base) for oid, base in facts.domains.items() if oid in oids)),
    )


def shape_columns(columns: Sequence[Column]) -> tuple[ShapeColumn, ...]:
    """
    Give the columns of a table as a definition keeps them.
    """
    return tuple(ShapeColumn(column.name, column.type_oid, column.typmod) for column in columns)
