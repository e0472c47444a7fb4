"""
The headers that all responses have, and which request identifiers are echoed. Pure functions.
"""

from __future__ import annotations

import re
from typing import Final

from penstock.api import caching
from penstock.api.plan import Answer, Header
from penstock.wire import names

REQUEST_ID_CHARS_MIN: Final = 20
REQUEST_ID_CHARS_MAX: Final = 200

SHAPE_METHODS: Final = b"GET, POST, HEAD, DELETE, OPTIONS"
OTHER_METHODS: Final = b"GET, HEAD"

BODILESS: Final = frozenset({204, 304})
"""Statuses of responses without a body or its length."""

_PRINTABLE: Final = re.compile(rb"[\x21-\x7e]+")
_EXPOSED: Final = (b"access-control-expose-headers", names.EXPOSED_HEADERS)
_SHAPE_METHODS: Final = (b"access-control-allow-methods", SHAPE_METHODS)
_OTHER_METHODS: Final = (b"access-control-allow-methods", OTHER_METHODS)


def echoed_request_id(lines: list[bytes]) -> bytes | None:
    """
    Give the identifier that a client sent, if it has the length and the characters of one.
    """
    for value in lines[:1]:
        if REQUEST_ID_CHARS_MIN <= len(value) <= REQUEST_ID_CHARS_MAX and _PRINTABLE.fullmatch(value):
            return value
    return None


def allowed_origin(lines: list[bytes]) -> bytes:
    """
    Give the origin that may read the response: the one the request names, else any.
    """
    return lines[0] if len(lines) == 1 and _PRINTABLE.fullmatch(lines[0]) else b"*"


def complete(
    answer: Answer, *, server: bytes, request_id: bytes, origin: bytes | None, is_shape: bool, bytes_count: int | None
) -> list[Header]:
    """
    Give all headers of a response but those of the transport.

    Args:
        answer: with its own headers.
        server: who answers.
        request_id: of the request.
        origin: who may read it; None for responses that say nothing to browsers.
        is_shape: whether the route is that of shapes.
        bytes_count: length of the body, None when it is not known.
    """
    return [
        *first(server, request_id),
        *rest(answer, origin=origin, is_shape=is_shape, bytes_count=bytes_count),
    ]


def first(server: bytes, request_id: bytes) -> list[Header]:
    """
    Give the headers that differ from request to request.
    """
    return [(names.SERVER_HEADER, server), (names.REQUEST_ID_HEADER, request_id)]


def rest(answer: Answer, *, origin: bytes | None, is_shape: bool, bytes_count: int | None) -> list[Header]:
    """
    Give the headers that requests of one kind share.
    """
    headers: list[Header] = []
    if answer.status != 204:
        for name, _ in answer.headers:
            if name == b"cache-control":
                break
        else:
            headers.append((b"cache-control", caching.DEFAULT_CACHE_CONTROL))
    if origin is not None:
        headers += (
            (b"access-control-allow-origin", origin),
            _EXPOSED,
            _SHAPE_METHODS if is_shape else _OTHER_METHODS,
        )
    headers += answer.headers
    if bytes_count is not None and answer.status not in BODILESS:
        headers.append((b"content-length", b"%d" % bytes_count))
    return headers
