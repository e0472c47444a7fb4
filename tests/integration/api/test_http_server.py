"""
The application under the real server, spoken to over real connections.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import httpx
import msgspec
import pytest

from conformance.scripted_source import ScriptedSource, in_file, row
from harness.http_server import SETTINGS, Running, bind, get, play, until
from penstock.api.app import ShapeApp
from penstock.api.server import HttpServer, serve


def test_requests_are_answered_over_one_connection(tmp_path: Path) -> None:
    """
    Keep-alive, the date, our name and no other server's, and files of several blocks.
    """

    async def test(server: Running) -> None:
        large = json.dumps({"x": "y" * 3_000_000}).encode()
        server.source.add("large", in_file(tmp_path, "f", large))
        async with httpx.AsyncClient(base_url=server.url) as client:
            for _ in range(3):
                response = await client.get("/v1/shape?table=items&offset=-1")
                assert response.status_code == 200
                assert response.headers["electric-server"] == "Penstock/1.2"
                assert "date" in response.headers
                assert "server" not in response.headers
            head = await client.head("/v1/shape?table=large&offset=-1")
            assert head.content == b""
            whole = await client.get("/v1/shape?table=large&offset=-1")
            assert whole.content == b"[" + large + b"]"
            assert head.headers["content-length"] == whole.headers["content-length"]
            same = await client.get("/v1/shape?table=large&offset=-1", headers={"if-none-match": whole.headers["etag"]})
            assert same.status_code == 304

    play(test, tmp_path)


@pytest.mark.parametrize("target", [b"//v1/shape", b"/v1/shape/", b"/v1//shape", b"/v1/%73hape", b"///v1///shape//"])
def test_every_spelling_of_a_path_is_the_same_route(tmp_path: Path, target: bytes) -> None:
    """
    The secret guards them all (B4).
    """

    async def test(server: Running) -> None:
        refused = await server.raw(get(target + b"?table=items&offset=-1"))
        assert refused.startswith(b"HTTP/1.1 401 ")
        served = await server.raw(get(target + b"?table=items&offset=-1&secret=s"))
        assert served.startswith(b"HTTP/1.1 200 ")

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, secret="s"))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get(b"/v1/shape?table=%ff&offset=-1"), 400),
        (get(b"/v1/shape?table=%zz&offset=-1"), 400),
        (get(b"/v1/shape?table=\xff\xfe&offset=-1"), 400),
        (get(b"/v1/sh\xffape"), 400),
        (get(b"/v1/%ff"), 404),
        (get(b"/v1/shape?" + b"a" * 250_000), 414),
        (get(b"/v1/shape?" + b"a" * 2_000_000), 414),
        (get(b"/v1/shape?table=items&offset=-1&x=" + b"a" * 150_000), 200),
        (get(b"/", b"x-large: " + b"a" * 2_000_000), 431),
        (b"PUT /v1/shape HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", 404),
        (b"POST /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", 404),
        (b"OPTIONS /v1/shape HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nconnection: close\r\n\r\n", 204),
        (b"rubbish\r\n\r\n", 400),
        (get(b"/", b"origin: \x01"), 400),
        (get(b"/", b"x-request-id: " + b"\xe9" * 30), 200),
        (get(b"/", b"upgrade: websocket", b"sec-websocket-key: x"), 200),
    ],
)
def test_whatever_is_sent_has_a_documented_answer(tmp_path: Path, request_bytes: bytes, status: int) -> None:
    """
    Nothing ends in a 500 or in a connection dropped without a word.
    """

    async def test(server: Running) -> None:
        answer = await server.raw(request_bytes)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]

    play(test, tmp_path)


def test_head_that_does_not_come_closes_the_connection(tmp_path: Path) -> None:
    """
    Neither silence nor a header line now and then holds a connection.
    """

    async def test(server: Running) -> None:
        assert await server.raw() == b""
        assert await server.raw(b"GET / HT") == b""
        # The time is for each head, also for later ones on the same connection.
        assert (await server.raw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET")).startswith(b"HTTP/1.1 200 ")

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, header_timeout_s=0.1, idle_timeout_s=20))


def test_parked_requests_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    """
    They get 503 at once, and the server is gone in less than a second, idle connections and event streams included.
    """

    async def run() -> None:
        source = ScriptedSource()
        handle = source.add("items", row(1)).handle
        app = ShapeApp(source, SETTINGS, tmp_path)
        sock = bind()
        sock.listen()
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(app, sock, SETTINGS, stop))
        live = f"/v1/shape?table=items&offset=0_inf&handle={handle}&live=true"
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
            await client.get("/")
            parked = [asyncio.create_task(client.get(live)) for _ in range(50)]
            await until(lambda: app.requests_under_way == 50)
            loop = asyncio.get_running_loop()
            told = loop.time()
            stop.set()
            answers = await asyncio.gather(*parked)
            await serving
            assert loop.time() - told < 2.0
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.headers["retry-after"] for answer in answers} == {"1"}
            with pytest.raises(httpx.ConnectError):
                await client.get("/")

    asyncio.run(run())


def test_event_stream_ends_with_a_stop(tmp_path: Path) -> None:
    """
    A stream has begun, so it is ended, not refused.
    """

    async def test(server: Running) -> None:
        handle = server.source.shapes["items"].handle
        query = f"/v1/shape?table=items&offset=0_inf&handle={handle}&live=true&live_sse=true"
        async with httpx.AsyncClient(base_url=server.url) as client, client.stream("GET", query) as response:
            await until(lambda: server.source.waits_under_way == 1)
            server.source.append("items", 9, row(2))
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            server.server.stop()
            assert "up-to-date" in "".join([line async for line in lines])

    play(test, tmp_path)


def test_client_that_leaves_is_noticed(tmp_path: Path) -> None:
    """
    A closed connection ends the wait at the engine.
    """

    async def test(server: Running) -> None:
        handle = server.source.shapes["items"].handle
        query = f"/v1/shape?table=items&offset=0_inf&handle={handle}&live=true".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(query))
        await until(lambda: server.source.waits_under_way == 1)
        writer.close()
        await until(lambda: server.source.waits_under_way == 0 and server.app.requests_under_way == 0)

    play(test, tmp_path)


def test_reader_that_stalls_loses_its_connection(tmp_path: Path) -> None:
    """
    A response that nobody takes is cut, and its file closed.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * 50_000_000 + b'"'))
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(silent, ("127.0.0.1", server.port))
            await loop.sock_sendall(silent, get(b"/v1/shape?table=large&offset=-1"))
            await until(lambda: server.app.requests_under_way == 1)
            await until(lambda: server.app.requests_under_way == 0)

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, send_timeout_s=0.2))


def test_cancelling_closes_everything(tmp_path: Path) -> None:
    """
    Whoever ends the task of the server leaves no socket behind.
    """

    async def run() -> None:
        async with asyncio.timeout(20):
            source = ScriptedSource()
            app = ShapeApp(source, SETTINGS, tmp_path)
            sock = bind()
            sock.listen()
            port = sock.getsockname()[1]
            serving = asyncio.create_task(HttpServer(app, sock, SETTINGS).serve())
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
                with pytest.raises(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/")

    asyncio.run(run())
