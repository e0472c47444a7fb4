"""
What of a table decides its rows without being in the rows: its partitions, and the words that its types are written with.

Rows come and go with a whole partition, and stored values change their text when a label of an enum is renamed or a
composite type gets another attribute. The stream tells of none of it. So the *form* of a table is recorded before the
first snapshot that depends on it, and compared with the catalog ever after; whatever differs in a way that the stream
does not bring ends the shapes of the table.

A partition that is new brings its rows by the stream if it was made as a partition, or has never held any: then nothing
need end. That takes a second look, at those that are new only.

Pure values and functions; the queries are in `queries.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableForm:
    """
    The form of one table.

    Attributes:
        partitions: oids of all partitions below it, at every level; empty for ordinary tables.
        labels: those of all enums that its columns are written with, by the oid of the label, which outlives a rename.
        attributes: those of the composite types likewise, as (number, type), by the oid of the type's relation.
    """

    partitions: frozenset[int]
    labels: Mapping[int, str]
    attributes: Mapping[int, Collection[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class FormChange:
    """
    What became of a form.

    Attributes:
        reason: why shapes on the table do not survive it; None when nothing found so far says so.
        gained: partitions that were not there.
        lost: partitions that are no more.
    """

    reason: str | None
    gained: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()


def parse_form(text: str) -> TableForm:
    """
    Read what the catalog queries answer, and what was recorded of it.
    """
    partitions, labels, attributes = json.loads(text)
    by_type: dict[int, list[tuple[int, int]]] = {}
    for relation, number, type_oid in attributes or ():
        by_type.setdefault(relation, []).append((number, type_oid))
    return TableForm(frozenset(partitions or ()), dict(labels or ()), by_type)


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
    lost = (known.partitions | frozenset(streamed)) - now.partitions
    gained = now.partitions - known.partitions
    reason = None
    if lost:
        reason = "a partition was detached or dropped"
    elif any(now.labels.get(oid, label) != label for oid, label in known.labels.items()):
        reason = "a label of an enum was renamed"
    elif any(now.attributes.get(oid, fields) != fields for oid, fields in known.attributes.items()):
        reason = "a composite type was altered"
    return FormChange(reason, gained, lost)
