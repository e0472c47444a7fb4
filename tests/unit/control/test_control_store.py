from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.consumers.abc import ControlStore
from penstock.control.migrations import MIGRATIONS, SCHEMA_VERSION, steps_from
from penstock.control.records import Recovered, ShapeState, ShedRecord
from penstock.control.store import SqliteControlStore
from penstock.errors import ConfigError, DiskFullError, FormatVersionError, ShapeError, SyncFailedError
from penstock.postgres.lsn import EndLsn, InsertLsn
from penstock.postgres.relation import TableId
from penstock.postgres.snapshot import Snapshot, SnapshotBounds
from penstock.shapes.definition import ShapeColumn, ShapeDefinition
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset

DEFINITION = ShapeDefinition(
    TableId(16384, "public", "issues"), (ShapeColumn("id", 23, -1),), ("id",), has_primary_key=True, selected=("id",)
)
BOUNDS = SnapshotBounds(Snapshot(5, 9, frozenset({6, 8})), InsertLsn(2**40))


def use(path: Path, work: Callable[[SqliteControlStore], Awaitable[None]], *, is_clean: bool = False) -> Recovered:
    """
    Open the store, work with it, close it; answers what it held at the beginning.
    """

    async def scenario() -> Recovered:
        store = SqliteControlStore(path, reserve_bytes=1 << 16)
        await store.open()
        recovered = await store.load()
        try:
            await work(store)
        finally:
            await store.close(is_clean=is_clean)
        return recovered

    return asyncio.run(scenario())


async def nothing(_store: SqliteControlStore) -> None:
    """
    Only look.
    """


def test_what_was_given_up_is_remembered(tmp_path: Path) -> None:
    """
    Rests survive restarts and epochs, the newest word counts, and what is forgotten is gone.
    """
    path = tmp_path / "control.db"
    first = ShedRecord(b"one", "public.a", "hung", (1.5, 2.25))
    second = ShedRecord(b"two", "public.b", "failed", (3.0,))

    async def shed(store: SqliteControlStore) -> None:
        await store.record_sheds([first, second], [])
        await store.record_sheds([replace(second, times=(3.0, 4.0))], [b"nobody's"])
        await store.begin_epoch(2, EndLsn(5), "the slot is new")
        await store.record_replay_version(7)

    async def forget(store: SqliteControlStore) -> None:
        await store.record_sheds([], [b"one"])

    assert use(path, shed).replay_version == 1
    found = use(path, forget)
    assert (found.sheds, found.replay_version) == ((first, replace(second, times=(3.0, 4.0))), 7)
    assert [one.definition for one in use(path, nothing).sheds] == [b"two"]


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """
    Shapes stay, nothing rests, and what was served was of the first replay version.
    """
    path = tmp_path / "control.db"
    connection = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("UPDATE life SET epoch = 3, boundary = '0/10'")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    assert use(path, nothing) == Recovered(3, EndLsn(16), (), {}, 0, was_clean=False, sheds=(), replay_version=1)


def test_store_fits_what_consumers_ask_for(tmp_path: Path) -> None:
    """
    The store is what the consumers' Protocol describes.
    """
    store: ControlStore = SqliteControlStore(tmp_path / "control.db")
    assert not isinstance(store, str)


