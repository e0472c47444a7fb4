from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import psycopg
import pytest
from playwright.async_api import Locator, expect

from harness.browser import View, browsing, skip_without_chromium
from harness.demo import Demo

pytestmark = pytest.mark.postgres
skip_without_chromium()

# Contrast as WCAG 2.2 defines it. Rows under a highlight are left out: it fades within two seconds.
FIND_PALE_TEXTS: Final = """() => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const paint = colors => {
        context.clearRect(0, 0, 1, 1);
        for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
        return context.getImageData(0, 0, 1, 1).data;
    };
    const luminance = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * x + .7152 * y + .0722 * z;
    };
    const grounds = e => e ? [...grounds(e.parentElement), getComputedStyle(e).backgroundColor] : [];
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        if (!element.checkVisibility() || element.closest("script, style, tr.new, tr.gone, td.change")) continue;
        const ground = grounds(element);
        const [text, under] = [[...ground, getComputedStyle(element).color], ground].map(paint).map(luminance);
        const contrast = (Math.max(text, under) + .05) / (Math.min(text, under) + .05);
        if (contrast < 4.5) found.push(`${element.tagName} "${element.textContent}" ${contrast.toFixed(2)}`);
    }
    return found;
}"""


class DemoView(View):
    """
    The demo's page.
    """

    @property
    def state(self) -> Locator:
        """
        What the page says about its connection.
        """
        return self.page.locator("#state")

    @property
    def rows(self) -> Locator:
        """
        The rows of the table.
        """
        return self.page.locator("#body tr")


Open = Callable[..., Awaitable[DemoView]]


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """
    A running demo for all who do not end it.
    """
    with Demo() as running:
        running.read_invitation()
        yield running


@pytest.fixture
async def open_page(demo: Demo) -> AsyncIterator[Open]:
    """
    Opens the page: with a query, in a browser set up as the arguments say.
    """
    async with browsing() as browser:

        async def open_page(query: str = "", **options: Any) -> DemoView:
            page = await (await browser.new_context(**options)).new_page()
            view = DemoView(page)
            await page.goto(demo.read_invitation().page + query)
            return view

        yield open_page


async def execute(demo: Demo, sql: str) -> None:
    """
    Run statements as a visitor of the demo would.
    """
    connection = await psycopg.AsyncConnection.connect(demo.read_invitation().database, autocommit=True)
    async with connection:
        await connection.execute(sql.encode())


async def test_a_person_sees_the_table_change() -> None:
    """
    Rows come, changes light up, a row of one's own comes, changes and goes; Ctrl-C ends it all, and the page says so.
    """
    with Demo() as demo:
        invitation = await asyncio.to_thread(demo.read_invitation)
        async with browsing() as browser:
            view = DemoView(await browser.new_page())
            await view.page.goto(invitation.page)
            await expect(view.state).to_have_text("live")
            await expect(view.rows.nth(7)).to_be_visible()
            await expect(view.page.locator("#body td.change").first).to_be_attached()
            await expect(view.page.locator("#wire .update").first).to_be_attached()

            mine = view.rows.filter(has_text="Nessie")
            await execute(demo, "INSERT INTO turbines (name, output_mw) VALUES ('Nessie', 7.5)")
            await expect(mine).to_contain_text("7.5")
            await expect(mine).to_have_class("new")
            await execute(demo, "UPDATE turbines SET output_mw = 8.5 WHERE name = 'Nessie'")
            await expect(mine.locator("td.change")).to_have_text("8.5")
            await execute(demo, "DELETE FROM turbines WHERE name = 'Nessie'")
            await expect(mine).to_have_count(0)

            assert view.complaints == []
            demo.interrupt()
            await expect(view.state).to_have_text("waiting for the server")
            assert await asyncio.to_thread(demo.wait_ended) == 0, demo.output
            assert demo.leftovers() == []


async def test_the_numbers_move(open_page: Open) -> None:
    """
    The page counts rows and changes, and says how far behind it is in time and in bytes.
    """
    view = await open_page()
    page = view.page
    await expect(page.locator("#rows")).to_have_text(re.compile(r"^\d+$"))
    await expect(page.locator("#seen")).to_have_text(re.compile(r"^\d+ changes$"))
    await expect(page.locator("#rate")).to_have_text(re.compile(r"^[1-9]\.\d$"))
    await expect(page.locator("#lag")).to_have_text(re.compile(r"^\d+ ms$"))
    await expect(page.locator("#held")).to_have_text(re.compile(r"^\d+ B$|^\d+\.\d kB$"))
    await expect(page.locator("#offset")).to_have_text(re.compile(r"^\d+_\d+$"))


async def test_the_curl_line_can_be_copied(open_page: Open, demo: Demo) -> None:
    """
    The button puts the line that the terminal shows as well into the clipboard.
    """
    view = await open_page(permissions=["clipboard-read", "clipboard-write"])
    await view.page.get_by_role("button", name="Copy").click()
    await expect(view.page.get_by_role("button", name="Copied")).to_be_visible()
    assert await view.page.evaluate("navigator.clipboard.readText()") == demo.read_invitation().curl


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_the_page_can_be_read_anywhere(open_page: Open, scheme: str, width: int) -> None:
    """
    In light and dark, narrow and wide: every text has contrast, and only the table scrolls sideways.
    """
    view = await open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    await expect(view.page.locator("#wire .update").first).to_be_attached()
    assert await view.page.evaluate(FIND_PALE_TEXTS) == []
    assert await view.page.evaluate("document.documentElement.scrollWidth") == width
    assert view.complaints == []


async def test_a_table_that_is_not_there_is_named(open_page: Open) -> None:
    """
    The server's sentence about what is wrong reaches the reader.
    """
    view = await open_page("?table=nothing_here")
    await expect(view.state).to_have_text("refused")
    await expect(view.page.get_by_role("alert")).to_contain_text("nothing_here")


async def test_any_table_can_be_shown(open_page: Open, demo: Demo) -> None:
    """
    An empty table says so; of a long one a part is shown, which stays full; one that is emptied starts over.
    """
    await execute(demo, 'CREATE TABLE "Long One" (id int PRIMARY KEY, note text, updated_at timestamptz DEFAULT now())')
    view = await open_page("?table=%22Long%20One%22")
    await expect(view.page.get_by_text("No rows yet.")).to_be_visible()
    await execute(demo, "INSERT INTO \"Long One\" SELECT n, nullif('note', 'note') FROM generate_series(1, 300) n")
    await expect(view.page.locator("#rows")).to_have_text("300")
    await expect(view.rows).to_have_count(200)
    await expect(view.page.get_by_text("200 of 300 rows")).to_be_visible()
    await execute(demo, 'DELETE FROM "Long One" WHERE id <= 50')
    await expect(view.page.locator("#rows")).to_have_text("250")
    await expect(view.rows).to_have_count(200)
    await expect(view.rows.first).to_contain_text("51")
    await execute(demo, 'TRUNCATE "Long One"')
    await expect(view.page.get_by_text("No rows yet.")).to_be_visible()
    await execute(demo, "INSERT INTO \"Long One\" VALUES (7, 'anew')")
    await expect(view.rows).to_have_count(1)
    assert [text for text in view.complaints if "409" not in text] == []
