"""
The published clients as their users run them: all of them in one Node process, following one table.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from harness.service import Service

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

NODE_FOLDER: Final = Path(__file__).parent / "node"
PACKAGES: Final = ("@electric-sql/client", "@electric-sql/pglite-sync", "@tanstack/electric-db-collection")
ANSWER_TIMEOUT_S: Final = 60.0
SECRET: Final = "open-sesame"
SHAPE: Final = {"table": "issues"}

Row = dict[str, Any]


class Clients:
    """
    The process, what each client said last, and all that it ever said.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self._url = url
        self._moved = asyncio.Condition()
        self.said: dict[str, list[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """
        Read what the process prints, for ever.
        """
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = msgspec.json.decode(line, type=dict[str, Any])
            async with self._moved:
                self.said.setdefault(told["client"], []).append(told)
                self._moved.notify_all()

    def start(self, kind: str, client: str, params: dict[str, str], **more: Any) -> None:
        """
        Let one more client follow.
        """
        self._send({"start": kind, "client": client, "url": f"{self._url}/v1/shape", "params": params} | more)

    def stop(self, client: str) -> None:
        """
        Let a client stop.
        """
        self._send({"stop": client})

    async def says(self, client: str, *names: str) -> dict[str, Any]:
        """
        Wait until a client has said something with these names; gives the latest.
        """
        await self._until(lambda: any(all(n in told for n in names) for told in self.said.get(client, ())), client)
        return [told for told in self.said[client] if all(name in told for name in names)][-1]

    async def have(self, expected: list[Row], *clients: str) -> None:
        """
        Wait until these clients hold exactly these rows.
        """
        for client in clients:
            await self._until(lambda client=client: self.rows(client) == expected, f"{client} to have {expected}")

    def rows(self, client: str) -> list[Row] | None:
        """
        What a client holds.
        """
        found = [told["rows"] for told in self.said.get(client, ()) if "rows" in told]
        return found[-1] if found else None

    async def _until(self, condition: Any, what: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), self._moved:
                await self._moved.wait_for(condition)
        except TimeoutError:
            last = {client: told[-1] for client, told in self.said.items()}
            raise AssertionError(f"waited in vain for {what}; last heard: {last}") from None

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")


@asynccontextmanager
async def published_clients(url: str) -> AsyncIterator[Clients]:
    """
    Run the process; a missing Node is a skip, but not where nothing may be skipped.
    """
    node = shutil.which("node")
    if node is None or not all((NODE_FOLDER / "node_modules" / package).exists() for package in PACKAGES):
        message = "Node or the published clients are missing: run `make setup`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    process = await asyncio.create_subprocess_exec(
        node,
        str(NODE_FOLDER / "clients.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    clients = Clients(process, url)
    listening = asyncio.create_task(clients.listen(), name="listen to the clients")
    try:
        yield clients
    finally:
        process.terminate()
        await process.wait()
        await listening


def issue(number: int, title: str, *, done: bool | None = False) -> Row:
    return {"id": number, "title": title, "done": done}


async def test_all_published_clients_sync_follow_resume_and_rotate(database: Any, tmp_path: Path) -> None:
    """
    Long polls, events, TanStack DB (the whole shape and on demand, by GET and by POST) and PGlite: they get the rows,
    follow changes, resume, survive a rotation, and are told what is wrong
    (B5, B23, B24, C10, E1, E10, E11, I1, I2, I3, I4, I5, I7, I9, I13, I15).
    """
    database.execute("CREATE TABLE issues (id int PRIMARY KEY, title text, done bool)")
    database.execute("INSERT INTO issues VALUES (1, 'first', false), (2, 'zweite ü', true)")
    allowed = {**SHAPE, "secret": SECRET}
    everybody = ("poll", "events", "eager", "database", "stubborn")
    env = {"PENSTOCK_INSECURE": "false", "PENSTOCK_SECRET": SECRET, "PENSTOCK_ENABLE_INTEGRATION_TESTING": "true"}
    async with Service(database.url, tmp_path, env=env) as service, published_clients(service.url) as clients:
        clients.start("stream", "poll", allowed)
        clients.start("stream", "events", allowed, liveSse=True)
        clients.start("collection", "eager", allowed)
        clients.start("collection", "open by get", allowed, syncMode="on-demand", done=False, subsetMethod="GET")
        clients.start("collection", "done by post", allowed, syncMode="on-demand", done=True, subsetMethod="POST")
        clients.start("database", "database", allowed)
        # Told 401 it brings the secret and goes on.
        clients.start("stream", "stubborn", SHAPE, secret=SECRET)
        first, second = issue(1, "first"), issue(2, "zweite ü", done=True)
        await clients.have([first, second], *everybody)
        await clients.have([first], "open by get")
        await clients.have([second], "done by post")
        assert (await clients.says("stubborn", "error"))["status"] == 401

        database.execute("INSERT INTO issues VALUES (3, 'third', false)")
        database.execute("UPDATE issues SET title = 'changed' WHERE id = 1")
        database.execute("DELETE FROM issues WHERE id = 2")
        first, third = issue(1, "changed"), issue(3, "third")
        await clients.have([first, third], *everybody, "open by get")
        await clients.have([], "done by post")

        # One stops; another goes on from there and is sent only what is new.
        clients.stop("poll")
        stopped = await clients.says("poll", "stopped")
        database.execute("INSERT INTO issues VALUES (4, 'fourth', NULL)")
        clients.start("stream", "resumed", allowed, offset=stopped["offset"], handle=stopped["handle"])
        fourth = issue(4, "fourth", done=None)
        await clients.have([fourth], "resumed")
        assert (await clients.says("resumed", "rows"))["messages"] == 1
        await clients.have([first, third, fourth], "events", "eager", "database", "stubborn")

        # The shape is given up under everybody, who find the new one by themselves.
        async with httpx.AsyncClient(base_url=service.url) as http:
            for log in ("full", "changes_only"):
                answer = await http.delete("/v1/shape", params={**allowed, "log": log})
                assert answer.status_code == 202, answer.text
        database.execute("UPDATE issues SET title = 'after', done = false WHERE id = 4")
        fourth = issue(4, "after")
        await clients.have([first, third, fourth], "events", "eager", "database", "stubborn", "resumed", "open by get")
        assert (await clients.says("events", "handle"))["handle"] != stopped["handle"]

        # What cannot be is said once and ends the client.
        clients.start("stream", "lost", {**allowed, "table": "no_such_table"})
        told = await clients.says("lost", "error")
        assert told["status"] == 400
        assert "does not exist" in told["error"]
        assert [told for told in clients.said.get("process", []) if "no_such_table" not in str(told)] == []
    assert SECRET not in await asyncio.to_thread(service.log_path.read_text)
