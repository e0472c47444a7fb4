from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from harness.checkers import ROOT, run_mypy

pytestmark = pytest.mark.timeout(300)

FOLDER: Final = ROOT / "tests" / "typing"
PYRIGHT: Final = Path(__file__).parent / "node" / "node_modules" / "pyright" / "index.js"


def run_pyright(*files: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    """
    Run pyright with the strict settings of the folder, or on some files; gives what it complains of.
    """
    node = shutil.which("node")
    if node is None or not PYRIGHT.exists():
        message = "Node or pyright is missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    what = [str(file) for file in files] if folder is None else ["--project", str(folder)]
    done = subprocess.run(
        [node, str(PYRIGHT), "--outputjson", "--pythonpath", sys.executable, *what],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] > 0
    found: list[dict[str, Any]] = told["generalDiagnostics"]
    return found


def marked(file: Path) -> set[int]:
    """
    The lines of which a file says that they are wrong.
    """
    return {number for number, line in enumerate(file.read_text().splitlines(), start=1) if "  # wrong" in line}


WRONG: Final = sorted(FOLDER.glob("must_not_*.py"))


def test_pyright_agrees_with_the_samples() -> None:
    """
    The public API is strict for pyright too; mypy checks the same files with all others of the tree.
    """
    assert len(list(FOLDER.glob("*.py"))) > len(WRONG)
    complaints = [
        f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}" for each in run_pyright(folder=FOLDER)
    ]
    assert complaints == []


@pytest.mark.parametrize("file", WRONG, ids=lambda file: file.stem)
def test_pyright_finds_each_mistake(file: Path) -> None:
    """
    It complains of the lines that are wrong and of no others.
    """
    assert {each["range"]["start"]["line"] + 1 for each in run_pyright(file)} == marked(file)


@pytest.mark.parametrize("file", WRONG, ids=lambda file: file.stem)
def test_mypy_finds_each_mistake(file: Path) -> None:
    """
    Likewise.
    """
    status, told = run_mypy(file.relative_to(ROOT))
    assert status == 1, told
    assert set(map(int, re.findall(r"^[^:]+:(\d+): error:", told, re.MULTILINE))) == marked(file), told
