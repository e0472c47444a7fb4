from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from conformance.scripted_source import ScriptedSource, browse, in_file, row
from penstock.api import shape_route
from penstock.api.admission import Kind
from penstock.api.app import ShapeApp
from penstock.api.settings import FILE_BLOCK_BYTES, ApiSettings
from penstock.shapes.reading import FilePiece, Health, InlinePiece, Refused

QUICK = ApiSettings(version="1.2", long_poll_timeout_s=0.2, source_timeout_s=0.2)
PATIENT = msgspec.structs.replace(QUICK, long_poll_timeout_s=20.0)


class Stage:
    """
    An application with its source and a client.
    """

    def __init__(self, source: ScriptedSource, app: ShapeApp, client: httpx.AsyncClient) -> None:
        self.source = source
        self.app = app
        self.client = client

    async def get(self, query: str, **headers: str) -> httpx.Response:
        return await self.client.get(f"/v1/shape?{query}", headers=headers)

    def begin(self, query: str, **headers: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.get(query, **headers))


@asynccontextmanager
async def stage(settings: ApiSettings, data_dir: Path) -> AsyncIterator[Stage]:
    source = ScriptedSource()
    source.add("items", row(1))
    app = ShapeApp(source, settings, data_dir)
    async with browse(app) as client:
        yield Stage(source, app, client)
    await until(lambda: source.waits_under_way + source.opens_under_way == 0)
    assert app.requests_under_way == 0
    assert [app.admission.under_way(kind) for kind in Kind] == [0, 0]
    app.close()


def play(test: Callable[[Stage], Coroutine[Any, Any, None]], data_dir: Path, settings: ApiSettings = QUICK) -> None:
    """
    Run a test on a fresh stage; nothing may be left under way at its end.
    """

    async def run() -> None:
        async with asyncio.timeout(20), stage(settings, data_dir) as fresh:
            await test(fresh)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """
    Let everybody else run until something holds.
    """
    while not condition():  # noqa: ASYNC110  what is waited for is a count, not an event
        await asyncio.sleep(0)


UP_TO_DATE = "up-to-date"


def controls(response: httpx.Response) -> list[str]:
    return [message["headers"].get("control", "data") for message in response.json()]


# --- serving ---------------------------------------------------------------------------------------------------------


