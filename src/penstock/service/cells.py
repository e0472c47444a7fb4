"""
What the roles write on the board for each other, typed: one small value for each cell, with one writer.

Shell, in so far as the board is memory shared with other processes; nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from penstock.liveness.board import PAYLOAD_BYTES_MAX, Board, Cell
from penstock.postgres.lsn import EndLsn
from penstock.relay.abc import PublishedEnd
from penstock.relay.epochs import RecordedBoundary

_T = TypeVar("_T")
_TEXT_CHARACTERS_MAX: Final = 120
"""Sentences on the board are cut to this, so that a cell holds them whatever their script."""


class ReceiverReport(msgspec.Struct, frozen=True, array_like=True):
    """
    Where the receiver stands, for operators and readiness.

    Attributes:
        phase: of its connection, see `penstock.replication.state.ReceiverPhase`.
        phase_since_s: when that began, on the machine's monotonic clock.
        error: the last failure of the connection, empty when all is well.
        received: how far the stream was read.
        durable: how far the relay log reaches.
        confirmed: what the last status said.
        server_end: the greatest position the server has named.
        relay_bytes: size of the relay log.
        is_paused: whether the socket is not read because we are full.
        is_out_of_room: whether that is because the relay budget is used up, or the disk nearly so.
        disk_failure: what the disk of the relay log last refused; empty when all is well.
        is_disk_hung: whether that disk has not answered for too long.
        has_streamed: whether this run has streamed before.
    """

    phase: str
    phase_since_s: float
    error: str
    received: int
    durable: int
    confirmed: int
    server_end: int
    relay_bytes: int
    is_paused: bool
    is_out_of_room: bool
    disk_failure: str
    is_disk_hung: bool
    has_streamed: bool


class RecordedCell(msgspec.Struct, frozen=True, array_like=True):
    """
    `penstock.relay.epochs.RecordedBoundary` as numbers.

    Attributes:
        boundary, trim_below, epoch, damaged_segment: see there.
    """

    boundary: int
    trim_below: int
    epoch: int
    damaged_segment: int


class TypedCell(Generic[_T]):
    """
    One cell of a board.
    """

    def __init__(self, board: Board, cell: Cell, kind: type[_T]) -> None:
        """
        Name the cell and the type of what it holds.
        """
        self._board: Final = board
        self._cell: Final = cell
        self._decoder: Final = msgspec.msgpack.Decoder(kind)
        self._last: tuple[bytes, _T] | None = None

    def write(self, value: _T) -> None:
        """
        Say something; only the cell's one writer does.
        """
        payload = msgspec.msgpack.encode(value)
        assert len(payload) <= PAYLOAD_BYTES_MAX, len(payload)
        self._board.write(self._cell, payload)

    def read(self) -> _T | None:
        """
        Read what was said last; None while nothing was.
        """
        payload = self._board.read(self._cell)
        if payload is None:
            return None
        if self._last is None or self._last[0] != payload:
            self._last = (payload, self._decoder.decode(payload))
        return self._last[1]


def published_cell(board: Board) -> TypedCell[PublishedEnd]:
    """
    Give the cell through which the receiver tells how far the relay log may be read.
    """
    return TypedCell(board, Cell.PUBLISHED_END, PublishedEnd)


def receiver_cell(board: Board) -> TypedCell[ReceiverReport]:
    """
    Give the cell in which the receiver tells how it is.
    """
    return TypedCell(board, Cell.RECEIVER_STATE, ReceiverReport)


class RecordedBoundaryCell:
    """
    The cell through which the engine tells what it recorded durably.
    """

    def __init__(self, board: Board) -> None:
        """
        Use this board.
        """
        self._cell: Final = TypedCell(board, Cell.RECORDED_BOUNDARY, RecordedCell)

    def write(self, recorded: RecordedBoundary) -> None:
        """
        Tell it; the control store has it already.
        """
        self._cell.write(
            RecordedCell(recorded.boundary.value, recorded.trim_below.value, recorded.epoch, recorded.damaged_segment)
        )

    def read(self) -> RecordedBoundary | None:
        """
        Read it; None while the engine has said nothing since the service was started.
        """
        cell = self._cell.read()
        if cell is None:
            return None
        return RecordedBoundary(EndLsn(cell.boundary), EndLsn(cell.trim_below), cell.epoch, cell.damaged_segment)


class BoardPublisher:
    """
    Publishes the end of the relay log on the board and wakes the engine; implements `penstock.relay.abc.Publisher`.
    """

    def __init__(self, board: Board, wake_engine: Callable[[], None]) -> None:
        """
        Use this board and this hint.
        """
        self._cell: Final = published_cell(board)
        self._wake_engine: Final = wake_engine

    def publish(self, end: PublishedEnd) -> None:
        """
        Move the published end.
        """
        self._cell.write(end)
        self._wake_engine()


def clip(text: str) -> str:
    """
    Cut a sentence to what a cell has room for.
    """
    return text if len(text) <= _TEXT_CHARACTERS_MAX else text[: _TEXT_CHARACTERS_MAX - 1] + "…"
