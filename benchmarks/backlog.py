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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.measure import run
from benchmarks.progress import say
from benchmarks.reading import ShapeReader
from benchmarks.receiver_program import Order, Took
from benchmarks.reference import follow_to
from benchmarks.report import Figure, Point, Sample, figure_of_rates
from benchmarks.service import Service
from benchmarks.source import (
    MARKER_ACCOUNT,
    PUBLICATION,
    SLOT,
    Source,
    copy_slot,
    drop_slot,
    insert_at_once,
    insert_in_groups,
    insert_marker,
    insert_one_by_one,
    update_one_by_one,
)
from benchmarks.suites import Setting, Suite
from penstock.testing.postgres import ThrowawayDatabase

ROUNDS_MAX: Final = 3
ROUNDS_S_MAX: Final = 120.0
"""No round is begun after so long."""

TIMEOUT_S_MIN: Final = 60.0
ROWS_PER_S_MIN: Final = 2000.0
"""A contestant that is slower than this, or for few rows slower than `TIMEOUT_S_MIN`, ends the run with an error."""

UPDATES_SHARE: Final = 0.3
"""So many rows are updated, as a share of those asked for: each is read, written and sent twice."""
GROWING_SHARE: Final = 0.1
"""So many rows are in a growth curve."""
TRANSACTION_SIZES: Final = (1, 10, 100, 1000, 10_000)
ROW_COUNT_STEPS: Final = (0.01, 0.03, 0.1)

BY_ROWS: Final = "growth-rows"
BY_TRANSACTIONS: Final = "growth-transactions"

