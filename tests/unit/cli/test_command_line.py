from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli.main import cli
from penstock.service.declarations import DECLARATIONS

CLEAN = {"DATABASE_URL": "", "PENSTOCK_SECRET": "", "PENSTOCK_INSECURE": "", "ELECTRIC_SECRET": ""}


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env={**CLEAN, **(env or {})}, prog_name="penstock")


def test_help_teaches_by_example() -> None:
    """
    The first screen shows the commands and how to try them; roles are nobody's business.
    """
    result = run("--help")
    assert result.exit_code == 0
    for example in ("penstock demo", "penstock serve postgresql://", "curl 'http://127.0.0.1:3000/v1/shape?table="):
        assert example in result.output
    assert "role" not in result.output.partition("Commands:")[2]


def test_serve_explains_itself() -> None:
    """
    The flags are listed with their defaults, and the exit statuses with their meaning.
    """
    output = run("serve", "--help").output
    for word in ("--acknowledge", "--data-dir", "PENSTOCK_SECRET=", "default: 3000", "78"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        (["serve"], {"PENSTOCK_INSECURE": "1"}, "no database is named"),
        (["serve", "postgresql://h/d"], {}, "--insecure"),
        (["serve", "postgresql://h/d", "--insecure"], {"PENSTOCK_SECRET": "x"}, "cannot set both"),
        (["serve", "h/d", "--insecure"], {}, "DATABASE_URL is not a URL"),
        (["serve", "postgresql://h/d", "--insecure", "--port", "x"], {}, '--port: "x" is not a whole number'),
        (["serve", "postgresql://h/d", "--insecure", "--acknowledge", "now"], {}, "--acknowledge"),
        (["serve", "postgresql://h/d", "--insecure", "--config", "none.toml"], {}, "there is no file"),
        (["serve", "postgresql://h/d", "--insecure", "--data-dir", "/dev/null"], {}, "not a folder"),
    ],
)
def test_a_mistake_ends_with_one_sentence(
    arguments: list[str], env: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What is wrong is said once on standard error, without a traceback, with status 2.
    """
    monkeypatch.chdir(tmp_path)
    kept = {name: value for name, value in {**CLEAN, **env}.items() if value}
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **kept},
        timeout=60,
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("penstock: ")
    assert sentence in last
    assert "Traceback" not in done.stderr


def test_all_settings_are_listed() -> None:
    """
    Each setting is shown with its variables, in text and in Markdown.
    """
    text = run("settings").output
    table = run("settings", "--markdown").output
    for declaration in DECLARATIONS:
        assert f"PENSTOCK_{declaration.name.upper()}" in text
        assert f"| `{declaration.name}` |" in table
    assert "[10GiB]" in text
    assert "also ELECTRIC_LONG_POLL_TIMEOUT" in text
    assert "DATABASE_URL" in text


def test_the_version_is_said() -> None:
    """
    The command knows the version of the package.
    """
    result = run("version")
    assert result.exit_code == 0
    assert result.output[0].isdigit()


def test_an_orphaned_role_leaves() -> None:
    """
    A role whose supervisor is gone before it said anything ends at once.
    """
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "role", "engine"], stdin=subprocess.DEVNULL, check=False, timeout=60
    )
    assert done.returncode == 75
