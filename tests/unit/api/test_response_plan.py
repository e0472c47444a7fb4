from __future__ import annotations

import json

import pytest

from penstock.api.params import LogRequest, decode_query, validate
from penstock.api.plan import (
    Answer,
    Decision,
    LogBody,
    Moment,
    Park,
    Planner,
    Reach,
    Stream,
    frame_events,
    live_body,
)
from penstock.api.settings import ApiSettings
from penstock.shapes.offset import SNAPSHOT_END, LogOffset
from penstock.shapes.reading import FilePiece, InlinePiece, LogRange, Opened, OpenReply, Refused, Rotated

MOMENT = Moment(now_unix_s=1_728_432_030.0, step_s=9, unique=777)
PLANNER = Planner(ApiSettings())
ONE = (InlinePiece(b'{"n":1}'),)


def request(query: str) -> LogRequest:
    found = validate(decode_query(f"table=t&handle=h-1&{query}".encode()))
    assert isinstance(found, LogRequest), found
    return found


def opened(end: LogOffset, last: LogOffset, *pieces: InlinePiece, seen: int = 50, is_replaying: bool = False) -> Opened:
    return Opened("h-1", '{"id":{"type":"int8"}}', LogRange(end, last, pieces), seen, is_replaying)


def decide(query: str, reply: OpenReply, *if_none_match: bytes) -> Decision:
    return PLANNER.decide(request(query), reply, list(if_none_match), MOMENT)


def answered(decision: Decision) -> tuple[int, dict[str, str], list[object] | None]:
    """
    Give status, the headers that the contract is about, and the body.
    """
    assert isinstance(decision, Answer)
    headers = {name.decode(): value.decode() for name, value in decision.headers}
    if not isinstance(decision.body, LogBody):
        return decision.status, headers, None
    data = b"".join(segment for segment in decision.body.segments() if isinstance(segment, bytes))
    assert len(data) == decision.body.bytes_count
    body: list[object] = json.loads(data)
    return decision.status, headers, body


def up_to_date(lsn: int) -> object:
    return {"headers": {"control": "up-to-date", "global_last_seen_lsn": str(lsn)}}


JSON = "application/json; charset=utf-8"
SCHEMA = '{"id":{"type":"int8"}}'


def test_first_response_is_never_up_to_date() -> None:
    """
    Even an empty shape sends its client on to the end of the snapshot (C1).
    """
    status, headers, body = answered(decide("offset=-1", opened(LogOffset(0, 0), LogOffset(0, 0), *ONE)))
    assert (status, body) == (200, [{"n": 1}])
    assert headers == {
        "content-type": JSON,
        "cache-control": "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746",
        "electric-handle": "h-1",
        "electric-offset": "0_0",
        "etag": '"h-1:-1:0_0"',
        "electric-schema": SCHEMA,
        "electric-has-data": "true",
    }


def test_last_plain_response_speaks_for_all_shapes() -> None:
    """
    The up-to-date message names what has been processed for any shape (C8).
    """
    status, headers, body = answered(decide("offset=0_0", opened(LogOffset(9, 2), LogOffset(9, 2), *ONE)))
    assert (status, body) == (200, [{"n": 1}, up_to_date(50)])
    assert headers["electric-up-to-date"] == ""
    assert headers["electric-schema"] == SCHEMA
    assert headers["cache-control"] == "public, max-age=60, stale-while-revalidate=300"
    assert "electric-cursor" not in headers


def test_plain_response_never_claims_less_than_it_holds() -> None:
    """
    When the shape is ahead of what was last processed for all, its own end counts (C8).
    """
    _, _, body = answered(decide("offset=0_0", opened(LogOffset(90, 2), LogOffset(90, 2), seen=50)))
    assert body == [up_to_date(90)]


def test_response_that_ends_with_a_closed_chunk_is_not_up_to_date() -> None:
    """
    There is more, so the client comes again (C8, C22).
    """
    status, headers, body = answered(decide("offset=0_0", opened(LogOffset(9, 2), LogOffset(10, 0), *ONE)))
    assert (status, body) == (200, [{"n": 1}])
    assert "electric-up-to-date" not in headers


def test_empty_range_that_is_not_the_end_is_an_empty_array() -> None:
    """
    The snapshot ended where the chunk after the last was asked for: the next request goes on in the log.
    """
    _, headers, body = answered(decide("offset=0_1", opened(LogOffset(0, 2), SNAPSHOT_END)))
    assert body == []
    assert headers["electric-offset"] == "0_2"


