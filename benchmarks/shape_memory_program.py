"""
A restart with many shapes as a process of its own: the engine's parts, without a server and without a stream.

Standard input holds the order, standard output gets what restoring took.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.stage import ConsumerPorts, ConsumersStage
from penstock.control.store import SqliteControlStore
from penstock.database.inspector import CatalogInspector
from penstock.database.pool import ConnectionPool
from penstock.database.publication import PublicationTables
from penstock.database.snapshots import PostgresSnapshots
from penstock.database.urls import parse_database_url
from penstock.errors import SourceError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.relay.abc import PublishedEnd, RelaySource
from penstock.service.facts import RecordedFacts
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.reading import Health
from penstock.telemetry import logs

_NO_DATABASE: Final = "postgresql://nobody@127.0.0.1:1/none"


class Order(msgspec.Struct, frozen=True):
    """
    What to restore.

    Attributes:
        folder: a data folder with a control store in it.
        boundary: the recorded flush boundary.
    """

    folder: str
    boundary: int


class Took(msgspec.Struct, frozen=True):
    """
    What it took.

    Attributes:
        grown_bytes: how much larger the process is with the shapes than it was before it read of them.
        read_cpu_s: processor time of reading the control store.
        restore_cpu_s: the same and all behind it, until every shape is routed.
        peak_mib: the most memory the process held.
    """

    grown_bytes: int
    read_cpu_s: float
    restore_cpu_s: float
    peak_mib: float


class _Delivery:
    """
    Hands on to the registry, which is built after the collector.
    """

    registry: ConsumerRegistry

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        self.registry.publish(parts)

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        self.registry.relation_seen(description, table_oids)

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        self.registry.relation_spoiled(table_oids, at, reason, xid)


class _Ready:
    def health(self) -> Health:
        return Health("active")

    async def wait_active(self) -> None:
        return


async def _open_source(published: PublishedEnd) -> RelaySource:
    raise SourceError(f"there is no relay log to read up to {published.end}")


async def _never_lost(oid: int, reason: str, columns: frozenset[str] | None) -> None:
    del columns
    raise SourceError(f"nobody looks at the publication of table {oid}: {reason}")


def _build(folder: Path, control: SqliteControlStore, boundary: EndLsn) -> ConsumersStage:
    pool = ConnectionPool(parse_database_url(_NO_DATABASE), size=1)
    inspector = CatalogInspector(pool)
    facts = RecordedFacts(control, inspector.find_ancestors)
    delivery, tracker, xids = _Delivery(), FlushTracker(boundary), RoutedXids()
    collector = ShapeLogCollector(boundary=boundary, facts=facts, delivery=delivery, tracker=tracker, xids=xids)
    stage = ConsumersStage(
        ConsumerPorts(
            store=FileShapeLogStore(folder),
            control=control,
            accounts=CollectorAccounts(collector, tracker, xids, time.monotonic),
            facts=facts,
            inspector=inspector,
            publication=PublicationTables(pool, "none", facts, on_lost=_never_lost),
            snapshots=PostgresSnapshots(pool),
            published=lambda: None,
            open_source=_open_source,
            readiness=_Ready(),
            is_replaying=lambda: False,
            are_generated_published=lambda: False,
            unix_us=lambda: time.time_ns() // 1000,
            clock=time.monotonic,
        ),
        ConsumerLimits(),
        settle_age_s=1.0,
    )
    delivery.registry = stage.registry
    return stage


def _resident_bytes() -> int:
    """
    Tell how much of the process is in memory, after giving back what it does not need.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _restore(order: Order) -> Took:
    folder = Path(order.folder)
    control = SqliteControlStore(folder / "control.sqlite")
    stage = _build(folder, control, EndLsn(order.boundary))
    before_bytes, began = _resident_bytes(), time.process_time()
    await control.open()
    recovered = await control.load()
    read = time.process_time()
    restored = asyncio.Event()
    running = asyncio.create_task(stage.run(recovered, restored.set))
    await restored.wait()
    end = time.process_time()
    del recovered
    after_bytes = _resident_bytes()
    running.cancel()
    await asyncio.wait([running])
    await control.close(is_clean=True)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Took(after_bytes - before_bytes, read - began, end - began, peak_mib)


def main() -> None:
    """
    Restore what the order says.
    """
    logs.configure(level="warning", process="engine", colors=False)
    took = asyncio.run(_restore(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
    sys.stdout.buffer.write(msgspec.json.encode(took))


if __name__ == "__main__":
    main()
