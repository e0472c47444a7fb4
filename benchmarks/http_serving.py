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

import msgspec

from benchmarks.http_load import Load
from benchmarks.http_program import CHUNK, HANDLE, TABLE, allow_files, shape_handle
from benchmarks.measure import family, usage_of
from benchmarks.progress import say
from benchmarks.report import Figure
from benchmarks.suites import Suite

SMALL: Final = "http-small"
POLLERS: Final = "http-pollers"
EVENTS: Final = "http-events"
SHAPES: Final = "http-shapes"
CHUNKS: Final = "http-chunks"
NAMES: Final = {
    SMALL: "small responses per second of CPU",
    POLLERS: "a change to the last of 1,000 parked long polls, and their memory",
    f"{POLLERS}-10k": "the same with 10,000",
    EVENTS: "a change to the last of 1,000 streams of events",
    f"{EVENTS}-10k": "the same with 10,000",
    SHAPES: "a change of each of 1,000 shapes to the one long poll that is parked at each",
    f"{SHAPES}-10k": "the same with 10,000",
    CHUNKS: "bytes of settled chunks per second of CPU",
}

ROUNDS: Final = 5
FAN_OUT_ROUNDS: Final = {1_000: 5, 10_000: 3}
"""By the number of clients."""
FAN_OUT_S_MAX: Final = 20.0
"""No further round is begun after so long."""
CONNECTIONS: Final = 32
ROUND_S: Final = 1.5
CHUNK_BYTES: Final = 10_000_000
CHUNK_CONNECTIONS: Final = 8
FAN_OUTS: Final = 4
_START_S_MAX: Final = 10.0
_PARKING_S: Final = 0.05
"""How often it is asked whether all are parked."""


def _request(query: str, table: str = TABLE) -> bytes:
    return (
        f"GET /v1/shape?table={table}&{query} HTTP/1.1\r\nhost: x\r\naccept: */*\r\nuser-agent: bench\r\n\r\n".encode()
    )


_PLAIN: Final = _request(f"offset=0_inf&handle={HANDLE}")
_CHUNK: Final = _request("offset=-1")


@dataclass(frozen=True, slots=True)
class _Server:
    """
    A contestant that runs.

    Attributes:
        port: where it serves.
        pids: its processes.
        tell: makes the event happen.
        count: tells how many are parked.
    """

    port: int
    pids: tuple[int, ...]
    tell: Callable[[], None]
    count: Callable[[], int]

    @property
    def cpu_s(self) -> float:
        """
        CPU used so far, to the microsecond: that of the processes' main threads, which do all the work.
        """
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self.pids) / 1e9

    @property
    def pss_kib(self) -> int:
        """
        Its own memory and its share of what is shared.
        """
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids]
        return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("Pss:"))

    @property
    def peak_mib(self) -> float:
        """
        The most memory it has held.
        """
        return sum(usage_of(pid).peak_mib for pid in self.pids)


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
        yield _Server(int(answers.readline()), (process.pid,), tell, count)
    finally:
        process.kill()
        process.wait()
        pipe.close()
        answers.close()


@contextmanager
def _engine_and_web(folder: Path) -> Iterator[_Server]:
    with _program("engine", folder) as engine, _program("web", folder) as web:
        yield _Server(web.port, (*engine.pids, *web.pids), engine.tell, engine.count)


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
        # Its first process only looks after the one that works, which may come a moment later.
        until = time.monotonic() + _START_S_MAX
        while len(pids := family(process.pid)) == 1:
            if time.monotonic() > until:
                raise RuntimeError("nginx has nobody who works")
            time.sleep(0.02)
        yield _Server(port, tuple(pids), lambda: None, lambda: 0)
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


