"""
The consumers stage as one object: builds its parts, joins them, runs them.

Form: shell; decides nothing. The service hands in the ports and calls `run`; the main collector delivers to `registry`,
requests go to `catalog`, the intake waits for `settler.may_read`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from penstock.collector.abc import CatalogFacts
from penstock.consumers.abc import (
    ControlStore,
    Inspector,
    NoSheds,
    NoTrail,
    PublicationKeeper,
    ShapeAccounts,
    ShapeLogStore,
    Sheds,
    SnapshotSource,
    Trail,
)
from penstock.consumers.catalog import Readiness, ShapeCatalog
from penstock.consumers.catch_up import CatchUp
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Projection
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settling import Settler
from penstock.consumers.snapshotter import Snapshotter
from penstock.control.records import Recovered
from penstock.postgres.relation import RelationDescription
from penstock.postgres.snapshot import SnapshotBounds
from penstock.relay.abc import PublishedEnd, RelaySource

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerPorts:
    """
    What the stage needs of others.

    Attributes:
        store: files of shape logs.
        control: what must be true after a crash.
        accounts: the collector's side of shapes; asked for at the first use, so that the collector can be built with
            the registry as its delivery.
        facts: of partitions.
        inspector: the catalog of the database.
        publication: keeps tables published.
        snapshots: takes initial snapshots.
        published: reads the published end of the relay log.
        open_source: opens another reader on the relay log of an epoch.
        readiness: whether shapes can be made.
        is_replaying: whether what was published before the start has not all been handled.
        are_generated_published: whether the stream brings generated columns.
        unix_us: microseconds since 1970.
        clock: seconds that do not step back.
        sheds: who remembers the shapes that were given up because of a fault.
        trail: where it is written down what consumers are handed.
        make_handler: makes what converts the stream for one shape.
    """

    store: ShapeLogStore
    control: ControlStore
    accounts: ShapeAccounts
    facts: CatalogFacts
    inspector: Inspector
    publication: PublicationKeeper
    snapshots: SnapshotSource
    published: Callable[[], PublishedEnd | None]
    open_source: Callable[[PublishedEnd], Awaitable[RelaySource]]
    readiness: Readiness
    is_replaying: Callable[[], bool]
    are_generated_published: Callable[[], bool]
    unix_us: Callable[[], int]
    clock: Callable[[], float]
    sheds: Sheds = field(default_factory=NoSheds)
    trail: Trail = field(default_factory=NoTrail)
    make_handler: Callable[[Projection, SnapshotBounds], ShapeHandler] = ShapeHandler


class ConsumersStage:
    """
    The stage.

    Attributes:
        registry: what the main collector delivers to.
        settler: settles; its `may_read` is waited for by the intake.
        catch_up: the second reader.
        snapshotter: fills new shapes.
        catalog: serves requests.
    """

    def __init__(self, ports: ConsumerPorts, limits: ConsumerLimits, *, settle_age_s: float) -> None:
        """
        Build and join the parts.

        Args:
            ports: what it needs of others.
            limits: bounds.
            settle_age_s: a tail of this age is settled: at most 5 s in `relay` mode, at most 1 s in `shapes` mode.
        """
        self._limits: Final = limits
        self._sheds: Final = ports.sheds
        self.settler: Final = Settler(
            store=ports.store,
            accounts=ports.accounts,
            limits=limits,
            age_s=settle_age_s,
            clock=ports.clock,
            on_settled=self._settled,
        )
        self.registry: Final = ConsumerRegistry(
            store=ports.store,
            control=ports.control,
            accounts=ports.accounts,
            events=self,
            limits=limits,
            clock=ports.clock,
            trail=ports.trail,
            make_handler=ports.make_handler,
        )
        self.settler.attach(self.registry)
        self.catch_up: Final = CatchUp(
            registry=self.registry,
            accounts=ports.accounts,
            facts=ports.facts,
            published=ports.published,
            open_source=ports.open_source,
            limits=limits,
            clock=ports.clock,
        )
        self.snapshotter: Final = Snapshotter(
            source=ports.snapshots,
            control=ports.control,
            accounts=ports.accounts,
            registry=self.registry,
            settler=self.settler,
            limits=limits,
        )
        self.catalog: Final = ShapeCatalog(
            inspector=ports.inspector,
            publication=ports.publication,
            control=ports.control,
            store=ports.store,
            accounts=ports.accounts,
            registry=self.registry,
            snapshotter=self.snapshotter,
            readiness=ports.readiness,
            is_replaying=ports.is_replaying,
            are_generated_published=ports.are_generated_published,
            unix_us=ports.unix_us,
            sheds=ports.sheds,
            limits=limits,
        )

    # --- between the parts -------------------------------------------------------------------------------------------

    def committed(self, entry: ShapeEntry, now: float) -> None:
        """
        A shape has taken transactions.
        """
        self.settler.note(entry, now)

    def fell_behind(self, entry: ShapeEntry) -> None:
        """
        A shape must be fed from the relay log.
        """
        _log.info("shape is behind", handle=entry.handle)
        self.settler.ask([entry])
        self.catch_up.wake()

    def gone(self, entry: ShapeEntry) -> None:
        """
        A shape is no more.
        """
        self.settler.forget(entry)
        self.catalog.gone(entry)

    def suspected(self, description: RelationDescription) -> None:
        """
        A table seems to have taken the name of one with shapes.
        """
        self.catalog.suspect(description)

    def shed(self, entry: ShapeEntry, reason: str) -> None:
        """
        A shape is being given up because of a fault.
        """
        self._sheds.shed(entry.incarnation, entry.handle, entry.definition, reason)

    def _settled(self, entry: ShapeEntry) -> None:
        del entry
        if self.registry.is_any_behind:
            self.catch_up.wake()

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self, recovered: Recovered, on_restored: Callable[[], None]) -> None:
        """
        Take over what a restart found, then run, until cancelled.

        Args:
            recovered: the control store's content.
            on_restored: called when every live shape is routed; the stream may be read from then on, not before.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.registry.run(), name="consumer registry")
            group.create_task(self.settler.run(), name="settler")
            group.create_task(self.catch_up.run(), name="catch-up")
            group.create_task(self.catalog.run(), name="shape catalog")
            # Let each of them enter its task group.
            await asyncio.sleep(0)
            await self.catalog.restore(recovered)
            on_restored()
            while True:
                await asyncio.sleep(self._limits.idle_s / 2)
                self.registry.release_idle(self.settler.is_busy)
