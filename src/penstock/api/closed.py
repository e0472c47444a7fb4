"""
What closed chunks hold, for the time when the engine is away: they never change, so they can be served without it.

Only ranges that end before the end of their log and lie in files entirely are remembered: the engine said so once, and
what it said stays true for as long as the files are there. Whoever finds a file gone forgets the range.

Reducer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from penstock.shapes.reading import FilePiece, Opened, OpenReply, ShapeRequest

CLOSED_RANGES_MAX: Final = 4_096

CLAUSE_CHARACTERS_MAX: Final = 4_096
"""Requests with longer clauses, values and lists of columns, all together, are not remembered."""


class ClosedRanges:
    """
    The most recently served closed ranges, by what was asked.
    """

    def __init__(self) -> None:
        self._known: Final[OrderedDict[ShapeRequest, Opened]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def take_note(self, request: ShapeRequest, reply: OpenReply) -> None:
        """
        Remember a reply, if it may be given again without the engine.
        """
        if not isinstance(reply, Opened):
            return
        found = reply.range
        is_closed = found.chunk_end < found.last and bool(found.pieces)
        if not is_closed or not all(isinstance(piece, FilePiece) for piece in found.pieces):
            return
        texts = [*request.clauses, *request.params, *(request.columns or ()), *(request.queryable_columns or ())]
        for rule in request.rules:
            texts += (*rule.params, *(rule.columns or ()))
        if sum(map(len, texts)) > CLAUSE_CHARACTERS_MAX:
            return
        key = _key(request)
        self._known[key] = reply
        self._known.move_to_end(key)
        if len(self._known) > CLOSED_RANGES_MAX:
            self._known.popitem(last=False)

    def find(self, request: ShapeRequest) -> Opened | None:
        """
        Give what a request reads without asking anybody, None when that is not known.
        """
        return self._known.get(_key(request))

    def forget(self, request: ShapeRequest) -> None:
        """
        A file is gone.
        """
        self._known.pop(_key(request), None)


def _key(request: ShapeRequest) -> ShapeRequest:
    return msgspec.structs.replace(request, is_live=False) if request.is_live else request
