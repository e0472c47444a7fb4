"""
A server to be measured, as a process of its own: ours over a source in memory, and what it is compared with.

Run by `http_serving`: prints its port, then serves until its standard input ends. On standard input `!` is the event that
parked clients wait for, and `?` asks how many are parked. For many shapes ours are two processes as in the service: an
engine, which only tells that something has happened to all shapes, and a web worker behind its socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import httptools
import uvicorn
import uvloop

from benchmarks.measure import allow_open_files
from penstock.api.abc import ShapeSource
from penstock.api.app import ShapeApp
from penstock.api.remote import RemoteShapeSource, ShapeSourceServer
from penstock.api.server import HttpServer, collect_seldom
from penstock.api.settings import ApiSettings
from penstock.shapes.offset import SNAPSHOT_END, LogOffset, snapshot_chunk_end
from penstock.shapes.reading import (
    Advanced,
    FilePiece,
    Health,
    InlinePiece,
    LogRange,
    Opened,
    OpenReply,
    ShapeRequest,
    WaitReply,
)

Served: TypeAlias = tuple[Callable[[], None], Callable[[], int], Awaitable[object]]
"""How to make the event happen, how many wait for it, and what serves."""

HANDLE_END: Final = "-1700000000000001"
HANDLE: Final = f"1001{HANDLE_END}"
TABLE: Final = "items"
ENGINE_SOCKET: Final = "engine.sock"
"""File in the folder."""
DESCRIPTORS_SPARE: Final = 500
"""Open files besides those of the clients."""
CHUNK: Final = "chunk"
"""File in the folder; the first chunk of the shape is what is in it."""
ROW: Final = b'{"key":"\\"public\\".\\"items\\"/\\"1\\"","value":{"id":"1"},"headers":{"operation":"insert"}}'
SMALL: Final = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 19:48:06 GMT\r\nelectric-server: Penstock/1.2\r\n"
    b"x-request-id: 0123456789abcdef0123456789abcdef\r\naccess-control-allow-origin: *\r\n"
    b"access-control-expose-headers: electric-cursor,electric-handle,electric-has-data,electric-offset,electric-schema,"
    b"electric-up-to-date,electric-internal-known-error,retry-after\r\n"
    b"access-control-allow-methods: GET, POST, HEAD, DELETE, OPTIONS\r\n"
    b"content-type: application/json; charset=utf-8\r\n"
    b"cache-control: public, max-age=60, stale-while-revalidate=300\r\nelectric-handle: 1001-1700000000000001\r\n"
    b'electric-offset: 0_inf\r\netag: "1001-1700000000000001:0_inf:0_inf"\r\nelectric-has-data: true\r\n'
    b"electric-up-to-date: \r\ncontent-length: 71\r\n\r\n"
    b'[{"headers":{"control":"up-to-date","global_last_seen_lsn":"0000001"}}]'
)
"""About what ours answers; the others write it as it is."""
EVENT: Final = b"5a\r\ndata: " + b"x" * 82 + b"\r\n"
_HEADERS: Final = [tuple(line.split(b": ", 1)) for line in SMALL.partition(b"\r\n\r\n")[0].split(b"\r\n")[2:]]
_BODY: Final = SMALL.partition(b"\r\n\r\n")[2]


def shape_handle(number: int) -> str:
    """
    Name the log of the shape of a table.
    """
    return f"{number}{HANDLE_END}"


def allow_files() -> int:
    """
    Let this process have as many files open as the system lets it; gives how many clients that is good for.
    """
    return allow_open_files() - DESCRIPTORS_SPARE


class MemorySource:
    """
    One shape: a chunk in a file, then nothing until the event.
    """

    def __init__(self, folder: Path) -> None:
        self._chunk = FilePiece(CHUNK, 0, (folder / CHUNK).stat().st_size)
        self._last = SNAPSHOT_END
        self._moved = asyncio.Event()

    def tell(self) -> None:
        """
        Append a change.
        """
        self._last = LogOffset(self._last.tx + 1, 0)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        As the engine.
        """
        if request.offset == LogOffset(-1, 0):
            found = LogRange(snapshot_chunk_end(0), self._last, (self._chunk,))
        else:
            found = LogRange(self._last, self._last)
        return Opened(HANDLE, "{}", found, 1)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        As the engine.
        """
        assert handle == HANDLE
        while self._last <= after:
            await self._moved.wait()
        return Advanced(LogRange(self._last, self._last, (InlinePiece(ROW),)), 1)

    async def health(self) -> Health:
        """
        As the engine.
        """
        return Health("active")

    async def status(self) -> dict[str, object]:
        """
        As the engine.
        """
        return {}

    async def list_shapes(self, *_: object) -> Any:
        """
        As the engine, which is not asked for any.
        """
        raise AssertionError

    async def load_subset(self, *_: object) -> Any:
        """
        As the engine, which is not asked for any.
        """
        raise AssertionError

    async def remove(self, *_: object) -> Any:
        """
        As the engine, which is not asked for any.
        """
        raise AssertionError


class ShapesSource(MemorySource):
    """
    As many shapes as anybody asks for, named by the number of their table; the event is a change of each.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def waiters_count(self) -> int:
        """
        How many wait.
        """
        return len(self._waiters)

    def tell(self) -> None:
        """
        Append a change to each.
        """
        self._last = LogOffset(self._last.tx + 1, 0)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        As the engine.
        """
        return Opened(shape_handle(int(request.table.removeprefix(TABLE))), "{}", LogRange(self._last, self._last), 1)

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        """
        As the engine.
        """
        assert handle.endswith(HANDLE_END)
        while self._last <= after:
            self._waiters.append(asyncio.get_running_loop().create_future())
            await self._waiters[-1]
        return Advanced(LogRange(self._last, self._last, (InlinePiece(ROW),)), 1)


class FileLoop(asyncio.Protocol):
    """
    The least that sends a file: its length, and the kernel's copy.
    """

    chunk: Final[list[Path]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Serve a connection.
        """
        self._transport: Any = transport
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._file = os.open(self.chunk[0], os.O_RDONLY)
        self._place = 0

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """
        Forget it.
        """
        asyncio.get_running_loop().remove_writer(self._socket.fileno())
        self._socket.close()
        os.close(self._file)

    def data_received(self, data: bytes) -> None:
        """
        Take whatever comes for a request.
        """
        assert data
        self._place = 0
        self._socket.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % os.fstat(self._file).st_size)
        asyncio.get_running_loop().add_writer(self._socket.fileno(), self._go_on)

    def _go_on(self) -> None:
        try:
            sent = os.sendfile(self._socket.fileno(), self._file, self._place, 1 << 20)
        except BlockingIOError:
            return
        self._place += sent
        if not sent:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())


