"""
The engine over a socket: the same contract as next door, and what only a socket can do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from conformance.scripted_source import ScriptedSource, row
from harness.http_server import until
from harness.reach import connected, directly, remotely, served
from penstock.api import remote
from penstock.api.remote import EngineFaultError, RemoteShapeSource, ShapeSourceServer
from penstock.errors import ConfigError, ConnectionLostError
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset
from penstock.shapes.reading import (
    Advanced,
    FilePiece,
    Health,
    InlinePiece,
    Opened,
    Refused,
    Removed,
    RemoveRequest,
    Rotated,
    ShapeRequest,
    SubsetLoaded,
    SubsetQuestion,
)
from penstock.shapes.subset import SubsetRequest


def play(test: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(run())


def first(table: str = "items") -> ShapeRequest:
    return ShapeRequest(table=table, offset=BEFORE_ALL)


# --- the contract, next door and over the socket ---------------------------------------------------------------------

ways = pytest.mark.parametrize("reach", [directly, remotely])


@ways
def test_every_reply_to_open_arrives_as_it_was_sent(tmp_path: Path, reach: Any) -> None:
    """
    Pieces, infinite offsets, problems and handles survive the way.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        shape = scripted.add("items", row(1), FilePiece("a/b", 3, 4))
        scripted.is_replaying = True
        scripted.last_seen_lsn = 2**63
        scripted.refusals["no"] = Refused(400, "Invalid", {"table": ["ä"]}, retry_after_s=3, is_known=True)
        async with reach(scripted, tmp_path) as source:
            opened = await source.open(first())
            assert isinstance(opened, Opened)
            assert opened.range.pieces == (InlinePiece(row(1)),)
            assert opened.range.last == SNAPSHOT_END
            assert (opened.is_replaying, opened.last_seen_lsn) == (True, 2**63)
            assert await source.open(first("no")) == scripted.refusals["no"]
            stale = ShapeRequest(table="items", offset=SNAPSHOT_END, handle="1-1")
            assert await source.open(stale) == Rotated(shape.handle)
            now = await source.open(ShapeRequest(table="items", offset=None))
            assert isinstance(now, Opened)
            assert now.range.chunk_end == SNAPSHOT_END

    play(test())


@ways
def test_every_field_of_a_request_arrives(tmp_path: Path, reach: Any) -> None:
    """
    The engine sees what the client asked.
    """

    async def test() -> None:
        seen: list[ShapeRequest] = []

        class Noting(ScriptedSource):
            async def open(self, request: ShapeRequest) -> Any:
                seen.append(request)
                return await super().open(request)

        scripted = Noting()
        scripted.add("items", row(1))
        request = ShapeRequest(
            table='"Items"',
            offset=LogOffset(2**63, 2),
            handle="1-1",
            columns=("id", "größe"),
            queryable_columns=("id",),
            where="x = $1",
            params=("", "ü"),
            replica=Replica.FULL,
            log=LogMode.CHANGES_ONLY,
            is_live=True,
        )
        async with reach(scripted, tmp_path) as source:
            await source.open(request)
        assert seen == [request]

    play(test())


