"""
From where a client with a subset follows the log, and pictures that come too early.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from consumer_kit import until
from penstock.consumers import spool as spool_module
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.spool import Spool
from penstock.consumers.subset_place import follow_from, must_show
from penstock.consumers.subsets import SubsetReader
from penstock.errors import RequestError
from penstock.postgres.lsn import CommitLsn, InsertLsn
from penstock.postgres.relation import TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import LogMode, ShapeColumn, ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset, snapshot_chunk_end
from penstock.shapes.reading import FilePiece, InlinePiece, Refused, ShapeRequest, SubsetLoaded, SubsetQuestion
from penstock.shapes.subset import Subset, SubsetRequest


@pytest.mark.parametrize(
    ("asked", "last", "log", "expected"),
    [
        (None, LogOffset(9, 2), LogMode.FULL, LogOffset(9, 2)),
        (None, SNAPSHOT_END, LogMode.CHANGES_ONLY, SNAPSHOT_END),
        (BEFORE_ALL, LogOffset(9, 2), LogMode.CHANGES_ONLY, snapshot_chunk_end(0)),
        (BEFORE_ALL, LogOffset(9, 2), LogMode.FULL, BEFORE_ALL),
        (LogOffset(5, 0), LogOffset(9, 2), LogMode.FULL, LogOffset(5, 0)),
        (snapshot_chunk_end(0), LogOffset(9, 2), LogMode.FULL, snapshot_chunk_end(0)),
        (LogOffset(12, 0), LogOffset(9, 2), LogMode.CHANGES_ONLY, LogOffset(9, 2)),
    ],
)
def test_the_place_is_never_behind_the_clients(
    asked: LogOffset | None, last: LogOffset, log: LogMode, expected: LogOffset
) -> None:
    """
    What lies between would never be handed to it (E9).
    """
    assert follow_from(asked, last, log) == expected


def test_a_place_in_the_middle_of_a_commit_needs_that_commit() -> None:
    """
    A place among the rows needs none.
    """
    assert must_show(LogOffset(9, 2)) == CommitLsn(9)
    assert must_show(BEFORE_ALL) == must_show(SNAPSHOT_END) == CommitLsn(0)


class _World:
    """
    Stands for everything around the reader: a shape, its log, and a database that gives pictures.
    """

    def __init__(self, *, early: int = 0, last: LogOffset = SNAPSHOT_END, is_behind: bool = False) -> None:
        self.definition = ShapeDefinition(
            TableId(1, "public", "t"), (ShapeColumn("id", 23, -1),), ("id",), has_primary_key=True, selected=("id",)
        )
        self.handle = "1-1"
        self.condemned: str | None = None
        self.schema = "{}"
        self.last = last
        self.asked_about: list[CommitLsn] = []
        self.opened = 0
        self._early = early
        self._is_behind = is_behind

    async def enter(self, request: ShapeRequest) -> Any:
        del request
        return self, self, None

    def is_behind(self, entry: Any) -> bool:
        del entry
        return self._is_behind

    @property
    def table(self) -> Any:
        return self

    @property
    def columns(self) -> list[Any]:
        return []

    async def open_log(self, entry: Any) -> Any:
        del entry
        return self

    def was_read(self, entry: Any) -> None:
        assert entry is self

    def begin_snapshot(self) -> int:
        return 1

    def end_snapshot(self, number: int) -> None:
        assert number == 1

    def confirm_visible(self, bounds: SnapshotBounds) -> None:
        assert bounds.horizon == InsertLsn(77)

    def is_early(self, bounds: SnapshotBounds, routed_after: CommitLsn) -> bool:
        del bounds
        self.asked_about.append(routed_after)
        return len(self.asked_about) <= self._early

    @asynccontextmanager
    async def open(self, definition: Any, subset: Subset, *, mark: int) -> AsyncIterator[Any]:
        assert definition is self.definition
        assert mark == 5
        del subset
        self.opened += 1
        yield _Picture()


class _Picture:
    bounds = SnapshotBounds(Snapshot(3, 8, frozenset({5})), InsertLsn(77))

    async def blocks(self) -> AsyncIterator[bytes]:
        yield b'{"a":1}\n{"a":2}\n'
        yield b'{"a":3}\n'


def _load(world: _World, folder: Path, offset: LogOffset | None) -> Any:
    anything = cast("Any", world)
    reader = SubsetReader(
        catalog=anything, registry=anything, accounts=anything, inspector=anything, source=anything,
        spool=Spool(folder), limits=ConsumerLimits(early_retry_s=0.0), draw=lambda _low, _high: 5,
    )  # fmt: skip
    question = SubsetQuestion(ShapeRequest("t", offset, handle="1-1"), SubsetRequest())
    return asyncio.run(reader.load(question))


def test_a_picture_that_came_too_early_is_taken_again(tmp_path: Path) -> None:
    """
    Until it shows every commit that the client will not be handed any more (E8, E9).
    """
    world = _World(early=2, last=LogOffset(50, 4))
    reply = _load(world, tmp_path, LogOffset(40, 2))
    assert isinstance(reply, SubsetLoaded)
    assert world.opened == 3
    assert world.asked_about == [CommitLsn(40)] * 3
    assert reply.offset == LogOffset(40, 2)
    assert reply.pieces == (InlinePiece(b'{"a":1},{"a":2},{"a":3}'),)
    assert reply.metadata == b'{"xmin":"3","xmax":"8","xip_list":["5"],"snapshot_mark":5,"database_lsn":"77"}'


def test_a_place_that_is_still_being_replayed_is_not_answered(tmp_path: Path) -> None:
    """
    Nobody can say yet whether it is one of this log; when all was replayed, its end is the answer (E9).
    """
    refused = _load(_World(last=LogOffset(5, 0), is_behind=True), tmp_path, LogOffset(9, 0))
    assert isinstance(refused, Refused)
    assert (refused.status, refused.retry_after_s) == (503, 5)
    answered = _load(_World(last=LogOffset(5, 0)), tmp_path, LogOffset(9, 0))
    assert isinstance(answered, SubsetLoaded)
    assert answered.offset == LogOffset(5, 0)


async def _blocks(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def test_what_is_too_much_for_memory_waits_in_a_file(tmp_path: Path) -> None:
    """
    Joined by commas like the rest, and gone when its time is over or the service ends.
    """

    async def run() -> None:
        spool = Spool(tmp_path, inline_bytes_max=4)
        spool.clear()
        (piece,) = await spool.collect(_blocks(b"11\n22\n", b"33\n", b"44\n"))
        assert isinstance(piece, FilePiece)
        path = tmp_path / piece.path
        assert await asyncio.to_thread(path.read_bytes) == b"11,22,33,44"
        assert piece.bytes_count == spool.bytes_count == 11
        assert path.stat().st_mode & 0o777 == 0o600
        assert await spool.collect(_blocks()) == ()
        spool.close()
        assert not path.exists()
        assert spool.bytes_count == 0

    asyncio.run(run())


def test_there_is_a_limit_to_what_waits_in_files(tmp_path: Path) -> None:
    """
    One that is too large is the client's fault, many together are not; neither leaves anything.
    """

    async def run() -> None:
        spool = Spool(tmp_path, inline_bytes_max=4, bytes_max=20)
        with pytest.raises(RequestError) as alone:
            await spool.collect(_blocks(b"1" * 30 + b"\n"))
        assert alone.value.status == 400
        await spool.collect(_blocks(b"1" * 15 + b"\n"))
        with pytest.raises(RequestError) as together:
            await spool.collect(_blocks(b"1" * 15 + b"\n"))
        assert together.value.status == 503
        assert spool.bytes_count == 15
        spool.close()
        assert not list((tmp_path / "subsets").iterdir())

    asyncio.run(run())


def test_a_file_that_is_made_too_late_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Whoever asked may leave while the disk takes its time: neither the file nor its descriptor stays.
    """
    may_go = threading.Event()
    made: list[int] = []
    create = spool_module._create

    def create_late(path: Path) -> int:
        may_go.wait(10)
        made.append(create(path))
        return made[0]

    monkeypatch.setattr(spool_module, "_create", create_late)

    async def run() -> None:
        spool = Spool(tmp_path, inline_bytes_max=4)
        collecting = asyncio.create_task(spool.collect(_blocks(b"1" * 30 + b"\n", b"2\n")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        collecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await collecting
        may_go.set()
        await until(lambda: bool(made) and not list((tmp_path / "subsets").iterdir()))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made[0])
        assert spool.bytes_count == 0

    asyncio.run(run())


def test_a_file_that_nobody_wants_any_more_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Also when its reader leaves while it is being made, which cannot be stopped: neither name nor descriptor stays.
    """
    is_making, may_go_on = threading.Event(), threading.Event()
    descriptors: list[int] = []
    make = spool_module._create

    def make_slowly(path: Path) -> int:
        is_making.set()
        assert may_go_on.wait(10)
        descriptors.append(make(path))
        return descriptors[-1]

    monkeypatch.setattr(spool_module, "_create", make_slowly)

    async def run() -> None:
        spool = Spool(tmp_path, inline_bytes_max=4)
        collecting = asyncio.create_task(spool.collect(_blocks(b"1" * 15 + b"\n")))
        assert await asyncio.to_thread(is_making.wait, 10)
        collecting.cancel()
        assert isinstance((await asyncio.gather(collecting, return_exceptions=True))[0], asyncio.CancelledError)
        may_go_on.set()
        async with asyncio.timeout(10):
            while not descriptors or list((tmp_path / "subsets").iterdir()):  # noqa: ASYNC110  a file is no event
                await asyncio.sleep(0.005)
        assert spool.bytes_count == 0

    asyncio.run(run())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])
