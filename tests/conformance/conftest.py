"""
What the contract's tests speak to: the server at `PENSTOCK_CONFORMANCE_URL`, else one of their own, in each of the ways
in which requests are served: by our server's short way, by the application under our server, and under granian.

A server under test needs a table with a few rows, `items` or the one named by `PENSTOCK_CONFORMANCE_TABLE`, that is not
written to meanwhile, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

from conformance.scripted_source import ScriptedSource, row
from penstock.api.app import ShapeApp
from penstock.api.server import HttpServer
from penstock.api.settings import ApiSettings

SETTINGS: Final = ApiSettings(version="0.1.0", long_poll_timeout_s=1.0)


class Server:
    """
    A server to be held to the contract.
    """

    def __init__(self, url: str, table: str, runner: asyncio.Runner) -> None:
        self.url = url
        self._runner = runner
        self.table = table
        self._client = httpx.AsyncClient(timeout=60)

    def ask(self, target: str, method: str = "GET", **headers: str) -> httpx.Response:
        """
        Send one request; header names are written with underscores.
        """

        async def run() -> httpx.Response:
            return await self._client.request(
                method, self.url + target, headers={name.replace("_", "-"): text for name, text in headers.items()}
            )

        return self._runner.run(run())

    def close(self) -> None:
        """
        Close the connections.
        """
        self._runner.run(self._client.aclose())

    def shape(self, query: str, **headers: str) -> httpx.Response:
        """
        Ask for a part of the table's log.
        """
        return self.ask(f"/v1/shape?table={self.table}&{query}", **headers)

    def end(self) -> tuple[str, str]:
        """
        Follow the log to its end; gives handle and offset.
        """
        response = self.shape("offset=-1")
        while "electric-up-to-date" not in response.headers:
            handle, offset = response.headers["electric-handle"], response.headers["electric-offset"]
            response = self.shape(f"offset={offset}&handle={handle}")
            assert response.status_code == 200
        return response.headers["electric-handle"], response.headers["electric-offset"]


@asynccontextmanager
async def serve_ourselves(app: ShapeApp, *, has_short_way: bool) -> AsyncIterator[str]:
    """
    Serve with our server, with or without its short way.
    """
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    server = HttpServer(app, sock, SETTINGS, has_short_way=has_short_way)
    task = asyncio.create_task(server.serve())
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.stop()
        await task


@asynccontextmanager
async def serve_with_granian(app: ShapeApp) -> AsyncIterator[str]:
    """
    Serve with granian.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = Granian(app, port=port, interface=Interfaces.ASGINL, log_enabled=False, websockets=False)
    task = asyncio.create_task(server.serve())
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client:
            while not task.done():
                with contextlib.suppress(httpx.ConnectError):
                    await client.get(url)
                    break
                await asyncio.sleep(0.02)
        yield url
    finally:
        app.begin_shutdown()
        server.stop()  # type: ignore[no-untyped-call]
        await task


WAYS: Final[dict[str, Callable[[ShapeApp], AbstractAsyncContextManager[str]]]] = {
    "short-way": lambda app: serve_ourselves(app, has_short_way=True),
    "application": lambda app: serve_ourselves(app, has_short_way=False),
    "granian": serve_with_granian,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run every test against every way, or against the server that is named.
    """
    if "server" in metafunc.fixturenames:
        ways = ["named"] if "PENSTOCK_CONFORMANCE_URL" in os.environ else list(WAYS)
        metafunc.parametrize("server", ways, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """
    The server under test.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if request.param == "named":
            table = os.environ.get("PENSTOCK_CONFORMANCE_TABLE", "items")
            server = Server(os.environ["PENSTOCK_CONFORMANCE_URL"].rstrip("/"), table, runner)
            yield server
            server.close()
            return
        folder: Path = tmp_path_factory.mktemp("conformance")
        source = ScriptedSource()
        source.add("items", row(1) + b"," + row(2))
        app = ShapeApp(source, SETTINGS, folder)
        way = WAYS[request.param](app)
        server = Server(runner.run(way.__aenter__()), "items", runner)
        yield server
        server.close()
        runner.run(way.__aexit__(None, None, None))
        app.close()
