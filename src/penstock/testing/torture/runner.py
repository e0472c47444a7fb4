"""
Runs faults against a database and measures what becomes of them. A shell.

One service for each mode and for each kind of service that the chosen faults need; its faults are staged one after the
other, each on a shape of its own, while others write and follow other shapes. After each fault writing is held and every
client is compared with the query.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg

from penstock.postgres.lsn import EndLsn
from penstock.testing.faults import VARIABLE, Fault
from penstock.testing.torture.catalogue import BUDGET_BYTES, DEFAULTS, Cost, Deadlines, FaultSpec, Service
from penstock.testing.torture.child import Child, TortureFailedError
from penstock.testing.torture.crowd import Crowd, Followed
from penstock.testing.torture.ground import PREFIX, WORD, Ground
from penstock.testing.torture.report import Row, judge
from penstock.testing.torture.shim import ShimMissingError, SyncShim, compile_shim
from penstock.testing.torture.stages import ASK_S, Stage, stage_fault, until

START_S: Final = 60.0
END_S: Final = 30.0
"""Beyond its bound: for how long the end of a fault is waited for at all."""
AGREE_S: Final = 60.0

OnRow = Callable[[Row], None]
OnStage = Callable[[FaultSpec, str], None]


class Torture:
    """
    A list of faults and the database they are tried on.
    """

    def __init__(
        self,
        url: str,
        specs: Sequence[FaultSpec],
        *,
        deadlines: Deadlines = DEFAULTS,
        patience: float = 1.0,
        on_stage: OnStage = lambda _spec, _mode: None,
        on_row: OnRow = lambda _row: None,
    ) -> None:
        """
        Touch nothing yet.

        Args:
            url: of the database.
            specs: what to stage.
            deadlines: of the services that are tortured.
            patience: see `report.judge`.
            on_stage: told when a fault begins.
            on_row: told when it is over.
        """
        self._url: Final = url
        self._specs: Final = tuple(specs)
        self._deadlines: Final = deadlines
        self._patience: Final = patience
        self._on_stage: Final = on_stage
        self._on_row: Final = on_row

    async def run(self, mode: str) -> list[Row]:
        """
        Stage all faults in one mode; gives their rows.

        Raises:
            ConfigError: the database is not fit, or the user may not.
            SourceError: it cannot be reached.
            TortureFailedError: nothing can be said of the promise.
        """
        rows: list[Row] = []
        for service in Service:
            specs = [spec for spec in self._specs if spec.service is service]
            if specs:
                rows += await self._run(mode, specs)
        return rows

    async def _run(self, mode: str, specs: Sequence[FaultSpec]) -> list[Row]:
        ground = Ground(self._url, PREFIX + secrets.token_hex(4))
        rows: list[Row] = []
        with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
            try:
                ground.make(specs)
                shim, complaint = await self._find_shim(Path(folder), specs)
                able = [spec for spec in specs if shim is not None or not spec.needs_shim]
                async with self._serving(ground, mode, able, Path(folder), shim) as (child, crowd):
                    for spec in specs:
                        if spec in able:
                            self._on_stage(spec, mode)
                            stage = Stage(spec, mode, self._deadlines, ground, child, crowd, shim)
                            row = await self._stage(stage)
                        else:
                            row = Row(fault=spec.name, mode=mode, skipped=complaint)
                        rows.append(row)
                        self._on_row(row)
            except psycopg.Error as cause:
                raise TortureFailedError(f"the database does not play along: {str(cause).strip()}") from cause
            finally:
                # Nothing may be awaited here: we may have been interrupted.
                ground.remove()
        return rows

    async def _find_shim(self, folder: Path, specs: Sequence[FaultSpec]) -> tuple[SyncShim | None, str]:
        if not any(spec.needs_shim for spec in specs):
            return None, ""
        try:
            return await compile_shim(folder), ""
        except ShimMissingError as error:
            return None, error.message

    @asynccontextmanager
    async def _serving(
        self,
        ground: Ground,
        mode: str,
        specs: Sequence[FaultSpec],
        folder: Path,
        shim: SyncShim | None,
    ) -> AsyncIterator[tuple[Child, Crowd]]:
        """
        A service with clients on every shape, while others write.
        """
        faults = [str(Fault(spec.name, spec.table, WORD.encode())) for spec in specs if spec.is_injected]
        environment = {
            "DATABASE_URL": self._url,
            "PENSTOCK_ACKNOWLEDGE": mode,
            "PENSTOCK_SLOT_NAME": ground.slot,
            "PENSTOCK_PUBLICATION_NAME": ground.publication,
            "PENSTOCK_ENABLE_FAULT_INJECTION": "true",
            "PENSTOCK_FLUSH_STALL_GRACE_S": str(self._deadlines.flush_stall_grace_s),
            "PENSTOCK_ENGINE_HANG_S": str(self._deadlines.engine_hang_s),
            "PENSTOCK_RECEIVER_HANG_S": str(self._deadlines.receiver_hang_s),
            "PENSTOCK_WEB_HANG_S": str(self._deadlines.web_hang_s),
            **({VARIABLE: ";".join(faults)} if faults else {}),
            **({} if shim is None else shim.environment),
        }
        if any(spec.service is Service.BUDGET for spec in specs):
            environment |= {"PENSTOCK_RELAY_BYTES_MAX": str(BUDGET_BYTES), "PENSTOCK_WAL_BYTES_MAX": str(BUDGET_BYTES)}
        child = Child(folder, environment)
        shapes = [
            Followed("bystander"),
            Followed("conditional", "n % 2 = 0"),
            *(Followed(spec.table) for spec in specs if spec.is_injected or spec.cost is Cost.GUILTY),
        ]
        try:
            await child.start()
            async with (
                Crowd(child.url, ground, shapes) as crowd,
                _beside(ground.keep_writing(), ground.keep_looking()),
            ):
                if disagreeing := await crowd.disagreeing(START_S):
                    raise TortureFailedError(f"clients have no rows of {', '.join(disagreeing)}:\n{child.log_tail()}")
                yield child, crowd
        finally:
            if shim is not None:
                shim.hang()
            child.kill()
            await child.close()

    async def _stage(self, stage: Stage) -> Row:
        """
        Stage one fault, wait for its end, compare, judge.
        """
        spec, ground, crowd = stage.spec, stage.ground, stage.crowd
        bound_s = spec.bound(stage.deadlines, stage.mode)
        row = Row(fault=spec.name, mode=stage.mode, bound_s=bound_s)
        rotations = [follower.rotation_count for follower in crowd.followers]
        sheds_before = len(stage.child.sheds())
        ground.write_on()
        ground.forget_held()
        staged = await stage_fault(stage)
        row.broken += staged.broken
        row.note = staged.note
        timeout_s = 3 * bound_s * self._patience + END_S
        released = staged.released
        if released is None:
            left_s = max(0.0, staged.since + timeout_s - time.monotonic())
            released = await ground.wait_confirmed(staged.position, left_s)
        row.released_s = None if released is None else round(max(0.0, released - staged.since), 2)
        row.broken += await self._wait_over(stage, staged.position)
        row.held_bytes = ground.held_bytes
        if spec.cost is Cost.GUILTY:
            # Its client learns it when it asks.
            victim = crowd.on(spec.table)
            await until(lambda: victim.rotation_count > rotations[crowd.followers.index(victim)], END_S)
        if stage.shim is not None:
            stage.shim.hang()
        await ground.pause_writing()
        disagreeing = await crowd.disagreeing(AGREE_S)
        row.diverged = len(disagreeing)
        if disagreeing:
            row.note = f"{row.note}{'; ' if row.note else ''}{', '.join(disagreeing)}"
        for follower, before in zip(crowd.followers, rotations, strict=True):
            if follower.rotation_count > before:
                if follower.shape.table == spec.table:
                    row.guilty += 1
                else:
                    row.innocent += 1
        # Who is given up is written down at once; his client may not have asked yet.
        sheds = stage.child.sheds()[sheds_before:]
        row.innocent = max(row.innocent, sum(shed["table"] != f"{ground.name}.{spec.table}" for shed in sheds))
        if any(WORD in str(shed) for shed in sheds):
            row.broken.append("the black box holds a value of a row")
        judge(row, spec, patience=self._patience)
        return row

    async def _wait_over(self, stage: Stage, position: int) -> list[str]:
        """
        Wait until the fault is over: the service's own boundary, which also a restart begins at, is behind it.
        """
        bound_s = stage.spec.bound(stage.deadlines, "shapes")
        deadline = time.monotonic() + 3 * bound_s * self._patience + END_S
        while time.monotonic() < deadline:
            status = await stage.child.status()
            if status is not None and EndLsn.parse(status["positions"]["recorded_boundary"]).value >= position:
                return []
            await asyncio.sleep(ASK_S)
        return ["the flush boundary did not come past it"]


@asynccontextmanager
async def _beside(*works: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """
    Let works without end go on beside the block; should one of them fail, the block is ended with its error.
    """
    block = asyncio.current_task()
    assert block is not None
    failures: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            failures.append(error)
            block.cancel()

    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    except asyncio.CancelledError:
        if not failures:
            raise
        block.uncancel()
        raise failures[0] from None
    finally:
        for task in tasks:
            task.remove_done_callback(ended)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
