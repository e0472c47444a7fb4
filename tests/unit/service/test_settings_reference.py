from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from penstock.cli.main import cli

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_the_reference_page_lists_the_settings_there_are() -> None:
    """
    The page in the documentation is what `penstock settings --markdown` prints.
    """
    printed = CliRunner().invoke(cli, ["settings", "--markdown"]).output
    assert printed.strip() in REFERENCE.read_text(), "run: penstock settings --markdown, and put it into the page"
