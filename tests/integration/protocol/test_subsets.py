"""
Subsets, bodies and removals against a running service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integration.protocol.conftest import Served

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

MISMATCH = (
    "The specified shape definition and handle do not match. Please ensure the shape definition is correct or omit the"
    " shape handle from the request to obtain a new one."
)
NEEDS_ORDER = "order_by is required when limit or offset is present"


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    """
    Somebody who asks the service.
    """
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def people(served: Served) -> None:
    """
    A table to ask about.
    """
    served.database.execute(
        "CREATE TYPE feeling AS ENUM ('calm', 'wild');"
        "CREATE TABLE people (id int PRIMARY KEY, name text, age int, mood feeling, big int8, doc json);"
        "INSERT INTO people SELECT i, 'p' || i, nullif(i % 5, 0), CASE WHEN i % 2 = 0 THEN 'calm' ELSE 'wild' END::feeling,"
        " 9007199254740993 + i, '{}' FROM generate_series(1, 20) AS i"
    )


def ids(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [int(row["value"]["id"]) for row in answer.json()["data"]]


def ask(http: httpx.Client, shape: dict[str, str] | None = None, **subset: Any) -> httpx.Response:
    """
    Ask by GET, see to it that POST says the same, and give the answer.
    """
    params = {"table": "people", "offset": "now", "log": "changes_only", **(shape or {})}
    fields = {f"subset__{k}": json.dumps(v) if k == "params" else str(v) for k, v in subset.items()}
    got = http.get("/v1/shape", params=params | fields)
    posted = http.post("/v1/shape", params=params, json=subset)
    nested = http.post("/v1/shape", json={**params, "subset": subset})
    assert got.status_code == posted.status_code == nested.status_code
    if got.status_code == 200:
        assert ids(got) == ids(posted) == ids(nested)
    else:
        assert got.json() == posted.json() == nested.json()
    for answer in (got, posted, nested):
        assert answer.headers["cache-control"] == "no-cache"
    return got


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ({"order_by": "id", "limit": 3}, [1, 2, 3]),
        ({"order_by": "id DESC", "limit": "2", "offset": 1}, [19, 18]),
        ({"order_by": '"age" ASC NULLS FIRST, id', "limit": 5}, [5, 10, 15, 20, 1]),
        ({"order_by": "age DESC NULLS LAST, id DESC", "limit": 2}, [19, 14]),
        ({"where": "age = $1 AND id < $2", "params": {"1": "4", "2": 15}, "order_by": "id"}, [4, 9, 14]),
        ({"where": "age = $1::int4", "params": {"1": "4"}, "order_by": "id", "limit": 1}, [4]),
        ({"where": "mood = 'calm'", "order_by": "id", "limit": 2}, [2, 4]),
        ({"where": "mood IN ('wild')", "order_by": "id", "limit": 1}, [1]),
        ({"where": "big = $1", "params": {"1": "9007199254740998"}}, [5]),
        ({"where": "name = $1", "params": {"1": "x' OR true OR name = 'x"}}, []),
        ({"where": "10 / (id - 30) <= 0", "order_by": "id", "limit": 1}, [1]),
        ({"where": "id > 18", "order_by": "id, 1"}, [19, 20]),
    ],
)
def test_a_subset_is_the_query(http: httpx.Client, subset: dict[str, Any], expected: list[int]) -> None:
    """
    Condition, parameters, order, limit and offset, by GET and by POST alike (B22, E1, E2, E4, E6, E11).
    """
    assert ids(ask(http, **subset)) == expected


def test_a_subset_lies_within_the_shape(http: httpx.Client) -> None:
    """
    The shape's own condition holds too, and neither failing nor not failing tells of a row outside it (E2).
    """
    shape = {"where": "id > 15"}
    assert ids(ask(http, shape, where="id < 18", order_by="id")) == [16, 17]
    # Row 3 is outside the shape: what it would do to this condition is not seen.
    assert ids(ask(http, shape, where="1 / (id - 3) >= 0", order_by="id", limit=1)) == [16]
    failing = ask(http, shape, where="1 / (id - 16) >= 0")
    assert failing.json()["errors"] == {"subset": {"where": "the condition cannot be evaluated (SQLSTATE 22012)"}}


def test_a_subset_tells_what_it_shows(http: httpx.Client) -> None:
    """
    Which transactions, up to where in the log, one mark for all rows, and where to go on (E1, E9).
    """
    answer = ask(http, order_by="id", limit=2)
    body = answer.json()
    told = body["metadata"]
    assert told.keys() == {"xmin", "xmax", "xip_list", "snapshot_mark", "database_lsn"}
    assert 0 < int(told["xmin"]) <= int(told["xmax"])
    assert 0 <= told["snapshot_mark"] < 2**31
    assert int(told["database_lsn"]) > 0
    assert {row["headers"]["snapshot_mark"] for row in body["data"]} == {told["snapshot_mark"]}
    assert body["data"][0]["headers"] == {
        "operation": "insert", "relation": ["public", "people"], "snapshot_mark": told["snapshot_mark"],
    }  # fmt: skip
    headers = answer.headers
    assert (headers["electric-snapshot"], headers["electric-offset"]) == ("true", "0_inf")
    assert json.loads(headers["electric-schema"])["id"]["pk_index"] == 0
    unwanted = {"etag", "electric-up-to-date", "electric-has-data", "electric-cursor"}
    assert not unwanted & headers.keys()


@pytest.mark.parametrize(("log", "asked", "told"), [
    ("changes_only", "-1", "0_0"), ("full", "-1", "-1"), ("full", "now", "0_inf"), ("full", "0_0", "0_0"),
    ("changes_only", "0_inf", "0_inf"), ("changes_only", "9223372036854775000_0", "0_inf"),
])  # fmt: skip
def test_the_place_to_go_on_is_never_behind_what_the_client_has(
    http: httpx.Client, log: str, asked: str, told: str
) -> None:
    """
    A real place is echoed, `now` is the end, and a place of another life is the end of this one (E9).

    Whether a place is of another life is not known while the engine has not read all there is: 503, come again.
    """
    shape = {"table": "people", "log": log}
    first = http.get("/v1/shape", params={**shape, "offset": "now"})
    more = {} if asked in {"-1", "now"} else {"handle": first.headers["electric-handle"]}
    question = {**shape, **more, "offset": asked, "subset__where": "id = 1"}
    while (answer := http.get("/v1/shape", params=question)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        assert answer.headers["retry-after"] == "5"
    assert ids(answer) == [1]
    assert answer.headers["electric-offset"] == told


@pytest.mark.parametrize(
    ("subset", "errors"),
    [
        ({"limit": 1}, {"order_by": [NEEDS_ORDER]}),
        ({"offset": 0}, {"order_by": [NEEDS_ORDER]}),
        ({"limit": 0, "order_by": "id"}, {"limit": ["must be greater than 0"]}),
        ({"offset": -1, "order_by": "id"}, {"offset": ["must be greater than or equal to 0"]}),
        ({"limit": "many", "order_by": "id"}, {"limit": ["is invalid"]}),
        ({"where": "id IN (SELECT 1)"}, {"where": ["Subqueries are not allowed in subsets"]}),
        ({"where": "id"}, {"where": ["WHERE clause must return a boolean"]}),
        ({"where": "nope = 1"}, {"where": ["At location 0: unknown reference nope"]}),
        ({"where": "id = $1"}, {"where": ["At location 5: parameter $1 was not provided"]}),
        ({"where": "id = $1", "params": {"a": "1"}}, {"params": ["Parameters can only use numbers as keys"]}),
        (
            {"where": "id = $1", "params": {"2": "1"}},
            {"params": ["Parameters must be numbered sequentially, starting from 1"]},
        ),
        ({"order_by": "id::text"}, {"order_by": ["At location 20: TypeCast expressions are not allowed in ORDER BY clauses"]}),
        ({"order_by": "lower(name)"}, {"order_by": ["At location 18: FuncCall expressions are not allowed in ORDER BY clauses"]}),
        ({"order_by": "id, (SELECT 1)"}, {"order_by": ["At location 22: SubLink expressions are not allowed in ORDER BY clauses"]}),
        (
            {"order_by": "CASE WHEN true THEN id END"},
            {"order_by": ["At location 18: CaseExpr expressions are not allowed in ORDER BY clauses"]},
        ),
        ({"order_by": "$1"}, {"order_by": ["At location 18: parameter $1 is not supported in ORDER BY clauses"]}),
        ({"order_by": "id; SELECT 1"}, {"order_by": ["Unexpected `;` in order by"]}),
        ({"order_by": "nope"}, {"order_by": ["At location 18: unknown reference nope"]}),
        (
            {"order_by": "information_schema.tables"},
            {"order_by": ["At location 18: unknown reference information_schema.tables"]},
        ),
        ({"order_by": "doc"}, {"where": "could not identify an ordering operator for type json"}),
    ],
)  # fmt: skip
def test_what_a_subset_may_not_ask_is_said_under_its_name(
    http: httpx.Client, subset: dict[str, Any], errors: dict[str, Any]
) -> None:
    """
    Each refusal with its field and its place (E2, E5, E7).
    """
    answer = ask(http, **subset)
    assert (answer.status_code, answer.json()) == (400, {"message": "Invalid request", "errors": {"subset": errors}})


def test_what_is_too_long_is_refused(http: httpx.Client) -> None:
    """
    A condition of more than 64 KiB, by POST, because no path is that long (E5).
    """
    where = "name = '" + "x" * 65_536 + "'"
    answer = http.post("/v1/shape", params={"table": "people", "offset": "now"}, json={"where": where})
    assert answer.status_code == 400
    assert "bigger than maximum size" in answer.json()["errors"]["subset"]["where"][0]


def test_a_label_that_an_enum_does_not_have_is_refused(http: httpx.Client) -> None:
    """
    The client is at fault, and its condition is (E4).
    """
    answer = ask(http, where="mood = 'bored'")
    assert answer.status_code == 400
    assert "bored" in str(answer.json()["errors"]["subset"]["where"])


def test_only_queryable_columns_may_be_named(http: httpx.Client) -> None:
    """
    In a subset's condition and order, selected or not; the shape is the same with and without the list (B27, E3).
    """
    shape = {"queryable_columns": "id,age", "columns": "id", "where": "name <> 'p1'"}
    answer = ask(http, shape, where="age = 4", order_by="age, id", limit=1)
    assert ids(answer) == [4]
    assert list(answer.json()["data"][0]["value"]) == ["id"]
    refused = {"where": ["At location 0: unknown reference name"]}
    assert ask(http, shape, where="name = 'p4'").json()["errors"] == {"subset": refused}
    refused = {"order_by": ["At location 18: unknown reference name"]}
    assert ask(http, shape, order_by="name").json()["errors"] == {"subset": refused}
    without = ask(http, {"columns": "id", "where": "name <> 'p1'"}, where="age = 4")
    assert without.headers["electric-handle"] == answer.headers["electric-handle"]


def test_problems_of_the_shape_come_first(http: httpx.Client) -> None:
    """
    Stage by stage: the subset is the last.
    """
    answer = ask(http, {"columns": "name"}, limit=1)
    assert list(answer.json()["errors"]) == ["columns"]


def test_a_subset_of_a_log_that_is_over_is_told_so(http: httpx.Client) -> None:
    """
    Under the handle to go on with (C10, E10).
    """
    current = ask(http, where="id = 1").headers["electric-handle"]
    params = {"table": "people", "log": "changes_only", "offset": "0_0", "handle": "1-1"}
    for answer in (
        http.get("/v1/shape", params=params | {"subset__where": "id = 1"}),
        http.post("/v1/shape", params=params, json={"where": "id = 1"}),
    ):
        assert (answer.status_code, answer.json()) == (409, [{"headers": {"control": "must-refetch"}}])
        assert answer.headers["electric-handle"] == current
        assert answer.headers["cache-control"] == "no-cache"


def test_a_large_subset_comes_whole(served: Served, http: httpx.Client) -> None:
    """
    What does not fit into memory for one answer goes by a file, and nothing of it is left (E1).
    """
    served.database.execute("CREATE TABLE wide (id int PRIMARY KEY, t text)")
    served.database.execute("INSERT INTO wide SELECT i, repeat('w', 1000) FROM generate_series(1, 4000) AS i")
    params = {"table": "wide", "offset": "now", "log": "changes_only", "subset__order_by": "id"}
    assert ids(http.get("/v1/shape", params=params)) == list(range(1, 4001))


def test_a_body_may_hold_any_parameter(http: httpx.Client) -> None:
    """
    Without a subset the answer is the log's, and its place stays in the query (E11).
    """
    answer = http.post("/v1/shape", params={"offset": "-1"}, json={"table": "people", "columns": "id"})
    assert answer.status_code == 200
    assert len(answer.json()) == 21
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["electric-offset"] == "0_0"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"{", 400, "Invalid JSON in request body"),
        (b"[1]", 400, "Request body must be a JSON object"),
        (b'"x"', 400, "Request body must be a JSON object"),
        (b'{"where":"' + b"x" * 8_000_000 + b'"}', 413, "Request body too large"),
    ],
)
def test_a_body_that_is_none_is_refused(http: httpx.Client, body: bytes, status: int, error: str) -> None:
    """
    And the server goes on (B17).
    """
    answer = http.post("/v1/shape", params={"table": "people", "offset": "-1"}, content=body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.headers["cache-control"] == "max-age=0, private, must-revalidate"
    assert http.get("/v1/shape", params={"table": "people", "offset": "-1"}).status_code == 200


@pytest.mark.parametrize(
    ("definition", "unlike"),
    [
        ({}, {"columns": "id"}),
        ({"where": "id > 3"}, {"where": "id > 4"}),
        ({"where": "id > $1", "params[1]": "5"}, {"where": "id > $1", "params[1]": "6"}),
        ({"columns": "id,name"}, {"columns": "id,age"}),
    ],
)
def test_a_shape_is_removed_by_what_it_is(
    http: httpx.Client, definition: dict[str, str], unlike: dict[str, str]
) -> None:
    """
    That one alone: who reads it is told of its successor, and what was never made is not made for that (B24, I5).
    """
    shape = {"table": "people", "replica": "full", **definition}
    handle = http.get("/v1/shape", params={**shape, "offset": "-1"}).headers["electric-handle"]
    other = http.delete("/v1/shape", params={"table": "people", "replica": "full", **unlike})
    assert (other.status_code, other.json()) == (404, {"message": "No existing shape found"})
    wrong = http.delete("/v1/shape", params={**shape, "handle": "1-1"})
    assert (wrong.status_code, wrong.json()) == (400, {"message": MISMATCH})
    removed = http.delete("/v1/shape", params=shape)
    assert (removed.status_code, removed.content) == (202, b"")
    assert removed.headers["cache-control"] == "no-cache"
    told = http.get("/v1/shape", params={**shape, "offset": "0_0", "handle": handle})
    assert told.status_code == 409
    assert told.headers["electric-handle"] not in {handle, ""}
    by_handle = http.delete("/v1/shape", params={"handle": told.headers["electric-handle"]})
    assert by_handle.status_code == 202


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("", {"handle": ["can't be blank when shape definition is missing"]}),
        ("table=people&live=banana", {"live": ["is invalid"]}),
        ("table=people&columns=name", {"columns": ["The list of columns must include all primary key columns, missing: id"]}),
    ],
)  # fmt: skip
def test_a_removal_that_names_nothing_is_refused(http: httpx.Client, query: str, errors: dict[str, list[str]]) -> None:
    """
    By the parameter at fault, and strictly (B24).
    """
    answer = http.delete(f"/v1/shape?{query}")
    assert (answer.status_code, answer.json()) == (400, {"message": "Invalid request", "errors": errors})
    assert answer.headers["cache-control"] == "no-cache"
