"""
Tries to see what is not one's own: every way a request can be put, by both doors.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from harness.guard import COLUMNS
from integration.authorisation.conftest import Door, owners, rows

pytestmark = pytest.mark.postgres


# --- plainly ---------------------------------------------------------------------------------------------------------


def test_everybody_sees_their_own(door: Door) -> None:
    """
    One request, three users, three answers, with the columns that each may see.
    """
    assert owners(door.ask("alice")) == {"alice"}
    assert owners(door.ask("bob")) == {"bob"}
    assert {row["owner"] for row in rows(door.ask("admin"))} >= {"alice", "bob"}
    assert all(row.keys() == set(COLUMNS) for row in rows(door.ask("alice")))
    assert all("salary" in row for row in rows(door.ask("admin")))
    assert set(json.loads(door.ask("alice").headers["electric-schema"])) == set(COLUMNS)


@pytest.mark.parametrize(
    ("user", "status"),
    [
        (None, 401),
        ("raises", 403),
        ("raises-http", 401),
        ("raises-odd-http", 403),
        ("truth", 403),
        ("strange-rule", 403),
        ("unfinished-rule", 403),
        ("keyless", 403),
    ],
)
def test_whatever_is_no_clear_yes_denies(door: Door, user: str | None, status: int) -> None:
    """
    No decision, a wrong one, an exception, or a rule that cannot be: no rows, and no word of why.
    """
    denied = door.ask(user)
    assert denied.status_code == status, denied.text
    assert denied.headers["cache-control"] == "no-store"
    assert denied.headers["access-control-allow-origin"] == "*"
    assert ("www-authenticate" in denied.headers) == (status == 401)
    assert "electric-handle" not in denied.headers
    said = denied.json()["message"]
    assert said == {None: "who are you?", "raises-http": "sign in again"}.get(user, "Forbidden")


def test_other_tables_are_denied_before_they_are_looked_for(door: Door) -> None:
    """
    A table that is not allowed and one that is not there answer alike.
    """
    answers = [door.ask("alice", table=name) for name in ("hidden", "nothing_like_it", "pg_catalog.pg_class")]
    assert {(answer.status_code, answer.text) for answer in answers} == {(403, answers[0].text)}


# --- the query -------------------------------------------------------------------------------------------------------


def test_parameters_given_twice_count_once_for_everybody(door: Door) -> None:
    """
    What the guard was asked about is what is served, whichever of two is taken.
    """
    assert door.raw("alice", "table=items&table=hidden&offset=-1").status_code == 403
    assert owners(door.raw("alice", "table=hidden&table=items&offset=-1")) == {"alice"}
    twice = urlencode([("table", "items"), ("offset", "-1"), ("where", "id = 1"), ("where", "owner = 'bob'")])
    assert rows(door.raw("alice", twice)) == []
    assert door.raw("alice", "table=items&offset=-1&params[1]=bob&params=bob").status_code == 400
    for spelling in ("Table=hidden", "TABLE=hidden", "table%20=hidden", "subset[table]=hidden"):
        assert owners(door.raw("alice", f"table=items&{spelling}&offset=-1")) == {"alice"}
    for spelling in ("%74able=hidden", "table=%68idden", "table=public.hidden", "table=HIDDEN"):
        assert door.raw("alice", f"table=items&{spelling}&offset=-1").status_code == 403
    for spelling in ("table[]=hidden", "table[x]=hidden"):
        assert door.raw("alice", f"table=items&{spelling}&offset=-1").status_code == 400


def test_parameters_of_client_and_guard_do_not_mix(door: Door) -> None:
    """
    `$1` of the guard is not the client's, and without a condition of one's own there are no parameters at all.
    """
    assert rows(door.ask("alice", where="owner = $1", params_1="bob")) == []
    assert owners(door.ask("alice", where="title <> $1", params_1="bob")) == {"alice"}
    assert owners(door.ask("alice", params_1="bob")) == {"alice"}
    assert owners(door.ask("alice", where="owner = $1 OR owner = $2", params_1="alice", params_2="bob")) == {"alice"}
    assert door.ask("alice", where="owner = $2", params_1="x").status_code == 400
    assert door.raw("alice", urlencode({"table": "items", "offset": "-1", "params": '{"1":"bob"}'})).status_code == 400


@pytest.mark.parametrize(
    "where",
    [
        "true OR true",
        "id > 0 OR owner = 'bob'",
        "NOT (owner = 'alice') OR true",
        "owner <> 'alice'",
        "true IS NOT NULL",
        "'$1' = '$1'",
        "owner = 'bob' --",
        "true /* ) */",
        "true --\n OR true",
        "E'\\'' = '''' OR true",
        "coalesce(owner = 'alice', true) OR true",
        "CASE WHEN owner = 'bob' THEN true ELSE true END",
        "id IN (1, 2, 3, 4)",
        "owner LIKE '%'",
        "lower(owner) IS NOT NULL OR id / 1 = id",
    ],
)
def test_no_condition_widens_what_one_sees(door: Door, where: str) -> None:
    """
    However a clause is put, the guard's holds besides.
    """
    assert owners(door.ask("alice", where=where)) <= {"alice"}


@pytest.mark.parametrize(
    "where",
    [
        "true) OR (true",
        "true)) OR ((true",
        "true) --",
        "true; SELECT 1",
        "true) UNION SELECT * FROM hidden --",
        "id IN (SELECT id FROM hidden)",
        "true OR owner = $1",
        "(true",
        "true /*",
        "salary > 0",
        "items.salary > 0",
        '"salary" IS NOT NULL',
        "items IS NOT NULL",
        "xmin IS NOT NULL",
    ],
)
def test_clauses_that_are_none_are_refused_by_themselves(door: Door, where: str) -> None:
    """
    A clause is understood alone, with the columns one may see; what is said about it is about nothing else.
    """
    refused = door.ask("alice", where=where)
    assert refused.status_code == 400, refused.text
    assert not any(word in refused.text for word in ("alice", "CASE", "pg_catalog", "owner = 'alice'"))


def test_hidden_columns_are_as_good_as_not_there(door: Door) -> None:
    """
    Asking for one, for all, or filtering by one says what a column that does not exist says.
    """
    for name in ("columns", "queryable_columns"):
        hidden, missing = (door.ask("alice", **{name: f"id,owner,{column}"}) for column in ("salary", "nothing"))
        assert hidden.status_code == missing.status_code == 400
        assert hidden.text.replace("salary", "nothing") == missing.text
    for condition in ("{} > 0", "{} IS NULL", "{} = $1"):
        hidden, missing = (
            door.ask("alice", where=condition.format(column), params_1="1") for column in ("salary", "nothing")
        )
        assert hidden.status_code == missing.status_code == 400
        assert hidden.text.replace("salary", "nothing") == missing.text.replace("salary", "nothing")
    assert all(row.keys() == {"id", "title"} for row in rows(door.ask("alice", columns="id,title")))
    assert all(row.keys() == {"id"} for row in rows(door.ask("alice", queryable_columns="id")))
    assert owners(door.ask("alice", queryable_columns="id,owner", columns="id,owner")) == {"alice"}


def test_an_error_of_a_condition_tells_nothing_of_other_rows(door: Door) -> None:
    """
    A clause that fails on rows of others, and on none of one's own, does not fail.
    """
    assert owners(door.ask("alice", where="1 / (id - 3) <> 5")) == {"alice"}
    assert owners(door.ask("alice", where="('x' || title)::text <> 'y' AND 10 / (id - 4) < 100")) == {"alice"}
    assert len(rows(door.ask("alice", where="(CASE owner WHEN 'bob' THEN 'no number' ELSE '1' END)::int = 1"))) == 2


def test_full_rows_and_changes_only_are_under_the_same_rule(door: Door) -> None:
    """
    Neither `replica` nor `log` is a way around.
    """
    assert owners(door.ask("alice", replica="full")) == {"alice"}
    assert rows(door.ask("alice", log="changes_only")) == []
    assert rows(door.ask("alice", offset="now")) == []


# --- other kinds of requests -----------------------------------------------------------------------------------------


def test_subsets_see_no_more_than_the_shape(door: Door) -> None:
    """
    Neither their clause nor their order reaches other rows or hidden columns, by GET or by POST.
    """
    for where in ("true", "true OR true", "owner = 'bob' OR id > 0", "1 / (id - 3) <> 5"):
        assert owners(door.ask("alice", subset__where=where)) == {"alice"}
        posted = door.raw("alice", "table=items&offset=-1", method="POST", json={"where": where})
        assert owners(posted) == {"alice"}
    for where in ("true) OR (true", "salary > 0", "owner = $1"):
        assert door.ask("alice", subset__where=where).status_code == 400
    assert door.ask("alice", subset__order_by="salary", subset__limit="1").status_code == 400
    assert all(row.keys() == set(COLUMNS) for row in rows(door.ask("alice", subset__where="true")))
    assert rows(door.ask("alice", subset__where="owner = $1", subset__params='{"1":"bob"}')) == []


def test_a_body_is_authorised_as_it_overrides(door: Door) -> None:
    """
    A POST whose body names another table is a request for that table.
    """
    assert door.raw("alice", "table=items&offset=-1", method="POST", json={"table": "hidden"}).status_code == 403
    overridden = door.raw("alice", "table=hidden&offset=-1", method="POST", json={"table": "items"})
    assert owners(overridden) == {"alice"}
    nested = {"subset": {"where": "true"}, "table": "hidden"}
    assert door.raw("alice", "table=items&offset=-1", method="POST", json=nested).status_code == 403
    assert door.raw("alice", "table=items&offset=-1", method="POST", json={"columns": "id,salary"}).status_code == 400


def test_head_is_authorised_and_tells_no_more(door: Door) -> None:
    """
    HEAD is denied where GET is.
    """
    assert door.ask("alice", method="HEAD").status_code == 200
    assert door.ask("alice", method="HEAD").headers["electric-handle"] == door.ask("alice").headers["electric-handle"]
    assert door.ask(None, method="HEAD").status_code == 401
    assert door.ask("alice", method="HEAD", table="hidden").status_code == 403


def test_a_preflight_says_that_tokens_may_be_sent(door: Door) -> None:
    """
    OPTIONS goes without a token, as browsers send it, and makes no shape.
    """
    asked = {"origin": "https://app.example", "access-control-request-headers": "authorization,x-other"}
    answer = door.client.options("/v1/shape?table=hidden&offset=-1", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "authorization"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/shape/",
        "/v1//shape",
        "//v1/shape",
        "/v1/%73hape",
        "/v1/./shape",
        "/V1/shape",
        "/v1/shape;x",
        "/v1/shape%3f",
    ],
)
def test_other_spellings_of_the_path_are_no_way_around(door: Door, path: str) -> None:
    """
    They lead to the guard or nowhere.
    """
    for method in ("GET", "HEAD", "POST"):
        assert door.ask(None, method=method, path=path).status_code in {401, 404}
        assert door.ask("alice", method=method, path=path, table="hidden").status_code in {403, 404}


def test_operators_pages_need_a_secret(door: Door) -> None:
    """
    Without a secret nobody is shown everybody's shapes, whoever they are to the guard.
    """
    for path in ("/v1/status", "/v1/status/shapes", "/v1//status"):
        assert door.client.get(path, headers={"x-user": "admin"}).status_code == 401
    assert door.client.get("/v1/health").status_code in {200, 202}


# --- places and handles ----------------------------------------------------------------------------------------------


def test_a_handle_of_another_user_brings_no_rows(door: Door) -> None:
    """
    It is not the handle of what one may see: the client is told its own, as after a rotation, and never a row.
    """
    alice, bob = (door.ask(user).headers["electric-handle"] for user in ("alice", "bob"))
    assert alice != bob
    for offset in ("0_0", "0_inf"):
        for more in ({}, {"live": "true"}, {"live": "true", "live_sse": "true"}):
            stolen = door.ask("alice", handle=bob, offset=offset, **more)
            assert stolen.status_code == 409
            assert stolen.headers["electric-handle"] == alice
            assert [message["headers"] for message in stolen.json()] == [{"control": "must-refetch"}]
    assert door.ask("alice", handle=bob, subset__where="true", offset="0_inf").status_code == 409
    # For a beginning the handle does not count.
    assert owners(door.ask("alice", handle=bob)) == {"alice"}


def test_an_entity_tag_of_another_user_matches_nothing(door: Door) -> None:
    """
    `if-none-match` with somebody else's tag is answered with one's own rows.
    """
    tags = {user: door.ask(user).headers["etag"] for user in ("alice", "bob")}
    for user, tag in (("alice", tags["bob"]), ("bob", tags["alice"])):
        headers = {"x-user": user, "if-none-match": tag}
        answer = door.client.get("/v1/shape?table=items&offset=-1", headers=headers)
        assert owners(answer) == {user}
    same = {"x-user": "alice", "if-none-match": tags["alice"]}
    unchanged = door.client.get("/v1/shape?table=items&offset=-1", headers=same)
    assert unchanged.status_code == 304
    assert unchanged.headers["cache-control"] == "private, no-cache"


def test_no_cache_may_share_what_was_authorised(door: Door) -> None:
    """
    First, later, live, empty and refetch answers are all for their client alone.
    """
    first = door.ask("alice")
    handle = first.headers["electric-handle"]
    answers = [
        first,
        door.ask("alice", handle=handle, offset="0_0"),
        door.ask("alice", handle=handle, offset="0_inf", live="true"),
        door.ask("alice", offset="now"),
        door.ask("alice", handle="1-1", offset="0_0"),
        door.ask("admin"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 409, 200]
    assert {answer.headers["cache-control"] for answer in answers} == {"private, no-cache"}
    assert door.ask("alice", subset__where="true").headers["cache-control"] == "private, no-cache"


def test_equal_rules_share_a_shape_and_others_do_not(door: Door) -> None:
    """
    The rule is part of what the shape is: handles are the same for whoever may see the same.
    """
    handles = {user: door.ask(user).headers["electric-handle"] for user in ("alice", "bob", "admin")}
    assert len(set(handles.values())) == 3
    assert door.ask("alice").headers["electric-handle"] == handles["alice"]


def test_removal_is_authorised_by_what_the_shape_is(door: Door) -> None:
    """
    A handle alone removes nothing, another's handle neither; one's own shape goes, and the other's stays.
    """
    alice, bob = (door.ask(user).headers["electric-handle"] for user in ("alice", "bob"))
    by_handle = door.raw("alice", urlencode({"handle": bob}), method="DELETE")
    assert by_handle.status_code == 400
    assert by_handle.json()["errors"] == {"table": ["can't be blank"]}
    mismatch = door.raw("alice", urlencode({"table": "items", "handle": bob}), method="DELETE")
    assert mismatch.status_code == 400
    assert door.raw("alice", "table=hidden", method="DELETE").status_code == 403
    assert door.client.delete("/v1/shape?table=items").status_code == 401
    assert door.raw("alice", urlencode({"table": "items", "handle": alice}), method="DELETE").status_code == 202
    assert door.ask("bob").headers["electric-handle"] == bob
    assert door.ask("alice").headers["electric-handle"] != alice


# --- live ------------------------------------------------------------------------------------------------------------


async def events(client: httpx.AsyncClient, user: str, handle: str, offset: str) -> AsyncIterator[Any]:
    query = {"table": "items", "handle": handle, "offset": offset, "live": "true", "live_sse": "true"}
    async with client.stream("GET", "/v1/shape", params=query, headers={"x-user": user}) as stream:
        assert stream.status_code == 200
        assert stream.headers["cache-control"] == "private, no-cache"
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("is_sse", [False, True], ids=["long poll", "events"])
async def test_live_readers_learn_of_their_own_rows_only(door: Door, *, is_sse: bool) -> None:
    """
    Of a transaction that changes rows of two people each learns their part; a row that changes hands leaves the one and
    comes to the other.
    """
    await asyncio.to_thread(
        door.database.execute, "INSERT INTO items VALUES (50, 'carol', 'c', 1) ON CONFLICT DO NOTHING"
    )
    await asyncio.to_thread(door.database.execute, "UPDATE items SET owner = 'carol' WHERE id = 50")
    word = uuid.uuid4().hex
    async with httpx.AsyncClient(base_url=door.client.base_url, timeout=60) as client:
        heard: dict[str, list[Any]] = {"carol": [], "dave": []}
        places = {}
        for user in heard:
            first = await client.get("/v1/shape?table=items&offset=-1", headers={"x-user": user})
            last = await client.get("/v1/shape?table=items&offset=now", headers={"x-user": user})
            assert first.headers["electric-handle"] == last.headers["electric-handle"]
            places[user] = last.headers["electric-handle"], last.headers["electric-offset"]
        change = "UPDATE items SET title = %s, owner = CASE owner WHEN 'carol' THEN 'dave' ELSE owner END"

        async def listen(user: str) -> None:
            handle, offset = places[user]
            if is_sse:
                async for message in events(client, user, handle, offset):
                    heard[user].append(message)
                    if message["headers"].get("operation"):
                        return
            while True:
                query = {"table": "items", "handle": handle, "offset": offset, "live": "true"}
                answer = await client.get("/v1/shape", params=query, headers={"x-user": user})
                assert answer.status_code == 200, answer.text
                offset = answer.headers["electric-offset"]
                heard[user] += answer.json()
                if any(message["headers"].get("operation") for message in answer.json()):
                    return

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for user in heard:
                group.create_task(listen(user))
            await asyncio.to_thread(door.database.execute, change, word)
    changed = {user: [m for m in messages if "operation" in m["headers"]] for user, messages in heard.items()}
    assert [(m["headers"]["operation"], m["value"]["id"]) for m in changed["carol"]] == [("delete", "50")]
    assert [(m["headers"]["operation"], m["value"]) for m in changed["dave"]] == [
        ("insert", {"id": "50", "owner": "dave", "title": word})
    ]


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_guard_that_hangs_costs_its_own_request_only(door: Door) -> None:
    """
    The one it hangs for gets a 503 with a time to come again; others are answered meanwhile.
    """
    async with httpx.AsyncClient(base_url=door.client.base_url, timeout=60) as client:
        target = "/v1/shape?table=items&offset=-1"
        waiting = [asyncio.create_task(client.get(target, headers={"x-user": "hangs"})) for _ in range(40)]
        done, _ = await asyncio.wait(
            [asyncio.create_task(client.get(target, headers={"x-user": "alice"})), *waiting],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [owners(task.result()) for task in done if task not in waiting]
        for answer in await asyncio.gather(*waiting):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json() == {"message": "Timeout waiting for authorisation"}
        again = await client.get(target, headers={"x-user": "bob"})
        assert owners(again) == {"bob"}


def test_what_is_asked_may_hold_anything(door: Door) -> None:
    """
    Odd texts in names and headers end in an answer of the contract.
    """
    for user in ("o'hara", 'a"b', "$1", "a\\b", "x; DROP TABLE items"):
        assert rows(door.ask(user)) == []
    assert door.raw("alice", f"table=items&offset=-1&where={quote('owner = $$bob$$')}").status_code in {200, 400}
