"""
Strict clients, and the question whether their rows equal the query.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from harness.workload import ShapeUnderTest, expected_rows, normalise
from penstock.client.aio import ShapeSubscription
from penstock.client.stream import MustRefetch, ShapeStream, UpToDate


@dataclass
class History:
    """
    What all clients together were told at each place of each log: no place may ever say two things.
    """

    told: dict[tuple[str, str], dict[tuple[int, int], str]] = field(default_factory=dict)

    def record(self, shape: str, handle: str, message: dict[str, Any]) -> None:
        """
        Compare with what was said at that place before.
        """
        headers = message["headers"]
        if "lsn" not in headers:
            return
        place = (int(headers["lsn"]), int(headers["op_position"]))
        digest = hashlib.blake2b(json.dumps(message, sort_keys=True).encode(), digest_size=12).hexdigest()
        before = self.told.setdefault((shape, handle), {}).setdefault(place, digest)
        assert before == digest, f"{shape} {handle}: the entry at {place} has changed: {message}"


class OracleClient:
    """
    Follows a shape as strictly as can be and keeps what it was told.
    """

    def __init__(self, base_url: str, shape: ShapeUnderTest, history: History, *, name: str = "client") -> None:
        self.shape = shape
        self.name = name
        self.rotation_count = 0
        self.last_seen_lsn = 0
        self.handles: list[str] = []
        self._history = history
        self._places: list[tuple[int, int]] = []
        self._moved = asyncio.Condition()
        # A client waits for its server, however long a restart takes on a busy machine.
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(60.0))
        self._subscription = ShapeSubscription(
            base_url,
            ShapeStream(shape.table, columns=shape.columns, where=shape.where, params=shape.params),
            client=self._http,
        )

    async def close(self) -> None:
        """
        Close its connections.
        """
        await self._http.aclose()

    async def follow(self) -> None:
        """
        Read for ever.
        """
        async for events in self._subscription.batches():
            resume = self._subscription.stream.resume
            if resume is not None and (not self.handles or self.handles[-1] != resume.handle):
                self.handles.append(resume.handle)
            for event in events:
                match event:
                    case MustRefetch():
                        self.rotation_count += 1
                        self._places.clear()
                        # Of the log it had: the server may be another, whose positions begin lower.
                        self.last_seen_lsn = 0
                    case UpToDate():
                        self.last_seen_lsn = max(self.last_seen_lsn, event.last_seen_lsn)
                    case message:
                        assert resume is not None
                        self._check_order(message)
                        self._history.record(repr(self.shape), resume.handle, message)
            async with self._moved:
                self._moved.notify_all()

    def _check_order(self, message: dict[str, Any]) -> None:
        headers = message["headers"]
        if "lsn" not in headers:
            assert not self._places, f"{self.name}: a snapshot row after a change"
            return
        place = (int(headers["lsn"]), int(headers["op_position"]))
        assert not self._places or self._places[-1] < place, f"{self.name}: {place} after {self._places[-1]}"
        self._places.append(place)

    async def agree(self, url: str, timeout_s: float = 60.0, *, is_patient: bool = False) -> None:
        """
        Fail unless the rows come to equal the query; at once, if the client says it has seen all and they do not.

        A patient one waits for what only the catalog tells, which may come a second after everything else.
        """
        position, expected = await expected_rows(url, self.shape)
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(
                    lambda: (
                        self._subscription.stream.is_up_to_date
                        and (self._rows() == expected or (self.last_seen_lsn >= position and not is_patient))
                    )
                )
        except TimeoutError:
            pass  # what is missing is said below
        rows = self._rows()
        if rows != expected:
            extra = [row for row in rows if row not in expected][:3]
            absent = [row for row in expected if row not in rows][:3]
            raise AssertionError(
                f"{self.name} on {self.shape} has {len(rows)} rows of {len(expected)}, "
                f"{position - self.last_seen_lsn} bytes behind; extra {extra}; missing {absent}"
            )

    def _rows(self) -> list[tuple[tuple[str, str | None], ...]]:
        return sorted((normalise(dict(row)) for row in self._subscription.rows.values()), key=repr)


class Audience:
    """
    Clients that follow for as long as the block lasts; an asynchronous context manager.

    A client that fails ends the block with its error.
    """

    def __init__(self, base_url: str, database_url: str) -> None:
        self.clients: list[OracleClient] = []
        self.history = History()
        self._url = base_url
        self._database_url = database_url
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            for client in self.clients:
                await client.close()

    def join(
        self, *shapes: ShapeUnderTest, name: str = "client", make_client: type[OracleClient] = OracleClient
    ) -> None:
        """
        Let one more client for each of these shapes follow from now on.
        """
        for shape in shapes:
            client = make_client(self._url, shape, self.history, name=name)
            self.clients.append(client)
            self._tasks.append(self._group.create_task(client.follow(), name=f"{name} on {shape.table}"))

    async def agree(self, timeout_s: float = 60.0, *, is_patient: bool = False) -> None:
        """
        Fail unless every client comes to equal the query.
        """
        for client in self.clients:
            await client.agree(self._database_url, timeout_s, is_patient=is_patient)

    @property
    def rotations(self) -> list[int]:
        """
        How often each client had to start over.
        """
        return [client.rotation_count for client in self.clients]
