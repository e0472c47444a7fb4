"""
The engine behind a Unix stream socket: a client that looks like a source of shapes, and the server that serves one.

Shell. Frames are a length of four bytes, big-endian, and msgpack: calls `[id, method, arguments]`, replies
`[id, kind, payload]`. A call `cancel` takes back an earlier one and has no reply. Nothing is promised across a loss of
the connection: every call under way fails with `ConnectionLostError`, and whoever made it asks again, because what
the engine says now is the truth and what it said before was a hint.

Neither side can hold the other up. The server reads no calls while the peer does not take its replies, and cuts the
connection when it has not taken them for a while or too much has piled up; the client connects again. The calls of a
peer that is gone are cancelled. Only processes of the same user are served.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec
import structlog

from penstock.api.abc import ShapeSource
from penstock.errors import ConfigError, ConnectionLostError
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import (
    Health,
    OpenReply,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)

FRAME_BYTES_MAX: Final = 2**31
"""Longest frame: a row of a gigabyte, escaped."""

CALLS_MAX: Final = 50_000
"""Calls of one peer under way at a time; a peer with more is cut off."""

OUTPUT_BYTES_HIGH: Final = 4 * 2**20
"""With more replies than this not taken, no further call is read."""

OUTPUT_BYTES_MAX: Final = 256 * 2**20
"""With more replies than this not taken, the peer is cut off."""

UNSENT_BYTES_MAX: Final = 64 * 1024
"""Frames are sent together up to this size."""

OUTPUT_STALL_S: Final = 10.0
"""A peer that takes no replies for so long is cut off."""

RECONNECT_DELAY_S_MIN: Final = 0.02
RECONNECT_DELAY_S_MAX: Final = 0.5

SOCKET_PATH_BYTES_MAX: Final = 107

_T = TypeVar("_T")

_LENGTH: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")

_OK: Final = "ok"
_LOST: Final = "lost"
_FAILED: Final = "failed"

_log = structlog.get_logger("penstock.api")


class EngineFaultError(Exception):
    """
    The engine met a fault of its own while it answered a call. Ends in a 500; the engine's log tells more.
    """


class _Call(msgspec.Struct, frozen=True, array_like=True):
    id: int
    method: str
    arguments: msgspec.Raw = msgspec.Raw(b"\xc0")


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    id: int
    kind: str
    payload: msgspec.Raw


_ENCODER: Final = msgspec.msgpack.Encoder()
_CALL: Final = msgspec.msgpack.Decoder(_Call)
_REPLY: Final = msgspec.msgpack.Decoder(_Reply)
_TEXT: Final = msgspec.msgpack.Decoder(str)
_SUBSET: Final = msgspec.msgpack.Decoder(SubsetQuestion)
_SUBSET_REPLY: Final[msgspec.msgpack.Decoder[SubsetReply]] = msgspec.msgpack.Decoder(SubsetReply)
_SHAPES: Final = msgspec.msgpack.Decoder(ShapesQuestion)
_SHAPES_REPLY: Final = msgspec.msgpack.Decoder(ShapesListed)
_REMOVE: Final = msgspec.msgpack.Decoder(RemoveRequest)
_REMOVE_REPLY: Final[msgspec.msgpack.Decoder[RemoveReply]] = msgspec.msgpack.Decoder(RemoveReply)
_OPEN: Final = msgspec.msgpack.Decoder(ShapeRequest)
_WAIT: Final = msgspec.msgpack.Decoder(tuple[str, LogOffset])
_OPEN_REPLY: Final[msgspec.msgpack.Decoder[OpenReply]] = msgspec.msgpack.Decoder(OpenReply)
_WAIT_REPLY: Final[msgspec.msgpack.Decoder[WaitReply]] = msgspec.msgpack.Decoder(WaitReply)
_HEALTH: Final = msgspec.msgpack.Decoder(Health)
_STATUS: Final = msgspec.msgpack.Decoder(dict[str, Any])


class _Framed(asyncio.Protocol):
    """
    One end of the socket: cuts what comes into frames.
    """

    def __init__(self) -> None:
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an assertion: the transports of uvloop are no subclasses.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        start = 0
        with memoryview(self._received) as view:
            while len(view) - start >= _LENGTH.size:
                (bytes_count,) = _LENGTH.unpack_from(view, start)
                end = start + _LENGTH.size + bytes_count
                if bytes_count > FRAME_BYTES_MAX:
                    self.refuse("a frame is too long")
                    return
                if len(view) < end:
                    break
                frame = bytes(view[start + _LENGTH.size : end])
                start = end
                try:
                    self.frame_received(frame)
                except msgspec.MsgspecError:
                    self.refuse("a frame does not say what it must")
                    return
        del self._received[:start]

    def send(self, frame: bytes) -> None:
        """
        Send a frame, in one write with all others that come in this turn of the loop.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write_unsent)
        self._unsent += (_LENGTH.pack(len(frame)), frame)
        self._unsent_bytes += len(frame)
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            self._write_unsent()

    def _write_unsent(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent and self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"".join(unsent))

    def refuse(self, reason: str) -> None:
        if self.transport is not None:
            _log.warning("cut the connection between engine and web", reason=reason)
            self.transport.abort()
            self.transport = None

    def frame_received(self, frame: bytes) -> None:
        raise AssertionError(frame)


