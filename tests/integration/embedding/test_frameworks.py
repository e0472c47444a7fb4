"""
Inside applications of others: every framework under uvicorn, with an engine of its own and its lifespan.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import fastapi
import httpx
import litestar
import pytest
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import penstock
from harness.asgi_site import START_TIMEOUT_S, site
from penstock import Allow, Deny
from penstock.errors import ConfigError
from penstock.service.embedding import EmbeddedApp, MountableApp
from penstock.testing.postgres import ThrowawayDatabase, free_port

pytestmark = pytest.mark.postgres

METHODS: Final = ["GET", "HEAD", "POST", "DELETE", "OPTIONS"]
HERE: Final = Path(__file__).parent


# --- the applications ------------------------------------------------------------------------------------------------


def in_starlette(sync: MountableApp) -> Any:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with sync.running():
            yield

    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello from Starlette")

    async def mine(request: Request) -> Any:
        return sync.respond(own_rows(request.headers.get("x-user")), table="items")

    routes = [Route("/hello", hello), Route("/mine", mine, methods=METHODS), Mount("/sync", sync)]
    return Starlette(routes=routes, lifespan=lifespan)


def current_user(x_user: Annotated[str | None, fastapi.Header()] = None) -> str:
    """
    A dependency like that of any application.
    """
    if x_user is None:
        raise fastapi.HTTPException(401, "who is it?")
    return x_user


def rule(user: Annotated[str, fastapi.Depends(current_user)]) -> Allow | Deny:
    """
    And one that depends on it.
    """
    return own_rows(user)


def in_fastapi(sync: MountableApp) -> Any:
    @asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with sync.running():
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/hello", response_class=fastapi.responses.PlainTextResponse)
    async def hello() -> str:
        return "hello from FastAPI"

    @app.api_route("/mine", methods=METHODS)
    async def mine(allowed: Annotated[Allow, fastapi.Depends(rule)]) -> fastapi.Response:
        return sync.respond(allowed, table="items")

    app.mount("/sync", sync)
    return app


def in_litestar(sync: MountableApp) -> Any:
    @asynccontextmanager
    async def lifespan(_: litestar.Litestar) -> AsyncIterator[None]:
        async with sync.running():
            yield

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if "x-user" not in connection.headers:
            raise NotAuthorizedException

    @litestar.get("/hello", media_type=litestar.MediaType.TEXT)
    async def hello() -> str:
        return "hello from Litestar"

    @litestar.route("/mine", http_method=["GET", "POST", "DELETE"], guards=[guard], status_code=200)
    async def mine(request: litestar.Request[Any, Any, Any]) -> penstock.ShapeResponse:
        return sync.respond(own_rows(request.headers["x-user"]), table="items")

    mounted = litestar.asgi("/sync", is_mount=True, copy_scope=True)(sync)
    return litestar.Litestar([hello, mine, mounted], lifespan=[lifespan])


def plain(sync: MountableApp) -> Any:
    async def hello(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello from nobody"})

    return sync.in_front_of(hello, "/sync")


def own_rows(user: str | None) -> Allow | Deny:
    return Deny(401) if user is None else Allow("owner = $1", [user], ["id", "owner"])


@contextmanager
def django(database: ThrowawayDatabase, folder: Path) -> Iterator[str]:
    port = free_port()
    env = {
        **os.environ,
        "SITE_DATABASE_URL": database.url,
        "SITE_DATA": str(folder),
        "SITE_STREAM": database.name,
    }
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "django_site:application", "--lifespan", "on"]
    process = subprocess.Popen(command, cwd=HERE, env=env)
    try:
        with httpx.Client() as client:
            for_s = time.monotonic() + START_TIMEOUT_S
            while True:
                assert process.poll() is None
                assert time.monotonic() < for_s
                try:
                    client.get(f"http://127.0.0.1:{port}/hello")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        status = process.wait(START_TIMEOUT_S)
    # uvicorn ends in order, and then by the signal that it was told to end by.
    assert status in {0, -15}


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture
def items(database: ThrowawayDatabase) -> ThrowawayDatabase:
    """
    A database with rows of two people.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, owner text, title text)")
    database.execute("INSERT INTO items VALUES (1, 'alice', 'one'), (2, 'bob', 'two')")
    return database