def test_a_client_follows_a_shape(tmp_path: Path) -> None:
    """
    First the rows, then up to date, then a change as it comes, then nothing until the time is up (C5).
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        first = await stage.get("table=items&offset=-1")
        assert (first.status_code, controls(first)) == (200, ["data"])
        assert int(first.headers["content-length"]) == len(first.content)
        second = await stage.get(f"table=items&offset={first.headers['electric-offset']}&handle={handle}")
        assert controls(second) == [UP_TO_DATE]
        assert second.headers["electric-offset"] == "0_inf"
        live = f"table=items&handle={handle}&live=true"
        parked = stage.begin(f"{live}&offset=0_inf")
        await until(lambda: stage.source.waits_under_way == 1)
        stage.source.append("items", 900, row(2))
        third = await parked
        assert controls(third) == ["data", UP_TO_DATE]
        assert third.headers["electric-offset"] == "900_0"
        stage.source.last_seen_lsn = 1000
        fourth = await stage.get(f"{live}&offset=900_0&cursor={third.headers['electric-cursor']}")
        assert fourth.json() == [{"headers": {"control": UP_TO_DATE, "global_last_seen_lsn": "1000"}}]
        assert fourth.headers["electric-offset"] == "900_0"
        assert fourth.headers["electric-has-data"] == "false"
        assert fourth.headers["electric-cursor"] != third.headers["electric-cursor"]

    play(test, tmp_path, msgspec.structs.replace(QUICK, long_poll_timeout_s=1.0))


def test_rows_come_from_files_and_memory(tmp_path: Path) -> None:
    """
    Pieces of both kinds are joined, also when one is larger than a block.
    """

    async def test(stage: Stage) -> None:
        large = json.dumps({"large": "x" * (3 * FILE_BLOCK_BYTES)}).encode()
        inline = json.dumps({"inline": "y" * (2 * FILE_BLOCK_BYTES)}).encode()
        shape = stage.source.add("files", in_file(tmp_path, "small", row(1), before=b"not this"))
        stage.source.append("files", 5, in_file(tmp_path, "large", large), inline, row(4))
        first = await stage.get("table=files&offset=-1")
        assert first.json() == [json.loads(row(1))]
        rest = await stage.get(f"table=files&offset=0_0&handle={shape.handle}")
        assert rest.json()[:3] == [json.loads(large), json.loads(inline), json.loads(row(4))]
        assert int(rest.headers["content-length"]) == len(rest.content)
        head = await stage.client.head("/v1/shape?table=files&offset=-1")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == first.headers["content-length"]
        assert head.headers["etag"] == first.headers["etag"]

    play(test, tmp_path)


def test_missing_file_is_asked_about_once_more(tmp_path: Path) -> None:
    """
    Compaction changes the answer, removal ends in 409.
    """

    async def test(stage: Stage) -> None:
        shape = stage.source.add("gone", FilePiece("missing", 0, 5))
        response = await stage.get("table=gone&offset=-1")
        assert (response.status_code, controls(response)) == (409, ["must-refetch"])
        assert stage.source.opens == 2
        asked = stage.source.hold_opens = asyncio.Event()
        late = stage.begin("table=gone&offset=-1")
        await until(lambda: stage.source.opens == 3)
        stage.source.hold_opens = None
        asked.set()
        await until(lambda: stage.source.opens == 4)
        shape.snapshot[0] = InlinePiece(row(3))
        assert (await late).status_code in {200, 409}
        assert (await stage.get("table=gone&offset=-1")).json() == [json.loads(row(3))]

    play(test, tmp_path)


def test_second_answer_is_served_when_the_first_names_a_missing_file(tmp_path: Path) -> None:
    """
    A file that was replaced between answer and opening costs the client nothing.
    """

    class Compacting(ScriptedSource):
        async def open(self, request: Any) -> Any:
            reply = await super().open(request)
            self.shapes["items"].snapshot[0] = InlinePiece(row(7))
            return reply

    async def run() -> None:
        source = Compacting()
        source.add("items", FilePiece("missing", 0, 5))
        app = ShapeApp(source, QUICK, tmp_path)
        async with browse(app) as client:
            response = await client.get("/v1/shape?table=items&offset=-1")
            assert response.json() == [json.loads(row(7))]
        app.close()

    asyncio.run(run())


def test_known_content_is_not_sent_again(tmp_path: Path) -> None:
    """
    The tag of a response gives 304 without a body or its length, live requests included.
    """

    async def test(stage: Stage) -> None:
        first = await stage.get("table=items&offset=-1")
        again = await stage.get("table=items&offset=-1", **{"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert "content-length" not in again.headers
        assert again.headers["cache-control"] == first.headers["cache-control"]
        handle = first.headers["electric-handle"]
        query = f"table=items&offset=0_inf&handle={handle}&live=true"
        live = await stage.get(query, **{"if-none-match": f'"{handle}:0_inf:0_inf"'})
        assert live.status_code == 304
        assert "electric-cursor" in live.headers

    play(test, tmp_path, PATIENT)


def test_rotation_answers_parked_and_later_requests(tmp_path: Path) -> None:
    """
    Who waits learns at once that the log is over, who comes later learns the new handle (C7).
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        parked = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.waits_under_way == 1)
        new = stage.source.add("items", row(1))
        told = await parked
        assert (told.status_code, controls(told)) == (409, ["must-refetch"])
        assert told.headers["cache-control"] == "public, max-age=1, must-revalidate"
        later = await stage.get(f"table=items&offset=0_inf&handle={handle}&live=true")
        assert (later.status_code, later.headers["electric-handle"]) == (409, new.handle)

    play(test, tmp_path, PATIENT)


