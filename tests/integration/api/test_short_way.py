"""
Requests that our server answers without the application: the same answers, and everything let go of.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from conformance.scripted_source import in_file, row
from harness.http_server import SETTINGS, Connection, Running, get, play, running, until
from penstock.api.fast import limits as limits_module
from penstock.api.fast import request as request_module
from penstock.shapes.reading import FilePiece, InlinePiece, Refused

QUICK = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=0.2, source_timeout_s=0.2)
ITEMS = b"/v1/shape?table=items&offset=-1"
REQUEST_ID = b"x-request-id: " + b"r" * 24


@pytest.fixture(autouse=True)
def event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let `asyncio.run` of a test use the loop that the service runs on; the tests of the server use both.
    """

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)


def messages(body: bytes) -> list[str]:
    return [message["headers"].get("control", "data") for message in json.loads(body)]


# --- the same answers ------------------------------------------------------------------------------------------------


def request_texts(handle: str) -> list[bytes]:
    """
    Requests of every kind, each the last of its connection.
    """
    known = f"/v1/shape?table=items&handle={handle}&offset=".encode()
    tag = f'if-none-match: "{handle}:0_inf:0_inf"'.encode()
    targets = [
        ITEMS,
        ITEMS + b"&secret=s&where=id%20%3E%201&params[1]=x",
        b"/v1/shape?table=items&offset=now",
        b"/v1/shape?table=files&offset=-1",
        b"/v1/shape?table=large&offset=-1",
        b"/v1/shape?table=gone&offset=-1",
        b"/v1/shape?table=refused&offset=-1",
        b"/v1/shape?table=nothing&offset=-1",
        b"/v1/shape?table=items&offset=bogus",
        b"/v1/shape?table=items&offset=-1&live=true",
        b"/v1/shape?table=%zz&offset=-1",
        b"/v1/shape?",
        b"/v1/shape",
        b"/v1/shape?table=items&offset=0_0&handle=1-1",
        b"/v1/shape?table=items&offset=0_0&handle=1-1&live=true&live_sse=true",
        b"/v1/shape?table=items&offset=-1&subset__limit=banana",
        known + b"0_0",
        known + b"0_inf",
        known + b"0_inf&live=true",
        known + b"99_0",
    ]
    texts = [get(target, REQUEST_ID) for target in targets]
    for target in (targets[0], targets[4], targets[-3]):
        texts += [
            get(target, REQUEST_ID).replace(b"GET", b"HEAD", 1),
            get(target, REQUEST_ID).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            b"GET " + target + b" HTTP/1.0\r\n" + REQUEST_ID + b"\r\n\r\n",
            get(target, REQUEST_ID, b"origin: http://a.test"),
            get(target, REQUEST_ID, b"origin: http://a.test", b"origin: http://b.test"),
            get(target, REQUEST_ID, b"content-length: 0"),
            get(target, REQUEST_ID, b"content-length: 2") + b"{}",
            get(target, REQUEST_ID, b"transfer-encoding: chunked") + b"0\r\n\r\n",
            get(target, REQUEST_ID, b"expect: 100-continue"),
            get(target, REQUEST_ID, b"upgrade: h2c"),
        ]
    return [*texts, get(targets[-3], REQUEST_ID, tag), get(targets[-4], REQUEST_ID, tag)]


