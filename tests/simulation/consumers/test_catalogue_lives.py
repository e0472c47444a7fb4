"""
Failures of the catalogue that need an engine, and that no other story tells.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from consumer_kit import Engine, World, row, until, whole
from penstock.consumers.entries import ShapeEntry
from penstock.consumers.replay import MIXED_VERSION, REASON_OTHER_VERSION, REPLAY_VERSION, is_foreign, version_at_start
from penstock.errors import DiskFullError
from penstock.shapes.offset import SNAPSHOT_END
from penstock.shapes.reading import Opened, Refused, RemoveRequest, Rotated
from shape_log_disk import FakeDisk

Story = Callable[[World, Engine], Awaitable[None]]


def tell(story: Story) -> None:
    """
    Run a story against an engine over an empty table.
    """

    async def run() -> None:
        world = World()
        engine = Engine(world)
        await engine.start()
        async with asyncio.timeout(30):
            await story(world, engine)
        if engine.is_running:
            await engine.stop()

    asyncio.run(run())


async def open_shape(engine: Engine, *, replica: str | None = None) -> str:
    """
    Open a shape; gives its handle.
    """
    reply = await engine.stage.catalog.open(whole() if replica is None else whole(replica=replica))
    assert isinstance(reply, Opened), reply
    return reply.handle


def only(engine: Engine) -> ShapeEntry:
    """
    Give the only shape there is.
    """
    (entry,) = engine.stage.registry
    return entry


def test_files_that_cannot_be_removed_hold_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    On a disk that refuses every change the debt ends, clients are told and another shape is made; the files go later.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = await open_shape(engine)
        await engine.quiesce()
        refusing = FakeDisk.rename

        def refuse(disk: FakeDisk, source: str, target: str) -> bool:
            raise OSError(errno.EROFS, "Read-only file system", source)

        monkeypatch.setattr(FakeDisk, "rename", refuse)
        waiting = asyncio.create_task(engine.stage.catalog.wait(handle, SNAPSHOT_END))
        await asyncio.sleep(0)
        world.database.commit([("truncate", None, None)])
        engine.deliver()
        assert await waiting == Rotated()
        assert engine.tracker.pending_count == 0
        assert await open_shape(engine) != handle
        assert engine.stage.registry.is_burying
        monkeypatch.setattr(FakeDisk, "rename", refusing)
        await until(lambda: set(world.control.rows) == {2})

    tell(story)


def test_a_removal_by_request_meets_a_shape_that_is_being_given_up() -> None:
    """
    The request finds nothing to remove, and the one tombstone is that of the verdict.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = await open_shape(engine)
        await engine.quiesce()
        world.control.fail_with = DiskFullError("held up")
        engine.stage.registry.condemn([only(engine)], "judged", is_fault=True)
        assert isinstance(await engine.stage.catalog.remove(RemoveRequest(handle=handle)), Refused)
        world.control.fail_with = None
        await until(lambda: not world.control.rows)
        assert world.control.tombstones == [(1, "judged")]
        assert engine.stage.registry.shed_count == 1

    tell(story)


def test_a_single_commit_before_a_long_silence_is_settled_and_reported() -> None:
    """
    Nobody needs to ask and nothing needs to follow: age alone settles the last debt there is.
    """

    async def story(world: World, engine: Engine) -> None:
        await open_shape(engine)
        await engine.quiesce()
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        assert engine.tracker.debt_of(1) is not None
        await until(lambda: engine.tracker.debt_of(1) is None)
        assert engine.tracker.last_global_flushed_offset == world.database.end

    tell(story)


def test_files_that_cannot_be_opened_for_now_are_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Too many open files are nobody's fault: the shape waits, owes, and goes on when there are enough again.
    """

    async def story(world: World, engine: Engine) -> None:
        handle = await open_shape(engine)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        await engine.quiesce()
        await engine.stop()
        reading = FakeDisk.read

        def refuse(disk: FakeDisk, path: str, start_byte: int, bytes_count: int) -> bytes:
            raise OSError(errno.EMFILE, "Too many open files", path)

        monkeypatch.setattr(FakeDisk, "read", refuse)
        other = Engine(world)
        await other.start()
        world.database.commit([("insert", None, row(2))])
        other.deliver()
        await asyncio.sleep(0.01)
        assert only(other).condemned is None
        assert other.tracker.debt_of(1) is not None
        monkeypatch.setattr(FakeDisk, "read", reading)
        await until(lambda: other.tracker.debt_of(1) is None)
        assert only(other).handle == handle
        await other.stop()

    tell(story)


def test_what_another_version_served_is_not_gone_on_with() -> None:
    """
    A shape that replay would add to begins anew; one that replay does not touch stays as it is.
    """

    async def story(world: World, engine: Engine) -> None:
        touched = await open_shape(engine)
        world.database.commit([("insert", None, row(1))])
        engine.deliver()
        await engine.quiesce()
        settled = only(engine).settled
        await engine.stop()
        # As if the shape's last settle had not been recorded.
        world.control.rows[1] = replace(world.control.rows[1], settled=SNAPSHOT_END)
        other = Engine(world)
        await other.start()
        other.stage.registry.is_replay_foreign = True
        entry = only(other)
        other.deliver()
        await until(lambda: entry.condemned == REASON_OTHER_VERSION)
        assert other.stage.registry.shed_count == 0, "nobody's fault"
        assert await open_shape(other) != touched
        await other.stop()
        assert settled > SNAPSHOT_END

    tell(story)


@pytest.mark.parametrize(
    ("recorded", "was_clean", "expected"),
    [
        (REPLAY_VERSION, False, False),
        (REPLAY_VERSION + 1, False, True),
        (REPLAY_VERSION - 1, False, True),
        (REPLAY_VERSION + 2, True, False),
    ],
)
def test_only_an_unclean_end_of_other_code_leaves_something_foreign(
    recorded: int, *, was_clean: bool, expected: bool
) -> None:
    """
    A clean stop leaves nothing to be replayed, and the same code makes the same bytes.
    """
    assert is_foreign(recorded_version=recorded, was_clean=was_clean) is expected


@pytest.mark.parametrize(("recorded", "was_clean"), [(REPLAY_VERSION + 1, False), (MIXED_VERSION, False)])
def test_what_two_versions_served_is_foreign_to_both(recorded: int, *, was_clean: bool) -> None:
    """
    A start in the middle of what other code left behind may be followed by that other code: it finds its own version no
    more. After a clean stop, or when all is ours, our version is recorded before anything is served.
    """
    assert version_at_start(recorded_version=recorded, was_clean=was_clean) == MIXED_VERSION
    assert version_at_start(recorded_version=recorded, was_clean=True) == REPLAY_VERSION
    assert version_at_start(recorded_version=REPLAY_VERSION, was_clean=False) == REPLAY_VERSION
