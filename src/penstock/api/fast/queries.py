"""
Queries that were seen and found valid, by their bytes.

Clients that follow one shape send the same query again and again, and many of them the same one at a time: it is
decoded and checked once. Another one that differs in nothing but the place in the log is as valid. Only what needs no
second look is remembered: an authorised request for a log. Everything else is `None` and takes the long way.

Reducer.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final, TypeAlias

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

_NO_PLACE: Final = (b"", None, 0)
_OFFSET: Final = names.OFFSET.encode()
_CURSOR: Final = names.CURSOR.encode()
_PLACE_PAIR: Final = re.compile(rb"(?:^|&)(%b|%b)=([^&]*)" % (_OFFSET, _CURSOR))
_ODD_KEY: Final = re.compile(rb"(?:^|&)(?:(?:%b|%b)(?!=)|(?!params%%5B)[^=&]*%%)" % (_OFFSET, _CURSOR))
"""A key that may mean one of them, or something in it."""


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


class Pattern:
    """
    A valid query, whatever its place in the log is.

    Attributes:
        handle: as the client sent it, for admission.
        request: what it asks for, at some place.
        expected: where clients will want to wait that have just been told what there is, and for what they were
            authorised.
    """

    __slots__ = ("expected", "handle", "request")

    def __init__(self, handle: str | None, request: LogRequest) -> None:
        self.handle: Final = handle
        self.request: Final = request
        self.expected: tuple[Rules | None, Parking] | None = None


class KnownQuery:
    """
    A valid query. Equal only to itself, so that it is a cheap key for what depends on it.

    Attributes:
        handle: as the client sent it, for admission.
        request: what it asks for.
        last: what it was answered last.
        pattern: the same with any place; None for a query that spells its place otherwise than everybody.
        rules: what it is restricted to; None when nobody was asked.
        parking: where it was parked last.
    """

    __slots__ = ("handle", "last", "parking", "pattern", "request", "rules")

    def __init__(
        self, handle: str | None, request: LogRequest, pattern: Pattern | None, rules: Rules | None = None
    ) -> None:
        self.handle: Final = handle
        self.request: Final = request
        self.pattern: Final = pattern
        self.rules: Final = rules
        self.last: LastAnswer | None = None
        self.parking: Parking | None = None


class KnownQueries:
    """
    The most recent valid queries.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate: Final = gate
        self._known: Final[OrderedDict[bytes, KnownQuery]] = OrderedDict()
        self._patterns: Final[OrderedDict[bytes, Pattern]] = OrderedDict()
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
        found = _make(known.handle, restrict(known.request, rules), known.pattern, rules)
        if _text_length(found.request.shape) <= KNOWN_QUERY_BYTES_MAX:
            self._restricted[key] = found
            if len(self._restricted) > KNOWN_QUERIES_MAX:
                self._restricted.popitem(last=False)
        return found

    def expect(self, known: KnownQuery, news: Advanced, until_s: float) -> None:
        """
        Whoever is answered this has everything up to its end, and is parked there when it comes again.
        """
        handle = known.request.shape.handle
        if handle is None or known.pattern is None:
            return
        end = news.range.chunk_end
        reply = Opened(handle, "", LogRange(end, end), news.last_seen_lsn)
        known.pattern.expected = known.rules, Parking(reply, handle, end, until_s)

    def find(self, raw: bytes) -> KnownQuery | None:
        """
        Give what a query asks for, None when it is not an authorised and valid request for a log.
        """
        known = self._known.get(raw)
        if known is not None:
            self._known.move_to_end(raw)
            return known
        without_place, offset, cursor = _take_out_place(raw) or _NO_PLACE
        pattern = self._patterns.get(without_place)
        if pattern is not None:
            self._patterns.move_to_end(without_place)
            other = pattern.request
            request = LogRequest(msgspec.structs.replace(other.shape, offset=offset), cursor, other.is_sse)
            return self._remember(raw, _make(pattern.handle, request, pattern))
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
        if without_place and len(raw) <= KNOWN_QUERY_BYTES_MAX:
            pattern = self._patterns[without_place] = Pattern(handle, validated)
            if len(self._patterns) > PATTERNS_MAX:
                self._patterns.popitem(last=False)
        return self._remember(raw, _make(handle, validated, pattern))

    def _remember(self, raw: bytes, known: KnownQuery) -> KnownQuery:
        if len(raw) <= KNOWN_QUERY_BYTES_MAX:
            self._known[raw] = known
            if len(self._known) > KNOWN_QUERIES_MAX:
                self._known.popitem(last=False)
        return known


def _make(handle: str | None, request: LogRequest, pattern: Pattern | None, rules: Rules | None = None) -> KnownQuery:
    known = KnownQuery(handle, request, pattern, rules)
    if pattern is not None and pattern.expected is not None and request.shape.is_live and not request.is_sse:
        expected_rules, parking = pattern.expected
        if parking.after == request.shape.offset and expected_rules == rules:
            known.parking = parking
    return known


def _take_out_place(raw: bytes) -> tuple[bytes, LogOffset, int] | None:
    """
    Give a query without the value of its offset and without its cursor, and these; None for a query that does not have a
    place in a log as its one offset, that has more than one cursor, or that spells them otherwise than everybody.

    Clients that follow a log change these and nothing else from request to request, and nothing else of a valid query
    depends on which place it is.
    """
    if _ODD_KEY.search(raw) is not None:
        return None
    offset: LogOffset | None = None
    cursor: int | None = None
    rest: list[bytes] = []
    done = 0
    for pair in _PLACE_PAIR.finditer(raw):
        key, value = pair.groups()
        if key == _OFFSET and offset is None:
            # Neither -1 nor now, for which other rules hold.
            if not value[:1].isdigit() or not value.isascii():
                return None
            offset = LogOffset.parse(value.decode())
            rest.append(raw[done : pair.start(2)])
        elif key == _CURSOR and cursor is None:
            if not value.isdigit() or len(value) > params.CURSOR_DIGITS_MAX:
                return None
            cursor = int(value)
            rest.append(raw[done : pair.start()])
        else:
            return None
        done = pair.end()
    rest.append(raw[done:])
    return None if offset is None else (b"".join(rest), offset, cursor or 0)


def _text_length(shape: ShapeRequest) -> int:
    texts = [*shape.clauses, *shape.params, *(shape.columns or ()), *(shape.queryable_columns or ())]
    for rule in shape.rules:
        texts += [*rule.params, *(rule.columns or ())]
    return sum(map(len, texts))
