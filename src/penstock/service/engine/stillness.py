"""
Whether nobody would miss the connections to the database, and whether all is there again that needs them.

Shell, in so far as it looks at other shells; when to sleep is decided by `penstock.service.sleep`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from penstock.collector.flush_tracker import FlushTracker
from penstock.consumers.stage import ConsumersStage
from penstock.database.watch import CatalogWatch
from penstock.replication.state import ReceiverPhase
from penstock.service.cells import ReceiverReport
from penstock.service.engine.connections import Connections
from penstock.service.engine.health import EngineHealth


class Stillness:
    """
    Looks at everything that may be under way.
    """

    def __init__(
        self,
        *,
        report: Callable[[], ReceiverReport | None],
        health: EngineHealth,
        tracker: FlushTracker,
        consumers: ConsumersStage,
        watch: CatalogWatch,
        connections: Connections,
    ) -> None:
        """
        Take what it looks at.

        Args:
            report: what the receiver said last.
            health: whether the engine is active.
            tracker: what is owed.
            consumers: the shapes.
            watch: whether the catalog was compared.
            connections: whether somebody has one.
        """
        self._report: Final = report
        self._health: Final = health
        self._tracker: Final = tracker
        self._consumers: Final = consumers
        self._watch: Final = watch
        self._connections: Final = connections
        self._polls_before = 0

    def is_still(self) -> bool:
        """
        Tell whether nobody would miss the connections.
        """
        report = self._report()
        self._polls_before = self._watch.polls_count
        registry = self._consumers.registry
        return (
            report is not None
            and report.phase == ReceiverPhase.STREAMING.value
            and self._health.health().state == "active"
            and not self._health.is_draining
            and self._tracker.pending_count == 0
            and registry.creating_count == 0
            and self._consumers.catalog.creating_count == 0
            and not registry.is_any_behind
            and self._connections.in_use_count == 0
        )

    def is_up_again(self) -> bool:
        """
        Tell whether the stream runs and the catalog was compared since the connections were closed.
        """
        report = self._report()
        is_streaming = report is not None and report.phase == ReceiverPhase.STREAMING.value
        return is_streaming and self._watch.polls_count > self._polls_before