def test_new_store_is_empty(tmp_path: Path) -> None:
    """
    A new store knows nothing, was not clean, and its file is for us alone.
    """
    path = tmp_path / "control.db"
    assert use(path, nothing) == Recovered(None, EndLsn(0), (), {}, 0, was_clean=False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("control.db.reserve").stat().st_size == 1 << 16


def test_life_of_a_shape_is_remembered(tmp_path: Path) -> None:
    """
    Each step of a shape's life is there after a restart, and incarnations never return.
    """
    path = tmp_path / "control.db"

    async def creating(store: SqliteControlStore) -> None:
        await store.begin_epoch(3, EndLsn(100), "first start")
        assert await store.create("1-50", 50, DEFINITION, 1000) == 1
        assert await store.create("1-40", 40, DEFINITION, 1000) == 2
        assert await store.create("1-45", 45, DEFINITION, 1000) == 3

    use(path, creating)

    async def living(store: SqliteControlStore) -> None:
        await store.mark_live(1, BOUNDS, SNAPSHOT_END)
        await store.mark_live(2, BOUNDS, SNAPSHOT_END)
        await store.checkpoint(EndLsn(2**64 - 1), {2: LogOffset(2**64 - 1, 2)})
        await store.tombstone([1], "it hung", EndLsn(7))
        await store.tombstone([1], "later", EndLsn(8))
        with pytest.raises(ShapeError):
            await store.mark_live(1, BOUNDS, SNAPSHOT_END)
        await store.record_fact("root", "5", b"6")
        await store.record_fact("root", "5", b"7")

    recovered = use(path, living)
    assert [row.state for row in recovered.shapes] == [ShapeState.CREATING] * 3
    assert [row.settled for row in recovered.shapes] == [BEFORE_ALL] * 3
    assert (recovered.epoch, recovered.boundary, recovered.handle_us_max) == (3, EndLsn(100), 50)

    async def forgetting(store: SqliteControlStore) -> None:
        await store.forget(1)
        await store.forget(1)
        await store.forget(2)

    recovered = use(path, forgetting, is_clean=True)
    assert [row.state for row in recovered.shapes] == [ShapeState.CONDEMNED, ShapeState.LIVE, ShapeState.CREATING]
    live = recovered.shapes[1]
    assert (live.definition, live.bounds, live.settled) == (DEFINITION, BOUNDS, LogOffset(2**64 - 1, 2))
    assert recovered.boundary == EndLsn(2**64 - 1)
    assert recovered.facts == {("root", "5"): b"7"}
    assert not recovered.was_clean
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT handle FROM shapes ORDER BY 1").fetchall() == [("1-40",), ("1-45",)]
    connection.close()

    async def creating_again(store: SqliteControlStore) -> None:
        assert await store.create("1-60", 60, DEFINITION, 1000) == 4

    assert use(path, creating_again).was_clean
    assert not use(path, nothing).was_clean


def test_new_epoch_condemns_all_shapes_before_it(tmp_path: Path) -> None:
    """
    After a new epoch every older shape is condemned, whatever its own row says, and facts are gone.
    """
    path = tmp_path / "control.db"

    async def work(store: SqliteControlStore) -> None:
        await store.begin_epoch(1, EndLsn(1), "first start")
        await store.create("1-1", 1, DEFINITION, 1000)
        await store.mark_live(1, BOUNDS, SNAPSHOT_END)
        await store.record_fact("root", "5", b"6")
        await store.begin_epoch(2, EndLsn(500), "the slot was lost")
        await store.create("1-2", 2, DEFINITION, 1000)
        await store.mark_live(2, BOUNDS, SNAPSHOT_END)
        with pytest.raises(AssertionError):
            await store.begin_epoch(1, EndLsn(900), "an older one")

    async def forget(store: SqliteControlStore) -> None:
        await store.forget(1)

    use(path, work)
    recovered = use(path, forget)
    assert [row.state for row in recovered.shapes] == [ShapeState.CONDEMNED, ShapeState.LIVE]
    assert (recovered.epoch, recovered.boundary, recovered.facts) == (2, EndLsn(500), {})
    assert [row.incarnation for row in use(path, nothing).shapes] == [2]


def test_the_same_epoch_begun_again_condemns_all_shapes_too(tmp_path: Path) -> None:
    """
    When the log of an epoch does not reach back, its shapes are condemned, the half made among them, and new ones live.
    """
    path = tmp_path / "control.db"

    async def work(store: SqliteControlStore) -> None:
        await store.begin_epoch(1, EndLsn(1), "first start")
        await store.create("1-1", 1, DEFINITION, 1000)
        await store.mark_live(1, BOUNDS, SNAPSHOT_END)
        await store.create("1-2", 2, DEFINITION, 1000)
        await store.record_fact("root", "5", b"6")
        await store.begin_epoch(1, EndLsn(500), "the log does not reach back")
        with pytest.raises(ShapeError):
            await store.mark_live(2, BOUNDS, SNAPSHOT_END)
        await store.create("1-3", 3, DEFINITION, 1000)
        await store.mark_live(3, BOUNDS, SNAPSHOT_END)

    use(path, work)
    recovered = use(path, nothing)
    assert [row.state for row in recovered.shapes] == [ShapeState.CONDEMNED, ShapeState.CONDEMNED, ShapeState.LIVE]
    assert (recovered.epoch, recovered.boundary, recovered.facts) == (1, EndLsn(500), {})


def test_calls_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    """
    Many shapes made at once take few commits, and one call's fault is not another's.
    """
    path = tmp_path / "control.db"

    async def work(store: SqliteControlStore) -> None:
        commits: list[str] = []

        def count(statement: str) -> None:
            if statement == "COMMIT":
                commits.append(statement)

        await store._ask(lambda connection: connection.set_trace_callback(count))
        await store.create("1-0", 1, DEFINITION, 1000)
        made = await asyncio.gather(
            *(store.create(f"1-{number % 90}", number, DEFINITION, 1000) for number in range(100)),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, sqlite3.IntegrityError) for answer in made) == 11
        assert len(commits) < 20

    use(path, work)
    recovered = use(path, nothing)
    assert len(recovered.shapes) == 90
    assert len({row.incarnation for row in recovered.shapes}) == 90


