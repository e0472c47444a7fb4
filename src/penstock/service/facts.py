"""
What the database answered once and is remembered: the root of each partition, the publication barriers that were passed.

Replay must not ask again, because the answer may be another one by then; so each answer is in the control store before
anybody uses it. Facts are forgotten with their epoch. Shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from penstock.consumers.abc import ControlStore
from penstock.errors import PenstockError, Policy

_log: Final = structlog.get_logger(__name__)

_ROOT: Final = "root"
_BARRIER: Final = "barrier"
RETRY_S: Final = 0.5
"""How long to wait before the database is asked again."""


class RecordedFacts:
    """
    Implements `penstock.collector.abc.CatalogFacts` and `penstock.database.abc.BarrierFacts` on the control store.
    """

    def __init__(self, control: ControlStore, ask_root: Callable[[int], Awaitable[int]]) -> None:
        """
        Remember in `control`, ask for roots with `ask_root`.
        """
        self._control: Final = control
        self._ask_root: Final = ask_root
        self._roots: dict[int, int] = {}
        self._memberships: dict[int, int] = {}
        self.asking_count = 0
        """How many wait for an answer of the database."""

    def restore(self, facts: Mapping[tuple[str, str], bytes]) -> None:
        """
        Take over what was recorded before.
        """
        self._roots = {int(key): int(value) for (kind, key), value in facts.items() if kind == _ROOT}
        self._memberships = {int(k): int(v) for (kind, k), v in facts.items() if kind == _BARRIER and v}

    def forget_all(self) -> None:
        """
        A new epoch has begun, and with it the store has forgotten all facts.
        """
        self.restore({})

    def root_of(self, relation_oid: int) -> int | None:
        """
        See `CatalogFacts.root_of`.
        """
        return self._roots.get(relation_oid)

    async def find_root(self, relation_oid: int) -> int:
        """
        See `CatalogFacts.find_root`.
        """
        self.asking_count += 1
        try:
            return await self._find_root(relation_oid)
        finally:
            self.asking_count -= 1

    async def _find_root(self, relation_oid: int) -> int:
        while True:
            try:
                root = await self._ask_root(relation_oid)
                await self._control.record_fact(_ROOT, str(relation_oid), str(root).encode())
            except PenstockError as error:
                if error.policy is Policy.STOP:
                    raise
                _log.warning("waiting to find the parent of a relation", oid=relation_oid, error=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                self._roots[relation_oid] = root
                return root

    async def passed(self, oid: int) -> int | None:
        """
        See `BarrierFacts.passed`.
        """
        return self._memberships.get(oid)

    async def record(self, oid: int, membership: int | None) -> None:
        """
        See `BarrierFacts.record`.
        """
        await self._control.record_fact(_BARRIER, str(oid), b"" if membership is None else str(membership).encode())
        if membership is None:
            self._memberships.pop(oid, None)
        else:
            self._memberships[oid] = membership
