from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest

from penstock.api.authorisation import (
    FORBIDDEN,
    AccessRequest,
    Allow,
    Deny,
    Grant,
    RequestedShape,
    by_table,
    describe,
    read_headers,
)
from penstock.errors import DecodeError
from penstock.shapes.definition import Replica
from penstock.shapes.offset import BEFORE_ALL
from penstock.shapes.reading import ShapeRequest, ShapeRule
from penstock.shapes.subset import SubsetRequest

ASKED = AccessRequest("GET", "/v1/shape", {}, {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("it's", "it's"),
        ("", ""),
        (7, "7"),
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), "2026-01-02T03:04:00+00:00"),
        ([1, 2], '{"1","2"}'),
        ((), "{}"),
        ({"b", "a"}, '{"a","b"}'),
        (['x"y', "a\\b", "a,b", "NULL"], '{"x\\"y","a\\\\b","a,b","NULL"}'),
    ],
)
def test_parameters_are_written_as_postgres_reads_them(value: Any, text: str) -> None:
    """
    Values of Python become the texts of their types; collections become arrays with every item quoted.
    """
    assert Allow("x = $1", [value]).rule() == ShapeRule("x = $1", (text,), None)


@pytest.mark.parametrize("value", [None, object(), {"a": 1}, b"x", [None], "a\0b"])
def test_parameters_without_a_text_are_refused_at_once(value: Any) -> None:
    """
    None above all: a user without an id must not become the user `None`.
    """
    with pytest.raises((TypeError, ValueError)):
        Allow("x = $1", [value])


@pytest.mark.parametrize(
    "arguments",
    [
        {"where": ""},
        {"where": "  \n"},
        {"params": [1]},
        {"columns": []},
        {"where": "x = $1", "params": "7"},
        {"columns": "id"},
        {"columns": [7]},
        {"columns": ['"unfinished']},
    ],
)
def test_what_would_let_through_more_than_was_meant_is_refused(arguments: dict[str, Any]) -> None:
    """
    An Allow that is made of an empty condition, parameters without one, no columns, or strings for lists cannot be made.
    """
    with pytest.raises((TypeError, ValueError)):
        Allow(**arguments)


def test_columns_are_a_set_and_may_be_quoted() -> None:
    """
    Their order and repetition make no other rule, and a quoted name is read as one.
    """
    assert Allow(columns=["b", "a", "b"]).rule() == Allow(columns={"a", "b"}).rule()
    assert Allow(columns=['"Mixed"', "id"]).rule().columns == ("Mixed", "id")


@pytest.mark.parametrize("status", [200, 204, 302, 409, 500, 502, 0])
def test_denials_cannot_look_like_something_else(status: int) -> None:
    """
    A denial is not an answer with rows, no redirect, and not the status that makes clients begin again.
    """
    with pytest.raises(ValueError, match="denial"):
        Deny(status)


def test_a_challenge_cannot_end_its_line() -> None:
    """
    Nothing but one line of ASCII goes into the header.
    """
    with pytest.raises(ValueError, match="challenge"):
        Deny(401, challenge="Bearer\r\nset-cookie: x=1")


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (None, None),
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
    ],
)
def test_the_bearer_token_is_found(value: str | None, token: str | None) -> None:
    """
    It follows the scheme, whatever its case.
    """
    headers = {} if value is None else {"authorization": value}
    assert AccessRequest("GET", "/", headers, {}).bearer_token == token


def test_headers_given_twice_are_joined() -> None:
    """
    Nobody takes the first of two tokens where another takes the last: together they are none.
    """
    lines = [(b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    headers = read_headers(lines)
    assert headers == {"authorization": "Bearer a, Bearer b", "cookie": "a=1; b=2"}


def test_a_request_is_described_as_it_is_understood() -> None:
    """
    Identifiers are folded and unquoted, and what a subset asks for is in it.
    """
    shape = ShapeRequest(
        'Audit."Mixed Case"', BEFORE_ALL, columns=("id",), where="id > $1", params=("3",), replica=Replica.FULL
    )
    subset = SubsetRequest("t = $1", ("x",), 5, 1, "id")
    described = describe(shape, subset, is_removal=False)
    assert (described.schema, described.table, described.columns) == ("audit", "Mixed Case", ("id",))
    assert (described.where, described.params, described.replica, described.log) == ("id > $1", ("3",), "full", "full")
    assert described.subset is not None
    assert (described.subset.where, described.subset.params, described.subset.limit) == ("t = $1", ("x",), 5)


def test_what_a_table_of_rules_does_not_list_is_denied() -> None:
    """
    Names are those of requests; another schema is another table.
    """
    decide = by_table({"Items": Allow(), 'audit."Log"': Deny(404), "public.notes": Allow("n = 1")})
    said = {
        (schema, table): decide(ASKED, RequestedShape(schema, table))
        for schema in ("public", "audit")
        for table in ("items", "Items", "Log", "notes")
    }
    assert said.pop(("public", "items")) == Allow()
    assert said.pop(("audit", "Log")) == Deny(404)
    assert said.pop(("public", "notes")) == Allow("n = 1")
    assert set(said.values()) == {FORBIDDEN}
    with pytest.raises(DecodeError):
        by_table({"a.b.c": Allow()})


def test_a_grant_for_no_table_is_refused() -> None:
    """
    A misspelt table is an error of the application, at once.
    """
    with pytest.raises(DecodeError):
        Grant(Allow(), "not a table")
