"""
The service as its users run it: `penstock serve` in processes of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.measure import Usage, family, is_running, usage_of
from benchmarks.source import SLOT

START_S_MAX: Final = 60.0
_STOP_S_MAX: Final = 30.0
_POLL_S: Final = 0.02
_LOG_CHARACTERS: Final = 3000


class Service:
    """
    A running service; a context manager that stops it in order.

    Attributes:
        port: where it serves.
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        single_process: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """
        Prepare; nothing is started yet.

        Args:
            database_url: what it follows.
            folder: keeps `data` and the log; a service that is started again in it goes on.
            single_process: all roles in one process.
            settings: as environment variables, besides those that are always set.
        """
        self._settings: Final = settings or {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: Final[int] = probe.getsockname()[1]
        self._folder: Final = folder
        self._database_url: Final = database_url
        self._args: Final = ["--single-process"] if single_process else []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """
        Execute it; returns before it is ready.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))}
        settings = {
            "DATABASE_URL": self._database_url,
            "PENSTOCK_INSECURE": "true",
            "PENSTOCK_HOST": "127.0.0.1",
            "PENSTOCK_PORT": str(self.port),
            "PENSTOCK_DATA_DIR": str(self._folder / "data"),
            "PENSTOCK_REPLICATION_STREAM_ID": SLOT.removeprefix("penstock_slot_"),
            "PENSTOCK_LOG_LEVEL": "warning",
            "PENSTOCK_LOG_COLORS": "false",
            **self._settings,
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "penstock", "serve", *self._args],
                env={**kept, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
            )

    def stop(self) -> None:
        """
        End it in order, or kill it when it does not.
        """
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the service did not end in {_STOP_S_MAX:g} s:\n{self.log}") from None
        finally:
            self._process = None

    def kill(self) -> None:
        """
        End all its processes at once, as a power cut would.
        """
        process = self._process
        assert process is not None
        pids = family(process.pid)
        # The supervisor comes first: it would start the others again.
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        self._process = None
        deadline = time.monotonic() + _STOP_S_MAX
        while any(is_running(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the killed service is still there after {_STOP_S_MAX:g} s")
            time.sleep(_POLL_S)

    def wait_active(self, timeout_s: float = START_S_MAX) -> None:
        """
        Wait until shapes can be made and read.

        Args:
            timeout_s: for so long.
        """
        deadline = time.monotonic() + timeout_s
        while self._health() != "active":
            self.insist_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the service is not active after {timeout_s:g} s:\n{self.log}")
            time.sleep(_POLL_S)

    def insist_alive(self) -> None:
        """
        Raise when it has ended.
        """
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the service has ended:\n{self.log}")

    @property
    def pid(self) -> int:
        """
        Its first process, which supervises the others.
        """
        assert self._process is not None
        return self._process.pid

    def find_role(self, name: str) -> int:
        """
        Find the process of a role, as `receiver` or `engine`.

        Raises:
            RuntimeError: there is none.
        """
        for pid in family(self.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[-3:-1] == [b"role", name.encode()]:
                return pid
        raise RuntimeError(f"the service has no {name}")

    def usage(self) -> Usage:
        """
        Read what its processes have used so far.
        """
        return usage_of(self.pid)

    @property
    def log(self) -> str:
        """
        The end of its log.
        """
        return (self._folder / "log").read_text(errors="replace")[-_LOG_CHARACTERS:]

    def status(self) -> dict[str, Any]:
        """
        Ask it how it is, as `/v1/status` tells; empty when it does not answer.
        """
        return self._ask("/v1/status")

    def _health(self) -> str:
        return str(self._ask("/v1/health").get("status", ""))

    def _ask(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        finally:
            connection.close()
        return answer
