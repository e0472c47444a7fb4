"""
Streams of changes as Hypothesis draws them: tables, messages, whole connections, and damage to any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypothesis import strategies as st

from harness.stream import INT_OID, TEXT_OID, keepalive, table, transaction
from penstock.postgres.relation import RelationDescription, StreamColumn, TableId
from penstock.replication.encode import (
    UNCHANGED,
    Value,
    encode_delete,
    encode_insert,
    encode_relation,
    encode_truncate,
    encode_update,
)

TABLES: Final = (
    table(1, "id", name="one"),
    table(2, "id", "v", name="two", type_oid=INT_OID),
    RelationDescription(
        TableId(3, "s", "mixed"),
        "f",
        (
            StreamColumn("i", INT_OID, -1, True),
            StreamColumn("t", TEXT_OID, -1, False),
            StreamColumn("b", 16, -1, False),
        ),
    ),
)

texts = st.binary(max_size=12)
values = st.none() | texts | st.binary(min_size=250, max_size=255)


def rows(count: int) -> st.SearchStrategy[tuple[bytes | None, ...]]:
    return st.tuples(*[values] * count)


@st.composite
def changes(draw: st.DrawFn) -> bytes:
    """
    A message that changes a row or empties tables.
    """
    description = draw(st.sampled_from(TABLES))
    oid, count = description.id.oid, len(description.columns)
    kind = draw(st.sampled_from("IUDTK"))
    if kind == "I":
        return encode_insert(oid, draw(rows(count)))
    if kind == "T":
        return encode_truncate(draw(st.lists(st.sampled_from([1, 2, 3]), max_size=3)))
    old = draw(rows(count))
    if kind == "D":
        return encode_delete(oid, old=old)
    new: list[Value] = [UNCHANGED if draw(st.booleans()) else value for value in draw(rows(count))]
    return encode_update(oid, new, old=old) if kind == "U" else encode_update(oid, new, key=old)


DESCRIPTIONS: Final = [encode_relation(each) for each in TABLES]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """
    The payloads of a connection: transactions of all sizes, with descriptions before use and keepalives in between.
    """
    payloads: list[bytes] = []
    position = 100
    is_described = False
    for _ in range(draw(st.integers(0, 6))):
        messages = draw(st.lists(changes(), max_size=5))
        if messages and (not is_described or draw(st.booleans())):
            messages = [*DESCRIPTIONS, *messages]
            is_described = True
        payloads += transaction(position, *messages, xid=position)
        position += 50
        if draw(st.booleans()):
            payloads.append(keepalive(position - 20, is_reply_requested=draw(st.booleans())))
    return payloads


def cuts(length: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, length), max_size=8).map(lambda places: [0, *sorted(places), length])


@st.composite
def damaged(draw: st.DrawFn, source: Callable[[st.DrawFn], bytes]) -> bytes:
    """
    Bytes with a few of them changed, removed or added.
    """
    raw = bytearray(source(draw))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        patch = draw(st.binary(max_size=4))
        raw[place : place + draw(st.integers(0, 4))] = patch
    return bytes(raw)
