from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from harness.receiver import (
    DEADLINE_S,
    MemorySink,
    RunningReceiver,
    StartReceiver,
    publish,
    slot,
    wait_until,
)
from penstock.errors import MisconfiguredSourceError
from penstock.replication import unblocking
from penstock.replication.handshake import Names, start_command
from penstock.replication.link import Link, resolve
from penstock.replication.state import ReceiverPhase
from penstock.replication.waiting import Waiter
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


@pytest.fixture
def role(database: ThrowawayDatabase) -> Iterator[str]:
    """
    A role that may log in and replicate, and nothing else.
    """
    name = f"role_{uuid.uuid4().hex[:12]}"
    database.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'right'")
    yield name
    database.execute(f"DROP OWNED BY {name}")
    database.execute(f"DROP ROLE {name}")


def as_role(database: ThrowawayDatabase, role: str) -> str:
    return database.url.replace("postgres@", f"{role}@", 1)


def ends_with(receiver: RunningReceiver) -> MisconfiguredSourceError:
    """
    Wait for the fatal error.
    """
    receiver.join()
    assert isinstance(receiver.error, MisconfiguredSourceError)
    assert receiver.state.phase is ReceiverPhase.FAILED
    assert receiver.state.error == receiver.error.message
    return receiver.error


def lock(database: ThrowawayDatabase) -> psycopg.Connection[tuple[object, ...]]:
    """
    Take the lock of the slot as another owner would.
    """
    connection = database.connect()
    connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"slot_{database.name}",))
    return connection