def test_two_stores_cannot_share_a_file(tmp_path: Path) -> None:
    """
    A second process is told so instead of sharing or waiting.
    """
    path = tmp_path / "control.db"

    async def work(_store: SqliteControlStore) -> None:
        with pytest.raises(ConfigError):
            await SqliteControlStore(path).open()

    use(path, work)


@pytest.mark.parametrize("damage", ["not a database", "header", "tables", "definition", "offset"])
def test_unreadable_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    """
    Whatever is wrong with the file, it is kept under another name and an empty store takes its place.
    """
    path = tmp_path / "control.db"

    async def one_shape(store: SqliteControlStore) -> None:
        await store.begin_epoch(1, EndLsn(9), "first start")
        await store.create("1-1", 1, DEFINITION, 1000)

    use(path, one_shape)
    if damage == "not a database":
        path.write_bytes(b"\0garbage" * 1000)
    elif damage == "header":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        statement = {
            "tables": "DROP TABLE life",
            "definition": "UPDATE shapes SET definition = x'c1'",
            "offset": "UPDATE shapes SET settled = 'nowhere'",
        }[damage]
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
    found = path.read_bytes()

    async def look(store: SqliteControlStore) -> None:
        assert store.was_set_aside

    assert use(path, look) == Recovered(None, EndLsn(0), (), {}, 0, was_clean=False)
    assert path.with_name("control.db.unreadable-1").read_bytes() == found

    async def look_again(store: SqliteControlStore) -> None:
        assert not store.was_set_aside

    use(path, look_again)


def test_file_of_newer_code_is_left_alone(tmp_path: Path) -> None:
    """
    Older code refuses a newer file and purges nothing.
    """
    path = tmp_path / "control.db"
    use(path, nothing)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    found = path.read_bytes()
    with pytest.raises(FormatVersionError):
        use(path, nothing)
    assert path.read_bytes() == found
    assert not list(tmp_path.glob("*unreadable*"))


