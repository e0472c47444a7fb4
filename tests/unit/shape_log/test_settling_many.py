"""
Many logs in one call of the store, more than there are threads, so that results are gathered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.pool import GATHERED_FROM_COUNT, DiskPool
from penstock.shape_log.records import DATA_NAME, INDEX_NAME, SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from shape_log_disk import FakeDisk, turn_until

ROOT = Path("/data")
COUNT = 3 * GATHERED_FROM_COUNT
CHUNK_BYTES_MAX = 10_000


async def _no_rows() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for block in nothing:
        yield block


async def _new_logs(store: FileShapeLogStore) -> list[FileShapeLog]:
    """
    Logs with an empty snapshot, numbered from 1.
    """
    logs = []
    for number in range(1, COUNT + 1):
        log = await store.create(f"{number}-9", number, CHUNK_BYTES_MAX)
        await log.write_snapshot(_no_rows(), b'{"headers":{"control":"snapshot-end"}}')
        logs.append(log)
    return logs


def _add(logs: list[FileShapeLog], tx: int, *, long: int = 0) -> None:
    """
    Add one transaction of two entries to each; the entries of one log may be longer.
    """
    for log in logs:
        padding = b"x" * (3000 if log.incarnation == long else 1)
        entry = b'{"value":"%s","headers":{"lsn":"%d","op_position":%d}}'
        log.append(tx, [(op, entry % (padding, tx, op)) for op in (0, 2)])
        log.commit(CommitLsn(tx), EndLsn(tx + 1))


def _outcomes(of_one: SettleOutcome, number: int) -> dict[int, SettleOutcome]:
    return dict.fromkeys(range(1, COUNT + 1), SettleOutcome.SETTLED) | {number: of_one}


@pytest.mark.parametrize("name", [DATA_NAME, INDEX_NAME])
@pytest.mark.parametrize("number", [1, COUNT // 2, COUNT])
def test_a_failed_sync_among_many_fails_its_own_log_only(name: str, number: int) -> None:
    """
    Whichever file of whichever log cannot be synced, all others are settled and go on.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        logs = await _new_logs(store)
        _add(logs, 100)
        disk.sync_errors.add(f"/{number}-{number}-9/{name}")
        assert await store.settle(logs) == _outcomes(SettleOutcome.FAILED, number)
        disk.sync_errors.clear()
        _add(logs, 200)
        assert await store.settle(logs) == _outcomes(SettleOutcome.FAILED, number)
        assert disk.syncs_failed_count == 1
        assert disk.open_count == 0
        store.close()

    asyncio.run(scenario())


def test_space_that_ends_among_many_leaves_each_as_it_was_or_settled() -> None:
    """
    A log that finds no space is as it was; those before it are settled, and with space again all of them are.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, settle_threads_max=1)
        logs = await _new_logs(store)
        long = COUNT // 2
        _add(logs, 100, long=long)
        held = {log.incarnation: log.tail_bytes for log in logs}
        # Enough for those before the long one and for half of that.
        disk.space_bytes = 3000 + (long - 1) * 400
        outcomes = await store.settle(logs)
        assert set(outcomes.values()) == {SettleOutcome.SETTLED, SettleOutcome.NO_SPACE}
        assert outcomes[1] is SettleOutcome.SETTLED
        for log in logs:
            is_settled = outcomes[log.incarnation] is SettleOutcome.SETTLED
            assert log.tail_bytes == (0 if is_settled else held[log.incarnation])
            assert log.settled == ((CommitLsn(100), EndLsn(101)) if is_settled else None)
        disk.space_bytes = None
        assert await store.settle(logs) == _outcomes(SettleOutcome.SETTLED, 1)
        for log in logs:
            loaded = await store.load(log.handle, log.incarnation, CHUNK_BYTES_MAX, log.settled_offset)
            assert loaded.last == LogOffset(100, 2)
        store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_among_many_takes_nothing_that_was_answered(seed: int) -> None:
    """
    After a power cut while many are being settled each log holds what it was told of, and whole transactions only.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, settle_threads_max=2)
        logs = await _new_logs(store)
        _add(logs, 100)
        await store.settle(logs)
        _add(logs, 200)
        gate = threading.Event()
        disk.gates = {f"/{number}-{number}-9/{INDEX_NAME}": gate for number in (COUNT // 2, COUNT // 2 + 3)}
        settling = asyncio.ensure_future(store.settle(logs))
        # Both threads are held, and what they did before has been told.
        await turn_until(lambda: sum(log.settled_offset == LogOffset(200, 2) for log in logs) == COUNT // 2 + 1)
        told = {log.incarnation: log.settled_offset for log in logs}
        disk.gates = {}
        disk.power_cut(Random(seed))
        again = FileShapeLogStore(ROOT, disk=disk)
        for log in logs:
            number = log.incarnation
            loaded = await again.load(log.handle, number, CHUNK_BYTES_MAX, told[number])
            assert loaded.last >= told[number]
            assert loaded.last in {LogOffset(100, 2), LogOffset(200, 2)}
        # Only now may the dead process go on, in the files as they are now too.
        gate.set()
        await asyncio.wait([settling])
        store.close()
        again.close()

    asyncio.run(scenario())


def test_a_hanging_sync_among_many_holds_back_no_result() -> None:
    """
    While a log hangs that others stand behind in line, these are settled and told, and it alone is named.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, settle_threads_max=2, settle_timeout_s=0.2)
        logs = await _new_logs(store)
        _add(logs, 100)
        gate = threading.Event()
        disk.gates = {"/5-5-9/": gate}
        outcomes = await store.settle(logs)
        assert 5 not in outcomes
        # On a slow machine others may be late too, but not for long.
        others = [log for log in logs if log.incarnation != 5]
        await turn_until(lambda: all(log.settled_offset == LogOffset(100, 2) for log in others))
        await turn_until(lambda: store.hung() == [5])
        assert logs[4].settled_offset == SNAPSHOT_END
        gate.set()
        await turn_until(lambda: not logs[4].is_settling)
        assert await store.settle(logs) == _outcomes(SettleOutcome.SETTLED, 1)
        store.close()

    asyncio.run(scenario())


def test_results_are_told_while_every_thread_is_at_work() -> None:
    """
    With much in line, what is finished is told although no further work is, and though the threads never answer again.
    """

    async def scenario() -> None:
        pool = DiskPool("test", threads_max=1, replaced_max=0, deadline_s=600.0)
        gate = threading.Event()
        first = [pool.submit(number, lambda: None) for number in range(GATHERED_FROM_COUNT)]
        held = pool.submit(0, gate.wait)
        behind = [pool.submit(number, lambda: None) for number in range(2 * GATHERED_FROM_COUNT)]
        async with asyncio.timeout(60):
            await asyncio.gather(*first)
        assert not held.done()
        gate.set()
        await asyncio.gather(held, *behind)
        pool.close()

    asyncio.run(scenario())
