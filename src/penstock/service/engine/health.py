"""
Where the engine stands between its start and its end: whether shapes can be made and clients be served.

Implements `penstock.consumers.catalog.Readiness`. Shell, for the two events that others wait for; what makes an active
engine unready for new clients is found by `readiness`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from penstock.service.cells import ReceiverReport
from penstock.shapes.reading import Health


class EngineHealth:
    """
    Starting, waiting or active.

    Attributes:
        is_restored: set when every live shape is routed.
        is_active: set while shapes can be made.
        is_draining: whether it is about to end; then it becomes active no more.
        unready: why clients should be sent elsewhere although it is active; empty when they should not.
    """

    def __init__(
        self,
        *,
        report: Callable[[], ReceiverReport | None],
        last_seen_lsn: Callable[[], int],
        is_caught_up: Callable[[], bool],
        is_broken: Callable[[], bool],
        is_asleep: Callable[[], bool],
    ) -> None:
        """
        Take what it looks at; none of it is asked before all parts are there.

        Args:
            report: what the receiver said last.
            last_seen_lsn: how far the stream was handled.
            is_caught_up: whether everything that was published at the start has been handled.
            is_broken: whether the relay log cannot be decoded at present.
            is_asleep: whether the connections are closed because nobody needs them.
        """
        self._report: Final = report
        self._last_seen_lsn: Final = last_seen_lsn
        self._is_caught_up: Final = is_caught_up
        self._is_broken: Final = is_broken
        self._is_asleep: Final = is_asleep
        self.is_restored: Final = asyncio.Event()
        self.is_active: Final = asyncio.Event()
        self.is_draining = False
        self.unready = ""

    def health(self) -> Health:
        """
        Tell where the engine stands.
        """
        last_seen = self._last_seen_lsn()
        report = self._report()
        detail = "" if report is None else report.error
        if report is None or report.phase == "waiting for lock":
            state = "waiting" if report is not None and self.is_restored.is_set() else "starting"
            return Health(state, "Postgres lock acquisition", detail, last_seen)
        if not report.has_streamed:
            return Health("starting", "replication client to be ready", detail, last_seen)
        # A shape made before everything published is handled again could miss a commit that is visible late.
        if not self.is_restored.is_set() or not self._is_caught_up():
            return Health("starting", "shape data to be loaded", detail, last_seen)
        if self._is_broken():
            return Health("starting", "integrety checks", "the relay log is damaged", last_seen)
        return Health("active", "", detail, last_seen, self.unready, self._is_asleep())

    async def wait_active(self) -> None:
        """
        Wait until shapes can be made.
        """
        await self.is_active.wait()

    def refresh(self) -> None:
        """
        Let those go on who wait for the engine to be active, or hold them.
        """
        if self.health().state == "active":
            if not self.is_draining:
                self.is_active.set()
        else:
            self.is_active.clear()

    def drain(self) -> None:
        """
        Be active no more.
        """
        self.is_draining = True
        self.is_active.clear()
