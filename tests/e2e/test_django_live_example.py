from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import expect

from harness.browser import View, browsing, skip_without_chromium
from penstock.testing.postgres import free_port

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]
skip_without_chromium()

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "django_live"
PASSWORD: Final = "lovelace"


@dataclass
class Site:
    """
    The running example.
    """

    url: str
    database: str

    async def execute(self, sql: str) -> None:
        """
        Change the table behind the site's back.
        """
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute(sql.encode())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """
    The example, started as its README says.
    """
    (command,) = re.findall(r"```sh\n(python .*)\n```", (EXAMPLE / "README.md").read_text())
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "DJANGO_", "SYNC_"))
    }
    log = tmp_path_factory.mktemp("example") / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *command.split()[1:]],
            cwd=EXAMPLE,
            env={**kept, "PORT": str(free_port()), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        page, table = process.stdout.readline(), process.stdout.readline()
        assert table, log.read_text()
        yield Site(page.removeprefix("The page: ").strip(), table.partition("'")[2].strip().rstrip("'"))
        process.terminate()
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def open_when_served(view: View, url: str) -> None:
    """
    Open a page of a site that is starting.
    """
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(PlaywrightError):
                await view.page.goto(url)
                return
            await asyncio.sleep(0.1)


async def test_a_page_of_django_is_live(site: Site) -> None:
    """
    Rows that the page's own form adds, rows that others write past Django, changes and deletions are seen without
    reloading; rows that are not public only after logging in.
    """
    async with browsing() as browser:
        view = View(await (await browser.new_context()).new_page())
        await open_when_served(view, site.url)
        tasks = view.page.locator("#tasks li")
        await expect(view.page.locator("#state")).to_have_text("live")

        await view.page.get_by_label("What is to be done").fill("Write")
        await view.page.get_by_role("button", name="Add").click()
        await expect(tasks).to_have_text(["Write"])
        await view.page.get_by_role("button", name="Write").click()
        await expect(tasks.first).to_have_class("done")

        await site.execute(
            "INSERT INTO board_task (title, is_done, is_public) VALUES ('Read', false, true), ('Hide', false, false)"
        )
        await expect(tasks).to_have_text(["Write", "Read"])
        await site.execute("UPDATE board_task SET title = 'Read on' WHERE title = 'Read'")
        await expect(tasks).to_have_text(["Write", "Read on"])
        await site.execute("DELETE FROM board_task WHERE title = 'Write'")
        await expect(tasks).to_have_text(["Read on"])

        await asyncio.to_thread(add_user, site.database)
        await view.page.goto(f"{site.url}/login")
        await view.page.get_by_label("Username").fill("ada")
        await view.page.get_by_label("Password").fill(PASSWORD)
        await view.page.get_by_role("button", name="Log in").click()
        await expect(tasks).to_have_text(["Read on", "Hide"])
        assert view.complaints == []


def add_user(database: str) -> None:
    """
    Make a user as Django's own command does.
    """
    subprocess.run(
        [
            sys.executable,
            "manage.py",
            "createsuperuser",
            "--noinput",
            "--username",
            "ada",
            "--email",
            "ada@example.org",
        ],
        cwd=EXAMPLE,
        env={
            **os.environ,
            "DATABASE_URL": database,
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )
