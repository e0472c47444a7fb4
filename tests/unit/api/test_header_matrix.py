"""
Every answer with all its headers, to the byte.
"""

from __future__ import annotations

from typing import Final

import pytest

from penstock.api import plan
from penstock.api.heads import rest
from penstock.api.params import LogRequest, decode_query, validate
from penstock.api.plan import Answer, LogBody, Moment, Planner
from penstock.api.settings import ApiSettings
from penstock.shapes.offset import SNAPSHOT_END, LogOffset, snapshot_chunk_end
from penstock.shapes.reading import (
    InlinePiece,
    LogRange,
    Opened,
    Refused,
    Removed,
    Rotated,
    SubsetLoaded,
)

PLANNER: Final = Planner(ApiSettings(cache_max_age_s=60, cache_stale_age_s=300))
MOMENT: Final = Moment(now_unix_s=1_728_432_000 + 41, step_s=7, unique=99)
HANDLE: Final = "100-17"
CHANGE: Final = LogOffset(700, 4)
ROW: Final = InlinePiece(b'{"key":"k"}')

COMMON: Final = (
    "access-control-allow-origin: *",
    (
        "access-control-expose-headers: electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,"
        "electric-up-to-date,electric-internal-known-error,retry-after"
    ),
    "access-control-allow-methods: GET, POST, HEAD, DELETE, OPTIONS",
)
JSON: Final = "content-type: application/json; charset=utf-8"
NO_STORE: Final = ("cache-control: no-store", "surrogate-control: no-store")


def request(query: str) -> LogRequest:
    found = validate(decode_query(f"table=t&{query}".encode()))
    assert isinstance(found, LogRequest)
    return found


def opened(end: LogOffset, last: LogOffset, *pieces: InlinePiece) -> Opened:
    return Opened(HANDLE, '{"id":{"type":"int4"}}', LogRange(end, last, pieces), 900)


def decide(query: str, reply: Opened | Rotated | Refused, *if_none_match: bytes) -> Answer:
    answer = PLANNER.decide(request(query), reply, list(if_none_match), MOMENT)
    assert isinstance(answer, Answer)
    return answer


def loaded() -> SubsetLoaded:
    return SubsetLoaded(HANDLE, "{}", CHANGE, b"{}", (ROW,))


def live_data() -> Answer:
    found = LogRange(CHANGE, CHANGE, (ROW,))
    at = request(f"handle={HANDLE}&offset=0_inf&live=true")
    return PLANNER.live_data(at, HANDLE, found, plan.live_body(found), MOMENT)


def live_timeout() -> Answer:
    at = request(f"handle={HANDLE}&offset=700_4&live=true&cursor=60")
    return PLANNER.no_change(at, HANDLE, CHANGE, 900, MOMENT, schema=None)


def events() -> Answer:
    at = request(f"handle={HANDLE}&offset=700_4&live=true&live_sse=true")
    return PLANNER.events(at, HANDLE, LogRange(CHANGE, CHANGE), MOMENT)


