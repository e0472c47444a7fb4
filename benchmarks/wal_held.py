"""
How much WAL the primary has to keep for the slot while something of ours is dead.

A service with a shape of the whole table is hurt in one way, then rows are written. Looked at is what lies between the
slot's confirmed position and the end of what the server has flushed, which is what the server may not throw away: while
rows are written, and once that distance stands still. The same over a healthy service is the reference, in the same round.

Less than a page of WAL is counted as a page: the server writes a record of its own every few seconds, whoever looks.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.progress import say
from benchmarks.reading import ShapeReader, wait_readable
from benchmarks.report import Figure
from benchmarks.service import Service
from benchmarks.source import SLOT, TABLE, drop_slot, insert_marker, insert_one_by_one
from benchmarks.suites import Setting, Suite
from penstock.testing.faults import VARIABLE
from penstock.testing.postgres import ThrowawayDatabase

AFTER: Final = "wal-held"
MEANWHILE: Final = "wal-held-writing"
NAMES: Final = {
    AFTER: "WAL that the primary keeps for a service of which a part is dead, after a load",
    MEANWHILE: "the same while the load is written",
}

ROWS_SHARE: Final = 0.1
"""So many rows are written for each way to be dead, as a share of those asked for."""
ROUNDS: Final = 2
PAGE_BYTES: Final = 8192
"""Of WAL; less counts as this."""
LOOK_S: Final = 0.02
STILL_S: Final = 1.0
"""The distance stands still when it has not become less for so long."""
TIMEOUT_S: Final = 120.0
_KIB: Final = 1024
_WORD: Final = "turbine"
"""Nearly every row has it; the consumer that is to hang waits for it."""
_UNREAD_BYTES: Final = 4096
"""The receive buffer of the client that does not read."""
_NEVER_S: Final = "3600"

_LOOK: Final = b"""
SELECT (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::bigint, (confirmed_flush_lsn - '0/0')::bigint
FROM pg_replication_slots WHERE slot_name = %s
"""


class _Looking:
    """
    A thread that looks at the slot; a context manager.

    Attributes:
        held_bytes: what it saw, each look in turn.
    """

    def __init__(self, database: ThrowawayDatabase) -> None:
        self._database: Final = database
        self._is_over: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._look, name="looking at the slot")
        self.held_bytes: Final[list[int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        with self._database.connect() as connection:
            while not self._is_over.wait(LOOK_S):
                [(held, _)] = connection.execute(_LOOK, (SLOT,)).fetchall()
                self.held_bytes.append(held)


# --- ways to be dead -------------------------------------------------------------------------------------------------


@contextmanager
def _hung_engine(service: Service) -> Iterator[None]:
    pid = service.find_role("engine")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _killed_engine(service: Service) -> Iterator[None]:
    """
    Kill the engine; the supervisor is stopped, so that nobody starts it again.
    """
    engine = service.find_role("engine")
    os.kill(service.pid, signal.SIGSTOP)
    try:
        os.kill(engine, signal.SIGKILL)
        yield
    finally:
        os.kill(service.pid, signal.SIGCONT)


@contextmanager
def _silent_client(service: Service) -> Iterator[None]:
    """
    A client that asks for the stream of changes and reads not a byte of it.
    """
    with ShapeReader(service.port) as reader:
        start = reader.read_all()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)
        client.connect(("127.0.0.1", service.port))
        query = f"table={TABLE}&offset={start.offset}&handle={start.handle}&live=true&live_sse=true"
        client.sendall(f"GET /v1/shape?{query} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        yield


@dataclass(frozen=True, slots=True)
class _Way:
    """
    A way to be dead.

    Attributes:
        words: what is dead.
        hurt: makes it so, until the end of the context.
        settings: what the service needs for it.
        comes_back: whether the last row must be there to read once it is over.
    """

    words: str
    hurt: Callable[[Service], AbstractContextManager[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    comes_back: bool = True


HEALTHY: Final = _Way("healthy", lambda _: nullcontext())
WAYS: Final = (
    _Way("the engine hung (SIGSTOP)", _hung_engine, {"PENSTOCK_ENGINE_HANG_S": _NEVER_S}),
    _Way("the engine killed and not started again", _killed_engine),
    _Way(
        "a consumer that never settles",
        lambda _: nullcontext(),
        {
            "PENSTOCK_ENABLE_FAULT_INJECTION": "true",
            VARIABLE: f"consumer-hung:{TABLE}:{_WORD}",
            # Else it is given up in the midst of it, and no longer dead.
            "PENSTOCK_FLUSH_STALL_GRACE_S": _NEVER_S,
            # It would be waited for at the end.
            "PENSTOCK_DRAIN_TIMEOUT_S": "2",
        },
        comes_back=False,
    ),
    _Way("a client that never reads", _silent_client),
)


@dataclass(frozen=True, slots=True)
class _Held:
    """
    What was held over one service.
    """

    after_bytes: int
    meanwhile_bytes: int
    wal_bytes: int


def measure_wal_held(setting: Setting) -> list[Figure]:
    """
    Measure what is held over each way to be dead, and over a healthy service.
    """
    count = max(1, int(setting.row_count * ROWS_SHARE))
    # In one process there is no engine that could die alone.
    ways = [way for way in WAYS if not setting.single_process or way.hurt is _silent_client]
    rounds: dict[str, list[tuple[_Held, _Held]]] = {way.words: [] for way in ways}
    for number in range(ROUNDS):
        say(f"WAL held: round {number + 1} of {ROUNDS}")
        healthy = _run(setting, HEALTHY, count)
        for way in ways:
            rounds[way.words].append((_run(setting, way, count), healthy))
    figures = []
    for words, pairs in rounds.items():
        figures += [
            _figure(
                AFTER,
                f"WAL held after {count:,} rows: {words}",
                [(own.after_bytes, other.after_bytes) for own, other in pairs],
            ),
            _figure(
                MEANWHILE,
                f"WAL held while {count:,} rows are written: {words}",
                [(own.meanwhile_bytes, other.meanwhile_bytes) for own, other in pairs],
            ),
        ]
    return [figure for figure in figures if figure.name in setting.wanted]


def _figure(name: str, scenario: str, pairs: Sequence[tuple[int, int]]) -> Figure:
    return Figure(
        name=name,
        scenario=scenario,
        unit="KiB",
        penstock=statistics.median(own for own, _ in pairs) / _KIB,
        reference=statistics.median(other for _, other in pairs) / _KIB,
        reference_name="healthy",
        ratios=tuple(max(other, PAGE_BYTES) / max(own, PAGE_BYTES) for own, other in pairs),
    )


def _run(setting: Setting, way: _Way, count: int) -> _Held:
    """
    Write rows for a service that is hurt in one way.
    """
    database = setting.source.make_database()
    try:
        with (
            tempfile.TemporaryDirectory(dir=setting.folder) as name,
            Service(database.url, Path(name), single_process=setting.single_process, settings=way.settings) as service,
            ShapeReader(service.port) as reader,
        ):
            service.wait_active()
            reader.read_all()
            with way.hurt(service):
                before = _look(database)[1]
                with _Looking(database) as looking:
                    insert_one_by_one(database, 1, count)
                marker = insert_marker(database, count + 1)
                after = _wait_still(database)
                held = _Held(after, int(statistics.median(looking.held_bytes)), _look(database)[1] + after - before)
            if way.comes_back:
                wait_readable(reader, service, marker, timeout_s=TIMEOUT_S)
        say(
            f"  {way.words}: {held.after_bytes:,} bytes held after {held.wal_bytes / 1e6:.1f} MB of WAL, "
            f"{held.meanwhile_bytes / _KIB:,.0f} KiB meanwhile, at most {max(looking.held_bytes) / _KIB:,.0f} KiB"
        )
        drop_slot(database, SLOT)
    finally:
        database.drop()
    return held


def _look(database: ThrowawayDatabase) -> tuple[int, int]:
    """
    Give the bytes that are held, and the confirmed position.
    """
    with database.connect() as connection:
        [(held, confirmed)] = connection.execute(_LOOK, (SLOT,)).fetchall()
    return held, confirmed


def _wait_still(database: ThrowawayDatabase) -> int:
    """
    Wait until what is held does not become less any more; gives it.
    """
    least, since = 1 << 62, time.monotonic()
    deadline = since + TIMEOUT_S
    while (now := time.monotonic()) < since + STILL_S and now < deadline:
        held, _ = _look(database)
        if held < PAGE_BYTES:
            return held
        if held < least:
            least, since = held, now
        time.sleep(LOOK_S)
    return least


SUITE: Final = Suite(NAMES, measure_wal_held)
