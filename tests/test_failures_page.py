from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "docs" / "failures.md"
COUNTS: Final = {"A": 19, "B": 17, "C": 11, "D": 14, "E": 13, "F": 14, "G": 18, "H": 13, "I": 20, "J": 10}
"""How many rows each group of the catalogue has."""
CATALOGUE: Final = [
    f"{group}{number}{'s' if group == 'G' else ''}" for group, count in COUNTS.items() for number in range(1, count + 1)
]


def rows() -> list[list[str]]:
    """
    Read the page's rows as cells: ids, what happens, what is done, tests.
    """
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [A-J]\d", line)]
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]


def test_every_test_named_in_the_failures_page_exists() -> None:
    """
    The page claims nothing that no test shows.
    """
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    there = {name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)\(", path.read_text())}
    assert len(named) > 150
    assert sorted(named - there) == []


def test_every_row_of_the_failures_page_names_a_test() -> None:
    """
    No row is only a promise; one that does not apply names what makes it so.
    """
    assert [cells for cells in rows() if len(cells) != 4] == []
    assert [cells[0] for cells in rows() if "`test_" not in cells[3]] == []


def test_the_failures_page_has_the_whole_catalogue() -> None:
    """
    Every number is there once.
    """
    assert len(CATALOGUE) == 149
    ids = [name for cells in rows() for name in cells[0].split(", ")]
    assert sorted(ids) == sorted(CATALOGUE)
