from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from harness.service import Service
from harness.waiting import until
from penstock.testing.postgres import ThrowawayDatabase, free_port

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(200)]

GUIDE: Final = Path(__file__).parents[2] / "docs" / "guides" / "react.md"
NODE_FOLDER: Final = Path(__file__).parent / "node" / "node_modules"


def sample(language: str) -> str:
    """
    The guide's piece of code in a language.
    """
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@contextlib.asynccontextmanager
async def running(*command: str, folder: Path, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """
    Run a program until the block ends.
    """
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=os.environ | env, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_an_insert_is_shown_at_once_and_then_as_it_was_written(
    database: ThrowawayDatabase, tmp_path: Path
) -> None:
    """
    The page's program and the server's, as the guide has them but for the ports: the insert ends when the shape brings it.
    """
    node = shutil.which("node")
    if node is None or not NODE_FOLDER.exists():
        message = "Node or the published clients are missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    database.execute(sample("sql") + "INSERT INTO tasks VALUES (1, 'OIL')")
    (tmp_path / "api.py").write_text(sample("python"))
    (tmp_path / "node_modules").symlink_to(NODE_FOLDER)
    port = free_port()
    server = (sys.executable, "-m", "uvicorn", "api:app", "--port", str(port), "--log-level", "warning")
    async with (
        Service(database.url, tmp_path) as service,
        running(*server, folder=tmp_path, env={"DATABASE_URL": database.url}),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):

        async def is_up() -> bool:
            try:
                return (await client.get("/openapi.json")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await until("the server that writes is up", is_up)
        program = sample("js").replace("http://127.0.0.1:3000", service.url)
        (tmp_path / "page.mjs").write_text(program.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}"))
        async with running(node, "page.mjs", folder=tmp_path, env={}) as page, asyncio.timeout(90):
            assert page.stdout is not None
            said: list[str] = []
            while not {"written", "1 OIL, 2 BUY SALT"} <= set(said):
                line = await page.stdout.readline()
                assert line, said
                said.append(line.decode().strip())
    assert said.index("1 OIL") < said.index("1 OIL, 2 buy salt") < said.index("1 OIL, 2 BUY SALT")
