from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until
from harness.workload import ShapeUnderTest

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GOOD = ShapeUnderTest("good")
OTHER = ShapeUnderTest("other")


async def settle_and_stop(database: Any, service: Service, audience: Audience) -> None:
    """
    Two shapes with changes in their logs, durable and confirmed; the service is then stopped, the clients go on.
    """
    for table in ("good", "other"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, t text)")
    audience.join(GOOD, OTHER)
    await audience.agree()
    for table in ("good", "other"):
        database.execute(f"INSERT INTO {table} SELECT g, 'row ' || g FROM generate_series(1, 200) g")
        database.execute(f"UPDATE {table} SET t = 'changed' WHERE mod(id, 3) = 0")
    await audience.agree()
    await service.stop()


async def go_on(database: Any, service: Service, audience: Audience) -> None:
    """
    Start again and write something new, to the same clients.
    """
    service.start()
    await service.wait_active()
    database.execute("INSERT INTO good VALUES (9001, 'afterwards')")
    database.execute("INSERT INTO other VALUES (9001, 'afterwards')")
    await audience.agree()


def newest(folder: Path, pattern: str) -> Path:
    """
    The file that was changed last.
    """
    return max(folder.rglob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))


async def test_a_torn_record_at_the_end_of_the_relay_log_is_cut(database: Any, tmp_path: Path) -> None:
    """
    Bytes that a power cut left half-written after the last synced record cost nothing.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await settle_and_stop(database, service, audience)
        with newest(service.data_dir / "relay", "*.relay").open("ab") as segment:
            segment.write(b"\x00\x00\x01\x00torn")
        await go_on(database, service, audience)
        assert audience.rotations == [0, 0]


async def test_a_flipped_bit_in_the_last_relay_record_rotates_and_says_so(database: Any, tmp_path: Path) -> None:
    """
    When the relay log lost what was confirmed, nothing can be vouched for: every shape starts over, and is right.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await settle_and_stop(database, service, audience)
        segment = newest(service.data_dir / "relay", "*.relay")
        data = bytearray(segment.read_bytes())
        data[-3] ^= 0x10
        segment.write_bytes(data)
        await go_on(database, service, audience)
        assert audience.rotations == [1, 1]
        assert "epoch" in service.log_tail(400)


def data_file(service: Service, handle: str) -> Path:
    """
    The settled entries of a shape.
    """
    folder = next(path for path in (service.data_dir / "shapes").rglob(f"*{handle}"))
    return next(folder.glob("*.data"))


async def test_a_shape_log_that_lost_its_end_costs_that_shape_only(database: Any, tmp_path: Path) -> None:
    """
    A shape whose files hold less than was recorded is given up when it is first touched; its neighbour goes on.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await settle_and_stop(database, service, audience)
        damaged = data_file(service, audience.clients[0].handles[-1])
        damaged.write_bytes(damaged.read_bytes()[:-10])
        await go_on(database, service, audience)
        assert audience.rotations == [1, 0]


async def test_a_flipped_bit_in_a_shape_log_is_never_served(database: Any, tmp_path: Path) -> None:
    """
    A shape with a flipped bit is given up when somebody reads that part; nobody is served it, its neighbour goes on.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await settle_and_stop(database, service, audience)
        damaged = data_file(service, audience.clients[0].handles[-1])
        data = bytearray(damaged.read_bytes())
        data[-10] ^= 1
        damaged.write_bytes(data)
        await go_on(database, service, audience)
        audience.join(GOOD, OTHER, name="who reads all of it")
        await audience.agree()
        assert audience.rotations[:2] == [1, 0]
        assert audience.rotations[3] == 0


