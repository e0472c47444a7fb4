"""
Our server behind nginx, with the configuration that the documents recommend.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop

from conformance.scripted_source import in_file, row
from harness.http_server import SETTINGS, Connection, Running, bind, running, until

PAGE = Path(__file__).parents[3] / "docs" / "operations" / "proxy.md"

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx") is None and os.environ.get("CI") != "true", reason="nginx is not installed"
    ),
    # What nginx does with our answers is the same on every loop.
    pytest.mark.parametrize("event_loop", [uvloop.new_event_loop], ids=["uvloop"], indirect=True),
]


def write_config(folder: Path, port: int, server: Running, *more: tuple[str, str]) -> Path:
    """
    Write the documents' configuration with other addresses and paths.
    """
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    text = found[1]
    own = [("127.0.0.1:3000", f"127.0.0.1:{server.port}"), ("listen 8080", f"listen 127.0.0.1:{port}")]
    for old, new in [*own, ("/var/cache/nginx/penstock", str(folder / "cache")), *more]:
        assert old in text
        text = text.replace(old, new)
    folder.chmod(0o755)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}daemon off; pid {folder}/pid; error_log {folder}/log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{text}}}\n"
    )
    return config


@asynccontextmanager
async def behind_nginx(server: Running, folder: Path, *more: tuple[str, str]) -> AsyncIterator[int]:
    with bind() as probe:
        port: int = probe.getsockname()[1]
    config = write_config(folder, port, server, *more)
    process = await asyncio.create_subprocess_exec("nginx", "-e", f"{folder}/log", "-p", str(folder), "-c", str(config))
    try:
        while True:
            assert process.returncode is None, (folder / "log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield port
    finally:
        process.terminate()
        await process.wait()


async def connect(server: Running, port: int) -> Connection:
    client = Connection(*await asyncio.open_connection("127.0.0.1", port))
    server.clients.append(client)
    return client


def cache_state(head: bytes) -> str:
    """
    Tell what nginx says about where an answer is from.
    """
    found = re.search(rb"x-cache: (\w+)", head)
    assert found is not None, head
    return found[1].decode()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_nginx_collapses_and_caches(tmp_path: Path, version: str) -> None:
    """
    C30: Fifty alike live requests are one for us; chunks come from the cache; events pass at once. Over HTTP/1.0 as well.
    """

    async def run() -> None:
        settings = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=10.0)
        more = [("proxy_http_version 1.1", "proxy_http_version 1.0")] if version == "1.0" else []
        async with (
            asyncio.timeout(120),
            running(tmp_path, settings) as server,
            behind_nginx(server, tmp_path, *more) as port,
        ):
            server.source.add("chunks", in_file(tmp_path, "f", row(1)))
            client = await connect(server, port)
            caches = []
            for _ in range(3):
                head, _ = await client.ask(b"/v1/shape?table=chunks&offset=-1")
                caches.append(cache_state(head))
            assert caches == ["MISS", "HIT", "HIT"]
            clients = [await connect(server, port) for _ in range(50)]
            for each in clients:
                each.send(server.live())
            await until(lambda: server.source.waits_under_way == 1)
            assert server.app.requests_under_way == 1
            server.source.append("items", 900, row(2))
            for each in clients:
                head, body = await each.answer()
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"up-to-date" in body
            assert server.source.waits == 1
            client.send(server.live(offset="900_0", more="&live_sse=true"))
            await until(lambda: server.source.waits_under_way == 1)
            server.source.append("items", 901, row(3))
            assert b"data: " in await client.reader.readuntil(b"data: ")

    asyncio.run(run())


def test_nginx_serves_what_it_has_while_it_asks_again(tmp_path: Path) -> None:
    """
    C30: An answer that is no longer fresh is served at once while one request fetches the next one behind the clients'
    backs, and when the service is gone.
    """

    async def run() -> None:
        settings = msgspec.structs.replace(SETTINGS, cache_max_age_s=1)
        async with asyncio.timeout(120), running(tmp_path, settings) as server, behind_nginx(server, tmp_path) as port:
            source = server.source
            target = f"/v1/shape?table=items&offset=0_inf&handle={source.shapes['items'].handle}".encode()
            client = await connect(server, port)

            async def ask_until(*states: str, other_than: bytes = b"") -> bytes:
                """
                Ask until the answer is from there, and another one.
                """
                while True:
                    head, body = await client.ask(target)
                    assert head.startswith(b"HTTP/1.1 200 ")
                    if cache_state(head) in states and body != other_than:
                        return body
                    await asyncio.sleep(0.02)

            old = await ask_until("MISS")
            assert await ask_until("HIT") == old

            # The service takes its time; meanwhile there is news.
            source.hold_opens = asyncio.Event()
            source.append("items", 900, row(2))
            assert await ask_until("STALE", "UPDATING") == old
            await until(lambda: source.opens_under_way == 1)
            others = [await connect(server, port) for _ in range(20)]
            for head, body in await asyncio.gather(*(other.ask(target) for other in others)):
                assert (cache_state(head), body) == ("UPDATING", old)
            assert source.opens_under_way == 1
            source.hold_opens.set()
            source.hold_opens = None
            new = await ask_until("HIT", other_than=old)
            assert b'"2"' in new

            await server.stop()
            assert await ask_until("STALE", "UPDATING") == new

    asyncio.run(run())
