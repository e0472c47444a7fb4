from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from penstock.consumers.abc import ShapeLog, ShapeLogStore
from penstock.errors import CorruptLogError, DiskFullError, ShapeError, SyncFailedError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import DATA_NAME, INDEX_NAME, SettleOutcome, record_byte
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset
from penstock.shapes.reading import FilePiece, InlinePiece
from shape_log_disk import FakeDisk, turn_until

END_ELEMENT = b'{"headers":{"control":"snapshot-end"}}'
ROOT = Path("/data")


def element(tx: int, op: int, padding: int = 0) -> bytes:
    return b'{"key":"k","value":{"a":"%s"},"headers":{"lsn":"%d","op_position":%d}}' % (b"x" * padding, tx, op)


def add(log: FileShapeLog, tx: int, count: int = 1, padding: int = 0) -> None:
    """
    Add a whole transaction.
    """
    log.append(tx, [(op * 2, element(tx, op * 2, padding)) for op in range(count)])
    log.commit(CommitLsn(tx), EndLsn(tx + 1))


async def lines(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def new_log(store: FileShapeLogStore, incarnation: int = 1, chunk_bytes_max: int = 500) -> FileShapeLog:
    """
    A log with an empty snapshot.
    """
    log = await store.create(f"{incarnation}-9", incarnation, chunk_bytes_max)
    await log.write_snapshot(lines(), END_ELEMENT)
    return log


def size_of(disk: FakeDisk, name: str) -> int:
    return next(len(file.content) for path, file in disk.files.items() if path.endswith(name))


def test_store_and_log_fit_what_consumers_ask_for() -> None:
    """
    The store and its logs are what the consumers' Protocols describe.
    """

    async def scenario() -> None:
        store: ShapeLogStore = FileShapeLogStore(ROOT, disk=FakeDisk())
        log: ShapeLog = await store.create("1-1", 1, 100)
        await log.write_snapshot(lines(), END_ELEMENT)
        assert await store.settle([log]) == {1: SettleOutcome.SETTLED}

    asyncio.run(scenario())


def test_chunks_in_real_files_are_json_between_brackets(tmp_path: Path) -> None:
    """
    On the file system, the bytes of a piece between brackets are an array, for the snapshot and for changes.
    """

    async def scenario() -> None:
        store = FileShapeLogStore(tmp_path)
        log = await store.create("1-1", 1, 150)
        await log.write_snapshot(lines(b'{"a":"1"}\n{"b":"2"}\n', b'{"c":"3"}\n'), END_ELEMENT)
        add(log, 100, 5)
        await store.settle([log])
        rows = 0
        after = BEFORE_ALL
        while after != log.last:
            found = await log.read(after)
            for piece in found.pieces:
                assert isinstance(piece, FilePiece)
                data = (tmp_path / piece.path).read_bytes()[piece.start_byte :][: piece.bytes_count]
                rows += len(json.loads(b"[" + data + b"]"))
            after = found.chunk_end
        assert rows == 4 + 5
        store.close()
        again = FileShapeLogStore(tmp_path)
        loaded = await again.load("1-1", 1, 150, log.settled_offset)
        assert loaded.last == log.last
        assert loaded.settled == (CommitLsn(100), EndLsn(101))
        again.close()
        folder = next((tmp_path / "shapes").glob("*/1-1-1"))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / DATA_NAME).stat().st_mode & 0o777 == 0o600

    asyncio.run(scenario())


