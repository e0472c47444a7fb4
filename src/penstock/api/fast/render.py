"""
Heads of responses and chunks of streams as bytes. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from penstock.api.plan import Header
from penstock.wire import names

LAST_CHUNK: Final = b"0\r\n\r\n"

CHUNKED: Final = (b"transfer-encoding", b"chunked")
CLOSE: Final = (b"connection", b"close")

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def front(status: int, default_headers: Iterable[Header], server: bytes) -> bytes:
    """
    Give the beginning of a response up to where the request's identifier goes.
    """
    return b"".join(
        [
            _STATUS_LINES[status],
            *(b"%b: %b\r\n" % header for header in default_headers),
            names.SERVER_HEADER,
            b": ",
            server,
            b"\r\n",
            names.REQUEST_ID_HEADER,
            b": ",
        ]
    )


def rest(headers: list[Header]) -> bytes:
    """
    Give the head of a response from behind the request's identifier on.

    Raises:
        ValueError: a value would end its line.
    """
    lines = b"\r\n".join([b"", *map(b": ".join, headers), b"", b""])
    if lines.count(b"\n") != len(headers) + 2 or lines.count(b"\r") != len(headers) + 2:
        raise ValueError("a header holds a line end")
    return lines


def chunk(data: bytes) -> bytes:
    """
    Give a part of a stream with its length.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)
