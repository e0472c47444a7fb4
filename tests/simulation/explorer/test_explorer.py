"""
Every history of a few commits, two shapes, restarts and stubborn consumers, executed by production's own code.

The first tests search scenarios to their end and find nothing. The others remove one guard each and have to find what it
guards against: a search that could not would prove nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final, cast

import pytest
import structlog

from explorer_kit import TABLE_A, TABLE_B, Budget, Explorer, Found, Parts, Scenario
from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_entries import Entry
from penstock.collector.flush_tracker import Debt, FlushTracker, RunDebt
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settling import Settler
from penstock.liveness.verify import Evidence
from penstock.liveness.watch import Decision, ProgressWatch, WatchLimits
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.replication.messages import Frontier, Omitted, StreamEvent
from stream_builder import fragment, insert

WORLDS_MAX: Final = 60_000
QUICK: Final = WatchLimits(grace_s=3.0, verify_s=1.0, wait_s_max=0.0, period_s=1.0, suspects_max=8)

THREE: Final = (
    fragment(100, insert(TABLE_A, 0), insert(TABLE_B, 2), end=110),
    fragment(200, insert(TABLE_A, 0), end=210),
    fragment(300, insert(TABLE_A, 0), insert(TABLE_B, 2), end=310),
)
IN_PARTS: Final = (
    fragment(100, insert(TABLE_A, 0), end=110),
    fragment(200, insert(TABLE_A, 0)),
    fragment(200, insert(TABLE_B, 2), end=210, is_first=False),
    Frontier(EndLsn(250)),
    fragment(300, insert(TABLE_B, 0), end=310),
)
WITH_OMITTED: Final = (
    fragment(100, insert(TABLE_A, 0), insert(TABLE_B, 2), end=110),
    Omitted(CommitLsn(200), 200, (TABLE_A,), EndLsn(210)),
    fragment(300, insert(TABLE_B, 0), end=310),
)
KEEPALIVE_HALF_WAY: Final = (
    fragment(100, insert(TABLE_A, 0)),
    Frontier(EndLsn(150)),
    fragment(100, insert(TABLE_B, 2), end=110, is_first=False),
)
MOSTLY_ONE: Final = (
    fragment(100, insert(TABLE_A, 0), end=110),
    fragment(200, insert(TABLE_A, 0), insert(TABLE_B, 2), end=210),
    fragment(300, insert(TABLE_A, 0), end=310),
)
TWO_FOR_ANOTHER: Final = (
    fragment(100, insert(TABLE_A, 0), insert(TABLE_B, 2), end=110),
    fragment(200, insert(TABLE_B, 0), end=210),
)
ONE_SHAPE: Final = (
    fragment(100, insert(TABLE_A, 0), end=110),
    fragment(200, insert(TABLE_A, 0), end=210),
    fragment(300, insert(TABLE_A, 0), end=310),
)

SCENARIOS: Final = {
    "two restarts": Scenario(THREE, Budget(restarts=2)),
    "given up": Scenario(MOSTLY_ONE, Budget(restarts=1, condemns=1)),
    "in parts": Scenario(IN_PARTS, Budget(restarts=1)),
    "omitted": Scenario(WITH_OMITTED, Budget(restarts=1)),
    "failing": Scenario(ONE_SHAPE, Budget(restarts=1, raises=2), starts_with=(TABLE_A,)),
    "behind": Scenario(ONE_SHAPE, Budget(restarts=1, falls=1, rests=1), starts_with=(TABLE_A,)),
    "lost report": Scenario(ONE_SHAPE, Budget(restarts=1, lost_reports=1), starts_with=(TABLE_A,)),
    "created": Scenario(TWO_FOR_ANOTHER, Budget(restarts=1, creates=1), starts_with=(TABLE_A,)),
    "created again": Scenario(ONE_SHAPE[:2], Budget(condemns=1, creates=1), starts_with=(TABLE_A,)),
    "created at once": Scenario(
        ONE_SHAPE[:1], Budget(condemns=1, creates=1), starts_with=(TABLE_A,), creates_at_once=True
    ),
    "timed": Scenario(THREE[:2], Budget(), is_timed=True),
    "timed, three": Scenario(ONE_SHAPE, Budget(lost_reports=1), is_timed=True, starts_with=(TABLE_A,)),
    "timed, quick": Scenario(ONE_SHAPE, Budget(pauses=1), is_timed=True, starts_with=(TABLE_A,), watch=QUICK),
    "healthy": Scenario(THREE, Budget(pauses=1), is_timed=True, is_healthy=True),
}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Searches give up thousands of shapes; nobody needs to read of it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@cache
def searched(name: str) -> Found:
    return Explorer(SCENARIOS[name]).search(WORLDS_MAX)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_no_history_breaks_an_invariant(name: str) -> None:
    """In no world that can be reached is anything wrong, and the end is among them."""
    found = searched(name)
    assert (found.harm, found.way) == ("", [])
    assert found.worlds > 20, "a search that goes nowhere proves nothing"
    assert found.is_ended


async def test_the_boundary_stands_still_as_long_as_it_may_and_no_longer() -> None:
    """The bound that the timed searches check is met, not only kept: the worst consumer is among theirs."""
    limits = SCENARIOS["timed"].watch
    least = limits.grace_s + limits.verify_s
    assert least <= searched("timed").stuck_max <= least + limits.wait_s_max + 2 * limits.period_s


# --- one guard less --------------------------------------------------------------------------------------------------


class _Later:
    """
    A tracker's stand-in that only takes note.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def handle_txn_fragment(self, *args: object) -> None:
        self.calls.append(("handle_txn_fragment", args))

    def handle_whole_txns(self, *args: object) -> None:
        self.calls.append(("handle_whole_txns", args))


