"""
The engine's breadcrumb on the board: written before consumers are called, read by the engine that starts next.

Implements `penstock.consumers.abc.Trail`; what follows from it is decided by `penstock.liveness.breadcrumb`. Shell, in
so far as the board is shared memory; nothing here waits. The board belongs to the supervisor and so outlives engines.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.consumers.abc import Phase
from penstock.liveness.board import Board, Cell
from penstock.liveness.breadcrumb import Crumb, Inherited, Trail, inherit, not_passed, still_suspect

_DECODER: Final = msgspec.msgpack.Decoder(Trail)
_ENCODER: Final = msgspec.msgpack.Encoder()


class BoardTrail:
    """
    The trail of this engine, which begins with its predecessor's.
    """

    def __init__(self, board: Board) -> None:
        """
        Use this board; `take_over` comes first.
        """
        self._board: Final = board
        self._epoch = 0
        self._suspicions: tuple[Crumb, ...] = ()
        self._idle = b""
        self._careful_from = self._careful_to = -1

    def take_over(self, epoch: int, kept: bytes = b"") -> Inherited:
        """
        Conclude from what a predecessor left, and go on from there.

        Args:
            epoch: the one that is recorded.
            kept: what `save` gave last, before this board was made; empty for nothing.
        """
        payload = self._board.read(Cell.BREADCRUMB) or kept
        found = inherit(_DECODER.decode(payload) if payload else None, epoch)
        self._begin(epoch, found.suspicions)
        return found

    def save(self) -> bytes:
        """
        Give what engines died on, to be kept for the time after this board; empty when there is nothing.
        """
        return _ENCODER.encode(Trail(self._epoch, None, self._suspicions)) if self._suspicions else b""

    @property
    def suspicions(self) -> tuple[Crumb, ...]:
        """
        What engines died on, oldest first.
        """
        return self._suspicions

    def pass_commit(self, passed: int) -> None:
        """
        This engine has come past a commit, and nobody waits for it or for one before it.
        """
        kept = not_passed(self._suspicions, passed)
        if kept != self._suspicions:
            self._begin(self._epoch, kept)

    def begin_epoch(self, epoch: int) -> None:
        """
        Forget: positions begin anew.
        """
        self._begin(epoch, ())

    def forget_below(self, boundary: int) -> None:
        """
        What lies below the boundary is read no more.
        """
        if self._suspicions:
            kept = still_suspect(self._suspicions, boundary)
            if kept != self._suspicions:
                self._begin(self._epoch, kept)

    def _begin(self, epoch: int, suspicions: tuple[Crumb, ...]) -> None:
        self._epoch = epoch
        self._suspicions = suspicions
        self._careful_from = min((crumb.first for crumb in suspicions), default=-1)
        self._careful_to = max((crumb.last for crumb in suspicions), default=-1)
        self._idle = _ENCODER.encode(Trail(epoch, None, suspicions))
        self._board.write(Cell.BREADCRUMB, self._idle)

    def begin_slice(self, first: int, last: int) -> bool:
        """
        See `penstock.consumers.abc.Trail`.
        """
        self._board.write(Cell.BREADCRUMB, _ENCODER.encode(Trail(self._epoch, Crumb(first, last), self._suspicions)))
        return first <= self._careful_to and self._careful_from <= last

    def name(self, incarnation: int, first: int, last: int, phase: Phase = Phase.DELIVERY) -> None:
        """
        See `penstock.consumers.abc.Trail`.
        """
        crumb = Crumb(first, last, incarnation, phase)
        self._board.write(Cell.BREADCRUMB, _ENCODER.encode(Trail(self._epoch, crumb, self._suspicions)))

    def end(self) -> None:
        """
        See `penstock.consumers.abc.Trail`.
        """
        self._board.write(Cell.BREADCRUMB, self._idle)
