from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from harness.receiver import MemorySink, RunningReceiver, StartReceiver, publish, wait_until
from harness.wire_proxy import WireProxy
from penstock.errors import ConnectionLostError, MisconfiguredSourceError
from penstock.replication import standby
from penstock.replication.state import ReceiverPhase
from penstock.replication.waiting import StopRequestedError, Waiter
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """
    A folder with a certificate for `localhost` that vouches for itself.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed here")
    subprocess.run(
        [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(tmp_path / "server.key"),
            "-out",
            str(tmp_path / "server.crt"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[ThrowawayPostgres]:
    """
    A server with TLS.
    """
    try:
        server = ThrowawayPostgres(flavour="system")
    except Exception as missing:  # noqa: BLE001 - told in the skip
        pytest.skip(str(missing))
    with server:
        owner = server.data_folder.stat()
        for name in ("server.key", "server.crt"):
            target = server.data_folder / name
            shutil.copyfile(certificate / name, target)
            target.chmod(0o600)
            if os.geteuid() == 0:
                os.chown(target, owner.st_uid, owner.st_gid)
        server.settings["ssl"] = "on"
        server.restart()
        yield server


def test_a_verified_tls_connection_streams(tls_server: ThrowawayPostgres, certificate: Path, sink: MemorySink) -> None:
    """
    With TLS, verified to the host's name, small and large transactions come whole.
    """
    database = tls_server.create_database("tls")
    root = f"sslmode=verify-full&sslrootcert={certificate / 'server.crt'}"
    url = database.url.replace("127.0.0.1", "localhost") + f"?{root}"
    with RunningReceiver(url, sink, name="tls") as receiver:
        receiver.streaming()
        assert database.query("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)") == [(True,)]
        publish(database, "t", "id int, v text")
        for number in range(20):
            database.execute("INSERT INTO t VALUES (%s, 'x')", number)
        database.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(20, 5019) AS i")
        sink.wait_for(lambda: len(sink.changes()) == 5020)
        rows = [change.new for change in sink.changes()]
        assert [row[0] for row in rows if row is not None] == [str(number).encode() for number in range(5020)]


def test_a_certificate_that_does_not_verify_is_fatal(
    tls_server: ThrowawayPostgres, certificate: Path, sink: MemorySink
) -> None:
    """
    A name that is not in the certificate, or no authority for it, ends the client.
    """
    for options in (f"verify-full&sslrootcert={certificate / 'server.crt'}", "verify-ca&sslrootcert=/nowhere.crt"):
        with RunningReceiver(f"{tls_server.url}?sslmode={options}", sink, name="x") as receiver:
            receiver.join()
            assert isinstance(receiver.error, MisconfiguredSourceError)
            assert "certificate" in receiver.error.message


def test_a_half_open_link_is_given_up(
    sink: MemorySink, database: ThrowawayDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    When nothing passes any more, and no end of the connection either, we notice by the missing answer.
    """
    monkeypatch.setattr(standby, "HALF_OPEN_S", 0.5)
    monkeypatch.setattr(standby, "STATUS_INTERVAL_S_MAX", 0.2)
    with WireProxy(database.server.port) as proxy:
        url = database.url.replace(str(database.server.port), str(proxy.port))
        with RunningReceiver(url, sink, name=database.name) as receiver:
            receiver.streaming()
            publish(database, "t", "id int")
            told = len(receiver.states)
            proxy.freeze()
            state = receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
            assert "has not answered" in state.error
            # The server still believes in the old connection, which holds lock and slot until it is ended.
            wait_until(
                lambda: (
                    database.query(
                        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
                        f"slot_{database.name}",
                    )
                    == [(True,)]
                ),
                sink,
                "the end of the old walsender",
            )
            receiver.streaming(after=told)
            database.execute("INSERT INTO t VALUES (1)")
            sink.wait_for(lambda: len(sink.changes()) == 1)


@pytest.mark.parametrize("server_fixture", ["postgres_server", "bundled_postgres"])
def test_a_slot_that_waits_is_helped(server_fixture: str, request: pytest.FixtureRequest, sink: MemorySink) -> None:
    """
    A22: While creating a slot waits, it is told who is waited for, and the server is asked to log its running transactions.
    """
    server: ThrowawayPostgres = request.getfixturevalue(server_fixture)
    name = f"waits_{uuid.uuid4().hex[:8]}"
    database = server.create_database(name)
    try:
        with database.connect() as connection, capture_logs() as told:
            connection.execute("BEGIN")
            connection.execute("SELECT pg_current_xact_id()")
            with RunningReceiver(database.url, sink, name=name, watch_interval_s=0.05) as receiver:
                wait_until(
                    lambda: any(entry["event"] == "replication.slot_waits_for_transactions" for entry in told),
                    sink,
                    "a warning",
                )
                connection.execute("COMMIT")
                receiver.streaming()
        events = {str(entry["event"]) for entry in told}
        has_function = database.query("SELECT to_regprocedure('pg_log_standby_snapshot()') IS NOT NULL") == [(True,)]
        assert ("replication.standby_snapshot_unavailable" in events) is not has_function
        assert "replication.unblocking_failed" not in events
    finally:
        database.drop()


def test_a_lock_holder_that_we_may_not_end_is_told(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    Help that fails is a warning, and the wait goes on.
    """
    role = f"weak_{uuid.uuid4().hex[:8]}"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION")
    database.execute(f"CREATE PUBLICATION publication_{database.name}")
    database.query("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"slot_{database.name}")
    try:
        with database.connect() as holder, capture_logs() as told:
            holder.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"slot_{database.name}",))
            receiver = start(url=database.url.replace("postgres@", f"{role}@", 1), watch_interval_s=0.05)
            sink = receiver.sink
            wait_until(
                lambda: any(entry["event"] == "replication.unblocking_failed" for entry in told), sink, "a warning"
            )
            assert receiver.state.phase is ReceiverPhase.WAITING_FOR_LOCK
        receiver.streaming()
        receiver.stop()
    finally:
        database.execute(f"DROP ROLE {role}")


def test_a_waiter_ends_its_waits() -> None:
    """
    A stop ends sleeping and waiting at once and for good; calls aside give their results, errors and lateness.
    """
    waiter = Waiter()
    assert waiter.aside("answer", lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        waiter.aside("fault", lambda: 1 // 0)
    read_fd, write_fd = os.pipe()
    with pytest.raises(ConnectionLostError, match="too long"):
        waiter.aside("read", lambda: os.read(read_fd, 1), timeout_s=0.0)
    os.write(write_fd, b"12")
    waiter.sleep(0.001)
    waiter.stop()
    waiter.stop()
    for wait in (lambda: waiter.sleep(60), lambda: waiter.wait({}, 60), lambda: waiter.aside("sleep", lambda: 1)):
        with pytest.raises(StopRequestedError):
            wait()
    waiter.close()
    waiter.close()
    waiter.stop()
    os.close(write_fd)
    os.close(read_fd)
