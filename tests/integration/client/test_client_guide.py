from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from harness.service import PYTHON
from integration.client.conftest import Ground

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

GUIDE: Final = Path(__file__).parents[3] / "docs" / "guides" / "client.md"
PRINTED_URL: Final = "http://127.0.0.1:3000"
EXPECTED: Final = (
    r"1 Nut 0\.10\n3 Gear 12\.50\n",
    r"2 rows\n",
    r"insert \"public\".\"items\"/\"1\" .*\ninsert \"public\".\"items\"/\"2\" .*\n",
    r"12\.60\n",
    r"\[\('open', Decimal\('12\.6\d*'\)\), \('sold', .*\]\n\['Nut'\]\n",
    r"\['_operation', '_key', '_lsn', 'id', 'price'\] 3 \['insert', 'insert', 'insert'\]\n",
    r"\(\{.*'id': 3, .*Decimal\('12\.50'\).*\},\)\n2\n",
)


def samples(language: str) -> list[str]:
    """
    The guide's pieces of code in a language.
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


async def test_the_samples_of_the_guide_work(ground: Ground, tmp_path: Path) -> None:
    """
    Each prints what it should, against the table that the guide describes.
    """
    (table,) = samples("sql")
    ground.database.execute(
        table
        + "INSERT INTO items VALUES (1, 'Nut', 0.10, 'open'), (2, 'Bolt', NULL, 'sold'), (3, 'Gear', 12.50, 'open')"
    )

    async def run(program: str, expected: str) -> None:
        process = await asyncio.create_subprocess_exec(
            # What is installed for users is the wheel, without any extra.
            sys.executable if "polars" in program or "arrow" in program else PYTHON,
            "-c",
            program.replace(PRINTED_URL, ground.url),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert re.fullmatch(expected, output), output

    async with asyncio.TaskGroup() as group:
        for program, expected in zip(samples("python"), EXPECTED, strict=True):
            group.create_task(run(program, expected))
