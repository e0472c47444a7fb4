"""
What HTTP costs without the engine: our server over a source in memory against bare uvicorn, a hand-written loop over
sockets, and nginx, one after the other in each round.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.http_load import Load
from benchmarks.http_program import CHUNK, HANDLE
from benchmarks.measure import usage_of
from benchmarks.progress import say
from benchmarks.report import Figure
from benchmarks.suites import Suite

SMALL: Final = "http-small"
POLLERS: Final = "http-pollers"
EVENTS: Final = "http-events"
CHUNKS: Final = "http-chunks"
NAMES: Final = {
    SMALL: "small responses per second of CPU",
    POLLERS: "a change to the last of many parked long polls, and their memory",
    EVENTS: "a change to the last of many streams of events",
    CHUNKS: "bytes of settled chunks per second of CPU",
}

ROUNDS: Final = 5
CLIENTS: Final = 1_000
CONNECTIONS: Final = 32
ROUND_S: Final = 1.5
CHUNK_BYTES: Final = 10_000_000
CHUNK_CONNECTIONS: Final = 8
FAN_OUTS: Final = 4
_START_S_MAX: Final = 10.0
_PARKING_S: Final = 0.05
"""How often it is asked whether all are parked."""


def _request(query: str) -> bytes:
    return f"GET /v1/shape?table=items&{query} HTTP/1.1\r\nhost: x\r\naccept: */*\r\nuser-agent: bench\r\n\r\n".encode()


_PLAIN: Final = _request(f"offset=0_inf&handle={HANDLE}")
_CHUNK: Final = _request("offset=-1")


@dataclass(frozen=True, slots=True)
class _Server:
    """
    A contestant that runs.
    """

    port: int
    pid: int
    tell: Callable[[], None]
    count: Callable[[], int]

    @property
    def cpu_s(self) -> float:
        """
        CPU used so far.
        """
        return usage_of(self.pid).cpu_s

    @property
    def pss_kib(self) -> int:
        """
        Its own memory and its share of what is shared.
        """
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def _program(name: str, folder: Path) -> Iterator[_Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_program", name, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pipe = process.stdin

    answers = process.stdout

    def tell() -> None:
        pipe.write(b"!")
        pipe.flush()

    def count() -> int:
        pipe.write(b"?")
        pipe.flush()
        return int(answers.readline())

    try:
        yield _Server(int(answers.readline()), process.pid, tell, count)
    finally:
        process.kill()
        process.wait()
        pipe.close()
        answers.close()


@contextmanager
def _nginx(folder: Path) -> Iterator[_Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
        f"client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;\n"
        f"uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ root {folder}; try_files /{CHUNK} =404; }} }} }}\n"
    )
    process = subprocess.Popen(["nginx", "-e", str(folder / "nginx.log"), "-p", str(folder), "-c", str(config)])
    try:
        _wait_for(port)
        yield _Server(port, process.pid, lambda: None, lambda: 0)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def measure_http(folder: Path, wanted: frozenset[str], client_count: int) -> list[Figure]:
    """
    Measure what is wanted of the scenarios here, with so many parked clients.
    """
    (folder / CHUNK).write_bytes(b'"' + b"x" * (CHUNK_BYTES - 2) + b'"')
    folder.chmod(0o755)
    figures: list[Figure] = []
    if SMALL in wanted:
        figures.append(_measure_small(folder))
    if POLLERS in wanted:
        figures += _measure_fan_out(folder, POLLERS, client_count)
    if EVENTS in wanted:
        figures += _measure_fan_out(folder, EVENTS, client_count)[:1]
    if CHUNKS in wanted:
        figures.append(_measure_chunks(folder))
    return figures


def _measure_small(folder: Path) -> Figure:
    rounds: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        pair = []
        for name in ("ours", "uvicorn"):
            with _program(name, folder) as server, Load(server.port, CONNECTIONS) as load:
                pair.append(_rate(server, load, _PLAIN))
        say(f"small responses: {pair[0]:,.0f} and {pair[1]:,.0f} per CPU s")
        if number:  # the first is for warming up
            rounds.append((pair[0], pair[1]))
    return _figure(SMALL, "Small responses per CPU second", "/s", rounds, "bare uvicorn")


def _measure_chunks(folder: Path) -> Figure:
    rounds: list[tuple[float, float]] = []
    has_nginx = shutil.which("nginx") is not None
    for _ in range(ROUNDS):
        pair = []
        with _program("ours", folder) as server, Load(server.port, CHUNK_CONNECTIONS) as load:
            pair.append(_rate(server, load, _CHUNK) * CHUNK_BYTES / 1e6)
        with (
            _nginx(folder) if has_nginx else _program("files", folder) as server,
            Load(server.port, CHUNK_CONNECTIONS) as load,
        ):
            pair.append(_rate(server, load, _CHUNK) * CHUNK_BYTES / 1e6)
        say(f"chunks: {pair[0]:,.0f} and {pair[1]:,.0f} MB per CPU s")
        rounds.append((pair[0], pair[1]))
    return _figure(
        CHUNKS, "Settled chunks of 10 MB, MB per CPU second", "MB/s", rounds, "nginx" if has_nginx else "sendfile loop"
    )


def _rate(server: _Server, load: Load, request: bytes) -> float:
    length = load.learn(request)
    before = server.cpu_s
    answers = load.repeat(request, length, ROUND_S)
    return answers / (server.cpu_s - before)


def _measure_fan_out(folder: Path, name: str, client_count: int) -> list[Figure]:
    is_events = name == EVENTS
    times: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair: list[float] = []
        sizes: list[float] = []
        for contestant in ("ours", "loop"):
            with _program(contestant, folder) as server:
                took, kib = _fan_out(server, client_count, is_events=is_events)
            pair.append(took)
            sizes.append(kib)
        say(f"{name}: {pair[0]:.1f} and {pair[1]:.1f} ms to the last of {client_count}")
        times.append((pair[0], pair[1]))
        memory.append((sizes[0], sizes[1]))
    kind = "streams of events" if is_events else "parked long polls"
    return [
        _figure(
            name, f"A change to the last of {client_count:,} {kind}", "ms", times, "socket loop", is_less_better=True
        ),
        _figure(name, "Memory of a parked long poll", "KiB", memory, "socket loop", is_less_better=True),
    ]


def _fan_out(server: _Server, client_count: int, *, is_events: bool) -> tuple[float, float]:
    """
    Give the milliseconds to the last response, and KiB for each parked client.
    """
    times = []
    with Load(server.port, 1) as first:
        first.learn(_PLAIN)
        before_kib = server.pss_kib
        with Load(server.port, client_count) as load:
            kib = 0.0
            for number in range(FAN_OUTS + 1):
                offset = f"{number}_0" if number else "0_inf"
                more = "&live_sse=true" if is_events else ""
                if not (is_events and number):
                    load.send_all(_request(f"offset={offset}&handle={HANDLE}&live=true{more}"))
                while server.count() < client_count:
                    load.drain(_PARKING_S)
                if not number:
                    kib = (server.pss_kib - before_kib) / client_count
                began = time.perf_counter()
                server.tell()
                took = load.await_all() - began
                load.drain(_PARKING_S)
                if number:
                    times.append(took * 1e3)
    return statistics.median(times), kib


def _figure(
    name: str,
    scenario: str,
    unit: str,
    rounds: list[tuple[float, float]],
    reference_name: str,
    *,
    is_less_better: bool = False,
) -> Figure:
    return Figure(
        name=name,
        scenario=scenario,
        unit=unit,
        penstock=statistics.median(own for own, _ in rounds),
        reference=statistics.median(other for _, other in rounds),
        reference_name=reference_name,
        ratios=tuple(other / own if is_less_better else own / other for own, other in rounds),
    )


SUITE: Final = Suite(NAMES, lambda setting: measure_http(setting.folder, setting.wanted, CLIENTS), needs_server=False)
