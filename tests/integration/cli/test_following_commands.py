from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.service import Service

pytestmark = pytest.mark.postgres


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "penstock", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=60)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_rows_are_shown_followed_and_written(database: Any, tmp_path: Path) -> None:
    """
    What is in the table is printed and written; tail goes on where Ctrl-C left it; the slot is named as ours.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, name text, note text)")
    database.execute("INSERT INTO items VALUES (1, 'a \"b\", c', ''), (2, E'\\x1b[31m', NULL)")
    async with Service(database.url, tmp_path) as service:
        shown = run("tail", "items", "--url", service.url, "--snapshot-only", "--csv")
        assert shown.stdout.splitlines()[:2] == ["operation,id,name,note", 'insert,1,"a ""b"", c",""']
        plain = run("tail", "items", "--url", service.url, "--snapshot-only", "--where", "id = $1", "--param", "2")
        assert plain.stdout == "insert id=2 name=\\x1b[31m note=NULL\n"
        for suffix in ("csv", "jsonl"):
            target = tmp_path / f"items.{suffix}"
            done = run("snapshot", "items", "--url", service.url, "--to", str(target))
            assert done.returncode == 0, done.stderr
            assert "2 rows" in done.stderr
        assert json.loads((tmp_path / "items.jsonl").read_text().splitlines()[0])["id"] == 1
        assert (tmp_path / "items.csv").read_text().startswith("id,name,note\n1,")
        live = ["tail", "items", "--url", service.url, "--json"]
        with start(*live) as child:
            assert child.stdout is not None
            assert {json.loads(child.stdout.readline())["key"] for _ in range(2)} == {
                '"public"."items"/"1"',
                '"public"."items"/"2"',
            }
            database.execute("UPDATE items SET name = 'new' WHERE id = 1")
            told = json.loads(child.stdout.readline())
            assert (told["operation"], told["value"]) == ("update", {"id": "1", "name": "new"})
            # What is printed is done only when its whole answer is, so the place may be one answer earlier.
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
            assert child.returncode == 130, said
        since = said.split("--since ")[1].strip()
        database.execute("DELETE FROM items WHERE id = 2")
        with start(*live, "--since", since) as child:
            assert child.stdout is not None
            operations = [json.loads(child.stdout.readline())["operation"]]
            if operations == ["update"]:
                operations = [json.loads(child.stdout.readline())["operation"]]
            assert operations == ["delete"]
            child.kill()
        slots = json.loads(run("slots", database.url, "--json").stdout)
        (ours,) = [slot for slot in slots if slot["name"] == service.slot]
        assert ours["is_ours"]
        assert not ours["remedy"]
        refused = run("tail", "items", "--url", service.url, "--where", "nothing = 1")
        assert refused.returncode == 2
        assert "where" in refused.stderr
    slots = json.loads(run("slots", database.url, "--json").stdout)
    (ours,) = [slot for slot in slots if slot["name"] == service.slot]
    assert ours["remedy"] == f"SELECT pg_drop_replication_slot('{service.slot}');"