def test_both_ways_give_the_same_bytes(tmp_path: Path) -> None:
    """
    Whatever is asked, in whichever form, head and body are the same to the byte, but for the date and what never
    repeats.
    """
    settings = msgspec.structs.replace(QUICK, long_poll_timeout_s=1.0)

    async def ask_all(*, has_short_way: bool) -> tuple[list[bytes], list[bytes]]:
        async with running(tmp_path, settings, has_short_way=has_short_way) as server:
            source = server.source
            source.add("files", in_file(tmp_path, "small", row(1), before=b"not this"))
            source.add("large", in_file(tmp_path, "large", json.dumps({"x": "y" * 3_000_000}).encode()))
            source.add("gone", FilePiece("missing", 0, 5))
            source.refusals["refused"] = Refused(503, "not now", retry_after_s=7, is_known=True)
            texts = request_texts(source.shapes["items"].handle)
            answers = await asyncio.gather(*(server.raw(text) for text in texts))
            return texts, [normalise(answer) for answer in answers]

    def normalise(answer: bytes) -> bytes:
        # Whether it is said depends on how long the answer takes.
        head, _, body = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        head = re.sub(rb"\r\ndate: [^\r]+", b"", head)
        head = re.sub(rb"(electric-cursor: )\d+", rb"\1N", head)
        head = re.sub(rb'(etag: "[^"]+:0_inf):\d+"', rb'\1:N"', head)
        return head + b"\r\n\r\n" + body

    async def run() -> None:
        async with asyncio.timeout(60):
            texts, short = await ask_all(has_short_way=True)
            _, long = await ask_all(has_short_way=False)
        for text, ours, theirs in zip(texts, short, long, strict=True):
            # Not an assertion of their equality: what pytest tells about megabytes takes minutes.
            if ours != theirs:
                pytest.fail(f"{text!r}\n{ours[:1000]!r}\n{theirs[:1000]!r}")
        assert {answer[:12] for answer in short} >= {b"HTTP/1.1 %d" % status for status in (200, 304, 400, 409, 503)}

    asyncio.run(run())


def test_ordinary_requests_do_take_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Plain and live requests, events, and large bodies never reach the application.
    """

    async def refuse(*_: object) -> None:
        raise AssertionError("the application was called")

    monkeypatch.setattr(limits_module.LimitedProtocol, "begin_request", refuse)

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * 1_000_000 + b'"'))
        client = await server.connect()
        for target in (ITEMS, b"/v1/shape?table=large&offset=-1", server.live()):
            for method in (b"GET", b"HEAD"):
                head, _ = await client.ask(target, method=method)
                assert head.startswith(b"HTTP/1.1 200 ")
        client.send(server.live(more="&live_sse=true"))
        assert b"text/event-stream" in await client.head()

    play(test, tmp_path, QUICK)


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_everybody_who_waits_learns_a_change_at_once(tmp_path: Path) -> None:
    """
    A thousand clients are one question at the engine and no task each; each gets its own identifier and origin.
    """

    async def test(server: Running) -> None:
        clients = [await server.connect() for _ in range(1000)]
        tasks = len(asyncio.all_tasks())
        for number, client in enumerate(clients):
            origin = b"origin: http://%d.test" % (number % 3)
            client.send(server.live(more=f"&cursor={number % 2}"), b"x-request-id: " + b"%024d" % number, origin)
        await until(lambda: server.app.requests_under_way == 1000 and server.source.waits_under_way == 1)
        assert server.source.waits == 1
        # The client's side has tasks of its own; ours are those for the one question.
        assert len(asyncio.all_tasks()) <= tasks + 2
        server.source.append("items", 900, row(2))
        for number, client in enumerate(clients):
            head, body = await client.answer()
            assert messages(body) == ["data", "up-to-date"]
            assert b"\r\nx-request-id: %024d\r\n" % number in head
            assert b"\r\naccess-control-allow-origin: http://%d.test\r\n" % (number % 3) in head
            assert b"\r\nelectric-offset: 900_0\r\n" in head
        # The connections live on.
        head, body = await clients[7].ask(ITEMS)
        assert messages(body) == ["data"]

    play(test, tmp_path)


def test_client_follows_a_shape_over_one_connection(tmp_path: Path) -> None:
    """
    Rows, up to date, a change, a change larger than what is put together in memory, nothing, a rotation.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        assert messages((await client.ask(ITEMS))[1]) == ["data"]
        handle = server.source.shapes["items"].handle.encode()
        assert messages((await client.ask(b"/v1/shape?table=items&offset=0_0&handle=" + handle))[1]) == ["up-to-date"]
        client.send(server.live())
        await until(lambda: server.source.waits_under_way == 1)
        server.source.append("items", 900, row(2), in_file(tmp_path, "small", row(3)))
        assert messages((await client.answer())[1]) == ["data", "data", "up-to-date"]
        client.send(server.live(offset="900_2"))
        await until(lambda: server.source.waits_under_way == 1)
        large = json.dumps({"headers": {}, "x": "y" * 2_000_000}).encode()
        server.source.append("items", 901, in_file(tmp_path, "large", large), large, row(4))
        _, body = await client.answer()
        assert [len(json.dumps(message)) > 1_000_000 for message in json.loads(body)] == [True, True, False, False]
        head, body = await client.ask(server.live(offset="901_4"))
        assert messages(body) == ["up-to-date"]
        assert b"\r\nelectric-has-data: false\r\n" in head
        client.send(server.live(offset="901_4"))
        await until(lambda: server.source.waits_under_way == 1)
        server.source.drop("items")
        head, body = await client.answer()
        assert head.startswith(b"HTTP/1.1 409 ")
        assert messages(body) == ["must-refetch"]

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, long_poll_timeout_s=1.0))


