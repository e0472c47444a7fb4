"""
The asyncio shell around a subscription: httpx, waiting and retrying.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final, Self

import httpx

from penstock.client.materialize import Materializer
from penstock.client.stream import MustRefetch, ShapeStream, StreamEvent, UpToDate

RETRY_DELAY_MIN_S: Final = 0.1
RETRY_DELAY_MAX_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 90.0
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class ShapeSubscription:
    """
    Follows one shape and keeps its rows; an asynchronous context manager.

    Reading is driven by whoever iterates `batches()` or awaits `until_up_to_date()`; nothing runs in the background.
    """

    def __init__(self, base_url: str, stream: ShapeStream, *, client: httpx.AsyncClient | None = None) -> None:
        """
        Follow `stream` at the server below `base_url` (`http://127.0.0.1:3000`).
        """
        self.stream: Final = stream
        self._url: Final = base_url.rstrip("/") + "/v1/shape"
        self._owns_client: Final = client is None
        self._client: Final = client or httpx.AsyncClient(timeout=httpx.Timeout(10.0, read=ANSWER_TIMEOUT_S))
        self._rows: Final = Materializer()
        self.rotation_count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_client:
            await self._client.aclose()

    @property
    def rows(self) -> Mapping[str, Mapping[str, str | None]]:
        """
        The rows by key, as of the last batch.
        """
        return self._rows.rows

    async def batches(self, *, is_live: bool = True) -> AsyncIterator[list[StreamEvent]]:
        """
        Yield what each answer brought, after it has been applied to `rows`.

        Ends after the first answer that is up to date unless `is_live`. Lost connections and 429 or 5xx answers are
        retried for ever, with growing delays and no less than the server's `retry-after`.

        Raises:
            ClientError: the server refuses the request, or breaks the protocol.
        """
        delay_s = RETRY_DELAY_MIN_S
        while True:
            try:
                answer = await self._client.get(self._url, params=self.stream.next_request(is_live=is_live))
            except httpx.TransportError:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_DELAY_MAX_S)
                continue
            if answer.status_code in _RETRIED:
                asked_s = 0.0
                with contextlib.suppress(ValueError):
                    asked_s = float(answer.headers.get("retry-after", 0))
                await asyncio.sleep(max(delay_s, asked_s))
                delay_s = min(delay_s * 2, RETRY_DELAY_MAX_S)
                continue
            delay_s = RETRY_DELAY_MIN_S
            events = self.stream.handle_response(answer.status_code, answer.headers, answer.content)
            for event in events:
                match event:
                    case MustRefetch():
                        self._rows.clear()
                        self.rotation_count += 1
                    case UpToDate():
                        pass
                    case message:
                        self._rows.apply(message)
            yield events
            if self.stream.is_up_to_date and not is_live:
                return

    async def until_up_to_date(self) -> None:
        """
        Read until the rows equal the query's result as of now or a little before.
        """
        async for _ in self.batches(is_live=False):
            pass
