"""
Sends a large body over a connection at its reader's pace, without holding it in memory.

Shell. Theory of operation: what lies in files goes from the page cache to the socket in the kernel (`sendfile`). The
transport of the loop has no way to do that at this pace, so the body is written to a duplicate of its socket, while the
transport has nothing to write; between two writes the loop says when the socket takes more. Bytes in memory go the same
way, from where they are. Where the kernel cannot do it (TLS, another system, a transport with bytes left), a task copies
blocks through the transport instead.

A sender ends in exactly one of: done, failed (a file is shorter than it was said to be, the peer is gone, or a fault of
ours), cancelled.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, Protocol

from penstock.api.files import OpenBody, Run
from penstock.errors import CorruptLogError

TURN_BYTES_MAX: Final = 1024 * 1024
"""How much one connection sends before the others have a turn."""

READAHEAD_BYTES: Final = 2 * 1024 * 1024
"""How much of a file the system is asked to have in memory before it is needed."""

_MORE: Final = getattr(socket, "MSG_MORE", 0)
_HAS_SENDFILE: Final = hasattr(os, "sendfile")
_HAS_ADVICE: Final = hasattr(os, "posix_fadvise")


class Sending(Protocol):
    """
    A body on its way.
    """

    def start(self) -> None:
        """
        Begin.
        """
        ...

    def cancel(self) -> None:
        """
        Stop; nothing is called any more.
        """
        ...


class Receiver(Protocol):
    """
    Whoever wants to know what became of a body.
    """

    def body_moved(self) -> None:
        """
        The reader has taken something.
        """
        ...

    def body_sent(self) -> None:
        """
        All is written.
        """
        ...

    def body_failed(self, error: Exception) -> None:
        """
        The rest cannot be written: the connection must be cut.
        """
        ...


def make_sending(
    transport: asyncio.Transport,
    head: bytes,
    body: OpenBody,
    receiver: Receiver,
    *,
    readers: Executor,
    drain: Callable[[], asyncio.Future[None] | None],
) -> Sending:
    """
    Choose the way for a head and a body; `drain` gives what to wait for before more is written to the transport.
    """
    plain = transport.get_extra_info("socket")
    is_direct = (
        _HAS_SENDFILE
        and plain is not None
        and transport.get_extra_info("sslcontext") is None
        and transport.get_write_buffer_size() == 0
    )
    if is_direct:
        return DirectSending(plain.fileno(), head, body, receiver)
    return CopySending(transport, head, body, receiver, readers=readers, drain=drain)


class DirectSending:
    """
    From files to the socket in the kernel.
    """

    def __init__(self, descriptor: int, head: bytes, body: OpenBody, receiver: Receiver) -> None:
        """
        Send over a duplicate of the socket with this descriptor.
        """
        self._loop: Final = asyncio.get_running_loop()
        self._socket: Final = socket.socket(fileno=os.dup(descriptor))
        self._receiver: Final = receiver
        self._left: Final[deque[memoryview | Run]] = deque([memoryview(head)])
        for run in body.runs():
            self._left.append(run if isinstance(run, Run) else memoryview(run))
        self._is_watching = False
        self._next_turn: asyncio.Handle | None = None

    def start(self) -> None:
        """
        Begin.
        """
        self._go_on()

    def cancel(self) -> None:
        """
        Stop, and let go of the duplicate.
        """
        if self._is_watching:
            self._loop.remove_writer(self._socket.fileno())
            self._is_watching = False
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._left.clear()
        self._socket.close()

    def _go_on(self) -> None:
        self._next_turn = None
        try:
            sent = self._send_some()
        except Exception as error:  # noqa: BLE001 - whatever it is, the response cannot be whole, and the loop must not call again
            self.cancel()
            self._receiver.body_failed(error)
            return
        if not self._left:
            self.cancel()
            self._receiver.body_sent()
            return
        if sent:
            self._receiver.body_moved()
        if sent < TURN_BYTES_MAX and not self._is_watching:
            self._loop.add_writer(self._socket.fileno(), self._go_on)
            self._is_watching = True
        elif not self._is_watching:
            self._next_turn = self._loop.call_soon(self._go_on)

    def _send_some(self) -> int:
        """
        Send until the socket takes no more or it is somebody else's turn; gives how much it was.
        """
        sent = 0
        left = self._left
        try:
            while left and sent < TURN_BYTES_MAX:
                part = left[0]
                rest: memoryview | Run | None = None
                if isinstance(part, Run):
                    count = self._send_file(part)
                    if part.start_byte + count < part.end_byte:
                        rest = part._replace(start_byte=part.start_byte + count)
                else:
                    count = self._socket.send(part, _MORE if len(left) > 1 else 0)
                    if count < len(part):
                        rest = part[count:]
                if rest is None:
                    left.popleft()
                else:
                    left[0] = rest
                sent += count
        except BlockingIOError:
            pass
        return sent

    def _send_file(self, run: Run) -> int:
        if _HAS_ADVICE and run.start_byte % READAHEAD_BYTES < TURN_BYTES_MAX:
            os.posix_fadvise(run.descriptor, run.start_byte, READAHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        wanted = min(run.end_byte - run.start_byte, TURN_BYTES_MAX)
        count = os.sendfile(self._socket.fileno(), run.descriptor, run.start_byte, wanted)
        if count == 0:
            raise CorruptLogError(f"a file ends at byte {run.start_byte}, before {run.end_byte}")
        return count


class CopySending:
    """
    Blocks through the transport.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        head: bytes,
        body: OpenBody,
        receiver: Receiver,
        *,
        readers: Executor,
        drain: Callable[[], asyncio.Future[None] | None],
    ) -> None:
        """
        Send over `transport`, waiting for what `drain` gives.
        """
        self._transport: Final = transport
        self._head: Final = head
        self._body: Final = body
        self._receiver: Final = receiver
        self._readers: Final = readers
        self._drain: Final = drain
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """
        Begin.
        """
        self._task = asyncio.get_running_loop().create_task(self._run(), name="send a body")

    def cancel(self) -> None:
        """
        Stop.
        """
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self._transport.write(self._head)
            async for block in self._body.blocks(self._readers):
                waited_for = self._drain()
                if waited_for is not None:
                    await waited_for
                self._transport.write(block)
                self._receiver.body_moved()
        except Exception as error:  # noqa: BLE001 - whatever it is, the response cannot be whole: nobody may wait for its end
            self._receiver.body_failed(error)
        else:
            self._receiver.body_sent()
