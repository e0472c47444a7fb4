"""
Bodies and subset parameters, from anybody.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.params import LogRequest, decode_query, validate
from penstock.api.subset import BodyError, fold_query, merge_body, parse_body, read_subset
from penstock.errors import DecodeError
from penstock.shapes.reading import SubsetQuestion

KEYS = st.sampled_from(
    ["table", "offset", "handle", "live", "where", "params", "columns", "limit", "order_by", "subset", "subset__limit", "x"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["-1", "now", "1_2", "items", '{"1":"a"}', "2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.sampled_from(["1", "2"]), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(st.binary(max_size=200))
def test_a_body_is_an_object_or_our_error(body: bytes) -> None:
    """
    Whatever the bytes.
    """
    with contextlib.suppress(BodyError):
        assert isinstance(parse_body(body), dict)


@given(st.dictionaries(KEYS, VALUES, max_size=8), st.sampled_from([b"", b"table=t&offset=-1", b"subset__limit=1"]))
def test_any_body_gives_a_request_or_problems(body: dict[str, Any], raw: bytes) -> None:
    """
    Never an exception; and what goes to the engine can be written.
    """
    query, asked = fold_query(decode_query(raw))
    merged, subset = merge_body(query, asked, parse_body(msgspec.json.encode(body)))
    request = validate(merged)
    if isinstance(request, LogRequest) and subset is not None:
        question = SubsetQuestion(request.shape, read_subset(subset))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=SubsetQuestion) == question
    elif isinstance(request, dict):
        assert request
        assert msgspec.json.encode(request)


@given(st.text(alphabet="subet_limwhr[]=&%1 a\x00é", max_size=60))
def test_any_query_is_folded(text: str) -> None:
    """
    Nothing of a subset is left in what is read as a log.
    """
    with contextlib.suppress(DecodeError):
        rest, subset = fold_query(decode_query(text.encode()))
        assert not any(key.startswith("subset__") for key in rest)
        if subset is not None:
            read_subset(subset)
