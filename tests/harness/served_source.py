"""
Our HTTP server over a scripted source as a program of its own, so that its memory is nobody else's.

Takes the data folder; says on what port it serves and, for each line that it reads, what it has under way.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

import msgspec
import uvloop

from harness.http_server import SETTINGS, Running, running


def resident_kib() -> int:
    """
    How much memory this process has.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def describe(server: Running) -> dict[str, object]:
    """
    What the server has under way, and what it takes.
    """
    return {
        "under_way": server.app.requests_under_way,
        "is_quiet": server.is_quiet,
        "resident_kib": resident_kib(),
    }


def say(told: dict[str, object]) -> None:
    """
    Write a line.
    """
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def main(data_dir: Path) -> None:
    """
    Serve until there is nothing more to read.
    """
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    settings = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=600.0, requests_existing_max=files_max)
    async with running(data_dir, settings) as server:
        say({"port": server.port, "live": server.live().decode()})
        while await asyncio.to_thread(sys.stdin.readline):
            say(describe(server))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
