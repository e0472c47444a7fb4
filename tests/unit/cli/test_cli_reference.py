from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

from penstock.cli.main import cli
from penstock.cli.tail import csv_field, visible

PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def test_the_reference_names_every_command_and_option() -> None:
    """
    Each command has a section, and each of its options stands there.
    """
    text = PAGE.read_text()
    for path, command in commands(cli, "penstock"):
        _, head, rest = text.partition(f"## `{path}`\n")
        assert head, path
        section = rest.partition("\n## ")[0]
        for option in command.params:
            if isinstance(option, click.Option):
                assert f"`{option.opts[0]}`" in section, (path, option.opts)


def test_the_help_of_each_command_teaches() -> None:
    """
    It shows the command as one would type it, and says what its exit status means.
    """
    for path, command in commands(cli, "penstock"):
        asked = CliRunner().invoke(cli, [*path.split()[1:], "--help"], prog_name="penstock")
        assert asked.exit_code == 0
        _, _, told = asked.output.partition("\n\n")
        assert re.search(rf"^ {{4,}}.*{path}\b", told, re.MULTILINE), path
        assert "Exit status:" in " ".join(told.split()), path
        assert command.help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    """
    The script names the command and the variable that click reads.
    """
    answer = CliRunner().invoke(cli, ["completion", shell])
    assert answer.exit_code == 0
    assert f"_PENSTOCK_COMPLETE={shell}_complete" in answer.output


def test_values_command_no_terminal() -> None:
    """
    Control characters are written out, and CSV tells NULL from empty text.
    """
    assert visible("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert [csv_field(value) for value in (None, "", "a,b", 'a"b', "a")] == ["", '""', '"a,b"', '"a""b"', "a"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tail", "items", "--since", "x"], "--since takes HANDLE:OFFSET"),
        (["tail", "items", "--url", "http://127.0.0.1:9"], "penstock serve"),
        (["snapshot", "items", "--to", "items.txt"], ".parquet"),
    ],
)
def test_errors_name_the_fix(arguments: list[str], sentence: str) -> None:
    """
    A mistake ends with status 2 and a sentence that says what to do.
    """
    answer = CliRunner().invoke(cli, arguments)
    assert answer.exit_code == 2
    assert sentence in answer.output
