"""
How long a service takes to be there again after a crash, with many shapes and a long relay log that the shapes have not
taken yet.

The engine is stopped while the receiver goes on and keeps all that is written in the relay log; then everything is
killed at once. What the next start has before it is measured until the last row can be read: shapes are restored, the
relay log is read, decoded, routed, and written into the log of one shape of the whole table. All other shapes are on
accounts that no row has, and exist in the control store alone, as that is all that a start reads of an idle shape.

The reference reads the same bytes of the relay log and throws them away. Both find the files as after a crash of the
machine: the page cache is told to forget them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from benchmarks.progress import say
from benchmarks.reading import ShapeReader, wait_readable
from benchmarks.report import Figure
from benchmarks.service import Service
from benchmarks.source import SLOT, drop_slot, insert_marker, insert_wide
from benchmarks.suites import Setting, Suite
from penstock.control.store import SqliteControlStore
from penstock.shapes.handle import make_handle
from penstock.shapes.offset import SNAPSHOT_END
from penstock.testing.postgres import ThrowawayDatabase

NAME: Final = "restart-relay"

SHAPES_SHARE: Final = 0.1
"""So many idle shapes, as a share of the rows asked for: 100,000 of a million."""
IN_TRANSACTION: Final = 100
IDLE_ACCOUNT: Final = 2_000_000
"""The account of the first idle shape; no row has it, nor any that follows."""
TIMEOUT_S: Final = 600.0
_NEVER_S: Final = "3600"
_LOOK_S: Final = 0.05
_BATCH_COUNT: Final = 1000
_BUFFER_BYTES: Final = 1 << 20


def measure_restart(setting: Setting) -> list[Figure]:
    """
    Measure one restart.
    """
    if setting.single_process:
        say(f"{NAME} is left out: it stops the engine alone, which is no process of its own")
        return []
    row_count = setting.row_count
    shape_count = max(1, int(row_count * SHAPES_SHARE))
    database = setting.source.make_database()
    try:
        with tempfile.TemporaryDirectory(dir=setting.folder) as name:
            folder = Path(name)
            # The engine is stopped for longer than it may be silent, and is not to be replaced.
            settings = {"PENSTOCK_ENGINE_HANG_S": _NEVER_S}
            service = Service(database.url, folder, settings=settings)
            marker = _crash(service, database, row_count)
            began = time.monotonic()
            asyncio.run(_add_shapes(folder / "data" / "state" / "control.sqlite", shape_count))
            say(f"added {shape_count:,} idle shapes in {time.monotonic() - began:.1f} s")
            files = [path for path in sorted((folder / "data" / "relay").rglob("*")) if path.is_file()]
            figure = _restart(service, files, marker, row_count, shape_count)
        drop_slot(database, SLOT)
    finally:
        database.drop()
    return [figure]


def _crash(service: Service, database: ThrowawayDatabase, row_count: int) -> int:
    """
    Fill the relay log with rows that no shape gets, and kill the service; gives a position in the last transaction.
    """
    with service, ShapeReader(service.port) as whole, ShapeReader(service.port, f"account = {IDLE_ACCOUNT}") as idle:
        service.wait_active()
        whole.read_all()
        idle.read_all()
    # It ended in order, so both shapes are recorded; now it runs only to be killed.
    service.start()
    try:
        service.wait_active()
        os.kill(service.find_role("engine"), signal.SIGSTOP)
        insert_wide(database, 1, row_count, size=IN_TRANSACTION)
        marker = insert_marker(database, row_count + 1)
        began = time.monotonic()
        _wait_confirmed(service, database)
        say(f"all is in the relay log, {time.monotonic() - began:.1f} s after the last row was written")
    finally:
        service.kill()
    return marker


def _wait_confirmed(service: Service, database: ThrowawayDatabase) -> None:
    """
    Wait until the receiver has kept all that was written.
    """
    end = database.query("SELECT pg_current_wal_flush_lsn()::text")[0][0]
    query = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn >= %s::pg_lsn"
    deadline = time.monotonic() + TIMEOUT_S
    while not database.query(query, SLOT, end):
        service.insist_alive()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the receiver is not there after {TIMEOUT_S:g} s:\n{service.log}")
        time.sleep(_LOOK_S)


async def _add_shapes(path: Path, count: int) -> None:
    """
    Write rows of live shapes into the control store of a service that does not run, like the one that it has.
    """
    control = SqliteControlStore(path)
    await control.open()
    recovered = await control.load()
    like = next(row for row in recovered.shapes if row.definition.where is not None)
    assert like.bounds is not None
    assert like.definition.where is not None
    now_us = recovered.handle_us_max + 1
    for start in range(1, count, _BATCH_COUNT):
        numbers = range(start, min(count, start + _BATCH_COUNT))
        definitions = [
            replace(like.definition, where=like.definition.where.replace(str(IDLE_ACCOUNT), str(IDLE_ACCOUNT + number)))
            for number in numbers
        ]
        made = [
            control.create(make_handle(each, now_us + number), now_us + number, each, like.chunk_bytes_max)
            for number, each in zip(numbers, definitions, strict=True)
        ]
        bounds = like.bounds
        incarnations = await asyncio.gather(*made)
        await asyncio.gather(*(control.mark_live(number, bounds, SNAPSHOT_END) for number in incarnations))
    await control.close(is_clean=False)


def _restart(service: Service, files: Sequence[Path], marker: int, row_count: int, shape_count: int) -> Figure:
    """
    Read the files, then start the service over them.
    """
    _forget(files)
    began, bytes_count = time.monotonic(), _read(files)
    read_s = time.monotonic() - began
    _forget(files)
    began = time.monotonic()
    service.start()
    try:
        service.wait_active(TIMEOUT_S)
        with ShapeReader(service.port) as reader:
            wait_readable(reader, service, marker, timeout_s=TIMEOUT_S)
            took_s, usage = time.monotonic() - began, service.usage()
            _check(service, reader, row_count, shape_count)
    finally:
        service.stop()
    say(
        f"restart: the last row there after {took_s:.1f} s and {usage.cpu_s:.1f} s of CPU; {bytes_count / 1e6:,.0f} MB of relay "
        f"log read in {read_s:.2f} s"
    )
    return Figure(
        name=NAME,
        scenario=f"Restart with {shape_count:,} idle shapes, {row_count:,} rows of a KiB to replay",
        unit="s",
        penstock=took_s,
        reference=read_s,
        reference_name="reading the relay log",
        ratios=(read_s / took_s,),
        peak_mib=usage.peak_mib,
    )


def _check(service: Service, reader: ShapeReader, row_count: int, shape_count: int) -> None:
    """
    See that no shape and no row was lost on the way.
    """
    if (found := service.status().get("shape_count")) != shape_count + 1:
        raise RuntimeError(f"the service has {found} shapes, not {shape_count + 1}:\n{service.log}")
    if (found := reader.read_all(is_counting=True).row_count) != row_count + 1:
        raise RuntimeError(f"the shape has {found} rows, not {row_count + 1}")


def _forget(files: Sequence[Path]) -> None:
    """
    Tell the page cache to forget files that are on the disk.
    """
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _read(files: Sequence[Path]) -> int:
    """
    Read files and throw away what is in them; gives their length.
    """
    buffer, bytes_count = bytearray(_BUFFER_BYTES), 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                bytes_count += count
    return bytes_count


SUITE: Final = Suite({NAME: "restart after a crash, with many shapes and a long relay log to replay"}, measure_restart)
