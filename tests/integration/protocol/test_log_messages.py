"""
What a running service says of rows and of requests, message by message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integration.protocol.conftest import Served

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


class Reader:
    """
    Reads one shape from the beginning.
    """

    def __init__(self, http: httpx.Client, table: str, **params: str) -> None:
        self._http = http
        self.params = {"table": table, **params}
        self.at: dict[str, str] = {"offset": "-1"}
        self.headers: dict[str, str] = {}
        self.read()

    def read(self) -> list[dict[str, Any]]:
        """
        Read up to the end as it is; gives the change messages.
        """
        found: list[dict[str, Any]] = []
        while True:
            answer = self._http.get("/v1/shape", params=self.params | self.at)
            found += self._take(answer)
            if "electric-up-to-date" in answer.headers:
                return found

    def wait(self, count: int) -> list[dict[str, Any]]:
        """
        Wait for so many change messages.
        """
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += self._take(self._http.get("/v1/shape", params=self.params | self.at | {"live": "true"}))
        assert len(found) == count
        return found

    def _take(self, answer: httpx.Response) -> list[dict[str, Any]]:
        assert answer.status_code == 200, answer.text
        self.headers = dict(answer.headers)
        self.at = {"offset": answer.headers["electric-offset"], "handle": answer.headers["electric-handle"]}
        return [message for message in answer.json() if "key" in message]


def brief(messages: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(message["headers"]["operation"], message["value"]) for message in messages]


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    """
    Somebody who asks the service.
    """
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def test_transactions_come_one_after_the_other(served: Served, http: httpx.Client) -> None:
    """
    Nine of one row each, read at once afterwards, each the last of its own (C4, I2).
    """
    served.database.execute("CREATE TABLE nine (id int PRIMARY KEY)")
    early, late = Reader(http, "nine"), Reader(http, "nine")
    for number in range(9):
        served.database.execute(f"INSERT INTO nine VALUES ({number})")
    live = early.wait(9)
    assert late.read() == live
    assert brief(live) == [("insert", {"id": str(number)}) for number in range(9)]
    assert all(message["headers"]["last"] is True for message in live)
    assert len({message["headers"]["lsn"] for message in live}) == 9


def test_updates_carry_what_changed_or_everything(served: Served, http: httpx.Client) -> None:
    """
    The key and what changed; with `replica=full` the whole row and what it was; what changes nothing is not said (C16).
    """
    served.database.execute(
        "CREATE TABLE diffs (id int PRIMARY KEY, a text, b text); INSERT INTO diffs VALUES (1, 'x', 'y')"
    )
    small, full = Reader(http, "diffs"), Reader(http, "diffs", replica="full")
    served.database.execute("UPDATE diffs SET a = 'x'")
    served.database.execute("UPDATE diffs SET a = 'z'")
    served.database.execute("DELETE FROM diffs")
    assert brief(small.wait(2)) == [("update", {"id": "1", "a": "z"}), ("delete", {"id": "1"})]
    update, delete = full.wait(2)
    assert (update["value"], update["old_value"]) == ({"id": "1", "a": "z", "b": "y"}, {"a": "x"})
    assert delete["value"] == {"id": "1", "a": "z", "b": "y"}


def test_a_changed_key_is_a_delete_and_an_insert(served: Served, http: httpx.Client) -> None:
    """
    At one place and the next, each naming the other; of a table without a key all columns are the key (C17, C18).
    """
    served.database.execute("CREATE TABLE renamed (id int PRIMARY KEY, t text); INSERT INTO renamed VALUES (1, 'a')")
    served.database.execute("CREATE TABLE keyless (a int, b text); INSERT INTO keyless VALUES (1, NULL)")
    keyed, keyless = Reader(http, "renamed"), Reader(http, "keyless")
    served.database.execute("UPDATE renamed SET id = 2")
    served.database.execute("UPDATE keyless SET b = 'x'")
    old, new = '"public"."renamed"/"1"', '"public"."renamed"/"2"'
    gone, come = keyed.wait(2)
    assert (gone["key"], gone["headers"]["key_change_to"], gone["value"]) == (old, new, {"id": "1"})
    assert (come["key"], come["headers"]["key_change_from"], come["value"]) == (new, old, {"id": "2", "t": "a"})
    assert come["headers"]["op_position"] == gone["headers"]["op_position"] + 1
    assert "last" not in gone["headers"]
    assert come["headers"]["last"] is True
    gone, come = keyless.wait(2)
    assert (gone["key"], come["key"]) == ('"public"."keyless"/"1"/_', '"public"."keyless"/"1"/"x"')


def test_a_transaction_is_told_as_far_as_it_matters(served: Served, http: httpx.Client) -> None:
    """
    Other tables and rows leave gaps in the positions, `last` is on the last that matters; rows enter and leave by the
    condition, columns that are not selected are silent (C19, C20, C21).
    """
    served.database.execute(
        "CREATE TABLE mixed (id int PRIMARY KEY, n int, t text); CREATE TABLE beside (id int PRIMARY KEY)"
    )
    rows = Reader(http, "mixed", where="n > 0", columns="id,n")
    beside = Reader(http, "beside")
    served.database.execute(
        "BEGIN; INSERT INTO mixed VALUES (1, 1, 'a'), (2, -1, 'b'); INSERT INTO beside VALUES (1);"
        "UPDATE mixed SET t = 'c' WHERE id = 1; UPDATE mixed SET n = 5 WHERE id = 2; UPDATE mixed SET n = -5 WHERE id = 1;"
        "INSERT INTO beside VALUES (2); COMMIT"
    )
    found = rows.wait(3)
    assert brief(found) == [
        ("insert", {"id": "1", "n": "1"}),
        ("insert", {"id": "2", "n": "5"}),
        ("delete", {"id": "1"}),
    ]
    positions = [message["headers"]["op_position"] for message in found]
    assert positions == sorted(positions)
    assert all(position % 2 == 0 for position in positions)
    assert [message["headers"].get("last") for message in found] == [None, None, True]
    assert len({message["headers"]["lsn"] for message in found + beside.wait(2)}) == 1


def test_names_may_be_anything(served: Served, http: httpx.Client) -> None:
    """
    Quotes, commas, blanks and capitals, in lists of columns too; keys in the order of the primary key (C23, I13).
    """
    served.database.execute(
        'CREATE TABLE "Odd, ""Table""" ("b c" int, "A,1" int, "q""q" text, PRIMARY KEY ("A,1", "b c"));'
        'INSERT INTO "Odd, ""Table""" VALUES (1, 2, \'x/y\')'
    )
    params = {"table": '"Odd, ""Table"""', "columns": '"A,1","b c","q""q"', "offset": "-1"}
    answer = http.get("/v1/shape", params=params)
    row = answer.json()[0]
    assert row["key"] == '"public"."Odd, ""Table"""/"2"/"1"'
    assert row["value"] == {"A,1": "2", "b c": "1", 'q"q': "x/y"}
    assert json.loads(answer.headers["electric-schema"])["A,1"]["pk_index"] == 0


