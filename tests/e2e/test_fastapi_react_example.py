"""
The example with FastAPI and React, started as its README says, in a real browser.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.async_api import expect

from harness.browser import View, browsing, skip_without_chromium
from harness.examples import Example, running_example

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]
skip_without_chromium()

if shutil.which("npm") is None and os.environ.get("CI") != "true":
    pytest.skip("npm is not installed: the page cannot be built", allow_module_level=True)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """
    The example by its one command.
    """
    with running_example("fastapi_react", tmp_path_factory.mktemp("example"), settings=("BOARD_",)) as example:
        yield example


async def enter(view: View, board: Example, name: str) -> None:
    """
    Open the page of an application that is starting, and log in.
    """
    await board.show(view)
    await view.page.get_by_role("button", name=name).click()
    await expect(view.page.locator("#state")).to_have_text("live")


async def test_a_board_is_live_for_its_team_and_nobody_else(board: Example) -> None:
    """
    What one of a team does, or anybody past the application, is seen by the others at once and by no other team; the
    page narrows what it shows, and the server never widens it.
    """
    async with browsing() as browser:
        views = {}
        for name in ("ada", "grace", "bob"):
            views[name] = View(await (await browser.new_context()).new_page())
            await enter(views[name], board, name)
        tasks = {name: view.page.locator("#tasks li") for name, view in views.items()}
        for name, title in (("ada", "Oil the wheel"), ("grace", "Oil the wheel"), ("bob", "Buy salt")):
            await expect(tasks[name]).to_have_text([title])

        page = views["ada"].page
        await page.get_by_label("What is to be done").fill("Open the gate")
        await page.get_by_role("button", name="Add").click()
        for name in ("ada", "grace"):
            await expect(tasks[name]).to_have_text(["Oil the wheel", "Open the gate"])
        await views["grace"].page.get_by_role("checkbox", name="Oil the wheel").click()
        await expect(tasks["ada"].first).to_have_class("done")
        await page.get_by_label("Only what is open").check()
        await expect(tasks["ada"]).to_have_text(["Open the gate"])

        await board.execute("UPDATE tasks SET team = 'kitchen' WHERE title = 'Open the gate'")
        await expect(tasks["bob"]).to_have_text(["Buy salt", "Open the gate"])
        await expect(tasks["grace"]).to_have_text(["Oil the wheel"])
        await expect(tasks["ada"]).to_have_text([])
        assert {name: view.complaints for name, view in views.items()} == {"ada": [], "grace": [], "bob": []}


async def test_its_route_gives_nobody_more_than_is_theirs(board: Example) -> None:
    """
    Without a token nothing, with one the own team's rows without the hidden column, whatever is asked for.
    """
    async with httpx.AsyncClient(base_url=board.url, timeout=60) as client:
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    assert (await client.get("/v1/tasks?offset=-1")).status_code in {401, 403}
                    break
                await asyncio.sleep(0.1)
        token = (await client.post("/login", json={"name": "bob"})).json()["token"]
        headers = {"authorization": f"Bearer {token}"}
        for more in ({}, {"where": "true OR true"}, {"where": "team = $1", "params[1]": "kitchen"}):
            answer = await client.get("/v1/tasks", params={"offset": "-1", **more}, headers=headers)
            rows = [message["value"] for message in answer.json() if "value" in message]
            assert {row["team"] for row in rows} == {"kitchen"}
            assert all(row.keys() == {"id", "team", "title", "done"} for row in rows)
        for more, status in (
            ({"columns": "id,note"}, 400),
            ({"where": "note <> ''"}, 400),
            ({"table": "pg_class"}, 403),
        ):
            refused = await client.get("/v1/tasks", params={"offset": "-1", **more}, headers=headers)
            assert refused.status_code == status
        headers["authorization"] += "x"
        assert (await client.get("/v1/tasks?offset=-1", headers=headers)).status_code == 401