def measure_http(folder: Path, wanted: frozenset[str]) -> list[Figure]:
    """
    Measure what is wanted of the scenarios here.
    """
    (folder / CHUNK).write_bytes(b'"' + b"x" * (CHUNK_BYTES - 2) + b'"')
    folder.chmod(0o755)
    clients_max = allow_files()
    figures: list[Figure] = []
    if SMALL in wanted:
        figures.append(_measure_small(folder))
    for name in (POLLERS, EVENTS, SHAPES):
        for client_count, suffix in ((1_000, ""), (10_000, "-10k")):
            if name + suffix not in wanted:
                continue
            if client_count > clients_max:
                say(f"{name}{suffix} is left out: the system lets a process have too few files open (see ulimit -n)")
                continue
            figures += _measure_fan_out(folder, name, suffix, client_count)
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


_KINDS: Final = {
    POLLERS: "A change to the last of {:,} parked long polls",
    EVENTS: "A change to the last of {:,} streams of events",
    SHAPES: "A change of each of {:,} shapes to the last long poll",
}


def _measure_fan_out(folder: Path, name: str, suffix: str, client_count: int) -> list[Figure]:
    times: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    peaks: list[float] = []
    began = time.monotonic()
    for _ in range(FAN_OUT_ROUNDS[client_count]):
        if times and time.monotonic() - began > FAN_OUT_S_MAX:
            break
        with _engine_and_web(folder) if name == SHAPES else _program("ours", folder) as server:
            own = _fan_out(server, name, client_count)
        with _program("loop", folder) as server:
            other = _fan_out(server, name, client_count)
        say(f"{name}: {own.took_ms:.1f} and {other.took_ms:.1f} ms to the last of {client_count:,}")
        times.append((own.took_ms, other.took_ms))
        memory.append((own.client_kib, other.client_kib))
        cpu.append((own.client_cpu_us, other.client_cpu_us))
        peaks.append(own.peak_mib)
    cpu_us, other_cpu_us = (statistics.median(each) for each in zip(*cpu, strict=True))
    figures = [
        msgspec.structs.replace(
            _figure(name + suffix, _KINDS[name].format(client_count), "ms", times, "socket loop", is_less_better=True),
            cpu_us=cpu_us,
            reference_cpu_us=other_cpu_us,
            peak_mib=max(peaks),
        )
    ]
    if name == POLLERS:
        words = f"Memory of a parked long poll, of {client_count:,}"
        figures.append(_figure(name + suffix, words, "KiB", memory, "socket loop", is_less_better=True))
    return figures


@dataclass(frozen=True, slots=True)
class _FanOut:
    """
    What one contestant took.

    Attributes:
        took_ms: from a change to the last response, the median of some.
        client_cpu_us: CPU of one client, from one response to the next: it is parked and told.
        client_kib: memory of a parked client.
        peak_mib: the most memory held.
    """

    took_ms: float
    client_cpu_us: float
    client_kib: float
    peak_mib: float


def _fan_out(server: _Server, name: str, client_count: int) -> _FanOut:
    times = []
    is_events = name == EVENTS
    with Load(server.port, 1) as first:
        if name != SHAPES:
            first.learn(_PLAIN)
        before_kib = server.pss_kib
        with Load(server.port, client_count) as load:
            kib = cpu_s = 0.0
            for number in range(FAN_OUTS + 1):
                if number == 1:
                    cpu_s = server.cpu_s
                if not (is_events and number):
                    load.send_each(_live_requests(name, f"{number}_0" if number else "0_inf", client_count))
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
            cpu_s = server.cpu_s - cpu_s
    return _FanOut(statistics.median(times), cpu_s / FAN_OUTS / client_count * 1e6, kib, server.peak_mib)


def _live_requests(name: str, offset: str, client_count: int) -> Iterator[bytes]:
    for number in range(client_count):
        handle, table = (shape_handle(number), f"{TABLE}{number}") if name == SHAPES else (HANDLE, TABLE)
        more = "&live_sse=true" if name == EVENTS else ""
        yield _request(f"offset={offset}&handle={handle}&live=true{more}", table)


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


SUITE: Final = Suite(NAMES, lambda setting: measure_http(setting.folder, setting.wanted), needs_server=False)