def test_full_disk_lets_tombstones_through(tmp_path: Path) -> None:
    """
    Without space new shapes fail and tombstones use the reserve; when it is gone too they say so, and nothing else broke.
    """
    path = tmp_path / "control.db"

    async def work(store: SqliteControlStore) -> None:
        connection = store._file._connection
        assert connection is not None
        await store.create("1-1", 1, DEFINITION, 1000)
        pages = (await store._ask(lambda connection: connection.execute("PRAGMA page_count").fetchone()))[0]

        class Growing:
            """
            A limit of pages stands for the space on the disk; removing the reserve makes room.
            """

            def unlink(self, *, missing_ok: bool) -> None:
                assert missing_ok
                assert connection is not None
                connection.execute(f"PRAGMA max_page_count = {pages + 40}")

        store._file._reserve = Growing()  # type: ignore[misc,assignment] # the disk's space is what is faked
        await store._ask(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))
        long_reason = "r" * 50_000
        outcomes = await asyncio.gather(
            store.record_fact("kind", "key", b"x" * 50_000),
            store.tombstone([1], long_reason, EndLsn(5)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], DiskFullError)
        assert outcomes[1] is None
        assert not store.has_reserve
        with pytest.raises(DiskFullError):
            await store.begin_epoch(5, EndLsn(1), "r" * 900_000)
        await store.checkpoint(EndLsn(77), {})

    use(path, work)
    recovered = use(path, nothing)
    assert recovered.shapes[0].state is ShapeState.CONDEMNED
    assert (recovered.facts, recovered.epoch, recovered.boundary) == ({}, None, EndLsn(77))


def test_failed_store_answers_nothing_any_more(tmp_path: Path) -> None:
    """
    After a failure that is not about space, every later call fails too.
    """

    async def work(store: SqliteControlStore) -> None:
        await store._ask(lambda connection: connection.execute("PRAGMA query_only = ON"))
        with pytest.raises(SyncFailedError):
            await store.create("1-1", 1, DEFINITION, 1000)
        with pytest.raises(SyncFailedError):
            await store.tombstone([1], "", EndLsn(1))

    use(tmp_path / "control.db", work)
    assert use(tmp_path / "control.db", nothing).shapes == ()


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """
    A process that is killed after an answer has lost nothing, nor has one that ends in the middle of the next call.
    """
    program = textwrap.dedent(
        """
        import asyncio, os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_control_store import BOUNDS, DEFINITION
        from penstock.control.store import SqliteControlStore
        from penstock.postgres.lsn import EndLsn
        from penstock.shapes.offset import LogOffset

        async def main():
            store = SqliteControlStore(Path(sys.argv[1]))
            await store.open()
            known = await store.load()
            epoch = (known.epoch or 0) + 1
            await store.begin_epoch(epoch, EndLsn(epoch), "next")
            first = await store.create(f"1-{epoch}", epoch, DEFINITION, 1000)
            print("created", first, flush=True)
            await store.mark_live(first, BOUNDS, LogOffset(epoch, 2))
            print("live", first, flush=True)
            if epoch % 2:
                os._exit(0)
            for number in range(10**9):
                await store.checkpoint(EndLsn(number), {first: LogOffset(number, 0)})
                print("boundary", number, flush=True)

        asyncio.run(main())
        """
    )
    path = tmp_path / "control.db"
    for epoch in range(1, 5):
        command = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line.split())
                if said[-1] == ["boundary", "5"]:
                    os.kill(process.pid, signal.SIGKILL)
        assert ["live", str(epoch)] in said
        recovered = use(path, nothing)
        assert not recovered.was_clean
        assert [row.incarnation for row in recovered.shapes] == list(range(1, epoch + 1))
        assert [row.state for row in recovered.shapes] == [ShapeState.CONDEMNED] * (epoch - 1) + [ShapeState.LIVE]
        if epoch % 2 == 0:
            answered = int(said[-1][1])
            assert recovered.boundary.value in {answered, answered + 1}
            assert recovered.shapes[-1].settled.tx == recovered.boundary.value


def test_migrations_start_anywhere() -> None:
    """
    From the newest version there is nothing to do; from an older one the steps end with the mark of the newest.
    """
    assert steps_from(SCHEMA_VERSION) == ()
    assert steps_from(0)[-1] == f"PRAGMA user_version = {SCHEMA_VERSION}"
