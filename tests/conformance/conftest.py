"""
What the contract's tests speak to: the server at `PENSTOCK_CONFORMANCE_URL`, else an application of their own.

A server under test needs a table with a few rows, `items` or the one named by `PENSTOCK_CONFORMANCE_TABLE`, that is not
written to meanwhile, and no secret.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

from conformance.scripted_source import ScriptedSource, browse, row
from penstock.api.app import ShapeApp
from penstock.api.settings import ApiSettings


class Server:
    """
    A server to be held to the contract.
    """

    def __init__(self, url: str, table: str, runner: asyncio.Runner, app: ASGIApp | None) -> None:
        self.url = url
        self._runner = runner
        self.table = table
        self._app = app

    def ask(self, target: str, method: str = "GET", **headers: str) -> httpx.Response:
        """
        Send one request; header names are written with underscores.
        """

        async def run() -> httpx.Response:
            client = browse(self._app) if self._app is not None else httpx.AsyncClient(timeout=60)
            async with client:
                return await client.request(
                    method, self.url + target, headers={name.replace("_", "-"): text for name, text in headers.items()}
                )

        return self._runner.run(run())

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """
    The server under test.
    """
    url = os.environ.get("PENSTOCK_CONFORMANCE_URL")
    with asyncio.Runner() as runner:
        if url is not None:
            yield Server(url.rstrip("/"), os.environ.get("PENSTOCK_CONFORMANCE_TABLE", "items"), runner, None)
            return
        folder: Path = tmp_path_factory.mktemp("conformance")
        source = ScriptedSource()
        source.add("items", row(1) + b"," + row(2))
        app = ShapeApp(source, ApiSettings(version="0.1.0", long_poll_timeout_s=1.0), folder)
        yield Server("http://penstock.test", "items", runner, app)
        app.close()
