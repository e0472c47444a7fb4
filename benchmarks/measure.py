"""
What running something took: a command from its start to its end, or the processes of a service up to now.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """
    What one run of a command took.

    Attributes:
        wall_s: from start to end.
        cpu_s: user and system time of the process and the children it waited for.
        peak_mib: the largest resident size of the largest single process among them.
        output: what it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str = ""


def run(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    stdin: str = "",
) -> Run:
    """
    Run a command to its end; raises when it fails or takes longer than it may.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        cwd=cwd,
    )
    killer = threading.Timer(timeout_s, process.kill) if timeout_s is not None else None
    if killer is not None:
        killer.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if killer is not None:
            killer.cancel()
    if process.returncode != 0:
        late = f" (it may take {timeout_s:g} s)" if timeout_s is not None and wall_s >= timeout_s else ""
        raise RuntimeError(f"{command[0]} ended with {process.returncode}{late}: {output[-2000:]}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What the processes of a service have used so far.

    Attributes:
        cpu_s: user and system time.
        peak_mib: the sum of their largest resident sizes, so an upper bound of what they took together.
    """

    cpu_s: float
    peak_mib: float


def usage_of(pid: int) -> Usage:
    """
    Read what a process and its living descendants have used; of those that have ended only what they left to a parent.
    """
    ticks = 0
    peak_kib = 0
    for each in family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
        peak_kib += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
    return Usage(ticks / TICKS_PER_S, peak_kib / 1024)


def family(pid: int) -> list[int]:
    """
    List a process and its descendants.
    """
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def allow_open_files() -> int:
    """
    Let this process, and those that it starts from now on, have as many files and connections open as the system lets it;
    gives how many.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def is_running(pid: int) -> bool:
    """
    Tell whether a process has a thread that has not ended. One that was killed and has not been waited for has none in
    the end, but until then it holds its files, though it is said to be dead already.
    """
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = path.read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in {"Z", "X"}:
            return True
    return False


def forget_peak() -> None:
    """
    Begin anew to look for the largest resident size of this process.
    """
    Path("/proc/self/clear_refs").write_text("5")


def own_peak_mib() -> float:
    """
    Read the largest resident size of this process, ever or since `forget_peak`.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


class StolenTime:
    """
    How much of the processors' time the host of a virtual machine gave to others; from `/proc/stat`, see proc(5).
    """

    _STEAL: Final = 7

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        """
        Begin to count.
        """
        self._stat: Final = stat
        self._before: Final = self._read()

    def share(self) -> float | None:
        """
        Give the part of all time since then; None where nobody says.
        """
        now = self._read()
        if not self._before or not now:
            return None
        passed = sum(now) - sum(self._before)
        return (now[self._STEAL] - self._before[self._STEAL]) / passed if passed else 0.0

    def _read(self) -> list[int]:
        """
        Read the ticks of all processors by what they went to, without those of guests, which are in others already.
        """
        try:
            first = self._stat.read_text().split("\n", 1)[0]
        except OSError:
            return []
        return [int(each) for each in first.split()[1 : self._STEAL + 2]]