def test_missing_file_is_asked_about_once_more(tmp_path: Path) -> None:
    """
    Of a parked request as of a plain one; what is there by then is served.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        client.send(server.live())
        await until(lambda: server.source.waits_under_way == 1)
        opens = server.source.opens
        server.source.append("items", 900, FilePiece("missing", 0, 5))
        head, _ = await client.answer()
        assert head.startswith(b"HTTP/1.1 409 ")
        assert server.source.opens == opens + 1
        server.source.hold_opens = asyncio.Event()
        shape = server.source.add("compacted", FilePiece("missing", 0, 5))
        client.send(b"/v1/shape?table=compacted&offset=-1")
        await until(lambda: server.source.opens_under_way == 1)
        held, server.source.hold_opens = server.source.hold_opens, asyncio.Event()
        held.set()
        await until(lambda: server.source.opens_under_way == 1 and server.source.opens == opens + 3)
        shape.snapshot[0] = InlinePiece(row(3))
        server.source.hold_opens.set()
        assert messages((await client.answer())[1]) == ["data"]

    play(test, tmp_path)


def test_place_beyond_the_end_is_waited_for(tmp_path: Path) -> None:
    """
    In several steps; a place that is not reached is refused after half the time.
    """

    async def test(server: Running) -> None:
        handle = server.source.shapes["items"].handle.encode()
        target = b"/v1/shape?table=items&offset=80_0&handle=" + handle
        client = await server.connect()
        assert (await client.ask(target))[0].startswith(b"HTTP/1.1 400 ")
        client.send(target)
        await until(lambda: server.source.waits_under_way == 1)
        waits = server.source.waits
        server.source.append("items", 70, row(2))
        await until(lambda: server.source.waits == waits + 1)
        server.source.append("items", 80, row(2))
        assert messages((await client.answer())[1]) == ["up-to-date"]

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, long_poll_timeout_s=0.6))


# --- the engine ------------------------------------------------------------------------------------------------------


def test_requests_outlive_a_restart_of_the_engine(tmp_path: Path) -> None:
    """
    Plain and parked ones, and streams; who loses patience gets 503 and is told when to come back.
    """

    async def test(server: Running) -> None:
        source = server.source
        plain, live, events, impatient = [await server.connect() for _ in range(4)]
        live.send(server.live())
        events.send(server.live(more="&live_sse=true"))
        await events.head()
        await until(lambda: source.waits_under_way == 1)
        source.is_away = True
        source.shapes["items"].moved.set()
        source.shapes["items"].moved = asyncio.Event()
        head, body = await impatient.ask(ITEMS)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in head
        assert json.loads(body) == {"message": "Timeout waiting for stack restart"}
        plain.send(ITEMS)
        await until(lambda: server.app.requests_under_way == 3)
        source.is_away = False
        assert messages((await plain.answer())[1]) == ["data"]
        source.append("items", 900, row(2))
        assert messages((await live.answer())[1]) == ["data", "up-to-date"]
        assert (await events.chunk()).count(b"data: ") == 2

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, source_timeout_s=0.3))


def test_closed_chunks_are_served_without_the_engine(tmp_path: Path) -> None:
    """
    They cannot change. Whatever would say "up to date" waits, and so does a chunk whose file is gone.
    """

    async def test(server: Running) -> None:
        source = server.source
        shape = source.add("chunks", in_file(tmp_path, "0", row(1)), in_file(tmp_path, "1", row(2)))
        client = await server.connect()
        closed = [
            b"/v1/shape?table=chunks&offset=-1",
            b"/v1/shape?table=chunks&offset=0_0&handle=" + shape.handle.encode(),
        ]
        end = b"/v1/shape?table=chunks&offset=0_1&handle=" + shape.handle.encode()
        before = [await client.ask(target) for target in closed]
        assert (await client.ask(end))[0].startswith(b"HTTP/1.1 200 ")
        source.is_away = True
        after = [await client.ask(target) for target in closed]
        assert [body for _, body in after] == [body for _, body in before]
        assert [head.startswith(b"HTTP/1.1 200 ") for head, _ in after] == [True, True]
        assert (await client.ask(end))[0].startswith(b"HTTP/1.1 503 ")
        (tmp_path / "0").unlink()
        assert (await client.ask(closed[0]))[0].startswith(b"HTTP/1.1 503 ")

    play(test, tmp_path, QUICK)


def test_engine_that_does_not_answer_is_a_503(tmp_path: Path) -> None:
    """
    And its answer, when it comes after all, disturbs nobody.
    """

    async def test(server: Running) -> None:
        server.source.hold_opens = asyncio.Event()
        client = await server.connect()
        _, body = await client.ask(ITEMS)
        assert json.loads(body) == {"message": "Timeout waiting for shape data to be loaded"}
        server.source.hold_opens.set()
        assert messages((await client.ask(ITEMS))[1]) == ["data"]

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, open_timeout_s=0.1))


def test_fault_of_the_engine_is_a_500_that_tells_nothing(tmp_path: Path) -> None:
    """
    The connection lives on.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        server.source.failure = RuntimeError("secret detail")
        head, body = await client.ask(ITEMS)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert json.loads(body) == {"error": "Internal server error"}
        server.source.failure = None
        assert messages((await client.ask(ITEMS))[1]) == ["data"]

    play(test, tmp_path)


