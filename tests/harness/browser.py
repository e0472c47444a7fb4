"""
A real browser, without a window, and what its console complained about.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page, async_playwright, expect

CHROMIUM: Final = shutil.which("chromium")
CHROMIUM_MISSING: Final = "Chromium is not installed (on Debian: apt-get install chromium)"
TIMEOUT_MS: Final = 30_000
_ARGUMENTS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def skip_without_chromium() -> None:
    """
    Skip the module that is being imported, said once for all of it; but not where nothing may be skipped.
    """
    if CHROMIUM is None and os.environ.get("CI") != "true":
        pytest.skip(CHROMIUM_MISSING, allow_module_level=True)


class View:
    """
    A page in a browser, and what the browser complained about.
    """

    def __init__(self, page: Page) -> None:
        """
        Listen to the page's console.
        """
        self.page: Final = page
        self.complaints: Final[list[str]] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _on_error(self, error: Error) -> None:
        self.complaints.append(str(error))


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """
    The system's Chromium; a failure where it is missing.
    """
    if CHROMIUM is None:
        pytest.fail(CHROMIUM_MISSING, pytrace=False)
    expect.set_options(timeout=TIMEOUT_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
