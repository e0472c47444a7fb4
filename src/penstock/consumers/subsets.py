"""
Answers requests for subsets: which shape, which rows, which place to go on from.

Shell. The rows come from a query of their own, on a connection of the snapshots' pool. What place is safe is said in
`subset_place`; here it is seen to that the picture shows everything up to it, as for an initial snapshot.

Limits: those of the query (`database.subsets`) and of the spool; `first_data_s` for all attempts together.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Final, Protocol

import structlog

from penstock.consumers.abc import Inspector, OpenSnapshot, ShapeAccounts
from penstock.consumers.catalog import ShapeCatalog
from penstock.consumers.entries import ShapeEntry, ShapeGoneError
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.refusals import refusal
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.resolve import visible_columns
from penstock.consumers.resolver import Resolved
from penstock.consumers.snapshotter import took_too_long
from penstock.consumers.spool import Spool
from penstock.consumers.subset_place import follow_from, must_show
from penstock.errors import PenstockError, RequestError
from penstock.postgres.lsn import CommitLsn
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.condition import needs_letters
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.reading import Piece, Rotated, SubsetLoaded, SubsetQuestion, SubsetReply
from penstock.shapes.subset import Subset, SubsetRequest, compile_subset
from penstock.where.facts import NO_FACTS
from penstock.wire.messages import subset_metadata

MARK_MAX: Final = 2**31 - 1
_CLAUSE_LENGTH_MAX: Final = 2000  # longer texts are compiled in a thread

_log: Final = structlog.get_logger(__name__)


class SubsetSource(Protocol):
    """
    Asks the database.
    """

    def open(
        self, definition: ShapeDefinition, subset: Subset, *, mark: int
    ) -> AbstractAsyncContextManager[OpenSnapshot]:
        """
        Begin a repeatable-read transaction and read its bounds; the rows are asked for with the first block.

        Raises:
            RequestError: the database refused or is away, or no connection was free in time.
            ShapeError: the table or a column is gone, or changed.
        """
        ...


class SubsetReader:
    """
    Reads subsets for requests.
    """

    def __init__(
        self,
        *,
        catalog: ShapeCatalog,
        registry: ConsumerRegistry,
        accounts: ShapeAccounts,
        inspector: Inspector,
        source: SubsetSource,
        spool: Spool,
        limits: ConsumerLimits,
        draw: Callable[[int, int], int] = random.randint,
    ) -> None:
        """
        Take the ports.

        Args:
            catalog: finds and makes shapes.
            registry: opens logs.
            accounts: knows which decoded commits no snapshot has shown yet.
            inspector: the catalog of the database.
            source: asks the database.
            spool: holds the rows.
            limits: bounds.
            draw: gives a random number between two, both included.
        """
        self._catalog: Final = catalog
        self._registry: Final = registry
        self._accounts: Final = accounts
        self._inspector: Final = inspector
        self._source: Final = source
        self._spool: Final = spool
        self._limits: Final = limits
        self._draw: Final = draw
        self.retaken_count = 0
        """Pictures taken again because a commit had been decoded early."""

    async def load(self, question: SubsetQuestion) -> SubsetReply:
        """
        Read the rows.
        """
        try:
            return await self._load(question)
        except PenstockError as error:
            return refusal(error)

    async def _load(self, question: SubsetQuestion) -> SubsetReply:
        found = await self._catalog.enter(question.shape)
        if isinstance(found, Rotated):
            return found
        resolved, entry, _ = found
        subset = await self._compile(question, resolved)
        log = await self._registry.open_log(entry)
        asked = question.shape.offset
        if asked is not None and asked > log.last and self._catalog.is_behind(entry):
            raise RequestError(503, "Timeout waiting for shape data to be loaded", retry_after_s=5)
        place = follow_from(asked, log.last, resolved.definition.log)
        mark = self._draw(0, MARK_MAX)
        try:
            async with asyncio.timeout(self._limits.first_data_s):
                bounds, pieces = await self._read(entry, subset, mark, must_show(place))
        except TimeoutError as cause:
            raise took_too_long(self._limits.first_data_s) from cause
        if entry.condemned is not None:
            raise ShapeGoneError("the shape is gone")
        self._registry.was_read(entry)
        metadata = subset_metadata(bounds, mark)
        return SubsetLoaded(entry.handle, resolved.schema, place, metadata, pieces)

    async def _compile(self, question: SubsetQuestion, resolved: Resolved) -> Subset:
        request: SubsetRequest = question.subset
        listed = question.shape.queryable_columns
        visible = visible_columns(question.shape, resolved.table)
        columns = [column for column in visible if listed is None or column.name in listed]
        facts = NO_FACTS
        if request.where is not None:
            facts = await self._inspector.find_facts(resolved.table, with_letters=needs_letters(request.where))
        compiling = partial(compile_subset, request, columns, facts)
        is_long = len(request.where or "") + len(request.order_by or "") > _CLAUSE_LENGTH_MAX
        return await asyncio.to_thread(compiling) if is_long else compiling()

    async def _read(
        self, entry: ShapeEntry, subset: Subset, mark: int, shown: CommitLsn
    ) -> tuple[SnapshotBounds, tuple[Piece, ...]]:
        """
        Take pictures until one shows every commit that the client will not get from the log.
        """
        while True:
            async with AsyncExitStack() as attempt:
                number = self._accounts.begin_snapshot()
                try:
                    picture = await attempt.enter_async_context(self._source.open(entry.definition, subset, mark=mark))
                    is_early = self._accounts.is_early(picture.bounds, shown)
                finally:
                    self._accounts.end_snapshot(number)
                self._accounts.confirm_visible(picture.bounds)
                if not is_early:
                    return picture.bounds, await self._spool.collect(picture.blocks())
            self.retaken_count += 1
            _log.info("subset came before a decoded commit became visible", handle=entry.handle)
            await asyncio.sleep(self._limits.early_retry_s)
