"""
What an idle shape takes: memory of all that the engine has of it, and its part of a restart.

A control store is filled with live shapes, then a process of its own (`shape_memory_program`) restores them with the
engine's parts. The reference is the same with one shape, so what is compared is growth alone.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.conditions import shapes_of_accounts
from benchmarks.measure import run
from benchmarks.progress import say
from benchmarks.report import Figure
from benchmarks.shape_memory_program import Order, Took
from benchmarks.suites import Suite
from penstock.control.store import SqliteControlStore
from penstock.postgres.lsn import EndLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.handle import make_handle
from penstock.shapes.offset import SNAPSHOT_END

MEMORY: Final = "shape-memory"
RESTART: Final = "shape-restart"
NAMES: Final = {MEMORY: "memory of an idle shape, of many", RESTART: "restart with many shapes"}

SHAPES_COUNT: Final = 100_000
AIM_BYTES: Final = 8192
_BATCH_COUNT: Final = 1000
_TIMEOUT_S: Final = 600.0
_HANDLE_US: Final = 1_700_000_000_000_000
_BOUNDARY: Final = 1 << 40


def measure_shape_memory(wanted: frozenset[str], count: int = SHAPES_COUNT) -> list[Figure]:
    """
    Measure the wanted of `NAMES` with this many shapes.
    """
    say(f"filling a control store with {count:,} shapes")
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        asyncio.run(_fill(folder / "control.sqlite", count))
        say("restoring them")
        took = _restore(folder)
    figures = [
        Figure(
            name=MEMORY,
            scenario=f"Memory of an idle shape, {count:,} shapes",
            unit="bytes",
            penstock=took.grown_bytes / count,
            reference=AIM_BYTES,
            reference_name="the aim",
            ratios=(AIM_BYTES / (took.grown_bytes / count),),
            peak_mib=took.peak_mib,
        ),
        Figure(
            name=RESTART,
            scenario=f"Restart, a shape of {count:,}",
            unit="µs",
            penstock=took.restore_cpu_s / count * 1e6,
            reference=took.read_cpu_s / count * 1e6,
            reference_name="reading its row",
            ratios=(took.read_cpu_s / took.restore_cpu_s,),
        ),
    ]
    return [figure for figure in figures if figure.name in wanted]


def _restore(folder: Path) -> Took:
    order = msgspec.json.encode(Order(str(folder), _BOUNDARY)).decode()
    done = run([sys.executable, "-m", "benchmarks.shape_memory_program"], stdin=order, timeout_s=_TIMEOUT_S)
    return msgspec.json.decode(done.output.encode(), type=Took)


async def _fill(path: Path, count: int) -> None:
    """
    Write the rows of live shapes, each with another constant in its condition.
    """
    control = SqliteControlStore(path)
    await control.open()
    await control.load()
    for start in range(0, count, _BATCH_COUNT):
        numbers = range(start, min(count, start + _BATCH_COUNT))
        definitions = shapes_of_accounts(numbers)
        times = [_HANDLE_US + number for number in numbers]
        made = [
            control.create(make_handle(definition, time), time, definition, 10 << 20)
            for definition, time in zip(definitions, times, strict=True)
        ]
        incarnations = await asyncio.gather(*made)
        await asyncio.gather(
            *(
                control.mark_live(
                    number, SnapshotBounds(Snapshot(number, number + 1, frozenset()), InsertLsn(number)), SNAPSHOT_END
                )
                for number in incarnations
            )
        )
    await control.checkpoint(EndLsn(_BOUNDARY), {})
    await control.close(is_clean=True)


SUITE: Final = Suite(NAMES, lambda setting: measure_shape_memory(setting.wanted), needs_server=False)
