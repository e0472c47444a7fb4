from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import penstock
from harness.service import Service
from harness.waiting import until
from penstock.cli.main import cli

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(200)]


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["shapes", *words], env={"COLUMNS": "220"})


async def test_shapes_are_listed(database: Any, tmp_path: Path) -> None:
    """
    Those of a running service, with who waits, sorted and limited; as a table and as JSON, which has a page's total.
    """
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, status text); CREATE TABLE notes (id int PRIMARY KEY)")
    database.execute("INSERT INTO orders SELECT i, repeat('open', 100) FROM generate_series(1, 50) AS i")
    async with Service(database.url, tmp_path) as service, penstock.AsyncClient(service.url) as client:
        url = ("--url", service.url)
        assert (await asyncio.to_thread(run, *url)).output == "There are no such shapes.\n"
        some = client.shape("orders", where="id > $1 AND status <> '[red]'", params=[3], columns=["id", "status"])
        async with some, client.shape("notes"):

            async def listed() -> dict[str, Any]:
                answer = await asyncio.to_thread(run, *url, "--json")
                assert answer.exit_code == 0, answer.output
                found: dict[str, Any] = json.loads(answer.output)
                return found

            async def is_everybody_waiting() -> bool:
                return [shape["clients"] for shape in (await listed())["shapes"]] == [1, 1]

            await until("each shape has a client that waits", is_everybody_waiting)
            orders, notes = (await listed())["shapes"]
            assert (orders["table"], notes["table"]) == ('"public"."orders"', '"public"."notes"')
            assert orders["columns"] == ["id", "status"]
            assert orders["bytes"] > notes["bytes"]
            assert (orders["state"], orders["read_s"] is None) == ("live", False)
            shown = (await asyncio.to_thread(run, *url, "--limit", "1", "--order", "table")).output
            assert "notes" in shown
            assert "1 of 2; --limit and --skip show others" in shown
            shown = (await asyncio.to_thread(run, *url, "--table", "orders")).output
            assert "'[red]'" in shown
            assert "(id, status)" in shown
            assert "live" in shown
            assert "notes" not in shown
            assert (await asyncio.to_thread(run, *url, "--skip", "5")).output == "There are 2, all before these.\n"


def test_a_service_that_is_away_is_named() -> None:
    """
    The sentence says what to do.
    """
    answer = run("--url", "http://127.0.0.1:9")
    assert (answer.exit_code, "penstock serve" in answer.output) == (2, True)
