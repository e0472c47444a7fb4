"""
The server's answer to a `COPY … TO STDOUT`, from the bytes of the connection to blocks of rows.

Owns `CopyAnswer`, which reads what follows a Query message (Postgres documentation, "Message Flow", "COPY Operations"):
the head of the copy, a frame for each row, the end, and that the server waits for the next query. The rows' text is not
looked into; whoever reads it relies on each frame ending with the newline of its row.

Form: feeder. `room` gives memory to receive into, `feed` takes note of what was received, `take` gives the rows so far.
Invariants: a row is given once and whole, in order; whatever the bytes are, nothing but `DecodeError` comes out; memory
holds what was received and not taken, and the frame that is coming.

`gather_rows` is the compiled twin's oracle, and does its work where there is none.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, Protocol

from penstock.compiled import choice
from penstock.errors import DecodeError

BUFFER_BYTES: Final = 256 * 1024
_HEAD_BYTES: Final = 5
_MESSAGE_BYTES_MAX: Final = 1 << 20
"""Of messages that are no rows; the server's are far smaller."""
_FRAME_BYTES_MAX: Final = (1 << 30) + _HEAD_BYTES
"""A row of a copy is not longer than Postgres lets any value be."""

_ROW: Final = ord("d")
_SKIPPED: Final = frozenset(b"NSAcC")
"""Notices, changed settings, notifications; the end of the rows and of the command, as the query's end follows both."""
_KNOWN: Final = frozenset(b"dHEZ") | _SKIPPED


class GatherRows(Protocol):
    """
    Takes frames of rows apart.
    """

    def __call__(self, data: bytearray, at: int, end: int) -> tuple[bytes, int]:
        """
        Join the rows of the whole frames from `at` on; tell also where the first begins that is none.
        """


def gather_rows(data: bytearray, at: int, end: int) -> tuple[bytes, int]:
    """
    Join the rows of the whole frames from `at` on, up to `end`.

    Returns:
        The rows, and where in `data` the first message begins that is no row, or is not whole.

    Raises:
        DecodeError: a frame is shorter than the field that holds its length.
    """
    parts: list[bytearray] = []
    while end - at >= _HEAD_BYTES and data[at] == _ROW:
        length = int.from_bytes(data[at + 1 : at + _HEAD_BYTES])
        if length < _HEAD_BYTES - 1:
            raise _no_such_length()
        past = at + 1 + length
        if past > end:
            break
        parts.append(data[at + _HEAD_BYTES : past])
        at = past
    return b"".join(parts), at


_compiled: GatherRows | None = None
with suppress(ImportError):
    from penstock.compiled import copying  # type: ignore[attr-defined]  # there only where it was built

    _compiled = copying.gather_rows


def choose_gather_rows() -> GatherRows:
    """
    Give the compiled twin where it was built and is wanted, or else the Python.
    """
    if _compiled is not None and choice.core() is not None:
        return _compiled
    return gather_rows


class CopyAnswer:
    """
    What the server says to one query that copies out.

    Attributes:
        is_started: the head of the copy has come.
        is_complete: the server waits for the next query.
        refusal: the fields of the first error the server reported, by their codes; None when it reported none.
        rows_bytes: how many bytes `take` would give.
    """

    def __init__(self, gather: GatherRows | None = None) -> None:
        """
        Begin with nothing received; the query was sent on a connection with nothing under way.
        """
        self.is_started = False
        self.is_complete = False
        self.refusal: dict[bytes, bytes] | None = None
        self.rows_bytes = 0
        self._gather: Final = gather or choose_gather_rows()
        self._parts: list[bytes] = []
        self._data = bytearray(BUFFER_BYTES)
        self._start = 0
        self._end = 0

    def room(self) -> memoryview:
        """
        Give memory for bytes to be received into; there is some.
        """
        assert not self.is_complete
        held = self._end - self._start
        needed = max(self._frame_bytes(), BUFFER_BYTES)
        if needed != len(self._data):
            # For one long row, and back to the usual size after it.
            data = bytearray(needed)
            data[:held] = memoryview(self._data)[self._start : self._end]
            self._data = data
            self._start, self._end = 0, held
        elif self._start > 0:
            self._data[:held] = self._data[self._start : self._end]
            self._start, self._end = 0, held
        return memoryview(self._data)[self._end :]

    def feed(self, bytes_count: int) -> None:
        """
        Take note of bytes received into the beginning of the room that was given last.

        Raises:
            DecodeError: this is no answer of a server to a copy.
        """
        assert 0 < bytes_count <= len(self._data) - self._end
        self._end += bytes_count
        while True:
            if self.is_started and self.refusal is None:
                rows, self._start = self._gather(self._data, self._start, self._end)
                if rows:
                    self._parts.append(rows)
                    self.rows_bytes += len(rows)
            past = self._start + self._frame_bytes()
            if past > self._end:
                return
            self._message(self._data[self._start], bytes(self._data[self._start + _HEAD_BYTES : past]))
            self._start = past

    def has(self, bytes_min: int) -> bool:
        """
        Tell whether so many bytes of rows are there, or nothing more will come.
        """
        return self.is_complete or self.rows_bytes >= bytes_min

    def take(self) -> bytes:
        """
        Give the whole rows that came since the last call.
        """
        parts, self._parts = self._parts, []
        self.rows_bytes = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _frame_bytes(self) -> int:
        """
        Tell how long the message is that comes next, as far as is known.
        """
        at = self._start
        if self._end > at and self._data[at] not in _KNOWN:
            raise DecodeError("the server answered a copy with something else")
        if self._end - at < _HEAD_BYTES:
            return _HEAD_BYTES
        length = int.from_bytes(self._data[at + 1 : at + _HEAD_BYTES])
        is_row = self._data[at] == _ROW and self.is_started
        if length < _HEAD_BYTES - 1 or length > (_FRAME_BYTES_MAX if is_row else _MESSAGE_BYTES_MAX):
            raise _no_such_length()
        return 1 + length

    def _message(self, kind: int, body: bytes) -> None:
        if self.is_complete:
            raise DecodeError("the server answered a copy with more than one end")
        if kind == ord("H") and not self.is_started and self.refusal is None:
            self.is_started = True
        elif kind == ord("E"):
            self.refusal = self.refusal or _fields(body)
        elif kind == ord("Z") and (self.is_started or self.refusal is not None):
            self.is_complete = True
        elif kind not in _SKIPPED:
            raise DecodeError("the server answered a copy with something else")


def _fields(body: bytes) -> dict[bytes, bytes]:
    """
    Read the fields of an error, each a code of one byte and a text that ends with a zero byte.
    """
    return {field[:1]: field[1:] for field in body.split(b"\0") if field}


def _no_such_length() -> DecodeError:
    return DecodeError("a message of the server has a length that none has")
