"""
How far each part of the service has got, for people.

Shell, in so far as the receiver's part is read from the board.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.postgres.lsn import EndLsn
from penstock.service.cells import ReceiverReport
from penstock.service.engine.recorder import BoundaryRecorder


class Positions:
    """
    The places in the stream that an operator compares.
    """

    def __init__(
        self,
        *,
        report: Callable[[], ReceiverReport | None],
        collector: ShapeLogCollector,
        tracker: FlushTracker,
        recorder: BoundaryRecorder,
    ) -> None:
        """
        Take who knows them.
        """
        self._report: Final = report
        self._collector: Final = collector
        self._tracker: Final = tracker
        self._recorder: Final = recorder

    def tell(self) -> dict[str, str]:
        """
        Give them as LSNs, in the order of the data's way and back.
        """
        report = self._report()
        return {
            "received": str(EndLsn(0 if report is None else report.received)),
            "durable": str(EndLsn(0 if report is None else report.durable)),
            "confirmed": str(EndLsn(0 if report is None else report.confirmed)),
            "server": str(EndLsn(0 if report is None else report.server_end)),
            "processed": str(self._collector.last_seen_end),
            "flush_boundary": str(self._tracker.last_global_flushed_offset),
            "recorded_boundary": str(self._recorder.boundary),
        }
