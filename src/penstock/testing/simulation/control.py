"""
A control store in memory that models what is durable; implements `penstock.consumers.abc.ControlStore`.

A call waits its turn, is applied whole at some moment, and is answered later: when the power goes in between, it is
there, and whoever asked does not know. Calls that wait at the same time are applied together, as in the real store. One
that fails fails all that follow until a restart. The state is values that are replaced, never changed, so that what was
durable can be looked at.

The same tests run on this and on `penstock.control.store.SqliteControlStore`. Shell, in so far as it takes time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, TypeVar

from penstock.control.records import Recovered, ShapeRow, ShapeState, ShedRecord
from penstock.errors import DiskFullError, ShapeError, SyncFailedError
from penstock.postgres.lsn import ZERO_END, EndLsn
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, LogOffset
from penstock.testing.simulation.loop import Life

T = TypeVar("T")

LATENCY_S_MAX: Final = 0.006
"""How long a commit takes at most, on either side of the moment in which it becomes durable."""


@dataclass(frozen=True)
class ControlState:
    """
    What the file holds.

    Attributes:
        epoch, boundary, facts, handle_us_max, is_clean: as in `Recovered`.
        rows: by incarnation, with the epoch each was made in.
        incarnation_next: the next incarnation.
        reasons: why incarnations were condemned.
        epoch_reason: why the epoch began.
        sheds: definitions that rest, by their canonical form.
        replay_version: as in `Recovered`.
    """

    epoch: int | None = None
    boundary: EndLsn = ZERO_END
    rows: Mapping[int, tuple[ShapeRow, int]] = field(default_factory=dict)
    facts: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    handle_us_max: int = 0
    is_clean: bool = False
    incarnation_next: int = 1
    reasons: Mapping[int, str] = field(default_factory=dict)
    epoch_reason: str = ""
    sheds: Mapping[bytes, ShedRecord] = field(default_factory=dict)
    replay_version: int = 1

    def shape_rows(self) -> tuple[ShapeRow, ...]:
        """
        Give the rows as a restart reads them.
        """
        return tuple(
            replace(row, state=ShapeState.CONDEMNED) if epoch < (self.epoch or 0) else row
            for _, (row, epoch) in sorted(self.rows.items())
        )


@dataclass
class ControlFile:
    """
    The file; survives its processes.

    Attributes:
        state: what is durable.
        history: called with each state that becomes durable.
        is_hanging: whether commits do not end while this lasts.
        is_full: whether there is no space, but for what may use the reserve.
        fails: whether the next commit fails, and all after it until a restart.
    """

    state: ControlState = field(default_factory=ControlState)
    history: Callable[[ControlState], None] = lambda _: None
    is_hanging: bool = False
    is_full: bool = False
    fails: bool = False

    def power_cut(self) -> None:
        """
        Nothing is lost that was durable; what ails the disk is over.
        """
        self.is_hanging = self.is_full = self.fails = False


class VirtualControlStore:
    """
    The store of one life on a file.
    """

    def __init__(self, file: ControlFile, life: Life | None = None, chance: Random | None = None) -> None:
        """
        Touch nothing before `open`.

        Args:
            file: what survives.
            life: whose store it is; None for nobody's, as in tests of the store alone.
            chance: how long things take is drawn from it; None for no time at all.
        """
        self._file: Final = file
        self._life: Final = life
        self._chance: Final = chance
        self._recovered: Recovered | None = None
        self._failure: SyncFailedError | None = None
        self._is_open = False
        self._queue: list[tuple[Callable[[ControlState], tuple[ControlState, Any]], asyncio.Future[Any], bool]] = []
        self._worker: asyncio.Task[None] | None = None
        self.was_set_aside = False
        self.has_reserve = True
        self.waiting_since: float | None = None

    async def open(self) -> None:
        """
        Read everything and take away the mark of a clean stop.
        """
        await self._wait()
        state = self._file.state
        self._recovered = Recovered(
            state.epoch,
            state.boundary,
            state.shape_rows(),
            dict(state.facts),
            state.handle_us_max,
            state.is_clean,
            tuple(record for _, record in sorted(state.sheds.items())),
            state.replay_version,
        )
        self._put(replace(state, is_clean=False))
        self._is_open = True

    async def load(self) -> Recovered:
        """
        See `ControlStore.load`.
        """
        assert self._recovered is not None, "open comes first, and load but once"
        recovered, self._recovered = self._recovered, None
        return recovered

    async def close(self, *, is_clean: bool) -> None:
        """
        Do what was asked for and let go.
        """
        if self._is_open:
            try:
                if is_clean:
                    await self._ask(lambda state: (replace(state, is_clean=True), None), may_use_reserve=True)
            finally:
                self._is_open = False

    async def create(self, handle: str, handle_us: int, definition: ShapeDefinition, chunk_bytes_max: int) -> int:
        """
        See `ControlStore.create`.
        """

        def apply(state: ControlState) -> tuple[ControlState, int]:
            number = state.incarnation_next
            row = ShapeRow(number, handle, definition, ShapeState.CREATING, chunk_bytes_max, None, BEFORE_ALL)
            made = replace(
                state,
                incarnation_next=number + 1,
                handle_us_max=max(state.handle_us_max, handle_us),
                rows={**state.rows, number: (row, state.epoch or 0)},
            )
            return made, number

        return await self._ask(apply)

    async def mark_live(self, incarnation: int, bounds: SnapshotBounds, settled: LogOffset) -> None:
        """
        See `ControlStore.mark_live`.
        """

        def apply(state: ControlState) -> tuple[ControlState, None]:
            row, epoch = state.rows.get(incarnation, (None, 0))
            if row is None or row.state is not ShapeState.CREATING or epoch < (state.epoch or 0):
                raise ShapeError("the shape was given up before it was complete")
            live = replace(row, state=ShapeState.LIVE, bounds=bounds, settled=settled)
            return replace(state, rows={**state.rows, incarnation: (live, epoch)}), None

        await self._ask(apply)

    async def tombstone(self, incarnations: Collection[int], reason: str, at: EndLsn) -> None:
        """
        See `ControlStore.tombstone`.
        """
        del at
        await self._ask(lambda state: (_condemned(state, incarnations, reason), None), may_use_reserve=True)

    async def forget(self, incarnation: int) -> None:
        """
        See `ControlStore.forget`.
        """

        def apply(state: ControlState) -> tuple[ControlState, None]:
            row, epoch = state.rows.get(incarnation, (None, 0))
            if row is None or (row.state is not ShapeState.CONDEMNED and epoch >= (state.epoch or 0)):
                return state, None
            return replace(state, rows={key: each for key, each in state.rows.items() if key != incarnation}), None

        await self._ask(apply, may_use_reserve=True)

    async def checkpoint(self, boundary: EndLsn, settled: Mapping[int, LogOffset]) -> None:
        """
        See `ControlStore.checkpoint`.
        """

        def apply(state: ControlState) -> tuple[ControlState, None]:
            rows = dict(state.rows)
            for incarnation, offset in settled.items():
                if incarnation in rows:
                    row, epoch = rows[incarnation]
                    rows[incarnation] = (replace(row, settled=offset), epoch)
            return replace(state, boundary=boundary, rows=rows), None

        await self._ask(apply, may_use_reserve=True)

    async def record_fact(self, kind: str, key: str, value: bytes) -> None:
        """
        See `ControlStore.record_fact`.
        """
        await self._ask(lambda state: (replace(state, facts={**state.facts, (kind, key): value}), None))

    async def record_sheds(self, changed: Collection[ShedRecord], gone: Collection[bytes]) -> None:
        """
        See `ControlStore.record_sheds`.
        """

        def apply(state: ControlState) -> tuple[ControlState, None]:
            sheds = {key: record for key, record in state.sheds.items() if key not in set(gone)}
            sheds.update((record.definition, record) for record in changed)
            return replace(state, sheds=sheds), None

        await self._ask(apply)

    async def record_replay_version(self, version: int) -> None:
        """
        See `SqliteControlStore.record_replay_version`.
        """
        await self._ask(lambda state: (replace(state, replay_version=version), None))

    async def begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        """
        See `ControlStore.begin_epoch`.
        """

        def apply(state: ControlState) -> tuple[ControlState, None]:
            assert epoch >= (state.epoch or 0), "epochs ascend"
            if epoch == (state.epoch or 0):
                state = _condemned(state, list(state.rows), reason)
            return replace(state, epoch=epoch, boundary=boundary, facts={}, epoch_reason=reason), None

        await self._ask(apply, may_use_reserve=True)

    # --- within ------------------------------------------------------------------------------------------------------

    async def _ask(
        self, apply: Callable[[ControlState], tuple[ControlState, T]], *, may_use_reserve: bool = False
    ) -> T:
        assert self._is_open
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.append((apply, future, may_use_reserve))
        if self._worker is None or self._worker.done():
            work = self._work()
            self._worker = (
                loop.create_task(work) if self._life is None else self._life.create_task(work, "control store")
            )
        return await future

    async def _work(self) -> None:
        while self._queue:
            calls, self._queue = self._queue, []
            await self._wait()
            outcomes = self._commit(calls)
            await self._wait()
            for future, result, error in outcomes:
                if future.done():
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

    def _commit(
        self, calls: list[tuple[Callable[[ControlState], tuple[ControlState, Any]], asyncio.Future[Any], bool]]
    ) -> list[tuple[asyncio.Future[Any], Any, Exception | None]]:
        if self._file.fails and self._failure is None:
            self._failure = SyncFailedError("the control store failed; restart when its disk is well")
        if self._failure is not None:
            return [(future, None, self._failure) for _, future, _ in calls]
        outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        state = self._file.state
        for apply, future, may_use_reserve in calls:
            if self._file.is_full and not may_use_reserve:
                outcomes.append((future, None, DiskFullError("no space in the control store")))
                continue
            try:
                state, result = apply(state)
            except (ShapeError, AssertionError) as error:
                outcomes.append((future, None, error))
            else:
                outcomes.append((future, result, None))
        self._put(state)
        return outcomes

    def _put(self, state: ControlState) -> None:
        if self._life is not None:
            self._life.check()
        if state is not self._file.state:
            self._file.state = state
            self._file.history(state)

    async def _wait(self) -> None:
        if self._chance is not None:
            await asyncio.sleep(self._chance.random() * LATENCY_S_MAX)
        while self._file.is_hanging:  # noqa: ASYNC110 - whoever lets it go on tells nobody
            await asyncio.sleep(0.05)


def _condemned(state: ControlState, incarnations: Collection[int], reason: str) -> ControlState:
    rows = dict(state.rows)
    reasons = dict(state.reasons)
    for incarnation in incarnations:
        row, epoch = rows.get(incarnation, (None, 0))
        if row is not None and row.state is not ShapeState.CONDEMNED:
            rows[incarnation] = (replace(row, state=ShapeState.CONDEMNED), epoch)
            reasons[incarnation] = reason
    return replace(state, rows=rows, reasons=reasons)
