"""
Who may ask for a shape, and how many at a time: what comes before anything is looked at.

Reducer over the counts of `admission`; both ways by which requests are served go through it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from penstock.api import params
from penstock.api.admission import Admission, Kind, Permit
from penstock.api.plan import Answer, Planner
from penstock.api.settings import ApiSettings
from penstock.errors import DecodeError

OVERLOAD_RETRY_S_MIN: Final = 5
OVERLOAD_RETRY_SPREAD_S: Final = 5

BAD_REQUEST: Final = Answer(400)
UNAUTHORIZED: Final = Answer(401, (), b'{"message":"Unauthorized - Invalid API secret"}')
"""Sent without the headers for browsers."""


class Gate:
    """
    The secret and the limits.
    """

    def __init__(
        self, settings: ApiSettings, admission: Admission, planner: Planner, draw: Callable[[int, int], int]
    ) -> None:
        """
        Let in by `settings.secret` and the limits of `admission`; `draw(a, b)` gives a random number, both included.
        """
        self._secret = None if settings.secret is None else settings.secret.encode()
        self._admission = admission
        self._planner = planner
        self._draw = draw

    def read(self, raw_query: bytes) -> params.Query | Answer:
        """
        Decode a query and check its secret; an answer says what is wrong.
        """
        try:
            query = params.decode_query(raw_query)
        except DecodeError:
            return BAD_REQUEST
        if self._secret is not None:
            given = params.find_secret(query) or ""
            if not hmac.compare_digest(given.encode(), self._secret):
                return UNAUTHORIZED
        return query

    def admit(self, handle: str | None, *, is_joining: bool = False) -> Permit | Answer:
        """
        Count a request that brings this handle; an answer says that there are too many.

        One that joins a question under way cannot make a shape: the clients of a worker that died come to another all
        at once, and are not refused there.
        """
        kind = Kind.EXISTING if is_joining else self._admission.classify(handle)
        permit = self._admission.admit(kind)
        if permit is not None:
            return permit
        return self._planner.refuse(
            503,
            f"Concurrent {kind.value} request limit exceeded (limit: {self._admission.limits[kind]}), please retry",
            code="concurrent_request_limit_exceeded",
            retry_after_s=OVERLOAD_RETRY_S_MIN + self._draw(1, OVERLOAD_RETRY_SPREAD_S),
            is_known=True,
        )
