from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import penstock
from harness.waiting import until
from penstock.errors import ConfigError

pytestmark = pytest.mark.postgres


async def test_it_can_be_mounted_below_somebody_elses_application(database: Any, tmp_path: Path) -> None:
    """
    Below a prefix of a Starlette application shapes are served, live, and other routes go on; it ends in order.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO items VALUES (1, 'one')")
    sync = penstock.asgi(database.url, data_dir=tmp_path / "data", replication_stream_id=database.name)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        async with sync.running():
            yield

    async def hello(_: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/", hello), Mount("/sync", sync)], lifespan=lifespan)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app", timeout=30) as client,
    ):

        async def is_active() -> bool:
            return (await client.get("/sync/v1/health")).status_code == 200

        await until("it is active", is_active)
        assert (await client.get("/")).text == "hello"
        first = await client.get("/sync/v1/shape", params={"table": "items", "offset": "-1"})
        assert first.status_code == 200
        assert '"t":"one"' in first.text
        query = {"table": "items", "handle": first.headers["electric-handle"], "offset": "0_inf", "live": "true"}
        waiting = asyncio.create_task(client.get("/sync/v1/shape", params=query))
        await asyncio.to_thread(database.execute, "UPDATE items SET t = 'two'")
        assert '"t":"two"' in (await waiting).text
        roles = [p["role"] for p in (await client.get("/sync/v1/status")).json()["processes"]]
        assert set(roles) == {"supervisor", "receiver", "engine", "web"}


async def test_two_applications_never_own_one_folder(database: Any, tmp_path: Path) -> None:
    """
    The second application on a data folder is refused with the owner's process.
    """
    first = penstock.asgi(database.url, data_dir=tmp_path / "data", replication_stream_id=database.name)
    second = penstock.asgi(database.url, data_dir=tmp_path / "data", replication_stream_id=database.name)
    async with first.running():
        with pytest.raises(ConfigError, match="in use by another Penstock"):
            await second.start()


def test_a_setting_that_is_not_one_is_refused(database: Any) -> None:
    """
    A misspelt setting is an error that says so.
    """
    with pytest.raises(ConfigError, match="did you mean acknowledge"):
        penstock.asgi(database.url, acknowlege="shapes")
