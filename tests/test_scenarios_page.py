"""The page of acceptance scenarios and the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final, NamedTuple

TESTS: Final = Path(__file__).parent
PAGE: Final = TESTS.parent / "docs" / "protocol" / "scenarios.md"
_ID: Final = re.compile(r"\| ([A-J]\d+) \|")
_COUNTS: Final = {"A": 24, "B": 27, "C": 33, "D": 5, "E": 11, "F": 11, "H": 26, "I": 17}
"""How many scenarios the catalogue has in each group. Of G (subqueries) and J (another client) there is no table yet."""
_ABSENT: Final = {
    "A4": "identity",
    "A12": "exporter",
    "C33": "shapes of its own",
    "F9": "subqueries",
    "F10": "subqueries",
    "I17": "client",
}
"""What this server leaves out, with a word that the page must use for it."""
_NOT_HERE: Final = "*Not here*: "


class Row(NamedTuple):
    """
    A row of the page.
    """

    group: str
    name: str
    tests: tuple[str, ...]


def rows_of_page() -> list[Row]:
    """
    Read the rows with the letter of the heading they stand under.
    """
    found: list[Row] = []
    group = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"## ([A-J])\. ", line):
            group = heading[1]
        elif named := _ID.match(line):
            found.append(Row(group, named[1], tuple(re.findall(r"`(test_\w+)`", line))))
    return found


def docstrings() -> dict[str, str]:
    """
    Give the docstrings of all tests by name; those of the same name together.
    """
    found: dict[str, str] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] = f"{found.get(node.name, '')} {ast.get_docstring(node) or ''}"
    return found


def test_every_row_names_tests_that_name_the_row() -> None:
    """
    Each scenario of the page is shown by tests that are there, and each of these says in its docstring which it shows.
    """
    rows, told = rows_of_page(), docstrings()
    assert rows
    assert {row.name for row in rows if not row.tests} == _ABSENT.keys()
    assert sorted({test for row in rows for test in row.tests} - told.keys()) == []
    silent = [(row.name, test) for row in rows for test in row.tests if not re.search(rf"\b{row.name}\b", told[test])]
    assert silent == []


def test_every_row_stands_once_under_its_own_heading_in_order() -> None:
    """
    The page can be searched by id: each stands once, under its group, in the order of its number.
    """
    rows = rows_of_page()
    assert [row for row in rows if row.name[0] != row.group] == []
    keys = [(row.name[0], int(row.name[1:])) for row in rows]
    assert keys == sorted(set(keys))


def test_every_scenario_of_the_catalogue_has_a_row() -> None:
    """
    None of the groups is left with a gap, and what is left out says so and why.
    """
    expected = {f"{group}{number}" for group, count in _COUNTS.items() for number in range(1, count + 1)}
    assert sorted(expected - {row.name for row in rows_of_page()}) == []
    lines = {named[1]: line for line in PAGE.read_text().splitlines() if (named := _ID.match(line))}
    assert [name for name, line in lines.items() if (_NOT_HERE in line) != (name in _ABSENT)] == []
    assert [name for name, word in _ABSENT.items() if word not in lines[name]] == []