# --- the engine's side -----------------------------------------------------------------------------------------------


class ShapeSourceServer:
    """
    Serves a source of shapes to other processes of the same user.
    """

    def __init__(self, source: ShapeSource, path: Path, *, output_stall_s: float = OUTPUT_STALL_S) -> None:
        """
        Serve `source` at the socket file `path`, which is replaced.
        """
        self._source = source
        self._path = path
        self._output_stall_s = output_stall_s
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()

    async def start(self) -> None:
        """
        Begin to listen.

        Raises:
            ConfigError: the path is longer than the system allows for a socket.
        """
        check_socket_path(self._path)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            listener.bind(str(self._path))
            # Nobody can connect before `listen`, so nobody gets in before the mode is right.
            self._path.chmod(0o600)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._make_peer, sock=listener, backlog=128)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        """
        Stop listening, cancel what is under way and cut every peer off.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks = [task for peer in self._peers for task in peer.tasks.values()]
        for peer in tuple(self._peers):
            peer.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        self._path.unlink(missing_ok=True)

    def _make_peer(self) -> asyncio.Protocol:
        return _Peer(self._source, self._peers, self._output_stall_s)


class _Peer(_Framed):
    """
    A process that asks.
    """

    def __init__(self, source: ShapeSource, peers: set[_Peer], output_stall_s: float) -> None:
        super().__init__()
        self._source = source
        self._peers = peers
        self._output_stall_s = output_stall_s
        self._stall_timer: asyncio.TimerHandle | None = None
        self._untaken_bytes = 0
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not is_same_user(transport.get_extra_info("socket")):
            self.refuse("it belongs to another user")
            return
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH)
        self._peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        self._peers.discard(self)
        self._stop_stall_timer()
        for task in self.tasks.values():
            task.cancel()

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._start_stall_timer(self.transport)

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _start_stall_timer(self, transport: asyncio.Transport) -> None:
        self._untaken_bytes = transport.get_write_buffer_size()
        self._stall_timer = asyncio.get_running_loop().call_later(self._output_stall_s, self._judge_stall)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _judge_stall(self) -> None:
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() >= self._untaken_bytes:
            self.refuse("it does not take its replies")
        else:
            self._start_stall_timer(self.transport)

    def frame_received(self, frame: bytes) -> None:
        call = _CALL.decode(frame)
        if call.method == "cancel":
            task = self.tasks.get(call.id)
            if task is not None:
                # It may not have begun, and then does not take itself out.
                task.add_done_callback(lambda _: self.tasks.pop(call.id, None))
                task.cancel()
            return
        if len(self.tasks) >= CALLS_MAX:
            self.refuse("it has too many calls under way")
            return
        answer = self._prepare(call)
        self.tasks[call.id] = asyncio.get_running_loop().create_task(self._answer(call, answer), name=call.method)

    def _prepare(self, call: _Call) -> Callable[[], Awaitable[object]]:
        source = self._source
        match call.method:
            case "open":
                request = _OPEN.decode(call.arguments)
                return lambda: source.open(request)
            case "wait":
                handle, after = _WAIT.decode(call.arguments)
                return lambda: source.wait(handle, after)
            case "health":
                return source.health
            case "status":
                return source.status
            case "shapes":
                wanted = _SHAPES.decode(call.arguments)
                return lambda: source.list_shapes(wanted)
            case "remove":
                unwanted = _REMOVE.decode(call.arguments)
                return lambda: source.remove(unwanted)
            case "subset":
                question = _SUBSET.decode(call.arguments)
                return lambda: source.load_subset(question)
            case other:
                raise msgspec.ValidationError(other)

    async def _answer(self, call: _Call, answer: Callable[[], Awaitable[object]]) -> None:
        try:
            kind, payload = _OK, await answer()
        except ConnectionLostError as error:
            kind, payload = _LOST, error.message
        except Exception:  # noqa: BLE001 - the log learns everything, the other process only that it happened
            _log.error("a call failed", method=call.method, exception=traceback.format_exc())
            kind, payload = _FAILED, call.method
        finally:
            self.tasks.pop(call.id, None)
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() > OUTPUT_BYTES_MAX:
            self.refuse("too many replies wait to be taken")
            return
        self.send(_ENCODER.encode((call.id, kind, payload)))


# --- the web's side --------------------------------------------------------------------------------------------------


class RemoteShapeSource:
    """
    A source of shapes in another process; connects again by itself for as long as it is entered.
    """

    def __init__(self, path: Path) -> None:
        """
        Speak to the server at the socket file `path`, which need not be there yet.
        """
        self._path = path
        self._last_id = 0
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """
        Whether the other process is there.
        """
        return self._connection is not None and self._connection.transport is not None

    async def start(self) -> None:
        """
        Begin to connect; returns at once.

        Raises:
            ConfigError: the path is longer than the system allows for a socket.
        """
        check_socket_path(self._path)
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected(), name="connect to the engine")

    async def close(self) -> None:
        """
        Disconnect for good; calls under way fail.
        """
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        As `ShapeSource.open`.
        """
        return await self._call(_OPEN_REPLY, "open", request)

    def wait(self, handle: str, after: LogOffset) -> asyncio.Future[WaitReply]:
        """
        As `ShapeSource.wait`.
        """
        return self._call(_WAIT_REPLY, "wait", (handle, after))

    async def health(self) -> Health:
        """
        As `ShapeSource.health`.
        """
        return await self._call(_HEALTH, "health")

    async def status(self) -> dict[str, object]:
        """
        As `ShapeSource.status`.
        """
        return await self._call(_STATUS, "status")

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        """
        As `ShapeSource.list_shapes`.
        """
        return await self._call(_SHAPES_REPLY, "shapes", question)

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        As `ShapeSource.load_subset`.
        """
        return await self._call(_SUBSET_REPLY, "subset", question)

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        As `ShapeSource.remove`.
        """
        return await self._call(_REMOVE_REPLY, "remove", request)

    def _call(self, decoder: msgspec.msgpack.Decoder[_T], method: str, arguments: object = None) -> asyncio.Future[_T]:
        connection = self._connection
        if connection is None:
            return _fail("the engine is away")
        self._last_id += 1
        return connection.call(self._last_id, decoder, method, arguments)

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = RECONNECT_DELAY_S_MIN
        while True:
            try:
                _, connection = await loop.create_unix_connection(_Connection, str(self._path))
            except OSError:
                delay_s = min(2 * delay_s, RECONNECT_DELAY_S_MAX)
            else:
                delay_s = RECONNECT_DELAY_S_MIN
                self._connection = connection
                try:
                    await connection.lost
                finally:
                    self._connection = None
                    connection.cut()
            await asyncio.sleep(delay_s)


