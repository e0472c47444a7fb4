"""
How fast a client gets a table that is there already, against `psql` running the same query.

The first client of a shape waits for its snapshot: rows are made by Postgres, pass the engine into files, and go out
from there. Later clients read the files.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.backlog import ROWS_PER_S_MIN, TIMEOUT_S_MIN
from benchmarks.measure import Usage
from benchmarks.progress import say
from benchmarks.reading import ShapeReader
from benchmarks.reference import copy_out
from benchmarks.report import Figure, Sample, figure_of_rates
from benchmarks.service import Service
from benchmarks.source import SLOT, TABLE, drop_slot, insert_at_once
from benchmarks.suites import Setting, Suite
from penstock.database.queries import copy_snapshot
from penstock.postgres.relation import TableId
from penstock.shapes.definition import ShapeColumn, ShapeDefinition
from penstock.testing.postgres import ThrowawayDatabase

FIRST: Final = "initial-sync"
SECOND: Final = "second-client"
ROUNDS: Final = 3


def measure_initial_sync(setting: Setting) -> list[Figure]:
    """
    Measure the first client of a shape and the second.
    """
    row_count, names = setting.row_count, setting.wanted
    database = setting.source.make_database()
    first: list[tuple[Sample, Sample]] = []
    second: list[tuple[Sample, Sample]] = []
    try:
        insert_at_once(database, 1, row_count)
        database.execute(f"VACUUM ANALYZE {TABLE}")
        query = copy_snapshot(_definition(database), is_partitioned=False)
        # Warms the caches of server and system for all.
        copy_out(database, query, timeout_s=_timeout_s(row_count))
        for number in range(ROUNDS):
            say(f"initial sync: round {number + 1} of {ROUNDS}")
            took = copy_out(database, query, timeout_s=_timeout_s(row_count))
            reference = Sample(took.wall_s, took.cpu_s, took.peak_mib)
            with tempfile.TemporaryDirectory(dir=setting.folder) as name:
                ours, again = _run(database, Path(name), row_count, single_process=setting.single_process)
            drop_slot(database, SLOT)
            say(f"  psql {reference.wall_s:.2f} s, first client {ours.wall_s:.2f} s, second {again.wall_s:.2f} s")
            first.append((ours, reference))
            second.append((again, reference))
    finally:
        database.drop()
    figures = []
    if FIRST in names:
        figures.append(figure_of_rates(FIRST, "Initial sync, first client of a shape", "psql COPY", row_count, first))
    if SECOND in names:
        figures.append(figure_of_rates(SECOND, "Initial sync, second client", "psql COPY", row_count, second))
    return figures


def _run(database: ThrowawayDatabase, folder: Path, row_count: int, *, single_process: bool) -> tuple[Sample, Sample]:
    """
    Start a service with nothing and read the table twice.
    """
    with Service(database.url, folder, single_process=single_process) as service, ShapeReader(service.port) as reader:
        service.wait_active()
        samples = []
        usage: Usage = service.usage()
        for _ in range(2):
            began = time.monotonic()
            reader.read_all()
            wall_s, after = time.monotonic() - began, service.usage()
            samples.append(Sample(wall_s, after.cpu_s - usage.cpu_s, after.peak_mib))
            usage = after
        read = reader.read_all(is_counting=True)
        if read.row_count != row_count:
            raise RuntimeError(f"the shape has {read.row_count} rows, not {row_count}")
    return samples[0], samples[1]


def _timeout_s(row_count: int) -> float:
    return TIMEOUT_S_MIN + row_count / ROWS_PER_S_MIN


def _definition(database: ThrowawayDatabase) -> ShapeDefinition:
    """
    Describe the shape of the whole table, so that the very query of its snapshot can be written down.
    """
    rows = database.query(
        "SELECT attname, atttypid::bigint, atttypmod FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        TABLE,
    )
    oid = int(database.query("SELECT %s::regclass::oid::bigint", TABLE)[0][0])
    columns = tuple(ShapeColumn(str(name), int(type_oid), int(typmod)) for name, type_oid, typmod in rows)
    return ShapeDefinition(
        table=TableId(oid, "public", TABLE),
        columns=columns,
        key_columns=("id",),
        has_primary_key=True,
        selected=tuple(sorted(column.name for column in columns)),
    )


SUITE: Final = Suite(
    {FIRST: "a table to the first client of its shape", SECOND: "the same to the second client"}, measure_initial_sync
)
