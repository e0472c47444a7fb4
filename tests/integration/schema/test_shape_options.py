"""What a shape of some columns, of changes only, from now on, or with whole rows is told, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from harness.service import Service
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = [pytest.mark.postgres, pytest.mark.asyncio(loop_scope="module")]


class Reader:
    """
    Reads one shape by plain requests.
    """

    def __init__(self, service: Service, table: str, **params: str) -> None:
        self._service = service
        self._params = {"table": table, **params}
        self._at: dict[str, str] = {}

    async def read(self, offset: str | None = None, **more: str) -> list[tuple[Any, ...]]:
        """
        Ask from where it is up to the end; gives (operation, key, value, old value) of each message.
        """
        told: list[tuple[Any, ...]] = []
        while True:
            where = self._at or {"offset": offset or "-1"}
            answer = await self._service.get("/v1/shape", **self._params, **where, **more)
            assert answer.status_code == 200, answer.text
            self._at = {"offset": answer.headers["electric-offset"], "handle": answer.headers["electric-handle"]}
            told += [
                (
                    message["headers"]["operation"],
                    message["key"].rpartition("/")[2].strip('"'),
                    message["value"],
                    message.get("old_value"),
                )
                for message in answer.json()
                if "key" in message
            ]
            if "electric-up-to-date" in answer.headers:
                return told

    async def wait(self) -> list[tuple[Any, ...]]:
        """
        Wait for what comes next, then read all there is.
        """
        return await self.read(live="true") + await self.read()


async def test_rows_move_with_their_keys_and_keep_what_is_stored_apart(
    service: Service, source: ThrowawayDatabase
) -> None:
    """
    H3. Key changes in, out and within; large values that an update does not touch are known when a row moves.
    """
    source.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, a int, big text); ALTER TABLE docs ALTER big SET STORAGE EXTERNAL"
    )
    source.execute("INSERT INTO docs SELECT g, g, repeat('x', 4000) FROM generate_series(1, 3) g")
    big = "x" * 4000
    plain, full = Reader(service, "docs", where="a > 1"), Reader(service, "docs", where="a > 1", replica="full")
    listed = Reader(service, "docs", where="a > 1 AND big LIKE 'x%'", columns="id,a")
    for reader in (plain, full, listed):
        assert {key for _, key, _, _ in await reader.read()} == {"2", "3"}
    with source.connect() as connection, connection.transaction():
        connection.execute("UPDATE docs SET a = 5 WHERE id = 1")
        connection.execute("UPDATE docs SET id = 12, a = 0 WHERE id = 2")
        connection.execute("UPDATE docs SET id = 13 WHERE id = 3")
        connection.execute("UPDATE docs SET a = 6 WHERE id = 1")
    row_3, row_13 = {"id": "3", "a": "3", "big": big}, {"id": "13", "a": "3", "big": big}
    assert await plain.wait() == [
        ("insert", "1", {"id": "1", "a": "5", "big": big}, None),
        ("delete", "2", {"id": "2"}, None),
        ("delete", "3", {"id": "3"}, None),
        ("insert", "13", row_13, None),
        ("update", "1", {"id": "1", "a": "6"}, None),
    ]
    assert await full.wait() == [
        ("insert", "1", {"id": "1", "a": "5", "big": big}, None),
        ("delete", "2", {"id": "2", "a": "2", "big": big}, None),
        ("delete", "3", row_3, None),
        ("insert", "13", row_13, None),
        ("update", "1", {"id": "1", "a": "6", "big": big}, {"a": "5"}),
    ]
    assert await listed.wait() == [
        ("insert", "1", {"id": "1", "a": "5"}, None),
        ("delete", "2", {"id": "2"}, None),
        ("delete", "3", {"id": "3"}, None),
        ("insert", "13", {"id": "13", "a": "3"}, None),
        ("update", "1", {"id": "1", "a": "6"}, None),
    ]


async def test_changes_only_and_from_now_on(service: Service, source: ThrowawayDatabase) -> None:
    """
    F8. Without rows to begin with, both get what comes, also of rows that they never got; silent updates say nothing.
    """
    source.execute(
        "CREATE TABLE lines (id int PRIMARY KEY, a int, b text); INSERT INTO lines VALUES (1, 1, 'x'), (2, 2, 'x')"
    )
    changes = Reader(service, "lines", where="a > 0", log="changes_only", columns="id,a")
    now = Reader(service, "lines", where="a > 0", columns="id,a")
    assert await changes.read() == []
    assert await now.read("now") == []
    source.execute("UPDATE lines SET b = 'y'")
    source.execute(
        "UPDATE lines SET a = 7 WHERE id = 1; UPDATE lines SET a = 0 WHERE id = 2; INSERT INTO lines VALUES (3, 3, 'z')"
    )
    expected = [
        ("update", "1", {"id": "1", "a": "7"}, None),
        ("delete", "2", {"id": "2"}, None),
        ("insert", "3", {"id": "3", "a": "3"}, None),
    ]
    assert await changes.wait() == expected
    assert await now.wait() == expected


async def test_conditions_may_read_columns_that_may_not_be_asked_for(
    service: Service, source: ThrowawayDatabase
) -> None:
    """
    B27. A list of queryable columns is the default for what is served and limits it, and says nothing about the condition.
    """
    source.execute(
        "CREATE TABLE people (id int PRIMARY KEY, name text, secret text); INSERT INTO people VALUES (1, 'a', 's')"
    )
    reader = Reader(service, "people", queryable_columns="id,name", where="secret = 's'")
    assert await reader.read() == [("insert", "1", {"id": "1", "name": "a"}, None)]
    source.execute("UPDATE people SET secret = 't'")
    assert await reader.wait() == [("delete", "1", {"id": "1"}, None)]
    answer = await service.get(
        "/v1/shape", table="people", offset="-1", queryable_columns="id,name", columns="id,secret"
    )
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["columns"])


async def test_generated_columns_are_refused_where_the_stream_has_none(
    service: Service, source: ThrowawayDatabase
) -> None:
    """
    B11. On a server that does not publish them a shape of all columns is refused by name, one without them is served.
    """
    source.execute("CREATE TABLE sums (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)")
    for more in ({}, {"columns": "id,twice"}, {"columns": "id", "where": "twice > 2"}):
        answer = await service.get("/v1/shape", table="sums", offset="-1", **more)
        assert answer.status_code == 400
        assert "are generated and cannot be" in answer.text
    reader = Reader(service, "sums", columns="id,a", where="a > 2")
    assert await reader.read() == []
    source.execute("INSERT INTO sums VALUES (1, 3)")
    assert await reader.wait() == [("insert", "1", {"id": "1", "a": "3"}, None)]