def make_slot(database: ThrowawayDatabase) -> None:
    """
    Make publication and slot as an earlier run would have.
    """
    database.execute(f"CREATE PUBLICATION publication_{database.name}")
    database.query("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"slot_{database.name}")


def test_a_low_wal_level_is_fatal(sink: MemorySink) -> None:
    """
    Without logical WAL the client ends, and the error says what to run.
    """
    with (
        ThrowawayPostgres(settings={"wal_level": "replica"}) as server,
        RunningReceiver(server.url, sink, name="x") as receiver,
    ):
        assert "ALTER SYSTEM SET wal_level = 'logical'" in ends_with(receiver).message


def test_a_role_without_replication_is_fatal(database: ThrowawayDatabase, start: StartReceiver, role: str) -> None:
    """
    A role that may not replicate ends the client.
    """
    database.execute(f"ALTER ROLE {role} NOREPLICATION")
    assert "REPLICATION" in ends_with(start(url=as_role(database, role))).message


def test_a_missing_database_is_fatal(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    A database that does not exist ends the client.
    """
    assert "does not exist" in ends_with(start(url=database.server.url_for("nowhere"))).message


def test_an_impossible_host_is_fatal(start: StartReceiver) -> None:
    """
    A host that cannot be a name ends the client, and so does what is no connection string; passwords are not told.
    """
    assert "a..b" in ends_with(start(url="postgresql://u:secret@a..b/d")).message
    error = ends_with(start(url="postgresql://u:secret@h:notaport:7/d"))
    assert "secret" not in error.message
    assert error.__cause__ is None


def test_a_wrong_password_and_a_refused_address_are_fatal(sink: MemorySink) -> None:
    """
    Password and pg_hba.conf are judged apart; the right password streams.
    """
    with ThrowawayPostgres() as server:
        server.execute("CREATE ROLE r LOGIN SUPERUSER PASSWORD 'right'")
        hba = server.data_folder / "pg_hba.conf"
        rules = "host all r 127.0.0.1/32 scram-sha-256\nhost replication r 127.0.0.1/32 scram-sha-256\n"
        hba.write_text(rules + "local all all trust\nhost all postgres 127.0.0.1/32 trust\n")
        server.query("SELECT pg_reload_conf()")
        base = f"127.0.0.1:{server.port}/postgres"
        for user, words in (("r:wrong", "user or password"), ("r", "user or password"), ("other", "pg_hba.conf")):
            with RunningReceiver(f"postgresql://{user}@{base}", sink, name="x") as receiver:
                assert words in ends_with(receiver).message
        with RunningReceiver(f"postgresql://r:right@{base}", sink, name="x") as receiver:
            receiver.streaming()


def test_required_tls_that_is_not_offered_is_fatal(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    `sslmode=require` against a server without TLS ends the client.
    """
    assert "TLS" in ends_with(start(url=database.url + "?sslmode=require")).message


def test_a_host_name_is_looked_up(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    A name leads to all its addresses, of which one that answers is taken.
    """
    start(url=database.url.replace("127.0.0.1", "localhost")).streaming()


def test_a_socket_folder_is_left_to_libpq(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    A Unix socket needs no looking up.
    """
    server = database.server
    start(url=f"host={server.socket_folder} port={server.port} user=postgres dbname={database.name}").streaming()


def test_fatal_errors_are_retried_after_the_first_success(
    database: ThrowawayDatabase, start: StartReceiver, role: str
) -> None:
    """
    What ends a start does not end a service that has streamed: it goes on when the cause is mended.
    """
    make_slot(database)
    receiver = start(url=as_role(database, role)).streaming()
    database.execute(f"ALTER ROLE {role} NOREPLICATION")
    database.query("SELECT pg_terminate_backend(%s)", slot(database)["active_pid"])
    state = receiver.wait_state(lambda state: "REPLICATION" in state.error)
    assert state.has_streamed
    told = len(receiver.states)
    database.execute(f"ALTER ROLE {role} REPLICATION")
    receiver.streaming(after=told)
    assert receiver.state.error == ""


def test_a_server_that_is_away_is_waited_for(sink: MemorySink) -> None:
    """
    A refused connection is retried until the server is there.
    """
    with ThrowawayPostgres() as server:
        server.stop()
        with RunningReceiver(server.url, sink, name="x") as receiver:
            receiver.wait_phase(ReceiverPhase.BACKING_OFF)
            server.start()
            receiver.streaming()


def test_a_server_that_never_answers_does_not_hold_us(start: StartReceiver) -> None:
    """
    Connecting has a deadline, and a stop is heard at once meanwhile.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
        receiver = start(url=url, connect_timeout_s=0.2)
        state = receiver.wait_phase(ReceiverPhase.BACKING_OFF)
        assert "did not answer" in state.error
        receiver.stop()
        patient = start(url=url, connect_timeout_s=600)
        patient.wait_phase(ReceiverPhase.CONNECTING)
        patient.stop()
        assert patient.error is None


def test_a_publication_that_we_may_not_create_is_fatal(
    database: ThrowawayDatabase, start: StartReceiver, role: str
) -> None:
    """
    A10: Without the right to create the publication the error says what to run; when it is there all is well.
    """
    error = ends_with(start(url=as_role(database, role)))
    assert "CREATE PUBLICATION" in error.message
    database.execute(f"CREATE PUBLICATION publication_{database.name}")
    start(url=as_role(database, role)).streaming()


def test_a_publication_that_leaves_something_out_is_fatal(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    A10: A publication without deletes would lose them in silence.
    """
    database.execute(f"CREATE PUBLICATION publication_{database.name} WITH (publish = 'insert, update')")
    assert "leaves out delete, truncate" in ends_with(start()).message


def test_a_slot_of_somebody_else_is_left_alone(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    A slot of another kind or database under our name is never dropped.
    """
    database.query("SELECT pg_create_physical_replication_slot(%s)", f"slot_{database.name}")
    try:
        assert "belongs to somebody else" in ends_with(start()).message
        assert slot(database) != {}
    finally:
        database.query("SELECT pg_drop_replication_slot(%s)", f"slot_{database.name}")


def test_a_dropped_slot_is_made_anew(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    A slot that is gone is new the next time, and says so.
    """
    start().streaming().stop()
    wait_until(lambda: not slot(database)["is_active"], sink, "the end of the walsender")
    database.query("SELECT pg_drop_replication_slot(%s)", f"slot_{database.name}")
    start().streaming()
    assert [begun.identity.is_new for begun in sink.starts] == [True, True]
    assert "no slot" in sink.starts[1].identity.reason


def test_an_invalidated_slot_is_made_anew(sink: MemorySink) -> None:
    """
    A7: A slot whose WAL the server has removed, while we were away or while we did not read, is dropped and made anew.
    """
    settings = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    with ThrowawayPostgres(settings=settings) as server:
        database = server.create_database("lost")

        def lose() -> None:
            for _ in range(4):
                database.execute("CREATE TABLE IF NOT EXISTS w (v text)")
                database.execute("INSERT INTO w SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
                database.query("SELECT pg_switch_wal()")
                database.execute("CHECKPOINT")

        with RunningReceiver(database.url, sink, name="lost") as receiver:
            receiver.streaming()
        wait_until(lambda: not slot(database)["is_active"], sink, "the end of the walsender")
        lose()
        with RunningReceiver(database.url, sink, name="lost") as receiver:
            receiver.streaming()
            assert [begun.identity.is_new for begun in sink.starts] == [True, True]
            assert "invalidated" in sink.starts[1].identity.reason
            publish(database, "t", "id int")
            told = len(receiver.states)
            sink.hold()
            lose()
            sink.release()
            receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
            healthy = "SELECT count(*) FROM pg_replication_slots WHERE active AND wal_status <> 'lost'"
            wait_until(lambda: database.query(healthy) == [(1,)], sink, "a new slot")
            database.execute("INSERT INTO t VALUES (1)")
            sink.wait_for(lambda: len(sink.changes()) == 1)
            assert "invalidated" in sink.starts[-1].identity.reason


def test_a_missing_publication_means_a_new_slot(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    When the publication is gone it is made anew, and so is the slot, because an old one could not decode.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    told = len(receiver.states)
    database.execute(f"DROP PUBLICATION publication_{database.name}")
    database.execute("INSERT INTO t VALUES (1)")
    receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
    receiver.streaming(after=told)
    assert "publication" in sink.starts[1].identity.reason
    assert sink.starts[1].identity.is_new
    database.execute(f"ALTER PUBLICATION publication_{database.name} ADD TABLE t")
    database.execute("INSERT INTO t VALUES (2)")
    sink.wait_for(lambda: len(sink.changes()) == 1)
    assert sink.changes()[0].new == (b"2",)


def test_a_publication_that_was_away_means_a_new_slot(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    A15: A change made while the publication was missing can never be decoded, although the publication is back: new slot.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    told = len(receiver.states)
    with database.connect() as connection, connection.transaction():
        connection.execute(f"DROP PUBLICATION publication_{database.name}")
        connection.execute("INSERT INTO t VALUES (1)")
    database.execute(f"CREATE PUBLICATION publication_{database.name} FOR TABLE t")
    receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
    sink.wait_for(lambda: len(sink.starts) > 1 and sink.starts[-1].identity.is_new)
    receiver.streaming(after=told)
    database.execute("INSERT INTO t VALUES (2)")
    sink.wait_for(lambda: bool(sink.changes()))
    assert sink.changes()[-1].new == (b"2",)


def test_the_second_instance_waits_and_takes_over(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    One owner at a time: the second waits for the lock, a stop is heard meanwhile, and it streams when the first left.

    Scenario H11.
    """
    first = start().streaming()
    pid = slot(database)["active_pid"]
    other = MemorySink()
    try:
        with RunningReceiver(database.url, other, name=database.name, watch_interval_s=0.05) as second:
            second.wait_phase(ReceiverPhase.WAITING_FOR_LOCK)
            second.stop()
            assert second.error is None
            assert other.starts == []
        with RunningReceiver(database.url, other, name=database.name, watch_interval_s=0.05) as third:
            third.wait_phase(ReceiverPhase.WAITING_FOR_LOCK)
            # Waiting is interrupted, in vain, and so is the owner's, by the lock breaker: it streams.
            waiting = "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait_until(lambda: database.query(waiting) == [(True,)], other, "a session that waits")
            database.query("SELECT pg_sleep(0.5)")
            assert slot(database)["active_pid"] == pid
            first.stop()
            third.streaming()
            assert not other.starts[0].identity.is_new
    finally:
        other.close()


def test_a_dead_predecessor_is_ended(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Who holds the lock but does not stream, and did nothing for a while, is ended.

    Scenario H11.
    """
    monkeypatch.setattr(unblocking, "LOCK_HOLDER_IDLE_S", 0.3)
    make_slot(database)
    dead = lock(database)
    try:
        receiver = start(watch_interval_s=0.05)
        receiver.wait_phase(ReceiverPhase.WAITING_FOR_LOCK)
        receiver.streaming()
        with pytest.raises(psycopg.OperationalError):
            dead.execute("SELECT 1")
    finally:
        dead.close()


def test_a_holder_that_is_busy_is_left_alone(database: ThrowawayDatabase, start: StartReceiver) -> None:
    """
    A holder of the lock that did something just now may be about to stream.

    Scenario H11.
    """
    make_slot(database)
    with lock(database) as owner:
        receiver = start(watch_interval_s=0.05)
        receiver.wait_phase(ReceiverPhase.WAITING_FOR_LOCK)
        # Ten ticks of the breaker.
        for _ in range(10):
            owner.execute("SELECT pg_sleep(0.05)")
        assert receiver.state.phase is ReceiverPhase.WAITING_FOR_LOCK
    receiver.streaming()


def test_a_slot_in_use_is_retried(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    A18: While another connection streams from the slot we try again, shortly after it left we stream.
    """
    make_slot(database)
    names = Names(f"slot_{database.name}", f"publication_{database.name}")
    waiter = Waiter()
    intruder = Link.open(resolve(database.url), waiter=waiter, clock=time.monotonic, timeout_s=DEADLINE_S)
    try:
        intruder.start_streaming(start_command(names), timeout_s=DEADLINE_S)
        receiver = start()
        state = receiver.wait_phase(ReceiverPhase.BACKING_OFF)
        assert "uses the replication slot" in state.error
        told = len(receiver.states)
        intruder.close()
        receiver.streaming(after=told)
    finally:
        intruder.close()
        waiter.close()


def test_a_new_slot_waits_for_open_transactions(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    A24: While a transaction is open that was before the slot, creating waits, a stop is heard, and afterwards it streams.
    """
    database.execute("CREATE TABLE t (id int)")
    with database.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES (1)")
        receiver = start(watch_interval_s=0.05)
        receiver.wait_phase(ReceiverPhase.CREATING_SLOT)
        receiver.stop()
        assert receiver.error is None
        second = start(watch_interval_s=0.05)
        # What the server left of the first may wait for the transaction too, and hold the lock until then: it notices
        # that its client is gone only between two of its waits. The slot may then be of its making.
        second.wait_phase(ReceiverPhase.CREATING_SLOT, ReceiverPhase.WAITING_FOR_LOCK)
        connection.execute("COMMIT")
        second.streaming()
    assert sink.starts


def test_the_newest_server_streams_generated_columns(bundled_postgres: ThrowawayPostgres, sink: MemorySink) -> None:
    """
    From 18 on the publication that we create carries stored generated columns.
    """
    name = f"generated_{uuid.uuid4().hex[:8]}"
    database = bundled_postgres.create_database(name)
    try:
        with RunningReceiver(database.url, sink, name=name) as receiver:
            receiver.streaming()
            publish(database, "t", "id int, twice int GENERATED ALWAYS AS (id * 2) STORED")
            database.execute("INSERT INTO t VALUES (4)")
            sink.wait_for(lambda: len(sink.changes()) == 1)
            assert sink.changes()[0].new == (b"4", b"8")
    finally:
        database.drop()
