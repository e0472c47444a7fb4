"""
Bodies that lie in files: from the page cache in the kernel, and block by block where the kernel cannot do it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import msgspec
import pytest
import uvloop

from conformance.scripted_source import in_file, row
from harness.http_server import SETTINGS, Running, get, play, until
from penstock.api.fast import sending
from penstock.api.fast.sending import CopySending, DirectSending, make_sending
from penstock.api.files import OpenBody
from penstock.api.plan import LogBody

pytestmark = [
    # The tests of the server use both.
    pytest.mark.parametrize("event_loop", [uvloop.new_event_loop], ids=["uvloop"], indirect=True),
    pytest.mark.usefixtures("way"),
]

ITEMS = b"/v1/shape?table=items&offset=-1"
LARGE = b"/v1/shape?table=large&offset=-1"
LARGE_BYTES = 20_000_000


@pytest.fixture(params=["kernel", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """
    As here, and as on a system whose kernel sends no files.
    """
    monkeypatch.setattr(sending, "_HAS_SENDFILE", request.param == "kernel")
    return str(request.param)


def messages(body: bytes) -> list[str]:
    return [message["headers"].get("control", "data") for message in json.loads(body)]


def is_open(path: Path) -> bool:
    """
    Whether this process has the file open.
    """
    links = Path("/proc/self/fd").iterdir()
    return any(link.exists() and link.samefile(path) for link in links)


async def ask_slowly(server: Running, receive_bytes: int = 4096) -> socket.socket:
    """
    Ask for the large one and take nothing yet.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    await loop.sock_sendall(sock, get(LARGE))
    return sock


async def read_all(sock: socket.socket) -> int:
    """
    Take everything until the other side has closed or cut the connection; gives how much it was.
    """
    loop = asyncio.get_running_loop()
    taken = 0
    try:
        while block := await loop.sock_recv(sock, 1_000_000):
            taken += len(block)
    except ConnectionError:
        pass
    return taken


def test_slow_readers_of_a_large_chunk_cost_no_memory(tmp_path: Path) -> None:
    """
    Forty who take nothing of ten megabytes each; the other requests go on, and when the forty read they get it whole
    (C32).
    """

    async def test(server: Running) -> None:
        large = b'"' + b"x" * 10_000_000 + b'"'
        server.source.add("large", in_file(tmp_path, "f", large))
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        silent = [await ask_slowly(server, 65_536) for _ in range(40)]
        await until(lambda: server.app.requests_under_way == 40)
        client = await server.connect()
        assert messages((await client.ask(ITEMS))[1]) == ["data"]
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
        assert grown_mib < 60
        assert await read_all(silent[0]) > len(large)
        for sock in silent:
            sock.close()

    play(test, tmp_path)


def test_large_bodies_and_small_ones_share_a_connection(tmp_path: Path) -> None:
    """
    Bytes of one response never get into another.
    """

    async def test(server: Running) -> None:
        pieces = [in_file(tmp_path, f"f{n}", json.dumps(str(n) * 700_000).encode()) for n in range(3)]
        server.source.add("large", pieces[0])
        server.source.append("large", 5, pieces[1], json.dumps("i" * 700_000).encode(), pieces[2], row(9))
        handle = server.source.shapes["large"].handle.encode()
        client = await server.connect()
        for _ in range(3):
            _, body = await client.ask(b"/v1/shape?table=large&offset=0_0&handle=" + handle)
            texts = json.loads(body)
            assert [text[:1] for text in texts[:3]] == ["1", "i", "2"]
            assert [len(text) for text in texts[:3]] == [700_000] * 3
            assert messages((await client.ask(ITEMS))[1]) == ["data"]
            head, _ = await client.ask(LARGE, method=b"HEAD")
            assert b"\r\ncontent-length: 700004\r\n" in head

    play(test, tmp_path)


def test_file_that_is_too_short_cuts_the_response(tmp_path: Path) -> None:
    """
    The client must not take it for whole.
    """

    async def test(server: Running) -> None:
        piece = in_file(tmp_path, "f", b'"' + b"x" * 1_000_000 + b'"')
        server.source.add("large", msgspec.structs.replace(piece, bytes_count=2_000_000))
        client = await server.connect()
        client.send(LARGE)
        assert b"content-length: 2000002" in await client.head()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readexactly(2_000_002)

    play(test, tmp_path)