class RegistersAfterDelivery(ShapeLogCollector):
    def handle(self, events: Sequence[StreamEvent], now: float) -> None:
        tracker, later = self.tracker, _Later()
        assert tracker is not None
        self.tracker = cast("FlushTracker", later)  # type: ignore[misc]
        try:
            super().handle(events, now)
        finally:
            self.tracker = tracker  # type: ignore[misc]
        for name, args in later.calls:
            getattr(tracker, name)(*args)


class RegistersAtCommitOnly(FlushTracker):
    def handle_txn_fragment(
        self, commit_lsn: CommitLsn, incarnations: Iterable[int], end: EndLsn | None, now: float
    ) -> None:
        super().handle_txn_fragment(commit_lsn, () if end is None else incarnations, end, now)


class PaysEqualOnly(FlushTracker):
    def handle_flush_notification(self, incarnation: int, commit_lsn: CommitLsn, end: EndLsn, now: float) -> None:
        entry = self._entries.get(incarnation)
        if entry is None or entry.marks[-1].end == end.value:
            super().handle_flush_notification(incarnation, commit_lsn, end, now)


class HoldsForDebtsOnly(FlushTracker):
    def handle_shape_unrouted(self, incarnation: int, now: float) -> None:
        """The condemned that owe nothing hold nothing."""


class BelievesFrontiers(ShapeLogCollector):
    def _handle_frontier(self, end: EndLsn) -> None:
        assert self.tracker is not None
        self.last_seen_end = self.tracker._seen_end = end


class ActivityIsProgress(FlushTracker):
    def handle_txn_fragment(
        self, commit_lsn: CommitLsn, incarnations: Iterable[int], end: EndLsn | None, now: float
    ) -> None:
        names = list(incarnations)
        super().handle_txn_fragment(commit_lsn, names, end, now)
        self._progressed(names, now)

    def handle_whole_txns(self, debts: Iterable[RunDebt], commit_lsn: CommitLsn, end: EndLsn, now: float) -> None:
        owed = list(debts)
        super().handle_whole_txns(owed, commit_lsn, end, now)
        self._progressed([incarnation for debt in owed for incarnation in debt.incarnations], now)

    def _progressed(self, names: Iterable[int], now: float) -> None:
        for incarnation in names:
            entry: Entry | None = self._entries.get(incarnation)
            if entry is not None:
                entry.progress_at = now


class VoidsBeforeTombstone(ConsumerRegistry):
    def __init__(self, **ports: Any) -> None:
        super().__init__(**ports)
        condemn = self._burial._condemn

        def void(entry: ShapeEntry, reason: str) -> None:
            condemn(entry, reason)
            self._accounts.remove_shape(entry.incarnation)

        self._burial._condemn = void  # type: ignore[method-assign]


class ForgivesSomeEnds(ConsumerRegistry):
    def __init__(self, **ports: Any) -> None:
        super().__init__(**ports)
        replace = self._deliveries._replace

        def forgive(entry: ShapeEntry, delivery: Sequence[RoutedPart], error: Exception) -> None:
            if not isinstance(error, RuntimeError):
                replace(entry, delivery, error)

        self._deliveries._replace = forgive  # type: ignore[method-assign]


class DropsForTheIdle(ConsumerRegistry):
    def publish(self, parts: Mapping[int, Sequence[RoutedPart]]) -> None:
        entries = {key: self.entry(key) for key in parts}
        super().publish({key: parts[key] for key, entry in entries.items() if entry and entry.consumer is not None})


class SurvivesAnything(ConsumerRegistry):
    def relation_spoiled(self, table_oids: Sequence[int], at: CommitLsn, reason: str, xid: int | None = None) -> None:
        """What cannot be told is passed over."""


