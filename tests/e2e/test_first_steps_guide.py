from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from harness.demo import Demo
from harness.service import PYTHON

pytestmark = pytest.mark.postgres

GUIDE: Final = Path(__file__).parents[2] / "docs" / "guides" / "first-steps.md"
CLIENT_FOLDER: Final = Path(__file__).parent / "node" / "node_modules"
TIMEOUT_S: Final = 60.0
PRINTED_URL: Final = "http://127.0.0.1:3000"


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """
    A running demo.
    """
    with Demo() as running:
        running.read_invitation()
        yield running


def snippets(language: str, demo: Demo) -> list[str]:
    """
    The guide's pieces of code in a language, with the URL that the demo has here.
    """
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    base = demo.read_invitation().page.removesuffix("/demo")
    return [block.replace(PRINTED_URL, base) for block in blocks if PRINTED_URL in block]


async def read_until(pattern: bytes, *command: str, times: int = 1) -> None:
    """
    Run a command until so many lines of its output match a pattern.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 24
    )
    assert process.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while len(re.findall(pattern, output, re.MULTILINE)) < times:
                line = await process.stdout.readline()
                assert line, output.decode()
                output += line
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_lines_for_the_shell_work(demo: Demo) -> None:
    """
    The first asks for the rows, the others wait for a change.
    """
    rows, change = snippets("sh", demo)
    await read_until(b'"operation":"insert"', "sh", "-c", rows)
    await read_until(b'"up-to-date"', "sh", "-ec", change)


async def test_the_lines_of_python_work(demo: Demo, tmp_path: Path) -> None:
    """
    The program prints the rows, and prints them again when they have changed.
    """
    (program,) = snippets("python", demo)
    (tmp_path / "follow.py").write_text(program)
    await read_until(rb"^\{'\w+': '\d+\.\d'.*\}$", PYTHON, str(tmp_path / "follow.py"), times=4)


async def test_the_lines_of_typescript_work(demo: Demo, tmp_path: Path) -> None:
    """
    Likewise the program for the published client.
    """
    node = shutil.which("node")
    if node is None or not CLIENT_FOLDER.exists():
        message = "Node or the published client is missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    (program,) = snippets("ts", demo)
    (tmp_path / "follow.mjs").write_text(program)
    (tmp_path / "node_modules").symlink_to(CLIENT_FOLDER)
    await read_until(rb"^\w+ \d+\.\d(, \w+ \d+\.\d)+$", node, str(tmp_path / "follow.mjs"), times=4)
