"""
One subscription to a shape, without the network: which request comes next, and what its answer means.

Reducer: ask `next_request()`, send it however you like, give the answer to `handle_response()`, use the messages, and
begin again. An answer that is a stream of events goes to `begin_events()`, `handle_event()` and `end_events()` instead;
its messages are given out when it says that they are complete, so that a stream that is cut costs nothing. Works against any server of the protocol. Whoever does the sending decides about time-outs and retries; a
request that failed on the way is simply asked for again, because nothing changes until an answer is handled.

Invariants: the offset only moves forward within one handle; a rotation starts over at the beginning with no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from penstock.client.values import Schema, read_schema
from penstock.errors import InvalidRequestError, ProtocolError, RefusedError, UnauthorizedError
from penstock.postgres.snapshot import Snapshot
from penstock.shapes.offset import BEFORE_ALL, LogOffset

Message: TypeAlias = dict[str, Any]
"""A change: `key`, `value`, `headers` and so on, as the server sent it."""


@dataclass(frozen=True, slots=True)
class UpToDate:
    """
    The rows now equal the query's result as of some moment before the answer was made.

    Attributes:
        offset: where in the shape's log that is.
        last_seen_lsn: the WAL position the server had processed by then, as a number; 0 when it does not say.
    """

    offset: LogOffset
    last_seen_lsn: int = 0


@dataclass(frozen=True, slots=True)
class MustRefetch:
    """
    The log is over: drop all rows, they come again.
    """

    handle: str | None


StreamEvent: TypeAlias = Message | UpToDate | MustRefetch


@dataclass(frozen=True, slots=True)
class Resume:
    """
    Where a subscription stands; keep it together with the rows to go on later.
    """

    handle: str
    offset: LogOffset


_DECODER: Final = msgspec.json.Decoder(list[dict[str, Any]])
_EVENT_DECODER: Final = msgspec.json.Decoder(dict[str, Any])
_SAID: Final = msgspec.json.Decoder(dict[str, Any])
_NO_PLACE: Final = "the answer has no valid electric-offset and electric-handle: is a proxy removing them?"


class ShapeStream:
    """
    The state of one subscription.
    """

    def __init__(
        self,
        table: str,
        *,
        columns: Sequence[str] = (),
        where: str | None = None,
        params: Sequence[str] = (),
        replica: str = "default",
        secret: str | None = None,
        resume: Resume | None = None,
        log: str = "full",
        more: Mapping[str, str] | None = None,
        is_from_now: bool = False,
    ) -> None:
        """
        Subscribe to a shape.

        Args:
            table: the table, quoted and with its schema where that is needed.
            columns: the columns to receive; all when empty.
            where: a clause, with `$1` for parameters.
            params: values of the parameters.
            replica: `full` to receive whole rows with updates and deletes.
            secret: the server's secret.
            resume: go on from here instead of from the beginning.
            log: `changes_only` for a log that begins without the rows.
            more: other parameters to send with each request.
            is_from_now: begin, also after a rotation, at the end of the log.
        """
        definition = {"table": table}
        if columns:
            definition["columns"] = ",".join('"' + name.replace('"', '""') + '"' for name in columns)
        if where is not None:
            definition["where"] = where
        for index, value in enumerate(params, start=1):
            definition[f"params[{index}]"] = value
        if replica != "default":
            definition["replica"] = replica
        if log != "full":
            definition["log"] = log
        if secret is not None:
            definition["secret"] = secret
        definition |= more or {}
        self._is_from_now: Final = is_from_now
        self._definition: Final = definition
        self._handle = resume.handle if resume else None
        self._offset = resume.offset if resume else BEFORE_ALL
        self._cursor: str | None = None
        self._is_up_to_date = False
        self._expired: str | None = None
        self._held: list[StreamEvent] = []
        self._schema: Schema | None = None
        self._snapshot: Snapshot | None = None

    @property
    def definition(self) -> Mapping[str, str]:
        """
        The parameters that are the same in every request.
        """
        return self._definition

    @property
    def schema(self) -> Schema | None:
        """
        What the server said about the columns; None before it did.
        """
        return self._schema

    @property
    def snapshot(self) -> Snapshot | None:
        """
        Which transactions the rows at the beginning of this log show; None before that is known.
        """
        return self._snapshot

    @property
    def offset(self) -> LogOffset:
        """
        How far the messages handed out reach.
        """
        return self._offset

    @property
    def resume(self) -> Resume | None:
        """
        Where to go on later; None before the first answer.
        """
        return None if self._handle is None else Resume(self._handle, self._offset)

    @property
    def is_up_to_date(self) -> bool:
        """
        Whether the last answer reached the end of the log; the next request then waits for more.
        """
        return self._is_up_to_date

    def go_on(self, resume: Resume | None) -> None:
        """
        Go on from a place that was kept, instead of from the beginning.
        """
        assert self._handle is None, "the subscription has begun"
        if resume is not None:
            self._handle, self._offset = resume.handle, resume.offset

    def know_schema(self, schema: Schema | None) -> None:
        """
        Take in what the server said about the columns elsewhere.
        """
        self._schema = schema or self._schema

    def next_request(self, *, is_live: bool = True, has_events: bool = False) -> dict[str, str]:
        """
        Give the query parameters of the next request.

        Args:
            is_live: whether to wait for changes at the server once up to date.
            has_events: whether to wait for them as a stream of events.
        """
        is_now = self._is_from_now and self._offset == BEFORE_ALL
        query = dict(self._definition, offset="now" if is_now else str(self._offset))
        if self._handle is not None:
            query["handle"] = self._handle
        if self._is_up_to_date and is_live:
            query["live"] = "true"
            if has_events:
                query["live_sse"] = "true"
            if self._cursor is not None:
                query["cursor"] = self._cursor
        if self._expired is not None:
            query["expired_handle"] = self._expired
        return query

    def handle_response(self, status: int, headers: Mapping[str, str], body: bytes) -> list[StreamEvent]:
        """
        Take an answer in; gives its messages in order, and `UpToDate` or `MustRefetch` where they apply.

        Raises:
            ClientError: the answer is neither 200 nor 409, or breaks the protocol.
        """
        if status == 409:
            return [self._rotate(headers.get("electric-handle"))]
        if status == 204 and self._is_up_to_date:
            # What servers of the protocol once said instead of an answer without changes.
            return [UpToDate(self._offset)]
        if status != 200:
            raise refusal(status, body)
        offset = LogOffset.parse(headers.get("electric-offset", ""))
        handle = self._check_handle(headers)
        if offset is None:
            raise ProtocolError(_NO_PLACE)
        if offset < self._offset:
            raise ProtocolError(f"the offset moved back from {self._offset} to {offset}")
        try:
            messages = _DECODER.decode(body)
        except msgspec.DecodeError as cause:
            raise ProtocolError("the answer is not a JSON array of messages") from cause
        self._handle, self._offset = handle, offset
        self._cursor = headers.get("electric-cursor", self._cursor)
        self._held.clear()
        if "electric-schema" in headers:
            self._schema = read_schema(headers["electric-schema"])
        events: list[StreamEvent] = []
        self._is_up_to_date = False
        last_seen = 0
        for message in messages:
            control = message["headers"].get("control")
            if control == "must-refetch":
                return [*events, self._rotate(None)]
            if control == "up-to-date":
                self._is_up_to_date = True
                last_seen = int(message["headers"].get("global_last_seen_lsn", 0))
            elif control == "snapshot-end":
                self._snapshot = _read_snapshot(message["headers"])
            elif control is None:
                events.append(message)
        if self._is_up_to_date:
            events.append(UpToDate(offset, last_seen))
        return events

    def begin_events(self, headers: Mapping[str, str]) -> None:
        """
        Take in the head of a stream of events.

        Raises:
            ProtocolError: it is of another log.
        """
        self._check_handle(headers)
        self._cursor = headers.get("electric-cursor", self._cursor)
        self._held.clear()

    def handle_event(self, data: bytes) -> list[StreamEvent]:
        """
        Take one event in; gives what is complete with it, which for most is nothing.

        Raises:
            ProtocolError: it is not a message.
        """
        try:
            message = _EVENT_DECODER.decode(data)
            headers = message["headers"]
        except (msgspec.DecodeError, KeyError) as cause:
            raise ProtocolError("an event is not a message of the protocol") from cause
        control = headers.get("control")
        if control is None:
            self._held.append(message)
            return []
        if control == "must-refetch":
            self._held.clear()
            return [self._rotate(None)]
        if control != "up-to-date":
            return []
        last_seen = int(headers.get("global_last_seen_lsn", 0))
        events = self._take_held(last_seen)
        self._is_up_to_date = True
        return [*events, UpToDate(self._offset, last_seen)]

    @property
    def holds_events(self) -> bool:
        """
        Whether events have come that are not complete.
        """
        return bool(self._held)

    def end_events(self) -> list[StreamEvent]:
        """
        Take in that the stream has ended in order; gives what it brought and did not say to be complete.
        """
        if not self._held:
            return []
        self._is_up_to_date = False
        return self._take_held(0)

    def cut_events(self) -> None:
        """
        Take in that the stream was cut: what was not complete comes again.
        """
        self._held.clear()

    def lose_place(self) -> MustRefetch:
        """
        Begin anew, because the server does not have the place where we are.
        """
        return self._rotate(None)

    def _take_held(self, last_seen: int) -> list[StreamEvent]:
        # The offset in the head of the response is of before these events: the last one's own place is where to go on.
        events, self._held = self._held, []
        places = [event["headers"] for event in events if isinstance(event, dict)]
        if places:
            at = LogOffset(int(places[-1].get("lsn", last_seen)), int(places[-1].get("op_position", 0)))
            self._offset = max(self._offset, at)
        return events

    def _check_handle(self, headers: Mapping[str, str]) -> str:
        handle = headers.get("electric-handle")
        if not handle:
            raise ProtocolError(_NO_PLACE)
        # A request from the beginning may be answered by another shape than the one that was named after a rotation: its
        # table may have changed once more.
        if self._handle is not None and handle != self._handle and self._offset != BEFORE_ALL:
            raise ProtocolError(
                f"asked for handle {self._handle} and was answered with {handle}: is a cache ignoring the query string?"
            )
        return handle

    def _rotate(self, handle: str | None) -> MustRefetch:
        self._expired = self._handle
        self._handle = handle
        self._offset = BEFORE_ALL
        self._is_up_to_date = False
        self._cursor = None
        self._snapshot = None
        self._held.clear()
        return MustRefetch(handle)


def _read_snapshot(headers: Mapping[str, Any]) -> Snapshot | None:
    if "xmin" not in headers:
        return None
    return Snapshot(
        int(headers["xmin"]), int(headers["xmax"]), frozenset(int(xid) for xid in headers.get("xip_list", ()))
    )


def refusal(status: int, body: bytes) -> RefusedError:
    """
    Make the error of an answer that is final: what it is about, and what to do.
    """
    try:
        said = _SAID.decode(body)
    except msgspec.DecodeError:
        said = {}
    message = said.get("message") or said.get("error") or body[:500].decode(errors="replace")
    errors = said.get("errors")
    problems: dict[str, object] = errors if isinstance(errors, dict) else {}
    if status in {401, 403}:
        return UnauthorizedError(
            status,
            f"the server answered {status}: {message}. Give the client its `secret`, or the `headers` it asks for",
        )
    if status == 400:
        what = "; ".join(f"{field}: {_join(said)}" for field, said in problems.items()) or message
        return InvalidRequestError(status, f"the server refuses the shape: {what}", problems=problems)
    if status == 404:
        message += ". Is the base URL that of a server of the protocol, without /v1/shape?"
    return RefusedError(status, f"the server answered {status}: {message}", problems=problems)


def _join(said: object) -> str:
    if isinstance(said, dict):
        return ", ".join(f"{field}: {_join(inner)}" for field, inner in said.items())
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)
