"""
A Penstock of its own for a test: `penstock serve` with all its processes, on a free port, gone without a trace afterwards.

Shell. Owns the child process, its folder, its replication slot and publication; asks it what it is asked from outside, and
makes it fail by name. The same code runs as in production, so what a test sees here is what production does; only patience is
shorter, and the secret is left out, because it listens on the loopback address only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import httpx
import psycopg

from penstock.errors import ConfigError, PenstockError
from penstock.postgres.lsn import EndLsn
from penstock.testing.postgres import free_port

if TYPE_CHECKING:
    from penstock.client.asynchronous import AsyncClient
    from penstock.client.blocking import Client

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 60.0
SYNC_TIMEOUT_S: Final = 60.0
"""Default of the longest wait for a service to have taken in what the database holds."""
ASK_EVERY_S: Final = 0.02
LOG_LINES: Final = 30

RUNNING_FAULTS: Final[Mapping[str, str]] = {
    "engine-killed": "SIGKILL to the engine, which is started again",
    "receiver-killed": "SIGKILL to the receiver, which is started again",
    "web-killed": "SIGKILL to the first process that answers clients, which is started again",
    "engine-stopped": "SIGSTOP to the engine: it hangs until it is taken for hung and replaced (engine_hang_s)",
    "service-killed": "SIGKILL to every process at once, as a power cut would; `start()` begins anew",
    "service-restarted": "ended in order and started again",
    "connection-cut": "the database ends the replication connection, which is made again",
    "slot-dropped": "the replication slot is dropped under the service: every shape starts over",
}
"""The faults that strike a running service, by name, and what each does. `penstock.testing.faults.FAULTS` has those inside."""


class ServiceFailedError(PenstockError):
    """
    The service did not do what it was asked; the message ends with its log.
    """


class Followed(Protocol):
    """
    A shape that `wait_for_sync` can look at: `penstock.Shape` and `penstock.AsyncShape`.
    """

    @property
    def state(self) -> dict[str, Any]:
        """
        Where it stands.
        """
        ...


class ThrowawayService:
    """
    One service on a database; a context manager.

    Attributes:
        database_url: what it follows.
        port: its port on 127.0.0.1; stays the same over restarts.
        url: where clients find it.
        folder: everything that belongs to it; removed at the end.
        settings: its settings, by name as text; changes take effect at the next start.
        stream: what its slot and publication are named after.
    """

    def __init__(self, database_url: str, *, settings: Mapping[str, str] | None = None) -> None:
        """
        Prepare; nothing is started yet.

        Args:
            database_url: a database with `wal_level = logical`, as a user that may replicate.
            settings: any setting by name, as text: `{"chunk_bytes_max": "20000"}`; `penstock settings` lists them.
        """
        self.database_url: Final = database_url
        self.port: Final = free_port()
        self.url: Final = f"http://127.0.0.1:{self.port}"
        self.folder: Final = Path(tempfile.mkdtemp(prefix="penstock-service-"))
        # Slots are names of the whole server: two tests at once must not meet there.
        self.stream: Final = f"test_{uuid.uuid4().hex[:16]}"
        self.settings: Final[dict[str, str]] = {
            "insecure": "true",
            "host": "127.0.0.1",
            "port": str(self.port),
            "data_dir": str(self.folder / "data"),
            "replication_stream_id": self.stream,
            "log_colors": "false",
            # Clients that wait in vain learn sooner that they have everything.
            "long_poll_timeout_s": "2",
            **(settings or {}),
        }
        self._faults: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        # A proxy of the user's is not for us.
        self._http: Final = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slot(self) -> str:
        """
        Name of its replication slot.
        """
        return f"penstock_slot_{self.stream}"

    @property
    def publication(self) -> str:
        """
        Name of its publication.
        """
        return f"penstock_publication_{self.stream}"

    @property
    def is_running(self) -> bool:
        """
        Whether its first process lives.
        """
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """
        What it has written to its log.
        """
        try:
            return (self.folder / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """
        Start it; returns when it serves.

        Raises:
            ServiceFailedError: it does not.
        """
        assert not self.is_running, "the service runs already"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PENSTOCK_", "ELECTRIC_", "DATABASE_URL"))
        }
        told = {f"PENSTOCK_{name.upper()}": value for name, value in self.settings.items()}
        if self._faults:
            told |= {"PENSTOCK_FAULTS": ";".join(self._faults), "PENSTOCK_ENABLE_FAULT_INJECTION": "true"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "penstock", "serve"],
                env={**kept, "DATABASE_URL": self.database_url, **told},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        self._until(self._is_active, timeout_s, "it does not start")

    def stop(self) -> None:
        """
        End it in order, as Ctrl-C does, and wait for its end; the data stays for another start.

        Raises:
            ServiceFailedError: it did not end in time (then it was killed), or not in order.
        """
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure("it did not end in time") from None
        self._process = None
        if status:
            raise self._failure(f"it ended with status {status}")

    def restart(self) -> None:
        """
        End it in order and start it again.
        """
        self.stop()
        self.start()

    def kill(self) -> None:
        """
        Kill every process of it at once; `start()` then recovers from what is on disk.
        """
        process, self._process = self._process, None
        if process is None:
            return
        for pid in (process.pid, *_descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """
        End it, and remove its folder, its slot and its publication. Safe to call twice.
        """
        self.kill()
        self._http.close()
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.database_url, autocommit=True) as connection:
            self._drop_slot(connection)
            connection.execute(f'DROP PUBLICATION IF EXISTS "{self.publication}"'.encode())
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- asking ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """
        Give what `GET /v1/status` says.

        Raises:
            httpx.TransportError: it does not answer.
        """
        answer = self._http.get("/v1/status")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def pid(self, role: str, *, timeout_s: float = START_TIMEOUT_S) -> int:
        """
        Find the process of a role: `supervisor`, `receiver`, `engine` or `web`.

        Raises:
            ServiceFailedError: there is none.
        """
        found: list[int] = []

        def is_found() -> bool:
            found[:] = [each["pid"] for each in self.status()["processes"] if each["role"] == role and each["pid"]]
            return bool(found)

        self._until(is_found, timeout_s, f"it has no process for {role!r}")
        return found[0]

    def client(self, **options: Any) -> Client:
        """
        Give a client of it; `options` as for `penstock.Client`. The caller closes it.
        """
        from penstock.client.blocking import Client  # noqa: PLC0415  many tests need one of the two

        return Client(self.url, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """
        Likewise for `penstock.AsyncClient`.
        """
        from penstock.client.asynchronous import AsyncClient  # noqa: PLC0415  likewise

        return AsyncClient(self.url, **options)

    def wait_for_sync(self, *shapes: Followed, timeout_s: float = SYNC_TIMEOUT_S) -> None:
        """
        Wait until what has been committed so far has reached the service, and the shapes that are named.

        Args:
            shapes: shapes of clients of this service.
            timeout_s: how long at most.

        Raises:
            ServiceFailedError: it takes longer.
        """
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            row = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").fetchone()
        assert row is not None, "a query of one row"
        here = EndLsn(int(row[0]))

        def has_processed() -> bool:
            return bool(EndLsn.parse(self.status()["positions"].get("processed", "0/0")) >= here)

        deadline = time.monotonic() + timeout_s
        self._until(has_processed, timeout_s, f"it has not taken in what was committed within {timeout_s} s")
        for shape in shapes:
            left_s = deadline - time.monotonic()
            self._until(partial(self._has_all, shape), left_s, f"a shape is not in sync within {timeout_s} s")

    def _has_all(self, shape: Followed) -> bool:
        """
        Ask for what comes after the place where a shape stands; nothing must.
        """
        state = shape.state
        if state["handle"] is None:
            return False
        query = {**state["definition"], "handle": state["handle"], "offset": state["offset"]}
        answer = self._http.get("/v1/shape", params=query)
        if answer.status_code != httpx.codes.OK:
            return False
        return "electric-up-to-date" in answer.headers and all("key" not in each for each in answer.json())

    # --- hurting -----------------------------------------------------------------------------------------------------

    def inject(self, fault: str, *, table: str = "", word: str = "") -> None:
        """
        Make something fail.

        Args:
            fault: one of `RUNNING_FAULTS`, which strikes now; or one of `penstock.testing.faults.FAULTS`, for which the
                service is restarted, and which strikes when a change with the word reaches a shape on the table.
            table: the table of faults inside, without its schema.
            word: the word that they wait for.

        Raises:
            ConfigError: there is no such fault, or its table or its word is missing.
            ServiceFailedError: it cannot be staged.
        """
        match fault:
            case "engine-killed" | "receiver-killed" | "web-killed":
                os.kill(self.pid(fault.removesuffix("-killed")), signal.SIGKILL)
            case "engine-stopped":
                os.kill(self.pid("engine"), signal.SIGSTOP)
            case "service-killed":
                self.kill()
            case "service-restarted":
                self.restart()
            case "connection-cut" | "slot-dropped":
                with psycopg.connect(self.database_url, autocommit=True) as connection:
                    if fault == "slot-dropped":
                        self._drop_slot(connection)
                    else:
                        self._cut(connection)
            case _:
                self.plan_faults([f"{fault}:{table}:{word}"])
                self.restart()

    def plan_faults(self, faults: Sequence[str]) -> None:
        """
        Have faults inside from the next start on, each as `NAME:TABLE:WORD` (see `penstock.testing.faults`).

        Raises:
            ConfigError: one is not a fault.
        """
        from penstock.testing.faults import FAULTS, parse_faults  # noqa: PLC0415  brings all of the engine

        for fault in faults:
            name = fault.partition(":")[0]
            if name not in FAULTS:
                raise ConfigError(f"there is no fault {name!r}; there are {', '.join([*RUNNING_FAULTS, *FAULTS])}")
            parse_faults(fault)
        self._faults += faults

    def _cut(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (self.slot,)
        )

    def _drop_slot(self, connection: psycopg.Connection[Any]) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            self._cut(connection)
            try:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                    (self.slot,),
                )
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                # Its reader has just come back, or somebody was faster.
                if time.monotonic() > deadline:
                    raise self._failure("it would not give up its slot") from None
                time.sleep(ASK_EVERY_S)
            else:
                return

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _is_active(self) -> bool:
        return self._http.get("/v1/health").status_code == httpx.codes.OK

    def _until(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """
        Ask until the answer is yes; nobody who does not answer has said yes.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
                if condition():
                    return
            if self._process is None:
                raise self._failure("it is not started")
            if self._process.poll() is not None:
                raise self._failure(f"it ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(otherwise)
            time.sleep(ASK_EVERY_S)

    def _failure(self, what: str) -> ServiceFailedError:
        tail = "\n".join(self.log.splitlines()[-LOG_LINES:])
        return ServiceFailedError(f"the throwaway Penstock: {what}; its log ends:\n{tail}")


def _descendants(pid: int) -> list[int]:
    """
    Name the children of a process and theirs; none where the system does not tell (they end by themselves then).
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found
