from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.oracle import Audience
from harness.service import PYTHON, Service, started
from harness.waiting import until
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayPostgres, free_port

pytestmark = pytest.mark.postgres

EXIT_CONFIG = 78


def serve_once(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """
    Run the service until it ends by itself.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))}
    return subprocess.run(
        [PYTHON, "-m", "penstock", "serve", "--port", str(free_port()), "--data-dir", str(folder / "data"), *args],
        env={**kept, **env},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(text: str) -> str:
    """
    What the user sees last.
    """
    return text.strip().splitlines()[-1]


def test_without_a_secret_it_refuses_and_says_what_to_do(database: Any, tmp_path: Path) -> None:
    """
    Neither secret nor `--insecure`: one sentence that names both, and no data folder.
    """
    ended = serve_once(tmp_path, DATABASE_URL=database.url)
    assert ended.returncode == 2
    assert "PENSTOCK_SECRET" in ended.stderr
    assert "--insecure" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_a_database_that_is_not_there_ends_it_with_a_sentence(database: Any, tmp_path: Path) -> None:
    """
    No such database: the service ends, and the last line names the database.
    """
    url = database.url.replace(database.name, "nowhere_to_be_found")
    ended = serve_once(tmp_path, url, "--insecure")
    assert ended.returncode == EXIT_CONFIG, ended.stderr
    assert "nowhere_to_be_found" in last_line(ended.stderr)


def test_a_role_that_may_not_replicate_ends_it_with_the_statement_that_helps(database: Any, tmp_path: Path) -> None:
    """
    A role without REPLICATION: the last line is the ALTER ROLE that mends it.
    """
    role = f"weak_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        ended = serve_once(tmp_path, database.url.replace("postgres@", f"{role}@"), "--insecure")
    finally:
        database.execute(f"DROP ROLE {role}")
    assert ended.returncode == EXIT_CONFIG, ended.stderr
    assert "ALTER ROLE" in last_line(ended.stderr)
    assert "REPLICATION" in last_line(ended.stderr)


def test_a_server_without_logical_wal_ends_it_with_the_setting(tmp_path: Path) -> None:
    """
    A6: `wal_level = replica`: the last line names the setting to change.
    """
    with ThrowawayPostgres(settings={"wal_level": "replica"}) as server:
        ended = serve_once(tmp_path, server.url, "--insecure")
    assert ended.returncode == EXIT_CONFIG, ended.stderr
    assert "wal_level" in last_line(ended.stderr)
    assert "logical" in last_line(ended.stderr)


async def test_a_second_service_on_the_same_folder_waits_and_can_be_ended(database: Any, tmp_path: Path) -> None:
    """
    Two services never own one data folder: the second says that it waits, and ends in order when it is told to.
    """
    async with Service(database.url, tmp_path), started(Service(database.url, tmp_path)) as second:

        async def is_waiting() -> bool:
            try:
                return bool((await second.get("/v1/health")).json() == {"status": "waiting"})
            except httpx.TransportError:
                return False

        await until("the second waits", is_waiting)
        assert await second.stop() == 0


async def test_the_secret_guards_shapes_and_status_and_nothing_else(database: Any, tmp_path: Path) -> None:
    """
    A21: With a secret, shapes and status want it; health, readiness and preflight do not.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    env = {"PENSTOCK_INSECURE": "", "PENSTOCK_SECRET": "open sesame"}
    async with Service(database.url, tmp_path, env=env) as service:
        shape = {"table": "items", "offset": "-1"}
        assert (await service.get("/v1/health")).status_code == 200
        assert (await service.get("/v1/ready")).status_code == 200
        assert (await service.get("/v1/status")).status_code == 401
        assert (await service.get("/v1/shape", **shape)).status_code == 401
        assert (await service.get("//v1/%73hape/", **shape)).status_code == 401
        assert (await service.get("/v1/shape", **shape, secret="open")).status_code == 401
        assert (await service.get("/v1/shape", **shape, secret="open sesame")).status_code == 200
        assert (await service.get("/v1/status", secret="open sesame")).status_code == 200
        assert "open sesame" not in service.log_tail(10_000)


async def test_a_restart_of_postgres_is_lived_through(tmp_path: Path) -> None:
    """
    A14: Postgres stopped and started again: the service reconnects, waiting clients get what is written afterwards.
    """
    with ThrowawayPostgres() as server:
        database = server.create_database("restarted")
        database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
            audience.join(ShapeUnderTest("items"))
            await audience.agree()
            # The server's own fast stop waits for us: that it returns is part of what is tested.
            await asyncio.to_thread(server.stop, "fast")
            await asyncio.to_thread(server.start)
            database.execute("INSERT INTO items VALUES (1)")
            await audience.agree()
            assert audience.rotations == [0]
