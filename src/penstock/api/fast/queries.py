"""
Queries that were seen and found valid, by their bytes.

Clients that follow one shape send the same query again and again, and many of them the same one at a time: it is
decoded and checked once. Another one that differs in nothing but the place in the log is as valid. Only what needs no second look is remembered: an authorised request for a log. Everything else
is `None` and takes the long way.

Reducer.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from penstock.api import params, subset
from penstock.api.authorisation import restrict
from penstock.api.gate import Gate
from penstock.api.params import LogRequest
from penstock.api.plan import Answer
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import Advanced, LogRange, Opened, OpenReply, ShapeRequest, ShapeRule
from penstock.wire import names

Rules: TypeAlias = tuple[ShapeRule, ...]

KNOWN_QUERIES_MAX: Final = 4_096
KNOWN_QUERY_BYTES_MAX: Final = 2_048
"""Longer ones are checked each time."""
PATTERNS_MAX: Final = 16_384
"""Queries known but for the place; one for each shape that is followed, and more where its clients spell it differently."""
EXPECTED_MAX: Final = 16_384
"""Places at which clients are expected that have just been told what there is; for a second at most."""


_OFFSET: Final = names.OFFSET.encode()
_CURSOR: Final = names.CURSOR.encode()


class LastAnswer:
    """
    What a plain request was answered last. It depends on nothing but the reply and what is compared here.
    """

    __slots__ = ("_is_head", "_keep_alive", "_origin", "_reply", "data")

    def __init__(self, reply: OpenReply, origin: bytes, *, is_head: bool, keep_alive: bool, data: bytes) -> None:
        self._reply: Final = reply
        self._origin: Final = origin
        self._is_head: Final = is_head
        self._keep_alive: Final = keep_alive
        self.data: Final = data

    def fits(self, reply: OpenReply, origin: bytes, *, is_head: bool, keep_alive: bool) -> bool:
        """
        Tell whether this is the answer again.
        """
        return (
            self._is_head == is_head
            and self._keep_alive == keep_alive
            and self._origin == origin
            and self._reply == reply
        )


class Parking:
    """
    Where a live request was parked with the engine's answer; with the same answer all others are parked there too. Or
    where a client will want to wait that has just been told what there is.

    Attributes:
        reply: the answer.
        handle, after: the place.
        until_s: until when others may be parked without asking, on the clock of the loop. Asking is more than a
            question: it keeps the shape in use and the engine awake.
    """

    __slots__ = ("after", "handle", "reply", "until_s")

    def __init__(self, reply: Opened, handle: str, after: LogOffset, until_s: float) -> None:
        self.reply: Final = reply
        self.handle: Final = handle
        self.after: Final = after
        self.until_s: Final = until_s


class KnownQuery:
    """
    A valid query. Equal only to itself, so that it is a cheap key for what depends on it.

    Attributes:
        handle: as the client sent it, for admission.
        request: what it asks for.
        last: what it was answered last.
        parking: where it was parked last.
    """

    __slots__ = ("handle", "last", "parking", "request")

    def __init__(self, handle: str | None, request: LogRequest) -> None:
        self.handle: Final = handle
        self.request: Final = request
        self.last: LastAnswer | None = None
        self.parking: Parking | None = None


class KnownQueries:
    """
    The most recent valid queries.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate: Final = gate
        self._known: Final[OrderedDict[bytes, KnownQuery]] = OrderedDict()
        self._patterns: Final[OrderedDict[bytes, tuple[str | None, LogRequest]]] = OrderedDict()
        self._expected: Final[OrderedDict[ShapeRequest, Parking]] = OrderedDict()
        self._restricted: Final[OrderedDict[tuple[KnownQuery, Rules], KnownQuery]] = OrderedDict()

    def restrict(self, known: KnownQuery, rules: Rules) -> KnownQuery:
        """
        Give the query as it is for whoever these rules are for; the same one for all of them.
        """
        key = known, rules
        found = self._restricted.get(key)
        if found is not None:
            self._restricted.move_to_end(key)
            return found
        found = self._make(known.handle, restrict(known.request, rules))
        if _text_length(found.request.shape) <= KNOWN_QUERY_BYTES_MAX:
            self._restricted[key] = found
            if len(self._restricted) > KNOWN_QUERIES_MAX:
                self._restricted.popitem(last=False)
        return found

    def expect(self, known: KnownQuery, news: Advanced, until_s: float) -> None:
        """
        Whoever is answered this has everything up to its end, and is parked there when it comes again.
        """
        shape = known.request.shape
        end = news.range.chunk_end
        if shape.handle is None:
            return
        reply = Opened(shape.handle, "", LogRange(end, end), news.last_seen_lsn)
        self._expected[msgspec.structs.replace(shape, offset=end)] = Parking(reply, shape.handle, end, until_s)
        if len(self._expected) > EXPECTED_MAX:
            self._expected.popitem(last=False)

    def find(self, raw: bytes) -> KnownQuery | None:
        """
        Give what a query asks for, None when it is not an authorised and valid request for a log.
        """
        known = self._known.get(raw)
        if known is not None:
            self._known.move_to_end(raw)
            return known
        taken_out = _take_out_place(raw)
        pattern = None if taken_out is None else self._patterns.get(taken_out[0])
        if taken_out is not None and pattern is not None:
            self._patterns.move_to_end(taken_out[0])
            handle, other = pattern
            _, offset, cursor = taken_out
            request = LogRequest(msgspec.structs.replace(other.shape, offset=offset), cursor, other.is_sse)
            return self._remember(raw, self._make(handle, request))
        query = self._gate.read(raw)
        if isinstance(query, Answer):
            return None
        query, asked = subset.fold_query(query)
        if asked is not None:
            return None
        validated = params.validate(query)
        if not isinstance(validated, LogRequest):
            return None
        handle = params.find_handle(query)
        if taken_out is not None and len(raw) <= KNOWN_QUERY_BYTES_MAX:
            self._patterns[taken_out[0]] = handle, validated
            if len(self._patterns) > PATTERNS_MAX:
                self._patterns.popitem(last=False)
        return self._remember(raw, self._make(handle, validated))

    def _remember(self, raw: bytes, known: KnownQuery) -> KnownQuery:
        if len(raw) <= KNOWN_QUERY_BYTES_MAX:
            self._known[raw] = known
            if len(self._known) > KNOWN_QUERIES_MAX:
                self._known.popitem(last=False)
        return known

    def _make(self, handle: str | None, request: LogRequest) -> KnownQuery:
        known = KnownQuery(handle, request)
        if request.shape.is_live and not request.is_sse:
            known.parking = self._expected.get(request.shape)
        return known


