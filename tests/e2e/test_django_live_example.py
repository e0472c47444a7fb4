from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.async_api import expect

from harness.browser import View, browsing, skip_without_chromium
from harness.examples import EXAMPLES, Example, running_example

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]
skip_without_chromium()

PASSWORD: Final = "lovelace"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """
    The example, started as its README says.
    """
    with running_example("django_live", tmp_path_factory.mktemp("example"), settings=("DJANGO_", "SYNC_")) as example:
        yield example


async def test_a_page_of_django_is_live(site: Example) -> None:
    """
    Rows that the page's own form adds, rows that others write past Django, changes and deletions are seen without
    reloading; rows that are not public only after logging in.
    """
    async with browsing() as browser:
        view = View(await (await browser.new_context()).new_page())
        await site.show(view)
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
        cwd=EXAMPLES / "django_live",
        env={
            **os.environ,
            "DATABASE_URL": database,
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )
