"""
How fast a backlog is worked off: by the receiver alone and by the whole service, against `pg_recvlogical`.

The shape is made first and the service stopped; then rows are written. Every contestant of every round reads the same
WAL, each from its own copy of the slot that the service left, one after the other. The service also gets its data
folder back as it was, so that it starts each round from the same state.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.measure import run
from benchmarks.progress import say
from benchmarks.reading import ShapeReader
from benchmarks.receiver_program import Order, Took
from benchmarks.reference import follow_to
from benchmarks.report import Figure, Sample, figure_of_rates
from benchmarks.service import Service
from benchmarks.source import (
    PUBLICATION,
    SLOT,
    Source,
    copy_slot,
    drop_slot,
    insert_at_once,
    insert_marker,
    insert_one_by_one,
)
from penstock.testing.postgres import ThrowawayDatabase

ROUNDS_MAX: Final = 3
ROUNDS_S_MAX: Final = 300.0
"""No round is begun after so long."""

TIMEOUT_S_MIN: Final = 60.0
ROWS_PER_S_MIN: Final = 2000.0
"""A contestant that is slower than this, or for few rows slower than `TIMEOUT_S_MIN`, ends the run with an error."""

_BASE_SLOT: Final = "bench_base"
_COPY: Final = "bench_copy"
_POLL_S: Final = 0.02
_SLOT_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of load.

    Attributes:
        receiver_name, service_name: of the two scenarios over it.
        words: what the rows come in.
        insert: writes them.
    """

    receiver_name: str
    service_name: str
    words: str
    insert: Callable[[ThrowawayDatabase, int, int], None]


SMALL: Final = Kind("receiver-small", "service-small", "transactions of one row", insert_one_by_one)
LARGE: Final = Kind("receiver-large", "service-large", "one large transaction", insert_at_once)


class Backlog:
    """
    A database with WAL that a stopped service has not seen yet.
    """

    def __init__(self, source: Source, kind: Kind, row_count: int, folder: Path, *, single_process: bool) -> None:
        """
        Make it; takes a while.
        """
        self._database: Final = source.make_database()
        self._row_count: Final = row_count
        self._folder: Final = folder
        self._single_process: Final = single_process
        self._service_folder: Final = folder / "service"
        self._service_folder.mkdir(parents=True)
        with self._make_service() as service, ShapeReader(service.port) as reader:
            service.wait_active()
            reader.read_all()
        copy_slot(self._database, SLOT, _BASE_SLOT)
        (self._service_folder / "data").rename(folder / "before")
        kind.insert(self._database, 1, row_count)
        self._end: Final = insert_marker(self._database, row_count + 1)
        self._timeout_s: Final = TIMEOUT_S_MIN + row_count / ROWS_PER_S_MIN

    def close(self) -> None:
        """
        Drop everything.
        """
        self._database.drop()
        shutil.rmtree(self._folder)

    def run_reference(self) -> Sample:
        """
        Let `pg_recvlogical` read it to /dev/null.
        """
        copy_slot(self._database, _BASE_SLOT, _COPY)
        try:
            took = follow_to(self._database, _COPY, self._end, timeout_s=self._timeout_s)
        finally:
            drop_slot(self._database, _COPY)
        return Sample(took.wall_s, took.cpu_s, took.peak_mib)

    def run_receiver(self) -> Sample:
        """
        Let the receiver bring it into a synced relay log.
        """
        copy_slot(self._database, _BASE_SLOT, _COPY)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            order = Order(self._database.url, _COPY, PUBLICATION, folder, self._end, self._timeout_s)
            try:
                done = run(
                    [sys.executable, "-m", "benchmarks.receiver_program"],
                    stdin=msgspec.json.encode(order).decode(),
                    timeout_s=self._timeout_s + 30,
                    cwd=Path(__file__).parent.parent,
                )
            finally:
                drop_slot(self._database, _COPY)
        took = msgspec.json.decode(done.output, type=Took)
        return Sample(took.wall_s, took.cpu_s, took.peak_mib)

    def run_service(self, *, is_checking: bool) -> Sample:
        """
        Let the service bring it into the shape, until the last entry can be read.

        Args:
            is_checking: whether the whole shape is read afterwards, to see that nothing is missing.
        """
        data = self._service_folder / "data"
        shutil.copytree(self._folder / "before", data, symlinks=True)
        drop_slot(self._database, SLOT)
        copy_slot(self._database, _BASE_SLOT, SLOT)
        try:
            with self._make_service() as service:
                return self._watch(service, is_checking=is_checking)
        finally:
            shutil.rmtree(data)

    def _watch(self, service: Service, *, is_checking: bool) -> Sample:
        deadline = time.monotonic() + self._timeout_s

        def pause(interval_s: float) -> None:
            service.insist_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the service is not there after {self._timeout_s:g} s:\n{service.log}")
            time.sleep(interval_s)

        with self._database.connect() as connection:
            query = b"SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
            while not connection.execute(query, (SLOT,)).fetchall():
                pause(_SLOT_POLL_S)
        began, before = time.monotonic(), service.usage()
        service.wait_active()
        with ShapeReader(service.port) as reader:
            while reader.position() < self._end:
                pause(_POLL_S)
            wall_s, after = time.monotonic() - began, service.usage()
            if is_checking:
                read = reader.read_all(is_counting=True)
                if read.row_count != self._row_count + 1:
                    raise RuntimeError(f"the shape has {read.row_count} rows, not {self._row_count + 1}")
        return Sample(wall_s, after.cpu_s - before.cpu_s, after.peak_mib)

    def _make_service(self) -> Service:
        return Service(self._database.url, self._service_folder, single_process=self._single_process)


def measure_backlog(
    source: Source, kind: Kind, row_count: int, folder: Path, names: frozenset[str], *, single_process: bool
) -> list[Figure]:
    """
    Measure those scenarios over one kind of load that are wanted.
    """
    backlog = Backlog(source, kind, row_count, folder / kind.service_name, single_process=single_process)
    receiver: list[tuple[Sample, Sample]] = []
    service: list[tuple[Sample, Sample]] = []
    began = time.monotonic()
    try:
        for number in range(ROUNDS_MAX):
            if time.monotonic() - began > ROUNDS_S_MAX:
                break
            say(f"{kind.words}: round {number + 1} of {ROUNDS_MAX}")
            reference = backlog.run_reference()
            _tell("pg_recvlogical", reference, row_count)
            if kind.receiver_name in names:
                receiver.append((backlog.run_receiver(), reference))
                _tell("receiver", receiver[-1][0], row_count)
            if kind.service_name in names:
                service.append((backlog.run_service(is_checking=number == 0), reference))
                _tell("service", service[-1][0], row_count)
    finally:
        backlog.close()
    figures = []
    if receiver:
        scenario = f"Receiver to synced relay log, {kind.words}"
        figures.append(figure_of_rates(kind.receiver_name, scenario, "pg_recvlogical", row_count, receiver))
    if service:
        scenario = f"Service into one shape, {kind.words}"
        figures.append(figure_of_rates(kind.service_name, scenario, "pg_recvlogical", row_count, service))
    return figures


def _tell(name: str, sample: Sample, row_count: int) -> None:
    say(
        f"  {name}: {row_count / sample.wall_s:,.0f} rows/s ({sample.wall_s:.2f} s), "
        f"{sample.cpu_s / row_count * 1e6:.1f} µs CPU a row, {sample.peak_mib:.0f} MiB"
    )
