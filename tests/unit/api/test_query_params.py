from __future__ import annotations

import pytest

from penstock.api.params import LogRequest, decode_query, find_secret, validate
from penstock.errors import DecodeError, Problems
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.offset import BEFORE_ALL, OP_INFINITY, LogOffset


def read(query: str) -> LogRequest:
    request = validate(decode_query(query.encode()))
    assert isinstance(request, LogRequest), request
    return request


def problems(query: str) -> Problems:
    found = validate(decode_query(query.encode()))
    assert not isinstance(found, LogRequest)
    return found


# --- the query string ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "query"),
    [
        (b"", {}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"live", {"live": ""}),
        (b"&&a=1&", {"a": "1"}),
        (b"a=x%20y+z%2B", {"a": "x y z+"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"params[1]=x&params[2]=y", {"params": {"1": "x", "2": "y"}}),
        (b"params%5B1%5D=x", {"params": {"1": "x"}}),
        (b"p[a][b]=x&p[a][c]=y", {"p": {"a": {"b": "x", "c": "y"}}}),
        (b"p[]=x&p[]=y", {"p": ["x", "y"]}),
        (b"p=x&p[1]=y", {"p": {"1": "y"}}),
        (b"p[1]=y&p=x", {"p": "x"}),
        (b"p[=x", {"p[": "x"}),
        (b"[1]=x", {"[1]": "x"}),
        ("t=größe".encode(), {"t": "größe"}),
    ],
)
def test_query_is_decoded(raw: bytes, query: object) -> None:
    """
    Percent signs, plus signs, duplicates and brackets are decoded as forms are (I13).
    """
    assert decode_query(raw) == query


@pytest.mark.parametrize("raw", [b"a=%", b"a=%2", b"a=%zz", b"%=1", b"a=%ff", b"a=\xff", b"a" + b"[b]" * 9 + b"=1"])
def test_undecodable_query_is_refused(raw: bytes) -> None:
    """
    Stray percent signs, bytes that are not UTF-8 and endless nesting are the client's fault.
    """
    with pytest.raises(DecodeError):
        decode_query(raw)


def test_newer_name_of_the_secret_wins() -> None:
    """
    `secret` is looked at before `api_secret` (B23).
    """
    assert find_secret(decode_query(b"api_secret=old&secret=new")) == "new"
    assert find_secret(decode_query(b"api_secret=old")) == "old"
    assert find_secret(decode_query(b"secret[x]=1")) is None


# --- valid requests --------------------------------------------------------------------------------------------------


def test_first_request() -> None:
    """
    Only table and offset are needed; a handle is dropped for an offset that needs none.
    """
    request = read("table=items&offset=-1&handle=x-1")
    assert request.shape.offset == BEFORE_ALL
    assert request.shape.handle is None
    assert not request.shape.is_live
    assert request.offset_text == "-1"


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("0_0", LogOffset(0, 0)),
        ("0_02", LogOffset(0, 2)),
        ("0_inf", LogOffset(0, OP_INFINITY)),
        ("123_4", LogOffset(123, 4)),
        ("-1_0", BEFORE_ALL),
    ],
)
def test_offsets(text: str, offset: LogOffset) -> None:
    """
    Every form of the grammar is understood.
    """
    assert read(f"table=t&offset={text}&handle=h").shape.offset == offset


def test_now_is_an_offset_of_its_own() -> None:
    """
    `now` needs no handle and drops it.
    """
    request = read("table=t&offset=now&handle=h")
    assert request.shape.offset is None
    assert request.shape.handle is None
    assert request.offset_text == "now"


@pytest.mark.parametrize(
    ("text", "is_live"),
    [("", False), ("&live", True), ("&live=", True), ("&live=0", True), ("&live=banana", True), ("&live=false", False)],
)
def test_live_is_anything_but_false(text: str, *, is_live: bool) -> None:
    """
    The flag is true when present, unless it is literally `false`.
    """
    assert read("table=t&offset=0_0&handle=h" + text).shape.is_live is is_live


@pytest.mark.parametrize(
    ("text", "is_sse"),
    [
        ("", False),
        ("&live_sse", True),
        ("&live_sse=false", False),
        ("&experimental_live_sse=true", True),
        ("&experimental_live_sse=1", True),
        ("&experimental_live_sse=0", False),
        ("&live_sse=false&experimental_live_sse=true", False),
    ],
)
def test_event_streams_have_two_names(text: str, *, is_sse: bool) -> None:
    """
    The old name counts only without the new one (C29).
    """
    assert read("table=t&offset=0_0&handle=h&live=true" + text).is_sse is is_sse


