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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
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
ROUNDS: Final = 5
"""A machine that does something else for a moment spoils one of them."""
COMMITS: Final = 100
"""Of each contestant in a round."""
_PARTS: Final = {"p50": 0.5, "p99": 0.99}
_TICK_S: Final = 1e-5
"""Shorter differences are taken for this one."""
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
    Measure the latency of both, for what is wanted, in turns.
    """
    figures: list[Figure] = []
    if {IDLE, ADDED, CHAIN} & setting.wanted:
        figures += _measure(setting, IDLE)
    if LOADED in setting.wanted:
        figures += _measure(setting, LOADED)
    return [figure for figure in figures if figure.name in setting.wanted]


@dataclass(frozen=True, slots=True)
class _Round:
    """
    What each contestant took in a round, in seconds, each commit by itself; the chain only where nothing else is to do.
    """

    ours: list[float]
    reference: list[float]
    chain: list[float]


def _measure(setting: Setting, name: str) -> list[Figure]:
    database = setting.source.make_database()
    is_loaded = name == LOADED
    where = f"id < {_LOAD_FIRST}" if is_loaded else ""
    rounds: list[_Round] = []
    peak_mib = 0.0
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
            say(f"{name}: {ROUNDS} rounds of {COMMITS} commits each")
            keys = iter(range(1, _LOAD_FIRST))
            for _ in range(ROUNDS):
                chain = [] if is_loaded else _time_chain(Path(folder))
                reference = _time_reference(database, writer, _take(keys), is_loaded=is_loaded)
                service.start()
                service.wait_active()
                ours = _time_service(service, database, writer, _take(keys), where)
                peak_mib = max(peak_mib, service.usage().peak_mib)
                service.stop()
                rounds.append(_Round(ours, reference, chain))
    finally:
        database.drop()
    return _describe_loaded(rounds, peak_mib) if is_loaded else _describe_idle(rounds, peak_mib)


def _take(keys: Iterator[int]) -> list[int]:
    return list(islice(keys, COMMITS + WARM_UPS))


def _describe_loaded(rounds: list[_Round], peak_mib: float) -> list[Figure]:
    load = f"{LOAD_PER_S:,} transactions a second beside it"
    return [
        _compare_with_reference(LOADED, f"{load}, {words}", rounds, part, peak_mib) for words, part in _PARTS.items()
    ]


def _describe_idle(rounds: list[_Round], peak_mib: float) -> list[Figure]:
    figures = []
    for words, part in _PARTS.items():
        figures.append(_compare_with_reference(IDLE, f"idle, {words}", rounds, part, peak_mib))
        against = f"idle, {words}, against a bare chain"
        figures.append(
            _compare(CHAIN, against, part, rounds, find=lambda each: each.chain, reference_name="bare chain")
        )
    # Where something else makes the reference as slow, the difference is chance.
    added_ms = [max(_percentile(each.ours, 0.99) - _percentile(each.reference, 0.99), _TICK_S) * 1e3 for each in rounds]
    say(f"  p99 beyond that of pg_recvlogical: {', '.join(f'{each:.2f}' for each in sorted(added_ms))} ms")
    figures.append(
        Figure(
            name=ADDED,
            scenario="Commit to live client, idle, p99, beyond that of pg_recvlogical",
            unit="ms",
            penstock=statistics.median(added_ms),
            reference=ADDED_MS_MAX,
            reference_name="the aim",
            ratios=tuple(ADDED_MS_MAX / each for each in added_ms),
        )
    )
    return figures


def _compare_with_reference(name: str, words: str, rounds: list[_Round], part: float, peak_mib: float) -> Figure:
    return _compare(
        name,
        words,
        part,
        rounds,
        find=lambda each: each.reference,
        reference_name="pg_recvlogical",
        peak_mib=peak_mib,
    )


def _compare(
    name: str,
    words: str,
    part: float,
    rounds: list[_Round],
    *,
    find: Callable[[_Round], list[float]],
    reference_name: str,
    peak_mib: float | None = None,
) -> Figure:
    """
    Compare a percentile of ours with that of another contestant, round by round.
    """
    ours_ms = [_percentile(each.ours, part) * 1e3 for each in rounds]
    others_ms = [_percentile(find(each), part) * 1e3 for each in rounds]
    own_ms, other_ms = statistics.median(ours_ms), statistics.median(others_ms)
    say(f"  {words}: Penstock {own_ms:.2f} ms, {reference_name} {other_ms:.2f} ms")
    return Figure(
        name=name,
        scenario=f"Commit to live client, {words}",
        unit="ms",
        penstock=own_ms,
        reference=other_ms,
        reference_name=reference_name,
        ratios=tuple(other / own for own, other in zip(ours_ms, others_ms, strict=True)),
        peak_mib=peak_mib,
    )


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


def _time_chain(folder: Path) -> list[float]:
    took = []
    with BareChain(folder) as chain:
        chain.time()
        for _ in range(COMMITS):
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