def test_reader_waits_for_a_chunk_of_a_running_snapshot() -> None:
    """
    A chunk is given when it is complete, before the snapshot is; a chunk that never comes gives way to the changes.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await store.create("1-1", 1, 300_000)
        gate = asyncio.Event()

        async def rows() -> AsyncIterator[bytes]:
            yield b"a" * 299_999 + b"\n"
            await gate.wait()
            yield b"b\n"

        writing = asyncio.ensure_future(log.write_snapshot(rows(), END_ELEMENT))
        first = await log.read(BEFORE_ALL)
        assert disk.serve(first) == b"a" * 299_999
        assert first.chunk_end == LogOffset(0, 0)
        second = asyncio.ensure_future(log.read(LogOffset(0, 0)))
        third = asyncio.ensure_future(log.read(LogOffset(0, 1)))
        assert (await log.read(SNAPSHOT_END)).pieces == ()
        assert not writing.done()
        assert await store.settle([log]) == {}
        gate.set()
        assert disk.serve(await second) == b"b," + END_ELEMENT
        await writing
        assert (await third).chunk_end == SNAPSHOT_END

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("trouble", "expected"), [("space", DiskFullError), ("sync", SyncFailedError), ("source", ShapeError)]
)
def test_failed_snapshot_tells_those_who_wait(trouble: str, expected: type[Exception]) -> None:
    """
    When a snapshot cannot be written, readers that wait for it get the error and do not wait for ever.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await store.create("1-1", 1, 500)
        waiting = asyncio.ensure_future(log.read(BEFORE_ALL))
        await asyncio.sleep(0)

        async def rows() -> AsyncIterator[bytes]:
            if trouble == "space":
                disk.space_bytes = 10
            elif trouble == "sync":
                disk.sync_errors.add(INDEX_NAME)
            else:
                raise ShapeError("the table is gone")
            yield b'{"a":"1"}\n'

        with pytest.raises(expected):
            await log.write_snapshot(rows(), END_ELEMENT)
        with pytest.raises(expected):
            await waiting

    asyncio.run(scenario())


def test_discarding_ends_the_wait_for_a_snapshot() -> None:
    """
    Whoever waits for a snapshot of a shape that is given up learns it.
    """

    async def scenario() -> None:
        store = FileShapeLogStore(ROOT, disk=FakeDisk())
        log = await store.create("1-1", 1, 500)
        waiting = asyncio.ensure_future(log.read(BEFORE_ALL))
        await asyncio.sleep(0)
        await store.discard("1-1", 1)
        with pytest.raises(ShapeError):
            await waiting

    asyncio.run(scenario())


def test_chunk_that_closes_inside_an_open_transaction_is_not_seen() -> None:
    """
    A reader up to date during a large transaction is told the last commit, not the chunk end inside it, settled or not.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, open_part_bytes_max=100)
        log = await new_log(store)
        add(log, 100)
        log.append(200, [(op * 2, element(200, op * 2)) for op in range(20)])
        for settles in (False, True):
            if settles:
                await store.settle([log])
                assert log.tail_bytes == 0
            found = await log.read(SNAPSHOT_END)
            assert (found.chunk_end, found.last) == (LogOffset(100, 0), LogOffset(100, 0))
            assert disk.serve(found) == element(100, 0)
            assert (await log.read(LogOffset(100, 0))).pieces == ()
        assert log.settled == (CommitLsn(100), EndLsn(101))
        log.commit(CommitLsn(200), EndLsn(201))
        after = LogOffset(100, 0)
        got = []
        while after != log.last:
            found = await log.read(after)
            got.append(disk.serve(found))
            after = found.chunk_end
        assert b",".join(got) == b",".join(element(200, op * 2) for op in range(20))
        assert len(got) > 1
        assert log.settled == (CommitLsn(100), EndLsn(101))
        await store.settle([log])
        assert log.settled == (CommitLsn(200), EndLsn(201))

    asyncio.run(scenario())


def test_abandoned_part_is_cut_from_the_files() -> None:
    """
    What was written of an abandoned part is gone from the files after the next settle.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, open_part_bytes_max=100)
        log = await new_log(store, chunk_bytes_max=10_000)
        before = size_of(disk, DATA_NAME)
        log.append(200, [(op * 2, element(200, op * 2)) for op in range(20)])
        await store.settle([log])
        assert size_of(disk, DATA_NAME) > before + 500
        log.abandon_part()
        add(log, 300)
        await store.settle([log])
        assert size_of(disk, DATA_NAME) == before + len(element(300, 0))
        assert size_of(disk, INDEX_NAME) == record_byte(3)

    asyncio.run(scenario())


