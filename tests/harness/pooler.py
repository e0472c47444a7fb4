"""
Debian's PgBouncer in transaction mode, in front of a throwaway Postgres.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import pytest

from penstock.testing.postgres import ThrowawayPostgres, free_port

START_TIMEOUT_S: Final = 20.0


class Pooler:
    """
    A pooler that passes everybody on as `postgres`; a context manager.

    It does not run as root: then it is started as an existing unprivileged user, as the server is.
    """

    def __init__(self, server: ThrowawayPostgres, *, pool_size: int = 3) -> None:
        binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if binary is None:
            if os.environ.get("CI") == "true":
                pytest.fail("pgbouncer is missing", pytrace=False)
            pytest.skip("pgbouncer is not installed here")
        self._binary: Final = binary
        self._server: Final = server
        self._pool_size: Final = pool_size
        self._folder: Final = Path(tempfile.mkdtemp(prefix="pooler-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port: Final = free_port()

    def url(self, database: str) -> str:
        """
        Name a database by way of the pooler.
        """
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def log(self) -> str:
        """
        What it has said.
        """
        return (self._folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        with self._server.connect() as connection:
            target = connection.info.port
        (self._folder / "pooler.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={target} user=postgres\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {self._pool_size}\n"
            f"unix_socket_dir =\nlogfile = {self._folder / 'log'}\n"
        )
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = next(entry for entry in pwd.getpwall() if entry.pw_name in {"postgres", "nobody"})
            options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (self._folder, self._folder / "pooler.ini"):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._process = subprocess.Popen(
            [self._binary, "-q", str(self._folder / "pooler.ini")], cwd=self._folder, **options
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, "the pooler has ended"
                assert time.monotonic() < deadline, "the pooler does not answer"
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)
