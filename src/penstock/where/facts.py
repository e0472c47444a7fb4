"""
What must be read from the catalog, beside a table's columns, before a condition can be understood.

Owns the values and the queries that fill them; running the queries is a shell's business. Everything here is part of what
a condition means, so it is recorded with the shape and not asked again on replay. Pure values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class EnumType:
    """
    An enum that a column of the table has.

    Attributes:
        oid: of the enum itself, not of its array type.
        schema: where it lives.
        name: its name.
        labels: its labels; a literal must be one of them. None when that was seen to before.
    """

    oid: int
    schema: str
    name: str
    labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class CaseMapping:
    """
    How the database's collation maps letters, each by itself. Read once and compared by identity.

    Attributes:
        lower: code point to its lower case, only where it differs.
        upper: likewise.
    """

    lower: Mapping[int, int]
    upper: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """
    What conditions need to know about the database.

    Attributes:
        encoding: `pg_encoding_to_char(encoding)`.
        is_byte_ordered: whether text provably compares by bytes in the database's collation (`parse_database`).
        case: how `lower`, `upper` and ILIKE map letters in the database's collation; None when it is not letter by
            letter or not known, and then they are pinned to `COLLATE "C"`, which maps ASCII alone.
        enums: by type oid, for enum columns and arrays of enums (by the enum's oid or the array's oid).
        domains: by type oid, the oid of the base type, for columns whose type is a domain.
    """

    encoding: str = "UTF8"
    is_byte_ordered: bool = False
    case: CaseMapping | None = None
    enums: Mapping[int, EnumType] = field(default_factory=dict)
    domains: Mapping[int, int] = field(default_factory=dict)


NO_FACTS: Final = DatabaseFacts()
"""What is always safe to assume: text order and letters are pinned, enums and domains are not known."""

DATABASE: Final = """
SELECT pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, d.datlocprovider::text,
  COALESCE(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale')
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
"""One row, for `parse_database`. Postgres 14 has no `datlocprovider`; there `'c'` stands for it."""

CASES: Final = """
SELECT code::text, pg_catalog.ascii(pg_catalog.lower(pg_catalog.chr(code)))::text,
  pg_catalog.ascii(pg_catalog.upper(pg_catalog.chr(code)))::text
FROM pg_catalog.generate_series(1, 1114111) AS code
WHERE code NOT BETWEEN 55296 AND 57343
  AND (pg_catalog.lower(pg_catalog.chr(code)) <> pg_catalog.chr(code)
    OR pg_catalog.upper(pg_catalog.chr(code)) <> pg_catalog.chr(code))
"""
"""Rows for `parse_cases`; about a second, once per database, and only where `maps_letter_by_letter`."""

ENUMS: Final = """
SELECT t.oid::text, t.typarray::text, n.nspname, t.typname,
  (SELECT pg_catalog.array_to_json(pg_catalog.array_agg(e.enumlabel ORDER BY e.enumsortorder))::text
   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype = 'e' AND (t.oid = ANY ($1::oid[]) OR t.typarray = ANY ($1::oid[]))
"""
"""The enums among a table's column types, for `parse_enums`; `$1` is the array of type oids."""

DOMAINS: Final = """
WITH RECURSIVE d(oid, base) AS (
  SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.typtype = 'd' AND t.oid = ANY ($1::oid[])
  UNION ALL
  SELECT d.oid, t.typbasetype FROM d JOIN pg_catalog.pg_type t ON t.oid = d.base WHERE t.typtype = 'd'
)
SELECT d.oid::text, d.base::text FROM d JOIN pg_catalog.pg_type t ON t.oid = d.base WHERE t.typtype <> 'd'
"""
"""The domains among a table's column types, for `parse_domains`."""

_BYTE_ORDERED: Final = frozenset({"C", "POSIX", "C.UTF-8", "C.UTF8"})
# In these encodings the order of code points, which is that of UTF-8, is the order of the stored bytes.
_ORDERED_ENCODINGS: Final = frozenset({"UTF8", "LATIN1"})


def maps_letter_by_letter(encoding: str, provider: str) -> bool:
    """
    Tell whether `lower` and `upper` of a database map each letter by itself: libc does so in UTF-8, ICU does not.
    """
    return encoding == "UTF8" and provider == "c"


def is_byte_ordered(encoding: str, collate: str, provider: str, locale: str | None) -> bool:
    """
    Tell whether text provably compares by bytes. A libc `C.UTF-8` does, by what every libc that has it promises.
    """
    if encoding not in _ORDERED_ENCODINGS:
        return False
    if provider == "c":
        return collate in _BYTE_ORDERED
    return provider == "b" and (locale or "") in {"C", "C.UTF-8", "C.UTF8", "PG_UNICODE_FAST"}


def parse_database(row: Sequence[str | None]) -> DatabaseFacts:
    """
    Read the row of `DATABASE`; letters are pinned until `parse_cases` has told more.
    """
    encoding, collate, _, provider, locale = row
    ordered = is_byte_ordered(encoding or "", collate or "", provider or "c", locale)
    return DatabaseFacts(encoding=encoding or "", is_byte_ordered=ordered)


def parse_enums(rows: Sequence[Sequence[str | None]]) -> dict[int, EnumType]:
    """
    Read the rows of `ENUMS`.
    """
    enums: dict[int, EnumType] = {}
    for oid, array_oid, schema, name, labels in rows:
        assert oid is not None
        assert array_oid is not None
        assert schema is not None
        assert name is not None
        enum = EnumType(int(oid), schema, name, tuple(json.loads(labels or "[]")))
        enums[int(oid)] = enums[int(array_oid)] = enum
    return enums


def parse_domains(rows: Sequence[Sequence[str | None]]) -> dict[int, int]:
    """
    Read the rows of `DOMAINS`.
    """
    return {int(oid): int(base) for oid, base in rows if oid is not None and base is not None}


def parse_cases(rows: Sequence[Sequence[str | None]]) -> CaseMapping:
    """
    Read the rows of `CASES`.
    """
    lower, upper = {}, {}
    for code, low, high in rows:
        assert code is not None
        assert low is not None
        assert high is not None
        if low != code:
            lower[int(code)] = int(low)
        if high != code:
            upper[int(code)] = int(high)
    return CaseMapping(lower, upper)