def embed(database: ThrowawayDatabase, folder: Path, **arguments: Any) -> EmbeddedApp:
    return penstock.asgi(
        database.url, data_dir=folder, replication_stream_id=database.name, long_poll_timeout_s="30", **arguments
    )


async def follow(url: str, database: ThrowawayDatabase, path: str, user: str | None = None) -> list[dict[str, Any]]:
    """
    Read a shape, wait for a change, and change something; gives the rows of both answers.
    """
    headers = {} if user is None else {"x-user": user}
    async with httpx.AsyncClient(base_url=url, timeout=90, headers=headers) as client:
        named = {} if path == "/mine" else {"table": "items"}
        first = await client.get(path, params={**named, "offset": "-1"})
        assert first.status_code == 200, first.text
        query = {**named, "handle": first.headers["electric-handle"], "offset": first.headers["electric-offset"]}
        second = await client.get(path, params=query)
        query["offset"] = second.headers["electric-offset"]
        waiting = asyncio.create_task(client.get(path, params={**query, "live": "true"}))
        await asyncio.to_thread(database.execute, "UPDATE items SET title = title || '!', owner = owner")
        await asyncio.to_thread(database.execute, "INSERT INTO items SELECT max(id) + 1, 'alice', 'new' FROM items")
        later = await waiting
        assert later.status_code == 200, later.text
        return [message["value"] for answer in (first, later) for message in answer.json() if "value" in message]


Open = Callable[[ThrowawayDatabase, Path], AbstractContextManager[str]]


def served(build: Callable[[MountableApp], Any]) -> Open:
    return lambda database, folder: site(build(embed(database, folder)))


SITES: Final[dict[str, Open]] = {
    "Starlette": served(in_starlette),
    "FastAPI": served(in_fastapi),
    "Litestar": served(in_litestar),
    "nobody": served(plain),
    "Django": django,
}


