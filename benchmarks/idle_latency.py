"""
How long after COMMIT a live client has the change, when there is nothing else to do; against `pg_recvlogical`.

Both times begin when COMMIT has returned to the writer and end when a reader that was waiting has the row. The reader is
this process: for Penstock with a parked long poll, for the reference at the end of a pipe.
"""

from __future__ import annotations

import math
import random
import select
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.progress import say
from benchmarks.reading import ShapeReader
from benchmarks.reference import follow_to_pipe
from benchmarks.report import Figure
from benchmarks.service import Service
from benchmarks.source import SLOT, copy_slot, insert_command
from benchmarks.suites import Setting, Suite
from penstock.testing.postgres import ThrowawayDatabase

NAME: Final = "idle-latency"
COMMITS: Final = 200
_REFERENCE_SLOT: Final = "bench_latency"
_PARKING_S: Final = 0.02
"""How long a reader gets to be parked again."""
_JITTER_S: Final = 0.02
"""Commits come at no fixed beat, so that no timer is met always or never."""
_WAIT_S_MAX: Final = 20.0


def measure_idle_latency(setting: Setting) -> list[Figure]:
    """
    Measure the latency of both; the reference before and after the service, never while it runs.
    """
    database = setting.source.make_database()
    try:
        with (
            tempfile.TemporaryDirectory(dir=setting.folder) as name,
            database.connect() as writer,
            Service(database.url, Path(name), single_process=setting.single_process) as service,
        ):
            service.wait_active()
            with ShapeReader(service.port) as reader:
                reader.read_all()
            service.stop()
            copy_slot(database, SLOT, _REFERENCE_SLOT)
            say(f"idle latency: {COMMITS} commits each")
            before = _time_reference(database, writer, range(1, COMMITS // 2 + 1))
            service.start()
            service.wait_active()
            ours = _time_service(service, writer, range(COMMITS, 2 * COMMITS))
            peak_mib = service.usage().peak_mib
            service.stop()
            after = _time_reference(database, writer, range(3 * COMMITS, 3 * COMMITS + COMMITS // 2))
    finally:
        database.drop()
    reference = before + after
    figures = []
    for words, part in (("p50", 0.5), ("p99", 0.99)):
        own_ms, other_ms = _percentile(ours, part) * 1e3, _percentile(reference, part) * 1e3
        say(f"  {words}: Penstock {own_ms:.2f} ms, pg_recvlogical {other_ms:.2f} ms")
        figures.append(
            Figure(
                name=NAME,
                scenario=f"Commit to live client, idle, {words}",
                unit="ms",
                penstock=own_ms,
                reference=other_ms,
                reference_name="pg_recvlogical",
                ratios=(other_ms / own_ms,),
                peak_mib=peak_mib,
            )
        )
    return figures


def _time_service(service: Service, writer: psycopg.Connection[Any], keys: range) -> list[float]:
    took = []
    with ShapeReader(service.port) as reader:
        reply = reader.read_all()
        for key in keys:
            reader.send(offset=reply.offset, handle=reply.handle, live="true", cursor=reply.cursor)
            began = _commit(writer, key)
            reply = reader.receive(is_counting=True)
            took.append(time.perf_counter() - began)
            if reply.row_count != 1:
                raise RuntimeError(f"the live client got {reply.row_count} rows for one commit")
    return took


def _time_reference(database: ThrowawayDatabase, writer: psycopg.Connection[Any], keys: range) -> list[float]:
    process = follow_to_pipe(database, _REFERENCE_SLOT)
    try:
        return [_time_pipe(process, writer, key) for key in keys]
    finally:
        process.terminate()
        process.wait()


def _time_pipe(process: subprocess.Popen[bytes], writer: psycopg.Connection[Any], key: int) -> float:
    assert process.stdout is not None
    wanted = f"Event number {key}".encode()
    began = _commit(writer, key)
    seen = b""
    while wanted not in seen:
        if not select.select([process.stdout], [], [], _WAIT_S_MAX)[0]:
            raise RuntimeError("pg_recvlogical does not tell the change")
        seen += process.stdout.read(65_536)
    took = time.perf_counter() - began
    # The rest of the transaction, so that it is not taken for the next.
    while select.select([process.stdout], [], [], _PARKING_S)[0]:
        process.stdout.read(65_536)
    return took


def _commit(writer: psycopg.Connection[Any], key: int) -> float:
    """
    Let the reader be parked, commit a row, and give the time at which COMMIT returned.
    """
    time.sleep(_PARKING_S + random.random() * _JITTER_S)
    writer.execute(insert_command(key).encode())
    return time.perf_counter()


def _percentile(values: list[float], part: float) -> float:
    """
    Give the value that this part of all values does not exceed.
    """
    ordered = sorted(values)
    if part == 0.5:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


SUITE: Final = Suite({NAME: "COMMIT to live client, nothing else to do"}, measure_idle_latency)
