from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from harness.service import PYTHON, Service

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
SERVED = "http://127.0.0.1:3000"
ANSWER_TIMEOUT_S = 60.0


def samples(document: str, language: str) -> list[str]:
    """
    Cut the samples in a language out of a document.
    """
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / document).read_text(), re.DOTALL)


async def lines_become(output: asyncio.StreamReader, expected: str) -> None:
    """
    Read what a sample prints until it prints this.
    """
    seen: list[str] = []
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while line := await output.readline():
                seen.append(line.decode().strip())
                if seen[-1] == expected:
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"{expected!r} was not printed, but {seen[-20:]}")


@pytest.mark.parametrize(
    ("document", "table", "printed"),
    [
        ("README.md", "items", ["2 rows", "3 rows"]),
        ("docs/guides/first-steps.md", "turbines", ["{'a': '1', 'b': '2'}", "{'a': '1', 'b': '2', 'c': '3'}"]),
    ],
)
async def test_the_python_sample_follows_a_table(
    database: Any, tmp_path: Path, document: str, table: str, printed: list[str]
) -> None:
    """
    The first Python sample of the document runs as it stands, but for the port, and prints what changes.
    """
    sample = samples(document, "python")[0]
    assert SERVED in sample
    database.execute(f"CREATE TABLE {table} (name text PRIMARY KEY, output_mw int)")
    database.execute(f"INSERT INTO {table} VALUES ('a', 1), ('b', 2)")
    async with Service(database.url, tmp_path) as service:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            "-c",
            sample.replace(SERVED, service.url),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            await lines_become(process.stdout, printed[0])
            database.execute(f"INSERT INTO {table} VALUES ('c', 3)")
            await lines_become(process.stdout, printed[1])
        finally:
            process.kill()
            await process.wait()


async def test_the_curl_line_gets_the_rows(database: Any, tmp_path: Path) -> None:
    """
    The address in the README's curl line answers with the rows of the table.
    """
    (address,) = re.findall(rf"curl '{SERVED}([^']*)'", (REPOSITORY / "README.md").read_text())
    database.execute("CREATE TABLE items (id int PRIMARY KEY)")
    database.execute("INSERT INTO items VALUES (7)")
    async with Service(database.url, tmp_path) as service:
        path, _, query = address.partition("?")
        answer = await service.get(path, **dict(part.split("=") for part in query.split("&")))
        assert [message["value"] for message in answer.json() if "value" in message] == [{"id": "7"}]


@pytest.mark.parametrize(
    "document", ["README.md", *(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/**/*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    """
    Every link into the repository names a file or folder that is there.
    """
    text = (REPOSITORY / document).read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not ((REPOSITORY / document).parent / link).exists()]
    assert not missing


def test_make_commands_in_documents_exist() -> None:
    """
    Whatever a document tells one to `make` is a command of the Makefile, and what that runs is there.
    """
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    documents = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/**/*.md")]
    named = {name for path in documents for name in re.findall(r"`make ([a-z0-9-]+)`", path.read_text())}
    assert named <= commands
    assert len(named) > 3
    paths = set(re.findall(r"tests/[\w./-]+\.py\b", makefile))
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []
