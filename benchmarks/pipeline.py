"""
What the engine does with a row, without server, files and other processes: frames are decoded, routed, written as
elements and appended to tails.

With one shape, compared with the generated Python; and with 10,000 shapes that all want every transaction. Time is the
processor's, so that others on the machine disturb as little as they can.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

import msgspec

from benchmarks.conditions import COLUMNS, RELATION, TABLE, row
from benchmarks.measure import forget_peak, own_peak_mib
from benchmarks.progress import say
from benchmarks.report import Figure, Point
from benchmarks.suites import Setting, Suite
from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.routed_xids import RoutedXids
from penstock.compiled import choice
from penstock.consumers.abc import ShapeLog
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Projection
from penstock.postgres.lsn import CommitLsn, EndLsn, InsertLsn
from penstock.postgres.relation import RelationDescription
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.replication.encode import encode_begin, encode_commit, encode_insert, encode_relation
from penstock.replication.frames import XLogData, build_xlog_data, frame
from penstock.replication.transactions import TransactionAssembler
from penstock.shape_log.tail import Tail
from penstock.shapes.condition import shape_columns
from penstock.shapes.definition import ShapeDefinition

SMALL: Final = "pipeline-small"
LARGE: Final = "pipeline-large"
SIZES: Final = "pipeline-sizes"
MANY: Final = "pipeline-many"
NAMES: Final = {
    SMALL: "a row in the engine's decoding, routing and writing, transactions of one row",
    LARGE: "the same, one large transaction",
    SIZES: "the same by the size of a transaction",
    MANY: "10,000 shapes that all want each transaction, a change and shape",
}

ROWS_COUNT: Final = 20_000
ROUNDS: Final = 5
GROUP_SIZES: Final = (1, 10, 100, 1000)
SHAPES_COUNT: Final = 10_000
SHAPES_ROWS_COUNT: Final = 50
AIM_US: Final = 3.0
"""What a change may cost for each of many shapes that want it."""
SLICE_BYTES: Final = 64 << 10
TAIL_BYTES_MAX: Final = 16 << 20
_CHUNK_BYTES: Final = 10 << 20

_DEFINITION: Final = ShapeDefinition(
    TABLE,
    shape_columns(COLUMNS),
    ("id",),
    has_primary_key=True,
    selected=tuple(sorted(column.name for column in COLUMNS)),
)


class _Facts:
    """
    Of a table without partitions.
    """

    def ancestors_of(self, relation_oid: int) -> tuple[int, ...]:
        del relation_oid
        return ()

    async def find_ancestors(self, relation_oid: int) -> tuple[int, ...]:
        del relation_oid
        return ()


class _Consumers:
    """
    The consumers of the shapes, without a registry.
    """

    def __init__(self, consumers: Mapping[int, Consumer]) -> None:
        self._consumers: Final = consumers

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        shared: dict[object, object] = {}
        for incarnation, delivery in parts.items():
            answer = self._consumers[incarnation].handle(delivery, shared)  # type: ignore[arg-type]  # filled by it alone
            assert answer is None, answer

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        pass

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        pass


class _Log:
    """
    A shape log that is nothing but its tail.
    """

    settled = None

    def __init__(self) -> None:
        self.tail: Final = Tail(_CHUNK_BYTES)

    def append(self, tx: int, elements: Sequence[tuple[int, bytes]]) -> int:
        return self.tail.append(tx, elements)

    def append_whole(
        self, transactions: Sequence[tuple[int, Sequence[tuple[int, bytes]]]], commit_lsn: CommitLsn, end: EndLsn
    ) -> None:
        self.tail.append_whole(transactions)
        self.commit(commit_lsn, end)

    def commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        del commit_lsn, end
        self.tail.commit()


def time_us(slices: Sequence[bytes], rows_count: int, shapes_count: int = 1) -> float:
    """
    Handle frames from decoding to the tails of so many shapes of the whole table; gives the time of a row.
    """
    projection = Projection(_DEFINITION)
    consumers: dict[int, Consumer] = {}
    tracker = FlushTracker(EndLsn(0))
    collector = ShapeLogCollector(
        boundary=EndLsn(0), facts=_Facts(), delivery=_Consumers(consumers), tracker=tracker, xids=RoutedXids()
    )
    bounds = SnapshotBounds(Snapshot(1, 1, frozenset()), InsertLsn(0))
    logs = [_Log() for _ in range(shapes_count)]
    for number, log in enumerate(logs, start=1):
        consumers[number] = Consumer(number, ConsumerState.CREATING, CommitLsn(0), EndLsn(0), ConsumerLimits())
        consumers[number].begin(cast("ShapeLog", log), ShapeHandler(projection, bounds))
        collector.add_shape(number, _DEFINITION, 0.0)
        tracker.start_owing(number, EndLsn(0), 0.0)
    assembler = TransactionAssembler()
    assembler.begin_session((encode_relation(RELATION),))
    gc.collect()
    gc.freeze()
    start = time.process_time()
    for data in slices:
        events = assembler.feed(data)
        collector.missing_facts(events)
        collector.handle(events, 0.0)
        if logs[0].tail.bytes_count > TAIL_BYTES_MAX:
            for log in logs:
                log.tail.drop(log.tail.committed)
    took = time.process_time() - start
    gc.unfreeze()
    return took / rows_count * 1e6


def make_slices(rows_count: int, group_size: int, slice_bytes: int = SLICE_BYTES) -> list[bytes]:
    """
    Make the frames of rows in transactions of this size, in slices as the engine reads them.
    """
    slices: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for number, start in enumerate(range(0, rows_count, group_size), start=1):
        commit = CommitLsn(1000 * number)
        messages = [
            encode_begin(commit, 0, number),
            *(encode_insert(RELATION.id.oid, row(key, key % 1000)) for key in range(start, start + group_size)),
            encode_commit(commit, EndLsn(1000 * number + 50), 0),
        ]
        framed = [frame(build_xlog_data(XLogData(0, 0, 0, message))) for message in messages]
        for each in framed:
            gathered.append(each)
            size += len(each)
            if size >= slice_bytes and (slice_bytes > 1 or each is framed[-1]):
                slices.append(b"".join(gathered))
                gathered, size = [], 0
    return [*slices, b"".join(gathered)] if gathered else slices


def measure_pipeline(setting: Setting) -> list[Figure]:
    """
    Measure the wanted of `NAMES`.
    """
    figures: list[Figure] = []
    forget_peak()
    if SMALL in setting.wanted:
        figures.append(_compare(SMALL, "Engine without files, transactions of one row", 1))
    if LARGE in setting.wanted:
        figures.append(_compare(LARGE, "Engine without files, one large transaction", ROWS_COUNT))
    if SIZES in setting.wanted:
        for size in GROUP_SIZES:
            words = f"Engine without files, transactions of {size:,} rows"
            figures.append(_compare(SIZES, words, size, Point("transactions", "engine without files", size)))
    if MANY in setting.wanted:
        figures.append(_measure_many())
    peak_mib = own_peak_mib()
    return [msgspec.structs.replace(figure, peak_mib=peak_mib) for figure in figures]


def _compare(name: str, words: str, size: int, point: Point | None = None) -> Figure:
    """
    Let both cores handle the same rows, in turns.
    """
    slices = make_slices(ROWS_COUNT, size)
    pairs: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair = []
        for is_compiled in (True, False):
            choice.want(is_compiled)
            pair.append(time_us(slices, ROWS_COUNT))
        choice.want(True)
        pairs.append((pair[0], pair[1]))
    say(f"{words}: {min(own for own, _ in pairs):.2f} µs, pure {min(other for _, other in pairs):.2f} µs")
    return Figure(
        name=name,
        scenario=words,
        unit="µs/row",
        penstock=statistics.median(own for own, _ in pairs),
        reference=statistics.median(other for _, other in pairs),
        reference_name="pure Python",
        ratios=tuple(other / own for own, other in pairs),
        point=point,
    )


def _measure_many() -> Figure:
    say(f"{SHAPES_COUNT:,} shapes that want everything")
    # A delivery each: what is committed now and then is not gathered.
    slices = make_slices(SHAPES_ROWS_COUNT, 1, slice_bytes=1)
    costs = [time_us(slices, SHAPES_ROWS_COUNT, SHAPES_COUNT) / SHAPES_COUNT for _ in range(ROUNDS)]
    return Figure(
        name=MANY,
        scenario=f"{SHAPES_COUNT:,} shapes that all want it, a change and shape",
        unit="µs",
        penstock=statistics.median(costs),
        reference=AIM_US,
        reference_name="the aim",
        ratios=tuple(AIM_US / cost for cost in costs),
    )


SUITE: Final = Suite(NAMES, measure_pipeline, needs_server=False)