@pytest.mark.parametrize("name", SITES)
def test_it_lives_inside_of_every_framework(name: str, items: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    Started by uvicorn it serves rows and changes below its path, the framework serves its own, and both end in order: a
    successor takes the folder at once, without a resync.
    """
    handles = set()
    for _ in range(2):
        with SITES[name](items, tmp_path / "data") as url:
            assert httpx.get(f"{url}/hello").text == f"hello from {name}"
            assert httpx.get(f"{url}/elsewhere").status_code in {200, 404}
            found = asyncio.run(follow(url, items, "/sync/v1/shape"))
            assert {"1", "2"} <= {row["id"] for row in found}
            first = httpx.get(f"{url}/sync/v1/shape?table=items&offset=-1", timeout=60)
            handles.add(first.headers["electric-handle"])
            assert httpx.get(f"{url}/sync/v1/nowhere").status_code == 404
    assert len(handles) == 1


@pytest.mark.parametrize("name", ["Starlette", "FastAPI", "Litestar"])
def test_a_route_of_the_framework_decides(name: str, items: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    A route with the framework's own means of knowing who asks, dependencies and guards among them, hands on what may be
    seen; the client need not name the table, and cannot name another.
    """
    items.execute("CREATE TABLE hidden (id int PRIMARY KEY, owner text)")
    with SITES[name](items, tmp_path / "data") as url:
        assert httpx.get(f"{url}/mine?offset=-1").status_code == 401
        for user, other in (("alice", "bob"), ("bob", "alice")):
            headers = {"x-user": user}
            answer = httpx.get(f"{url}/mine?offset=-1&where=true OR owner = '{other}'", headers=headers, timeout=60)
            assert [m["value"] for m in answer.json() if "value" in m] == [
                {"id": {"alice": "1", "bob": "2"}[user], "owner": user}
            ]
            assert answer.headers["cache-control"] == "private, no-cache"
            assert httpx.get(f"{url}/mine?offset=-1&table=hidden", headers=headers).status_code == 403
            handles = {
                httpx.get(f"{url}/mine?offset=-1{more}", headers=headers, timeout=60).headers["electric-handle"]
                for more in ("", "&table=public.items", "&table=items")
            }
            assert len(handles) == 1
            rows = httpx.post(f"{url}/mine?offset=-1", json={"where": "true"}, headers=headers, timeout=60).json()
            assert {row["value"]["owner"] for row in rows["data"]} == {user}
        changed = asyncio.run(follow(url, items, "/mine", "alice"))
        assert {row["owner"] for row in changed if "owner" in row} == {"alice"}
        assert not any("title" in row for row in changed)


def test_both_the_route_and_the_guard_must_allow(items: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    With `authorize` and `respond` the conditions of both hold, and the mounted path is guarded as well.
    """
    guarded = embed(
        items, tmp_path / "data", authorize=penstock.by_table({"items": Allow("id < $1", [2], ["id", "owner"])})
    )
    with site(in_starlette(guarded)) as url:
        both = httpx.get(f"{url}/mine?offset=-1", headers={"x-user": "alice"}, timeout=60)
        assert [m["value"]["id"] for m in both.json() if "value" in m] == ["1"]
        none = httpx.get(f"{url}/mine?offset=-1", headers={"x-user": "bob"}, timeout=60)
        assert [m["value"]["id"] for m in none.json() if "value" in m] == []
        mounted = httpx.get(f"{url}/sync/v1/shape?table=items&offset=-1", timeout=60)
        assert [m["value"]["id"] for m in mounted.json() if "value" in m] == ["1"]
        assert httpx.get(f"{url}/sync/v1/shape?table=other&offset=-1").status_code == 403
        assert httpx.get(f"{url}/sync/v1/status").status_code == 401


async def test_a_grant_that_is_none_denies(tmp_path: Path) -> None:
    """
    Whatever else stands in the scope where a decision is looked for is no decision.
    """
    sync = penstock.beside(tmp_path, authorize=penstock.by_table({}))

    async def tampered(scope: Any, receive: Any, send: Any) -> None:
        await sync({**scope, "penstock.grant": {"where": "true"}}, receive, send)

    transport = httpx.ASGITransport(tampered)
    async with sync.running(), httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/v1/shape?table=items&offset=-1")).status_code == 403


def test_an_application_beside_the_service_takes_no_settings_of_the_engine(tmp_path: Path) -> None:
    """
    What it cannot change it refuses, and names what is misspelt.
    """
    with pytest.raises(ConfigError, match="acknowledge is for the service"):
        penstock.beside(tmp_path, acknowledge="shapes")
    with pytest.raises(ConfigError, match="did you mean long_poll_timeout_s"):
        penstock.beside(tmp_path, long_pol_timeout_s="1")


@pytest.mark.parametrize("path", ["sync", "", "/", "//"])
def test_an_application_is_mounted_somewhere(tmp_path: Path, path: str) -> None:
    """
    A path that is none is refused when the application is built.
    """
    with pytest.raises(ConfigError, match="no path"):
        penstock.beside(tmp_path).in_front_of(plain(penstock.beside(tmp_path)), path)


async def test_a_service_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """
    Beside a service that does not run, requests get a 503 with a time to come again.
    """
    sync = penstock.beside(tmp_path)
    assert isinstance(sync, MountableApp)
    transport = httpx.ASGITransport(sync)
    async with sync.running(), httpx.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client:
        answer = await client.get("/v1/shape?table=items&offset=-1")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert (await client.get("/v1/ready")).status_code == 503
