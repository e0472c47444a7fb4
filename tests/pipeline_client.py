"""
A client that follows one shape and believes nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from penstock.service.engine.source import EngineSource
from penstock.shapes.definition import Replica
from penstock.shapes.offset import BEFORE_ALL, LogOffset
from penstock.shapes.reading import Opened, OpenReply, Refused, Rotated, ShapeRequest
from penstock.testing.simulation.disk import read_range
from penstock.testing.simulation.machine import EngineRole, Machine

T = TypeVar("T")

WAIT_S: Final = 20.0
AGAIN_S: Final = 0.3


class PromiseBrokenError(AssertionError):
    """
    A promise was broken.
    """


@dataclass(frozen=True)
class Request:
    """
    What a client follows.

    Attributes:
        table: its name.
        oid: its number.
        where: the condition, as written.
        accepts: what the condition means.
        columns: those that are asked for; None for all.
        replica: how much updates carry.
    """

    table: str
    oid: int
    where: str | None
    accepts: Callable[[Mapping[str, str | None]], bool]
    columns: tuple[str, ...] | None = None
    replica: Replica = Replica.DEFAULT

    def at(self, offset: LogOffset, handle: str | None) -> ShapeRequest:
        """
        Ask at some place.
        """
        return ShapeRequest(self.table, offset, handle, columns=self.columns, where=self.where, replica=self.replica)


@dataclass
class Log:
    """
    What a client has of one handle.
    """

    handle: str
    offset: LogOffset = BEFORE_ALL
    elements: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, str | None]] = field(default_factory=dict)
    place: tuple[int, int] = (-1, -1)
    is_open_transaction: bool = False

    def take(self, data: bytes) -> None:
        """
        Do what the elements say.
        """
        for element in json.loads(b"[" + data + b"]"):
            self.elements.append(json.dumps(element, sort_keys=True))
            self._do(element)

    def _do(self, element: dict[str, Any]) -> None:
        headers = element["headers"]
        if "lsn" in headers:
            place = (int(headers["lsn"]), int(headers["op_position"]))
            if place <= self.place:
                raise PromiseBrokenError(f"{self.handle}: an element at {place} after one at {self.place}")
            if place[0] != self.place[0] and self.is_open_transaction:
                raise PromiseBrokenError(f"{self.handle}: a transaction without a last element before {place}")
            self.place = place
            self.is_open_transaction = not headers.get("last", False)
        key = element.get("key", "")
        match headers.get("operation"):
            case "insert":
                if key in self.rows:
                    raise PromiseBrokenError(f"{self.handle}: inserted twice: {element}")
                self.rows[key] = dict(element["value"])
            case "update":
                if key not in self.rows:
                    raise PromiseBrokenError(f"{self.handle}: updated and not there: {element}")
                self.rows[key] |= element["value"]
            case "delete":
                if key not in self.rows:
                    raise PromiseBrokenError(f"{self.handle}: deleted and not there: {element}")
                del self.rows[key]


class Reader:
    """
    Follows a shape until cancelled.

    Attributes:
        request: what it follows.
        log: what it has.
        is_up_to_date: whether the last answer had nothing more.
        rotated_count: how often it had to start over.
    """

    def __init__(self, machine: Machine, request: Request, note: Callable[[str], None]) -> None:
        """
        Begin with nothing.
        """
        self.request: Final = request
        self.log: Log | None = None
        self.is_up_to_date = False
        self.rotated_count = 0
        self._machine: Final = machine
        self._note: Final = note

    async def run(self) -> None:
        """
        Follow it.
        """
        while True:
            pause_s = await self._step()
            if pause_s:
                await asyncio.sleep(pause_s)

    async def _step(self) -> float:
        log = self.log
        place = BEFORE_ALL if log is None else log.offset
        handle = None if log is None else log.handle
        reply: OpenReply | None = await self._ask(lambda source: source.open(self.request.at(place, handle)))
        match reply:
            case None:
                return AGAIN_S
            case Refused(status=status, message=message):
                if status == 400 or "Unexpected" in message:
                    raise PromiseBrokenError(f"refused: {message}")
                self._note(f"client of {self.request.table} is refused: {status} {message}")
                return AGAIN_S
            case Rotated(handle=new):
                if log is not None:
                    self._note(f"{log.handle} is rotated, for {new}")
                    self.rotated_count += 1
                self.log = None
                self.is_up_to_date = False
                return 0.0 if log is not None else AGAIN_S
            case Opened():
                return await self._take(log, reply)

    async def _take(self, log: Log | None, reply: Opened) -> float:
        found = reply.range
        if log is None:
            log = self.log = Log(reply.handle)
        elif found.last < log.offset:
            if reply.is_replaying:
                return AGAIN_S
            raise PromiseBrokenError(f"{log.handle} ends at {found.last} and a client was served up to {log.offset}")
        try:
            data = read_range(self._machine.disk, str(self._machine.settings.data_dir), found)
        except FileNotFoundError:
            return AGAIN_S
        if data:
            log.take(data)
        log.offset = max(log.offset, found.chunk_end)
        if log.offset < found.last:
            return 0.0
        self.is_up_to_date = True
        handle, offset = log.handle, log.offset
        await self._ask(lambda source: source.wait(handle, offset))
        return 0.001

    async def read_anew(self) -> list[str] | None:
        """
        Read the log that it has once more, from the beginning; None when that is gone.
        """
        log = self.log
        assert log is not None
        other = Log(log.handle)
        while True:
            place = other.offset
            handle = None if place == BEFORE_ALL else log.handle
            reply = await self._ask(lambda source, p=place, h=handle: source.open(self.request.at(p, h)))  # type: ignore[misc]
            if not isinstance(reply, Opened) or reply.handle != log.handle:
                return None
            data = read_range(self._machine.disk, str(self._machine.settings.data_dir), reply.range)
            if data:
                other.take(data)
            elif reply.range.chunk_end <= place:
                return other.elements
            other.offset = max(place, reply.range.chunk_end)

    async def _ask(self, call: Callable[[EngineSource], Coroutine[Any, Any, T]]) -> T | None:
        """
        Ask the engine; None when there is none, or none any more, or it takes too long.
        """
        role = self._machine.engine
        if role is None or role.life.is_over:
            return None
        task = role.life.create_task(call(role.engine.source), "request")
        try:
            done, _ = await asyncio.wait([task], timeout=WAIT_S)
        finally:
            task.cancel()
        if not done:
            return None
        if task.cancelled():
            return None
        if _has_ended(role):
            # A process that ends may answer anything, or nothing: its socket is gone by then.
            task.exception()
            return None
        return task.result()


def _has_ended(role: EngineRole) -> bool:
    return role.life.is_over or role.stopping.is_set()


def expected(
    request: Request, rows: dict[bytes, tuple[bytes | None, ...]], names: list[str]
) -> dict[str, dict[str, str | None]]:
    """
    Answer the query.
    """
    found = {}
    for row in rows.values():
        texts = dict(zip(names, (None if value is None else value.decode() for value in row), strict=True))
        if request.accepts(texts):
            selected = names if request.columns is None else request.columns
            found[f'"public"."{request.table}"/"{texts["id"]}"'] = {name: texts[name] for name in selected}
    return found
