"""
The examples that are web applications, started as their READMEs say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from playwright.async_api import Error as PlaywrightError

from harness.browser import View
from penstock.testing.postgres import free_port

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


@dataclass
class Example:
    """
    A running example.
    """

    url: str
    database: str

    async def execute(self, sql: str) -> None:
        """
        Change the table behind the application's back.
        """
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            await connection.execute(sql.encode())

    async def show(self, view: View) -> None:
        """
        Open the page, as soon as it is served.
        """
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(PlaywrightError):
                    await view.page.goto(self.url)
                    return
                await asyncio.sleep(0.1)


@contextmanager
def running_example(name: str, folder: Path, *, settings: tuple[str, ...]) -> Iterator[Example]:
    """
    Run an example by the one command in its README.

    Args:
        name: of its folder.
        folder: where its complaints are kept.
        settings: how the names of environment variables begin that it would heed.
    """
    home = EXAMPLES / name
    (command,) = re.findall(r"```sh\n(python .*)\n```", (home / "README.md").read_text())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", *settings))}
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *command.split()[1:]],
            cwd=home,
            env={**kept, "PORT": str(free_port()), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        page, table = process.stdout.readline(), process.stdout.readline()
        assert table, log.read_text()
        yield Example(page.removeprefix("The page: ").strip(), table.partition("'")[2].strip().rstrip("'"))
        process.terminate()
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
