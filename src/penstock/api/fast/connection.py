"""
A connection that answers ordinary requests for logs itself and leaves everything else to the application.

Shell. Ordinary is: GET or HEAD of the shape's path as everybody spells it, without a body, a request for a log that is
authorised and valid, the only one under way on its connection, and a reader that takes what it is sent. Whatever is not
ordinary goes through the application, which gives the same answers.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final, NamedTuple

from penstock.api import heads
from penstock.api.authorising import DECIDED_KEY
from penstock.api.fast.hub import Hub
from penstock.api.fast.limits import LimitedProtocol, Phase
from penstock.api.fast.request import FastRequest
from penstock.wire import names

_PATH: Final = names.SHAPE_PATH.encode() + b"?"
_READING: Final = frozenset({b"GET", b"HEAD"})


class _Head(NamedTuple):
    """
    The head of a request that may take the long way later on, when the parser is further.
    """

    method: str
    url: bytes
    version: str
    headers: list[tuple[bytes, bytes]]


class FastProtocol(LimitedProtocol):
    """
    A connection. A subclass of its own for every server names its hub.
    """

    __slots__ = ("_head", "_request")

    hub: ClassVar[Hub]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request: FastRequest | None = None
        self._head: _Head | None = None

    def drained(self) -> asyncio.Future[None] | None:
        """
        Give what to wait for before more is written, None when nothing.
        """
        return asyncio.ensure_future(self.flow.drain()) if self.flow.write_paused else None

    def forget_request(self) -> None:
        """
        Drop the head of a request that is parked.
        """
        self._head = None
        # What has come of the next one's is in the same place.
        if not self._is_reading_head:
            self.headers = []
            self.url = b""

    # --- from the transport ------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Let go of everything.
        """
        super().connection_lost(exc)
        if self._request is not None:
            self._request.lost()
            self._request = None
        if isinstance(self.cycle, FastRequest):
            # They name each other.
            self.cycle = None

    def pause_writing(self) -> None:
        """
        The reader leaves too much untaken; called in the middle of a write.
        """
        super().pause_writing()
        if self._request is not None:
            self._request.clog()

    def resume_writing(self) -> None:
        """
        The reader has taken what there was.
        """
        super().resume_writing()
        if self._request is not None:
            self._request.unclog()

    def shutdown(self) -> None:
        """
        The server stops.
        """
        if self._request is not None:
            self._request.stop()
        else:
            super().shutdown()

    def expire_answer(self) -> None:
        """
        The deadline of the request is over.
        """
        if self._request is not None:
            self._request.expire()

    # --- from the parser ---------------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        """
        Choose the way.
        """
        if not self._begin_short_way():
            super().begin_request()

    def on_message_complete(self) -> None:
        """
        A request has come whole.
        """
        if not isinstance(self.cycle, FastRequest):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """
        Wait for the next request, or begin the one in line.
        """
        self._request = self._head = None
        super().on_response_complete()

    def take_long_way(self) -> None:
        """
        Let the application answer a request that has not been answered yet.
        """
        request, self._request = self._request, None
        head, self._head = self._head, None
        assert request is not None
        assert head is not None
        # Other requests may have come meanwhile, whole or in part: this one goes before them.
        newest = self.cycle
        begun = self.url, self.headers, self.scope, self.expect_100_continue
        self.cycle = None
        self.url, self.headers, self.expect_100_continue = head.url, head.headers, False
        super().begin_request()
        self.url, self.headers, self.scope, self.expect_100_continue = begun
        # The task has not begun to run.
        cycle = self.cycle
        cycle.scope["method"] = head.method
        cycle.scope["http_version"] = head.version
        if request.rules is not None:
            cycle.scope[DECIDED_KEY] = request.rules
        cycle.keep_alive = request.keep_alive
        cycle.more_body = False
        cycle.message_event.set()
        self._phase = Phase.ANSWER
        if newest is not request:
            self.cycle = newest

    def _begin_short_way(self) -> bool:
        url = self.url
        cycle = self.cycle
        if (
            not url.startswith(_PATH)
            or (cycle is not None and not cycle.response_complete)
            or self.flow.write_paused
            or self.expect_100_continue
            or self.hub.app.is_stopping
            or len(url) - 1 > self.settings.target_bytes_max
            or b"#" in url
        ):
            return False
        parser = self.parser
        method = parser.get_method()
        if method not in _READING or parser.should_upgrade():
            return False
        origins: list[bytes] = []
        request_ids: list[bytes] = []
        if_none_match: list[bytes] = []
        for name, value in self.headers:
            if name == b"origin":
                origins.append(value)
            elif name == names.REQUEST_ID_HEADER:
                request_ids.append(value)
            elif name == b"if-none-match":
                if_none_match.append(value)
            elif name in {b"content-length", b"transfer-encoding"}:
                return False
        known = self.hub.queries.find(url[len(_PATH) :])
        if known is None:
            return False
        request = FastRequest(
            self,
            self.hub,
            known,
            is_head=method == b"HEAD",
            keep_alive=parser.get_http_version() != "1.0" and parser.should_keep_alive(),
            origin=heads.allowed_origin(origins),
            request_id=heads.echoed_request_id(request_ids),
            if_none_match=if_none_match,
        )
        if known.request.is_sse:
            self._head = _Head(method.decode(), url, parser.get_http_version(), self.headers)
        self.cycle = self._request = request
        self._phase = Phase.ANSWER
        request.begin(self._describe(method.decode()) if self.hub.app.authoriser.asks_always else None)
        return True

    def _describe(self, method: str) -> dict[str, Any]:
        """
        Say of the request what the application would be told.
        """
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.parser.get_http_version(),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": names.SHAPE_PATH,
            "raw_path": names.SHAPE_PATH.encode(),
            "query_string": self.url[len(_PATH) :],
            "headers": self.headers,
            "state": {},
        }
