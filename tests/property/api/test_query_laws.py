from __future__ import annotations

import math
from urllib.parse import quote_plus, urlencode

from hypothesis import given
from hypothesis import strategies as st

from penstock.api import caching
from penstock.api.params import LogRequest, decode_query, validate
from penstock.api.plan import LogBody
from penstock.errors import DecodeError
from penstock.shapes.reading import FilePiece, InlinePiece

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = TEXT.filter(lambda text: text != "" and "[" not in text and "]" not in text)
WORDS = st.sampled_from(
    ["table", "offset", "handle", "live", "live_sse", "where", "params", "params[1]", "columns", "replica", "log", "x"]
)
VALUES = st.sampled_from(["t", "-1", "now", "0_0", "0_inf", "", " ", "true", "false", "full", "1-1", "a,b", 'a"'])


@given(st.dictionaries(NAME, TEXT, max_size=6))
def test_decoding_undoes_encoding(query: dict[str, str]) -> None:
    """
    Whatever a client encodes as a form arrives as it was.
    """
    assert decode_query(urlencode(query).encode()) == query


@given(NAME, st.dictionaries(NAME, TEXT, min_size=1, max_size=4))
def test_brackets_nest(name: str, inner: dict[str, str]) -> None:
    """
    `a[b]=c` is a map in a map, whatever the names.
    """
    raw = "&".join(f"{quote_plus(name)}[{quote_plus(key)}]={quote_plus(text)}" for key, text in inner.items())
    assert decode_query(raw.encode()) == {name: inner}


@given(st.binary(max_size=100))
def test_no_query_raises_anything_but_our_error(raw: bytes) -> None:
    """
    Rubbish is refused, or decoded and then validated.
    """
    try:
        query = decode_query(raw)
    except DecodeError:
        return
    validate(query)


@given(st.lists(st.tuples(WORDS, VALUES), max_size=8))
def test_valid_requests_keep_the_contracts_promises(pairs: list[tuple[str, str]]) -> None:
    """
    What passes validation names a table and a place, and a handle exactly where one is needed.
    """
    found = validate(decode_query(urlencode(pairs).encode()))
    if not isinstance(found, LogRequest):
        assert all(messages for messages in found.values())
        return
    shape = found.shape
    needs_handle = shape.offset is not None and shape.offset.tx >= 0
    assert (shape.handle is not None) is needs_handle
    assert shape.table.strip()
    assert not (shape.is_live and not needs_handle)
    assert not (found.is_sse and not shape.is_live)


@given(st.integers(-(10**18), 10**18), st.integers(1, 100), st.floats(0, 1e10, allow_nan=False), st.integers(1, 3600))
def test_cursor_is_never_the_one_the_client_has(previous: int, timeout_s: int, now_s: float, step_s: int) -> None:
    """
    It always grows, and everybody without one gets the same in the same window (I11).
    """
    cursor = caching.next_cursor(previous, timeout_s=timeout_s, now_unix_s=now_s, step_s=step_s)
    assert cursor > previous
    coming = math.ceil((now_s - caching.CURSOR_EPOCH_UNIX_S) / timeout_s) * timeout_s
    assert cursor in {coming, previous + step_s}


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=9), st.integers(1, 10**6)), max_size=6),
    st.none() | st.binary(min_size=1, max_size=9),
)
def test_length_of_a_body_is_that_of_its_segments(pieces: list[bytes | int], control: bytes | None) -> None:
    """
    Known before a byte is read, it is what is sent.
    """
    body = LogBody(
        tuple(InlinePiece(piece) if isinstance(piece, bytes) else FilePiece("f", 0, piece) for piece in pieces), control
    )
    sent = b"".join(s if isinstance(s, bytes) else b"x" * s.bytes_count for s in body.segments())
    assert body.bytes_count == len(sent)
    parts = [piece if isinstance(piece, bytes) else b"x" * piece for piece in pieces]
    assert sent == b"[" + b",".join(parts + ([control] if control is not None else [])) + b"]"
