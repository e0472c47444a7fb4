"""
What it costs that many clients come at once, each with a shape of its own that nobody has asked for before.

A client asks for a few hundred rows and is through when it is up to date. All of them at once is compared with one after
the other, in CPU of the whole service; the service begins with nothing for both. Requests that are refused because too
many are under way come again when they are told to, as clients do, and count.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from benchmarks.measure import allow_open_files
from benchmarks.progress import say
from benchmarks.report import Figure
from benchmarks.service import Service
from benchmarks.source import SLOT, TABLE, drop_slot, insert_at_once
from benchmarks.suites import Setting, Suite
from penstock.testing.postgres import ThrowawayDatabase

NAME: Final = "syncs-many"
ROWS_EACH: Final = 500
CLIENTS_MAX: Final = 2000
ONE_BY_ONE_MAX: Final = 200
"""So many come one after the other; they are the reference, and what one costs does not depend on their number."""
ROUNDS: Final = 2
_IDLE_S: Final = 2.0
_TIMEOUT_S: Final = 600.0
_BUFFER_BYTES: Final = 1 << 20


@dataclass(slots=True)
class _Clients:
    """
    Those of one run.

    Attributes:
        port: of the service.
        waits_s: what each waited from its first request until it was up to date.
        refused_count: answers that told a client to come again.
    """

    port: int
    waits_s: list[float] = field(default_factory=list)
    refused_count: int = 0

    async def sync(self, number: int) -> None:
        """
        Be one of them.
        """
        first, last = number * ROWS_EACH, (number + 1) * ROWS_EACH
        asked = {"table": TABLE, "where": f"id > {first} AND id <= {last}", "offset": "-1"}
        began, row_count, is_through = time.monotonic(), 0, False
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_BUFFER_BYTES)
        try:
            while not is_through:
                writer.write(f"GET /v1/shape?{urlencode(asked)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
                status, headers, body = await _receive(reader)
                if status == 503:
                    self.refused_count += 1
                    await asyncio.sleep(float(headers.get("retry-after", "1")))
                    continue
                if status != 200:
                    raise RuntimeError(f"answered {status}: {body[:500]!r}")
                row_count += body.count(b'"operation":"insert"')
                is_through = "electric-up-to-date" in headers
                asked |= {"offset": headers["electric-offset"], "handle": headers["electric-handle"]}
        finally:
            writer.close()
        if row_count != ROWS_EACH:
            raise RuntimeError(f"a client has {row_count} rows, not {ROWS_EACH}")
        self.waits_s.append(time.monotonic() - began)

    async def one_by_one(self, count: int) -> None:
        """
        Be this many, each when the one before is through.
        """
        for number in range(count):
            await self.sync(number)

    async def at_once(self, count: int) -> None:
        """
        Be this many together.
        """
        async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self.sync(number), name=f"client {number}")


async def _receive(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, found, value in (line.partition(":") for line in lines) if found}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return int(status_line.split()[1]), headers, body


@dataclass(frozen=True, slots=True)
class _Took:
    cpu_ms: float
    """Of one sync, without what the service takes when nothing happens."""
    wall_s: float
    peak_mib: float
    waits_s: list[float]
    refused_count: int


def measure_many_syncs(setting: Setting) -> list[Figure]:
    """
    Measure clients together and one after the other.
    """
    allow_open_files()
    count = max(2, min(CLIENTS_MAX, setting.row_count // ROWS_EACH))
    few = min(count, ONE_BY_ONE_MAX)
    database = setting.source.make_database()
    rounds: list[tuple[_Took, _Took]] = []
    try:
        insert_at_once(database, 1, count * ROWS_EACH)
        database.execute(f"VACUUM ANALYZE {TABLE}")
        for number in range(ROUNDS):
            one = _run(setting, database, few, lambda clients: clients.one_by_one(few))
            many = _run(setting, database, count, lambda clients: clients.at_once(count))
            waits_s = sorted(many.waits_s)
            say(
                f"syncs: round {number + 1} of {ROUNDS}: one by one {one.cpu_ms:.1f} ms of CPU each, {count:,} at once "
                f"{many.cpu_ms:.1f} ms; through after {many.wall_s:.1f} s, half of them after {waits_s[count // 2]:.1f} s, "
                f"{many.refused_count} refusals"
            )
            rounds.append((many, one))
    finally:
        database.drop()
    return [
        Figure(
            name=NAME,
            scenario=f"{count:,} clients at once, each a new shape of {ROWS_EACH} rows, CPU",
            unit="ms",
            penstock=min(many.cpu_ms for many, _ in rounds),
            reference=min(one.cpu_ms for _, one in rounds),
            reference_name="one by one",
            ratios=tuple(one.cpu_ms / many.cpu_ms for many, one in rounds),
            peak_mib=max(many.peak_mib for many, _ in rounds),
        )
    ]


def _run(
    setting: Setting,
    database: ThrowawayDatabase,
    count: int,
    be: Callable[[_Clients], Coroutine[None, None, None]],
) -> _Took:
    """
    Let clients come to a service that has nothing.
    """
    with (
        tempfile.TemporaryDirectory(dir=setting.folder) as name,
        Service(database.url, Path(name), single_process=setting.single_process) as service,
    ):
        service.wait_active()
        # The first shape of a table is another matter: it waits for the publication.
        asyncio.run(_Clients(service.port).sync(count - 1))
        before = service.usage()
        time.sleep(_IDLE_S)
        idle = service.usage()
        clients = _Clients(service.port)
        began = time.monotonic()
        asyncio.run(be(clients))
        wall_s, after = time.monotonic() - began, service.usage()
    drop_slot(database, SLOT)
    idle_share = (idle.cpu_s - before.cpu_s) / _IDLE_S
    cpu_s = after.cpu_s - idle.cpu_s - idle_share * wall_s
    return _Took(cpu_s / count * 1e3, wall_s, after.peak_mib, clients.waits_s, clients.refused_count)


SUITE: Final = Suite({NAME: "many clients at once, each with a new shape"}, measure_many_syncs)
