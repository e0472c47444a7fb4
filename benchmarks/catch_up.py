"""
How fast one client gets a long log that is there already, against nginx sending the very file that it lies in.

The shape is made while its table is empty, so that everything is changes and nothing a snapshot. Then the client reads
it from the beginning, chunk after chunk, on one connection, as often as nginx sends the file, in turns. Both are asked
by the same code, which throws away what it gets.
"""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.measure import Usage, usage_of
from benchmarks.progress import say
from benchmarks.reading import ShapeReader, wait_readable
from benchmarks.report import Figure, Sample
from benchmarks.service import Service
from benchmarks.source import SLOT, drop_slot, insert_marker, insert_wide
from benchmarks.suites import Setting, Suite

NAME: Final = "catch-up"
ROWS_SHARE: Final = 0.8
"""So many rows of about a KiB, as a share of those asked for: 1 GB of log for a million."""
IN_TRANSACTION: Final = 1000
ROUNDS: Final = 7
_BUFFER_BYTES: Final = 1 << 20
_START_S_MAX: Final = 60.0
_WRITING_S_MAX: Final = 600.0


def measure_catch_up(setting: Setting) -> list[Figure]:
    """
    Measure a client that reads a whole log.
    """
    if shutil.which("nginx") is None:
        say(f"{NAME} is left out: it compares with nginx, which is not installed")
        return []
    row_count = max(1, int(setting.row_count * ROWS_SHARE))
    database = setting.source.make_database()
    try:
        with (
            tempfile.TemporaryDirectory(dir=setting.folder) as name,
            Service(database.url, Path(name), single_process=setting.single_process) as service,
            ShapeReader(service.port) as reader,
        ):
            service.wait_active()
            reader.read_all()
            insert_wide(database, 1, row_count, size=IN_TRANSACTION)
            marker = insert_marker(database, row_count + 1)
            wait_readable(reader, service, marker, timeout_s=_WRITING_S_MAX)
            counted = reader.read_all(is_counting=True)
            if counted.row_count != row_count + 1:
                raise RuntimeError(f"the shape has {counted.row_count} rows, not {row_count + 1}")
            file = _largest_file(Path(name) / "data" / "shapes")
            rounds = [_round(service, reader, file, number) for number in range(ROUNDS)]
        drop_slot(database, SLOT)
    finally:
        database.drop()
    megabytes = counted.bytes_count / 1e6
    ours = sorted(own.wall_s for own, _ in rounds)[ROUNDS // 2]
    others = sorted(other.wall_s for _, other in rounds)[ROUNDS // 2]
    return [
        Figure(
            name=NAME,
            scenario=f"Catch-up of one client over {megabytes:,.0f} MB of log",
            unit="MB/s",
            penstock=megabytes / ours,
            reference=megabytes / others,
            reference_name="nginx, the file",
            ratios=tuple(other.wall_s / own.wall_s for own, other in rounds),
            cpu_us=sorted(own.cpu_s for own, _ in rounds)[ROUNDS // 2] / row_count * 1e6,
            reference_cpu_us=sorted(other.cpu_s for _, other in rounds)[ROUNDS // 2] / row_count * 1e6,
            peak_mib=max(own.peak_mib for own, _ in rounds),
        )
    ]


def _round(service: Service, reader: ShapeReader, file: Path, number: int) -> tuple[Sample, Sample]:
    before = service.usage()
    began = time.monotonic()
    bytes_count = reader.read_all().bytes_count
    ours = _sample(began, before, service.usage())
    with _nginx(file) as (port, pid):
        before = usage_of(pid)
        began = time.monotonic()
        sent = _fetch(port, file.name)
        other = _sample(began, before, usage_of(pid))
    say(
        f"catch-up: round {number + 1} of {ROUNDS}: {bytes_count / 1e6:,.0f} MB in {ours.wall_s:.3f} s and {ours.cpu_s:.2f} s "
        f"of CPU, nginx {sent / 1e6:,.0f} MB in {other.wall_s:.3f} s and {other.cpu_s:.2f} s"
    )
    if not 0.9 < bytes_count / sent < 1.1:
        raise RuntimeError("the two did not send the same")
    return ours, other


def _sample(began: float, before: Usage, after: Usage) -> Sample:
    return Sample(time.monotonic() - began, after.cpu_s - before.cpu_s, after.peak_mib)


def _largest_file(folder: Path) -> Path:
    return max(folder.glob("*/*/*.data"), key=lambda file: file.stat().st_size)


def _fetch(port: int, name: str) -> int:
    """
    Get a file and throw it away; gives its length.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S_MAX)
    buffer, bytes_count = memoryview(bytearray(_BUFFER_BYTES)), 0
    try:
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise RuntimeError(f"nginx answered {response.status}")
        while count := response.readinto(buffer):
            bytes_count += count
    finally:
        connection.close()
    return bytes_count


@contextmanager
def _nginx(file: Path) -> Iterator[tuple[int, int]]:
    """
    Run nginx over the folder of a file; gives its port and process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        config = folder / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Our folders let nobody else in, and nginx gives up its rights where it is started with all of them.
        user = f"user {file.owner()};" if file.owner() == "root" else ""
        config.write_text(
            f"{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
            "events { worker_connections 64; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; {temporary}"
            f"server {{ listen 127.0.0.1:{port}; root {file.parent}; }} }}\n"
        )
        process = subprocess.Popen(["nginx", "-e", str(folder / "nginx.log"), "-p", str(folder), "-c", str(config)])
        try:
            _wait_listening(port, process)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait()


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S_MAX
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nginx does not listen") from None
            time.sleep(0.02)


SUITE: Final = Suite({NAME: "one client reads a long log, against nginx sending its file"}, measure_catch_up)
