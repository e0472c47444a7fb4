"""
What it costs to find the shapes that a change concerns, by the number of shapes with conditions.

Nothing but the collector is run: no server, no file, no process but this one. Every change is a transaction. Time is the processor's, so that others
on the machine disturb as little as they can; each figure is compared with the same for one shape, measured in turns.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from benchmarks.conditions import (
    distinct,
    inserts,
    shape_where,
    shapes_of_accounts,
    sharing,
    sorted_by_constant,
)
from benchmarks.measure import forget_peak, own_peak_mib
from benchmarks.progress import say
from benchmarks.report import Figure, Point
from benchmarks.suites import Suite
from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription
from penstock.replication.messages import Change, Fragment, StreamEvent
from penstock.shapes.definition import ShapeDefinition

HIT: Final = "routing-hit"
MISS: Final = "routing-miss"
SHARING: Final = "routing-sharing"
SORTED: Final = "routing-sorted"
DISTINCT: Final = "routing-distinct"
ADDING: Final = "routing-adding"
NAMES: Final = {
    HIT: "a change to the shapes it concerns, by their number",
    MISS: "a change that concerns none of them",
    SORTED: "the same with conditions column > constant",
    SHARING: "the same, no index helps, alike but for constants",
    DISTINCT: "the same, no index helps, all different",
    ADDING: "adding and removing a shape next to many",
}

INDEXED_COUNTS: Final = (1_000, 10_000, 100_000)
UNINDEXED_COUNTS: Final = (10, 100, 1_000)
ROUNDS: Final = 7
ROUND_S: Final = 0.05
"""How long a round of one contestant takes, roughly."""
_CHANGES_COUNT: Final = 1000
_NOBODYS_ACCOUNT: Final = 10**9
_ADDED_COUNT: Final = 2000


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


class _Nowhere:
    """
    Takes what is routed and does nothing with it.
    """

    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        pass

    def relation_seen(self, description: RelationDescription, table_oids: Sequence[int]) -> None:
        pass

    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        pass


class _Router:
    """
    The collector with shapes, and nobody behind it.
    """

    def __init__(self, definitions: Iterable[ShapeDefinition] = ()) -> None:
        self._collector: Final = ShapeLogCollector(boundary=EndLsn(1), facts=_Facts(), delivery=_Nowhere())
        self._commit = 1
        self._count = 0
        for definition in definitions:
            self.add(definition)

    def add(self, definition: ShapeDefinition) -> int:
        self._count += 1
        self._collector.add_shape(self._count, definition, 0.0)
        return self._count

    def remove(self, number: int) -> None:
        self._collector.remove_shape(number)

    def time_us(self, changes: Sequence[Change], count: int) -> float:
        """
        Route this many of the changes in turn, each in a transaction of its own; gives the time of one.
        """
        fragments: list[list[StreamEvent]] = []
        for place in range(count):
            self._commit += 16
            change = changes[place % len(changes)]
            end = EndLsn(self._commit + 8)
            fragments.append([Fragment(CommitLsn(self._commit), 1, [change], is_first=True, end=end)])
        handle = self._collector.handle
        start = time.process_time()
        for events in fragments:
            handle(events, 0.0)
        return (time.process_time() - start) / count * 1e6


@dataclass(frozen=True, slots=True)
class _Contestant:
    router: _Router
    changes: list[Change]

    def time_us(self, count: int) -> float:
        """
        Give the time of a change.
        """
        return self.router.time_us(self.changes, count)


def measure_routing(wanted: frozenset[str]) -> list[Figure]:
    """
    Measure the wanted of `NAMES`.
    """
    forget_peak()
    figures: list[Figure] = []
    if wanted & {HIT, MISS, ADDING}:
        figures += _measure_indexed(wanted)
    for name, make, words in (
        (SORTED, sorted_by_constant, "column > constant"),
        (SHARING, sharing, "alike but for constants"),
        (DISTINCT, distinct, "all different"),
    ):
        if name in wanted:
            figures += _measure_unindexed(name, make, words)
    peak_mib = own_peak_mib()
    return [msgspec.structs.replace(figure, peak_mib=peak_mib) for figure in figures]


def _measure_indexed(wanted: frozenset[str]) -> list[Figure]:
    figures: list[Figure] = []
    one, grown = _Router(shapes_of_accounts([0])), _Router()
    size = 0
    for count in INDEXED_COUNTS:
        say(f"routing with {count:,} shapes account = constant")
        for definition in shapes_of_accounts(range(size, count)):
            grown.add(definition)
        size = count
        _settle()
        step = max(1, count // _CHANGES_COUNT)
        if HIT in wanted:
            changes = inserts(range(0, count, step), _CHANGES_COUNT)
            ours, single = _Contestant(grown, changes), _Contestant(one, inserts([0], _CHANGES_COUNT))
            words = f"Routing, {count:,} shapes account = constant, hit"
            figures.append(_compare(HIT, words, ours, single, Point("shapes", "routing, hit", count)))
        if MISS in wanted:
            changes = inserts([_NOBODYS_ACCOUNT], _CHANGES_COUNT)
            ours, single = _Contestant(grown, changes), _Contestant(one, changes)
            words = f"Routing, {count:,} shapes account = constant, miss"
            figures.append(_compare(MISS, words, ours, single, Point("shapes", "routing, miss", count)))
    if ADDING in wanted:
        figures += _measure_adding(grown, one, size)
    return figures


def _measure_adding(grown: _Router, one: _Router, size: int) -> list[Figure]:
    """
    Measure adding and removing next to many shapes and next to one.
    """
    definitions = shapes_of_accounts(range(size, size + _ADDED_COUNT))
    adding: list[tuple[float, float]] = []
    removing: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pairs = []
        for router in (grown, one):
            _settle()
            start = time.process_time()
            numbers = [router.add(definition) for definition in definitions]
            middle = time.process_time()
            for number in numbers:
                router.remove(number)
            end = time.process_time()
            pairs.append(((middle - start) / _ADDED_COUNT * 1e6, (end - middle) / _ADDED_COUNT * 1e6))
        adding.append((pairs[0][0], pairs[1][0]))
        removing.append((pairs[0][1], pairs[1][1]))
    return [
        _figure(ADDING, f"Adding a shape to {size:,}, its condition compiled", "µs", "next to one", adding),
        _figure(ADDING, f"Removing a shape from {size:,}", "µs", "next to one", removing),
    ]


def _measure_unindexed(name: str, make: Callable[[int], list[str]], words: str) -> list[Figure]:
    figures: list[Figure] = []
    changes = inserts([_NOBODYS_ACCOUNT], _CHANGES_COUNT)
    one = _Contestant(_Router([shape_where(make(1)[0])]), changes)
    for count in UNINDEXED_COUNTS:
        say(f"routing with {count:,} shapes {words}")
        ours = _Contestant(_Router([shape_where(where) for where in make(count)]), changes)
        rounds = [(mine / count * 1e3, single * 1e3) for mine, single in _rounds(ours, one)]
        figures.append(_figure(name, f"Routing, {count:,} shapes {words}, a shape", "ns", "one shape", rounds))
    return figures


def _settle() -> None:
    """
    Let the collector of cyclic garbage look at everything once and then no more, as it is in a service after its start.
    """
    gc.collect()
    gc.freeze()


def _compare(name: str, scenario: str, ours: _Contestant, single: _Contestant, point: Point) -> Figure:
    return _figure(name, scenario, "µs", "one shape", _rounds(ours, single), point)


def _rounds(ours: _Contestant, single: _Contestant) -> list[tuple[float, float]]:
    """
    Let both route the same number of changes for about `ROUND_S`, in turns.
    """
    ours.time_us(100)
    single.time_us(100)
    _settle()
    count = max(50, int(ROUND_S * 1e6 / ours.time_us(100)))
    return [(ours.time_us(count), single.time_us(count)) for _ in range(ROUNDS)]


def _figure(  # noqa: PLR0917 - a line has as many
    name: str,
    scenario: str,
    unit: str,
    reference: str,
    rounds: Sequence[tuple[float, float]],
    point: Point | None = None,
) -> Figure:
    return Figure(
        name=name,
        scenario=scenario,
        unit=unit,
        penstock=statistics.median(mine for mine, _ in rounds),
        reference=statistics.median(other for _, other in rounds),
        reference_name=reference,
        ratios=tuple(other / mine for mine, other in rounds),
        point=point,
    )


SUITE: Final = Suite(NAMES, lambda setting: measure_routing(setting.wanted), needs_server=False)
