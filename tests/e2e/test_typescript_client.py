from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from harness.service import Service

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

NODE_FOLDER: Final = Path(__file__).parent / "node"
ANSWER_TIMEOUT_S: Final = 60.0


@asynccontextmanager
async def published_client(url: str, table: str) -> AsyncIterator[asyncio.StreamReader]:
    """
    Run the published client; yields its output.
    """
    node = shutil.which("node")
    if node is None or not (NODE_FOLDER / "node_modules" / "@electric-sql" / "client").exists():
        message = "Node or the published client is missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    process = await asyncio.create_subprocess_exec(
        node, str(NODE_FOLDER / "follow.mjs"), url, table, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()


async def rows_become(output: asyncio.StreamReader, expected: list[dict[str, Any]]) -> str:
    """
    Read what the client prints until it has these rows; gives the handle it uses.
    """
    last: dict[str, Any] = {}
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while line := await output.readline():
                last = msgspec.json.decode(line)
                if last["rows"] == expected:
                    return str(last["handle"])
    except TimeoutError:
        pass
    raise AssertionError(f"the client's rows are {last.get('rows')}, not {expected}")


async def test_the_published_client_syncs_follows_and_resumes(database: Any, tmp_path: Path) -> None:
    """
    The TypeScript client gets the rows, follows inserts, updates and deletes, and goes on after a server restart
    (I15).
    """
    database.execute("CREATE TABLE issues (id int PRIMARY KEY, title text, done bool, score float8, labels text[])")
    database.execute(
        "INSERT INTO issues VALUES (1, 'first', false, 1.5, '{a,\"b c\"}'), (2, 'zweite ü', true, NULL, NULL)"
    )
    first = {"id": 1, "title": "first", "done": False, "score": 1.5, "labels": ["a", "b c"]}
    second = {"id": 2, "title": "zweite ü", "done": True, "score": None, "labels": None}
    third = {"id": 3, "title": "third", "done": True, "score": None, "labels": []}
    fourth = {"id": 4, "title": "fourth", "done": None, "score": None, "labels": None}
    async with Service(database.url, tmp_path) as service, published_client(service.url, "issues") as output:
        handle = await rows_become(output, [first, second])
        database.execute("INSERT INTO issues VALUES (3, 'third', true, NULL, '{}')")
        await rows_become(output, [first, second, third])
        database.execute("UPDATE issues SET title = 'changed' WHERE id = 1")
        await rows_become(output, [first | {"title": "changed"}, second, third])
        database.execute("DELETE FROM issues WHERE id = 2")
        await rows_become(output, [first | {"title": "changed"}, third])
        await service.stop()
        database.execute("INSERT INTO issues VALUES (4, 'fourth', NULL, NULL, NULL)")
        service.start()
        await service.wait_active()
        assert await rows_become(output, [first | {"title": "changed"}, third, fourth]) == handle
        database.execute("TRUNCATE issues")
        database.execute("INSERT INTO issues VALUES (5, 'fresh', NULL, NULL, NULL)")
        assert (
            await rows_become(output, [{"id": 5, "title": "fresh", "done": None, "score": None, "labels": None}])
            != handle
        )
