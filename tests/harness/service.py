"""
The real `penstock serve` as a child process, to be asked, hurt and stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec

from penstock.postgres.lsn import EndLsn
from penstock.testing.postgres import free_port

PYTHON: Final = os.environ.get("PENSTOCK_TEST_PYTHON", sys.executable)
"""The interpreter whose installed package is tested: that of the built wheel, when the whole suite runs."""
START_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05


class Service:
    """
    One running service with its own data folder and port; an asynchronous context manager.
    """

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *args: str,
        env: dict[str, str] | None = None,
        command: tuple[str, ...] = ("-m", "penstock"),
        python: str = PYTHON,
    ) -> None:
        """
        Prepare to serve `database_url` from `folder`, with more arguments and environment, by another command or another
        interpreter if need be.
        """
        self._python: Final = python
        self._command: Final = command
        self.database_url: Final = database_url
        self.data_dir: Final = folder / "data"
        self.port: Final = free_port()
        self.url: Final = f"http://127.0.0.1:{self.port}"
        self.log_path: Final = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._args: Final = args
        # Slots are names of the whole cluster: each service gets its own.
        stream = "t" + "".join(c for c in database_url.rsplit("/", 1)[-1].partition("?")[0].lower() if c.isalnum())
        self.stream: Final = stream[:40]
        self._env: Final = {
            "PENSTOCK_INSECURE": "true",
            "PENSTOCK_REPLICATION_STREAM_ID": self.stream,
            "PENSTOCK_LOG_LEVEL": "debug",
            # Waiting clients learn sooner that they have seen all.
            "PENSTOCK_LONG_POLL_TIMEOUT_S": "3",
            **(env or {}),
        }
        # No connection is kept: a service may outlive the loop in which one was made.
        self._http: Final = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(30.0), limits=httpx.Limits(max_keepalive_connections=0)
        )

    @property
    def slot(self) -> str:
        """
        Name of its replication slot.
        """
        return f"penstock_slot_{self.stream}"

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.wait_active()
        except BaseException:
            self.kill_all()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        if self.process is not None and self.process.poll() is None:
            try:
                await self.stop()
            finally:
                self.kill_all()

    def start(self) -> None:
        """
        Execute it.
        """
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._python,
                    *self._command,
                    "serve",
                    "--port",
                    str(self.port),
                    "--data-dir",
                    str(self.data_dir),
                    *self._args,
                ],
                env={**kept, "DATABASE_URL": self.database_url, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )

    async def wait_active(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """
        Wait until it says it is active; fails with its log.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log_tail()}"
            try:
                answer = await self._http.get("/v1/health")
                if answer.status_code == 200 and answer.json()["status"] == "active":
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"not active after {timeout_s} s:\n{self.log_tail()}")

    async def get(self, path: str, **params: str) -> httpx.Response:
        """
        Ask it anything.
        """
        return await self._http.get(self.url + path, params=params)

    async def status(self) -> dict[str, Any]:
        """
        Ask for everything it tells operators.
        """
        answer = await self._http.get("/v1/status")
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=dict[str, Any])

    async def has_problems(self) -> bool:
        """
        Whether its status names any problem.
        """
        return bool((await self.status())["problems"])

    async def is_well(self) -> bool:
        """
        Whether its status names none.
        """
        return not await self.has_problems()

    async def pid(self, role: str, *, other_than: int | None = None, timeout_s: float = START_TIMEOUT_S) -> int:
        """
        Find the process of a role, waiting for a new one if an old one is named.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                found = [p["pid"] for p in (await self.status())["processes"] if p["role"] == role and p["pid"]]
            except (httpx.TransportError, AssertionError):
                found = []
            if found and found[0] != other_than:
                return int(found[0])
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"no process for {role} after {timeout_s} s:\n{self.log_tail()}")

    async def confirmed(self) -> EndLsn:
        """
        The position it says it has confirmed.
        """
        return EndLsn.parse((await self.status())["positions"]["confirmed"])

    async def kill(self, role: str, number: int = signal.SIGKILL) -> int:
        """
        Send a signal to the process of a role; gives its pid.
        """
        pid = await self.pid(role)
        os.kill(pid, number)
        return pid

    def kill_all(self) -> None:
        """
        Kill every process of it at once, as a power cut would.
        """
        if self.process is None:
            return
        for pid in _session_members(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)

    async def stop(self, timeout_s: float = 20.0) -> int:
        """
        Ask it to end and wait; gives its exit status.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(timeout_s):
            status = await asyncio.to_thread(self.process.wait)
        assert status == 0, f"ended with {status}:\n{self.log_tail()}"
        return status

    def log_tail(self, lines: int = 60) -> str:
        """
        The last lines of its log.
        """
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def serving(service: Service) -> Iterator[Service]:
    """
    Have it run for as long as the block, for fixtures that outlive every event loop, and end it in order.
    """
    service.start()
    try:
        _wait_active(service)
        yield service
        asyncio.run(service.stop())
    finally:
        service.kill_all()


def _wait_active(service: Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(base_url=service.url) as client:
        while time.monotonic() < deadline:
            assert service.process is not None
            assert service.process.poll() is None, f"ended with {service.process.returncode}:\n{service.log_tail()}"
            try:
                if client.get("/v1/health").json() == {"status": "active"}:
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL_S)
    raise AssertionError(f"not active after {START_TIMEOUT_S} s:\n{service.log_tail()}")


@contextlib.asynccontextmanager
async def started(service: Service) -> AsyncIterator[Service]:
    """
    Start a service without waiting for anything, and end it when the block ends, however that is.
    """
    service.start()
    try:
        yield service
    except BaseException:
        service.kill_all()
        raise
    finally:
        await service.__aexit__()


def _session_members(session: int) -> list[int]:
    """
    List the processes of a session, children in sessions of their own included.
    """
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    members = [session]
    for parent in members:
        members.extend(pid for pid, above in parents.items() if above == parent)
    return members
