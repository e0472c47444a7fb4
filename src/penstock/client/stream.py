"""
One subscription to a shape, without the network: which request comes next, and what its answer means.

Reducer: ask `next_request()`, send it however you like, give the answer to `handle_response()`, use the messages, and
begin again. Works against any server of the protocol. Whoever does the sending decides about time-outs and retries; a
request that failed on the way is simply asked for again, because nothing changes until an answer is handled.

Invariants: the offset only moves forward within one handle; a rotation starts over at the beginning with no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from penstock.errors import ClientError
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
        if secret is not None:
            definition["secret"] = secret
        self._definition: Final = definition
        self._handle = resume.handle if resume else None
        self._offset = resume.offset if resume else BEFORE_ALL
        self._cursor: str | None = None
        self._is_up_to_date = False
        self._expired: str | None = None

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

    def next_request(self, *, is_live: bool = True) -> dict[str, str]:
        """
        Give the query parameters of the next request.

        Args:
            is_live: whether to wait for changes at the server once up to date.
        """
        query = dict(self._definition, offset=str(self._offset))
        if self._handle is not None:
            query["handle"] = self._handle
        if self._is_up_to_date and is_live:
            query["live"] = "true"
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
        if status != 200:
            raise ClientError(f"the server answered {status}: {body[:500].decode(errors='replace')}")
        offset = LogOffset.parse(headers.get("electric-offset", ""))
        handle = headers.get("electric-handle")
        if offset is None or not handle:
            raise ClientError("the answer has no valid electric-offset and electric-handle: is a proxy removing them?")
        # A request from the beginning may be answered by another shape than the one that was named after a rotation: its
        # table may have changed once more.
        if self._handle is not None and handle != self._handle and self._offset != BEFORE_ALL:
            raise ClientError(f"asked for handle {self._handle} and was answered with {handle}")
        if offset < self._offset:
            raise ClientError(f"the offset moved back from {self._offset} to {offset}")
        try:
            messages = _DECODER.decode(body)
        except msgspec.DecodeError as cause:
            raise ClientError("the answer is not a JSON array of messages") from cause
        self._handle, self._offset = handle, offset
        self._cursor = headers.get("electric-cursor", self._cursor)
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
            elif control is None:
                events.append(message)
        if self._is_up_to_date:
            events.append(UpToDate(offset, last_seen))
        return events

    def _rotate(self, handle: str | None) -> MustRefetch:
        self._expired = self._handle
        self._handle = handle
        self._offset = BEFORE_ALL
        self._is_up_to_date = False
        self._cursor = None
        return MustRefetch(handle)