def test_change_between_answer_and_waiting_is_not_missed(tmp_path: Path) -> None:
    """
    The wait looks at the log again before it waits (C7).
    """

    class Racing(ScriptedSource):
        async def wait(self, handle: str, after: Any) -> Any:
            self.append("items", 50, row(5))
            return await super().wait(handle, after)

    async def run() -> None:
        source = Racing()
        handle = source.add("items", row(1)).handle
        app = ShapeApp(source, PATIENT, tmp_path)
        async with browse(app) as client, asyncio.timeout(10):
            response = await client.get(f"/v1/shape?table=items&offset=0_inf&handle={handle}&live=true")
            assert controls(response) == ["data", UP_TO_DATE]
        app.close()

    asyncio.run(run())


# --- out of bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", ["", "&live=true"])
def test_place_beyond_the_end_is_waited_for(tmp_path: Path, live: str) -> None:
    """
    A shape that gets there in time answers as usual, in one step or several (B10).
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        early = stage.begin(f"table=items&offset=80_0&handle={handle}{live}")
        await until(lambda: stage.source.waits_under_way == 1)
        stage.source.append("items", 70, row(2))
        await until(lambda: stage.source.waits == 2)
        stage.source.append("items", 80, row(3))
        if live:
            await until(lambda: stage.source.waits == 3)
            stage.source.append("items", 90, row(4))
        response = await early
        assert response.status_code == 200
        assert controls(response) == (["data", UP_TO_DATE] if live else [UP_TO_DATE])

    play(test, tmp_path, PATIENT)


@pytest.mark.parametrize("live", ["", "&live=true"])
def test_place_never_reached_is_refused(tmp_path: Path, live: str) -> None:
    """
    After half the time of a long poll it is a 400, or a 503 while the engine replays (B10).
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        refused = await stage.get(f"table=items&offset=80_0&handle={handle}{live}")
        assert refused.status_code == 400
        assert refused.json()["errors"] == {"offset": ["out of bounds for this shape"]}
        stage.source.is_replaying = True
        early = await stage.get(f"table=items&offset=80_0&handle={handle}{live}")
        assert early.status_code == 503
        assert early.headers["retry-after"] == "5"

    play(test, tmp_path)


# --- the engine is away ----------------------------------------------------------------------------------------------


def test_engine_that_stays_away_is_a_503(tmp_path: Path) -> None:
    """
    Every route says so in its own way, and none hangs (B20).
    """

    async def test(stage: Stage) -> None:
        stage.source.is_away = True
        shape = await stage.get("table=items&offset=-1")
        assert (shape.status_code, shape.json()) == (503, {"message": "Timeout waiting for stack restart"})
        assert shape.headers["retry-after"] == "5"
        assert shape.headers["cache-control"] == "no-store"
        live = await stage.get("table=items&offset=0_inf&handle=1-1&live=true")
        assert live.status_code == 503
        health = await stage.client.get("/v1/health")
        assert (health.status_code, health.json()) == (202, {"status": "starting"})
        ready = await stage.client.get("/v1/ready")
        assert (ready.status_code, ready.json()["reason"]) == (503, "waiting for stack restart")
        assert (await stage.client.get("/v1/status")).status_code == 503
        assert (await stage.client.get("/v1/status/shapes")).status_code == 503

    play(test, tmp_path)


def test_requests_outlive_a_restart_of_the_engine(tmp_path: Path) -> None:
    """
    Plain and parked requests are answered when it is back in time.
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        stage.source.is_away = True
        plain = stage.begin("table=items&offset=-1")
        live = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.opens == 2)
        stage.source.is_away = False
        assert (await plain).status_code == 200
        await until(lambda: stage.source.waits_under_way == 1)
        stage.source.is_away = True
        stage.source.shapes["items"].moved.set()
        stage.source.shapes["items"].moved = asyncio.Event()
        waits = stage.source.waits
        await until(lambda: stage.source.waits > waits)
        stage.source.is_away = False
        stage.source.append("items", 60, row(2))
        assert controls(await live) == ["data", UP_TO_DATE]

    play(test, tmp_path, msgspec.structs.replace(PATIENT, source_timeout_s=5.0))


def test_timeout_without_an_engine_is_a_503(tmp_path: Path) -> None:
    """
    Nobody is told to be up to date by a server that does not know (C6).
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        live = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.waits_under_way == 1)
        stage.source.is_away = True
        response = await live
        assert response.status_code == 503
        assert response.headers["retry-after"] == "10"

    play(test, tmp_path)


