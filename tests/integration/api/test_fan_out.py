"""
Live requests that wait where others wait, without asking the engine and without a dialogue each.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from conformance.scripted_source import row
from harness.http_server import SETTINGS, Running, play, until
from penstock.api import live as live_module
from penstock.api.fast import request as request_module
from penstock.shapes.reading import FilePiece


def messages(body: bytes) -> list[str]:
    return [message["headers"].get("control", "data") for message in json.loads(body)]


@pytest.fixture
def long_parking(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However slow the machine, nobody asks again for the reason that it was long ago.
    """
    monkeypatch.setattr(request_module, "PARKING_S", 3600.0)


@pytest.mark.usefixtures("long_parking")
def test_client_that_was_told_everything_waits_without_asking(tmp_path: Path) -> None:
    """
    The engine is asked where the client is once; from then on each change is one wait.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        client.send(server.live())
        await until(lambda: server.source.waits_under_way == 1)
        opens = server.source.opens
        for number in range(3):
            server.source.append("items", 900 + number, row(number))
            head, body = await client.answer()
            assert messages(body) == ["data", "up-to-date"]
            assert b"\r\nelectric-offset: %d_0\r\n" % (900 + number) in head
            client.send(server.live(offset=f"{900 + number}_0", more=f"&cursor={number}"))
            await until(lambda: server.source.waits_under_way == 1)
        assert server.source.opens == opens

    play(test, tmp_path)


def test_many_shapes_that_change_at_once_are_told_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each client learns of its own shape, though only a few are told in one turn of the loop.
    """
    monkeypatch.setattr(live_module, "TOLD_AT_ONCE_MAX", 4)
    monkeypatch.setattr(live_module, "SETTLED_AT_ONCE_MAX", 3)

    async def test(server: Running) -> None:
        clients = {}
        for number in range(15):
            table = f"table{number}"
            server.source.add(table, row(0))
            clients[table] = await server.connect()
            clients[table].send(server.live(table=table))
        await until(lambda: server.source.waits_under_way == 15)
        for number, table in enumerate(clients):
            server.source.append(table, 900 + number, row(number))
        for number, client in enumerate(clients.values()):
            head, body = await client.answer()
            assert b"\r\nelectric-offset: %d_0\r\n" % (900 + number) in head
            assert row(number) in body
        assert not server.app.requests_under_way

    play(test, tmp_path)


def test_engine_is_asked_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Asking keeps the shape in use and the engine awake.
    """
    monkeypatch.setattr(request_module, "PARKING_S", 0.0)

    async def test(server: Running) -> None:
        first, second = await server.connect(), await server.connect()
        for number, client in enumerate((first, second)):
            opens = server.source.opens
            client.send(server.live())
            await until(lambda number=number: server.app.route.shared.waiting_count == number + 1)  # type: ignore[misc]
            assert server.source.opens == opens + 1
        server.source.append("items", 900, row(2))
        for client in (first, second):
            assert messages((await client.answer())[1]) == ["data", "up-to-date"]

    play(test, tmp_path)


@pytest.mark.usefixtures("long_parking")
def test_whoever_waits_in_vain_is_told_so(tmp_path: Path) -> None:
    """
    As if each had asked: up to date, with what the engine says at the end.
    """

    async def test(server: Running) -> None:
        clients = [await server.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(server.live())
            await until(lambda: server.source.waits_under_way == 1)
            await until(lambda number=number: server.app.requests_under_way == number + 1)  # type: ignore[misc]
        for client in clients:
            head, body = await client.answer()
            assert messages(body) == ["up-to-date"]
            assert b"\r\nelectric-has-data: false\r\n" in head
        assert not server.app.requests_under_way
        assert not server.app.route.shared.waiting_count

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, long_poll_timeout_s=3.0))


@pytest.mark.usefixtures("long_parking")
@pytest.mark.parametrize("fate", ["rotated", "missing", "large"])
def test_everybody_parked_alike_gets_what_the_first_gets(tmp_path: Path, fate: str) -> None:
    """
    Also what no prebuilt response can say: the log is over, a file is gone, or there is too much for one write.
    """

    async def test(server: Running) -> None:
        clients = [await server.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(server.live())
            await until(lambda number=number: server.app.route.shared.waiting_count == number + 1)  # type: ignore[misc]
        assert server.source.waits == 1
        match fate:
            case "rotated":
                server.source.drop("items")
            case "missing":
                server.source.append("items", 900, FilePiece("missing", 0, 5))
            case _:
                server.source.append("items", 900, b'"' + b"x" * 1_000_000 + b'"')
        answers = await asyncio.gather(*(client.answer() for client in clients))
        assert len({body for _, body in answers}) == 1
        assert {head[:13] for head, _ in answers} == {b"HTTP/1.1 200 " if fate == "large" else b"HTTP/1.1 409 "}
        assert not server.app.requests_under_way

    play(test, tmp_path)
