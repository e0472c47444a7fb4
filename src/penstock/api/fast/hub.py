"""
What all connections of a server share on the short way. Shell.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from penstock.api.app import ShapeApp
from penstock.api.fast import render
from penstock.api.fast.deadlines import Deadlines
from penstock.api.fast.queries import KnownQueries
from penstock.api.plan import Header
from penstock.api.settings import ApiSettings

REQUEST_ID_BYTES: Final = 16
REQUEST_IDS_AT_ONCE: Final = 256
"""How many identifiers are drawn with one call of the system."""


class Hub:
    """
    The application, its known queries, and the clock. Belongs to the loop in which it is made.
    """

    def __init__(self, app: ShapeApp, settings: ApiSettings, deadlines: Deadlines) -> None:
        """
        Serve for `app`.
        """
        self.app: Final = app
        self.settings: Final = settings
        self.deadlines: Final = deadlines
        self.loop: Final = asyncio.get_running_loop()
        self.queries: Final = KnownQueries(app.gate)
        self._server: Final = f"Penstock/{settings.version}".encode()
        self._fronts: dict[int, bytes] = {}
        self._fronts_of: object = None
        self._request_ids: list[bytes] = []

    def front(self, status: int, default_headers: list[Header]) -> bytes:
        """
        Give the beginning of a response; made once for each list of default headers, which the server replaces every
        second.
        """
        if self._fronts_of is not default_headers:
            self._fronts_of = default_headers
            self._fronts = {}
        found = self._fronts.get(status)
        if found is None:
            found = self._fronts[status] = render.front(status, default_headers, self._server)
        return found

    def make_request_id(self) -> bytes:
        """
        Give an identifier that nobody has had.
        """
        if not self._request_ids:
            drawn = os.urandom(REQUEST_ID_BYTES * REQUEST_IDS_AT_ONCE).hex().encode()
            width = 2 * REQUEST_ID_BYTES
            self._request_ids = [drawn[at : at + width] for at in range(0, len(drawn), width)]
        return self._request_ids.pop()
