"""
From a valid request and what the engine says to an answer: status, headers, and what the body is made of.

Theory of operation. `decide` looks at the engine's reply and either gives the answer or says what must be waited for:
a `Park` for a live request that has everything, a `Reach` for a request whose place the shape has not reached. After
the wait the shell comes back with what it got. A body is never assembled here: it is a bracket, the pieces of the log
as they lie in files and memory, perhaps a control message, and a bracket, so its length is known before a byte is read.

A response is up to date when it ends at or after both the end of the shape and the place asked for, except the first
one. What an up-to-date message claims differs on purpose: a plain response speaks for all shapes, a response with
changes to a live request only for its own.

Pure functions and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from penstock.api import caching
from penstock.api.authorisation import MESSAGE_CHARACTERS_MAX, Deny
from penstock.api.params import LogRequest
from penstock.api.settings import ApiSettings
from penstock.errors import Problems
from penstock.shapes.offset import BEFORE_ALL, LogOffset
from penstock.shapes.reading import (
    FilePiece,
    LogRange,
    Opened,
    OpenReply,
    Piece,
    Refused,
    RemoveReply,
    Rotated,
    SubsetLoaded,
    SubsetReply,
)
from penstock.wire import names
from penstock.wire.messages import MUST_REFETCH, up_to_date

Header: TypeAlias = tuple[bytes, bytes]

JSON_TYPE: Final = (b"content-type", b"application/json; charset=utf-8")
TEXT_TYPE: Final = (b"content-type", b"text/plain; charset=utf-8")
EVENTS_TYPE: Final = (b"content-type", b"text/event-stream")

RETRY_UNREADY_S: Final = 5
RETRY_GONE_AT_TIMEOUT_S: Final = 10
RETRY_STOPPING_S: Final = 1

REASON_SOURCE_AWAY: Final = "stack restart"
REASON_REPLAYING: Final = "shape data to be loaded"
REASON_AUTHORISING: Final = "authorisation"


SSE_KEEPALIVE: Final = b": keep-alive\n\n"

_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class LogBody(msgspec.Struct, frozen=True):
    """
    A JSON array made of pieces of a log and perhaps a control message at its end.

    Attributes:
        pieces: the elements.
        control: one more element at the end.
        opening: what stands before the first element.
        closing: what stands behind the last one.
    """

    pieces: tuple[Piece, ...] = ()
    control: bytes | None = None
    opening: bytes = b"["
    closing: bytes = b"]"

    @property
    def bytes_count(self) -> int:
        """
        Length of the whole body.
        """
        count = len(self.opening) + len(self.closing)
        for piece in self.pieces:
            count += (piece.bytes_count if isinstance(piece, FilePiece) else len(piece.data)) + 1
        if self.control is not None:
            return count + len(self.control)
        return count - 1 if self.pieces else count

    def find_inline(self) -> bytes | None:
        """
        Give the whole body, None when some of it lies in files.
        """
        elements: list[bytes] = []
        for piece in self.pieces:
            if isinstance(piece, FilePiece):
                return None
            elements.append(piece.data)
        if self.control is not None:
            elements.append(self.control)
        return self.opening + b",".join(elements) + self.closing

    def segments(self) -> Iterator[bytes | FilePiece]:
        """
        Give the body in order, as bytes and as runs of files.
        """
        separator = self.opening
        for piece in self.pieces:
            yield separator
            yield piece if isinstance(piece, FilePiece) else piece.data
            separator = b","
        if self.control is None:
            yield self.closing if self.pieces else self.opening + self.closing
        else:
            yield separator
            yield self.control
            yield self.closing


class Answer(msgspec.Struct, frozen=True):
    """
    A response without the headers that all responses have.
    """

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes | LogBody = b""


@dataclass(frozen=True, slots=True)
class Park:
    """
    The live request has everything: wait for something after this place.
    """

    handle: str
    after: LogOffset


@dataclass(frozen=True, slots=True)
class Reach:
    """
    The request names a place that the shape has not reached: wait for it to move on from `last`, then ask again.
    """

    handle: str
    last: LogOffset
    is_replaying: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """
    The request wants events, beginning with what is in this range, if anything.
    """

    handle: str
    found: LogRange


Decision: TypeAlias = Answer | Park | Reach | Stream


class Moment(msgspec.Struct, frozen=True):
    """
    What a response takes from the world.

    Attributes:
        now_unix_s: the time.
        step_s: a random number from 1 to 3600.
        unique: a number that only grows.
    """

    now_unix_s: float
    step_s: int
    unique: int


@dataclass(frozen=True, slots=True)
class Planner:
    """
    The rules with the settings they depend on.
    """

    settings: ApiSettings

    def decide(self, request: LogRequest, reply: OpenReply, if_none_match: list[bytes], moment: Moment) -> Decision:
        """
        Answer, or say what to wait for first.
        """
        if not isinstance(reply, Opened):
            return self.give_up(reply)
        asked = request.shape.offset
        if asked is not None and asked > reply.range.last:
            return Reach(reply.handle, reply.range.last, reply.is_replaying)
        tag = caching.etag(reply.handle, request.offset_text, str(reply.range.chunk_end))
        if if_none_match and caching.matches_etag(if_none_match, tag):
            return self._not_modified(request, reply, moment)
        if asked is None:
            return self.no_change(
                request, reply.handle, reply.range.last, reply.last_seen_lsn, moment, schema=reply.schema
            )
        if request.is_sse:
            return Stream(reply.handle, reply.range)
        if request.shape.is_live:
            if not reply.range.pieces and is_up_to_date(request, reply.range):
                return Park(reply.handle, reply.range.chunk_end)
            return self.live_data(request, reply.handle, reply.range, live_body(reply.range), moment)
        return self._data(request, reply, moment)

    def live_data(self, request: LogRequest, handle: str, found: LogRange, body: LogBody, moment: Moment) -> Answer:
        """
        Answer a live request with changes; `body` is that of `live_body`, which requests may share.
        """
        headers = self._log_headers(request, handle, found.chunk_end, moment)
        return Answer(200, (*headers, *_progress(is_up_to_date=_reaches_end(found), has_data=True)), body)

    def no_change(
        self, request: LogRequest, handle: str, at: LogOffset, last_seen_lsn: int, moment: Moment, *, schema: str | None
    ) -> Answer:
        """
        Answer a live request whose time is up, or one that asked where the log ends.
        """
        headers = self._log_headers(request, handle, at, moment, unique=moment.unique)
        described = () if schema is None else ((names.SCHEMA_HEADER, schema.encode()),)
        body = LogBody(control=up_to_date(max(last_seen_lsn, at.tx, 0)))
        return Answer(200, (*headers, *described, *_progress(is_up_to_date=True, has_data=False)), body)

    def events(self, request: LogRequest, handle: str, found: LogRange, moment: Moment) -> Answer:
        """
        Give the head of a stream of events; its body is not known yet.
        """
        headers = self._log_headers(request, handle, found.chunk_end, moment)
        progress = _progress(is_up_to_date=is_up_to_date(request, found), has_data=True)
        return Answer(200, (EVENTS_TYPE, (b"connection", b"keep-alive"), *headers[1:], *progress))

    def subset(self, request: LogRequest, reply: SubsetReply) -> Answer:
        """
        Answer with the rows of a subset, or as for a log that cannot be read.
        """
        if not isinstance(reply, SubsetLoaded):
            return uncached(self.give_up(reply))
        headers = [
            JSON_TYPE,
            *self._cache_header(caching.NO_CACHE),
            (names.HANDLE_HEADER, reply.handle.encode()),
            (names.OFFSET_HEADER, str(reply.offset).encode()),
            (names.SNAPSHOT_HEADER, b"true"),
        ]
        if not request.shape.is_live:
            headers.append((names.SCHEMA_HEADER, reply.schema.encode()))
        body = LogBody(reply.pieces, opening=b'{"metadata":%b,"data":[' % reply.metadata, closing=b"]}")
        return Answer(200, tuple(headers), body)

    def removal(self, reply: RemoveReply) -> Answer:
        """
        Answer to a request to remove a shape.
        """
        if isinstance(reply, Refused):
            return uncached(self.give_up(reply))
        return Answer(202, self._cache_header(caching.NO_CACHE))

    def give_up(self, reply: Rotated | Refused) -> Answer:
        """
        Answer for a log that is over, or with the engine's refusal.
        """
        if isinstance(reply, Refused):
            return self.refuse(
                reply.status,
                reply.message,
                errors=reply.errors,
                retry_after_s=reply.retry_after_s,
                is_known=reply.is_known,
            )
        cache_control = caching.refetch_cache_control(has_handle=reply.handle is not None)
        headers = [JSON_TYPE, *self._cache_header(cache_control)]
        if reply.handle is not None:
            headers.append((names.HANDLE_HEADER, reply.handle.encode()))
            headers.append((b"etag", f'"{reply.handle}::"'.encode()))
        return Answer(409, tuple(headers), LogBody(control=MUST_REFETCH))

    def refuse(
        self,
        status: int,
        message: str,
        *,
        errors: Problems | None = None,
        retry_after_s: int | None = None,
        is_known: bool = False,
        code: str | None = None,
    ) -> Answer:
        """
        Answer with an error in the contract's envelope.
        """
        envelope: dict[str, object] = {} if code is None else {"code": code}
        envelope["message"] = message
        if errors is not None:
            envelope["errors"] = errors
        return self.error(status, envelope, retry_after_s=retry_after_s, is_known=is_known)

    def error(
        self, status: int, envelope: dict[str, object], *, retry_after_s: int | None = None, is_known: bool = False
    ) -> Answer:
        """
        Answer with an error in an envelope of its own.
        """
        headers = [JSON_TYPE, *self._cache_header(caching.NO_STORE)]
        if self.settings.sends_cache_headers:
            headers.append((b"surrogate-control", caching.NO_STORE))
        if retry_after_s is not None:
            headers.append((names.RETRY_AFTER_HEADER, b"%d" % retry_after_s))
        if is_known:
            headers.append((names.KNOWN_ERROR_HEADER, b"true"))
        return Answer(status, tuple(headers), msgspec.json.encode(envelope))

    def invalid(self, problems: Problems) -> Answer:
        """
        Answer with what is wrong with the parameters.
        """
        return self.refuse(400, "Invalid request", errors=problems)

    def unready(self, reason: str, *, retry_after_s: int = RETRY_UNREADY_S) -> Answer:
        """
        Answer that something was waited for in vain.
        """
        return self.refuse(503, f"Timeout waiting for {reason}", retry_after_s=retry_after_s)

    def out_of_bounds(self, *, is_replaying: bool) -> Answer:
        """
        Answer to a place that was not reached in time: the client's fault only when nothing is left to replay.
        """
        if is_replaying:
            return self.unready(REASON_REPLAYING)
        return self.invalid({names.OFFSET: ["out of bounds for this shape"]})

    def denied(self, denial: Deny) -> Answer:
        """
        Answer to a request that is not authorised.
        """
        answer = self.refuse(denial.status, denial.message[:MESSAGE_CHARACTERS_MAX])
        if denial.status != 401:
            return answer
        return Answer(401, (*answer.headers, (b"www-authenticate", denial.challenge.encode())), answer.body)

    def stopping(self) -> Answer:
        """
        Answer to requests that this server will not finish because it is told to stop.
        """
        return self.refuse(503, "The server is stopping, please retry", retry_after_s=RETRY_STOPPING_S)

    def _data(self, request: LogRequest, reply: Opened, moment: Moment) -> Answer:
        found = reply.range
        is_current = is_up_to_date(request, found)
        headers = self._log_headers(request, reply.handle, found.chunk_end, moment)
        progress = _progress(is_up_to_date=is_current, has_data=True)
        control = up_to_date(max(reply.last_seen_lsn, found.chunk_end.tx, 0)) if is_current else None
        schema = (names.SCHEMA_HEADER, reply.schema.encode())
        return Answer(200, (*headers, schema, *progress), LogBody(found.pieces, control))

    def _not_modified(self, request: LogRequest, reply: Opened, moment: Moment) -> Answer:
        headers = self._log_headers(request, reply.handle, reply.range.chunk_end, moment)
        is_current = request.shape.offset is None or is_up_to_date(request, reply.range)
        return Answer(304, (*headers, *_progress(is_up_to_date=is_current, has_data=True)))

    def _log_headers(
        self, request: LogRequest, handle: str, chunk_end: LogOffset, moment: Moment, unique: int | None = None
    ) -> list[Header]:
        end = str(chunk_end)
        tag = caching.etag(handle, request.offset_text, end, unique)
        headers = [
            JSON_TYPE,
            *self._cache_header(caching.log_cache_control(request, self.settings)),
            (names.HANDLE_HEADER, handle.encode()),
            (names.OFFSET_HEADER, end.encode()),
            (b"etag", f'"{tag}"'.encode()),
        ]
        if request.shape.is_live:
            cursor = caching.next_cursor(
                request.cursor,
                timeout_s=int(self.settings.long_poll_timeout_s),
                now_unix_s=moment.now_unix_s,
                step_s=moment.step_s,
            )
            headers.append((names.CURSOR_HEADER, b"%d" % cursor))
        return headers

    def _cache_header(self, value: bytes) -> tuple[Header, ...]:
        return ((b"cache-control", value),) if self.settings.sends_cache_headers else ()


def encode(envelope: dict[str, object]) -> bytes:
    """
    Write the body of an answer.
    """
    return msgspec.json.encode(envelope)


def uncached(answer: Answer) -> Answer:
    """
    Turn an answer into one for a request that no cache may answer: of another method than GET, or for a subset.
    """
    headers = [(name, caching.NO_CACHE if name == b"cache-control" else value) for name, value in answer.headers]
    return Answer(answer.status, tuple(header for header in headers if header[0] != b"surrogate-control"), answer.body)


def private(answer: Answer) -> Answer:
    """
    Turn an answer into one for a client that was authorised by more than the secret.
    """
    rules = {caching.NO_STORE, caching.HEALTH_CACHE_CONTROL}
    headers = [
        (name, caching.PRIVATE if name == b"cache-control" and value not in rules else value)
        for name, value in answer.headers
    ]
    return Answer(answer.status, tuple(headers), answer.body)


def is_up_to_date(request: LogRequest, found: LogRange) -> bool:
    """
    Tell whether a client that has read this range has all there is.
    """
    asked = request.shape.offset
    if asked is None or asked == BEFORE_ALL:
        return False
    return found.chunk_end >= max(found.last, asked)


def frame_events(body: bytes) -> bytes:
    """
    Put each element of a JSON array into an event of its own.
    """
    # Line ends inside an element could only be white space between tokens; in an event they would end the data.
    elements = (bytes(element).replace(b"\n", b" ") for element in _ELEMENTS.decode(body))
    return b"".join(b"data: %b\n\n" % element for element in elements)


def live_body(found: LogRange) -> LogBody:
    """
    Make the body for changes to a live request, the same for everybody who waited at the same place.
    """
    control = up_to_date(max(found.chunk_end.tx, 0)) if _reaches_end(found) else None
    return LogBody(found.pieces, control)


def _reaches_end(found: LogRange) -> bool:
    return found.chunk_end >= found.last


def _progress(*, is_up_to_date: bool, has_data: bool) -> list[Header]:
    headers = [(names.HAS_DATA_HEADER, b"true" if has_data else b"false")]
    if is_up_to_date:
        headers.append((names.UP_TO_DATE_HEADER, b""))
    return headers
