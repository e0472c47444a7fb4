"""
Requests that are authorised on the short way: the same answers as the application's, and everything let go of.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from conformance.scripted_source import in_file, row
from harness.http_server import SETTINGS, Running, get, play, running, until
from penstock.api.authorisation import AccessRequest, Allow, Decision, Deny, RequestedShape
from penstock.api.fast import limits as limits_module
from penstock.shapes.reading import ShapeRule

ITEMS = b"/v1/shape?table=items&offset=-1"
REQUEST_ID = b"x-request-id: " + b"r" * 24
QUICK = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=0.3, source_timeout_s=0.3, authorize_timeout_s=30.0)


def decide(request: AccessRequest, shape: RequestedShape) -> Decision | None:
    """
    Decide by the header `x-user`.
    """
    match request.headers.get("x-user"):
        case "alice" | "bob" as user:
            return Allow("owner = $1", [user], ["id"])
        case "banned":
            return Deny(403, "never again")
        case None:
            return Deny(401, "who is it?", 'Basic realm="x"')
        case "fault":
            raise ValueError(shape.table)
        case _:
            return None


async def decide_later(request: AccessRequest, shape: RequestedShape) -> Decision | None:
    """
    The same, a turn of the loop later.
    """
    await asyncio.sleep(0)
    return decide(request, shape)


def test_both_ways_give_the_same_bytes(tmp_path: Path) -> None:
    """
    For every user and every kind of request heads and bodies are the same to the byte, but for the date and what never
    repeats.
    """

    async def ask_all(*, has_short_way: bool) -> tuple[list[bytes], list[bytes]]:
        guard = decide if has_short_way else decide_later
        async with running(tmp_path, QUICK, has_short_way=has_short_way, authorize=guard) as server:
            server.source.add("large", in_file(tmp_path, "large", json.dumps({"x": "y" * 600_000}).encode()))
            handle = server.source.shapes["items"].handle
            known = f"/v1/shape?table=items&handle={handle}&offset=".encode()
            targets = [
                ITEMS,
                ITEMS + b"&where=id%20%3E%201",
                b"/v1/shape?table=items&offset=now",
                b"/v1/shape?table=large&offset=-1",
                b"/v1/shape?table=nothing&offset=-1",
                b"/v1/shape?table=items&offset=bogus",
                b"/v1/shape?table=items&offset=0_0&handle=1-1",
                known + b"0_0",
                known + b"0_inf&live=true",
                known + b"99_0",
            ]
            tag = f'if-none-match: "{handle}:-1:0_0"'.encode()
            texts = []
            for user in (b"alice", b"bob", b"banned", b"fault", b"other", None):
                who = () if user is None else (b"x-user: " + user,)
                texts += [get(target, REQUEST_ID, *who) for target in targets]
                texts += [
                    get(ITEMS, REQUEST_ID, *who).replace(b"GET", b"HEAD", 1),
                    get(ITEMS, REQUEST_ID, b"origin: http://a.test", *who),
                    get(ITEMS, REQUEST_ID, tag, *who),
                ]
            answers = await asyncio.gather(*(server.raw(text) for text in texts))
            return texts, [normalise(answer) for answer in answers]

    def normalise(answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        head = re.sub(rb"\r\ndate: [^\r]+", b"", head)
        head = re.sub(rb"(electric-cursor: )\d+", rb"\1N", head)
        head = re.sub(rb'(etag: "[^"]+:0_inf):\d+"', rb'\1:N"', head)
        return head + b"\r\n\r\n" + body

    async def run() -> None:
        async with asyncio.timeout(120):
            texts, short = await ask_all(has_short_way=True)
            _, long = await ask_all(has_short_way=False)
        for text, ours, theirs in zip(texts, short, long, strict=True):
            if ours != theirs:
                pytest.fail(f"{text!r}\n{ours[:1000]!r}\n{theirs[:1000]!r}")
        statuses = {answer[9:12] for answer in short}
        assert statuses == {b"200", b"304", b"400", b"401", b"403", b"409"}
        for answer in short:
            if answer[9:12] in {b"200", b"304", b"409"}:
                assert b"\r\ncache-control: private, no-cache\r\n" in answer

    asyncio.run(run())


@pytest.mark.parametrize("guard", [decide, decide_later], ids=["function", "coroutine"])
def test_authorised_requests_do_take_the_short_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: Callable[..., Decision | None]
) -> None:
    """
    Plain and live requests, events, and large bodies never reach the application, under the rule of whoever asks.
    """

    async def refuse(*_: object) -> None:
        raise AssertionError("the application was called")

    monkeypatch.setattr(limits_module.LimitedProtocol, "begin_request", refuse)

    async def test(server: Running) -> None:
        asked = []
        opening = server.source.open

        async def note(request: object) -> object:
            asked.append(request)
            return await opening(request)  # type: ignore[arg-type]  # handed on as it came

        monkeypatch.setattr(server.source, "open", note)
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * 1_000_000 + b'"'))
        client = await server.connect()
        for user in (b"alice", b"bob"):
            for target in (ITEMS, b"/v1/shape?table=large&offset=-1", server.live()):
                head, _ = await client.ask(target, b"x-user: " + user)
                assert head.startswith(b"HTTP/1.1 200 ")
        client.send(server.live(more="&live_sse=true"), b"x-user: alice")
        head = await client.head()
        assert b"text/event-stream" in head
        assert b"cache-control: private, no-cache" in head
        rules = {request.rules for request in asked}  # type: ignore[attr-defined]  # what was noted
        assert rules == {(ShapeRule("owner = $1", (user,), ("id",)),) for user in ("alice", "bob")}

    play(test, tmp_path, QUICK, authorize=guard)


def test_events_that_begin_with_rows_are_authorised_once(tmp_path: Path) -> None:
    """
    What the application answers in place of the short way is not asked about again.
    """
    calls = []

    def count(request: AccessRequest, shape: RequestedShape) -> Decision | None:
        calls.append(request.query)
        return decide(request, shape)

    async def test(server: Running) -> None:
        server.source.append("items", 5, row(2))
        client = await server.connect()
        client.send(server.live(more="&live_sse=true"), b"x-user: alice")
        assert b"200 OK" in await client.head()
        assert b'"id":"2"' in await client.chunk()
        assert len(calls) == 1

    play(test, tmp_path, QUICK, authorize=count)


@pytest.mark.parametrize("has_short_way", [True, False])
def test_users_with_equal_rules_wait_together_and_others_apart(tmp_path: Path, *, has_short_way: bool) -> None:
    """
    The right is asked for each request; the engine is asked once for each rule.
    """

    async def test(server: Running) -> None:
        clients = [await server.connect() for _ in range(12)]
        for number, client in enumerate(clients):
            client.send(server.live(), b"x-user: " + (b"alice", b"bob", b"banned")[number % 3])
        for client in clients[2::3]:
            assert (await client.answer())[0].startswith(b"HTTP/1.1 403 ")
        # The scripted source has one log for all; what the others wait at is one place of it.
        await until(lambda: server.app.requests_under_way == 8 and server.source.waits_under_way == 1)
        server.source.append("items", 900, row(2))
        for client in (*clients[::3], *clients[1::3]):
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b'"id":"2"' in body

    settings = msgspec.structs.replace(QUICK, long_poll_timeout_s=30.0)
    play(test, tmp_path, settings, has_short_way=has_short_way, authorize=decide)


@pytest.mark.parametrize("has_short_way", [True, False])
@pytest.mark.parametrize("ending", ["leave", "stop"])
def test_whoever_is_being_authorised_can_leave(tmp_path: Path, *, has_short_way: bool, ending: str) -> None:
    """
    A client that goes, and a server that stops, end the question; nothing stays under way.
    """

    async def test(server: Running) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def hang(*_: object) -> Decision:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()
            return Allow()

        server.app.authoriser._authorize = hang  # type: ignore[misc]  # it needs events of the running loop
        client = await server.connect()
        client.send(ITEMS, b"x-user: alice")
        await begun.wait()
        if ending == "leave":
            client.close()
        else:
            server.app.begin_shutdown()
            assert (await client.answer())[0].startswith(b"HTTP/1.1 503 ")
        await cancelled.wait()
        await until(lambda: server.is_quiet)

    settings = msgspec.structs.replace(QUICK, authorize_timeout_s=60.0)
    play(test, tmp_path, settings, has_short_way=has_short_way, authorize=decide)


@pytest.mark.parametrize("has_short_way", [True, False])
def test_a_call_that_heeds_nothing_is_left_behind(tmp_path: Path, *, has_short_way: bool) -> None:
    """
    A coroutine that swallows its cancellation costs its own request its time, and no more.
    """
    stubborn: list[asyncio.Event] = []

    async def hang(request: AccessRequest, shape: RequestedShape) -> Decision | None:
        if request.headers.get("x-user") == "alice":
            return decide(request, shape)
        over = asyncio.Event()
        stubborn.append(over)
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        return Allow()

    async def test(server: Running) -> None:
        late, well = await server.connect(), await server.connect()
        late.send(ITEMS, b"x-user: other")
        assert (await well.ask(ITEMS, b"x-user: alice"))[0].startswith(b"HTTP/1.1 200 ")
        head, body = await late.answer()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in head
        assert json.loads(body) == {"message": "Timeout waiting for authorisation"}
        for over in stubborn:
            over.set()

    settings = msgspec.structs.replace(QUICK, authorize_timeout_s=3.0)
    play(test, tmp_path, settings, has_short_way=has_short_way, authorize=hang)