def _take_out_place(raw: bytes) -> tuple[bytes, LogOffset, int] | None:
    """
    Give a query without the values of its offset and its cursor, and these; None for a query that does not have a place
    in a log as its one offset, that has more than one cursor, or that spells them otherwise than everybody.

    Clients that follow a log change these and nothing else from request to request, and nothing else of a valid query
    depends on which place it is.
    """
    pairs = raw.split(b"&")
    offset: LogOffset | None = None
    cursor: int | None = None
    for at, pair in enumerate(pairs):
        key, _, value = pair.partition(b"=")
        if key == _OFFSET and offset is None:
            # Neither -1 nor now, for which other rules hold.
            if not value[:1].isdigit() or not value.isascii():
                return None
            offset = LogOffset.parse(value.decode())
            if offset is None:
                return None
            pairs[at] = b"offset="
        elif key == _CURSOR and cursor is None:
            if not value.isdigit() or len(value) > params.CURSOR_DIGITS_MAX:
                return None
            cursor = int(value)
            pairs[at] = b"cursor="
        elif (unquote_to_bytes(key) if b"%" in key else key).startswith((_OFFSET, _CURSOR)):
            return None
    return None if offset is None else (b"&".join(pairs), offset, cursor or 0)


def _text_length(shape: ShapeRequest) -> int:
    texts = [*shape.clauses, *shape.params, *(shape.columns or ()), *(shape.queryable_columns or ())]
    for rule in shape.rules:
        texts += [*rule.params, *(rule.columns or ())]
    return sum(map(len, texts))
