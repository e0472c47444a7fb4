from __future__ import annotations

import psycopg
import pytest

from harness.receiver import MemorySink, RunningReceiver, StartReceiver, confirmed, publish, slot, wait_until
from penstock.postgres.lsn import EndLsn
from penstock.replication.messages import FRAGMENT_BYTES_MAX, Frontier, Operation
from penstock.replication.state import ReceiverPhase
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


def test_every_kind_of_change_arrives(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    Inserts, updates, deletes and truncates come with whole old rows, in order, and with places in steps of two.

    Scenario H1.
    """
    start().streaming()
    publish(database, "t", "id int PRIMARY KEY, v text")
    with database.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
        connection.execute("UPDATE t SET v = 'b' WHERE id = 1")
        connection.execute("DELETE FROM t WHERE id = 2")
        connection.execute("TRUNCATE t")
    sink.wait_for(lambda: len(sink.changes()) == 5)
    assert [(c.operation, c.op_position, c.old, c.new) for c in sink.changes()] == [
        (Operation.INSERT, 0, None, (b"1", b"a")),
        (Operation.INSERT, 2, None, (b"2", None)),
        (Operation.UPDATE, 4, (b"1", b"a"), (b"1", b"b")),
        (Operation.DELETE, 6, (b"2", None), None),
        (Operation.TRUNCATE, 8, None, None),
    ]
    assert sink.relations() == ["t"]
    (fragment,) = sink.fragments()
    assert fragment.is_first
    assert fragment.end is not None
    assert fragment.end.value > fragment.commit_lsn.value


def test_one_transaction_is_one_commit(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    The xid of a fragment is the transaction's, and commits come in commit order.
    """
    start().streaming()
    publish(database, "t", "id int")
    xids = []
    for number in range(20):
        with database.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO t VALUES (%s)", (number,))
            row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            xids.append(row[0] & 0xFFFFFFFF)
    sink.wait_for(lambda: len(sink.changes()) == 20)
    assert [fragment.xid for fragment in sink.fragments()] == xids
    commits = [fragment.commit_lsn for fragment in sink.fragments()]
    assert commits == sorted(commits)


def test_unchanged_toast_is_filled_in(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    A large value that an update did not touch is in the new row all the same.

    Scenario H3.
    """
    start().streaming()
    publish(database, "t", "id int PRIMARY KEY, big text, v text")
    database.execute("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    large = "x" * 10_000
    database.execute("INSERT INTO t VALUES (1, %s, 'a')", large)
    database.execute("UPDATE t SET v = 'b'")
    sink.wait_for(lambda: len(sink.changes()) == 2)
    update = sink.changes()[1]
    assert update.new == (b"1", large.encode(), b"b")
    assert update.old == (b"1", large.encode(), b"a")
    assert not update.is_old_missing


def test_a_weak_identity_is_told(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    Without a full replica identity the old row is missing and the change says so.
    """
    start().streaming()
    publish(database, "t", "id int PRIMARY KEY, big text", identity="DEFAULT")
    database.execute("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    database.execute("INSERT INTO t VALUES (1, repeat('x', 10000))")
    database.execute("UPDATE t SET id = 2")
    database.execute("DELETE FROM t")
    sink.wait_for(lambda: len(sink.changes()) == 3)
    _, update, delete = sink.changes()
    assert (update.old, update.new, update.is_old_missing) == (None, (b"2", None), True)
    assert (delete.old, delete.is_old_missing) == (None, True)


def test_values_have_the_text_of_the_agreed_settings(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    Text of dates, intervals, floats, bytes and names does not depend on the settings of the database.

    Scenario H4.
    """
    database.execute(f"ALTER DATABASE \"{database.name}\" SET DateStyle = 'SQL, MDY'")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET bytea_output = 'escape'")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET TimeZone = 'Asia/Tokyo'")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET IntervalStyle = 'postgres_verbose'")
    database.execute(f"ALTER DATABASE \"{database.name}\" SET client_encoding = 'LATIN1'")
    start().streaming()
    publish(database, "t", "d date, z timestamptz, i interval, f float8, b bytea, e text, a int[], j jsonb, o bool")
    with database.connect(client_encoding="UTF8") as connection:
        connection.execute(
            "INSERT INTO t VALUES ('2024-02-01', '2024-02-01 00:00:00+00', '1 day 2 hours', 0.1, '\\x00ff', %s, "
            "'{1,NULL}', '{\"a\": 1}', true)",
            ("grün €",),
        )
    sink.wait_for(lambda: len(sink.changes()) == 1)
    assert sink.changes()[0].new == (
        b"2024-02-01",
        b"2024-02-01 00:00:00+00",
        b"P1DT2H",
        b"0.1",
        b"\\x00ff",
        "grün €".encode(),
        b"{1,NULL}",
        b'{"a": 1}',
        b"t",
    )


def test_a_changed_table_is_described_before_its_rows(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    After ALTER TABLE the new description comes first, and rows have the new columns.
    """
    start().streaming()
    publish(database, "t", "id int")
    database.execute("INSERT INTO t VALUES (1)")
    database.execute("ALTER TABLE t ADD COLUMN v text DEFAULT 'd'")
    database.execute("INSERT INTO t VALUES (2)")
    sink.wait_for(lambda: len(sink.changes()) == 2)
    assert [change.new for change in sink.changes()] == [(b"1",), (b"2", b"d")]
    assert [len(change.relation.columns) for change in sink.changes()] == [1, 2]
    assert sink.relations() == ["t", "t"]


def test_a_large_transaction_comes_in_parts(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    A transaction larger than a batch and than a fragment arrives whole, with places that go on from part to part.
    """
    start().streaming()
    publish(database, "t", "id int, v text")
    rows = 4 * FRAGMENT_BYTES_MAX // 1000
    database.execute("INSERT INTO t SELECT i, repeat('x', 900) FROM generate_series(1, %s) AS i", rows)
    sink.wait_for(lambda: len(sink.changes()) == rows)
    assert [change.op_position for change in sink.changes()] == list(range(0, 2 * rows, 2))
    fragments = sink.fragments()
    assert len(fragments) > 2
    assert [fragment.is_first for fragment in fragments] == [True] + [False] * (len(fragments) - 1)
    assert [fragment.end is None for fragment in fragments] == [True] * (len(fragments) - 1) + [False]


def test_what_is_sent_again_is_dropped(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    After a lost connection nothing is missing and nothing comes twice, and rows of known tables can be decoded.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    sink.hold()
    database.execute("INSERT INTO t VALUES (1)")
    database.execute("INSERT INTO t VALUES (2)")
    sink.wait_for(lambda: len(sink.changes()) == 2)
    told = len(receiver.states)
    database.query("SELECT pg_terminate_backend(%s)", slot(database)["active_pid"])
    receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
    receiver.streaming(after=told)
    database.execute("INSERT INTO t VALUES (3)")
    sink.wait_for(lambda: len(sink.changes()) == 3)
    assert [change.new for change in sink.changes()] == [(b"1",), (b"2",), (b"3",)]
    assert sink.dropped == []
    assert sink.starts[1].identity.confirmed <= sink.end
    assert not sink.starts[1].identity.is_new
    assert sink.starts[1].identity.consistent_point is None


def test_a_failed_sink_gets_everything_again(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    When the keeper of frames fails the connection is made anew, and what was not kept comes again.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    database.execute("INSERT INTO t VALUES (1)")
    sink.wait_for(lambda: len(sink.changes()) == 1)
    told = len(receiver.states)
    sink.fail()
    database.execute("INSERT INTO t VALUES (2)")
    receiver.streaming(after=told)
    sink.wait_for(lambda: len(sink.changes()) == 2)
    assert [change.new for change in sink.changes()] == [(b"1",), (b"2",)]


def test_the_slot_follows_what_may_be_confirmed(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    The slot's confirmed position is exactly the sink's: it stands while that stands and moves when that moves.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    database.execute("INSERT INTO t VALUES (1)")
    sink.wait_for(lambda: len(sink.changes()) == 1)
    wait_until(lambda: confirmed(database) == sink.end, sink, "the slot at the commit")
    sink.hold()
    held = sink.end
    database.execute("INSERT INTO t VALUES (2)")
    sink.wait_for(lambda: len(sink.changes()) == 2)
    receiver.wait_state(lambda state: state.received > held)
    assert confirmed(database) == held
    sink.release()
    wait_until(lambda: confirmed(database) == sink.end, sink, "the slot at the second commit")
    assert sink.end > held


def test_an_idle_slot_follows_other_tables(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    While only tables outside the publication change, positions outside transactions let the slot advance.

    Scenario H9.
    """
    start().streaming()
    database.execute("CREATE TABLE other (id int)")
    for _ in range(3):
        database.execute("INSERT INTO other SELECT generate_series(1, 1000)")
        target = EndLsn.parse(database.query("SELECT pg_current_wal_lsn()::text")[0][0])
        wait_until(lambda target=target: confirmed(database) >= target, sink, "the slot past the other table")  # type: ignore[misc]
    assert sink.changes() == []
    frontiers = [event.end for event in sink.events if isinstance(event, Frontier)]
    assert frontiers
    assert frontiers == sorted(set(frontiers))


def test_statuses_go_on_while_the_sink_is_full(sink: MemorySink) -> None:
    """
    With a sink that takes nothing for several timeouts of the server the connection and all rows survive.
    """
    with ThrowawayPostgres(settings={"wal_sender_timeout": "1s"}) as server:
        database = server.create_database("full")
        with RunningReceiver(database.url, sink, name="full") as receiver:
            receiver.streaming()
            publish(database, "t", "id int, v text")
            database.execute("INSERT INTO t VALUES (0, '')")
            sink.wait_for(lambda: len(sink.changes()) == 1)
            pid = slot(database)["active_pid"]
            sink.set_full(True)
            receiver.wait_state(lambda state: state.is_paused)
            database.execute("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) AS i")
            # The server's clock is what counts here: it must have had reason to give us up three times.
            database.query("SELECT pg_sleep(3.5)")
            assert slot(database)["active_pid"] == pid
            assert len(sink.changes()) == 1
            sink.set_full(False)
            sink.wait_for(lambda: len(sink.changes()) == 20001)
            assert slot(database)["active_pid"] == pid


def test_the_server_shuts_down_without_waiting_for_us(sink: MemorySink) -> None:
    """
    A fast shutdown ends soon, because its last keepalive is confirmed at once; afterwards the stream goes on.
    """
    with ThrowawayPostgres() as server:
        database = server.create_database("stopping")
        with RunningReceiver(database.url, sink, name="stopping") as receiver:
            receiver.streaming()
            publish(database, "t", "id int")
            database.execute("INSERT INTO t VALUES (1)")
            sink.wait_for(lambda: len(sink.changes()) == 1)
            told = len(receiver.states)
            # `stop` raises when the server has not ended after its own deadline.
            server.stop()
            receiver.wait_phase(ReceiverPhase.BACKING_OFF, after=told)
            told = len(receiver.states)
            server.start()
            receiver.streaming(after=told)
            database.execute("INSERT INTO t VALUES (2)")
            sink.wait_for(lambda: len(sink.changes()) == 2)
            assert [change.new for change in sink.changes()] == [(b"1",), (b"2",)]
            assert len({start.identity.system_id for start in sink.starts}) == 1


def test_a_crash_of_the_server_loses_nothing(sink: MemorySink) -> None:
    """
    After a crash of the server the stream goes on where it was.
    """
    with ThrowawayPostgres(settings={"fsync": "on", "synchronous_commit": "on"}) as server:
        database = server.create_database("crash")
        with RunningReceiver(database.url, sink, name="crash") as receiver:
            receiver.streaming()
            publish(database, "t", "id int")
            for number in range(10):
                database.execute("INSERT INTO t VALUES (%s)", number)
            server.restart("immediate")
            for number in range(10, 20):
                database.execute("INSERT INTO t VALUES (%s)", number)
            sink.wait_for(lambda: len(sink.changes()) == 20)
            assert [change.new for change in sink.changes()] == [(str(n).encode(),) for n in range(20)]
            assert sink.dropped == []


def test_a_clean_stop_confirms_the_last_position(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    `stop` ends with a last status, and the slot is free when `run` has returned.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    sink.hold()
    database.execute("INSERT INTO t VALUES (1)")
    sink.wait_for(lambda: len(sink.changes()) == 1)
    # Without a wake-up: only the last status can tell this position.
    sink._held_at = None
    receiver.stop()
    assert receiver.error is None
    assert receiver.state.phase is ReceiverPhase.STOPPED
    assert receiver.state.confirmed == sink.end
    wait_until(lambda: not slot(database)["is_active"], sink, "the end of the walsender")
    assert confirmed(database) == sink.end


def test_stop_is_heard_while_the_sink_blocks(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    A sink that hangs in `begin_session` does not keep `run` from returning.
    """
    sink.block_begin(True)
    receiver = start()
    sink.wait_for(lambda: len(sink.starts) == 1)
    receiver.stop()
    assert receiver.error is None
    sink.block_begin(False)


def test_a_second_run_continues(database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver) -> None:
    """
    A new client on the same slot continues where the last one was.
    """
    receiver = start().streaming()
    publish(database, "t", "id int")
    database.execute("INSERT INTO t VALUES (1)")
    sink.wait_for(lambda: len(sink.changes()) == 1)
    receiver.stop()
    database.execute("INSERT INTO t VALUES (2)")
    start().streaming()
    sink.wait_for(lambda: len(sink.changes()) == 2)
    assert [start.identity.is_new for start in sink.starts] == [True, False]
    assert sink.starts[0].identity.reason != ""
    assert sink.starts[0].identity.consistent_point == sink.starts[0].identity.confirmed


def test_names_that_need_quotes_work(database: ThrowawayDatabase, sink: MemorySink) -> None:
    """
    A publication may have any name.
    """
    odd = "x_\"p, 'q"
    receiver = RunningReceiver(database.url, sink, name=database.name)
    object.__setattr__(receiver.client._names, "publication", odd)
    with receiver:
        receiver.streaming()
        database.execute("CREATE TABLE t (id int)")
        with database.connect() as connection:
            name = psycopg.sql.Identifier(odd)
            connection.execute(psycopg.sql.SQL("ALTER PUBLICATION {} ADD TABLE t").format(name))
        database.execute("INSERT INTO t VALUES (1)")
        sink.wait_for(lambda: len(sink.changes()) == 1)


def test_a_temporary_slot_goes_with_the_connection(
    database: ThrowawayDatabase, sink: MemorySink, start: StartReceiver
) -> None:
    """
    With a temporary slot nothing is left on the server but the publication.
    """
    receiver = start(is_slot_temporary=True).streaming()
    assert slot(database)["is_active"]
    receiver.stop()
    wait_until(lambda: slot(database) == {}, sink, "the end of the slot")
