"""
`penstock demo` as a user runs it: a child process whose words are read, and that is ended with Ctrl-C.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from harness.service import PYTHON

END_TIMEOUT_S: Final = 30.0
_INVITATION: Final = re.compile(
    r"(?P<page>http://127\.0\.0\.1:\d+/demo)\n"
    r".* (?P<curl>curl '(?P<rows>http://127\.0\.0\.1:\d+/v1/shape\?table=turbines&offset=-1)')\n"
    r".* (?P<psql>\S*psql (?P<database>postgresql://\S+) -c .*)\n"
)


@dataclass(frozen=True, slots=True)
class Invitation:
    """
    What the demo says one can do.

    Attributes:
        page: the URL of the page.
        curl: the command that asks for the rows.
        rows: the URL in it.
        psql: the command that changes the table.
        database: the URL in it.
    """

    page: str
    curl: str
    rows: str
    psql: str
    database: str


class Demo:
    """
    One run of the demo in a temporary folder of its own; a context manager that ends it, if need be by force.
    """

    def __init__(self, *args: str) -> None:
        """
        Prepare to run it with more arguments.
        """
        self._temporary: Final = tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True)
        self.folder: Final = Path(self._temporary.name)
        # The server's user must be able to pass, or the demo would choose another place.
        self.folder.chmod(0o755)
        self.output = ""
        self._args: Final = args
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [PYTHON, "-m", "penstock", "demo", "--port", "0", *self._args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(self.folder), "PYTHONUNBUFFERED": "1"},
            cwd="/",
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self._temporary.cleanup()

    @property
    def process(self) -> subprocess.Popen[str]:
        """
        The process that was started; the others are its children.
        """
        assert self._process is not None, "not started"
        return self._process

    def read_until(self, text: str) -> None:
        """
        Read what it says until a text comes; fails when it ends before.
        """
        assert self.process.stdout is not None
        while text not in self.output:
            line = self.process.stdout.readline()
            assert line, f"ended early:\n{self.output}"
            self.output += line

    def read_invitation(self) -> Invitation:
        """
        Wait until it serves and says where.
        """
        self.read_until("Ctrl-C")
        found = _INVITATION.search(self.output)
        assert found is not None, self.output
        return Invitation(**found.groupdict())

    def interrupt(self) -> None:
        """
        Press Ctrl-C: every process of the terminal's foreground group gets the signal.
        """
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_ended(self) -> int:
        """
        Wait for its end; gives the exit status.
        """
        rest, _ = self.process.communicate(timeout=END_TIMEOUT_S)
        self.output += rest
        return self.process.returncode

    def processes(self) -> list[str]:
        """
        Tell which processes have to do with its folder, by command line or environment.
        """
        mark = os.fsencode(self.folder)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                if mark in command or mark in (entry / "environ").read_bytes():
                    found.append(command.replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                # Ended meanwhile, or another user's.
                continue
        return found

    def leftovers(self) -> list[str]:
        """
        Name what is left of it: processes and files.
        """
        return [*self.processes(), *(str(path) for path in self.folder.iterdir())]