def test_engine_that_does_not_answer_is_a_503(tmp_path: Path) -> None:
    """
    A hung engine costs the limit, not for ever.
    """

    async def test(stage: Stage) -> None:
        stage.source.hold_opens = asyncio.Event()
        response = await stage.get("table=items&offset=-1")
        assert response.json() == {"message": "Timeout waiting for shape data to be loaded"}

    play(test, tmp_path, msgspec.structs.replace(QUICK, open_timeout_s=0.05))


# --- leaving and stopping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["offset=-1", "offset=0_inf&live=true", "offset=99_0", "offset=0_inf&live=true&live_sse"]
)
def test_client_that_leaves_releases_everything(tmp_path: Path, query: str) -> None:
    """
    Its question to the engine is cancelled and its permit given back, whatever it was waiting for (D5, I6).
    """

    async def test(stage: Stage) -> None:
        if query == "offset=-1":
            stage.source.hold_opens = asyncio.Event()
        handle = stage.source.shapes["items"].handle
        leave = asyncio.Event()
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/shape",
            "raw_path": b"/v1/shape",
            "query_string": f"table=items&handle={handle}&{query}".encode(),
            "headers": [],
        }

        async def receive() -> dict[str, Any]:
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        serving = asyncio.create_task(stage.app(scope, receive, send))
        await until(lambda: stage.source.waits_under_way + stage.source.opens_under_way == 1)
        leave.set()
        await serving
        await until(lambda: stage.source.waits_under_way + stage.source.opens_under_way == 0)
        assert sum(stage.app.admission.under_way(kind) for kind in Kind) == 0
        assert [message["type"] for message in sent] == (["http.response.start"] if "sse" in query else [])

    play(test, tmp_path, PATIENT)


def test_stopping_wakes_everybody_who_has_no_answer_yet(tmp_path: Path) -> None:
    """
    Parked requests, requests the engine has not answered and requests still to come get 503 at once.
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        parked = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.waits_under_way == 1)
        stage.source.hold_opens = asyncio.Event()
        unanswered = stage.begin("table=items&offset=-1")
        await until(lambda: stage.source.opens_under_way == 1)
        stage.app.begin_shutdown()
        for response in [await parked, await unanswered, await stage.get("table=items&offset=-1")]:
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.headers["electric-server"] == "Penstock/1.2"

    play(test, tmp_path, PATIENT)


def test_cancelling_the_server_is_not_swallowed(tmp_path: Path) -> None:
    """
    A cancellation from outside goes on up.
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        parked = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.waits_under_way == 1)
        parked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await parked
        await until(lambda: stage.source.waits_under_way == 0)

    play(test, tmp_path, PATIENT)


# --- sharing ---------------------------------------------------------------------------------------------------------


