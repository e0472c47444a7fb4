"""
How long after COMMIT a live client has the change, when there is nothing else to do and while thousands of transactions
a second go into another shape; against `pg_recvlogical`.

Both times begin when COMMIT has returned to the writer and end when a reader that was waiting has the row. The reader is
this process: for Penstock with a parked long poll, for the reference at the end of a pipe, through which everything else
comes too. Next to it stands what a chain of bare processes takes, which says how much of that is the machine's.
"""

from __future__ import annotations

import contextlib
import math
import random
import select
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks.bare_chain import BareChain
from benchmarks.progress import say
from benchmarks.reading import ShapeReader
from benchmarks.reference import follow_to_pipe
from benchmarks.report import Figure
from benchmarks.service import Service
from benchmarks.source import SLOT, TABLE, copy_slot, insert_command
from benchmarks.suites import Setting, Suite
from penstock.testing.postgres import ThrowawayDatabase

IDLE: Final = "idle-latency"
ADDED: Final = "idle-added"
CHAIN: Final = "idle-chain"
LOADED: Final = "loaded-latency"
NAMES: Final = {
    IDLE: "COMMIT to live client, nothing else to do",
    ADDED: "how much later than the reference the slowest of a hundred then is",
    CHAIN: "the same beside four bare processes that pass a byte on, one of which syncs it",
    LOADED: "the same, while 5,000 transactions a second go into another shape",
}
COMMITS: Final = 500
ADDED_MS_MAX: Final = 2.0
"""So much later than the reference the slowest of a hundred may be, when there is nothing else to do."""
WARM_UPS: Final = 10
"""Commits before them that are not counted."""
LOAD_PER_S: Final = 5_000
_LOAD_FIRST: Final = 1_000_000
"""Rows from this key on are the load; the shape that is waited for has those before it."""
_LOAD: Final = f"""
DO $$
DECLARE
    began timestamptz := clock_timestamp();
    first bigint := (SELECT coalesce(max(id), 0) FROM {TABLE}) + {_LOAD_FIRST};
    done bigint := 0;
    next_key bigint;
BEGIN
    LOOP
        WHILE done < {LOAD_PER_S} * extract(epoch FROM clock_timestamp() - began) LOOP
            next_key := first + done;
            {insert_command("next_key")};
            COMMIT;
            done := done + 1;
        END LOOP;
        PERFORM pg_sleep(0.002);
    END LOOP;
END
$$
"""
_REFERENCE_SLOT: Final = "bench_latency"
_PARKING_S: Final = 0.02
"""How long a reader gets to be parked again."""
_JITTER_S: Final = 0.02
"""Commits come at no fixed beat, so that no timer is met always or never."""
_WAIT_S_MAX: Final = 20.0


def measure_latency(setting: Setting) -> list[Figure]:
    """
    Measure the latency of both, for what is wanted; the reference before and after the service, never while it runs.
    """
    figures: list[Figure] = []
    if {IDLE, ADDED, CHAIN} & setting.wanted:
        figures += _measure(setting, IDLE)
    if LOADED in setting.wanted:
        figures += _measure(setting, LOADED)
    return [figure for figure in figures if figure.name in setting.wanted]


def _measure(setting: Setting, name: str) -> list[Figure]:
    database = setting.source.make_database()
    is_loaded = name == LOADED
    where = f"id < {_LOAD_FIRST}" if is_loaded else ""
    try:
        with (
            tempfile.TemporaryDirectory(dir=setting.folder) as folder,
            database.connect() as writer,
            Service(database.url, Path(folder), single_process=setting.single_process) as service,
        ):
            service.wait_active()
            for each in ("", where):
                with ShapeReader(service.port, each) as reader:
                    reader.read_all()
            service.stop()
            copy_slot(database, SLOT, _REFERENCE_SLOT)
            say(f"{name}: {COMMITS} commits each")
            keys = iter(range(1, _LOAD_FIRST))
            half = COMMITS // 2
            chain = [] if is_loaded else _time_chain(Path(folder), half)
            before = _time_reference(
                database, writer, [next(keys) for _ in range(half + WARM_UPS)], is_loaded=is_loaded
            )
            service.start()
            service.wait_active()
            ours_keys = [next(keys) for _ in range(COMMITS + WARM_UPS)]
            ours = _time_service(service, database, writer, ours_keys, where)
            peak_mib = service.usage().peak_mib
            service.stop()
            after = _time_reference(database, writer, [next(keys) for _ in range(half + WARM_UPS)], is_loaded=is_loaded)
            chain += [] if is_loaded else _time_chain(Path(folder), half)
    finally:
        database.drop()
    reference = before + after
    figures = []
    for words, part in (("p50", 0.5), ("p99", 0.99)):
        own_ms, other_ms = _percentile(ours, part) * 1e3, _percentile(reference, part) * 1e3
        say(f"  {words}: Penstock {own_ms:.2f} ms, pg_recvlogical {other_ms:.2f} ms")
        load = f"{LOAD_PER_S:,} transactions a second beside it" if is_loaded else "idle"
        figures.append(
            Figure(
                name=name,
                scenario=f"Commit to live client, {load}, {words}",
                unit="ms",
                penstock=own_ms,
                reference=other_ms,
                reference_name="pg_recvlogical",
                ratios=(other_ms / own_ms,),
                peak_mib=peak_mib,
            )
        )
        if chain:
            chain_ms = _percentile(chain, part) * 1e3
            say(f"  {words}: four bare processes {chain_ms:.2f} ms")
            figures.append(
                Figure(
                    name=CHAIN,
                    scenario=f"Commit to live client, idle, {words}, against four bare processes in a chain",
                    unit="ms",
                    penstock=own_ms,
                    reference=chain_ms,
                    reference_name="bare chain",
                    ratios=(chain_ms / own_ms,),
                )
            )
    if not is_loaded:
        # At a load that makes the reference as slow, the difference is chance.
        added_ms = max(_percentile(ours, 0.99) - _percentile(reference, 0.99), 1e-5) * 1e3
        figures.append(
            Figure(
                name=ADDED,
                scenario="Commit to live client, idle, p99, beyond that of pg_recvlogical",
                unit="ms",
                penstock=added_ms,
                reference=ADDED_MS_MAX,
                reference_name="the aim",
                ratios=(ADDED_MS_MAX / added_ms,),
            )
        )
    return figures


