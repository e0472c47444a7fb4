"""Who may change what: publications that others keep, and roles that own nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until
from harness.workload import ShapeUnderTest
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = pytest.mark.postgres


@pytest.fixture
def role(database: ThrowawayDatabase) -> Iterator[str]:
    """
    A role that may follow a replication stream, and nothing else.
    """
    name = f"follower_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN REPLICATION; REVOKE CREATE ON DATABASE {database.name} FROM PUBLIC")
    yield name
    database.execute(f"DROP OWNED BY {name}")
    with database.server.connect() as connection:
        connection.execute(f"REASSIGN OWNED BY {name} TO postgres")


async def refused(service: Service, table: str) -> str:
    """
    The sentence with which a shape is refused for the time being.
    """
    answer = await service.get("/v1/shape", table=table, offset="-1")
    assert answer.status_code == 503, answer.text
    message: str = answer.json()["message"]
    return message


def fix_of(sentence: str) -> str:
    """
    The statement that a refusal says to run.
    """
    return sentence.partition(" Run: ")[2]


@pytest.mark.parametrize("is_manual", [True, False])
async def test_a_role_that_owns_nothing_follows_tables_that_others_publish(
    database: ThrowawayDatabase, role: str, tmp_path: Path, *, is_manual: bool
) -> None:
    """
    A9, H12. Each refusal names what is missing and the statement that mends it; running these, and no more, is enough.
    """
    database.execute("CREATE TABLE things (id int PRIMARY KEY, a int); INSERT INTO things VALUES (1, 1)")
    database.execute("CREATE PUBLICATION kept_by_hand; CREATE TABLE others (id int PRIMARY KEY)")
    url = database.url.replace("postgres@", f"{role}@")
    env = {"PENSTOCK_PUBLICATION_NAME": "kept_by_hand", "PENSTOCK_MANUAL_TABLE_PUBLISHING": str(is_manual).lower()}
    async with Service(url, tmp_path, env=env) as service, Audience(service.url, database.url) as audience:
        missing = await refused(service, "things")
        assert 'is missing from the publication "kept_by_hand"' in missing
        assert ("MANUAL_TABLE_PUBLISHING" in missing) is is_manual
        database.execute(fix_of(missing))
        weak = await refused(service, "things")
        assert "does not have its replica identity set to FULL" in weak
        database.execute(fix_of(weak))
        assert "permission denied" in await refused(service, "things")
        database.execute(f"GRANT SELECT ON things TO {role}")
        audience.join(ShapeUnderTest("things"), ShapeUnderTest("things", where="a > 1"))
        await audience.agree()
        database.execute("UPDATE things SET a = a + 1; INSERT INTO things VALUES (2, 2)")
        await audience.agree()
        assert 'is missing from the publication "kept_by_hand"' in await refused(service, "others")
        assert set(audience.rotations) == {0}
    assert database.query("SELECT tablename FROM pg_publication_tables") == [("things",)]


async def test_a_publication_that_renames_partitions_is_refused(database: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    H12. Published as their root, partitions cannot be told apart and their truncates are lost; plain tables are served.
    """
    database.execute(
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE plain (id int PRIMARY KEY);"
        "CREATE PUBLICATION by_root WITH (publish_via_partition_root = true)"
    )
    async with Service(database.url, tmp_path, env={"PENSTOCK_PUBLICATION_NAME": "by_root"}) as service:
        assert (await service.get("/v1/shape", table="plain", offset="-1")).status_code == 200
        sentence = await refused(service, "parted")
        assert "publishes changes of partitions as changes of their root" in sentence
        assert "publishes changes of partitions" in await refused(service, "parted_1")
        database.execute(fix_of(sentence))

        async def is_served() -> bool:
            return (await service.get("/v1/shape", table="parted", offset="-1")).status_code == 200

        await until("partitions are served", is_served)
