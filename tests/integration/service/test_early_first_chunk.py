from __future__ import annotations

from pathlib import Path

import pytest

from harness.service import Service
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = pytest.mark.postgres

ROWS_COUNT = 3000
OPEN_COUNT = 2000


class Reader:
    """
    A client of the whole table, chunk by chunk.
    """

    def __init__(self, service: Service) -> None:
        self.rows: list[int] = []
        self.is_up_to_date = False
        self._service = service
        self._at = {"offset": "-1"}

    async def read_on(self) -> None:
        """
        Read the next chunk.
        """
        answer = await self._service.get("/v1/shape", table="items", **self._at)
        assert answer.status_code == 200, answer.text
        self.rows += [int(message["value"]["id"]) for message in answer.json() if "value" in message]
        self._at = {"offset": answer.headers["electric-offset"], "handle": answer.headers["electric-handle"]}
        self.is_up_to_date = "electric-up-to-date" in answer.headers


async def test_the_first_chunks_are_read_while_the_snapshot_goes_on(
    database: ThrowawayDatabase, tmp_path: Path
) -> None:
    """
    A client gets the chunks that are full while the database has not delivered the rest, and then the rest.

    The rest cannot come: a policy of the table waits for a lock that is held until the first chunks were read.
    """
    role = f"reader_{database.name}"
    database.execute(
        f"""
        CREATE TABLE items (id int PRIMARY KEY, body text);
        INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(1, {ROWS_COUNT}) i;
        CREATE FUNCTION gate(id int) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            IF id > {OPEN_COUNT} THEN
                PERFORM pg_advisory_lock_shared(1);
                PERFORM pg_advisory_unlock_shared(1);
            END IF;
            RETURN true;
        END $$;
        ALTER TABLE items ENABLE ROW LEVEL SECURITY;
        CREATE POLICY gated ON items USING (gate(id));
        CREATE ROLE {role} LOGIN;
        GRANT SELECT ON items TO {role};
        """
    )
    env = {
        "PENSTOCK_POOLED_DATABASE_URL": database.url.replace("postgres@", f"{role}@"),
        "PENSTOCK_CHUNK_BYTES_MAX": "200000",
    }
    try:
        async with Service(database.url, tmp_path, env=env) as service:
            with database.connect() as holder:
                holder.execute("SELECT pg_advisory_lock(1)")
                reader = Reader(service)
                while len(reader.rows) < OPEN_COUNT // 2:
                    await reader.read_on()
                    assert not reader.is_up_to_date
                holder.execute("SELECT pg_advisory_unlock(1)")
            while not reader.is_up_to_date:
                await reader.read_on()
        assert sorted(reader.rows) == list(range(1, ROWS_COUNT + 1))
    finally:
        database.execute(f"REVOKE ALL ON items FROM {role}; DROP ROLE {role}")
