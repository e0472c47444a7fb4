"""
Subset parameters in queries and bodies.
"""

from __future__ import annotations

from typing import Any

import pytest

from penstock.api.params import decode_query, validate, validate_removal
from penstock.api.subset import BodyError, fold_query, merge_body, parse_body, read_subset
from penstock.shapes.definition import Replica
from penstock.shapes.reading import RemoveRequest
from penstock.shapes.subset import NEEDS_ORDER, SubsetRequest


@pytest.mark.parametrize(
    ("raw", "rest", "subset"),
    [
        (b"table=t&offset=-1", {"table": "t", "offset": "-1"}, None),
        (b"table=t&subset__limit=2&subset__order_by=id", {"table": "t"}, {"limit": "2", "order_by": "id"}),
        (b"table=t&subset__where_expr=x", {"table": "t"}, {"where_expr": "x"}),
        (b"subset[where]=a&subset__limit=1&table=t", {"table": "t"}, {"where": "a", "limit": "1"}),
        (b"subset=x&table=t", {"subset": "x", "table": "t"}, None),
    ],
)
def test_a_subset_is_taken_out_of_the_query(raw: bytes, rest: dict[str, str], subset: dict[str, str] | None) -> None:
    """
    Any key with the prefix, known or not, makes a request one for a subset (E1).
    """
    assert fold_query(decode_query(raw)) == (rest, subset)


@pytest.mark.parametrize(
    ("body", "rest", "subset"),
    [
        ({}, {"table": "q", "offset": "-1"}, None),
        ({"table": "b"}, {"table": "b", "offset": "-1"}, None),
        ({"offset": 5, "order_by": "id"}, {"table": "q", "offset": "-1"}, {"offset": 5, "order_by": "id"}),
        ({"where": "x", "handle": "1-2"}, {"table": "q", "offset": "-1", "handle": "1-2"}, {"where": "x"}),
        ({"subset": {"limit": 1}, "where": "main"}, {"table": "q", "offset": "-1", "where": "main"}, {"limit": 1}),
        ({"subset": {}, "live": True}, {"table": "q", "offset": "-1", "live": "true"}, {}),
        ({"subset": {"params": {"1": 2}}, "params": {"1": 3}}, {"table": "q", "offset": "-1", "params": {"1": "3"}},
         {"params": {"1": 2}}),
        ({"table": None}, {"offset": "-1"}, None),
        ({"subset__limit": 1}, {"table": "q", "offset": "-1"}, {"limit": 1}),
        ({"columns": ["a"]}, {"table": "q", "offset": "-1", "columns": ["a"]}, None),
    ],
)  # fmt: skip
def test_a_body_overrides_the_query(body: dict[str, Any], rest: dict[str, Any], subset: dict[str, Any] | None) -> None:
    """
    Keys that a subset has are the subset's, unless the body says `subset` itself (E11).
    """
    assert merge_body({"table": "q", "offset": "-1"}, None, body) == (rest, subset)


def test_a_body_adds_to_the_subset_of_the_query() -> None:
    """
    And wins where both say something (E11).
    """
    _, subset = merge_body({"table": "t"}, {"limit": "1", "order_by": "id"}, {"limit": 2})
    assert subset == {"limit": 2, "order_by": "id"}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, SubsetRequest()),
        ({"where": " ", "limit": "", "params": None, "where_expr": {"a": 1}}, SubsetRequest()),
        ({"limit": "3", "offset": 0, "order_by": "id"}, SubsetRequest(limit=3, offset=0, order_by="id")),
        ({"where": "a", "params": '{"1":null,"2":7,"3":true,"4":{"x":1}}'},
         SubsetRequest("a", ("", "7", "true", '{"x":1}'))),
        ({"where": 5}, SubsetRequest(problems={"where": ["is invalid"]})),
        ({"where": "a\0"}, SubsetRequest(problems={"where": ["is invalid"]})),
        ({"limit": True, "order_by": "id"}, SubsetRequest(order_by="id", problems={"limit": ["is invalid"]})),
        ({"limit": "99999999999999999999", "order_by": "id"},
         SubsetRequest(order_by="id", problems={"limit": ["is invalid"]})),
        ({"limit": 2}, SubsetRequest(limit=2, problems={"order_by": [NEEDS_ORDER]})),
        ({"params": "{"}, SubsetRequest(problems={"params": ["params must be valid JSON"]})),
        ({"params": "[]"}, SubsetRequest(problems={"params": ["params must be a JSON object"]})),
    ],
)  # fmt: skip
def test_fields_have_forms(raw: dict[str, Any], expected: SubsetRequest) -> None:
    """
    Text and JSON alike; what is wrong is kept until the shape has been looked at (E2, E11).
    """
    assert read_subset(raw) == expected


@pytest.mark.parametrize("body", [b"[", b"1", b"\xff", b'"a"', b"null"])
def test_a_body_is_a_json_object(body: bytes) -> None:
    """
    Or nothing at all (B17).
    """
    with pytest.raises(BodyError):
        parse_body(body)
    assert parse_body(b"") == {}


def test_a_subset_that_was_not_taken_out_is_not_read_as_a_log() -> None:
    """
    Whoever forgets to do so gets a refusal and no rows.
    """
    assert isinstance(validate(decode_query(b"table=t&offset=-1&subset__limit=1")), dict)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", {"handle": ["can't be blank when shape definition is missing"]}),
        (b"table=t&live=banana", {"live": ["is invalid"]}),
        (b"table=t&live_sse=banana", {"live_sse": ["is invalid"]}),
        (b"table=.x", {"table": ["Invalid zero-length delimited identifier"]}),
        (b"table=t&where=a&params[2]=1", {"params": ["Parameters must be numbered sequentially, starting from 1"]}),
    ],
)
def test_a_removal_is_read_strictly(raw: bytes, expected: dict[str, list[str]]) -> None:
    """
    By the parameter at fault (B24).
    """
    assert validate_removal(decode_query(raw)) == expected


def test_a_removal_names_a_shape_or_a_handle() -> None:
    """
    Or both; where a client is in a log does not matter (B24).
    """
    assert validate_removal({"handle": "1-2", "offset": "5_5"}) == RemoveRequest(handle="1-2")
    both = validate_removal({"table": "t", "handle": "1-2", "replica": "full", "live": "true"})
    assert isinstance(both, RemoveRequest)
    assert both.shape is not None
    assert (both.handle, both.shape.replica) == ("1-2", Replica.FULL)