def test_a_commit_during_a_write_outlives_what_is_abandoned_behind_it() -> None:
    """
    A part that became a whole transaction while a thread wrote it stays, though something later is abandoned meanwhile.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, open_part_bytes_max=100)
        log = await new_log(store, chunk_bytes_max=10_000)
        log.append(200, [(op * 2, element(200, op * 2)) for op in range(20)])
        await store.settle([log])
        log.append(200, [(op * 2, element(200, op * 2)) for op in range(20, 40)])
        gate = disk.gates[DATA_NAME] = threading.Event()
        disk.syncing.clear()
        settling = asyncio.ensure_future(store.settle([log]))
        await turn_until(disk.syncing.is_set)
        log.commit(CommitLsn(200), EndLsn(201))
        log.append(300, [(0, element(300, 0))])
        log.abandon_part()
        disk.gates.clear()
        gate.set()
        await settling
        assert await store.settle([log]) == {1: SettleOutcome.SETTLED}
        found = await log.read(SNAPSHOT_END)
        assert disk.serve(found) == b",".join(element(200, op * 2) for op in range(40))
        assert log.settled == (CommitLsn(200), EndLsn(201))

    asyncio.run(scenario())


def test_what_found_no_space_is_cut_when_it_is_not_wanted_any_more() -> None:
    """
    Bytes of an open part that were written before space ran out do not stay behind a shorter log.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, open_part_bytes_max=100)
        log = await new_log(store, chunk_bytes_max=10_000)
        before = size_of(disk, DATA_NAME)
        log.append(200, [(op * 2, element(200, op * 2)) for op in range(20)])
        disk.space_bytes = 700
        assert await store.settle([log]) == {1: SettleOutcome.NO_SPACE}
        disk.space_bytes = None
        assert size_of(disk, DATA_NAME) == before + 700
        log.abandon_part()
        add(log, 300)
        assert await store.settle([log]) == {1: SettleOutcome.SETTLED}
        assert size_of(disk, DATA_NAME) == before + len(element(300, 0))

    asyncio.run(scenario())