def test_now_is_answered_without_data() -> None:
    """
    It names the end, and its tag never matches again (C9).
    """
    status, headers, body = answered(decide("offset=now", opened(SNAPSHOT_END, SNAPSHOT_END)))
    assert (status, body) == (200, [up_to_date(50)])
    assert headers["electric-offset"] == "0_inf"
    assert headers["electric-has-data"] == "false"
    assert headers["electric-up-to-date"] == ""
    assert headers["electric-schema"] == SCHEMA
    assert headers["etag"] == '"h-1:now:0_inf:777"'


def test_live_request_with_data_is_answered_at_once_and_speaks_for_its_shape() -> None:
    """
    It has a cursor and no schema (C5).
    """
    status, headers, body = answered(decide("offset=0_0&live=true", opened(LogOffset(9, 2), LogOffset(9, 2), *ONE)))
    assert (status, body) == (200, [{"n": 1}, up_to_date(9)])
    assert headers == {
        "content-type": JSON,
        "cache-control": "public, max-age=5, stale-while-revalidate=5",
        "electric-handle": "h-1",
        "electric-offset": "9_2",
        "etag": '"h-1:0_0:9_2"',
        "electric-cursor": "40",
        "electric-has-data": "true",
        "electric-up-to-date": "",
    }


def test_live_request_that_is_behind_by_a_chunk_is_not_up_to_date() -> None:
    """
    The body ends with the chunk.
    """
    _, headers, body = answered(decide("offset=0_0&live=true", opened(LogOffset(9, 2), LogOffset(10, 0), *ONE)))
    assert body == [{"n": 1}]
    assert "electric-up-to-date" not in headers


def test_live_request_that_has_everything_is_parked_at_the_end() -> None:
    """
    The place waited at is where the log ends, also when the client names an earlier one with nothing in between.
    """
    assert decide("offset=9_2&live=true", opened(LogOffset(9, 2), LogOffset(9, 2))) == Park("h-1", LogOffset(9, 2))
    assert decide("offset=0_0&live=true", opened(SNAPSHOT_END, SNAPSHOT_END)) == Park("h-1", SNAPSHOT_END)


def test_timeout_is_answered_without_data() -> None:
    """
    A cursor, a tag that never matches again, and no schema.
    """
    parked = request("offset=9_2&live=true&cursor=60")
    answer = PLANNER.no_change(parked, "h-1", LogOffset(9, 2), 50, MOMENT, schema=None)
    status, headers, body = answered(answer)
    assert (status, body) == (200, [up_to_date(50)])
    assert headers == {
        "content-type": JSON,
        "cache-control": "public, max-age=5, stale-while-revalidate=5",
        "electric-handle": "h-1",
        "electric-offset": "9_2",
        "etag": '"h-1:9_2:9_2:777"',
        "electric-cursor": "69",
        "electric-has-data": "false",
        "electric-up-to-date": "",
    }


@pytest.mark.parametrize("live", ["", "&live=true", "&live=true&live_sse=true"])
def test_place_not_reached_is_waited_for(live: str) -> None:
    """
    A client may have seen data that this server has not got yet; nothing is told to be up to date meanwhile.
    """
    reply = opened(LogOffset(12, 0), LogOffset(9, 2), is_replaying=True)
    tag = b'"h-1:12_0:12_0"'
    assert decide("offset=12_0" + live, reply, tag) == Reach("h-1", LogOffset(9, 2), is_replaying=True)


def test_place_never_reached_is_the_clients_fault_unless_replaying() -> None:
    """
    Clients give up on 400, so it is said only when nothing can come any more.
    """
    fault = PLANNER.out_of_bounds(is_replaying=False)
    assert isinstance(fault.body, bytes)
    assert fault.status == 400
    assert json.loads(fault.body)["errors"] == {"offset": ["out of bounds for this shape"]}
    patience = PLANNER.out_of_bounds(is_replaying=True)
    assert patience.status == 503
    assert (b"retry-after", b"5") in patience.headers


@pytest.mark.parametrize(
    ("query", "end", "present", "absent"),
    [
        ("offset=0_0", LogOffset(9, 2), {"electric-up-to-date"}, {"electric-cursor"}),
        ("offset=0_0&live=true", LogOffset(9, 2), {"electric-up-to-date", "electric-cursor"}, set()),
        ("offset=-1", LogOffset(0, 0), set(), {"electric-up-to-date", "electric-cursor"}),
    ],
)
def test_known_content_is_not_sent_again(query: str, end: LogOffset, present: set[str], absent: set[str]) -> None:
    """
    A matching tag gives 304 with the headers of the response it stands for, before anything is waited for.
    """
    offset = query.partition("&")[0].removeprefix("offset=")
    tag = f'"h-1:{offset}:{end}"'.encode()
    decision = decide(query, opened(end, LogOffset(9, 2)), b'"other"', tag)
    status, headers, _ = answered(decision)
    assert status == 304
    assert isinstance(decision, Answer)
    assert decision.body == b""
    assert headers["electric-has-data"] == "true"
    assert {"electric-handle", "electric-offset", "etag", "content-type", "cache-control"} | present <= headers.keys()
    assert not ({"electric-schema"} | absent) & headers.keys()


