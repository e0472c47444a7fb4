"""
Queries that were seen and found valid, by their bytes.

Clients that follow one shape send the same query again and again, and many of them the same one at a time: it is
decoded and checked once. Only what needs no second look is remembered: an authorised request for a log. Everything else
is `None` and takes the long way.

Reducer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from penstock.api import params, subset
from penstock.api.gate import Gate
from penstock.api.params import LogRequest
from penstock.api.plan import Answer

KNOWN_QUERIES_MAX: Final = 4_096
KNOWN_QUERY_BYTES_MAX: Final = 2_048
"""Longer ones are checked each time."""


class KnownQuery:
    """
    A valid query. Equal only to itself, so that it is a cheap key for what depends on it.

    Attributes:
        handle: as the client sent it, for admission.
        request: what it asks for.
    """

    __slots__ = ("handle", "request")

    def __init__(self, handle: str | None, request: LogRequest) -> None:
        self.handle: Final = handle
        self.request: Final = request


class KnownQueries:
    """
    The most recent valid queries.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate: Final = gate
        self._known: Final[OrderedDict[bytes, KnownQuery]] = OrderedDict()

    def find(self, raw: bytes) -> KnownQuery | None:
        """
        Give what a query asks for, None when it is not an authorised and valid request for a log.
        """
        known = self._known.get(raw)
        if known is not None:
            self._known.move_to_end(raw)
            return known
        query = self._gate.read(raw)
        if isinstance(query, Answer):
            return None
        query, asked = subset.fold_query(query)
        if asked is not None:
            return None
        request = params.validate(query)
        if not isinstance(request, LogRequest):
            return None
        known = KnownQuery(params.find_handle(query), request)
        if len(raw) <= KNOWN_QUERY_BYTES_MAX:
            self._known[raw] = known
            if len(self._known) > KNOWN_QUERIES_MAX:
                self._known.popitem(last=False)
        return known