@contextmanager
def _loading(database: ThrowawayDatabase) -> Iterator[None]:
    """
    Insert rows at a steady rate meanwhile, each in a transaction of its own.
    """
    with database.connect() as connection, database.connect() as watcher:
        connection.execute(b"SET synchronous_commit = off")

        def insert() -> None:
            with contextlib.suppress(psycopg.errors.QueryCanceled):
                connection.execute(_LOAD.encode())

        thread = threading.Thread(target=insert, name="load")
        before = _count(watcher)
        began = time.perf_counter()
        thread.start()
        try:
            yield
        finally:
            per_s = (_count(watcher) - before) / (time.perf_counter() - began)
            connection.cancel_safe()
            thread.join()
            say(f"  load: {per_s:,.0f} transactions a second{' only' if per_s < 0.9 * LOAD_PER_S else ''}")


def _count(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def _time_service(
    service: Service, database: ThrowawayDatabase, writer: psycopg.Connection[Any], keys: list[int], where: str
) -> list[float]:
    took = []
    with ShapeReader(service.port, where) as reader, contextlib.ExitStack() as stack:
        # When it has the first row, the service has worked off what it had missed.
        before = int(database.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0])
        _insert(writer, keys[0])
        while reader.position() < before:
            time.sleep(_PARKING_S)
        reply = reader.read_all()
        for place, key in enumerate(keys[1:], 1):
            if place == 1 and where:
                stack.enter_context(_loading(database))
            reader.send(offset=reply.offset, handle=reply.handle, live="true", cursor=reply.cursor)
            began = _commit(writer, key)
            while True:
                reader.await_end()
                arrived = time.perf_counter()
                reply = reader.receive(is_counting=True)
                if reply.row_count:
                    break
                reader.send(offset=reply.offset, handle=reply.handle, live="true", cursor=reply.cursor)
            took.append(arrived - began)
            if reply.row_count != 1:
                raise RuntimeError(f"the live client got {reply.row_count} rows for one commit")
    return took[WARM_UPS - 1 :]


def _time_reference(
    database: ThrowawayDatabase, writer: psycopg.Connection[Any], keys: list[int], *, is_loaded: bool
) -> list[float]:
    process = follow_to_pipe(database, _REFERENCE_SLOT)
    took = []
    try:
        with contextlib.ExitStack() as stack:
            for place, key in enumerate(keys):
                if place == 1 and is_loaded:
                    stack.enter_context(_loading(database))
                took.append(_time_pipe(process, writer, key))
    finally:
        process.terminate()
        process.wait()
    return took[WARM_UPS:]


def _time_pipe(process: subprocess.Popen[bytes], writer: psycopg.Connection[Any], key: int) -> float:
    pipe = process.stdout
    assert pipe is not None
    wanted = f"Event number {key}".encode() + b"t"
    until = time.perf_counter() + _PARKING_S + random.random() * _JITTER_S
    while (left_s := until - time.perf_counter()) > 0:
        if select.select([pipe], [], [], left_s)[0]:
            pipe.read(65_536)
    began = _insert(writer, key)
    seen = b""
    while wanted not in seen:
        if not select.select([pipe], [], [], _WAIT_S_MAX)[0]:
            raise RuntimeError("pg_recvlogical does not tell the change")
        seen = seen[-len(wanted) :] + pipe.read(65_536)
    return time.perf_counter() - began


def _time_chain(folder: Path, count: int) -> list[float]:
    took = []
    with BareChain(folder) as chain:
        for _ in range(count):
            time.sleep(_PARKING_S + random.random() * _JITTER_S)
            took.append(chain.time())
    return took


def _commit(writer: psycopg.Connection[Any], key: int) -> float:
    """
    Let the reader be parked, commit a row, and give the time at which COMMIT returned.
    """
    time.sleep(_PARKING_S + random.random() * _JITTER_S)
    return _insert(writer, key)


def _insert(writer: psycopg.Connection[Any], key: int) -> float:
    writer.execute(insert_command(str(key)).encode())
    return time.perf_counter()


def _percentile(values: list[float], part: float) -> float:
    """
    Give the value that this part of all values does not exceed.
    """
    ordered = sorted(values)
    if part == 0.5:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


SUITE: Final = Suite(NAMES, measure_latency)
