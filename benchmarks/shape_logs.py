"""
Shape logs at their limits, without a server: one that grows long, and many that are settled together.

What a log costs must not depend on what is in it already. So one log grows, and at several lengths the same things are
measured: adding entries and settling them, finding a place in the middle, memory, and loading it after a restart. The
reference is the first, shortest length. Loading reads the index whole, so it is reported for each entry.

Of many logs each gets one entry, as from a change that all shapes take; the reference is the same bytes written to one
file and synced once, which is as cheap as a disk can have it. The checkpoint that records it follows.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Final

from benchmarks.conditions import shapes_of_accounts
from benchmarks.progress import say
from benchmarks.report import Figure, Point
from benchmarks.suites import Setting, Suite
from penstock.control.store import SqliteControlStore
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.handle import make_handle
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from penstock.wire.messages import snapshot_end

LENGTH: Final = "log-length"
SETTLE: Final = "log-settle"
NAMES: Final = {
    LENGTH: "a log that grows: adding, finding, loading, memory, by its length",
    SETTLE: "many logs settled together, and the checkpoint, by their number",
}

CHUNK_BYTES_MAX: Final = 10 << 20
ENTRIES_SHARES: Final = (0.02, 0.1, 0.4, 1.0, 2.0)
"""How long the log is when it is measured, as a share of the rows asked for."""
ENTRIES_IN_TRANSACTION: Final = 100
TRANSACTIONS_IN_SETTLE: Final = 100
LOOK_UPS: Final = 200
SHAPES_SHARES: Final = (0.0001, 0.001, 0.01)
SETTLE_ROUNDS: Final = 3
SETTLE_BATCH: Final = 256
SETTLE_CALLS: Final = 4
"""As many shapes in a call, and calls at once, as the engine makes."""

_ENTRY: Final = (
    b'{"key":"\\"public\\".\\"events\\"/\\"1\\"","value":{"id":"1","body":"%b"},"headers":{"operation":"insert",'
    b'"relation":["public","events"],"lsn":"%d","op_position":%d}}'
)
_BODY: Final = b"x" * 100
_BOUNDS: Final = SnapshotBounds(Snapshot(1, 2, frozenset()), InsertLsn(1))
_HANDLE_US: Final = 1_700_000_000_000_000
_FIRST_TX: Final = 1 << 32
_BATCH_COUNT: Final = 500


async def _no_rows() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for block in nothing:
        yield block


async def _make_log(store: FileShapeLogStore, number: int) -> FileShapeLog:
    log = await store.create(f"log-{number}", number, CHUNK_BYTES_MAX)
    await log.write_snapshot(_no_rows(), snapshot_end(_BOUNDS.snapshot))
    return log


def _figure(  # noqa: PLR0917 - a line has as many
    name: str, scenario: str, unit: str, value: float, reference: float, reference_name: str, point: Point
) -> Figure:
    return Figure(
        name=name,
        scenario=scenario,
        unit=unit,
        penstock=value,
        reference=reference,
        reference_name=reference_name,
        ratios=(reference / value if value else 1.0,),
        point=point,
    )


# --- one log ---------------------------------------------------------------------------------------------------------


class _Growing:
    """
    A log, and what it cost at each length.
    """

    def __init__(self, folder: Path) -> None:
        self._store: Final = FileShapeLogStore(folder)
        self._folder: Final = folder
        self._log: FileShapeLog | None = None
        self._tx = _FIRST_TX
        self.entries = 0

    async def grow(self, entries: int) -> float:
        """
        Add entries until there are so many; gives the processor's time for each, in microseconds.
        """
        log = self._log
        if log is None:
            log = self._log = await _make_log(self._store, 1)
        added, began = entries - self.entries, time.process_time()
        while self.entries < entries:
            for _ in range(TRANSACTIONS_IN_SETTLE):
                self._tx += 100
                elements = [(op, _ENTRY % (_BODY, self._tx, op)) for op in range(ENTRIES_IN_TRANSACTION)]
                log.append(self._tx, elements)
                log.commit(CommitLsn(self._tx), EndLsn(self._tx + 50))
                self.entries += len(elements)
            await _settle(self._store, [log])
        return (time.process_time() - began) / added * 1e6

    async def look_up(self) -> float:
        """
        Find places in the middle of transactions all over the log; gives the median time in microseconds.
        """
        assert self._log is not None
        dice = random.Random(self.entries)
        took = []
        for _ in range(LOOK_UPS):
            tx = _FIRST_TX + 100 * dice.randint(1, self.entries // ENTRIES_IN_TRANSACTION)
            began = time.perf_counter()
            found = await self._log.read(LogOffset(tx, dice.randrange(ENTRIES_IN_TRANSACTION - 1)))
            took.append(time.perf_counter() - began)
            assert found.pieces
        return statistics.median(took) * 1e6

    async def load(self) -> tuple[float, float]:
        """
        Open the files as after a restart; gives the seconds of the processor it took, and the memory it keeps.
        """
        assert self._log is not None
        store = FileShapeLogStore(self._folder)
        began = time.process_time()
        await store.load("log-1", 1, CHUNK_BYTES_MAX, self._log.settled_offset)
        took_s = time.process_time() - began
        tracemalloc.start()
        log = await store.load("log-1", 1, CHUNK_BYTES_MAX, self._log.settled_offset)
        kept = float(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert log.last == self._log.last
        store.close()
        return took_s, kept

    def close(self) -> None:
        """
        End the threads.
        """
        self._store.close()


async def _measure_length(setting: Setting) -> list[Figure]:
    figures: list[Figure] = []
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        growing = _Growing(Path(name))
        for share in ENTRIES_SHARES:
            step = ENTRIES_IN_TRANSACTION * TRANSACTIONS_IN_SETTLE
            count = max(step, int(setting.row_count * share) // step * step)
            if count <= growing.entries:
                continue
            cost = await growing.grow(count)
            place, (load_s, kept) = await growing.look_up(), await growing.load()
            say(
                f"a log of {count:,} entries: {cost:.2f} µs CPU to add and settle one, {place:.0f} µs to find a place, "
                f"{load_s * 1e3:.1f} ms to load, {kept / 1024:.0f} KiB kept"
            )
            measured = {
                "add and settle an entry, µs CPU": cost,
                "find a place, µs": place,
                "load, µs CPU for 1,000 entries": load_s / count * 1e9,
                "memory, bytes for 1,000 entries": kept / count * 1e3,
            }
            for words, value in measured.items():
                reference = first.setdefault(words, value)
                what, _, unit = words.partition(", ")
                figures.append(
                    _figure(
                        LENGTH,
                        f"A log of {count:,} entries: {words}",
                        unit.partition(" ")[0],
                        value,
                        reference,
                        "the shortest",
                        Point("entries", what, count),
                    )
                )
        growing.close()
    return figures


# --- many logs -------------------------------------------------------------------------------------------------------


async def _settle(store: FileShapeLogStore, logs: Collection[FileShapeLog]) -> None:
    outcomes = await store.settle(logs)
    if len(outcomes) != len(logs) or set(outcomes.values()) != {SettleOutcome.SETTLED}:
        raise RuntimeError("a log was not settled")


async def _settle_all(store: FileShapeLogStore, logs: list[FileShapeLog]) -> None:
    """
    Settle as the engine does: so many in a call, so many calls at once.
    """
    waiting = [logs[start : start + SETTLE_BATCH] for start in range(0, len(logs), SETTLE_BATCH)]

    async def call() -> None:
        while waiting:
            await _settle(store, waiting.pop())

    await asyncio.gather(*(call() for _ in range(SETTLE_CALLS)))


def _write_once(folder: Path, element: bytes, count: int) -> None:
    descriptor = os.open(folder / "reference", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(count):
            os.write(descriptor, element)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    began, cpu = time.monotonic(), time.process_time()
    call()
    return time.monotonic() - began, time.process_time() - cpu


async def _measure_settle(setting: Setting) -> list[Figure]:
    figures: list[Figure] = []
    for share in SHAPES_SHARES:
        count = max(10, int(setting.row_count * share))
        with tempfile.TemporaryDirectory(dir=setting.folder) as name:
            figures += await _settle_many(Path(name), count)
    return figures


async def _settle_many(folder: Path, count: int) -> list[Figure]:
    """
    Measure so many logs.
    """
    control = SqliteControlStore(folder / "control.sqlite")
    await control.open()
    await control.load()
    await _fill(control, count)
    store = FileShapeLogStore(folder)
    logs: list[FileShapeLog] = []
    for start in range(1, count + 1, _BATCH_COUNT):
        numbers = range(start, min(count + 1, start + _BATCH_COUNT))
        logs += await asyncio.gather(*(_make_log(store, number) for number in numbers))
    walls, cpus, checkpoints, references = [], [], [], []
    for number in range(1, SETTLE_ROUNDS + 1):
        tx = _FIRST_TX + 100 * number
        element = _ENTRY % (_BODY, tx, 0)
        for log in logs:
            log.append_whole([(tx, ((0, element),))], CommitLsn(tx), EndLsn(tx + 50))
        began, cpu = time.monotonic(), time.process_time()
        await _settle_all(store, logs)
        walls.append(time.monotonic() - began)
        cpus.append(time.process_time() - cpu)
        began = time.monotonic()
        await control.checkpoint(EndLsn(tx + 50), {log.incarnation: log.settled_offset for log in logs})
        checkpoints.append(time.monotonic() - began)
        references.append(_timed(lambda element=element: _write_once(folder, element, count))[0])  # type: ignore[misc]
    await control.close(is_clean=True)
    store.close()
    wall, reference = statistics.median(walls), statistics.median(references)
    checkpoint, cpu_s = statistics.median(checkpoints), statistics.median(cpus)
    say(
        f"settling {count:,} logs: {wall:.2f} s, {cpu_s / count * 1e6:.0f} µs CPU each; checkpoint {checkpoint * 1e3:.1f} ms; "
        f"the same bytes in one file {reference * 1e3:.1f} ms"
    )
    words = f"{count:,} logs settled together, one entry each"
    settled = _figure(
        SETTLE,
        words,
        "µs",
        wall / count * 1e6,
        reference / count * 1e6,
        "one file, one sync",
        Point("shapes", "settle a shape", count),
    )
    recorded = _figure(
        SETTLE,
        f"Checkpoint of {count:,} settled shapes",
        "µs",
        checkpoint / count * 1e6,
        reference / count * 1e6,
        "one file, one sync",
        Point("shapes", "checkpoint, a shape", count),
    )
    return [settled, recorded]


async def _fill(control: SqliteControlStore, count: int) -> None:
    """
    Make the rows of live shapes, numbered from 1.
    """
    for start in range(0, count, _BATCH_COUNT):
        numbers = range(start, min(count, start + _BATCH_COUNT))
        definitions = shapes_of_accounts(numbers)
        made = [
            control.create(make_handle(definition, _HANDLE_US + n), _HANDLE_US + n, definition, CHUNK_BYTES_MAX)
            for n, definition in zip(numbers, definitions, strict=True)
        ]
        incarnations = await asyncio.gather(*made)
        await asyncio.gather(*(control.mark_live(number, _BOUNDS, SNAPSHOT_END) for number in incarnations))


def measure_shape_logs(setting: Setting) -> list[Figure]:
    """
    Measure the wanted of `NAMES`.
    """
    figures: list[Figure] = []
    if LENGTH in setting.wanted:
        figures += asyncio.run(_measure_length(setting))
    if SETTLE in setting.wanted:
        figures += asyncio.run(_measure_settle(setting))
    return figures


SUITE: Final = Suite(NAMES, measure_shape_logs, needs_server=False)