def test_rotation_names_the_next_handle_when_it_is_known() -> None:
    """
    The body is the same with and without it (I10).
    """
    body = [{"headers": {"control": "must-refetch"}}]
    assert answered(decide("offset=0_0", Rotated("h-2"))) == (
        409,
        {
            "content-type": JSON,
            "cache-control": "public, max-age=60, must-revalidate",
            "electric-handle": "h-2",
            "etag": '"h-2::"',
        },
        body,
    )
    assert answered(decide("offset=0_0&live=true&live_sse=true", Rotated())) == (
        409,
        {"content-type": JSON, "cache-control": "public, max-age=1, must-revalidate"},
        body,
    )


def test_refusal_is_passed_on() -> None:
    """
    Status, text, problems and headers are the engine's.
    """
    decision = decide("offset=-1", Refused(503, "Snapshot is late", retry_after_s=10, is_known=True))
    assert isinstance(decision, Answer)
    assert decision.status == 503
    assert decision.body == b'{"message":"Snapshot is late"}'
    assert dict(decision.headers) == {
        b"content-type": JSON.encode(),
        b"cache-control": b"no-store",
        b"surrogate-control": b"no-store",
        b"retry-after": b"10",
        b"electric-internal-known-error": b"true",
    }
    decision = decide("offset=-1", Refused(400, "Invalid request", {"table": ["x"]}))
    assert isinstance(decision, Answer)
    assert decision.body == b'{"message":"Invalid request","errors":{"table":["x"]}}'


def test_cache_rules_can_be_left_to_others() -> None:
    """
    Whoever embeds the application may set the headers.
    """
    planner = Planner(ApiSettings(sends_cache_headers=False))
    for reply in (opened(LogOffset(9, 2), LogOffset(9, 2)), Rotated("h-2"), Refused(400, "no")):
        decision = planner.decide(request("offset=0_0"), reply, [], MOMENT)
        assert isinstance(decision, Answer)
        assert not {b"cache-control", b"surrogate-control"} & dict(decision.headers).keys()


def test_events_have_a_head_of_their_own() -> None:
    """
    Event streams are decided before anything is waited for, and their head says where they begin.
    """
    found = LogRange(LogOffset(9, 2), LogOffset(9, 2))
    sse = "offset=9_2&live=true&live_sse=true"
    assert decide(sse, opened(found.chunk_end, found.last)) == Stream("h-1", found)
    head = PLANNER.events(request(sse), "h-1", found, MOMENT)
    headers = {name.decode(): value.decode() for name, value in head.headers}
    assert headers == {
        "content-type": "text/event-stream",
        "connection": "keep-alive",
        "cache-control": "public, max-age=59",
        "electric-handle": "h-1",
        "electric-offset": "9_2",
        "etag": '"h-1:9_2:9_2"',
        "electric-cursor": "40",
        "electric-has-data": "true",
        "electric-up-to-date": "",
    }


def test_events_hold_one_element_each() -> None:
    """
    Every element of the array is one line of data.
    """
    framed = frame_events(b'[{"a":"x,]\\n"} , {"b":\n1}]')
    assert framed == b'data: {"a":"x,]\\n"}\n\ndata: {"b": 1}\n\n'
    assert frame_events(b"[]") == b""


@pytest.mark.parametrize(
    ("pieces", "control", "text"),
    [
        ((), None, b"[]"),
        ((), b"C", b"[C]"),
        ((InlinePiece(b"1,2"),), None, b"[1,2]"),
        ((InlinePiece(b"1"), InlinePiece(b"2")), b"C", b"[1,2,C]"),
    ],
)
def test_body_is_an_array(pieces: tuple[InlinePiece, ...], control: bytes | None, text: bytes) -> None:
    """
    Commas go between pieces and before the control message, and the length is known beforehand.
    """
    body = LogBody(pieces, control)
    assert b"".join(s for s in body.segments() if isinstance(s, bytes)) == text
    assert body.bytes_count == len(text)


def test_body_counts_files_by_their_length() -> None:
    """
    No file is looked at to know how long a body is.
    """
    body = live_body(LogRange(LogOffset(7, 0), LogOffset(8, 0), (FilePiece("a", 10, 100), InlinePiece(b"12"))))
    assert body.bytes_count == 1 + 100 + 1 + 2 + 1