def test_commits_without_elements_are_settled_without_writing() -> None:
    """
    A transaction that added nothing is as durable as what was before it, with no write.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store)
        writes = disk.writes_count
        log.commit(CommitLsn(50), EndLsn(51))
        assert log.settled == (CommitLsn(50), EndLsn(51))
        add(log, 100)
        log.commit(CommitLsn(200), EndLsn(201))
        assert log.settled == (CommitLsn(50), EndLsn(51))
        assert disk.writes_count == writes
        await store.settle([log])
        assert log.settled == (CommitLsn(200), EndLsn(201))
        assert log.settled_offset == LogOffset(100, 0)

    asyncio.run(scenario())


def test_full_disk_keeps_the_tail() -> None:
    """
    Without space a settle changes nothing that a reader or a restart sees, and can be tried again.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store)
        add(log, 100, 3)
        held = log.tail_bytes
        for space in (0, 40, len(element(100, 0)) * 3 + 12):
            disk.space_bytes = space
            assert await store.settle([log]) == {1: SettleOutcome.NO_SPACE}
            assert (log.tail_bytes, log.settled) == (held, None)
            found = await log.read(SNAPSHOT_END)
            assert found.pieces == (InlinePiece(b",".join(element(100, op) for op in (0, 2, 4))),)
        disk.space_bytes = None
        assert await store.settle([log]) == {1: SettleOutcome.SETTLED}
        assert log.tail_bytes == 0
        assert size_of(disk, INDEX_NAME) == record_byte(3)

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", [DATA_NAME, INDEX_NAME])
def test_failed_sync_is_never_tried_again(name: str, number: int) -> None:
    """
    After a failed sync, whatever its reason, the log stays failed and its files are left alone.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store)
        other = await new_log(store, 2)
        add(log, 100)
        add(other, 100)
        disk.sync_errors.add(f"1-1-9/{name}")
        disk.sync_errno = number
        assert await store.settle([log, other]) == {1: SettleOutcome.FAILED, 2: SettleOutcome.SETTLED}
        disk.sync_errors.clear()
        writes = disk.writes_count
        assert await store.settle([log]) == {1: SettleOutcome.FAILED}
        assert disk.writes_count == writes
        assert disk.syncs_failed_count == 1
        assert log.settled is None

    asyncio.run(scenario())


def test_fault_of_ours_costs_one_log_and_is_told() -> None:
    """
    A settle that fails for a reason that is no disk's ends its log, not the others, and does not go unnoticed.
    """

    async def scenario() -> None:
        store = FileShapeLogStore(ROOT, disk=FakeDisk())
        log, other = await new_log(store), await new_log(store, 2)
        log.append(100, [(0, "text")])  # type: ignore[list-item] # the fault
        log.commit(CommitLsn(100), EndLsn(101))
        add(other, 100)
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        assert await store.settle([log, other]) == {1: SettleOutcome.FAILED, 2: SettleOutcome.SETTLED}
        assert len(told) == 1
        assert await store.settle([log]) == {1: SettleOutcome.FAILED}

    asyncio.run(scenario())


def test_hanging_sync_takes_one_log_and_its_thread() -> None:
    """
    While syncs of some logs hang, all others settle; those are named, and when they return they count.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, settle_threads_max=2, replaced_threads_max=3, settle_timeout_s=0.05)
        logs = [await new_log(store, number) for number in range(1, 9)]
        for log in logs:
            add(log, 100)
        gate = threading.Event()
        disk.gates = {f"{number}-{number}-9/": gate for number in (1, 2, 3)}
        outcomes = await store.settle(logs)
        assert outcomes == dict.fromkeys(range(4, 9), SettleOutcome.SETTLED)
        assert store.hung() == [1, 2, 3]
        assert store._writers.threads_count == 5
        assert await store.settle(logs) == dict.fromkeys(range(4, 9), SettleOutcome.SETTLED)
        with pytest.raises(SyncFailedError):
            await store.load("1-9", 1, 500, SNAPSHOT_END)
        gate.set()
        await turn_until(lambda: not any(log.is_settling for log in logs))
        assert store.hung() == []
        assert logs[0].settled == (CommitLsn(100), EndLsn(101))
        assert await store.settle(logs) == dict.fromkeys(range(1, 9), SettleOutcome.SETTLED)
        assert store._writers.threads_count == 2

    asyncio.run(scenario())


def test_settle_returns_when_every_thread_hangs() -> None:
    """
    With no replacement left a settle still returns, and what waited is done when the disk comes back.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk, settle_threads_max=1, replaced_threads_max=1, settle_timeout_s=0.05)
        logs = [await new_log(store, number) for number in range(1, 5)]
        for log in logs:
            add(log, 100)
        gate = threading.Event()
        disk.gates = {DATA_NAME: gate}
        assert await store.settle(logs) == {}
        assert store._writers.threads_count == 2
        gate.set()
        await turn_until(lambda: not any(log.is_settling for log in logs))
        assert all(log.settled for log in logs)

    asyncio.run(scenario())


def test_discard_is_idempotent_and_empties_the_trash(tmp_path: Path) -> None:
    """
    A discarded folder is gone from its place at once and from the trash soon; doing it again is harmless.
    """

    async def scenario() -> None:
        store = FileShapeLogStore(tmp_path)
        log = await new_log(store)
        piece = (await log.read(BEFORE_ALL)).pieces[0]
        assert isinstance(piece, FilePiece)
        with (tmp_path / piece.path).open("rb") as reader:
            await store.discard("1-9", 1)
            await store.discard("1-9", 1)
            assert not (tmp_path / piece.path).exists()
            reader.seek(piece.start_byte)
            assert reader.read(piece.bytes_count) == END_ELEMENT
        with pytest.raises(CorruptLogError):
            await store.load("1-9", 1, 500, SNAPSHOT_END)
        store.close()
        again = FileShapeLogStore(tmp_path)
        kept, orphan = await new_log(again, 2), await new_log(again, 3)
        (tmp_path / "trash" / "9-left-over").mkdir()
        await again.discard_unknown([kept.incarnation])
        await turn_until(lambda: not any((tmp_path / "trash").iterdir()))
        names = [folder.name for folder in (tmp_path / "shapes").glob("*/*")]
        assert names == ["2-2-9"]
        assert orphan.handle == "3-9"
        again.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [BEFORE_ALL, SNAPSHOT_END, LogOffset(100, 2)])
def test_bytes_that_turned_since_are_not_served(after: LogOffset) -> None:
    """
    What an earlier run settled is compared with its checksum when it is first read.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store, chunk_bytes_max=100_000)
        add(log, 100, 3)
        await store.settle([log])
        settled = log.settled_offset
        file = next(file for path, file in disk.files.items() if path.endswith(DATA_NAME))
        file.content[40 if after < SNAPSHOT_END else -80] ^= 1
        loaded = await store.load("1-9", 1, 100_000, settled)
        with pytest.raises(CorruptLogError):
            await loaded.read(after)

    asyncio.run(scenario())


