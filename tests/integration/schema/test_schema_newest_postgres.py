"""Changes of tables on the newest Postgres, which publishes generated columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = pytest.mark.postgres


async def test_generated_columns_and_partitions_on_the_newest_postgres(
    bundled_postgres: ThrowawayPostgres, tmp_path: Path
) -> None:
    """
    Stored columns are served and compared, and another expression begins the shapes anew.

    A table with a virtual one is left alone: with full identity Postgres would refuse every update of it.

    Scenarios B12, H14, H16.
    """
    database = bundled_postgres.create_database("newest_schema")
    database.execute(
        "CREATE TABLE harmed (id int PRIMARY KEY, a int, thrice int GENERATED ALWAYS AS (a * 3) VIRTUAL);"
        "CREATE TABLE sums (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO sums SELECT g, g FROM generate_series(1, 5) g;"
        "CREATE TABLE parted (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); INSERT INTO parted VALUES (1, 1);"
        "CREATE TABLE later (id int PRIMARY KEY, a int); INSERT INTO later VALUES (11, 11)"
    )
    columns = ("id", "a", "twice")
    async with Service(database.url, tmp_path) as service, Audience(service.url, database.url) as audience:
        audience.join(ShapeUnderTest("sums", columns), ShapeUnderTest("sums", columns, "twice > 6"))
        audience.join(ShapeUnderTest("parted"), ShapeUnderTest("sums", ("id", "a"), "a > 3"))
        await audience.agree(is_patient=True)
        whole = await service.get("/v1/shape", table="sums", offset="-1")
        assert [sorted(message["value"]) for message in whole.json() if "value" in message] == [sorted(columns)] * 5
        answer = await service.get("/v1/shape", table="harmed", offset="-1", columns="id,a")
        assert answer.status_code == 400
        assert "refuses every update and delete" in answer.json()["errors"]["table"][0]
        database.execute("INSERT INTO harmed VALUES (1, 1); UPDATE harmed SET a = 2; DELETE FROM harmed")
        database.execute(
            "UPDATE sums SET a = a + 1; CREATE TABLE born PARTITION OF parted FOR VALUES FROM (20) TO (30)"
        )
        database.execute("INSERT INTO parted VALUES (21, 21)")
        await audience.agree(is_patient=True)
        assert set(audience.rotations) == {0}
        database.execute("ALTER TABLE sums ALTER twice SET EXPRESSION AS (a * 20)")
        database.execute("ALTER TABLE parted ATTACH PARTITION later FOR VALUES FROM (10) TO (20)")
        await audience.agree(is_patient=True)
        database.execute("UPDATE sums SET a = a - 2; UPDATE parted SET a = a + 1; DROP TABLE later")
        await audience.agree(is_patient=True)
        assert audience.rotations == [1, 1, 2, 0]
    database.drop()
