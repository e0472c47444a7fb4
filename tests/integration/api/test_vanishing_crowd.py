"""
Ten thousand who wait and are gone at once, at a server that has a process of its own.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

TESTS: Final = Path(__file__).parents[2]
CROWD: Final = 10_000
SPARE_FILES: Final = 500
"""Descriptors that a process needs besides those of the crowd."""
CLIENT_KIB_MAX: Final = 16
"""Twice what a parked client should take."""
TIMEOUT_S: Final = 120.0
RESET: Final = struct.pack("ii", 1, 0)


@pytest.fixture(autouse=True)
def event_loop() -> None:
    """
    The server has its own.
    """


@pytest.fixture
def files_max() -> Iterator[int]:
    """
    As many open files as the system lets us have.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Server:
    """
    The process.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        told = self._read()
        self.port: Final[int] = told["port"]
        self.live: Final[bytes] = told["live"].encode()

    def state(self) -> dict[str, Any]:
        """
        Ask what it has under way.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def until(self, name: str, value: object) -> dict[str, Any]:
        """
        Ask until the answer has this.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while (state := self.state())[name] != value:
            assert time.monotonic() < deadline, state
            time.sleep(0.02)
        return state

    def connect(self) -> socket.socket:
        """
        Open a connection.
        """
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


@contextmanager
def server_process(data_dir: Path) -> Iterator[Server]:
    """
    Run the server until the block ends.
    """
    command = [sys.executable, "-m", "harness.served_source", str(data_dir)]
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
            process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0
        finally:
            process.kill()


def test_ten_thousand_who_vanish_leave_nothing(
    tmp_path: Path, files_max: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    They take little memory each, nothing is left under way when they go, in order or not, and those who come next take
    the memory that they left. Where the system allows fewer open files the crowd is as large as it can be.
    """
    crowd = min(CROWD, files_max - SPARE_FILES)
    if crowd < CROWD:
        with capsys.disabled():
            sys.stdout.write(f"only {files_max} open files are allowed: a crowd of {crowd}\n")
    with server_process(tmp_path) as server:
        request = b"GET " + server.live + b" HTTP/1.1\r\nhost: x\r\n\r\n"
        alone_kib = server.state()["resident_kib"]
        taken_kib: list[int] = []
        for count in (crowd, crowd // 10):
            with ExitStack() as clients:
                for number in range(count):
                    client = clients.enter_context(server.connect())
                    client.sendall(request)
                    if number % 2:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                taken_kib.append(server.until("under_way", count)["resident_kib"] - alone_kib)
            server.until("is_quiet", value=True)
        assert taken_kib[0] / crowd < CLIENT_KIB_MAX
        assert taken_kib[1] < taken_kib[0] * 1.1
        with server.connect() as client:
            client.sendall(b"GET /v1/shape?table=items&offset=-1 HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
