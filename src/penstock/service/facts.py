"""
What the database answered once and is remembered: what lies above each relation, the publication barriers that were
passed, the forms of tables.

Replay must not ask again, because the answer may be another one by then; so each answer is in the control store before
anybody uses it. Facts are forgotten with their epoch. Shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import structlog

from penstock.consumers.abc import ControlStore
from penstock.errors import PenstockError, Policy

_log: Final = structlog.get_logger(__name__)

_ANCESTORS: Final = "root"
"""Recorded under this name since there was but one table above a relation; stores that have it are to stay readable."""
_BARRIER: Final = "barrier"
_FORM: Final = "form"
RETRY_S: Final = 0.5
"""How long to wait before the database is asked again."""


class RecordedFacts:
    """
    Implements `penstock.collector.abc.CatalogFacts` and `penstock.database.abc.BarrierFacts` on the control store.
    """

    def __init__(self, control: ControlStore, ask_ancestors: Callable[[int], Awaitable[tuple[int, ...]]]) -> None:
        """
        Remember in `control`, ask what lies above a relation with `ask_ancestors`.
        """
        self._control: Final = control
        self._ask_ancestors: Final = ask_ancestors
        self.welcome: Callable[[int, Collection[int]], Awaitable[None]] = _nobody
        """Told what lies above a relation, before anybody uses it; may raise to be told again."""
        self._ancestors: dict[int, tuple[int, ...]] = {}
        self._forms: dict[int, str] = {}
        self._memberships: dict[int, int] = {}
        self.asking_count = 0
        """How many wait for an answer of the database."""

    def restore(self, facts: Mapping[tuple[str, str], bytes]) -> None:
        """
        Take over what was recorded before.
        """
        self._ancestors = {
            int(key): _read(int(key), value) for (kind, key), value in facts.items() if kind == _ANCESTORS
        }
        self._forms = {int(key): value.decode() for (kind, key), value in facts.items() if kind == _FORM and value}
        self._memberships = {int(k): int(v) for (kind, k), v in facts.items() if kind == _BARRIER and v}

    def forget_all(self) -> None:
        """
        A new epoch has begun, and with it the store has forgotten all facts.
        """
        self.restore({})

    def ancestors_of(self, relation_oid: int) -> tuple[int, ...] | None:
        """
        See `CatalogFacts.ancestors_of`.
        """
        return self._ancestors.get(relation_oid)

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        """
        See `CatalogFacts.find_ancestors`.
        """
        self.asking_count += 1
        try:
            return await self._find_ancestors(relation_oid)
        finally:
            self.asking_count -= 1

    async def _find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        known = self._ancestors.get(relation_oid)
        while True:
            try:
                ancestors = await self._ask_ancestors(relation_oid)
                if ancestors == known:
                    return ancestors
                await self.welcome(relation_oid, {*ancestors, *(known or ())})
                # The relation itself stands for "nothing above it".
                text = ",".join(map(str, ancestors or (relation_oid,)))
                await self._control.record_fact(_ANCESTORS, str(relation_oid), text.encode())
            except PenstockError as error:
                if error.policy is Policy.STOP:
                    raise
                _log.warning("waiting to find what is above a relation", oid=relation_oid, error=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                self._ancestors[relation_oid] = ancestors
                return ancestors

    def partitions_of(self, oid: int) -> frozenset[int]:
        """
        See `BarrierFacts.partitions_of`.
        """
        return frozenset(relation for relation, above in self._ancestors.items() if oid in above)

    def is_elsewhere(self, partition: int, oid: int) -> bool:
        """
        See `BarrierFacts.is_elsewhere`.
        """
        above = self._ancestors.get(partition)
        return above is not None and oid not in above

    async def find_again(self, oids: Collection[int]) -> None:
        """
        See `BarrierFacts.find_again`.
        """
        for oid in oids:
            if oid in self._ancestors:
                await self.find_ancestors(oid)

    async def form(self, oid: int) -> str | None:
        """
        See `BarrierFacts.form`.
        """
        return self._forms.get(oid)

    async def record_form(self, oid: int, form: str | None) -> None:
        """
        See `BarrierFacts.record_form`.
        """
        await self._control.record_fact(_FORM, str(oid), b"" if form is None else form.encode())
        if form is None:
            self._forms.pop(oid, None)
        else:
            self._forms[oid] = form

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


async def _nobody(relation_oid: int, above: Collection[int]) -> None:
    del relation_oid, above


def _read(oid: int, value: bytes) -> tuple[int, ...]:
    return tuple(above for above in map(int, value.split(b",")) if above != oid)