FIRST = "cache-control: public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"
LATER = "cache-control: public, max-age=60, stale-while-revalidate=300"
LIVE = "cache-control: public, max-age=5, stale-while-revalidate=5"
SCHEMA = 'electric-schema: {"id":{"type":"int4"}}'
NAMED = f"electric-handle: {HANDLE}"
AT_CHANGE = "electric-offset: 700_4"
CURRENT = "electric-up-to-date: "


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (
            decide("offset=-1", opened(snapshot_chunk_end(0), SNAPSHOT_END, ROW)),
            200,
            [JSON, FIRST, NAMED, "electric-offset: 0_0", f'etag: "{HANDLE}:-1:0_0"', SCHEMA, "electric-has-data: true"],
        ),
        (
            decide(f"handle={HANDLE}&offset=0_00", opened(LogOffset(600, 0), CHANGE, ROW)),
            200,
            [
                JSON, LATER, NAMED, "electric-offset: 600_0", f'etag: "{HANDLE}:0_0:600_0"', SCHEMA,
                "electric-has-data: true",
            ],
        ),
        (
            decide(f"handle={HANDLE}&offset=600_0", opened(CHANGE, CHANGE, ROW)),
            200,
            [
                JSON, LATER, NAMED, AT_CHANGE, f'etag: "{HANDLE}:600_0:700_4"', SCHEMA, "electric-has-data: true",
                CURRENT,
            ],
        ),
        (
            decide("offset=now", opened(CHANGE, CHANGE)),
            200,
            [
                JSON, LATER, NAMED, AT_CHANGE, f'etag: "{HANDLE}:now:700_4:99"', SCHEMA, "electric-has-data: false",
                CURRENT,
            ],
        ),
        (
            live_data(),
            200,
            [
                JSON, LIVE, NAMED, AT_CHANGE, f'etag: "{HANDLE}:0_inf:700_4"', "electric-cursor: 60",
                "electric-has-data: true", CURRENT,
            ],
        ),
        (
            live_timeout(),
            200,
            [
                JSON, LIVE, NAMED, AT_CHANGE, f'etag: "{HANDLE}:700_4:700_4:99"', "electric-cursor: 67",
                "electric-has-data: false", CURRENT,
            ],
        ),
        (
            events(),
            200,
            [
                "content-type: text/event-stream", "connection: keep-alive", "cache-control: public, max-age=59", NAMED,
                AT_CHANGE, f'etag: "{HANDLE}:700_4:700_4"', "electric-cursor: 60", "electric-has-data: true", CURRENT,
            ],
        ),
        (
            decide(f"handle={HANDLE}&offset=700_4", opened(CHANGE, CHANGE), b'"x", "100-17:700_4:700_4"'),
            304,
            [JSON, LATER, NAMED, AT_CHANGE, f'etag: "{HANDLE}:700_4:700_4"', "electric-has-data: true", CURRENT],
        ),
        (
            decide(f"handle={HANDLE}&offset=700_4&live", opened(CHANGE, CHANGE), b'"100-17:700_4:700_4"'),
            304,
            [
                JSON, LIVE, NAMED, AT_CHANGE, f'etag: "{HANDLE}:700_4:700_4"', "electric-cursor: 60",
                "electric-has-data: true", CURRENT,
            ],
        ),
        (
            decide("handle=9&offset=0_0", Rotated(HANDLE)),
            409,
            [JSON, "cache-control: public, max-age=60, must-revalidate", NAMED, f'etag: "{HANDLE}::"'],
        ),
        (
            decide("handle=9&offset=0_0&live", Rotated()),
            409,
            [JSON, "cache-control: public, max-age=1, must-revalidate"],
        ),
        (PLANNER.invalid({"offset": ["has invalid format"]}), 400, [JSON, *NO_STORE]),
        (PLANNER.unready("stack restart"), 503, [JSON, *NO_STORE, "retry-after: 5"]),
        (
            decide("offset=-1", Refused(503, "Snapshot …", retry_after_s=10, is_known=True)),
            503,
            [JSON, *NO_STORE, "retry-after: 10", "electric-internal-known-error: true"],
        ),
        (
            PLANNER.subset(request("offset=now"), loaded()),
            200,
            [JSON, "cache-control: no-cache", NAMED, AT_CHANGE, "electric-snapshot: true", "electric-schema: {}"],
        ),
        (
            PLANNER.subset(request("handle=9&offset=0_0&live"), loaded()),
            200,
            [JSON, "cache-control: no-cache", NAMED, AT_CHANGE, "electric-snapshot: true"],
        ),
        (
            PLANNER.subset(request("handle=9&offset=0_0"), Rotated(HANDLE)),
            409,
            [JSON, "cache-control: no-cache", NAMED, f'etag: "{HANDLE}::"'],
        ),
        (
            PLANNER.subset(request("offset=now"), Refused(400, "Invalid request", {"subset": {"where": "no"}})),
            400,
            [JSON, "cache-control: no-cache"],
        ),
        (PLANNER.removal(Removed()), 202, ["cache-control: no-cache"]),
        (PLANNER.removal(Refused(404, "No existing shape found")), 404, [JSON, "cache-control: no-cache"]),
    ],
    ids=[
        "first", "in between", "up to date", "now", "live data", "live timeout", "events", "not modified",
        "not modified live", "rotated", "gone", "invalid", "unready", "known error", "subset", "subset live",
        "subset rotated", "subset invalid", "removed", "not removed",
    ],
)  # fmt: skip
def test_every_answer_has_these_headers_and_no_others(answer: Answer, status: int, expected: list[str]) -> None:
    """
    The matrix of the contract (B5, C1, C2, C3, C5, C6, C9, C28, E1, I3, I10).
    """
    headers = rest(answer, origin=b"*", is_shape=True, bytes_count=None)
    assert answer.status == status
    assert sorted(f"{name.decode()}: {value.decode()}" for name, value in headers) == sorted([*COMMON, *expected])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (LogBody(), b"[]"),
        (LogBody((ROW, ROW), b"{}"), b'[{"key":"k"},{"key":"k"},{}]'),
        (PLANNER.subset(request("offset=now"), loaded()).body, b'{"metadata":{},"data":[{"key":"k"}]}'),
        (
            PLANNER.subset(request("offset=now"), SubsetLoaded(HANDLE, "{}", CHANGE, b"{}")).body,
            b'{"metadata":{},"data":[]}',
        ),
    ],
)
def test_a_body_is_made_of_its_pieces(body: LogBody, expected: bytes) -> None:
    """
    What stands around the elements, also when there are none, and a length that is known before (E1).
    """
    written = b"".join(part if isinstance(part, bytes) else b"" for part in body.segments())
    assert written == expected
    assert body.bytes_count == len(expected)


@pytest.mark.parametrize("query", ["offset=-1", "handle=9&offset=0_0&live&live_sse"])
def test_an_answer_to_another_method_is_not_kept(query: str) -> None:
    """
    Whatever it is, its one rule for caches is `no-cache`.
    """
    for answer in (decide(query, Rotated(HANDLE)), decide(query, Refused(500, "x"))):
        headers = dict(plan.uncached(answer).headers)
        assert headers[b"cache-control"] == b"no-cache"
        assert b"surrogate-control" not in headers
