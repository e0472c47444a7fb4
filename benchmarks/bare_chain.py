"""
What the machine alone takes to wake one process after the other: a chain of them that does nothing else.

A change on its way to a client goes through the receiver's two threads, the engine and a web worker, and is synced by
the second of the four. What such a chain takes no program can save that has these parts.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import bare_link

LINKS: Final = 4
SYNCING_LINK: Final = 1
_WAIT_S: Final = 30.0


class BareChain:
    """
    Processes each of which reads what the one before it writes; a context manager.
    """

    def __init__(self, folder: Path) -> None:
        """
        Sync a file in this folder.
        """
        self._file: Final = folder / "chain"
        self._links: Final[list[subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        link = [sys.executable, str(Path(bare_link.__file__))]
        source: int | None = subprocess.PIPE
        for number in range(LINKS):
            command = [*link, str(self._file)] if number == SYNCING_LINK else link
            process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, bufsize=0)
            assert process.stdout is not None
            source = process.stdout.fileno()
            self._links.append(process)
        for before in self._links[:-1]:
            assert before.stdout is not None
            # The next process has it now, and is to learn when the one before ends.
            before.stdout.close()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        head, last = self._links[0], self._links[-1]
        assert head.stdin is not None
        assert last.stdout is not None
        head.stdin.close()
        for link in self._links:
            link.wait(_WAIT_S)
        last.stdout.close()

    def time(self) -> float:
        """
        Let a byte go through; gives the seconds that took. The first has to wait for the processes to start.
        """
        head, last = self._links[0].stdin, self._links[-1].stdout
        assert head is not None
        assert last is not None
        began = time.perf_counter()
        os.write(head.fileno(), b"x")
        if not select.select([last], [], [], _WAIT_S)[0]:
            raise RuntimeError("a bare chain of processes passes nothing on")
        os.read(last.fileno(), 1)
        return time.perf_counter() - began