def test_the_schema_is_told_as_it_is_now(served: Served, http: httpx.Client) -> None:
    """
    A column that may be NULL no longer, under the same handle (C12).
    """
    served.database.execute("CREATE TABLE nullable (id int PRIMARY KEY, t text)")
    reader = Reader(http, "nullable")
    handle = reader.at["handle"]
    assert "not_null" not in json.loads(reader.headers["electric-schema"])["t"]
    served.database.execute("ALTER TABLE nullable ALTER COLUMN t SET NOT NULL")
    while "not_null" not in json.loads(reader.headers["electric-schema"])["t"]:
        reader.read()
    assert reader.at["handle"] == handle


def test_truncated_and_replaced_tables_rotate(served: Served, http: httpx.Client) -> None:
    """
    Live and later requests are told so, and the new log has what is there now (C11, C13, I9).
    """
    served.database.execute("CREATE TABLE mortal (id int PRIMARY KEY); INSERT INTO mortal VALUES (1)")
    reader = Reader(http, "mortal")
    for ending in (
        "TRUNCATE mortal; INSERT INTO mortal VALUES (2)",
        "DROP TABLE mortal; CREATE TABLE mortal (id int PRIMARY KEY, t text); INSERT INTO mortal VALUES (3, 'x')",
    ):
        served.database.execute(ending)
        while (answer := http.get("/v1/shape", params=reader.params | reader.at | {"live": "true"})).status_code != 409:
            assert answer.status_code == 200
        assert answer.json() == [{"headers": {"control": "must-refetch"}}]
        before, reader = reader, Reader(http, "mortal")
        assert reader.at["handle"] != before.at["handle"]
    rows = http.get("/v1/shape", params=reader.params | {"offset": "-1"}).json()[:-1]
    assert brief(rows) == [("insert", {"id": "3", "t": "x"})]


