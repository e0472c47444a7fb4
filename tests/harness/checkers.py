"""
mypy on single files, with the settings and the cache of this tree.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = Path(tempfile.gettempdir()) / "penstock-tests-mypy.lock"


def run_mypy(*files: Path) -> tuple[int, str]:
    """
    Check files; gives the exit status and what it says.

    One at a time, because workers of a test run share the cache, which is a database.
    """
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
    return done.returncode, done.stdout + done.stderr
