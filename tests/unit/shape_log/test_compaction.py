from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from penstock.errors import LogError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.compaction import Placed, fold, place_of, read_changes
from penstock.shape_log.compactor import compact
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset
from penstock.shapes.reading import FilePiece
from penstock.wire.messages import change_message
from shape_log_disk import FakeDisk

ROOT = Path("/data")
END_ELEMENT = b'{"headers":{"control":"snapshot-end"}}'


def change(
    operation: str, key: str, tx: int, op: int, old: dict[str, bytes | None] | None = None, **value: str
) -> bytes:
    return change_message(
        operation=operation,
        relation=("public", "items"),
        key=key.encode(),
        value={name: text.encode() for name, text in value.items()},
        xid=7,
        commit_lsn=tx,
        op_position=op,
        old_value=old,
    )


def folded(*elements: bytes) -> list[tuple[LogOffset, dict[str, Any]]]:
    changes = read_changes(b",".join(elements))
    return [(place, json.loads(element)) for place, element in fold([Placed(place_of(c), c) for c in changes])]


def test_updates_of_a_key_become_one_at_the_place_of_the_last() -> None:
    """
    Later values win, columns of earlier ones stay, and only operation and relation are left of the headers.
    """
    found = folded(
        change("insert", "k", 10, 0, id="1", a="x", b="y"),
        change("update", "k", 20, 0, id="1", a="z"),
        change("insert", "other", 20, 2, id="2", a="o"),
        change("update", "k", 30, 0, id="1", b="w"),
        change("update", "k", 40, 4, id="1", a="q"),
    )
    assert [place for place, _ in found] == [LogOffset(10, 0), LogOffset(20, 2), LogOffset(40, 4)]
    assert found[2][1]["value"] == {"id": "1", "a": "q", "b": "w"}
    assert found[2][1]["headers"] == {"operation": "update", "relation": ["public", "items"]}


def test_an_insert_or_delete_of_the_key_parts_updates() -> None:
    """
    What lies on both sides of an insert or a delete is never made one.
    """
    found = folded(
        change("update", "k", 10, 0, id="1", a="x"),
        change("delete", "k", 20, 0, id="1"),
        change("insert", "k", 30, 0, id="1", a="y"),
        change("update", "k", 40, 0, id="1", a="z"),
    )
    assert [element["headers"]["operation"] for _, element in found] == ["update", "delete", "insert", "update"]


def test_of_old_values_the_earliest_wins() -> None:
    """
    A merged update tells what was there before the first of those it stands for.
    """
    found = folded(
        change("update", "k", 10, 0, old={"a": b"1"}, id="1", a="2", b="0"),
        change("update", "k", 20, 0, old={"a": b"2", "b": b"0"}, id="1", a="3", b="4"),
    )
    assert found[0][1]["old_value"] == {"a": "1", "b": "0"}
    assert found[0][1]["value"] == {"id": "1", "a": "3", "b": "4"}