def test_file_that_shrinks_cuts_the_response(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Also when it does so while it is sent: the reader gets what there was, the connection is cut and the log is told.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * LARGE_BYTES + b'"'))
        sock = await ask_slowly(server)
        await until(lambda: server.app.requests_under_way == 1)
        os.truncate(tmp_path / "f", 1_000_000)
        assert await read_all(sock) < LARGE_BYTES
        await until(lambda: server.is_quiet)
        sock.close()

    play(test, tmp_path)
    assert "a response was cut" in capsys.readouterr().out


def test_reader_that_goes_on_late_gets_it_whole(tmp_path: Path) -> None:
    """
    One that takes a little now and then is waited for, for as long as it takes something.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * LARGE_BYTES + b'"'))
        sock = await ask_slowly(server, 65_536)
        loop = asyncio.get_running_loop()
        taken = len(await loop.sock_recv(sock, 4096))
        client = await server.connect()
        for _ in range(20):
            assert messages((await client.ask(ITEMS))[1]) == ["data"]
            taken += len(await loop.sock_recv(sock, 100_000))
        taken += await read_all(sock)
        assert taken > LARGE_BYTES
        sock.close()

    play(test, tmp_path)


def test_reader_that_takes_nothing_more_is_cut(tmp_path: Path) -> None:
    """
    After its time, and its file is closed.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * LARGE_BYTES + b'"'))
        sock = await ask_slowly(server)
        assert await asyncio.get_running_loop().sock_recv(sock, 1)
        await until(lambda: server.is_quiet)
        assert await read_all(sock) < LARGE_BYTES
        sock.close()
        await until(lambda: not is_open(tmp_path / "f"))

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, send_timeout_s=0.5))


def test_readers_that_vanish_leave_no_file_open(tmp_path: Path) -> None:
    """
    In the middle of it, with an order or without.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * LARGE_BYTES + b'"'))
        for is_rude in (True, False) * 5:
            sock = await ask_slowly(server)
            await asyncio.get_running_loop().sock_recv(sock, 4096)
            assert is_open(tmp_path / "f")
            if is_rude:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            await until(lambda: server.is_quiet)
        await until(lambda: not is_open(tmp_path / "f"))

    play(test, tmp_path)


@pytest.mark.parametrize("way", ["copy"], indirect=True)
def test_fault_of_ours_cuts_the_response_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Whatever goes wrong behind the head, the client is not left to wait for the rest: here nobody can read the file.
    """

    async def test(server: Running) -> None:
        server.source.add("large", in_file(tmp_path, "f", b'"' + b"x" * LARGE_BYTES + b'"'))
        server.app.readers.shutdown()
        client = await server.connect()
        client.send(LARGE)
        assert b" 200 " in await client.head()
        assert len(await client.reader.read()) < LARGE_BYTES

    play(test, tmp_path)
    assert "a response was cut" in capsys.readouterr().out


class Log:
    """
    Who is told what became of a body.
    """

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.moves = 0

    def body_moved(self) -> None:
        self.moves += 1

    def body_sent(self) -> None:
        self.ended.set_result(None)

    def body_failed(self, error: Exception) -> None:
        self.ended.set_exception(error)


def test_what_the_transport_has_left_goes_first(tmp_path: Path, way: str) -> None:
    """
    Behind bytes that the reader has not taken a body goes through the transport, at the reader's pace; else, where the
    kernel can, around it.
    """
    piece = in_file(tmp_path, "f", b"x" * 2_000_000)

    async def run(early_bytes: int) -> type:
        connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set_result(writer)

        listener = socket.create_server(("127.0.0.1", 0))
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, option, 4096)
        async with await asyncio.start_server(accept, sock=listener):
            with socket.socket() as reader:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                reader.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(reader, listener.getsockname())
                writer = await connected
                writer.write(b"e" * early_bytes)

                def drain() -> asyncio.Future[None] | None:
                    is_full = writer.transport.get_write_buffer_size() > 65_536
                    return asyncio.ensure_future(writer.drain()) if is_full else None

                log = Log()
                with OpenBody.open(LogBody((piece,)), tmp_path) as body, ThreadPoolExecutor(1) as readers:
                    transport = cast("asyncio.Transport", writer.transport)
                    made = make_sending(transport, b"h", body, log, readers=readers, drain=drain)
                    made.start()
                    got = bytearray()
                    while len(got) < early_bytes + 1 + body.bytes_count:
                        got += await loop.sock_recv(reader, 100_000)
                    await log.ended
                assert got.count(b"x") == 2_000_000
                assert got.startswith(b"e" * early_bytes + b"h")
                assert log.moves > 5
                writer.close()
                return type(made)

    assert asyncio.run(run(1_000_000)) is CopySending
    assert asyncio.run(run(0)) is (DirectSending if way == "kernel" else CopySending)
