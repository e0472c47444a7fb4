"""
`penstock torture` as a user runs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from typing import Any

import pytest

from harness.service import PYTHON
from harness.waiting import until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def command(*args: str) -> list[str]:
    return [PYTHON, "-P", "-m", "penstock", "torture", *args]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))}
    return {**kept, "COLUMNS": "200"}


def run(*args: str, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args),
        input=answer,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment(),
        cwd="/",
    )


def left_behind(database: Any) -> list[tuple[str]]:
    names: list[tuple[str]] = database.query(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'penstock%' "
        "UNION ALL SELECT pubname FROM pg_publication "
        "UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    )
    return names


def test_one_fault_gives_its_row_and_leaves_nothing(database: Any) -> None:
    """
    The command says in a form for programs that the promise was kept, and the database is as it was.
    """
    database.execute("CREATE TABLE mine (id int PRIMARY KEY)")
    ended = run(database.url, "--fault", "consumer-fails", "--mode", "shapes", "--yes", "--json", "--patience", "20")
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)
    assert (row["fault"], row["mode"], row["verdict"]) == ("consumer-fails", "shapes", "kept")
    assert (row["guilty"], row["innocent"], row["diverged"]) == (1, 0, 0)
    assert row["released_s"] > 0
    assert "All promises kept" in ended.stderr
    assert left_behind(database) == []
    assert database.query("SELECT relreplident::text FROM pg_class WHERE relname = 'mine'") == [("d",)]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_a_yes_nothing_is_done(database: Any, answer: str) -> None:
    """
    The question says what would be made; whoever says no, or cannot be asked, has an untouched database.
    """
    ended = run(database.url, answer=answer)
    assert ended.returncode == 2
    assert "a schema, a publication and a slot of its own" in ended.stderr
    assert "nothing was done" in ended.stderr
    assert left_behind(database) == []


def test_a_fault_that_there_is_not_is_refused(database: Any) -> None:
    """
    Before anything is asked or made, with the names that there are.
    """
    ended = run(database.url, "--fault", "nothing")
    assert ended.returncode == 2
    assert "consumer-hung" in ended.stderr
    assert "Go on?" not in ended.stderr


def test_every_fault_is_listed_without_a_database() -> None:
    """
    The list says for each what is done and what must come of it.
    """
    ended = run("--list")
    assert ended.returncode == 0
    for name in ("consumer-killed", "sync-hung", "everything-stopped", "old-transaction"):
        assert name in ended.stdout


async def test_an_interrupted_torture_cleans_up(database: Any) -> None:
    """
    Ended in the middle of a fault by Ctrl-C, it leaves no schema, publication or slot, and no process.
    """
    process = await asyncio.create_subprocess_exec(
        *command(database.url, "--fault", "everything-stopped", "--mode", "relay", "--yes", "--defaults"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(),
        cwd="/",
    )

    async def is_stopped() -> bool:
        return await asyncio.to_thread(has_stopped_child, process.pid)

    try:
        await until("everything is stopped", is_stopped, 120)
        process.send_signal(signal.SIGINT)
        said, _ = await asyncio.wait_for(process.communicate(), 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 130, said.decode()
    assert "removed" in said.decode()
    assert left_behind(database) == []
    # The service was a child of the command; its processes went with it.
    backends = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'penstock%' AND datname = current_database()"
    )

    async def is_gone() -> bool:
        return bool(database.query(backends) == [(0,)])

    await until("the service is gone", is_gone, 30)


def has_stopped_child(parent: int) -> bool:
    """
    Whether a child of a process was stopped by a signal.
    """
    found = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    ).stdout.split()
    return any(state.startswith("T") for state in found)