class Grown:
    """
    A log that grew at random, and what its keys hold after each place.
    """

    def __init__(self, seed: int, disk: FakeDisk, chunk_bytes_max: int = 600) -> None:
        self.random = Random(seed)
        self.disk = disk
        self.chunk_bytes_max = chunk_bytes_max
        self.states: dict[LogOffset, dict[str, dict[str, str]]] = {SNAPSHOT_END: {}}
        self.tx = 10
        self.now: dict[str, dict[str, str]] = {}

    def store(self) -> FileShapeLogStore:
        return FileShapeLogStore(ROOT, disk=self.disk, compaction_window_bytes=self.random.choice([500, 3000, 1 << 20]))

    async def begin(self, store: FileShapeLogStore) -> FileShapeLog:
        async def nothing() -> AsyncIterator[bytes]:
            for block in tuple[bytes, ...]():
                yield block

        log = await store.create("1-9", 1, self.chunk_bytes_max, is_compacting=True)
        await log.write_snapshot(nothing(), END_ELEMENT)
        return log

    async def grow(self, store: FileShapeLogStore, log: FileShapeLog, transactions_count: int) -> None:
        for _ in range(transactions_count):
            self.tx += 10
            elements: list[tuple[int, bytes]] = []
            for op in range(0, 2 * self.random.randrange(1, 5), 2):
                elements.append((op, self._operation(op)))
                self.states[LogOffset(self.tx, op)] = {key: dict(row) for key, row in self.now.items()}
            log.append(self.tx, elements)
            log.commit(CommitLsn(self.tx), EndLsn(self.tx + 1))
            assert await store.settle([log]) == {1: SettleOutcome.SETTLED}

    def _operation(self, op: int) -> bytes:
        key = self.random.choice("abcd")
        if key not in self.now:
            self.now[key] = {"id": key, "x": "0", "y": "0"}
            return change("insert", key, self.tx, op, None, **self.now[key])
        if self.random.random() < 0.15:
            del self.now[key]
            return change("delete", key, self.tx, op, id=key)
        column = self.random.choice("xy")
        self.now[key][column] = str(self.tx)
        return change("update", key, self.tx, op, None, id=key, **{column: str(self.tx)})

    async def check(self, log: FileShapeLog, *, is_every_place: bool = True) -> int:
        """
        From every place that a client may have, the rest of the log leads to the rows there are; gives the bytes read
        from the beginning.
        """
        total = 0
        places = list(self.states) if is_every_place else [SNAPSHOT_END]
        for start in places:
            rows = {key: dict(row) for key, row in self.states[start].items()}
            after = start
            while after < log.last:
                found = await log.read(after)
                assert found.chunk_end > after
                total += found.bytes_count if start == SNAPSHOT_END else 0
                for element in json.loads(b"[%b]" % self.disk.serve(found)):
                    apply(rows, element)
                after = found.chunk_end
            assert after == log.last
            assert rows == self.now, start
        return total


def apply(rows: dict[str, dict[str, str]], element: dict[str, Any]) -> None:
    key = element["key"]
    match element["headers"]["operation"]:
        case "insert":
            assert key not in rows, "inserted twice"
            rows[key] = element["value"]
        case "update":
            rows[key].update(element["value"])
        case "delete":
            del rows[key]
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("seed", range(4))
def test_readers_may_continue_from_any_place_they_ever_had(seed: int) -> None:
    """
    Before and after each of several compactions, and after a restart, whatever place a client has, what it is given leads
    it to the rows there are; the last place stays, and less is sent from the beginning.
    """

    async def scenario() -> None:
        grown = Grown(seed, FakeDisk())
        store = grown.store()
        log = await grown.begin(store)
        for _ in range(3):
            await grown.grow(store, log, 25)
            before, last = await grown.check(log), log.last
            assert await store.compact_log(log)
            assert log.last == last
            assert await grown.check(log) < before
            assert not await store.compact_log(log), "nothing is left to be compacted"
        settled = log.settled_offset
        again = grown.store()
        log = await again.load("1-9", 1, grown.chunk_bytes_max, settled)
        assert log.is_compacting
        await grown.check(log)
        await grown.grow(again, log, 30)
        assert await again.compact_log(log)
        await grown.check(log)

    asyncio.run(scenario())


def test_whoever_was_told_of_the_files_before_can_still_read_them() -> None:
    """
    A range given out before a compaction is read after it, byte for byte, also across the next one of its log.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        grown = Grown(3, disk)
        store = grown.store()
        log = await grown.begin(store)
        await grown.grow(store, log, 40)
        first = await log.read(SNAPSHOT_END)
        bytes_before = disk.serve(first)
        assert await store.compact_log(log)
        second = await log.read(SNAPSHOT_END)
        assert next(piece.path for piece in second.pieces if isinstance(piece, FilePiece)).endswith("/1.data")
        compacted_before = disk.serve(second)
        await grown.grow(store, log, 40)
        assert await store.compact_log(log)
        assert disk.serve(first) == bytes_before
        assert disk.serve(second) == compacted_before

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(24))
def test_a_crash_at_any_step_leaves_the_old_or_the_new(seed: int) -> None:
    """
    Whatever write or sync a power cut takes during a compaction, the log that a restart finds leads every reader to
    the rows there are, and leaves no file of the attempt behind that does not count.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        grown = Grown(seed, disk)
        store = grown.store()
        log = await grown.begin(store)
        await grown.grow(store, log, 30)
        if seed % 2:
            assert await store.compact_log(log)
            await grown.grow(store, log, 30)
        match seed % 4:
            case 0:
                disk.sync_errors.add("1.data")
            case 1:
                disk.sync_errors.add("2.index")
            case 2:
                disk.space_bytes = grown.random.randrange(2000)
            case _:
                pass
        try:
            await store.compact_log(log)
        except LogError:
            await grown.check(log)
        settled = log.settled_offset
        disk.sync_errors.clear()
        disk.space_bytes = None
        disk.power_cut(grown.random)
        again = grown.store()
        log = await again.load("1-9", 1, grown.chunk_bytes_max, settled)
        await grown.check(log)
        names = [path.rpartition("/")[2] for path in disk.files]
        assert len(names) in {2, 4}, names
        await grown.grow(again, log, 20)
        await again.compact_log(log)
        await grown.check(log)

    asyncio.run(scenario())


