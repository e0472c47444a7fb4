"""
The log against a plain list, through settling, full disks, crashes and power cuts.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log import writer
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset, snapshot_chunk_end
from shape_log_disk import FakeDisk, turn_until

T = TypeVar("T")

OPEN_PART_BYTES_MAX = 600


@pytest.fixture(scope="module", autouse=True)
def many_blocks() -> Iterator[None]:
    """
    Few elements are written in several blocks.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_BYTES_TARGET", 500)
        yield


END_ELEMENT = b'{"headers":{"control":"snapshot-end","xmin":"1","xmax":"1","xip_list":[]}}'


def element(tx: int, op: int, padding: int) -> bytes:
    """
    An element as the product makes them, with traps in its values.
    """
    value = ('"lsn":"1","op_position":2}' * 3 + "\\\\,{[" + "x" * padding)[: padding + 4].encode()
    escaped = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return (
        b'{"key":"\\"public\\".\\"t\\"/\\"%d\\"","value":{"lsn":"%d","op_position":"%d","a":"%s"},'
        b'"headers":{"operation":"insert","relation":["public","t"],"txids":[7],"lsn":"%d","op_position":%d,"last":true}}'
        % (op, tx, op, escaped, tx, op)
    )


def snapshot_chunks(lines: list[bytes], threshold: int) -> list[list[bytes]]:
    """
    The rule of the protocol, naively.
    """
    chunks: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if size >= threshold:
            chunks.append([])
            size = 0
        chunks[-1].append(line)
        size += len(line) + 1
    if size >= threshold:
        chunks.append([])
    chunks[-1].append(END_ELEMENT)
    return chunks


def boundaries(sizes: list[int], threshold: int) -> list[int]:
    """
    How many elements precede each end of a closed chunk.
    """
    ends = []
    size = 0
    for past, added in enumerate(sizes, start=1):
        size += added
        if size >= threshold:
            ends.append(past)
            size = 0
    return ends


async def blocks_of(lines: list[bytes], per_block: int) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), per_block):
        yield b"".join(line + b"\n" for line in lines[start : start + per_block])