@pytest.mark.parametrize(
    ("params", "errors"),
    [
        ({"where": "1 x 1"}, {"where": ['At location 17: syntax error at or near "x"']}),
        ({"where": "id"}, {"where": ["WHERE clause must return a boolean"]}),
        ({"where": "nope = 1"}, {"where": ["At location 0: unknown reference nope"]}),
        ({"where": "id = $1"}, {"where": ["At location 5: parameter $1 was not provided"]}),
        ({"where": "id = $1", "params[1]": "a"}, {"where": ["At location 5: invalid syntax for type int4: a"]}),
        ({"where": "id = $1", "params[1]": "1", "params[3]": "1"},
         {"params": ["Parameters must be numbered sequentially, starting from 1"]}),
        ({"columns": "t"}, {"columns": ["The list of columns must include all primary key columns, missing: id"]}),
        ({"columns": "id,x,y"}, {"columns": ["The following columns are not found on the table: x, y"]}),
        ({"columns": "id, t"}, {"columns": ["Invalid unquoted identifier contains special characters:  t"]}),
        ({"replica": "bogus", "log": "bogus"}, {"replica": ["is invalid"], "log": ["is invalid"]}),
    ],
)  # fmt: skip
def test_a_definition_that_cannot_be_is_refused(
    served: Served, http: httpx.Client, params: dict[str, str], errors: dict[str, list[str]]
) -> None:
    """
    By the parameter at fault, in the words that clients know (B11, B13, B14, B16).
    """
    served.database.execute("CREATE TABLE IF NOT EXISTS plain (id int PRIMARY KEY, t text)")
    answer = http.get("/v1/shape", params={"table": "plain", "offset": "-1", **params})
    assert (answer.status_code, answer.json()) == (400, {"message": "Invalid request", "errors": errors})


def test_a_value_is_not_a_condition(served: Served, http: httpx.Client) -> None:
    """
    What looks like one selects nothing as a parameter; more than nine parameters have their own places (B14, B22).
    """
    served.database.execute("CREATE TABLE guarded (id int PRIMARY KEY, t text); INSERT INTO guarded VALUES (1, 'a')")
    text = "'nonexistent' OR TRUE"

    def rows(**params: str) -> int:
        answer = http.get("/v1/shape", params={"table": "guarded", "offset": "-1", **params})
        assert answer.status_code == 200, answer.text
        return len(answer.json()) - 1

    assert rows(where=f"t = {text}") == 1
    assert rows(where="t = $1", **{"params[1]": text}) == 0
    many = " OR ".join(f"id = ${number}" for number in range(1, 13))
    assert rows(where=many, **{f"params[{number}]": str(13 - number) for number in range(1, 13)}) == 1


def test_a_locked_table_is_waited_for_and_then_refused(served: Served, http: httpx.Client) -> None:
    """
    With a time to try again, after which it works (B21, C25).
    """
    served.database.execute("CREATE TABLE locked (id int PRIMARY KEY)")
    with served.database.connect() as connection:
        connection.execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        answer = http.get("/v1/shape", params={"table": "locked", "offset": "-1"})
        assert (answer.status_code, answer.json()) == (
            503,
            {"message": "Snapshot timed out while waiting for a table lock"},
        )
        assert answer.headers["retry-after"] == "10"
        assert answer.headers["electric-internal-known-error"] == "true"
        connection.execute("COMMIT")
    while (answer := http.get("/v1/shape", params={"table": "locked", "offset": "-1"})).status_code == 503:
        pass
    assert answer.status_code == 200