def test_limit_of_requests_is_kept(tmp_path: Path) -> None:
    """
    The one too many is refused and told when to come back; when a place is free, it is served.
    """

    async def test(server: Running) -> None:
        parked, late = await server.connect(), await server.connect()
        assert (await late.ask(ITEMS))[0].startswith(b"HTTP/1.1 200 ")
        parked.send(server.live())
        await until(lambda: server.source.waits_under_way == 1)
        head, body = await late.ask(server.live())
        assert head.startswith(b"HTTP/1.1 503 ")
        assert re.search(rb"\r\nretry-after: ([6-9]|10)\r\n", head)
        assert json.loads(body)["code"] == "concurrent_request_limit_exceeded"
        parked.close()
        await until(lambda: server.app.requests_under_way == 0)
        late.send(server.live())
        await until(lambda: server.source.waits_under_way == 1)
        late.close()

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, requests_existing_max=1))


# --- events ----------------------------------------------------------------------------------------------------------


async def open_events(server: Running) -> Connection:
    client = await server.connect()
    client.send(server.live(more="&live_sse=true"))
    assert b"\r\ntransfer-encoding: chunked\r\n" in await client.head()
    return client


def test_events_come_as_they_happen(tmp_path: Path) -> None:
    """
    One change after the other on one stream, keep-alives in between, and the end of the log ends it in order.
    """

    async def test(server: Running) -> None:
        clients = [await open_events(server) for _ in range(20)]
        for tx in (900, 901):
            await until(lambda: server.source.waits_under_way == 1)
            server.source.append("items", tx, row(tx))
            for client in clients:
                events = (await client.chunk()).split(b"\n\n")
                assert [event[:6] for event in events] == [b"data: ", b"data: ", b""]
                control = json.loads(events[1][6:])["headers"]
                assert control == {"control": "up-to-date", "global_last_seen_lsn": str(tx)}
        assert server.source.waits <= 3
        server.source.drop("items")
        for client in clients:
            assert await client.chunk() == b""
        assert (await clients[0].ask(b"/v1/shape?table=items&offset=-1"))[0].startswith(b"HTTP/1.1 400 ")

    play(test, tmp_path)


