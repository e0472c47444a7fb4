"""
Clients that cost little: many sockets in one loop, each of which knows how long its answer is.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

_BUFFER: Final = bytearray(1 << 20)


@dataclass(slots=True)
class Client:
    """
    A connection, and how much of its answer is still to come.
    """

    sock: socket.socket
    left: int = 0


class Load:
    """
    Connections to one server; a context manager.
    """

    def __init__(self, port: int, count: int) -> None:
        """
        Connect `count` clients.
        """
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._clients[sock.fileno()] = Client(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.sock.close()
        self._poll.close()

    @property
    def clients(self) -> Sequence[Client]:
        """
        All of them.
        """
        return tuple(self._clients.values())

    def learn(self, request: bytes) -> int:
        """
        Let one client ask, and give the length of the answer.
        """
        client = self.clients[0]
        client.sock.setblocking(True)
        client.sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += client.sock.recv(65_536)
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"answered {head[:200]!r}")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        got = len(body)
        while got < length:
            got += client.sock.recv_into(_BUFFER)
        client.sock.setblocking(False)
        return len(head) + 4 + length

    def repeat(self, request: bytes, answer_bytes: int, duration_s: float) -> int:
        """
        Let all ask again and again; gives how many whole answers came.
        """
        for client in self._clients.values():
            client.left = answer_bytes
            client.sock.send(request)
        answers = 0
        until = time.monotonic() + duration_s
        waiting = len(self._clients)
        while waiting:
            is_over = time.monotonic() >= until
            for descriptor, _ in self._poll.poll():
                client = self._clients[descriptor]
                got = client.sock.recv_into(_BUFFER)
                if not got:
                    raise RuntimeError("the server closed a connection")
                client.left -= got
                if client.left > 0:
                    continue
                answers += 1
                if is_over:
                    waiting -= 1
                else:
                    client.left = answer_bytes
                    client.sock.send(request)
        return answers

    def send_each(self, requests: Iterable[bytes]) -> None:
        """
        Let all ask once, each its own.
        """
        for client, request in zip(self._clients.values(), requests, strict=True):
            client.sock.send(request)

    def drain(self, quiet_s: float) -> None:
        """
        Throw away what comes until nothing has come for so long.
        """
        while events := self._poll.poll(quiet_s):
            for descriptor, _ in events:
                self._clients[descriptor].sock.recv_into(_BUFFER)

    def await_all(self) -> float:
        """
        Wait until everybody has got something; gives the moment of the last.
        """
        missing = set(self._clients)
        last = time.perf_counter()
        while missing:
            for descriptor, _ in self._poll.poll():
                self._clients[descriptor].sock.recv_into(_BUFFER)
                missing.discard(descriptor)
            last = time.perf_counter()
        return last
