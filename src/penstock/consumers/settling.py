"""
Settling tails, and telling what has become durable.

Owns when `ShapeLogStore.settle` is called and with what, what follows from its answers, and the brake on reading when
tails together take too much memory. Which are due is decided by `settle_plan`.

Form: shell. One task waits for the next thing due; each call of the store is a task of its own, at most
`settle_calls_count_max` at a time, because one hanging disk thread must not keep other shapes from settling.

Order (O3 of the design): what is reported as flushed was complete in the log when the store was called, and the store
has answered that it is synced. A condemned shape is not reported for: its report could pay the very debt that keeps
it from surviving a crash untouched.

Limits: while tails hold more than `tail_bytes_max`, `may_read` is not set and the intake stops reading; it is set again
when enough was settled. Parts of transactions that are half-way and cannot be settled do not count, because only
reading on ends them. A shape whose disk has no space keeps its tail, owes, and is named in `without_space`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

import structlog

from penstock.consumers.abc import ShapeAccounts, ShapeLog, ShapeLogStore
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settle_plan import SettlePlan
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.records import SettleOutcome

_log: Final = structlog.get_logger(__name__)

_Mark: TypeAlias = tuple[CommitLsn, EndLsn]


class Settler:
    """
    Settles tails and reports.
    """

    def __init__(
        self,
        *,
        store: ShapeLogStore,
        accounts: ShapeAccounts,
        limits: ConsumerLimits,
        age_s: float,
        clock: Callable[[], float],
        on_settled: Callable[[ShapeEntry], None],
    ) -> None:
        """
        Take the ports; `registry` is set by whoever builds both.

        Args:
            store: writes.
            accounts: is told what is flushed.
            limits: bounds.
            age_s: a tail is settled when it is this old.
            clock: seconds that do not step back.
            on_settled: called after a shape was settled.
        """
        self._store: Final = store
        self._accounts: Final = accounts
        self._limits: Final = limits
        self._clock: Final = clock
        self._on_settled: Final = on_settled
        self._plan: Final = SettlePlan(shape_bytes=limits.settle_shape_bytes, age_s=age_s)
        self._registry: ConsumerRegistry | None = None
        self._wake: Final = asyncio.Event()
        self._calls: Final[dict[asyncio.Task[None], list[int]]] = {}
        # Replaced each time it is set: whoever waits on it waits for the next call to end, or the next shape to go.
        self._finished = asyncio.Event()
        self.may_read: Final = asyncio.Event()
        """Set while tails leave room to read on."""
        self.may_read.set()
        self._refused: Final[dict[int, SettleOutcome]] = {}

    def attach(self, registry: ConsumerRegistry) -> None:
        """
        Tell where the shapes are.
        """
        self._registry = registry

    @property
    def without_space(self) -> list[int]:
        """
        The shapes whose disk had no space when it was last asked.
        """
        return [shape for shape, outcome in self._refused.items() if outcome is SettleOutcome.NO_SPACE]

    @property
    def failed_together(self) -> frozenset[int]:
        """
        Shapes of a call in which too many failed to blame each of them; they go on owing.
        """
        return frozenset(shape for shape, outcome in self._refused.items() if outcome is SettleOutcome.FAILED)

    @property
    def tail_bytes(self) -> int:
        """
        What settling could take off memory now.
        """
        return self._plan.total_bytes

    def is_busy(self, entry: ShapeEntry) -> bool:
        """
        Tell whether something of the shape is not settled and reported yet.
        """
        return self._plan.is_noted(entry.incarnation)

    # --- taking notice -----------------------------------------------------------------------------------------------

    def note(self, entry: ShapeEntry, now: float) -> None:
        """
        Take notice that a shape has taken transactions.
        """
        consumer = entry.consumer
        if consumer is None or consumer.log is None or not consumer.is_begun or entry.condemned is not None:
            return
        log = consumer.log
        if entry.is_live and log.tail_bytes == 0 and not self._plan.is_noted(entry.incarnation):
            settled = log.settled
            if settled is not None and settled[0] == consumer.done:
                # It added nothing, and all before is durable.
                self._accounts.flushed(entry.incarnation, *settled)
                return
        was_empty = not len(self._plan)
        if self._plan.note(entry.incarnation, log.tail_bytes, now) or was_empty:
            self._wake.set()
        self._brake()

    def ask(self, entries: Collection[ShapeEntry]) -> None:
        """
        Settle these as soon as possible.
        """
        now = self._clock()
        for entry in entries:
            self._plan.ask(entry.incarnation, now)
        self._wake.set()

    def hurry(self) -> None:
        """
        Settle whatever is not settled yet as soon as possible.
        """
        self.ask(self._unsettled())

    def forget(self, entry: ShapeEntry) -> None:
        """
        A shape is gone.
        """
        self._refused.pop(entry.incarnation, None)
        self._plan.forget(entry.incarnation)
        self._brake()
        self._tell_finished()

    def _brake(self) -> None:
        if self._plan.total_bytes > self._limits.tail_bytes_max:
            if self.may_read.is_set():
                _log.warning("tails are full, reading pauses", tail_bytes=self._plan.total_bytes)
                self.may_read.clear()
                self._wake.set()
        elif not self.may_read.is_set():
            self.may_read.set()

    # --- settling ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """
        Settle what is due, until cancelled.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                while len(self._calls) < self._limits.settle_calls_count_max:
                    due = self._plan.take_due(
                        self._clock(), self._limits.settle_batch_count_max, is_all=not self.may_read.is_set()
                    )
                    if not due:
                        break
                    call = group.create_task(self._call(due), name="settle shapes")
                    self._calls[call] = due
                    call.add_done_callback(self._called)
                await self._wait()

    def _called(self, call: asyncio.Task[None]) -> None:
        batch = self._calls.pop(call)
        if call.cancelled():
            now = self._clock()
            for incarnation in batch:
                self._plan.postpone(incarnation, now, now)
        self._wake.set()
        self._tell_finished()

    def _tell_finished(self) -> None:
        self._finished.set()
        self._finished = asyncio.Event()

    def abandon(self, incarnation: int) -> None:
        """
        Wait no longer for a call of the store that holds this shape; the others in it are settled again.

        What the store does for them meanwhile it does to its end, and no file is written twice at a time.
        """
        for call, batch in self._calls.items():
            if incarnation in batch:
                call.cancel()

    async def _wait(self) -> None:
        timeout: float | None = None
        if len(self._calls) < self._limits.settle_calls_count_max:
            due_at = self._plan.due_at()
            timeout = None if due_at is None else max(0.0, due_at - self._clock())
        # Not `wait_for`, which before Python 3.12 may swallow a cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def settle_all(self) -> None:
        """
        Settle everything there is now and return when it was tried; for a clean stop, and to end tests.
        """
        assert self._registry is not None
        self.ask(self._unsettled())
        while self._unsettled() or self._calls:
            await self._finished.wait()

    def _unsettled(self) -> list[ShapeEntry]:
        """
        List the shapes with something to settle whose disk has not said that it has no space.
        """
        assert self._registry is not None
        resting = set(self._plan.resting)
        return [
            entry
            for entry in self._registry
            if self._plan.is_noted(entry.incarnation) and entry.incarnation not in resting
        ]

    async def settle_now(self, entry: ShapeEntry) -> bool:
        """
        Settle one shape, whatever is due; tells whether all it had at the call is durable.
        """
        outcomes = await self._settle([entry.incarnation])
        return outcomes.get(entry.incarnation) is SettleOutcome.SETTLED and entry.condemned is None

    async def _call(self, incarnations: Collection[int]) -> None:
        await self._settle(incarnations)

    async def _settle(self, incarnations: Collection[int]) -> Mapping[int, SettleOutcome]:
        registry = self._registry
        assert registry is not None
        logs: list[ShapeLog] = []
        marks: dict[int, _Mark] = {}
        entries: dict[int, ShapeEntry] = {}
        for incarnation in incarnations:
            entry = registry.entry(incarnation)
            consumer = None if entry is None or entry.condemned is not None else entry.consumer
            if entry is None or consumer is None or consumer.log is None or not consumer.is_begun:
                self._plan.forget(incarnation)
                continue
            logs.append(consumer.log)
            marks[incarnation] = self._mark(entry)
            entries[incarnation] = entry
        if not logs:
            return {}
        outcomes = await self._store.settle(logs)
        failed: list[ShapeEntry] = []
        for incarnation, entry in entries.items():
            outcome = outcomes.get(incarnation)
            match outcome:
                case SettleOutcome.SETTLED:
                    self._refused.pop(incarnation, None)
                    self._settled(entry, marks[incarnation])
                case SettleOutcome.NO_SPACE:
                    self._refused[incarnation] = outcome
                    self._rest(entry)
                case SettleOutcome.FAILED:
                    failed.append(entry)
                    self._rest(entry)
                case None:
                    # Not possible yet, or its files do not answer: liveness sees the age of what it owes.
                    self._refused.pop(incarnation, None)
                    self._rest(entry)
        if len(failed) > self._limits.settle_failed_count_max:
            self._refused.update((entry.incarnation, SettleOutcome.FAILED) for entry in failed)
            _log.error("many shapes could not be settled", count=len(failed))
        else:
            registry.condemn(failed, "its files could not be synced", is_fault=True)
        self._brake()
        return outcomes

    def _mark(self, entry: ShapeEntry) -> _Mark:
        """
        Tell how far the shape is complete: what it has, or all that was delivered if it takes part in that.
        """
        consumer = entry.consumer
        assert consumer is not None
        mark = (consumer.done, consumer.done_end)
        if consumer.state is ConsumerState.LIVE:
            seen = self._accounts.seen
            return seen if seen[1] > mark[1] else mark
        return mark

    def _settled(self, entry: ShapeEntry, mark: _Mark) -> None:
        consumer = entry.consumer
        if consumer is None or consumer.log is None or entry.condemned is not None:
            self._plan.forget(entry.incarnation)
            return
        entry.settled = max(entry.settled, consumer.log.settled_offset)
        self._plan.finish(entry.incarnation, consumer.log.tail_bytes)
        self._accounts.flushed(entry.incarnation, *mark)
        self._on_settled(entry)

    def _rest(self, entry: ShapeEntry) -> None:
        now = self._clock()
        self._plan.postpone(entry.incarnation, now + self._limits.settle_retry_s, now)