class RestsOwing(ConsumerRegistry):
    def __init__(self, **ports: Any) -> None:
        super().__init__(**ports)

        def may_leave(entry: ShapeEntry) -> bool:
            return entry.is_live and entry.condemned is None and entry.consumer is not None

        self._opening._may_leave = may_leave  # type: ignore[method-assign]

    def release_idle(self, is_busy: Callable[[ShapeEntry], bool]) -> int:
        del is_busy
        return super().release_idle(lambda _: False)


class ReportsForTheCondemned(Settler):
    def _settled(self, entry: ShapeEntry, mark: tuple[CommitLsn, EndLsn]) -> None:
        self._accounts.flushed(entry.incarnation, *mark)
        if entry.condemned is None:
            super()._settled(entry, mark)


class ReportsBeforeSync(Settler):
    def _mark(self, entry: ShapeEntry) -> tuple[CommitLsn, EndLsn]:
        mark = super()._mark(entry)
        self._accounts.flushed(entry.incarnation, *mark)
        return mark


class AsksNoFiles(ProgressWatch):
    def sweep(
        self, now: float, debts: Sequence[Debt], evidence_of: Callable[[Debt], Evidence], debtors_count: int
    ) -> list[Decision]:
        return super().sweep(now, debts, lambda debt: replace(evidence_of(debt), covered=None), debtors_count)


class IgnoresItsLateness(ProgressWatch):
    def _note_lateness(self, now: float) -> None:
        self._looked_at = now


class SetsNoDeadline(ProgressWatch):
    def _brake(
        self, decisions: list[Decision], suspicions: dict[int, Any], debtors_count: int, time: float
    ) -> list[Decision]:
        found = super()._brake(decisions, suspicions, debtors_count, time)
        for suspicion in suspicions.values():
            suspicion.deadline = None
        return found


MUTANTS: Final = {
    "register after delivery": (Parts(collector=RegistersAfterDelivery), "two restarts", "S3"),
    "register at the commit only": (Parts(tracker=RegistersAtCommitOnly), "in parts", "S3"),
    "equality instead of cover": (Parts(tracker=PaysEqualOnly), "in parts", "S4"),
    "the condemned hold only what they owe": (Parts(tracker=HoldsForDebtsOnly), "given up", "S"),
    "frontier half-way": (Parts(collector=BelievesFrontiers), "keepalive", "assertion"),
    "activity counts as progress": (Parts(tracker=ActivityIsProgress), "timed, quick", "L1"),
    "void before tombstone": (Parts(registry=VoidsBeforeTombstone), "given up", "S"),
    "exit reason instead of debt": (Parts(registry=ForgivesSomeEnds), "failing", "S8"),
    "no consumer, no delivery": (Parts(registry=DropsForTheIdle), "two restarts", "S8"),
    "rests while it owes": (Parts(registry=RestsOwing), "behind", "S8"),
    "passes over what it cannot tell": (Parts(registry=SurvivesAnything), "omitted", "S8"),
    "report before sync": (Parts(settler=ReportsBeforeSync), "two restarts", "S2"),
    "handle instead of incarnation": (
        Parts(settler=ReportsForTheCondemned, numbers_return=True),
        "created at once",
        "assertion",
    ),
    "no verify": (Parts(watch=AsksNoFiles), "timed, three", "L4"),
    "late itself": (Parts(watch=IgnoresItsLateness), "timed, quick", "L4"),
    "deadline without end": (Parts(watch=SetsNoDeadline), "timed, quick", "L1"),
    "sweep needs traffic": (Parts(sweep_needs_traffic=True), "timed", "L1"),
    "restart where the stream was": (Parts(restarts_at_seen=True), "two restarts", "S"),
    "record what was seen": (Parts(records_seen=True), "two restarts", "S1"),
    "live before it owes": (Parts(live_without_owing=True), "created", "S"),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_each_guard_is_missed(name: str) -> None:
    """Without it the search finds harm, and of the kind that it guards against."""
    parts, scenario_name, expected = MUTANTS[name]
    scenario = Scenario(KEEPALIVE_HALF_WAY, Budget()) if scenario_name == "keepalive" else SCENARIOS[scenario_name]
    found = Explorer(scenario, parts).search(WORLDS_MAX)
    assert found.harm, "nothing happens without this guard: the guard or the model is wrong"
    assert expected in found.harm, (found.harm, found.way)
    assert len(found.way) <= 20, found.way


async def test_a_keepalive_half_way_does_no_harm() -> None:
    """A frontier between two parts of a transaction is no position (S6)."""
    found = Explorer(Scenario(KEEPALIVE_HALF_WAY, Budget(restarts=1))).search(WORLDS_MAX)
    assert (found.harm, found.is_ended) == ("", True)
