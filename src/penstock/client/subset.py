"""
Subsets: some rows of a shape as the database has them now, read beside its log.

What to ask, what the answer means, and which changes of the log the rows show already. Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import msgspec

from penstock.client.stream import Message
from penstock.errors import ProtocolError
from penstock.postgres.snapshot import Snapshot

Texts: TypeAlias = dict[str, str | None]
"""A row or a part of one, as Postgres writes it."""


class SubsetOptions(TypedDict, total=False):
    """
    Which rows of a shape to read; all options may be left out.

    Attributes:
        where: a further condition, without subqueries.
        params: the values of its `$1`, `$2` …
        order_by: columns with `ASC` or `DESC` and `NULLS FIRST` or `NULLS LAST`, separated by commas.
        limit: how many rows at most; needs `order_by`.
        offset: how many rows to skip; needs `order_by`.
    """

    where: str | None
    params: Sequence[object]
    order_by: str
    limit: int
    offset: int


class _Metadata(msgspec.Struct):
    xmin: str
    xmax: str
    xip_list: list[str]
    database_lsn: str


class _Row(msgspec.Struct):
    key: str
    value: dict[str, str | None]


class _Answer(msgspec.Struct):
    metadata: _Metadata
    data: list[_Row]


@dataclass(frozen=True, slots=True)
class SubsetRows:
    """
    The rows of a subset, in its order, and of when they are.

    Attributes:
        texts: the rows by key.
        snapshot: which transactions they show.
        lsn: once the log has passed this position, everything they show has come by.
    """

    texts: dict[str, Texts]
    snapshot: Snapshot
    lsn: int

    def shows(self, message: Message) -> bool:
        """
        Tell whether a change of the log is one that these rows have in them.
        """
        xids = message["headers"].get("txids", ())
        return bool(xids) and message["key"] in self.texts and all(self.snapshot.sees(xid) for xid in xids)


def subset_query(options: SubsetOptions, params: Sequence[str]) -> Mapping[str, str]:
    """
    Give the parameters that make a request one for a subset.

    Args:
        options: which rows.
        params: the values of the condition, as text.
    """
    query: dict[str, Any] = {name: value for name, value in options.items() if value is not None and name != "params"}
    if params:
        query["params"] = msgspec.json.encode({str(index): text for index, text in enumerate(params, start=1)}).decode()
    # A subset of everything has no parameter of its own that would tell it from a request for the log.
    query.setdefault("where", "true")
    return {f"subset__{name}": str(value) for name, value in query.items()}


def read_subset(body: bytes) -> SubsetRows:
    """
    Read an answer.

    Raises:
        ProtocolError: it is not one.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        of = answer.metadata
        snapshot = Snapshot(int(of.xmin), int(of.xmax), frozenset(map(int, of.xip_list)))
        return SubsetRows({row.key: row.value for row in answer.data}, snapshot, int(of.database_lsn))
    except (msgspec.DecodeError, ValueError) as cause:
        raise ProtocolError("the answer is not a subset: does this server know subsets?") from cause