def test_silence_is_filled_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With comments, until the stream's time is over; then the connection can be used again.
    """
    monkeypatch.setattr(request_module, "SSE_KEEPALIVE_S", 0.1)
    monkeypatch.setattr(request_module, "SSE_LIFE_S", 0.35)

    async def test(server: Running) -> None:
        client = await open_events(server)
        parts = [await client.chunk()]
        while parts[-1]:
            parts.append(await client.chunk())
        assert set(parts) == {b": keep-alive\n\n", b""}
        assert 2 <= len(parts) <= 4
        assert messages((await client.ask(ITEMS))[1]) == ["data"]

    play(test, tmp_path)


def test_reader_of_events_that_stalls_is_cut(tmp_path: Path) -> None:
    """
    It is given no more once it has left a change untaken, costs no other reader anything, and is cut in the end.
    """

    async def test(server: Running) -> None:
        reader = await open_events(server)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", server.port))
            await loop.sock_sendall(
                silent, get(server.live(more="&live_sse=true")).replace(b"connection: close\r\n", b"")
            )
            await until(lambda: server.app.requests_under_way == 2)
            for tx in range(900, 903):
                await until(lambda: server.source.waits_under_way == 1)
                server.source.append("items", tx, json.dumps("x" * 9_000_000).encode())
                assert len(await reader.chunk()) > 9_000_000
            await until(lambda: server.app.requests_under_way == 1)
        server.source.append("items", 950, row(5))
        assert b"up-to-date" in await reader.chunk()
        reader.close()

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, send_timeout_s=0.5))


def test_reader_of_events_that_comes_back_has_missed_nothing(tmp_path: Path) -> None:
    """
    Nothing is waited for while it takes nothing; when it has taken what there was, it gets what has happened since.
    """

    async def test(server: Running) -> None:
        client = await open_events(server)
        await until(lambda: server.source.waits_under_way == 1)
        (request,) = server.app.under_way
        server.source.append("items", 900, json.dumps("x" * 9_000_000).encode())
        await until(lambda: request._state is request_module.State.CLOGGED)  # type: ignore[attr-defined]
        server.source.append("items", 901, row(1))
        server.source.append("items", 902, row(2))
        assert server.source.waits_under_way == 0
        assert len(await client.chunk()) > 9_000_000
        control = json.loads((await client.chunk()).split(b"\n\n")[-2][6:])["headers"]
        assert control == {"control": "up-to-date", "global_last_seen_lsn": "902"}
        await until(lambda: server.source.waits_under_way == 1)
        client.close()

    play(test, tmp_path)


# --- leaving and stopping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["engine hangs", "parked", "events", "large body", "engine away"])
def test_clients_that_leave_release_everything(tmp_path: Path, way: str) -> None:
    """
    Their question, their permit, their file, whatever they waited for (I6).
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * 20_000_000 + b'"'))
        target = ITEMS
        match way:
            case "engine hangs":
                server.source.hold_opens = asyncio.Event()
            case "engine away":
                server.source.is_away = True
            case "parked":
                target = server.live()
            case "events":
                target = server.live(more="&live_sse=true")
            case _:
                target = b"/v1/shape?table=large&offset=-1"
        clients = [await server.connect() for _ in range(5)]
        for client in clients:
            client.send(target)
        await until(lambda: server.app.requests_under_way == 5)
        for client in clients:
            client.writer.transport.abort()
        await until(lambda: server.is_quiet)

    play(test, tmp_path)


def test_stop_answers_ends_and_lets_finish(tmp_path: Path) -> None:
    """
    Parked requests get 503, streams their end, and a body under way goes out whole.
    """

    async def run() -> None:
        async with asyncio.timeout(30):
            large = b'"' + b"x" * 20_000_000 + b'"'
            async with running(tmp_path) as server:
                server.source.add("large", in_file(tmp_path, "f", large))
                parked, slow = await server.connect(), await server.connect()
                events = await open_events(server)
                parked.send(server.live())
                slow.send(b"/v1/shape?table=large&offset=-1")
                await slow.head()
                await until(lambda: server.app.requests_under_way == 3)
                server.server.stop()
                head, _ = await parked.answer()
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 1\r\n" in head
                assert b"\r\nconnection: close\r\n" in head
                assert await events.chunk() == b""
                whole = len(await slow.reader.read())
                assert whole == len(large) + 2

    asyncio.run(run())


def test_late_answer_to_somebody_else_does_not_reach_the_next(tmp_path: Path) -> None:
    """
    A client that leaves in the turn in which its answer comes, and others that stay.
    """

    async def test(server: Running) -> None:
        clients: list[Any] = [await server.connect() for _ in range(600)]
        for client in clients:
            client.send(server.live())
        await until(lambda: server.app.requests_under_way == 600)
        server.source.append("items", 900, row(2))
        for client in clients[::2]:
            client.writer.transport.abort()
        for client in clients[1::2]:
            assert messages((await client.answer())[1]) == ["data", "up-to-date"]

    play(test, tmp_path)