def test_a_thousand_waiters_share_one_question(tmp_path: Path) -> None:
    """
    One wait and one open serve them all, and all get the same bytes.
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        await stage.get("table=items&offset=-1")
        opens = stage.source.opens
        query = f"table=items&offset=0_inf&handle={handle}&live=true&cursor="
        parked = [stage.begin(f"{query}{number}") for number in range(1000)]
        await until(lambda: stage.app.requests_under_way == 1000 and stage.source.waits_under_way == 1)
        stage.source.append("items", 60, row(2))
        answers = await asyncio.gather(*parked)
        assert len({answer.content for answer in answers}) == 1
        assert {answer.status_code for answer in answers} == {200}
        assert stage.source.waits == 1
        assert stage.source.opens - opens < 1000

    play(test, tmp_path, PATIENT)


def test_a_waiter_that_times_out_leaves_the_others_waiting(tmp_path: Path) -> None:
    """
    The shared question ends with its last asker, not with its first.
    """

    async def test(stage: Stage) -> None:
        handle = stage.source.shapes["items"].handle
        query = f"table=items&offset=0_inf&handle={handle}&live=true"
        stream = stage.begin(query + "&live_sse=true")
        await until(lambda: stage.source.waits_under_way == 1)
        assert controls(await stage.get(query)) == [UP_TO_DATE]
        assert stage.source.waits_under_way == 1
        stage.source.append("items", 60, row(2))
        await until(lambda: stage.source.waits == 2)
        stage.source.drop("items")
        assert (await stream).text.count("data: ") == 2

    play(test, tmp_path)


# --- admission -------------------------------------------------------------------------------------------------------


def test_requests_over_the_limit_are_refused_without_asking_the_engine(tmp_path: Path) -> None:
    """
    The refusal says which limit, and when to come again (D1, D3).
    """

    async def test(stage: Stage) -> None:
        stage.source.hold_opens = asyncio.Event()
        first = stage.begin("table=items&offset=-1")
        await until(lambda: stage.source.opens_under_way == 1)
        refused = await stage.get("table=items&offset=-1")
        assert refused.status_code == 503
        assert refused.json() == {
            "code": "concurrent_request_limit_exceeded",
            "message": "Concurrent initial request limit exceeded (limit: 1), please retry",
        }
        assert 6 <= int(refused.headers["retry-after"]) <= 10
        assert refused.headers["electric-internal-known-error"] == "true"
        assert stage.source.opens == 1
        stage.source.hold_opens.set()
        handle = (await first).headers["electric-handle"]
        parked = stage.begin(f"table=items&offset=0_inf&handle={handle}&live=true")
        await until(lambda: stage.source.waits_under_way == 1)
        refused = await stage.get(f"table=items&offset=0_inf&handle={handle}&live=true")
        assert refused.json()["message"].startswith("Concurrent existing request limit exceeded (limit: 1)")
        stage.source.append("items", 60, row(2))
        assert (await parked).status_code == 200

    settings = msgspec.structs.replace(PATIENT, requests_initial_max=1, requests_existing_max=1)
    play(test, tmp_path, settings)


# --- events ----------------------------------------------------------------------------------------------------------


def test_events_are_sent_as_they_come(tmp_path: Path) -> None:
    """
    Each element is an event, an up-to-date message follows each batch, and rotation ends the stream (C29).
    """

    async def test(stage: Stage) -> None:
        shape = stage.source.shapes["items"]
        sse = stage.begin(f"table=items&offset=0_inf&handle={shape.handle}&live=true&live_sse=true")
        await until(lambda: stage.source.waits_under_way == 1)
        shape.chunk_changes_max = 2
        stage.source.append("items", 60, row(2), row(3), row(4))
        await until(lambda: stage.source.waits == 3)
        stage.source.drop("items")
        response = await sse
        assert response.headers["content-type"] == "text/event-stream"
        assert "content-length" not in response.headers
        events = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
        assert [event.get("value", event["headers"]) for event in events] == [
            {"id": "2"},
            {"id": "3"},
            {"id": "4"},
            {"control": UP_TO_DATE, "global_last_seen_lsn": "60"},
        ]

    play(test, tmp_path, PATIENT)


def test_events_that_are_there_already_end_the_stream(tmp_path: Path) -> None:
    """
    The client comes again from its new place.
    """

    async def test(stage: Stage) -> None:
        shape = stage.source.shapes["items"]
        stage.source.append("items", 60, in_file(tmp_path, "log", row(2)))
        query = f"table=items&offset=0_inf&handle={shape.handle}&live=true&experimental_live_sse=true"
        response = await stage.get(query)
        assert response.text.count("data: ") == 2
        assert response.headers["electric-offset"] == "60_0"

    play(test, tmp_path, PATIENT)


def test_events_from_a_place_never_reached_are_an_empty_stream(tmp_path: Path) -> None:
    """
    The stream just ends.
    """

    async def test(stage: Stage) -> None:
        shape = stage.source.shapes["items"]
        response = await stage.get(f"table=items&offset=60_0&handle={shape.handle}&live=true&live_sse=true")
        assert (response.status_code, response.content) == (200, b"")

    play(test, tmp_path)


def test_quiet_stream_is_kept_alive_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A comment now and then keeps proxies patient; after its time the stream ends and the client comes again
    (C29, I16).
    """
    monkeypatch.setattr(shape_route, "SSE_KEEPALIVE_S", 0.05)
    monkeypatch.setattr(shape_route, "SSE_LIFE_S", 0.2)

    async def test(stage: Stage) -> None:
        shape = stage.source.shapes["items"]
        query = f"table=items&offset=0_inf&handle={shape.handle}&live=true&live_sse=true"
        response = await stage.get(query)
        assert response.status_code == 200
        assert set(response.text.split("\n\n")) == {": keep-alive", ""}
        head = await stage.client.head(f"/v1/shape?{query}")
        assert (head.headers["content-type"], head.content) == ("text/event-stream", b"")

    play(test, tmp_path, PATIENT)


