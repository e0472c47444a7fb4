from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.service import PYTHON

pytestmark = pytest.mark.postgres


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """
    A folder for everything temporary, reachable for the server's user; empty again at the end.
    """
    folder = tmp_path_factory.mktemp("demo")
    yield folder
    assert list(folder.iterdir()) == [], "the demo left something behind"


def test_the_demo_shows_itself_and_goes_without_a_trace(temporary: Path) -> None:
    """
    It says where to look, serves rows there, and ends on Ctrl-C with status 0, nothing left.
    """
    demo = subprocess.Popen(
        [PYTHON, "-m", "penstock", "demo", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        cwd="/",
    )
    try:
        watch(demo)
    finally:
        demo.kill()
        demo.communicate()


def watch(demo: subprocess.Popen[str]) -> None:
    """
    Read what it says, look where it says, and end it.
    """
    assert demo.stdout is not None
    output = ""
    while "Ctrl-C" not in output:
        line = demo.stdout.readline()
        assert line, f"ended early:\n{output}"
        output += line
    found = re.search(r"curl '(http://127\.0\.0\.1:\d+/v1/shape\?table=turbines&offset=-1)'", output)
    assert found is not None, output
    with urllib.request.urlopen(found[1], timeout=20) as answer:
        assert b'"operation":"insert"' in answer.read()
    page = re.search(r"(http://127\.0\.0\.1:\d+/demo)", output)
    assert page is not None, output
    with urllib.request.urlopen(page[1], timeout=20) as answer:
        assert b"<!doctype html>" in answer.read()
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=30)
    assert demo.returncode == 0, output + rest
    assert "Gone without a trace" in rest
