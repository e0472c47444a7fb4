"""
The HTTP contract as any client may rely on it, held against whatever server is named.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from conformance.conftest import Server

EXPOSED = (
    "electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,electric-up-to-date,"
    "electric-internal-known-error,retry-after"
)
UNKNOWN = (
    'Table "public"."no_such_table_here" does not exist. '
    "If the table name contains capitals or special characters you must quote it."
)
MUST_REFETCH = [{"headers": {"control": "must-refetch"}}]


def last_control(response: httpx.Response) -> Any:
    messages = response.json()
    return messages[-1]["headers"].get("control") if messages else None


# --- routes ----------------------------------------------------------------------------------------------------------


def test_root_is_empty(server: Server) -> None:
    """
    It says only that somebody is there (B1).
    """
    response = server.ask("/")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["cache-control"] == "max-age=0, private, must-revalidate"
    assert re.fullmatch(r"Penstock/.+", response.headers["electric-server"])


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/v2"), ("PUT", "/v1/shape"), ("POST", "/v1/health"), ("DELETE", "/")]
)
def test_everything_else_is_not_found(server: Server, method: str, target: str) -> None:
    """
    The body is plain, and browsers may read it (B2).
    """
    response = server.ask(target, method)
    assert (response.status_code, response.text) == (404, "Not found")
    assert "json" not in response.headers.get("content-type", "")
    assert response.headers["access-control-allow-origin"] == "*"


def test_health_is_never_cached(server: Server) -> None:
    """
    A server that answers shapes says that it is active (B3).
    """
    response = server.ask("/v1/health")
    assert (response.status_code, response.json()) == (200, {"status": "active"})
    assert response.headers["cache-control"] == "no-cache, no-store, must-revalidate"
    assert server.ask("/v1/ready").status_code == 200


@pytest.mark.parametrize("path", ["//v1/shape", "/v1/shape/", "/v1//shape", "/v1/%73hape"])
def test_paths_have_many_spellings(server: Server, path: str) -> None:
    """
    All of them reach the shape, the preflight too (B4).
    """
    assert server.ask(f"{path}?table={server.table}&offset=-1").status_code == 200
    assert server.ask(path, "OPTIONS").status_code == 204


def test_preflight_allows_what_clients_send(server: Server) -> None:
    """
    Methods, a day's age, and of the wanted headers those that are allowed (B25).
    """
    response = server.ask(
        "/v1/shape", "OPTIONS", origin="http://a.test", access_control_request_headers="If-None-Match"
    )
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "http://a.test"
    assert response.headers["access-control-allow-methods"] == "GET, POST, HEAD, DELETE, OPTIONS"
    assert response.headers["access-control-allow-headers"] == "If-None-Match"
    assert response.headers["access-control-max-age"] == "86400"
    assert "cache-control" not in response.headers
    refused = server.ask("/v1/shape", "OPTIONS", access_control_request_headers="x-evil")
    assert "access-control-allow-headers" not in refused.headers


@pytest.mark.parametrize(
    ("sent", "is_echoed"), [("x" * 19, False), ("x" * 20, True), ("x" * 200, True), ("x" * 201, False)]
)
def test_request_id_is_echoed_when_it_may_be_one(server: Server, sent: str, *, is_echoed: bool) -> None:
    """
    Otherwise the server makes one.
    """
    answered = server.ask("/", x_request_id=sent).headers["x-request-id"]
    assert (answered == sent) is is_echoed
    assert len(answered) >= 20


@pytest.mark.parametrize("query", ["offset=-1", "offset=bogus", "offset=0_0&handle=1-1"])
def test_browsers_may_read_the_headers(server: Server, query: str) -> None:
    """
    On errors as well (C28).
    """
    headers = server.shape(query, origin="http://a.test").headers
    assert headers["access-control-expose-headers"] == EXPOSED
    assert headers["access-control-allow-origin"] == "http://a.test"


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("offset=-1", {"table": ["can't be blank"]}),
        ("table=.x&offset=-1", {"table": ["Invalid zero-length delimited identifier"]}),
        ("table=no_such_table_here&offset=-1", {"table": [UNKNOWN]}),
        ("table=t", {"offset": ["can't be blank"]}),
        ("table=t&offset=invalid", {"offset": ["has invalid format"]}),
        ("table=t&offset=-2_0", {"offset": ["has invalid format"]}),
        ("table=t&offset=10_13", {"handle": ["can't be blank when offset != -1"]}),
        ("table=t&offset=-1&live=true", {"live": ["can't be true when offset == -1"]}),
        ("table=t&offset=now&live=true", {"live": ["can't be true when offset is 'now'"]}),
        ("table=t&offset=-1&live_sse=true", {"live_sse": ["can't be true unless live is also true"]}),
        ("table=t&offset=-1&replica=bogus&log=bogus", {"replica": ["is invalid"], "log": ["is invalid"]}),
        ("table=t&offset=-1&columns=a,", {"columns": ["Invalid zero-length delimited identifier"]}),
    ],
)
def test_invalid_requests_say_what_is_wrong(server: Server, query: str, errors: dict[str, list[str]]) -> None:
    """
    Problems by parameter, and nobody keeps the answer (B5, B6, B7, B8, B9).
    """
    response = server.ask(f"/v1/shape?{query}")
    assert response.status_code == 400
    assert response.json() == {"message": "Invalid request", "errors": errors}
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["surrogate-control"] == "no-store"


@pytest.mark.parametrize("query", ["table=%ff", "table=%zz", "a=%"])
def test_undecodable_query_is_a_bare_400(server: Server, query: str) -> None:
    """
    There is nothing to say about parameters that cannot be read.
    """
    response = server.ask("/v1/shape?offset=-1&" + query)
    assert (response.status_code, response.content) == (400, b"")


# --- serving ---------------------------------------------------------------------------------------------------------


def test_first_response(server: Server) -> None:
    """
    The rows, where they end, what they are, and no word about being up to date (C1).
    """
    response = server.shape("offset=-1")
    assert response.status_code == 200
    headers = response.headers
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["electric-offset"] == "0_0"
    assert headers["electric-has-data"] == "true"
    assert headers["etag"] == f'"{headers["electric-handle"]}:-1:0_0"'
    assert headers["cache-control"] == "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"
    assert "electric-schema" in headers
    assert not {"electric-up-to-date", "electric-cursor"} & headers.keys()
    messages = response.json()
    assert messages[0]["headers"]["operation"] == "insert"
    assert last_control(response) != "up-to-date"


def test_head_is_get_without_a_body(server: Server) -> None:
    """
    The same headers, so that caches can use it (B26).
    """
    get, head = server.shape("offset=-1"), server.ask(f"/v1/shape?table={server.table}&offset=-1", "HEAD")
    assert head.content == b""
    varying = {"x-request-id", "date", "transfer-encoding"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }


def test_idle_shape_ends_up_to_date(server: Server) -> None:
    """
    The last plain response says so in its body and its headers (C2, I1, I14).
    """
    handle, _ = server.end()
    response = server.shape(f"offset=0_0&handle={handle}")
    assert last_control(response) == "up-to-date"
    assert re.fullmatch(r"\d+", response.json()[-1]["headers"]["global_last_seen_lsn"])
    assert response.headers["electric-up-to-date"] == ""
    assert re.fullmatch(r"public, max-age=\d+, stale-while-revalidate=\d+", response.headers["cache-control"])


@pytest.mark.parametrize("query", ["offset=now", "offset=now&handle=1-1"])
def test_now_gives_the_end_and_no_data(server: Server, query: str) -> None:
    """
    A handle makes no difference (C9).
    """
    handle, end = server.end()
    response = server.shape(query)
    assert [message["headers"]["control"] for message in response.json()] == ["up-to-date"]
    headers = response.headers
    assert (headers["electric-handle"], headers["electric-offset"]) == (handle, end)
    assert (headers["electric-has-data"], headers["electric-up-to-date"]) == ("false", "")
    assert "electric-schema" in headers
    assert headers["etag"].startswith(f'"{handle}:now:{end}:')


def test_live_request_without_a_change_ends_up_to_date(server: Server) -> None:
    """
    After the time of a long poll it gets a cursor, its old offset, and a tag that never matches again (C6, I12).
    """
    handle, end = server.end()
    responses = [server.shape(f"offset={end}&handle={handle}&live=true")]
    cursor = responses[0].headers["electric-cursor"]
    responses.append(server.shape(f"offset={end}&handle={handle}&live=true&cursor={cursor}"))
    for response in responses:
        assert response.status_code == 200
        assert [message["headers"]["control"] for message in response.json()] == ["up-to-date"]
        assert response.headers["electric-offset"] == end
        assert response.headers["electric-has-data"] == "false"
        assert response.headers["cache-control"] == "public, max-age=5, stale-while-revalidate=5"
        assert "electric-schema" not in response.headers
    assert int(responses[1].headers["electric-cursor"]) > int(cursor)
    assert responses[0].headers["etag"] != responses[1].headers["etag"]


@pytest.mark.parametrize("live", ["", "&live=true"])
def test_known_content_is_not_sent_again(server: Server, live: str) -> None:
    """
    A live request too is answered at once (C3).
    """
    handle, end = server.end()
    tag = f'"{handle}:{end}:{end}"'
    response = server.shape(f"offset={end}&handle={handle}{live}", if_none_match=f'"x", {tag}')
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == tag
    assert ("electric-cursor" in response.headers) is bool(live)


def test_unknown_handle_leads_to_the_current_one(server: Server) -> None:
    """
    The client is told to begin anew, and under which name (C10).
    """
    handle, _ = server.end()
    for live in ("", "&live=true", "&live=true&live_sse=true"):
        response = server.shape(f"offset=0_0&handle=1-1{live}")
        assert (response.status_code, response.json()) == (409, MUST_REFETCH)
        assert response.headers["electric-handle"] == handle
        assert response.headers["etag"] == f'"{handle}::"'
        assert response.headers["cache-control"] == "public, max-age=60, must-revalidate"
        unwanted = {"electric-offset", "electric-schema", "electric-cursor", "electric-up-to-date", "electric-has-data"}
        assert not unwanted & response.headers.keys()


def test_place_beyond_the_end_is_refused_in_the_end(server: Server) -> None:
    """
    The server waits a while for it, in case it has just been restarted (B10).
    """
    handle, _ = server.end()
    response = server.shape(f"offset=9223372036854775000_0&handle={handle}")
    assert response.status_code == 400
    assert response.json()["errors"] == {"offset": ["out of bounds for this shape"]}