_BASE_SLOT: Final = "bench_base"
_COPY: Final = "bench_copy"
_POLL_S: Final = 0.02
_SLOT_POLL_S: Final = 0.005
_PURE: Final = {"PENSTOCK_COMPILED_CORE": "false"}


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of load.

    Attributes:
        name: ends the names of the scenarios over it, as in `receiver-small`.
        words: what the rows come in.
        write: writes the load, from a first row on and so many.
        share: how many rows there are, as a share of those asked for.
        is_update: whether the rows are there before and are updated.
        where: the condition of the shape; empty for the whole table.
        entries_count: how many entries the shape gets of so many rows, without the mark.
    """

    name: str
    words: str
    write: Callable[[ThrowawayDatabase, int, int], None]
    share: float = 1.0
    is_update: bool = False
    where: str = ""
    entries_count: Callable[[int], int] = lambda count: count


SMALL: Final = Kind("small", "transactions of one row", insert_one_by_one)
LARGE: Final = Kind("large", "one large transaction", insert_at_once)
UPDATES: Final = Kind(
    "updates", "updates of one row, replica identity full", update_one_by_one, share=UPDATES_SHARE, is_update=True
)
UNWANTED: Final = Kind(
    "unwanted",
    "transactions of one row that no shape wants",
    insert_one_by_one,
    where=f"account = {MARKER_ACCOUNT}",
    entries_count=lambda _: 0,
)


class Backlog:
    """
    A database with WAL that a stopped service has not seen yet.
    """

    def __init__(self, source: Source, kind: Kind, row_count: int, folder: Path, *, single_process: bool) -> None:
        """
        Make it; takes a while.
        """
        self._database: Final = source.make_database()
        self._kind: Final = kind
        self._row_count: Final = row_count
        self._folder: Final = folder
        self._single_process: Final = single_process
        self._service_folder: Final = folder / "service"
        self._service_folder.mkdir(parents=True)
        if kind.is_update:
            insert_at_once(self._database, 1, row_count)
        with self._make_service() as service, self._make_reader(service) as reader:
            service.wait_active()
            reader.read_all()
        copy_slot(self._database, SLOT, _BASE_SLOT)
        (self._service_folder / "data").rename(folder / "before")
        kind.write(self._database, 1, row_count)
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

    def run_service(
        self,
        *,
        is_checking: bool,
        is_pure: bool = False,
        watch: Callable[[Service], None] = lambda _: None,
        before_stop: Callable[[Service], None] = lambda _: None,
    ) -> Sample:
        """
        Let the service bring it into the shape, until the last entry can be read.

        Args:
            is_checking: whether the whole shape is read afterwards, to see that nothing is missing.
            is_pure: whether it does without the compiled core.
            watch: called when it begins to stream.
            before_stop: called when all is there.
        """
        data = self._service_folder / "data"
        shutil.copytree(self._folder / "before", data, symlinks=True)
        drop_slot(self._database, SLOT)
        copy_slot(self._database, _BASE_SLOT, SLOT)
        try:
            with self._make_service(is_pure=is_pure) as service:
                try:
                    return self._follow(service, is_checking=is_checking, watch=watch)
                finally:
                    before_stop(service)
        finally:
            shutil.rmtree(data)

    def _follow(self, service: Service, *, is_checking: bool, watch: Callable[[Service], None]) -> Sample:
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
        watch(service)
        service.wait_active()
        with self._make_reader(service) as reader:
            while reader.position() < self._end:
                pause(_POLL_S)
            wall_s, after = time.monotonic() - began, service.usage()
            if is_checking:
                self._check(reader)
        return Sample(wall_s, after.cpu_s - before.cpu_s, after.peak_mib)

    def _check(self, reader: ShapeReader) -> None:
        """
        Read the whole shape and count what is in it.
        """
        read = reader.read_all(is_counting=True)
        entries_count = self._kind.entries_count(self._row_count)
        expected = (self._row_count + 1, entries_count) if self._kind.is_update else (entries_count + 1, 0)
        if (read.row_count, read.update_count) != expected:
            raise RuntimeError(f"the shape has {read.row_count} rows and {read.update_count} updates, not {expected}")

    def _make_service(self, *, is_pure: bool = False) -> Service:
        settings = _PURE if is_pure else {}
        return Service(self._database.url, self._service_folder, single_process=self._single_process, settings=settings)

    def _make_reader(self, service: Service) -> ShapeReader:
        return ShapeReader(service.port, self._kind.where)


def make_suite(kind: Kind, names: Sequence[str]) -> Suite:
    """
    Make the suite of the scenarios over one kind of load.

    Args:
        kind: the load.
        names: who works it off: some of `receiver`, `service` and `service-pure`.
    """
    words = {
        "receiver": "receiver to synced relay log",
        "service": "whole service into one shape",
        "pure": "the same without the compiled core",
    }
    scenarios = {_scenario(name, kind): f"{words[name]}, {kind.words}" for name in names}
    return Suite(scenarios, partial(_measure, kind, tuple(names)))


def _scenario(name: str, kind: Kind) -> str:
    return f"service-{kind.name}-pure" if name == "pure" else f"{name}-{kind.name}"


def _measure(kind: Kind, names: Sequence[str], setting: Setting) -> list[Figure]:
    """
    Measure those scenarios over one kind of load that are wanted.
    """
    names = [name for name in names if _scenario(name, kind) in setting.wanted]
    row_count = max(1, int(setting.row_count * kind.share))
    backlog = Backlog(
        setting.source, kind, row_count, setting.folder / f"backlog-{kind.name}", single_process=setting.single_process
    )
    rounds: dict[str, list[tuple[Sample, Sample]]] = {name: [] for name in names}
    began = time.monotonic()
    try:
        for number in range(ROUNDS_MAX):
            if time.monotonic() - began > ROUNDS_S_MAX:
                break
            say(f"{kind.words}: round {number + 1} of {ROUNDS_MAX}")
            reference = backlog.run_reference()
            _tell("pg_recvlogical", reference, row_count)
            for name in names:
                if name == "receiver":
                    sample = backlog.run_receiver()
                else:
                    sample = backlog.run_service(is_checking=number == 0, is_pure=name == "pure")
                rounds[name].append((sample, reference))
                _tell(name, sample, row_count)
    finally:
        backlog.close()
    titles = {
        "receiver": "Receiver to synced relay log",
        "service": "Service into one shape",
        "pure": "Service without the compiled core",
    }
    return [
        figure_of_rates(
            _scenario(name, kind), f"{titles[name]}, {kind.words}", "pg_recvlogical", row_count, rounds[name]
        )
        for name in names
    ]


def _tell(name: str, sample: Sample, row_count: int) -> None:
    say(
        f"  {name}: {row_count / sample.wall_s:,.0f} rows/s ({sample.wall_s:.2f} s), "
        f"{sample.cpu_s / row_count * 1e6:.1f} µs CPU a row, {sample.peak_mib:.0f} MiB"
    )


def _measure_growth(setting: Setting) -> list[Figure]:
    """
    Measure the service over loads of several sizes, once each.
    """
    figures: list[Figure] = []
    if BY_TRANSACTIONS in setting.wanted:
        count = max(1, int(setting.row_count * GROWING_SHARE))
        for size in TRANSACTION_SIZES:
            kind = Kind(f"groups-{size}", f"transactions of {size:,} rows", partial(insert_in_groups, size=size))
            point = Point("transactions", "into one shape", size)
            figures.append(_measure_once(setting, kind, count, BY_TRANSACTIONS, point))
    if BY_ROWS in setting.wanted:
        for kind in (SMALL, LARGE):
            for share in ROW_COUNT_STEPS:
                count = max(1, int(setting.row_count * share))
                point = Point("rows", kind.words, count)
                figures.append(_measure_once(setting, kind, count, BY_ROWS, point))
    return figures


def _measure_once(setting: Setting, kind: Kind, count: int, name: str, point: Point) -> Figure:
    folder = setting.folder / f"{name}-{point.x:g}-{kind.name}"
    backlog = Backlog(setting.source, kind, count, folder, single_process=setting.single_process)
    try:
        pair = backlog.run_service(is_checking=False), backlog.run_reference()
    finally:
        backlog.close()
    _tell("pg_recvlogical", pair[1], count)
    _tell("service", pair[0], count)
    words = f"Service into one shape, {count:,} rows, {kind.words}"
    return figure_of_rates(name, words, "pg_recvlogical", count, [pair], point)


GROWTH: Final = Suite(
    {
        BY_TRANSACTIONS: "the service over transactions of 1 to 10,000 rows",
        BY_ROWS: "the service over 1, 3 and 10 per cent of the rows, small and large transactions",
    },
    _measure_growth,
)
