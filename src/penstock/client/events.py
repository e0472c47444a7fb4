r"""
Server-sent events, as far as the protocol uses them.

Feeder: `feed(data)` takes bytes as they come and gives the events that are complete: the payload of each `data:` event, and
`KEEP_ALIVE` for each comment. The form is that of the HTML standard, section "Server-sent events"; lines may end with
`\n` or `\r\n`. Pure. Invariant: any split of the bytes gives the same events.
"""

from __future__ import annotations

from typing import Final

from penstock.errors import ProtocolError

EVENT_BYTES_MAX: Final = 1 << 30
"""An event longer than this is taken for something that is no event at all. A field of Postgres holds no more."""

KEEP_ALIVE: Final = b""
"""Stands for a comment: the server is there and has nothing to say."""


class EventFeeder:
    """
    Takes one response apart.
    """

    def __init__(self) -> None:
        """
        Begin before the first byte.
        """
        self._rest = bytearray()
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take bytes in; give payloads, and `KEEP_ALIVE`, in order.

        Raises:
            ProtocolError: an event has no end.
        """
        searched = len(self._rest)
        self._rest += data
        events: list[bytes] = []
        begin = 0
        while (end := self._rest.find(b"\n", max(begin, searched))) >= 0:
            line = bytes(self._rest[begin:end]).removesuffix(b"\r")
            begin = end + 1
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data.clear()
            elif line.startswith(b":"):
                events.append(KEEP_ALIVE)
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        del self._rest[:begin]
        if len(self._rest) > EVENT_BYTES_MAX:
            raise ProtocolError("an event has no end: is this a stream of events at all?")
        return events