class LogMachine(RuleBasedStateMachine):
    """
    One shape log on a disk that forgets what was not synced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.disk = FakeDisk()
        self.store = self.new_store()
        self.log: FileShapeLog
        self.threshold = 0
        self.chunks: list[list[bytes]] = []
        self.committed: list[tuple[LogOffset, bytes]] = []
        self.commits: list[tuple[int, int]] = []
        """Commit LSN, and how many elements are committed with it."""
        self.open: list[tuple[int, bytes]] = []
        self.recorded = SNAPSHOT_END
        self.given: set[LogOffset] = {BEFORE_ALL, SNAPSHOT_END, LogOffset(0, 0)}
        self.fixed: dict[LogOffset, tuple[LogOffset, bytes]] = {}

    def new_store(self) -> FileShapeLogStore:
        return FileShapeLogStore(
            Path("/data"), disk=self.disk, settle_threads_max=1, open_part_bytes_max=OPEN_PART_BYTES_MAX
        )

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(call, 20))

    def teardown(self) -> None:
        self.store.close()
        self.loop.close()

    @initialize(
        threshold=st.integers(200, 2000),
        sizes=st.lists(st.integers(0, 300), max_size=20),
        per_block=st.integers(1, 7),
    )
    def start(self, threshold: int, sizes: list[int], per_block: int) -> None:
        self.threshold = threshold
        lines = [b'{"value":"%s"}' % (b"s" * size) for size in sizes]
        self.chunks = snapshot_chunks(lines, threshold)
        self.log = self.run(self.store.create("5-6", 1, threshold))
        self.run(self.log.write_snapshot(blocks_of(lines, per_block), END_ELEMENT))

    @property
    def tx(self) -> int:
        """
        The transaction that is open or comes next.
        """
        return (self.commits[-1][0] if self.commits else 1000) + 10

    @rule(paddings=st.lists(st.integers(0, 400), min_size=1, max_size=6))
    def append(self, paddings: list[int]) -> None:
        first = self.open[-1][0] + 2 if self.open else 0
        elements = [
            (op, element(self.tx, op, size)) for op, size in zip(range(first, 10**6, 2), paddings, strict=False)
        ]
        self.open += elements
        self.log.append(self.tx, elements)

    @rule()
    def commit(self) -> None:
        tx = self.tx
        self.committed += [(LogOffset(tx, op), data) for op, data in self.open]
        self.commits.append((tx, len(self.committed)))
        self.open = []
        self.log.commit(CommitLsn(tx), EndLsn(tx + 5))

    @rule()
    def abandon(self) -> None:
        self.open = []
        self.log.abandon_part()

    @rule()
    def settle(self) -> None:
        assert self.run(self.store.settle([self.log])) == {1: SettleOutcome.SETTLED}
        if self.commits:
            assert self.log.settled == (CommitLsn(self.commits[-1][0]), EndLsn(self.commits[-1][0] + 5))
        assert self.log.settled_offset == (self.committed[-1][0] if self.committed else SNAPSHOT_END)

    @rule(space=st.integers(0, 700))
    def settle_without_space(self, space: int) -> None:
        before = self.log.tail_bytes, self.log.settled_offset
        self.disk.space_bytes = space
        outcome = self.run(self.store.settle([self.log]))[1]
        self.disk.space_bytes = None
        assert outcome in {SettleOutcome.SETTLED, SettleOutcome.NO_SPACE}
        if outcome is SettleOutcome.NO_SPACE:
            assert (self.log.tail_bytes, self.log.settled_offset) == before

    async def until_syncing(self, settling: asyncio.Future[Any]) -> None:
        """
        Return when a thread waits in a sync, or there was nothing to sync.
        """
        await turn_until(lambda: settling.done() or self.disk.syncing.is_set())

    @rule(
        before=st.lists(st.integers(0, 400), max_size=6),
        during=st.lists(
            st.sampled_from(["commit", "abandon"]) | st.lists(st.integers(0, 400), min_size=1, max_size=6), max_size=5
        ),
    )
    def settle_meanwhile(self, before: list[int], during: list[str | list[int]]) -> None:
        """
        What happens while a thread writes does not disturb it, nor does it disturb that.
        """
        if before:
            self.append(before)

        async def both() -> None:
            gate = self.disk.gates["0.data"] = threading.Event()
            self.disk.syncing.clear()
            settling = asyncio.ensure_future(self.store.settle([self.log]))
            await self.until_syncing(settling)
            for step in during:
                if isinstance(step, list):
                    self.append(step)
                elif step == "commit":
                    self.commit()
                else:
                    self.abandon()
            self.disk.gates.clear()
            gate.set()
            assert set((await settling).values()) == {SettleOutcome.SETTLED}

        self.run(both())

    @rule(
        before=st.lists(st.integers(0, 400), max_size=6),
        seed=st.integers(0, 2**32),
        file=st.sampled_from(["0.data", "0.index"]),
    )
    def power_cut_while_settling(self, before: list[int], seed: int, file: str) -> None:
        """
        Before a sync returned, any part of what was written may be there after a power cut.
        """
        if before:
            self.append(before)

        async def cut() -> asyncio.Future[Any]:
            self.disk.gates[file] = threading.Event()
            self.disk.syncing.clear()
            settling = asyncio.ensure_future(self.store.settle([self.log]))
            await self.until_syncing(settling)
            return settling

        settling = self.run(cut())
        gates = list(self.disk.gates.values())
        self.disk.gates.clear()
        self.restart(seed)
        for gate in gates:
            gate.set()
        self.loop.run_until_complete(settling)

    @rule()
    def checkpoint(self) -> None:
        self.recorded = self.log.settled_offset

    @rule(seed=st.none() | st.integers(0, 2**32))
    def restart(self, seed: int | None) -> None:
        """
        Without a seed the process dies, with one the power fails too. What was lost comes again.
        """
        durable = self.log.settled_offset
        known = self.log.settled
        self.store.close()
        if seed is not None:
            self.disk.power_cut(Random(seed))
        self.store = self.new_store()
        self.log = self.run(self.store.load("5-6", 1, self.threshold, self.recorded))
        assert self.log.settled_offset >= durable
        assert self.log.last == self.log.settled_offset
        whole = [len(data) for offset, data in self.committed if offset <= self.log.last]
        closed = boundaries(whole, self.threshold)
        assert self.log._tail._chunk_bytes == sum(whole[closed[-1] if closed else 0 :])
        found = self.log.settled
        done = found[0].value if found else 0
        if known is not None and found is not None and self.committed:
            covered = [count for tx, count in self.commits if tx <= known[0].value][-1]
            assert self.log.last >= (self.committed[covered - 1][0] if covered else SNAPSHOT_END)
        previous = 0
        self.open = []
        for tx, count in self.commits:
            if tx > done:
                part = self.committed[previous:count]
                self.log.append(tx, [(offset.op, data) for offset, data in part])
                self.log.commit(CommitLsn(tx), EndLsn(tx + 5))
            previous = count

    def expected(self, after: LogOffset) -> tuple[LogOffset, list[bytes]]:
        """
        The rule of the protocol over a plain list.
        """
        if after < SNAPSHOT_END:
            chunk = 0 if after.tx < 0 else after.op + 1
            if chunk < len(self.chunks):
                return snapshot_chunk_end(chunk), self.chunks[chunk]
            after = SNAPSHOT_END
        offsets = [offset for offset, _ in self.committed]
        start = bisect_right(offsets, after)
        if start == len(offsets):
            return max(after, offsets[-1] if offsets else SNAPSHOT_END), []
        ends = boundaries([len(data) for _, data in self.committed], self.threshold)
        past = next((end for end in ends if end > start), len(offsets))
        return offsets[past - 1], [data for _, data in self.committed[start:past]]

    @rule(phase=st.integers(0, 9))
    def read(self, phase: int) -> None:
        known = sorted({*sorted(self.given)[-40:], *(offset for offset, _ in self.committed[-40:])})
        for after in known[phase :: max(1, len(known) // 8)]:
            self.read_at(after)

    def read_at(self, after: LogOffset) -> None:
        found = self.run(self.log.read(after))
        served = self.disk.serve(found)
        chunk_end, elements = self.expected(after)
        assert found.chunk_end == chunk_end
        assert served == b",".join(elements)
        assert found.last == (self.committed[-1][0] if self.committed else SNAPSHOT_END)
        if (SNAPSHOT_END < chunk_end < found.last) or (after < chunk_end < SNAPSHOT_END):
            assert self.fixed.setdefault(after, (chunk_end, served)) == (chunk_end, served), "a cached response changed"
        self.given.add(found.chunk_end)

    @precondition(lambda self: bool(self.committed))
    @rule(back=st.integers(0, 60), op=st.integers(0, 20))
    def read_between(self, back: int, op: int) -> None:
        """
        Also a place between two elements, or beyond the last, is a place.
        """
        near = self.committed[max(0, len(self.committed) - 1 - back)][0]
        after = LogOffset(near.tx + op % 3, op)
        found = self.run(self.log.read(after))
        chunk_end, elements = self.expected(after)
        assert (found.chunk_end, self.disk.serve(found)) == (chunk_end, b",".join(elements))

    @invariant()
    def nothing_is_open(self) -> None:
        assert self.disk.open_count == 0
        if hasattr(self, "log"):
            assert self.log.tail_bytes == sum(len(data) for _, data in self.log._tail._elements)
            assert self.log.last == (self.committed[-1][0] if self.committed else SNAPSHOT_END)


LogMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=50)
TestLogMachine = LogMachine.TestCase


@given(
    threshold=st.integers(200, 2000),
    sizes=st.lists(st.lists(st.integers(0, 300), max_size=8), max_size=8),
    settles=st.sets(st.integers(0, 8)),
)
@settings(max_examples=60)
def test_a_reader_that_follows_chunk_ends_gets_everything_once(
    threshold: int, sizes: list[list[int]], settles: set[int]
) -> None:
    """
    From the beginning or from any chunk end, following the chunk ends gives the rest of the log exactly.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        store = FileShapeLogStore(Path("/data"), disk=disk)
        log = await store.create("1-1", 3, threshold)
        await log.write_snapshot(blocks_of([], 1), END_ELEMENT)
        everything = [END_ELEMENT]
        for index, paddings in enumerate(sizes):
            tx = 100 + index
            elements = [(op * 2, element(tx, op * 2, size)) for op, size in enumerate(paddings)]
            log.append(tx, elements)
            log.commit(CommitLsn(tx), EndLsn(tx + 1))
            everything += [data for _, data in elements]
            if index in settles:
                await store.settle([log])
        after = BEFORE_ALL
        got: list[bytes] = []
        while after != log.last:
            found = await log.read(after)
            assert found.chunk_end > after
            got.append(disk.serve(found))
            after = found.chunk_end
        assert b",".join(part for part in got if part) == b",".join(everything)
        store.close()

    asyncio.run(scenario())
