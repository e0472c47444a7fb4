"""
The shapes that exist, and what is found out about them by looking.

Owns an entry's fields and the ways to it: by number, handle, table and name, those in memory, those that are behind.
Decides nothing; what happens to an entry is done by `delivery`, `opening` and `burial`.

Form: values of a shell, in so far as an entry holds futures and the task that opens its files.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.errors import ShapeError
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import SNAPSHOT_END, LogOffset


class ShapeGoneError(ShapeError):
    """
    Met by requests whose shape was given up while they were served; answered with a 409.
    """


@dataclass(slots=True, eq=False)
class Waiter:
    """
    Somebody who waits for a shape to pass a place.
    """

    after: LogOffset
    future: asyncio.Future[bool]
    """Answers whether the shape is still there."""


@dataclass(slots=True, eq=False)
class ShapeEntry:
    """
    A shape that exists.

    Attributes:
        incarnation: its number.
        handle: its name.
        definition: what it is.
        chunk_bytes_max: threshold of its chunks.
        bounds: of its snapshot; None until that is written.
        is_live: whether it survives a crash.
        settled: the last place the files are sure to hold.
        done: the last transaction it has, while it has no consumer.
        done_end: how far it is complete, while it has no consumer.
        consumer: in memory, or None for an idle shape.
        condemned: why it is being given up; None for most.
        failed_at: the commit at which a consumer raised last; -1 for none.
        active_at: when it last had something to do.
        read_at: when a client was last given something of it, or it went live; None for neither.
        file_bytes: what its files held when it was last in memory; None while that is not known.
        is_compacting: whether its log may be compacted, as far as was seen when it was last in memory.
        is_kept: whether it may not leave memory, because somebody works on its files and they cannot be opened meanwhile.
        waiters: who waits for it to move or to go.
        rejoin_waiters: who waits for it not to be behind.
        load: opening its files.
        monitor: tells when its consumer is gone without a word.
    """

    incarnation: int
    handle: str
    definition: ShapeDefinition
    chunk_bytes_max: int
    bounds: SnapshotBounds | None = None
    is_live: bool = False
    settled: LogOffset = SNAPSHOT_END
    done: CommitLsn = ZERO_COMMIT
    done_end: EndLsn = EndLsn(0)
    consumer: Consumer | None = None
    condemned: str | None = None
    failed_at: int = -1
    active_at: float = 0.0
    read_at: float | None = None
    file_bytes: int | None = None
    is_compacting: bool = False
    is_kept: bool = False
    waiters: list[Waiter] = field(default_factory=list)
    rejoin_waiters: list[asyncio.Future[None]] = field(default_factory=list)
    load: asyncio.Task[None] | None = None
    monitor: weakref.ref[Consumer] | None = None

    @property
    def table_oid(self) -> int:
        """
        The table it is on.
        """
        return self.definition.table.oid


class RegistryEvents(Protocol):
    """
    Who must know what becomes of shapes. No call waits or raises.
    """

    def committed(self, entry: ShapeEntry, now: float) -> None:
        """
        The shape has taken transactions, which it may owe.
        """
        ...

    def fell_behind(self, entry: ShapeEntry) -> None:
        """
        The shape must be fed from the relay log.
        """
        ...

    def gone(self, entry: ShapeEntry) -> None:
        """
        The shape's tombstone is synced, and its entry is no more.
        """
        ...

    def suspected(self, description: RelationDescription) -> None:
        """
        A table seems to have taken the name of another one, on which there are shapes: ask the catalog.
        """
        ...

    def shed(self, entry: ShapeEntry, reason: str) -> None:
        """
        The shape is being given up because of a fault of its own. Told before anything of it is dropped.
        """
        ...


class ShapeEntries:
    """
    All entries.

    Attributes:
        in_memory: those with a consumer, by number.
        behind: those that are behind and whose files are open, by number.
    """

    def __init__(self) -> None:
        """
        Begin without shapes.
        """
        self._entries: Final[dict[int, ShapeEntry]] = {}
        self._by_handle: Final[dict[str, ShapeEntry]] = {}
        self._by_table: Final[dict[int, dict[int, ShapeEntry]]] = {}
        self._by_name: Final[dict[tuple[str, str], int]] = {}
        self.in_memory: Final[dict[int, ShapeEntry]] = {}
        self.behind: Final[dict[int, ShapeEntry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ShapeEntry]:
        return iter(list(self._entries.values()))

    def __contains__(self, entry: ShapeEntry) -> bool:
        return self._entries.get(entry.incarnation) is entry

    def add(self, entry: ShapeEntry) -> None:
        """
        Enter a shape.
        """
        assert entry.incarnation not in self._entries, entry.incarnation
        assert entry.handle not in self._by_handle, entry.handle
        self._entries[entry.incarnation] = entry
        self._by_handle[entry.handle] = entry
        self._by_table.setdefault(entry.table_oid, {})[entry.incarnation] = entry
        self._by_name[entry.definition.table[1:]] = entry.table_oid

    def remove(self, entry: ShapeEntry) -> None:
        """
        Know a shape no more.
        """
        self._entries.pop(entry.incarnation, None)
        self._by_handle.pop(entry.handle, None)
        self.in_memory.pop(entry.incarnation, None)
        self.behind.pop(entry.incarnation, None)
        on_table = self._by_table.get(entry.table_oid)
        if on_table is not None and on_table.pop(entry.incarnation, None) is not None and not on_table:
            del self._by_table[entry.table_oid]
            if self._by_name.get(entry.definition.table[1:]) == entry.table_oid:
                del self._by_name[entry.definition.table[1:]]

    def clear(self) -> None:
        """
        Know no shape any more.
        """
        for each in (self._entries, self._by_handle, self._by_table, self._by_name, self.in_memory, self.behind):
            each.clear()

    def get(self, incarnation: int) -> ShapeEntry | None:
        """
        Find a shape by its number.
        """
        return self._entries.get(incarnation)

    def find(self, handle: str) -> ShapeEntry | None:
        """
        Find a shape by its handle.
        """
        return self._by_handle.get(handle)

    def on_table(self, table_oid: int) -> list[ShapeEntry]:
        """
        List the shapes on a table.
        """
        return list(self._by_table.get(table_oid, {}).values())

    def tables(self) -> list[int]:
        """
        List the tables with shapes.
        """
        return list(self._by_table)

    def table_named(self, name: tuple[str, str]) -> int | None:
        """
        Tell which table with shapes has this schema and name, as far as is known.
        """
        return self._by_name.get(name)

    def oldest_creating(self) -> EndLsn | None:
        """
        Tell from where the relay log is needed by shapes that are being created; None without any.
        """
        ends = [entry.consumer.done_end for entry in self.in_memory.values() if not entry.is_live and entry.consumer]
        return min(ends, default=None)

    @property
    def creating_count(self) -> int:
        """
        How many shapes are in the making.
        """
        return sum(not entry.is_live for entry in self.in_memory.values())

    @property
    def is_anybody_waiting(self) -> bool:
        """
        Whether a shape in memory has not been handed all that was delivered to it.
        """
        return any(
            entry.condemned is None and entry.consumer is not None and entry.consumer.state is not ConsumerState.LIVE
            for entry in self.in_memory.values()
        )
