"""
The service that is tortured: a real `penstock serve` with all its processes. A shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from penstock.errors import PenstockError
from penstock.testing.postgres import free_port

START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 30.0
ASK_S: Final = 0.05
_LOG_LINES: Final = 12
_LOG_LINE_CHARS: Final = 400


class TortureFailedError(PenstockError):
    """
    Met when a fault could not be staged or its end not be seen: nothing is known of the promise then.
    """


class Child:
    """
    One service with a folder and a port of its own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """
        Prepare; nothing is started yet.
        """
        self.data_dir: Final = folder / "data"
        self.port: Final = free_port()
        self.url: Final = f"http://127.0.0.1:{self.port}"
        self._log_path: Final = folder / "service.log"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))}
        self._environment: Final = {
            **kept,
            "PENSTOCK_INSECURE": "true",
            "PENSTOCK_HOST": "127.0.0.1",
            "PENSTOCK_PORT": str(self.port),
            "PENSTOCK_DATA_DIR": str(self.data_dir),
            "PENSTOCK_LONG_POLL_TIMEOUT_S": "3",
            "PENSTOCK_LOG_COLORS": "false",
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None
        # A proxy of the user's is not for us.
        self._http: Final = httpx.AsyncClient(base_url=self.url, timeout=10.0, trust_env=False)

    async def start(self) -> None:
        """
        Execute it and wait until it serves.

        Raises:
            TortureFailedError: it does not.
        """
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-P", "-m", "penstock", "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await self._is_active():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise TortureFailedError(f"the service does not start:\n{self.log_tail()}")
            await asyncio.sleep(ASK_S)

    async def _is_active(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await self._http.get("/v1/health")).status_code == httpx.codes.OK
        return False

    async def status(self) -> dict[str, Any] | None:
        """
        Ask for its status; None while it cannot tell.
        """
        try:
            answer = await self._http.get("/v1/status")
        except httpx.TransportError:
            return None
        if answer.status_code != httpx.codes.OK:
            return None
        found = msgspec.json.decode(answer.content, type=dict[str, Any])
        return found if "positions" in found else None

    async def ask_status(self) -> dict[str, Any]:
        """
        Ask until it tells.

        Raises:
            TortureFailedError: it never does.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := await self.status()) is None:
            if time.monotonic() > deadline:
                raise TortureFailedError(f"the service does not tell its status:\n{self.log_tail()}")
            await asyncio.sleep(ASK_S)
        return found

    async def pid(self, role: str) -> int:
        """
        Find the process of a role.
        """
        while True:
            processes = (await self.ask_status())["processes"]
            found = [process["pid"] for process in processes if process["role"] == role and process["pid"]]
            if found:
                return int(found[0])
            await asyncio.sleep(ASK_S)

    async def pids(self) -> list[int]:
        """
        List its processes, the supervisor first.
        """
        return [process["pid"] for process in (await self.ask_status())["processes"] if process["pid"]]

    def sheds(self) -> list[dict[str, Any]]:
        """
        Give what its black box holds of the shapes that were given up because of a fault.
        """
        path = self.data_dir / "black-box" / "sheds.jsonl"
        if not path.exists():
            return []
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in path.read_bytes().splitlines()]

    async def signal(self, role: str, number: int) -> int:
        """
        Send a signal to the process of a role; gives its pid.
        """
        pid = await self.pid(role)
        os.kill(pid, number)
        return pid

    async def stop(self) -> None:
        """
        Ask it to end and wait; kill what does not.
        """
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(ASK_S)
        self.kill()

    def kill(self) -> None:
        """
        End every process of it at once.
        """
        process, self._process = self._process, None
        if process is None:
            return
        children = _children(process.pid) if process.poll() is None else []
        process.kill()
        # The roles see that the supervisor is gone, and would end by themselves if they can.
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    async def close(self) -> None:
        """
        End it and what belongs to it.
        """
        try:
            await self.stop()
        finally:
            self.kill()
            await self._http.aclose()

    def log_tail(self) -> str:
        """
        The last lines of its log.
        """
        if not self._log_path.exists():
            return ""
        lines = self._log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(line[-_LOG_LINE_CHARS:] for line in lines)


def _children(pid: int) -> list[int]:
    """
    List the children of a process.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found
