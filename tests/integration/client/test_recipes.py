"""
The recipes of the guides, run as they stand but for the server's port.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Final

import pytest

from harness.service import PYTHON
from harness.waiting import until
from integration.client.conftest import Ground

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

GUIDES: Final = Path(__file__).parents[3] / "docs" / "guides"
PRINTED_URL: Final = "http://127.0.0.1:3000"


def samples(guide: str, language: str) -> list[str]:
    """
    A guide's pieces of code in a language.
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", (GUIDES / guide).read_text(), re.MULTILINE | re.DOTALL)


@contextlib.asynccontextmanager
async def running(program: str, ground: Ground, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """
    Run a program in a folder; at the end it is killed, if it still runs.
    """
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "-c",
        program.replace(PRINTED_URL, ground.url),
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
        assert process.returncode is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def comes_to(look: Callable[[], object], expected: object) -> None:
    """
    Look again and again until this is seen.
    """

    async def is_seen() -> bool:
        return await asyncio.to_thread(look) == expected

    await until(f"{expected!r} is seen", is_seen)


async def read_lines(
    process: asyncio.subprocess.Process, expected: set[str], *, may_come: Collection[str] = ()
) -> None:
    """
    Read until all expected lines were printed, and besides them only those that may come.
    """
    assert process.stdout is not None
    missing = set(expected)
    async with asyncio.timeout(60.0):
        while missing:
            line = (await process.stdout.readline()).decode().strip()
            assert line in expected or line in may_come, line
            missing.discard(line)


async def test_the_search_index_follows_and_goes_on_after_a_kill(ground: Ground, tmp_path: Path) -> None:
    """
    What is published is found, whatever was done to it, also while nobody followed, also after a truncation.
    """
    (table,), (program,) = samples("search-index.md", "sql"), samples("search-index.md", "python")
    execute = ground.database.execute
    execute(table)
    execute("INSERT INTO articles SELECT g, 'old ' || g, 'words', g % 2 = 0 FROM generate_series(1, 400) g")

    def indexed() -> list[tuple[int, str]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "search.db", timeout=30)) as index:
            try:
                return index.execute("SELECT rowid, title FROM documents ORDER BY rowid").fetchall()
            except sqlite3.OperationalError:
                return []

    def published() -> list[tuple[int, str]]:
        return ground.database.query("SELECT id, title FROM articles WHERE is_published ORDER BY id")

    async with running(program, ground, tmp_path):
        await comes_to(indexed, published())
        execute("UPDATE articles SET title = 'new' WHERE id = 2; UPDATE articles SET is_published = NOT is_published")
        await comes_to(indexed, published())
    execute("DELETE FROM articles WHERE id < 50; UPDATE articles SET title = 'newer' WHERE id = 51")
    async with running(program, ground, tmp_path):
        await comes_to(indexed, published())
        execute("TRUNCATE articles; INSERT INTO articles VALUES (7, 'first', 'of many', true)")
        await comes_to(indexed, [(7, "first")])
    with contextlib.closing(sqlite3.connect(tmp_path / "search.db")) as index:
        assert index.execute("SELECT rowid FROM documents WHERE documents MATCH 'many'").fetchall() == [(7,)]


async def test_caches_are_told_what_changed(ground: Ground, tmp_path: Path) -> None:
    """
    In the process a page is made again when its row changed, and no other; elsewhere the program says what to purge.
    """
    (table,) = samples("cache-invalidation.md", "sql")
    inside, elsewhere = samples("cache-invalidation.md", "python")
    execute = ground.database.execute
    execute(table)
    execute("INSERT INTO products VALUES (1, 'Nut', 1), (2, 'Bolt', 2)")
    async with running(inside, ground, tmp_path) as program, running(elsewhere, ground, tmp_path) as purger:
        await read_lines(program, {"rendering Nut", "rendering Bolt"})
        execute("UPDATE products SET price = 3 WHERE id = 2")
        await read_lines(program, {"rendering Bolt"})
        assert purger.stdout is not None
        # It tells nothing of what was before it began, so a change is made until it tells of one.
        told = asyncio.create_task(purger.stdout.readline())
        number = 0
        async with asyncio.timeout(60.0):
            while not told.done():
                number += 1
                execute(f"UPDATE products SET name = 'Nut {number}' WHERE id = 1")
                await asyncio.wait({told}, timeout=1.0)
        assert await told == b"purge /products/1\n"
        execute("UPDATE products SET price = 4 WHERE id = 2; INSERT INTO products VALUES (3, 'Gear', 3)")
        await read_lines(purger, {"purge /products/3"}, may_come={"purge /products/1"})