@ways
def test_wait_ends_with_a_change_or_the_end_of_the_log(tmp_path: Path, reach: Any) -> None:
    """
    What came before the wait counts as well.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        async with reach(scripted, tmp_path) as source:
            waiting = asyncio.ensure_future(source.wait(handle, SNAPSHOT_END))
            await until(lambda: scripted.waits_under_way == 1)
            scripted.append("items", 7, row(2))
            news = await waiting
            assert isinstance(news, Advanced)
            assert news.range.chunk_end == LogOffset(7, 0)
            assert isinstance(await source.wait(handle, SNAPSHOT_END), Advanced)
            waiting = asyncio.ensure_future(source.wait(handle, LogOffset(7, 0)))
            await until(lambda: scripted.waits_under_way == 1)
            scripted.drop("items")
            assert await waiting == Rotated()

    play(test())


@ways
def test_cancelled_wait_ends_at_the_engine(tmp_path: Path, reach: Any) -> None:
    """
    Nothing is waited for that nobody wants.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        async with reach(scripted, tmp_path) as source:
            waiting = asyncio.ensure_future(source.wait(handle, SNAPSHOT_END))
            other = asyncio.ensure_future(source.wait(handle, SNAPSHOT_END))
            await until(lambda: scripted.waits_under_way == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until(lambda: scripted.waits_under_way == 1)
            scripted.append("items", 7, row(2))
            assert isinstance(await other, Advanced)

    play(test())


@ways
def test_health_status_and_removal(tmp_path: Path, reach: Any) -> None:
    """
    The small calls answer what the engine says.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        scripted.state = Health("starting", "integrety checks", "x", 5)
        async with reach(scripted, tmp_path) as source:
            assert await source.health() == scripted.state
            assert await source.status() == {"shapes": 1, "holding": []}
            question = SubsetQuestion(ShapeRequest("items", None), SubsetRequest(where="id = 1"))
            assert isinstance(await source.load_subset(question), SubsetLoaded)
            assert scripted.questions == [question]
            assert await source.remove(RemoveRequest(handle=handle)) == Removed()
            assert await source.remove(RemoveRequest(handle=handle)) == Refused(404, "No existing shape found")

    play(test())


@ways
def test_away_is_told_as_such(tmp_path: Path, reach: Any) -> None:
    """
    An engine that is itself cut off from what it needs looks like one that is away.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        scripted.is_away = True
        async with reach(scripted, tmp_path) as source:
            for call in (source.open(first()), source.wait("1-1", SNAPSHOT_END), source.health(), source.status()):
                with pytest.raises(ConnectionLostError):
                    await call

    play(test())


# --- only over the socket --------------------------------------------------------------------------------------------


def test_large_ranges_pass(tmp_path: Path) -> None:
    """
    A reply larger than every buffer arrives whole, and small ones do not get lost behind it.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        large = b'"' + b"x" * (40 * 2**20) + b'"'
        scripted.add("items", large)
        async with served(scripted, tmp_path), connected(tmp_path) as source:
            await until(lambda: source.is_connected)
            opened, health = await asyncio.gather(source.open(first()), source.health())
            assert isinstance(opened, Opened)
            assert opened.range.pieces == (InlinePiece(large),)
            assert health.state == "active"

    play(test())


def test_calls_under_way_fail_when_the_engine_goes_and_work_when_it_is_back(tmp_path: Path) -> None:
    """
    A restart of the engine is a moment without answers, not an end.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        async with connected(tmp_path) as source:
            with pytest.raises(ConnectionLostError):
                await source.health()
            async with served(scripted, tmp_path):
                await until(lambda: source.is_connected)
                waiting = asyncio.ensure_future(source.wait(handle, SNAPSHOT_END))
                await until(lambda: scripted.waits_under_way == 1)
            with pytest.raises(ConnectionLostError):
                await waiting
            assert scripted.waits_under_way == 0
            async with served(scripted, tmp_path):
                await until(lambda: source.is_connected)
                assert (await source.health()).state == "active"

    play(test())


def test_calls_of_a_worker_that_left_are_cancelled(tmp_path: Path) -> None:
    """
    Its waits end at the engine; those of others go on.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        async with served(scripted, tmp_path) as server, connected(tmp_path) as staying:
            await until(lambda: staying.is_connected)
            kept = asyncio.ensure_future(staying.wait(handle, SNAPSHOT_END))
            async with connected(tmp_path) as leaving:
                await until(lambda: leaving.is_connected)
                lost = asyncio.ensure_future(leaving.wait(handle, SNAPSHOT_END))
                await until(lambda: scripted.waits_under_way == 2)
            with pytest.raises(ConnectionLostError):
                await lost
            await until(lambda: scripted.waits_under_way == 1)
            assert len(server._peers) == 1
            assert sum(len(peer.tasks) for peer in server._peers) == 1
            scripted.append("items", 7, row(2))
            assert isinstance(await kept, Advanced)

    play(test())


def test_calls_taken_back_at_once_leave_nothing(tmp_path: Path) -> None:
    """
    A call whose cancellation comes in the same block as itself has not begun, and does not count either.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        handle = scripted.add("items", row(1)).handle
        async with served(scripted, tmp_path) as server, connected(tmp_path) as source:
            await until(lambda: source.is_connected)
            kept = asyncio.ensure_future(source.wait(handle, SNAPSHOT_END))
            for _ in range(100):
                asyncio.ensure_future(source.wait(handle, SNAPSHOT_END)).cancel()
            await until(lambda: scripted.waits_under_way == 1)
            await until(lambda: sum(len(peer.tasks) for peer in server._peers) == 1)
            scripted.append("items", 7, row(2))
            assert isinstance(await kept, Advanced)
            assert (await source.health()).state == "active"
            assert sum(len(peer.tasks) for peer in server._peers) == 0

    play(test())


def test_fault_of_the_engine_is_not_taken_for_its_absence(tmp_path: Path) -> None:
    """
    Asking again would not help, so the caller gets another error, without details.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        scripted.failure = RuntimeError("a secret detail")
        async with served(scripted, tmp_path), connected(tmp_path) as source:
            await until(lambda: source.is_connected)
            with pytest.raises(EngineFaultError, match=r"^health$"):
                await source.health()
            scripted.failure = None
            assert (await source.health()).state == "active"

    play(test())


def test_worker_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """
    Its replies do not pile up at the engine, and others are served meanwhile.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        scripted.add("items", b'"' + b"x" * (8 * 2**20) + b'"')
        server = ShapeSourceServer(scripted, tmp_path / "s", output_stall_s=0.2)
        await server.start()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.setblocking(False)
            await loop.sock_connect(silent, str(tmp_path / "s"))
            for number in range(20):
                await loop.sock_sendall(silent, frame([number, "open", {"table": "items", "offset": [-1, 0]}]))
            await until(lambda: len(server._peers) == 1)
            async with connected(tmp_path) as other:
                await until(lambda: other.is_connected)
                assert (await other.health()).state == "active"
                await until(lambda: len(server._peers) == 1)
        await server.close()

    play(test())


def frame(content: object) -> bytes:
    data = remote._ENCODER.encode(content)
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        frame([1, "nonsense", None]),
        frame([1, "open", {"table": 5}]),
        frame(["x"]),
    ],
)
def test_rubbish_ends_the_connection_only(tmp_path: Path, rubbish: bytes) -> None:
    """
    Who does not speak the language is cut off; the server goes on.
    """

    async def test() -> None:
        scripted = ScriptedSource()
        async with served(scripted, tmp_path):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(rubbish)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            async with connected(tmp_path) as source:
                await until(lambda: source.is_connected)
                assert (await source.health()).state == "active"

    play(test())


def test_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    """
    The file's mode keeps others out, and so does the check of the peer.
    """

    async def test() -> None:
        async with served(ScriptedSource(), tmp_path):
            assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        assert not (tmp_path / "s").exists()

    play(test())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert remote.is_same_user(ours)


def test_path_too_long_for_a_socket_is_said_at_start(tmp_path: Path) -> None:
    """
    The system's own message would not name the reason.
    """
    path = tmp_path / ("x" * 120)
    with pytest.raises(ConfigError, match="107"):
        asyncio.run(ShapeSourceServer(ScriptedSource(), path).start())
    with pytest.raises(ConfigError, match="107"):
        asyncio.run(RemoteShapeSource(path).start())
