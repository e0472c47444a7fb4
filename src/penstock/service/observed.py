"""
What operators are told, also while the engine is away: the processes and the receiver's positions come from the board.

Shell; asks the engine for the rest, with a deadline.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Any, Final

import msgspec

from penstock.api.abc import ShapeSource
from penstock.errors import ConnectionLostError
from penstock.liveness.board import Board, Cell
from penstock.postgres.lsn import EndLsn
from penstock.service.cells import ReceiverReport, RecordedBoundaryCell, TypedCell, receiver_cell
from penstock.service.lifecycle import SupervisorState, is_supervisor_silent
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import (
    Health,
    OpenReply,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)

ENGINE_ANSWER_S_MAX: Final = 2.0
"""How long the status waits for the engine before it answers without."""


class ObservedSource:
    """
    A source of shapes whose status also tells the processes; implements `penstock.api.abc.ShapeSource`.
    """

    def __init__(self, source: ShapeSource, board: Board) -> None:
        """
        Speak for `source`, and read the board.
        """
        self._source: Final = source
        self._board: Final = board
        self._supervisor: Final = TypedCell(board, Cell.SUPERVISOR, SupervisorState)
        self._receiver: Final = receiver_cell(board)
        self._recorded: Final = RecordedBoundaryCell(board)
        self._started_at_s: Final = time.monotonic()

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        See `ShapeSource.open`.
        """
        return await self._source.open(request)

    def wait(self, handle: str, after: LogOffset) -> Awaitable[WaitReply]:
        """
        See `ShapeSource.wait`.
        """
        return self._source.wait(handle, after)

    async def health(self) -> Health:
        """
        See `ShapeSource.health`. A supervisor that says nothing could not restart what fails: that is not ready.
        """
        health = await self._source.health()
        if health.state == "active" and not health.unready and is_supervisor_silent(self._board, time.monotonic()):
            return msgspec.structs.replace(health, unready="the supervisor has said nothing for a while")
        return health

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        """
        See `ShapeSource.list_shapes`.
        """
        return await self._source.list_shapes(question)

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        See `ShapeSource.load_subset`.
        """
        return await self._source.load_subset(question)

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        See `ShapeSource.remove`.
        """
        return await self._source.remove(request)

    async def status(self) -> dict[str, object]:
        """
        Tell everything an operator may want to know, as far as it is known without the engine if that is away.
        """
        try:
            async with asyncio.timeout(ENGINE_ANSWER_S_MAX):
                answer = await self._source.status()
        except (ConnectionLostError, TimeoutError):
            answer = {
                "state": "starting",
                "waiting_for": "the engine",
                "problems": ["the engine does not answer"],
                "positions": self._positions(self._receiver.read()),
            }
        return {"processes": self._processes(), **answer}

    def _positions(self, report: ReceiverReport | None) -> dict[str, str]:
        recorded = self._recorded.read()
        boundary = str(EndLsn(0) if recorded is None else recorded.boundary)
        return {
            "received": str(EndLsn(0 if report is None else report.received)),
            "durable": str(EndLsn(0 if report is None else report.durable)),
            "confirmed": str(EndLsn(0 if report is None else report.confirmed)),
            "server": str(EndLsn(0 if report is None else report.server_end)),
            "flush_boundary": boundary,
            "recorded_boundary": boundary,
        }

    def _processes(self) -> list[dict[str, Any]]:
        state = self._supervisor.read()
        now = time.monotonic()
        if state is None:
            # One process plays every part.
            roles = ("supervisor", "receiver", "engine", "web")
            uptime_s = round(now - self._started_at_s, 3)
            return [{"role": role, "pid": os.getpid(), "uptime_s": uptime_s, "restart_count": 0} for role in roles]
        found = [
            {"role": "supervisor", "pid": state.pid, "uptime_s": round(now - state.started_at_s, 3), "restart_count": 0}
        ]
        found += [
            {
                "role": child.role.value,
                "index": child.index,
                "pid": child.pid or None,
                "uptime_s": round(now - child.started_at_s, 3) if child.pid else 0.0,
                "restart_count": child.restart_count,
            }
            for child in state.children
        ]
        return found