def test_only_what_was_made_for_it_is_compacted() -> None:
    """
    A log whose maker did not ask for it stays as it is, and so do the latest closed chunks of any.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        grown = Grown(1, disk)
        store = grown.store()
        log = await grown.begin(store)
        log.is_compacting = False
        await grown.grow(store, log, 20)
        assert not await store.compact_log(log)
        log.is_compacting = True
        assert await store.compact_log(log)
        live = await log.read(LogOffset(log.last.tx - 10, 10**6))
        assert all(not isinstance(piece, FilePiece) or piece.path.endswith("/0.data") for piece in live.pieces)

    asyncio.run(scenario())


def test_the_snapshot_is_read_as_before() -> None:
    """
    A compaction touches no chunk of the initial snapshot.
    """

    async def scenario() -> None:
        grown = Grown(2, FakeDisk())
        store = grown.store()
        log = await grown.begin(store)
        await grown.grow(store, log, 30)
        before = grown.disk.serve(await log.read(BEFORE_ALL))
        assert await store.compact_log(log)
        assert grown.disk.serve(await log.read(BEFORE_ALL)) == before

    asyncio.run(scenario())


class _PowerIsGoneError(Exception):
    """
    Nothing is done any more.
    """


class _Counting:
    """
    Does so many things to a disk or a file of it, and then nothing more.
    """

    def __init__(self, target: Any, steps: list[None]) -> None:
        self._target = target
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._target, name)
        if name not in {"open", "write", "sync", "sync_folder", "remove_file"}:
            return call

        def count(*args: Any, **options: Any) -> Any:
            if not self._steps:
                raise _PowerIsGoneError
            self._steps.pop()
            done = call(*args, **options)
            return _Counting(done, self._steps) if name == "open" else done

        return count


def test_power_may_go_before_any_step_of_a_compaction() -> None:
    """
    Before each removal, opening, write and sync of a third compaction the power goes: the restart finds the second or
    the third, and every reader is led to the rows there are.
    """

    async def scenario(steps_count: int) -> bool:
        disk = FakeDisk()
        grown = Grown(steps_count, disk)
        store = grown.store()
        log = await grown.begin(store)
        for _ in range(2):
            await grown.grow(store, log, 20)
            assert await store.compact_log(log)
        await grown.grow(store, log, 20)
        job = log.begin_compaction(1 << 20)
        assert job is not None
        is_whole = True
        try:
            compact(_Counting(disk, [None] * steps_count), job)
        except _PowerIsGoneError:
            is_whole = False
        settled = log.settled_offset
        disk.power_cut(grown.random)
        again = grown.store()
        log = await again.load("1-9", 1, grown.chunk_bytes_max, settled)
        await grown.check(log, is_every_place=False)
        numbers = {path.rpartition("/")[2] for path in disk.files} - {"0.data", "0.index"}
        assert numbers in ({"2.data", "2.index"}, {"3.data", "3.index"})
        assert not is_whole or "3.index" in numbers
        return is_whole

    steps_count = 0
    while not asyncio.run(scenario(steps_count)):
        steps_count += 1
    assert steps_count > 8