class _Answer(asyncio.Future[_T]):
    """
    The answer to a call; cancelling it takes the call back.
    """

    __slots__ = ("_connection", "decoder", "id")

    def __init__(self, connection: _Connection, call_id: int, decoder: msgspec.msgpack.Decoder[_T]) -> None:
        super().__init__()
        self._connection = connection
        self.id = call_id
        self.decoder = decoder

    def cancel(self, msg: Any | None = None) -> bool:
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self._connection.take_back(self.id)
        return is_cancelled


def _fail(reason: str) -> asyncio.Future[Any]:
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    failed.set_exception(ConnectionLostError(reason))
    return failed


class _Connection(_Framed):
    """
    One life of the connection to the engine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, _Answer[Any]] = {}
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            if not answer.done():
                answer.set_exception(ConnectionLostError("the engine went away"))

    def cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def call(
        self, call_id: int, decoder: msgspec.msgpack.Decoder[_T], method: str, arguments: object
    ) -> asyncio.Future[_T]:
        if self.transport is None or self.transport.is_closing():
            return _fail("the engine is away")
        if self.transport.get_write_buffer_size() > OUTPUT_BYTES_MAX:
            return _fail("the engine does not take calls")
        answer = self._calls[call_id] = _Answer(self, call_id, decoder)
        self.send(_ENCODER.encode((call_id, method, arguments)))
        return answer

    def take_back(self, call_id: int) -> None:
        if self._calls.pop(call_id, None) is not None:
            self.send(_ENCODER.encode((call_id, "cancel", None)))

    def frame_received(self, frame: bytes) -> None:
        reply = _REPLY.decode(frame)
        answer = self._calls.get(reply.id)
        if answer is None:
            return
        # Who waits for something that cannot be read learns that the connection is cut, as everybody does.
        if reply.kind == _OK:
            answer.set_result(answer.decoder.decode(reply.payload))
        elif reply.kind == _LOST:
            answer.set_exception(ConnectionLostError(_TEXT.decode(reply.payload)))
        else:
            answer.set_exception(EngineFaultError(_TEXT.decode(reply.payload)))
        del self._calls[reply.id]


def check_socket_path(path: Path) -> None:
    """
    Raises:
        ConfigError: the path is longer than the system allows for a socket.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(f"the path of a socket may have {SOCKET_PATH_BYTES_MAX} bytes: use a shorter one than {path}")


def is_same_user(sock: socket.socket) -> bool:
    """
    Tell whether the peer runs as our user. Where the system cannot tell, the mode of the socket file has to do.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return bool(uid == os.getuid())