def test_load_refuses_less_than_was_settled() -> None:
    """
    Files that hold less than the catalog says are refused, and so is a snapshot that was not completed.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store)
        add(log, 100)
        await store.settle([log])
        await store.load("1-9", 1, 500, LogOffset(100, 0))
        with pytest.raises(CorruptLogError):
            await store.load("1-9", 1, 500, LogOffset(101, 0))
        await store.create("2-9", 2, 500)
        with pytest.raises(CorruptLogError):
            await store.load("2-9", 2, 500, BEFORE_ALL)

    asyncio.run(scenario())


@pytest.mark.parametrize("has_sync_failed", [False, True])
def test_what_the_last_process_left_unsynced_is_durable_once_loaded(*, has_sync_failed: bool) -> None:
    """
    Bytes that were written but never synced, or whose sync failed, survive a power cut once they count as settled.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(ROOT, disk=disk)
        log = await new_log(store)
        add(log, 100)
        await store.settle([log])
        add(log, 101, count=30)
        if has_sync_failed:
            disk.sync_errors.add(DATA_NAME)
        else:
            disk.gates[DATA_NAME] = threading.Event()
            disk.syncing.clear()
        dying = asyncio.ensure_future(store.settle([log]))
        if has_sync_failed:
            await dying
        else:
            await asyncio.to_thread(disk.syncing.wait)
        # The process dies here, and another opens the same files.
        gates, disk.gates = disk.gates, {}
        disk.sync_errors.clear()
        loaded = await FileShapeLogStore(ROOT, disk=disk).load("1-9", 1, 500, LogOffset(100, 0))
        assert loaded.settled == (CommitLsn(101), EndLsn(102))
        disk.power_cut(Random(0))
        for gate in gates.values():
            gate.set()
        await dying
        again = await FileShapeLogStore(ROOT, disk=disk).load("1-9", 1, 500, LogOffset(100, 0))
        assert (again.settled, again.last) == (loaded.settled, loaded.last)

    asyncio.run(scenario())


def test_place_in_a_long_chunk_is_found_through_many_records(tmp_path: Path) -> None:
    """
    With more records than are read at once, and runs of more than one element, every place leads to the rest.
    """

    async def scenario() -> None:
        store = FileShapeLogStore(tmp_path)
        log = await new_log(store, chunk_bytes_max=10**9)
        for tx in range(100, 700):
            add(log, tx, 1 + tx % 3)
            await store.settle([log])
        everything = [
            (LogOffset(tx, op * 2), element(tx, op * 2)) for tx in range(100, 700) for op in range(1 + tx % 3)
        ]
        for index in range(0, len(everything), 37):
            (piece,) = (await log.read(everything[index][0])).pieces
            assert isinstance(piece, FilePiece)
            data = (tmp_path / piece.path).read_bytes()[piece.start_byte :][: piece.bytes_count]
            assert data == b",".join(data for _, data in everything[index + 1 :])
        store.close()

    asyncio.run(scenario())
