"""
The connections of one client to its server: requests for shapes and for subsets of them, with asyncio and httpx.

Shell. It sends and waits, and decides nothing about the data.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final

import httpx

from penstock.client.options import parameter_text
from penstock.client.retry import RETRIED_STATUSES, Backoff, read_retry_after
from penstock.client.stream import ShapeStream, refusal
from penstock.client.subset import SubsetOptions, SubsetRows, read_subset, subset_query
from penstock.client.values import read_schema
from penstock.errors import ClientError

CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_S_MAX: Final = 45.0
"""Default of the silence after which a connection is given up: servers speak at least every 21 s."""


class Connection:
    """
    Sends the requests of one client.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None,
        path: str,
        silence_s_max: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        """
        Connect to nothing yet; for the arguments see `AsyncClient`.

        Raises:
            ClientError: the URL is not one of HTTP.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ClientError(f"{base_url!r} is no base URL: it begins with http:// or https://")
        self._url: Final = base_url.rstrip("/").removesuffix("/v1/shape") + path
        self._headers: Final = dict(headers or {})
        # Each subscription holds a connection most of the time, so their number has no other limit.
        self._http: Final = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(CONNECT_TIMEOUT_S, read=silence_s_max, pool=None),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=True,
        )

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        await self._http.aclose()

    async def send(self, query: Mapping[str, str], headers: Mapping[str, str] | None = None) -> httpx.Response:
        """
        Send a request for a shape; gives the head of the answer, whose body is to be read or closed.

        Raises:
            httpx.TransportError: there is no answer.
        """
        request = self._http.build_request(
            "GET", self._url, params=dict(query), headers={**self._headers, **(headers or {})}
        )
        return await self._http.send(request, stream=True)

    async def read_subset(self, stream: ShapeStream, options: SubsetOptions) -> SubsetRows | None:
        """
        Read a subset of a subscription's shape, where that stands; failures that may pass are retried.

        Returns:
            None when the log is over.

        Raises:
            ClientError: the server refuses.
        """
        params = [parameter_text(value) for value in options.get("params", ())]
        query = {**stream.next_request(is_live=False), **subset_query(options, params)}
        backoff = Backoff()
        while True:
            asked_s = 0.0
            try:
                answer = await self.send(query)
                try:
                    body = await answer.aread()
                finally:
                    await answer.aclose()
            except httpx.TransportError:
                pass  # as after an answer that may be another one next time
            else:
                if answer.status_code == 409:
                    return None
                if answer.status_code not in RETRIED_STATUSES | {200}:
                    raise refusal(answer.status_code, body)
                if answer.status_code == 200:
                    if "electric-schema" in answer.headers:
                        stream.know_schema(read_schema(answer.headers["electric-schema"]))
                    return read_subset(body)
                asked_s = read_retry_after(answer.headers)
            await asyncio.sleep(backoff.failed(random.random(), asked_s=asked_s))  # noqa: S311  not for secrets
