"""
Our HTTP server in this process, over a scripted source, spoken to over real connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from conformance.scripted_source import ScriptedSource, row
from harness.reach import Reach, directly
from penstock.api.admission import Kind
from penstock.api.app import ShapeApp
from penstock.api.authorisation import Authorize
from penstock.api.server import HttpServer
from penstock.api.settings import ApiSettings

SETTINGS: Final = ApiSettings(version="1.2")


class Running:
    """
    A server on a port of its own, with one shape, `items`.
    """

    def __init__(self, source: ScriptedSource, app: ShapeApp, server: HttpServer, port: int) -> None:
        self._serving = asyncio.create_task(server.serve(), name="serve")
        self.source = source
        self.app = app
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.clients: list[Connection] = []

    async def raw(self, *parts: bytes) -> bytes:
        """
        Send bytes as they are and read until the server closes.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    def live(self, *, table: str = "items", offset: str = "0_inf", more: str = "") -> bytes:
        """
        Give the target of a live request.
        """
        handle = self.source.shapes[table].handle
        return f"/v1/shape?table={table}&offset={offset}&handle={handle}&live=true{more}".encode()

    async def stop(self) -> None:
        """
        Stop the server, and wait until it has.
        """
        self.server.stop()
        await self._serving

    async def connect(self) -> Connection:
        """
        Open a connection that stays until the server ends.
        """
        client = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    @property
    def is_quiet(self) -> bool:
        """
        Whether nothing is under way, and nothing is held for what was.
        """
        held = [self.app.admission.under_way(kind) for kind in Kind]
        return (self.source.waits_under_way, self.source.opens_under_way, len(self.app.under_way), *held) == (0,) * 5


class Connection:
    """
    A client that speaks plain HTTP/1.1.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, target: bytes, *headers: bytes, method: bytes = b"GET") -> tuple[bytes, bytes]:
        """
        Send a request and read the answer.
        """
        self.send(target, *headers, method=method)
        return await self.answer(is_bodiless=method == b"HEAD")

    def send(self, target: bytes, *headers: bytes, method: bytes = b"GET") -> None:
        """
        Send a request.
        """
        self.writer.write(b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"host: x", *headers, b"", b""]))

    async def answer(self, *, is_bodiless: bool = False) -> tuple[bytes, bytes]:
        """
        Read head and body of an answer.
        """
        head = await self.head()
        return head, b"" if is_bodiless else await self.body(head)

    async def head(self) -> bytes:
        """
        Read the head of an answer.
        """
        return await self.reader.readuntil(b"\r\n\r\n")

    async def body(self, head: bytes) -> bytes:
        """
        Read the body of an answer that has this head.
        """
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        return await self.reader.readexactly(lengths[0] if lengths else 0)

    async def chunk(self) -> bytes:
        """
        Read a part of a stream; empty at its end.
        """
        length = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(length)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def is_closed(self) -> bool:
        """
        Wait for the server to close; whether it did so in order.
        """
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return False

    def close(self) -> None:
        """
        Leave.
        """
        self.writer.close()


def bind() -> socket.socket:
    """
    Take a free port.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def running(
    data_dir: Path,
    settings: ApiSettings = SETTINGS,
    *,
    has_short_way: bool = True,
    authorize: Authorize | None = None,
    reach: Reach = directly,
) -> AsyncIterator[Running]:
    """
    Serve until the block ends, whoever `authorize` lets in.
    """
    source = ScriptedSource()
    source.add("items", row(1))
    async with reach(source, data_dir) as reached:
        app = ShapeApp(reached, settings, data_dir, authorize=authorize)
        sock = bind()
        sock.listen(4096)
        port = sock.getsockname()[1]
        server = HttpServer(app, sock, settings, has_short_way=has_short_way)
        served = Running(source, app, server, port)
        try:
            yield served
        finally:
            for client in served.clients:
                client.close()
            await served.stop()


def play(
    test: Callable[[Running], Coroutine[Any, Any, None]],
    data_dir: Path,
    settings: ApiSettings = SETTINGS,
    *,
    has_short_way: bool = True,
    authorize: Authorize | None = None,
    reach: Reach = directly,
) -> None:
    """
    Run a test on a fresh server; nothing may be left under way when its clients have left.
    """

    async def run() -> None:
        serving = running(data_dir, settings, has_short_way=has_short_way, authorize=authorize, reach=reach)
        async with asyncio.timeout(60), serving as server:
            await test(server)
            for client in server.clients:
                client.close()
            await until(lambda: server.is_quiet)

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    """
    Let everybody else run until something holds.
    """
    while not condition():  # noqa: ASYNC110  what is waited for is a count, not an event
        await asyncio.sleep(0.005)


def get(target: bytes, *headers: bytes) -> bytes:
    """
    Give a request that is the last one on its connection.
    """
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"host: x", b"connection: close", *headers, b"", b""])
