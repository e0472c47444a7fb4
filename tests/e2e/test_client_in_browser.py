"""
The published TypeScript client where most of its users run it: in a browser, on a page that comes from another origin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from playwright.async_api import Locator, Page, Response, expect

from harness.browser import View, browsing, skip_without_chromium
from harness.service import Service

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
skip_without_chromium()

NODE_FOLDER: Final = Path(__file__).parent / "node"
SECRET: Final = "open-sesame"
WAYS: Final = ("polls", "events")


class Files(SimpleHTTPRequestHandler):
    """
    Files of a folder, without a word in the terminal.
    """

    extensions_map = {  # noqa: RUF012 - as the base class has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: object) -> None:
        """
        Say nothing.
        """


@contextmanager
def other_origin() -> Iterator[str]:
    """
    Serve the page and the client's package; gives the page's address.
    """
    if not (NODE_FOLDER / "node_modules" / "@electric-sql" / "client").exists():
        message = "the published client is missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(NODE_FOLDER))) as server:
        thread = Thread(target=server.serve_forever, name="files")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/live.html"
        finally:
            server.shutdown()
            thread.join()


class LiveView(View):
    """
    The page, and what the service answered it.

    Attributes:
        announced: how many were of requests that browsers ask leave for, by a preflight.
        streams: how many answers were streams of events.
        refusals: the statuses of what was refused.
    """

    def __init__(self, page: Page, service: Service) -> None:
        """
        Take notice of the service's answers.
        """
        super().__init__(page)
        self.announced = 0
        self.streams = 0
        self.refusals: Final[set[int]] = set()
        self._service_url: Final = service.url
        page.on("response", self._on_response)

    def part(self, way: str, name: str) -> Locator:
        """
        A part of what one of the clients shows.
        """
        return self.page.locator(f"#{way} {name}")

    async def shows(self, *rows: str) -> None:
        """
        Wait until both clients show these rows.
        """
        for way in WAYS:
            try:
                await expect(self.part(way, "tr")).to_have_text(list(rows))
            except AssertionError as error:
                raise AssertionError(f"{error}\nthe browser says: {self.complaints}") from None

    async def handles(self) -> list[str | None]:
        """
        The logs that the clients follow.
        """
        return [await self.part(way, ".handle").text_content() for way in WAYS]

    def _on_response(self, response: Response) -> None:
        if response.url.startswith(self._service_url):
            self.announced += "traceparent" in response.request.headers
            self.streams += response.headers.get("content-type", "").startswith("text/event-stream")
            if response.status >= 400:
                self.refusals.add(response.status)


async def test_the_published_client_follows_in_a_browser(database: Any, tmp_path: Path) -> None:
    """
    From another origin, by long polls and by events: rows come, changes show, a restart is lived through, a log that is
    over is replaced, and the server's sentence about what cannot be is read (B25, C10, C11, C28, C29, I2, I4).
    """
    database.execute("CREATE TABLE issues (id int PRIMARY KEY, title text, done bool)")
    database.execute("INSERT INTO issues VALUES (1, 'first', false), (2, 'zweite ü', NULL)")
    env = {"PENSTOCK_INSECURE": "false", "PENSTOCK_SECRET": SECRET}
    async with Service(database.url, tmp_path, env=env) as service, browsing() as browser:
        with other_origin() as address:
            view = LiveView(await browser.new_page(), service)
            await view.page.goto(f"{address}?{urlencode({'url': service.url, 'table': 'issues', 'secret': SECRET})}")
            await view.shows("1 first false", "2 zweite ü null")
            for way in WAYS:
                await expect(view.part(way, ".state")).to_have_text("up to date")
            await expect(view.part("mistaken", ".error")).to_contain_text("400: ")
            await expect(view.part("mistaken", ".error")).to_contain_text("no_such_table")
            handles = await view.handles()
            assert len(set(handles)) == 1

            database.execute("INSERT INTO issues VALUES (3, 'third', true)")
            await view.shows("1 first false", "2 zweite ü null", "3 third true")
            database.execute("UPDATE issues SET title = 'changed' WHERE id = 1")
            database.execute("DELETE FROM issues WHERE id = 2")
            await view.shows("1 changed false", "3 third true")
            assert view.streams >= 1
            assert 409 not in view.refusals
            assert view.announced >= 1

            await service.stop()
            service.start()
            database.execute("INSERT INTO issues VALUES (4, 'meanwhile', true)")
            await view.shows("1 changed false", "3 third true", "4 meanwhile true")
            assert await view.handles() == handles

            database.execute("TRUNCATE issues")
            database.execute("INSERT INTO issues VALUES (5, 'fresh', false)")
            await view.shows("5 fresh false")
            assert 409 in view.refusals
            assert handles[0] not in await view.handles()
            database.execute("INSERT INTO issues VALUES (6, 'last', false)")
            await view.shows("5 fresh false", "6 last false")
            assert view.refusals <= {400, 409, 503}
            for way in WAYS:
                await expect(view.part(way, ".error")).to_be_empty()
            # What a browser says about answers that a page may not read.
            assert [text for text in view.complaints if "CORS" in text] == []
