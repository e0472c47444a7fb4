"""
What of a table decides its rows without being in the rows: its partitions, its columns, and the words that its types are
written with.

Rows come and go with a whole partition. Stored values change when a column is replaced by another of its name, when the
table is rewritten by an expression, when a label of an enum is renamed, when a composite type gets another attribute.
The stream tells of none of it. So the *form* of a table is recorded before the
first snapshot that depends on it, and compared with the catalog ever after; whatever differs in a way that the stream
does not bring ends the shapes of the table.

A partition that is new brings its rows by the stream if it was made as a partition, or has never held any: then nothing
need end. That takes a second look, at those that are new only.

Pure values and functions; the queries are in `queries.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TableForm:
    """
    The form of one table.

    Attributes:
        partitions: all partitions below it, at every level, by oid: a text that names when each and what is above it was
            attached; empty for ordinary tables.
        labels: those of all enums that its columns are written with, by the oid of the label, which outlives a rename.
        attributes: those of the composite types likewise, as (number, type), by the oid of the type's relation.
        columns: by name, their numbers, which are never used again, and the transactions that defined them last.
        files: where the rows of the table and its partitions lie, by oid; another file for each time all are written anew.
    """

    partitions: Mapping[int, str]
    labels: Mapping[int, str]
    attributes: Mapping[int, Collection[tuple[int, int]]]
    columns: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    files: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FormChange:
    """
    What became of a form.

    Attributes:
        reason: why shapes on the table do not survive it; None when nothing found so far says so.
        columns: whose values became others; None for whole rows.
        gained: partitions that were not there, or were away in between.
        lost: partitions that are no more, or were away in between.
    """

    reason: str | None
    columns: frozenset[str] | None = None
    gained: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()


def parse_form(text: str) -> TableForm:
    """
    Read what the catalog queries answer, and what was recorded of it.
    """
    partitions, labels, attributes, columns, files = json.loads(text)
    by_type: dict[int, list[tuple[int, int]]] = {}
    for relation, number, type_oid in attributes or ():
        by_type.setdefault(relation, []).append((number, type_oid))
    defined = {name: (number, transaction) for name, number, transaction in columns or ()}
    return TableForm(dict(partitions or ()), dict(labels or ()), by_type, defined, dict(files or ()))


def compare_forms(known: TableForm, now: TableForm, *, streamed: Collection[int] = ()) -> FormChange:
    """
    Tell what the stream does not bring of the way from one form to the other.

    Enums and composite types that appear or disappear do so with columns, which are compared elsewhere.

    Args:
        known: what the shapes depend on.
        now: what the catalog says.
        streamed: partitions of which the stream has brought rows, recorded before the catalog was asked: one that came
            and went between two looks took rows with it that shapes have.
    """
    before, after = set(known.partitions.items()), set(now.partitions.items())
    lost = frozenset(oid for oid, _ in before - after) | (frozenset(streamed) - now.partitions.keys())
    gained = frozenset(oid for oid, _ in after - before)
    reason, columns = None, None
    if lost:
        reason = "a partition was detached or dropped"
    elif any(now.labels.get(oid, label) != label for oid, label in known.labels.items()):
        reason = "a label of an enum was renamed"
    elif any(now.attributes.get(oid, fields) != fields for oid, fields in known.attributes.items()):
        reason = "a composite type was altered"
    else:
        reason, columns = _compare_columns(known, now)
    return FormChange(reason, columns, gained, lost)


def _compare_columns(known: TableForm, now: TableForm) -> tuple[str | None, frozenset[str] | None]:
    """
    Find values that became others where name and type of their column stayed.

    A rewritten file alone is harmless (VACUUM FULL, CLUSTER), and so is a column defined anew (a default, a comment);
    both at once may be ALTER COLUMN ... TYPE ... USING.
    """
    before, after = known.columns, now.columns
    shared = before.keys() & after.keys()
    replaced = {name for name in shared if before[name][0] != after[name][0]}
    redefined = {name for name in shared if before[name] != after[name]}
    if redefined and any(now.files.get(oid, file) != file for oid, file in known.files.items()):
        return "the table was rewritten", frozenset(redefined)
    if replaced:
        return "a column was replaced by another of its name", frozenset(replaced)
    return None, None
