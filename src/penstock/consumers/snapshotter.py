"""
The making of a shape: from a routed row `CREATING` to a shape that survives a crash.

Owns steps 3 to 6 of the order in which a shape is created: taking the snapshot, taking it again when a commit was
decoded before new snapshots show it, writing it, and becoming live. Steps 1 and 2 (publication and barrier, row, route,
handle) belong to `catalog`, which calls this once the shape is routed.

Form: shell; a dialogue with the database and the stores in a fixed order.

Becoming live (O5 of the design). The shape is settled as far as it has got; then it starts to owe from the flush boundary as it
stands, though it may not be settled through it yet; then it is settled again, through all that had been delivered when
it started to owe; then its row says so. Between the second step and the last it holds the boundary like any shape that
owes, so the boundary recorded anywhere is one through which it is settled by the time its row survives. Starting to owe
only when settled through the boundary would chase it for as long as the stream is busy and nobody else owes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Final

import structlog

from penstock.consumers.abc import ControlStore, OpenSnapshot, ShapeAccounts, ShapeLog, SnapshotSource
from penstock.consumers.consumer import ConsumerState
from penstock.consumers.entries import ShapeEntry, ShapeGoneError
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settling import Settler
from penstock.errors import DiskFullError, RequestError
from penstock.shapes.definition import LogMode
from penstock.wire.messages import snapshot_end

_log: Final = structlog.get_logger(__name__)

RETRY_AFTER_S: Final = 10


def took_too_long(first_data_s: float) -> RequestError:
    """
    Say that the snapshot delivered nothing in time.
    """
    return RequestError(
        503,
        f"Snapshot query took too long to return data (cancelled after {round(first_data_s * 1000)}ms). Please ensure "
        "snapshot queries are using an index to avoid taking up all database connections.",
        retry_after_s=RETRY_AFTER_S,
        is_known=True,
    )


class Snapshotter:
    """
    Fills new shapes.
    """

    def __init__(
        self,
        *,
        source: SnapshotSource,
        control: ControlStore,
        accounts: ShapeAccounts,
        registry: ConsumerRegistry,
        settler: Settler,
        limits: ConsumerLimits,
    ) -> None:
        """
        Take the ports.
        """
        self._source: Final = source
        self._control: Final = control
        self._accounts: Final = accounts
        self._registry: Final = registry
        self._settler: Final = settler
        self._limits: Final = limits
        self.retaken_count = 0
        """Snapshots taken again because a commit had been decoded early."""

    async def fill(self, entry: ShapeEntry, on_started: Callable[[], None]) -> None:
        """
        Write the snapshot of a routed shape and let it take what was delivered meanwhile.

        Args:
            entry: the shape.
            on_started: called once, when the database has begun to deliver.

        Raises:
            RequestError: what the client that asked for the shape is told.
            ShapeError: the table or a column is gone.
            LogError: the snapshot could not be written.
            ConnectionLostError: the database is away.
        """
        consumer = entry.consumer
        assert consumer is not None
        assert consumer.log is not None
        log: ShapeLog = consumer.log
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._limits.first_data_s):
                    snapshot = await self._open(entry, stack)
                    blocks = _no_blocks() if entry.definition.log is LogMode.CHANGES_ONLY else snapshot.blocks()
                    first = await anext(blocks, None)
            except TimeoutError as cause:
                raise took_too_long(self._limits.first_data_s) from cause
            on_started()
            await log.write_snapshot(_with_first(first, blocks), snapshot_end(snapshot.bounds.snapshot))
        self._registry.begin(entry, snapshot.bounds)

    async def _open(self, entry: ShapeEntry, stack: AsyncExitStack) -> OpenSnapshot:
        """
        Take snapshots until one shows every commit that the shape does not get from the stream.
        """
        consumer = entry.consumer
        assert consumer is not None
        routed_after = consumer.done
        while True:
            async with AsyncExitStack() as attempt:
                number = self._accounts.begin_snapshot()
                try:
                    snapshot = await attempt.enter_async_context(self._source.open(entry.definition))
                    is_early = self._accounts.is_early(snapshot.bounds, routed_after)
                finally:
                    self._accounts.end_snapshot(number)
                self._accounts.confirm_visible(snapshot.bounds)
                if not is_early:
                    stack.push_async_exit(attempt.pop_all())
                    return snapshot
            self.retaken_count += 1
            _log.info("snapshot came before a decoded commit became visible", handle=entry.handle)
            await asyncio.sleep(self._limits.early_retry_s)

    async def make_live(self, entry: ShapeEntry) -> None:
        """
        Make a filled shape survive a crash.

        Raises:
            ShapeGoneError: it was condemned meanwhile.
            DiskFullError: it could not be settled.
        """
        while True:
            await self._registry.wait_rejoined(entry)
            await self._settle(entry)
            if entry.consumer is not None and entry.consumer.state is ConsumerState.LIVE:
                break
        self._accounts.start_owing(entry.incarnation)
        await self._settle(entry)
        assert entry.bounds is not None
        await self._control.mark_live(entry.incarnation, entry.bounds, entry.settled)
        entry.is_live = True
        if entry.read_at is None:
            # Whoever asked for it may be gone: as if it had been read now, or it would never have to go for others.
            self._registry.was_read(entry)

    async def _settle(self, entry: ShapeEntry) -> None:
        is_settled = entry.condemned is None and await self._settler.settle_now(entry)
        if entry.condemned is not None:
            raise ShapeGoneError("the shape is gone")
        if not is_settled:
            raise DiskFullError("a new shape could not be settled")


async def _no_blocks() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for block in nothing:
        yield block


async def _with_first(first: bytes | None, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is not None:
        yield first
    async for block in rest:
        yield block