class SocketLoop(asyncio.Protocol):
    """
    The least that can be done in Python: a parser, a set of who waits, and bytes that are there already.
    """

    parked: Final[set[SocketLoop]] = set()

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._is_live = self.is_events = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Serve a connection.
        """
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """
        Forget it.
        """
        self.parked.discard(self)

    def data_received(self, data: bytes) -> None:
        """
        Feed the parser.
        """
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """
        See what is wanted.
        """
        self._is_live = b"live=true" in url
        self.is_events = b"live_sse" in url

    def on_message_complete(self) -> None:
        """
        Answer, or park.
        """
        if self._is_live:
            if self.is_events:
                self.transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            self.parked.add(self)
        else:
            self.transport.write(SMALL)

    @classmethod
    def tell(cls) -> None:
        """
        Answer all who are parked.
        """
        for each in tuple(cls.parked):
            if each.is_events:
                each.transport.write(EVENT)
            else:
                cls.parked.discard(each)
                each.transport.write(SMALL)


async def _bare(scope: Any, receive: Any, send: Any) -> None:
    """
    The least that an ASGI application can do.
    """
    assert scope["type"] == "http", receive
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


async def _serve_ours(sock: socket.socket, folder: Path) -> Served:
    source = MemorySource(folder)
    count, serving = _serve_app(source, sock, folder)
    return source.tell, count, serving


async def _serve_web(sock: socket.socket, folder: Path) -> Served:
    source = RemoteShapeSource(folder / ENGINE_SOCKET)
    await source.start()
    count, serving = _serve_app(source, sock, folder)
    return lambda: None, count, serving


def _serve_app(source: ShapeSource, sock: socket.socket, folder: Path) -> tuple[Callable[[], int], Awaitable[None]]:
    settings = ApiSettings(
        version="1.2", long_poll_timeout_s=600, requests_initial_max=100_000, requests_existing_max=100_000
    )
    app = ShapeApp(source, settings, folder)
    return lambda: app.route.shared.waiting_count, HttpServer(app, sock, settings).serve()


async def _serve_engine(sock: socket.socket, folder: Path) -> Served:
    sock.close()
    source = ShapesSource(folder)
    await ShapeSourceServer(source, folder / ENGINE_SOCKET).start()
    return source.tell, lambda: source.waiters_count, asyncio.Event().wait()


async def _serve_bare(sock: socket.socket, _folder: Path) -> Served:
    config = uvicorn.Config(_bare, lifespan="off", log_config=None, access_log=False, server_header=False)
    return lambda: None, lambda: 0, uvicorn.Server(config).serve(sockets=[sock])


async def _serve_loop(sock: socket.socket, _folder: Path) -> Served:
    server = await asyncio.get_running_loop().create_server(SocketLoop, sock=sock, backlog=4096)
    return SocketLoop.tell, lambda: len(SocketLoop.parked), server.serve_forever()


async def _serve_files(sock: socket.socket, folder: Path) -> Served:
    FileLoop.chunk.append(folder / CHUNK)
    server = await asyncio.get_running_loop().create_server(FileLoop, sock=sock, backlog=4096)
    return lambda: None, lambda: 0, server.serve_forever()


SERVERS: Final[dict[str, Callable[[socket.socket, Path], Awaitable[Served]]]] = {
    "ours": _serve_ours,
    "web": _serve_web,
    "engine": _serve_engine,
    "uvicorn": _serve_bare,
    "loop": _serve_loop,
    "files": _serve_files,
}


async def _main(name: str, folder: Path) -> None:
    allow_files()
    collect_seldom()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    sock.setblocking(False)
    port = sock.getsockname()[1]
    tell, count, serving = await SERVERS[name](sock, folder)
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serving)

    def say(number: int) -> None:
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    def read() -> None:
        match os.read(0, 1):
            case b"!":
                tell()
            case b"?":
                say(count())
            case _:
                os._exit(0)

    loop.add_reader(0, read)
    say(port)
    await task


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], Path(sys.argv[2])))