@pytest.mark.parametrize("offset", ["0_inf", "60_0"])
def test_stream_whose_file_is_gone_ends(tmp_path: Path, offset: str) -> None:
    """
    Nothing is left out: the client asks anew from where it stands, and learns what happened.
    """

    async def test(stage: Stage) -> None:
        shape = stage.source.shapes["items"]
        stage.source.append("items", 60, FilePiece("gone", 0, 5))
        sse = stage.begin(f"table=items&offset={offset}&handle={shape.handle}&live=true&live_sse=true")
        if offset == "60_0":
            await until(lambda: stage.source.waits_under_way == 1)
            stage.source.append("items", 70, FilePiece("gone", 0, 5))
        assert (await sse).content == b""

    play(test, tmp_path, PATIENT)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_deleting_is_not_allowed(tmp_path: Path) -> None:
    """
    Clients do not end what others follow (B24).
    """

    async def test(stage: Stage) -> None:
        response = await stage.client.delete("/v1/shape?table=items")
        assert (response.status_code, response.json()) == (405, {"message": "DELETE not allowed"})
        assert response.headers["cache-control"] == "no-cache"

    play(test, tmp_path)


def test_fault_of_ours_tells_nothing(tmp_path: Path) -> None:
    """
    The client gets a bare 500 and its permit back (B18).
    """

    async def test(stage: Stage) -> None:
        stage.source.failure = RuntimeError("a secret detail")
        response = await stage.get("table=items&offset=-1")
        assert (response.status_code, response.json()) == (500, {"error": "Internal server error"})
        assert response.headers["cache-control"] == "no-store"

    play(test, tmp_path)


def test_refusal_of_the_engine_is_passed_on(tmp_path: Path) -> None:
    """
    Its status, text and headers reach the client, with CORS headers.
    """

    async def test(stage: Stage) -> None:
        stage.source.refusals["locked"] = Refused(503, "Snapshot timed out", retry_after_s=10, is_known=True)
        response = await stage.get("table=locked&offset=-1")
        assert (response.status_code, response.json()) == (503, {"message": "Snapshot timed out"})
        assert response.headers["electric-internal-known-error"] == "true"
        assert "access-control-expose-headers" in response.headers

    play(test, tmp_path)


def test_file_shorter_than_said_cuts_the_response(tmp_path: Path) -> None:
    """
    Nobody takes a part of a response for the whole.
    """

    async def test(stage: Stage) -> None:
        piece = in_file(tmp_path, "short", row(1))
        stage.source.add("short", FilePiece(piece.path, 0, piece.bytes_count + 5))
        cut = asyncio.Event()
        sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/shape",
            "query_string": b"table=short&offset=-1",
            "headers": [],
            "extensions": {"penstock.abort": cut.set},
        }

        async def receive() -> Any:
            return await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await stage.app(scope, receive, send)
        assert cut.is_set()
        assert not any(message["type"] == "http.response.body" and not message["more_body"] for message in sent)

    play(test, tmp_path)


