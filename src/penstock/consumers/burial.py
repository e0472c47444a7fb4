"""
The end of shapes that must be given up.

Giving a shape up (O6 of the design), each step only when the one before it is synced::

    condemn: routed no more, takes nothing more ──▶ tombstone ──▶ debt void, waiters told, entry gone ──▶ folder
    renamed away ──▶ row forgotten

A crash before the tombstone leaves a shape that lives and owes. A crash after it leaves a row that `take_rows` buries.

Form: shell. `condemn` is a plain call that never waits and never raises. Two kinds of tasks, in the registry's group: one
that buries, one for each folder being thrown away.

Invariants: nobody is told that a shape is gone before its tombstone is synced; a consumer that is gone without having
been replaced or let rest costs its shape, at once and whatever it owed: what it had in memory, clients may have seen.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

import structlog

from penstock.consumers.abc import ControlStore, ShapeAccounts, ShapeLogStore
from penstock.consumers.consumer import Consumer
from penstock.consumers.entries import RegistryEvents, ShapeEntries, ShapeEntry
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.waiting import ShapeWaiters
from penstock.control.records import ShapeRow, ShapeState
from penstock.errors import PenstockError
from penstock.postgres.lsn import EndLsn

_log: Final = structlog.get_logger(__name__)


class Burial:
    """
    Gives shapes up and buries them.

    Attributes:
        shed_count: shapes given up because of a fault, and not because their table or a request asked for it.
    """

    def __init__(
        self,
        *,
        entries: ShapeEntries,
        waiters: ShapeWaiters,
        store: ShapeLogStore,
        control: ControlStore,
        accounts: ShapeAccounts,
        events: RegistryEvents,
        limits: ConsumerLimits,
    ) -> None:
        """
        Begin with nobody to bury; see `ConsumerRegistry` for the ports.
        """
        self._entries: Final = entries
        self._waiters: Final = waiters
        self._store: Final = store
        self._control: Final = control
        self._accounts: Final = accounts
        self._events: Final = events
        self._limits: Final = limits
        self._condemned: list[ShapeEntry] = []
        self._rows: list[ShapeRow] = []
        self._has_work: Final = asyncio.Event()
        self._discards: Final = asyncio.Semaphore(limits.loads_count_max)
        self._discarding_count = 0
        self._group: asyncio.TaskGroup | None = None
        self.shed_count = 0

    @property
    def is_burying(self) -> bool:
        """
        Whether files or rows of shapes that were given up are still being removed.
        """
        return bool(self._condemned or self._rows or self._discarding_count)

    # --- giving up ---------------------------------------------------------------------------------------------------

    def condemn(self, entries: Collection[ShapeEntry], reason: str, *, is_fault: bool = False) -> None:
        """
        Give shapes up: they take nothing more from now on, and are gone when their tombstones are synced.

        `is_fault` says that the shape is shed: neither its table nor a request is why.
        """
        for entry in entries:
            if entry.condemned is not None:
                continue
            if is_fault:
                self.shed_count += 1
                self._events.shed(entry, reason)
            self._condemn(entry, reason)
        self._has_work.set()

    def _condemn(self, entry: ShapeEntry, reason: str) -> None:
        entry.condemned = reason
        _log.warning("shape given up", handle=entry.handle, reason=reason)
        if entry.load is not None and entry.load is not asyncio.current_task():
            entry.load.cancel()
        if entry.consumer is not None:
            entry.consumer.end()
        self._entries.behind.pop(entry.incarnation, None)
        self._waiters.tell_rejoined(entry)
        self._accounts.unroute(entry.incarnation)
        self._condemned.append(entry)

    async def condemn_all(self, reason: str) -> None:
        """
        Give every shape up and return when all their tombstones are synced.
        """
        entries = list(self._entries)
        # No shape's own fault: they are counted, and may be made again at once.
        self.shed_count += sum(entry.condemned is None for entry in entries)
        self.condemn(entries, reason)
        for entry in entries:
            await self._waiters.wait_gone(entry)

    def forget_all(self, reason: str) -> None:
        """
        Every shape was tombstoned by the row that began a new epoch: tell waiters, throw the files away.

        The caller has the collector forget its accounts.
        """
        assert self._group is not None, "the registry runs"
        for entry in self._entries:
            entry.condemned = entry.condemned or reason
            if entry.consumer is not None:
                entry.consumer.end()
            self._waiters.tell_rejoined(entry)
            self._depart(entry)
        self._condemned = []

    def watch(self, entry: ShapeEntry) -> None:
        """
        Learn at once when the consumer of a shape is gone, whoever let go of it and why.
        """
        assert entry.consumer is not None
        entry.monitor = weakref.ref(entry.consumer, partial(self._consumer_gone, entry.incarnation))

    def _consumer_gone(self, incarnation: int, monitor: weakref.ref[Consumer]) -> None:
        """
        A consumer is gone that nobody replaced or let rest: what it had in memory is lost, and clients may have seen it.
        """
        entry = self._entries.get(incarnation)
        if entry is not None and entry.monitor is monitor:
            self.condemn([entry], "its consumer is gone with what it had in memory", is_fault=True)

    # --- rows --------------------------------------------------------------------------------------------------------

    def take_row(self, row: ShapeRow) -> None:
        """
        End an incarnation of which there is nothing but its row and perhaps its folder.
        """
        self._rows.append(row)
        self._has_work.set()

    def take_rows(self, rows: Sequence[ShapeRow]) -> None:
        """
        End those that a restart found and that are not live.
        """
        self._rows.extend(rows)
        self._has_work.set()

    # --- the saga ----------------------------------------------------------------------------------------------------

    async def run(self, group: asyncio.TaskGroup) -> None:
        """
        Bury the condemned, until cancelled; folders are thrown away in tasks of this group.
        """
        self._group = group
        try:
            while True:
                await self._has_work.wait()
                self._has_work.clear()
                await self._bury_rows()
                await self._bury_entries()
        finally:
            self._group = None

    async def _bury_entries(self) -> None:
        condemned, self._condemned = self._condemned, []
        by_reason: dict[str, list[ShapeEntry]] = {}
        for entry in condemned:
            by_reason.setdefault(entry.condemned or "", []).append(entry)
        for reason, entries in by_reason.items():
            numbers = [entry.incarnation for entry in entries]
            at = max(_end_of(entry) for entry in entries)
            await self._insist("tombstone", partial(self._control.tombstone, numbers, reason, at))
            for entry in entries:
                # An epoch that began meanwhile has made all of them depart.
                if entry in self._entries:
                    self._accounts.remove_shape(entry.incarnation)
                    self._depart(entry)

    def _depart(self, entry: ShapeEntry) -> None:
        self._entries.remove(entry)
        self._waiters.tell_gone(entry)
        self._events.gone(entry)
        self._throw_away(entry.handle, entry.incarnation)

    async def _bury_rows(self) -> None:
        """
        Bury what a restart found: rows that were never live get a tombstone first.
        """
        rows, self._rows = self._rows, []
        creating = [row.incarnation for row in rows if row.state is ShapeState.CREATING]
        if creating:
            reason = "was not complete when the service ended"
            await self._insist("tombstone", partial(self._control.tombstone, creating, reason, EndLsn(0)))
        for row in rows:
            self._accounts.remove_shape(row.incarnation)
            self._throw_away(row.handle, row.incarnation)

    def _throw_away(self, handle: str, incarnation: int) -> None:
        assert self._group is not None, "the registry runs"
        self._discarding_count += 1
        self._group.create_task(self._discard(handle, incarnation), name=f"discard shape {handle}")

    async def _discard(self, handle: str, incarnation: int) -> None:
        async with self._discards:
            if handle:
                await self._insist("discard", partial(self._store.discard, handle, incarnation))
            await self._insist("forget", partial(self._control.forget, incarnation))
        self._discarding_count -= 1

    async def _insist(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        """
        Repeat a step of the saga until it succeeds; all of them are idempotent.
        """
        while True:
            try:
                await call()
            except (PenstockError, OSError) as error:
                _log.error("giving a shape up is held up", step=what, error=str(error))
                await asyncio.sleep(self._limits.retry_s)
            else:
                return


def _end_of(entry: ShapeEntry) -> EndLsn:
    return entry.done_end if entry.consumer is None else entry.consumer.done_end