async def test_a_torn_tail_of_a_shape_log_is_cut(database: Any, tmp_path: Path) -> None:
    """
    Bytes after the last settled commit, left by a power cut, cost nothing.
    """
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        await settle_and_stop(database, service, audience)
        for path in (service.data_dir / "shapes").rglob("*.data"):
            with path.open("ab") as data_file:
                data_file.write(b',{"key":"half')
        for path in (service.data_dir / "shapes").rglob("*.index"):
            with path.open("ab") as index_file:
                index_file.write(b"\x07\x00\x00")
        await go_on(database, service, audience)
        assert audience.rotations == [0, 0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """
    A file system of 24 MiB.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_a_full_disk_confirms_nothing_and_heals_when_space_returns(
    database: Any, small_disk: Path, mode: str
) -> None:
    """
    With no space left nothing more is confirmed, the state is named, and all is well once space returns.
    """
    database.execute("CREATE TABLE good (id int PRIMARY KEY, t text)")
    async with (
        Service(database.url, small_disk, "--acknowledge", mode) as service,
        Audience(service.url, database.url) as audience,
    ):
        audience.join(GOOD)
        await audience.agree()
        ballast = small_disk / "ballast"
        written_until, number = "", 0

        async def is_named() -> bool:
            nonlocal written_until, number
            # Each time: what the service lets go of, such as the reserve of its control store, is space again.
            with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(65536)):
                    pass
            database.execute(
                "INSERT INTO good SELECT g, repeat('z', 500) FROM generate_series(%s::int, %s::int) g",
                number * 400,
                number * 400 + 399,
            )
            number += 1
            written_until = database.query("SELECT pg_current_wal_lsn()::text")[0][0]
            return await service.has_problems()

        await until("the status names a problem", is_named)
        held = database.query(
            "SELECT confirmed_flush_lsn < %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
            written_until,
            service.slot,
        )
        assert held[0][0]
        ballast.unlink()
        await audience.agree(timeout_s=90)
        assert audience.rotations == [0]
        await until("no problem is left", service.is_well)


async def test_a_disk_that_fills_up_costs_one_thing_after_the_other(database: Any, small_disk: Path) -> None:
    """
    Below the watermarks first new shapes are refused, then shapes that nobody reads go, then Postgres keeps what is
    written; whoever follows a shape gets all of it, and all is well once space returns.
    """
    for table in ("good", "other", "third"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO other SELECT g, repeat('o', 1000) FROM generate_series(1, 1500) g")
    env = {"PENSTOCK_DISK_FREE_BYTES_MIN": "8MiB", "PENSTOCK_EVICTION_INTERVAL_S": "4s"}
    async with (
        Service(database.url, small_disk, env=env) as service,
        Audience(service.url, database.url) as audience,
    ):
        audience.join(GOOD)
        await audience.agree()
        assert (await service.get("/v1/shape", table="other", offset="-1")).status_code == 200
        ballast = small_disk / "ballast"

        def leave_free(mib: float) -> None:
            told = os.statvfs(small_disk)
            with ballast.open("ab", buffering=0) as file:
                file.write(bytes(told.f_bavail * told.f_frsize - int(mib * (1 << 20))))

        async def is_said(sentence: str) -> bool:
            return any(sentence in problem for problem in (await service.status())["problems"])

        leave_free(7)
        await until("new shapes are not made", lambda: is_said("no new shapes are made"))
        refused = await service.get("/v1/shape", table="third", offset="-1")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert "nearly full" in refused.json()["message"]
        database.execute("INSERT INTO good VALUES (1, 'one')")
        await audience.agree()
        assert (await service.status())["evicted_count"] == 0

        leave_free(5.5)

        async def is_evicted() -> bool:
            return bool((await service.status())["evicted_count"] == 1)

        await until("the shape that nobody reads is given up", is_evicted)
        await until("its files are gone", lambda: is_said("no new shapes are made"))

        leave_free(1)
        await until("the stream is not read", lambda: is_said("nothing more is read"))

        async def has_stopped() -> bool:
            return "it is nearly full" in str((await service.status())["explain"])

        await until("the receiver has seen it too", has_stopped)
        database.execute("INSERT INTO good SELECT g, repeat('g', 1000) FROM generate_series(2, 2000) g")
        ballast.unlink()
        await audience.agree()
        await until("no problem is left", service.is_well)
        assert (await service.get("/v1/shape", table="third", offset="-1")).status_code == 200
        assert audience.rotations == [0]
        assert (await service.status())["shed_count"] == 0
        assert "No space left" not in service.log_path.read_text(), "what was not read was not written either"