# --- several requests on one connection ------------------------------------------------------------------------------


def test_events_with_a_backlog_keep_their_place_in_line(tmp_path: Path) -> None:
    """
    They take the long way only when the engine has answered; by then the next request is there already.
    """

    async def test(server: Running) -> None:
        server.source.append("items", 900, row(2))
        client = await server.connect()
        client.send(server.live(more="&live_sse=true"))
        client.send(b"/v1/health", method=b"HEAD")
        client.send(ITEMS)
        head = await client.head()
        assert b"\r\ncontent-type: text/event-stream\r\n" in head
        assert (await client.chunk()).count(b"data: ") == 2
        assert await client.chunk() == b""
        assert b"\r\ncache-control: no-cache, no-store" in (await client.answer(is_bodiless=True))[0]
        assert messages((await client.answer())[1]) == ["data"]
        # And it lives on.
        assert messages((await client.ask(ITEMS))[1]) == ["data"]

    play(test, tmp_path)


def test_request_that_has_come_in_part_is_not_forgotten(tmp_path: Path) -> None:
    """
    While the one before it is parked: then only what belongs to that one may be let go of.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        server.source.hold_opens = asyncio.Event()
        client.send(server.live())
        client.writer.write(b"GET /v1/status?x=y HTTP/1.1\r\nhost: x\r\n" + REQUEST_ID)
        await until(lambda: server.source.opens_under_way == 1)
        server.source.hold_opens.set()
        await until(lambda: server.source.waits_under_way == 1)
        client.writer.write(b"\r\n\r\n")
        server.source.append("items", 900, row(2))
        assert messages((await client.answer())[1]) == ["data", "up-to-date"]
        head, body = await client.answer()
        assert json.loads(body) == {"shapes": 1, "holding": []}
        assert b"r" * 24 in head

    play(test, tmp_path)


def test_clients_with_requests_in_line_that_leave_release_everything(tmp_path: Path) -> None:
    """
    Also the one that is being answered the long way.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        client.send(server.live(), b"content-length: 0")
        client.send(ITEMS)
        await until(lambda: server.source.waits_under_way == 1)
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await until(lambda: server.is_quiet)

    play(test, tmp_path)


def test_request_that_offers_another_protocol_does_not_silence_the_connection(tmp_path: Path) -> None:
    """
    It is answered as it is, and the client knows that it needs another connection for the next, or gets its answer.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        head, body = await client.ask(ITEMS, b"connection: upgrade, http2-settings", b"upgrade: h2c")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert messages(body) == ["data"]
        assert b"\r\nconnection: close\r\n" in head
        assert await client.is_closed()

    play(test, tmp_path)


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", ["", "&live_sse=true"])
def test_change_that_cannot_be_read_is_told_at_once(tmp_path: Path, more: str) -> None:
    """
    Nobody stays parked for a change that is there already: a 500, and streams are cut.
    """

    async def test(server: Running) -> None:
        clients = [await server.connect() for _ in range(3)]
        for client in clients:
            client.send(server.live(more=more))
            if more:
                await client.head()
        await until(lambda: server.app.requests_under_way == 3 and server.source.waits_under_way == 1)
        piece = in_file(tmp_path, "f", row(2))
        server.source.append("items", 900, msgspec.structs.replace(piece, bytes_count=piece.bytes_count + 5))
        async with asyncio.timeout(5):
            for client in clients:
                if more:
                    await client.is_closed()
                else:
                    assert (await client.answer())[0].startswith(b"HTTP/1.1 500 ")

    play(test, tmp_path)


def test_answers_that_are_kept_are_small(tmp_path: Path) -> None:
    """
    Whatever the origin that a client names: it is part of them.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        hub = server.server._server.config.http.hub  # type: ignore[union-attr]
        for length in (100, 60_000):
            head, _ = await client.ask(ITEMS + b"&n=%d" % length, b"origin: " + b"o" * length)
            assert b"o" * length in head
        kept = {raw[-3:]: known.last for raw, known in hub.queries._known.items()}
        assert kept[b"100"] is not None
        assert kept[b"000"] is None

    play(test, tmp_path)
