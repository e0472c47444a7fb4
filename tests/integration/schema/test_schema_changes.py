from __future__ import annotations

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = [pytest.mark.postgres, pytest.mark.asyncio(loop_scope="module")]


async def ask(service: Service, table: str, offset: str = "-1", **params: str) -> tuple[int, str]:
    """
    Ask once; gives the status, and the handle or for errors the text.
    """
    answer = await service.get("/v1/shape", table=table, offset=offset, **params)
    return answer.status_code, answer.headers["electric-handle"] if answer.status_code == 200 else answer.text


async def test_a_reset_replica_identity_costs_the_shapes_of_that_table_once(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H2. Updates without old rows rotate the shapes of their table, once; the slot and other shapes do not notice.
    """
    source.execute(
        "CREATE TABLE reset (id int PRIMARY KEY, a int); INSERT INTO reset SELECT g, g FROM generate_series(1, 9) g"
    )
    source.execute(
        "CREATE TABLE reset_not (id int PRIMARY KEY, a int); INSERT INTO reset_not SELECT g, g FROM generate_series(1, 9) g"
    )
    audience.join(ShapeUnderTest("reset"), ShapeUnderTest("reset", where="a > 5"))
    audience.join(ShapeUnderTest("reset_not"), ShapeUnderTest("reset_not", where="a > 5"))
    await audience.agree(is_patient=True)
    for identity in ("DEFAULT", "USING INDEX reset_pkey"):
        source.execute(
            f"ALTER TABLE reset REPLICA IDENTITY {identity};"
            "UPDATE reset SET a = 10 - a; UPDATE reset_not SET a = 10 - a; DELETE FROM reset WHERE id = 3"
        )
        await audience.agree(is_patient=True)
        source.execute("UPDATE reset SET a = a + 1; INSERT INTO reset (a, id) SELECT 7, 10 + max(id) FROM reset")
        await audience.agree(is_patient=True)
    assert audience.rotations == [2, 2, 0, 0]


async def test_an_added_column_rotates_shapes_of_all_columns_once(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H16. A shape of all columns begins anew once for each column, one that lists its columns not at all.
    """
    source.execute(
        "CREATE TABLE grows (id int PRIMARY KEY, a int); INSERT INTO grows SELECT g, g FROM generate_series(1, 9) g"
    )
    audience.join(ShapeUnderTest("grows"), ShapeUnderTest("grows", where="a > 5"))
    audience.join(ShapeUnderTest("grows", ("id", "a")), ShapeUnderTest("grows", ("id",), where="a > 5"))
    await audience.agree(is_patient=True)
    for turn in range(2):
        source.execute(
            "UPDATE grows SET a = 10 - a;"
            f"ALTER TABLE grows ADD COLUMN added_{turn} text DEFAULT 'new'; UPDATE grows SET a = a + 1 WHERE id < 5"
        )
        source.execute(
            f"INSERT INTO grows (id, a) VALUES ({turn} + 100, 50); UPDATE grows SET added_{turn} = 'x' WHERE id > 5"
        )
        await audience.agree(is_patient=True)
        source.execute("UPDATE grows SET a = a + 1")
        await audience.agree(is_patient=True)
    assert audience.rotations == [2, 2, 0, 0]


async def test_a_table_made_anew_is_never_served_as_the_old_one(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H15, H16. Dropped and created again, with other rows: clients begin anew, and the old handle is gone for good.
    """
    definition = (
        "CREATE TABLE again (id int PRIMARY KEY, a int); INSERT INTO again SELECT g, {} FROM generate_series(1, 9) g"
    )
    source.execute(definition.format(1))
    audience.join(ShapeUnderTest("again"), ShapeUnderTest("again", where="a = 2"))
    await audience.agree(is_patient=True)
    for value in (2, 3):
        handles = [client.handles[-1] for client in audience.clients]
        source.execute(f"DROP TABLE again; {definition.format(value)}")
        await audience.agree(is_patient=True)
        assert not set(handles) & {client.handles[-1] for client in audience.clients}
        for handle in handles:
            assert (await service.get("/v1/shape", table="again", offset="0_0", handle=handle)).status_code == 409
    assert audience.rotations == [2, 2]


async def test_a_dropped_or_renamed_table_ends_its_shapes(service: Service, source: ThrowawayDatabase) -> None:
    """
    H16, H22. With changes in flight: the old name is no table any more, the new name is another shape with all rows.
    """
    source.execute("CREATE TABLE moves (id int PRIMARY KEY, a int); CREATE TABLE goes (id int PRIMARY KEY, a int)")
    _, moves = await ask(service, "moves")
    _, goes = await ask(service, "goes")
    source.execute(
        "INSERT INTO moves VALUES (1, 1); INSERT INTO goes VALUES (1, 1); UPDATE goes SET a = 2; DELETE FROM goes"
    )
    source.execute("ALTER TABLE moves RENAME TO moved; DROP TABLE goes; INSERT INTO moved VALUES (2, 2)")

    async def is_over(table: str, handle: str) -> bool:
        status, _ = await ask(service, table, "0_0", handle=handle)
        return status == 400

    await until("the renamed table is unknown", lambda: is_over("moves", moves))
    await until("the dropped table is unknown", lambda: is_over("goes", goes))
    answer = await service.get("/v1/shape", table="moved", offset="-1")
    assert [message["value"] for message in answer.json() if "value" in message] == [
        {"id": "1", "a": "1"},
        {"id": "2", "a": "2"},
    ]


async def test_columns_that_change_end_the_shapes_that_read_them(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H15, H16. Dropped, renamed, another type: whoever serves the column or has a condition on it begins anew, nobody else.
    """
    source.execute(
        "CREATE TABLE mends (id int PRIMARY KEY, a int, b text); INSERT INTO mends SELECT g, g, g FROM generate_series(1, 9) g"
    )
    audience.join(ShapeUnderTest("mends", ("id", "b")), ShapeUnderTest("mends", ("id",), where="b > '3'"))
    audience.join(ShapeUnderTest("mends", ("id", "a")), ShapeUnderTest("mends", ("id",), where="a > 3"))
    await audience.agree(is_patient=True)
    source.execute("ALTER TABLE mends ALTER b TYPE varchar(7); UPDATE mends SET b = 'x', a = a + 1 WHERE id = 3")
    await audience.agree(is_patient=True)
    assert audience.rotations == [1, 1, 0, 0]
    source.execute("ALTER TABLE mends DROP COLUMN b, ADD COLUMN b text DEFAULT '7'; UPDATE mends SET a = a + 1")
    await audience.agree(is_patient=True)
    assert audience.rotations[2:] == [0, 0]
    source.execute("ALTER TABLE mends ALTER a SET DEFAULT 7, ALTER a SET NOT NULL; INSERT INTO mends (id) VALUES (20)")
    await audience.agree(is_patient=True)
    assert audience.rotations[2:] == [0, 0]


async def test_a_new_label_of_an_enum_costs_nothing_and_can_be_asked_for(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    F1. Conditions on the labels that were there go on; the new one is known as soon as somebody asks.
    """
    source.execute(
        "CREATE TYPE tone AS ENUM ('low', 'high'); CREATE TABLE sings (id int PRIMARY KEY, m tone, ms tone[])"
    )
    source.execute("INSERT INTO sings VALUES (1, 'low', '{low}'), (2, 'high', '{low,high}')")
    audience.join(
        ShapeUnderTest("sings", where="m = 'low'"), ShapeUnderTest("sings", where="m <> 'low'"), ShapeUnderTest("sings")
    )
    await audience.agree(is_patient=True)
    assert (await ask(service, "sings", where="m = 'mid'"))[0] == 400
    assert (await ask(service, "sings", where="m < 'high'"))[0] == 400
    source.execute("ALTER TYPE tone ADD VALUE 'mid' BEFORE 'high'")
    source.execute("INSERT INTO sings VALUES (3, 'mid', '{mid}'); UPDATE sings SET m = 'mid' WHERE id = 1")
    assert (await ask(service, "sings", where="m = 'mid'"))[0] == 200
    audience.join(ShapeUnderTest("sings", where="m = 'mid'"), ShapeUnderTest("sings", where="ms @> '{mid}'"))
    await audience.agree(is_patient=True)
    assert set(audience.rotations) == {0}


async def test_a_renamed_label_rotates_whoever_serves_or_compares_it(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    Rows change their text without being written: all shapes of the table begin anew.
    """
    source.execute("CREATE TYPE hue AS ENUM ('red', 'blue'); CREATE TABLE paints (id int PRIMARY KEY, m hue)")
    source.execute("INSERT INTO paints VALUES (1, 'red'), (2, 'blue')")
    audience.join(ShapeUnderTest("paints"), ShapeUnderTest("paints", where="m = 'blue'"))
    await audience.agree(is_patient=True)
    source.execute("ALTER TYPE hue RENAME VALUE 'red' TO 'crimson'")
    await audience.agree(is_patient=True)
    source.execute("INSERT INTO paints VALUES (3, 'crimson')")
    await audience.agree(is_patient=True)


async def test_rows_of_partitions_made_later_reach_the_root(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H14. A partition made as one brings its rows by the stream: no shape begins anew.
    """
    source.execute(
        "CREATE TABLE days (id int, day int, a int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);"
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES IN (1); INSERT INTO days VALUES (1, 1, 1)"
    )
    audience.join(ShapeUnderTest("days"), ShapeUnderTest("days", where="a > 5"), ShapeUnderTest("days_1"))
    await audience.agree(is_patient=True)
    with source.connect() as connection, connection.transaction():
        connection.execute("CREATE TABLE days_2 PARTITION OF days FOR VALUES IN (2)")
        connection.execute("INSERT INTO days SELECT g, 2, g FROM generate_series(11, 19) g")
    await audience.agree(is_patient=True)
    source.execute("UPDATE days SET day = 2, a = 9 WHERE day = 1")
    source.execute("INSERT INTO days VALUES (1, 1, 7)")
    await audience.agree(is_patient=True)
    assert set(audience.rotations) == {0}


async def test_attaching_and_detaching_rotates_shapes_on_the_root(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H14. Rows that come and go with a whole partition are not in the stream: the root's shapes begin anew, others do not.
    """
    source.execute(
        "CREATE TABLE weeks (id int, week int, a int, PRIMARY KEY (id, week)) PARTITION BY LIST (week);"
        "CREATE TABLE weeks_1 PARTITION OF weeks FOR VALUES IN (1); INSERT INTO weeks VALUES (1, 1, 1), (2, 1, 9);"
        "CREATE TABLE weeks_2 (id int, week int, a int, PRIMARY KEY (id, week)); INSERT INTO weeks_2 VALUES (1, 2, 1), (2, 2, 9)"
    )
    audience.join(ShapeUnderTest("weeks"), ShapeUnderTest("weeks", where="a > 5"))
    audience.join(ShapeUnderTest("weeks_1"), ShapeUnderTest("weeks_2"), ShapeUnderTest("weeks_2", where="a > 5"))
    await audience.agree(is_patient=True)
    source.execute("UPDATE weeks_2 SET a = a + 1")
    await audience.agree(is_patient=True)
    source.execute("ALTER TABLE weeks ATTACH PARTITION weeks_2 FOR VALUES IN (2)")
    source.execute("INSERT INTO weeks VALUES (3, 2, 7); UPDATE weeks SET a = a + 1 WHERE id = 2")
    await audience.agree(is_patient=True)
    source.execute("INSERT INTO weeks VALUES (4, 2, 8)")
    await audience.agree(is_patient=True)
    source.execute("ALTER TABLE weeks DETACH PARTITION weeks_2; UPDATE weeks_2 SET a = a + 1")
    await audience.agree(is_patient=True)
    source.execute("INSERT INTO weeks VALUES (5, 1, 8); INSERT INTO weeks_2 VALUES (5, 2, 9)")
    await audience.agree(is_patient=True)
    assert audience.rotations == [2, 2, 0, 0, 0]


async def test_an_attached_partition_that_was_filled_in_the_same_transaction(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H14. Created, filled and attached at once: the rows were written before the table was a partition.
    """
    source.execute(
        "CREATE TABLE loads (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);"
        "CREATE TABLE loads_1 PARTITION OF loads FOR VALUES IN (1); INSERT INTO loads VALUES (1, 1)"
    )
    audience.join(ShapeUnderTest("loads"))
    await audience.agree(is_patient=True)
    with source.connect() as connection, connection.transaction():
        connection.execute("CREATE TABLE loads_2 (LIKE loads INCLUDING ALL)")
        connection.execute("INSERT INTO loads_2 VALUES (1, 2), (2, 2)")
        connection.execute("ALTER TABLE loads ATTACH PARTITION loads_2 FOR VALUES IN (2)")
        connection.execute("INSERT INTO loads VALUES (3, 2)")
    await audience.agree(is_patient=True)
    source.execute("DROP TABLE loads_2; INSERT INTO loads VALUES (2, 1)")
    await audience.agree(is_patient=True)


async def test_a_shape_in_the_middle_of_a_tree_gets_what_is_below_it(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H14. Partitions of partitions: each level has its shapes, and each gets the rows below it.
    """
    source.execute(
        "CREATE TABLE top (id int, p int, q int, PRIMARY KEY (id, p, q)) PARTITION BY LIST (p);"
        "CREATE TABLE middle PARTITION OF top FOR VALUES IN (1) PARTITION BY LIST (q);"
        "CREATE TABLE leaf PARTITION OF middle FOR VALUES IN (1); CREATE TABLE side PARTITION OF top DEFAULT;"
        "INSERT INTO top VALUES (1, 1, 1), (1, 2, 1)"
    )
    audience.join(*(ShapeUnderTest(name) for name in ("top", "middle", "leaf", "side")))
    await audience.agree(is_patient=True)
    source.execute("INSERT INTO top VALUES (2, 1, 1), (2, 2, 1); UPDATE top SET id = 5 WHERE id = 1")
    await audience.agree(is_patient=True)
    source.execute("TRUNCATE leaf; INSERT INTO top VALUES (9, 1, 1)")
    await audience.agree(is_patient=True)


async def test_values_that_change_under_their_names_end_the_shapes(
    service: Service, source: ThrowawayDatabase, audience: Audience
) -> None:
    """
    H16. A column replaced by one of the same name and type, a table rewritten by an expression, a wider composite type.

    What only moves rows, or defines a column anew without touching them, ends nothing; both between two looks at the catalog
    would be taken for the second of these, so each has a table of its own.
    """
    source.execute("CREATE TYPE pair AS (x int, y int); CREATE TABLE swaps (id int PRIMARY KEY, a int, b int, p pair)")
    source.execute("INSERT INTO swaps SELECT g, g, 10 * g, ROW(g, g)::pair FROM generate_series(1, 5) g")
    source.execute("CREATE TABLE shuffled (LIKE swaps INCLUDING ALL); INSERT INTO shuffled SELECT * FROM swaps")
    audience.join(ShapeUnderTest("swaps"), ShapeUnderTest("swaps", where="a > 3"), ShapeUnderTest("shuffled"))
    await audience.agree(is_patient=True)
    source.execute("CLUSTER shuffled USING shuffled_pkey; INSERT INTO shuffled (id) VALUES (6)")
    source.execute("ALTER TABLE swaps ALTER a SET DEFAULT 7; COMMENT ON COLUMN swaps.a IS 'none'; ANALYZE swaps")
    source.execute("INSERT INTO swaps (id) VALUES (6)")
    await audience.agree(is_patient=True)
    assert audience.rotations == [0, 0, 0]
    for change in (
        "ALTER TABLE swaps DROP COLUMN b, ADD COLUMN b int DEFAULT 5",
        "ALTER TABLE swaps ALTER a TYPE int USING a + 1",
        "ALTER TYPE pair ADD ATTRIBUTE z int",
        "BEGIN; ALTER TABLE swaps RENAME a TO c; ALTER TABLE swaps RENAME b TO a; ALTER TABLE swaps RENAME c TO b; COMMIT",
    ):
        source.execute(change)
        await audience.agree(is_patient=True)
    # The type that grew is also one of the other table's.
    assert audience.rotations == [4, 4, 1]
