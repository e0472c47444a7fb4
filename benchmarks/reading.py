"""
A client that asks for a shape and throws away what it gets: as little of its own work as Python allows, because it
shares the machine with what is measured.
"""

from __future__ import annotations

import http.client
import select
import socket
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

from benchmarks.service import Service
from benchmarks.source import TABLE
from penstock.shapes.offset import LogOffset

_BUFFER_BYTES: Final = 1 << 20
_PEEKED_BYTES: Final = 64 << 10
_END: Final = b'"control":"up-to-date"'
_TIMEOUT_S: Final = 120.0
_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Reply:
    """
    A response.

    Attributes:
        handle, offset, cursor: from its headers; empty when it has none.
        is_up_to_date: whether there is nothing more at present.
        bytes_count: length of the body.
        row_count: how many inserts are in the body, when they were to be counted.
        update_count: likewise the updates.
    """

    handle: str
    offset: str
    cursor: str
    is_up_to_date: bool
    bytes_count: int
    row_count: int = 0
    update_count: int = 0


class ShapeReader:
    """
    One connection to the service; a context manager.
    """

    def __init__(self, port: int, where: str = "") -> None:
        """
        Connect at the first request.

        Args:
            port: of the service.
            where: the condition of the shape; empty for the whole table.
        """
        self._shape: Final = {"table": TABLE, **({"where": where} if where else {})}
        self._connection: Final = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._buffer: Final = memoryview(bytearray(_BUFFER_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """
        Disconnect; the next request connects again.
        """
        self._connection.close()

    def ask(self, *, offset: str, is_counting: bool = False, **more: str) -> Reply:
        """
        Ask for the shape from an offset, and read the answer to its end.
        """
        self.send(offset=offset, **more)
        return self.receive(is_counting=is_counting)

    def send(self, *, offset: str, **more: str) -> None:
        """
        Send a request; the answer is for `receive`.
        """
        self._connection.request("GET", "/v1/shape?" + urlencode({**self._shape, "offset": offset, **more}))

    def await_end(self) -> None:
        """
        Wait until an answer that goes to the end of the log is here, and read nothing: that is for `receive`.
        """
        connected = self._connection.sock
        assert connected is not None, "nothing was asked"
        seen = b""
        while _END not in seen:
            if not select.select([connected], [], [], _TIMEOUT_S)[0]:
                raise RuntimeError("there is no answer")
            seen = connected.recv(_PEEKED_BYTES, socket.MSG_PEEK)
            if not seen:
                raise RuntimeError("the connection was closed")

    def receive(self, *, is_counting: bool = False) -> Reply:
        """
        Wait for an answer and read it.
        """
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            raise RuntimeError(f"answered {response.status}: {response.read()[:500]!r}")
        bytes_count = row_count = update_count = 0
        if is_counting:
            body = response.read()
            bytes_count, row_count = len(body), body.count(b'"operation":"insert"')
            update_count = body.count(b'"operation":"update"')
        else:
            while count := response.readinto(self._buffer):
                bytes_count += count
        headers = response.headers
        return Reply(
            headers.get("electric-handle", ""),
            headers.get("electric-offset", ""),
            headers.get("electric-cursor", ""),
            headers.get("electric-up-to-date") is not None,
            bytes_count,
            row_count,
            update_count,
        )

    def read_all(self, *, is_counting: bool = False) -> Reply:
        """
        Read the shape from its beginning, chunk by chunk, until there is nothing more; gives the last answer with the
        counts of all.
        """
        reply = self.ask(offset="-1", is_counting=is_counting)
        bytes_count, row_count, update_count = reply.bytes_count, reply.row_count, reply.update_count
        while not reply.is_up_to_date:
            reply = self.ask(offset=reply.offset, handle=reply.handle, is_counting=is_counting)
            bytes_count += reply.bytes_count
            row_count += reply.row_count
            update_count += reply.update_count
        return replace(reply, bytes_count=bytes_count, row_count=row_count, update_count=update_count)

    def position(self) -> int:
        """
        Ask how far the shape can be read: the transaction part of its last offset.
        """
        offset = LogOffset.parse(self.ask(offset="now").offset)
        assert offset is not None
        return offset.tx


def wait_readable(reader: ShapeReader, service: Service, position: int, *, timeout_s: float) -> None:
    """
    Wait until the shape can be read up to a position, whoever must come back for that.

    Raises:
        RuntimeError: it cannot, after so long, or the service has ended.
    """
    deadline = time.monotonic() + timeout_s
    while not _is_readable(reader, position):
        service.insist_alive()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the rows do not come in {timeout_s:g} s:\n{service.log}")
        time.sleep(_LOOK_S)


def _is_readable(reader: ShapeReader, position: int) -> bool:
    try:
        return reader.position() >= position
    except (RuntimeError, OSError, http.client.HTTPException):
        # While the engine comes back there is none to ask; the next request connects anew.
        reader.close()
        return False