def test_reader_that_takes_nothing_is_dropped(tmp_path: Path) -> None:
    """
    It loses its connection, and its files and permit are given back (C32).
    """

    async def test(stage: Stage) -> None:
        cut = asyncio.Event()

        async def stuck(_: Any = None) -> Any:
            return await asyncio.get_running_loop().create_future()

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/shape",
            "query_string": b"table=items&offset=-1",
            "headers": [],
            "extensions": {"penstock.abort": cut.set},
        }
        await stage.app(scope, stuck, stuck)
        assert cut.is_set()

    play(test, tmp_path, msgspec.structs.replace(QUICK, send_timeout_s=0.05))


# --- for operators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status", "body"),
    [
        ("active", 200, {"status": "active"}),
        ("waiting", 202, {"status": "waiting"}),
        ("starting", 202, {"status": "starting"}),
    ],
)
def test_health(tmp_path: Path, state: str, status: int, body: dict[str, str]) -> None:
    """
    Whoever balances load learns the state, and nobody caches it (B3).
    """

    async def test(stage: Stage) -> None:
        stage.source.state = Health(state, "Postgres lock acquisition", "held by 7")
        health = await stage.client.get("/v1/health")
        assert (health.status_code, health.json()) == (status, body)
        assert health.headers["cache-control"] == "no-cache, no-store, must-revalidate"
        ready = await stage.client.get("/v1/ready")
        if state == "active":
            assert (ready.status_code, ready.json()) == (200, {"status": "active"})
        else:
            assert ready.status_code == 503
            assert ready.json() == {
                "status": state,
                "reason": "waiting for Postgres lock acquisition",
                "detail": "held by 7",
            }

    play(test, tmp_path)


def test_secret_guards_shapes_and_status_however_the_path_is_spelled(tmp_path: Path) -> None:
    """
    Authentication goes by the route, so no spelling gets around it; what is open stays open (B4).
    """

    async def test(stage: Stage) -> None:
        for path in (
            "/v1/shape",
            "//v1/shape",
            "/v1//shape/",
            "/v1/%73hape",
            "/v1/status",
            "/v1/status/",
            "/v1/status/shapes",
        ):
            for query in ("", "&secret=wrong", "&secret=", "&api_secret=wr%C3%B6ng", "&secret[x]=s3cret"):
                response = await stage.client.get(
                    f"http://penstock.test{path}?table=items&offset=-1{query}", headers={"origin": "http://a"}
                )
                assert response.status_code == 401
                assert response.json() == {"message": "Unauthorized - Invalid API secret"}
                assert "content-type" not in response.headers
                assert not any(name.startswith("access-control") for name in response.headers)
                assert response.headers["cache-control"] == "max-age=0, private, must-revalidate"
            for query in ("&secret=s3cret", "&api_secret=s3cret", "&secret=s3cret&api_secret=x"):
                response = await stage.client.get(f"http://penstock.test{path}?table=items&offset=-1{query}")
                assert response.status_code == 200
        assert (await stage.client.delete("/v1/shape?table=items")).status_code == 401
        assert (await stage.client.options("/v1/shape")).status_code == 204
        for path in ("/", "/v1/health", "/v1/ready"):
            assert (await stage.client.get(path)).status_code == 200
        assert (await stage.client.get("/v1/other")).status_code == 404

    play(test, tmp_path, msgspec.structs.replace(QUICK, secret="s3cret"))


def test_application_can_be_mounted_in_another(tmp_path: Path) -> None:
    """
    Paths are taken below the mount point.
    """

    async def run() -> None:
        source = ScriptedSource()
        source.add("items", row(1))
        app = ShapeApp(source, QUICK, tmp_path)
        async with browse(Starlette(routes=[Mount("/sync", app=app)])) as client:
            assert (await client.get("/sync/v1/shape?table=items&offset=-1")).status_code == 200
            assert (await client.get("/sync/v1/health")).status_code == 200
            assert (await client.get("/sync/sync/v1/health")).status_code == 404
        app.close()

    asyncio.run(run())


def test_lifespan_is_followed(tmp_path: Path) -> None:
    """
    The server's start and end are acknowledged.
    """

    async def run() -> None:
        app = ShapeApp(ScriptedSource(), QUICK, tmp_path)
        messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> dict[str, str]:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(run())
