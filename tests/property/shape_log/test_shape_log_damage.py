"""
Files that were cut off or in which a bit turned.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset
from shape_log_disk import FakeDisk

THRESHOLD = 700
END_ELEMENT = b'{"headers":{"control":"snapshot-end"}}'


def element(tx: int, op: int) -> bytes:
    return b'{"key":"k","value":{"a":"%s"},"headers":{"lsn":"%d","op_position":%d}}' % (b"z" * (tx % 90), tx, op)


async def no_rows() -> AsyncIterator[bytes]:
    for block in list[bytes]():
        yield block


async def written(disk: FakeDisk, ops: list[int]) -> dict[LogOffset, bytes]:
    """
    Write one transaction after the other, each settled by itself; answers all elements.
    """
    store = FileShapeLogStore(Path("/data"), disk=disk)
    log = await store.create("1-1", 1, THRESHOLD)
    await log.write_snapshot(no_rows(), END_ELEMENT)
    elements: dict[LogOffset, bytes] = {}
    for index, count in enumerate(ops):
        tx = 100 + 7 * index
        added = [(op * 2, element(tx, op * 2)) for op in range(count)]
        log.append(tx, added)
        log.commit(CommitLsn(tx), EndLsn(tx + 1))
        assert set((await store.settle([log])).values())
        elements |= {LogOffset(tx, op): data for op, data in added}
    store.close()
    return elements


@given(
    ops=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    name=st.sampled_from(["0.data", "0.index"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.none() | st.integers(0, 7),
    recorded_part=st.floats(0, 1),
)
@settings(max_examples=150)
def test_damage_gives_a_whole_prefix_or_an_error(
    ops: list[int], name: str, where: float, bit: int | None, recorded_part: float
) -> None:
    """
    After any cut or bit flip a log loads as a prefix that ends with a commit and no earlier than recorded, or refuses;
    and what it then gives is what was written, or a refusal.
    """

    async def scenario() -> None:
        disk = FakeDisk()
        elements = await written(disk, ops)
        commits = [SNAPSHOT_END]
        for offset in elements:
            commits[-1 if offset.tx == commits[-1].tx else len(commits) :] = [offset]
        recorded = commits[round(recorded_part * (len(commits) - 1))]
        file = next(file for path, file in disk.files.items() if path.endswith(name))
        place = int(where * len(file.content))
        if bit is None:
            del file.content[place:]
        else:
            file.content[place] ^= 1 << bit
        store = FileShapeLogStore(Path("/data"), disk=disk)
        try:
            log = await store.load("1-1", 1, THRESHOLD, recorded)
        except CorruptLogError:
            return
        finally:
            store.close()
        assert log.last in commits
        assert log.last >= recorded
        store = FileShapeLogStore(Path("/data"), disk=disk)
        try:
            log = await store.load("1-1", 1, THRESHOLD, recorded)
            assert disk.serve(await log.read(BEFORE_ALL)) == END_ELEMENT
            after = SNAPSHOT_END
            got = []
            while after != log.last:
                found = await log.read(after)
                got.append(disk.serve(found))
                after = found.chunk_end
        except CorruptLogError:
            return
        finally:
            store.close()
        assert b",".join(got) == b",".join(data for offset, data in elements.items() if offset <= log.last)

    asyncio.run(scenario())