def test_all_parameters_reach_the_shape() -> None:
    """
    Columns are unquoted, parameters are ordered by number, modes are read.
    """
    query = (
        'table=public.items&offset=-1&columns=id,"Title"&queryable_columns=id&where=id=$1 or id=$2'
        "&params[2]=b&params[1]=a&replica=full&log=changes_only&cursor=17&experimental_compaction=true&unknown=1"
    )
    request = read(query)
    shape = request.shape
    assert shape.columns == ("id", "Title")
    assert shape.queryable_columns == ("id",)
    assert shape.where == "id=$1 or id=$2"
    assert shape.params == ("a", "b")
    assert shape.replica is Replica.FULL
    assert shape.log is LogMode.CHANGES_ONLY
    assert request.cursor == 17


def test_more_than_nine_parameters_are_ordered_by_number() -> None:
    """
    `$10` comes after `$9`.
    """
    params = "&".join(f"params[{number}]=v{number}" for number in range(12, 0, -1))
    assert read(f"table=t&offset=-1&where=x&{params}").shape.params == tuple(f"v{n}" for n in range(1, 13))


def test_parameters_without_a_clause_are_dropped() -> None:
    """
    They are checked only when there is a clause, and do not make another shape.
    """
    assert read("table=t&offset=-1&params[7]=x").shape.params == ()


@pytest.mark.parametrize("blank", ["", "%20", "+%09"])
def test_blank_values_count_as_absent(blank: str) -> None:
    """
    Empty and white values are as if they were not there.
    """
    shape = read(f"table=t&offset=-1&where={blank}&replica={blank}&log={blank}&columns={blank}").shape
    assert shape.where is None
    assert shape.columns is None
    assert shape.replica is Replica.DEFAULT


@pytest.mark.parametrize("cursor", ["", "abc", "1x", "1.5", "9" * 19])
def test_cursor_that_is_no_integer_is_none(cursor: str) -> None:
    """
    Rubbish counts as never having had a cursor.
    """
    assert read(f"table=t&offset=-1&cursor={cursor}").cursor == 0


# --- problems, in order ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # 1: types, all at once
        ("table[x]=1&replica=bogus&log=bogus", {k: ["is invalid"] for k in ("table", "replica", "log")}),
        ("params=x", {"params": ["is invalid"]}),
        ("params[1][2]=x", {"params": ["is invalid"]}),
        ("params[]=x", {"params": ["is invalid"]}),
        ("experimental_live_sse=maybe", {"live_sse": ["is invalid"]}),
        ("experimental_compaction=maybe", {"experimental_compaction": ["is invalid"]}),
        ("columns=id,", {"columns": ["Invalid zero-length delimited identifier"]}),
        ("where=%00", {"where": ["is invalid"]}),
        ("params[1]=%00", {"params": ["is invalid"]}),
        # 1b
        ("", {"offset": ["can't be blank"]}),
        ("offset=%20", {"offset": ["can't be blank"]}),
        # 2
        *((f"offset={bad}", {"offset": ["has invalid format"]}) for bad in ("invalid", "-2", "1", "-1_1", "1_-1")),
        *((f"offset={bad}", {"offset": ["has invalid format"]}) for bad in ("1_2_3", "0_0+", "1.0_0", "inf_0", "NOW")),
        ("offset=99999999999999999999_0", {"offset": ["has invalid format"]}),
        # 3
        ("offset=10_13", {"handle": ["can't be blank when offset != -1"]}),
        ("offset=10_13&handle=+&live=true", {"handle": ["can't be blank when offset != -1"]}),
        # 4
        ("offset=-1&live=true", {"live": ["can't be true when offset == -1"]}),
        ("offset=now&live=true", {"live": ["can't be true when offset is 'now'"]}),
        # 5
        ("offset=-1&live_sse=true", {"live_sse": ["can't be true unless live is also true"]}),
        # 6
        ("offset=-1", {"table": ["can't be blank"]}),
        # 7, what can be told without the catalog
        ("offset=-1&table=.x", {"table": ["Invalid zero-length delimited identifier"]}),
        ("offset=-1&table=a.b.c", {"table": ["Invalid relation identifier, too many delimiters: a.b.c"]}),
        ("offset=-1&table=t&where=x&params[a]=1", {"params": ["Parameters can only use numbers as keys"]}),
        *(
            (
                f"offset=-1&table=t&where=x&{bad}",
                {"params": ["Parameters must be numbered sequentially, starting from 1"]},
            )
            for bad in ("params[2]=1", "params[1]=1&params[3]=1", "params[1]=a&params[01]=b", "params[99999999999]=1")
        ),
        ("offset=-1&table=t&subset__limit=1", {"subset": ["is not supported by this version"]}),
    ],
)
def test_problems_are_told_stage_by_stage(query: str, expected: dict[str, list[str]]) -> None:
    """
    The first stage that finds something is the only one that speaks (B6, B7, B8, B9, B16).
    """
    assert problems(query) == expected
