"""
What the engine does after each slice of work and at least four times a second: shows that it lives, and sees whether
something that it waited for has come about.

Shell; each of its steps is a plain call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from penstock.collector.collector import ShapeLogCollector
from penstock.consumers.registry import ConsumerRegistry
from penstock.service.engine.health import EngineHealth
from penstock.service.trail import BoardTrail

INTERVAL_S: Final = 0.25
"""How often it beats without work."""


class EnginePulse:
    """
    The heartbeat, and what goes along with it.

    Attributes:
        slices_count: slices of the stream that were handled.
    """

    def __init__(
        self,
        *,
        beat: Callable[[], None],
        health: EngineHealth,
        registry: ConsumerRegistry,
        collector: ShapeLogCollector,
        trail: BoardTrail,
        is_replaying: Callable[[], bool],
    ) -> None:
        """
        Take what it looks at.

        Args:
            beat: the heartbeat.
            health: whether the engine is active.
            registry: the shapes.
            collector: how far the stream was handled.
            trail: what engines before this one died of.
            is_replaying: whether what is handled may have been served before.
        """
        self._beat: Final = beat
        self._health: Final = health
        self._registry: Final = registry
        self._collector: Final = collector
        self._trail: Final = trail
        self._is_replaying: Final = is_replaying
        self.slices_count = 0

    async def run(self) -> None:
        """
        Beat, until cancelled.
        """
        while True:
            self.look()
            await asyncio.sleep(INTERVAL_S)

    def handle_slice(self, now: float) -> None:
        """
        A slice of the stream was handled.
        """
        del now
        self.slices_count += 1
        self.look()

    def look(self) -> None:
        """
        Beat once.
        """
        self._beat()
        registry = self._registry
        if registry.is_replay_foreign and self._health.is_restored.is_set() and not self._is_replaying():
            registry.is_replay_foreign = False
        if self._trail.suspicions and not registry.is_anybody_waiting:
            # What would have killed this engine has had its chance.
            self._trail.pass_commit(self._collector.last_seen_commit.value)
        self._health.refresh()
