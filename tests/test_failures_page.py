from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "failures.md"


def test_every_test_named_in_the_failures_page_exists() -> None:
    """
    The page claims nothing that no test shows.
    """
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", path.read_text())}
    assert len(named) > 100
    assert sorted(named - there) == []


def test_every_row_of_the_failures_page_names_a_test() -> None:
    """
    No row is only a promise, and no id stands twice in the first place.
    """
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [A-J]\d", line)]
    assert len(rows) > 50
    assert [row for row in rows if "`test_" not in row] == []
    ids = [part for row in rows for part in row.split("|")[1].replace(" ", "").split(",")]
    assert sorted({name for name in ids if ids.count(name) > 1}) == []
