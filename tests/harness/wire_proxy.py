"""
A TCP proxy in front of a server, whose wire can be frozen and cut.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Final, Self


class WireProxy:
    """
    Passes bytes on in both directions, in a thread of its own, until told not to.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port: Final = target_port
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self.port: Final[int] = self._listener.getsockname()[1]
        self._wake_read, self._wake_write = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._is_frozen = False
        self._is_closing = False
        self._left_to_cut: int | None = None
        self._thread: Final = threading.Thread(target=self._run, name="wire-proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_closing = True
        self._wake_write.send(b"\0")
        self._thread.join()
        for each in (*self._peers, self._listener, self._wake_read, self._wake_write):
            each.close()

    def freeze(self) -> None:
        """
        Pass nothing on any more, on the connections there are; new ones are served.
        """
        self._is_frozen = True
        self._wake_write.send(b"\0")

    def cut_after(self, byte_count: int) -> None:
        """
        Cut the connection that brings the server's next so many bytes, once, right behind them.
        """
        self._left_to_cut = byte_count

    def _run(self) -> None:
        live: list[socket.socket] = [self._listener, self._wake_read]
        while not self._is_closing:
            ready, _, _ = select.select(live, [], [])
            for each in ready:
                if each is self._wake_read:
                    each.recv(1)
                    if self._is_frozen:
                        # They stay open and are never looked at again.
                        live = [self._listener, self._wake_read]
                        self._is_frozen = False
                elif each is self._listener:
                    client, _ = each.accept()
                    server = socket.create_connection(("127.0.0.1", self._target_port))
                    self._peers |= {client: server, server: client}
                    live += [client, server]
                elif each in live:
                    self._pass_on(each, live)

    def _pass_on(self, source: socket.socket, live: list[socket.socket]) -> None:
        target = self._peers[source]
        try:
            data = source.recv(65536)
            if data and self._left_to_cut is not None and source.getpeername()[1] == self._target_port:
                data = data[: self._left_to_cut]
                self._left_to_cut -= len(data)
                target.sendall(data)
                if self._left_to_cut:
                    return
                self._left_to_cut = None
            elif data:
                target.sendall(data)
                return
        except OSError:
            data = b""
        for each in (source, target):
            live.remove(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
