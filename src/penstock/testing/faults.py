"""
Faults for a real service, named in the variable PENSTOCK_FAULTS; heeded only with `enable_integration_testing`.

The text is a list of faults separated by semicolons, each of them `POINT TABLE DEED WORD`:

* POINT is `handle` (a change is converted for a shape), `settle` or `load` (files of a shape are written or opened);
* TABLE is the name of the shape's table;
* DEED is `raise`, `loop` (for ever, without giving the event loop away), `exit` (of the process), `hang` (wait for
  ever) or `hang-once` (the first time only); a `handle` cannot hang, because it cannot wait;
* WORD is what the fault waits for: it strikes a shape to which a change with this word in a value was handed, and not
  the one that takes its place.

So `settle items hang poison` makes the settling of a shape on `items` hang once it got a row with "poison" in it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from penstock.collector.abc import RoutedPart
from penstock.consumers.handler import Answer, ShapeHandler
from penstock.consumers.projection import Projection, Shared
from penstock.errors import ConfigError
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import LogOffset

VARIABLE: Final = "PENSTOCK_FAULTS"
EXIT_STATUS: Final = 9

_DEEDS: Final = {
    "handle": {"raise", "loop", "exit"},
    "settle": {"raise", "loop", "exit", "hang", "hang-once"},
    "load": {"raise", "loop", "exit", "hang", "hang-once"},
}


class InjectedFaultError(Exception):
    """
    Raised on purpose.
    """


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One fault; see the module's text.
    """

    point: str
    table: str
    deed: str
    word: bytes


def parse_faults(text: str) -> list[Fault]:
    """
    Read a list of faults.

    Raises:
        ConfigError: it is not one.
    """
    faults = []
    for part in filter(None, map(str.strip, text.split(";"))):
        words = part.split()
        if len(words) != 4 or words[2] not in _DEEDS.get(words[0], set()):
            raise ConfigError(f"{VARIABLE}: not a fault: {part!r}")
        faults.append(Fault(words[0], words[1], words[2], words[3].encode()))
    return faults


def find_faults() -> Faults | None:
    """
    Read the environment of this process.
    """
    text = os.environ.get(VARIABLE, "")
    return Faults(parse_faults(text)) if text else None


class Faults:
    """
    Implements `penstock.service.faults.EngineFaults`.
    """

    def __init__(self, faults: Collection[Fault]) -> None:
        """
        Have these in store.
        """
        self._faults: Final = tuple(faults)
        # By fault: digests of the definitions whose next shape it will strike, and the handles that it has struck.
        self._armed: Final[dict[Fault, set[str]]] = {fault: set() for fault in faults}
        self._struck: Final[dict[Fault, set[str]]] = {fault: set() for fault in faults}

    def make_store(self, data_folder: Path) -> FileShapeLogStore:
        """
        Make a store that fails where it should.
        """
        return _FaultyStore(data_folder, self)

    def make_handler(self, projection: Projection, bounds: SnapshotBounds) -> ShapeHandler:
        """
        Make a handler that fails where it should.
        """
        return _FaultyHandler(projection, bounds, self)

    def handed(self, projection: Projection, part: RoutedPart) -> None:
        """
        A part is going to be converted.
        """
        definition = projection.definition
        for fault in self._faults:
            if fault.table == definition.table.name and _holds(part, fault.word):
                if fault.point == "handle":
                    _do(fault.deed)
                else:
                    self._armed[fault].add(str(definition.digest()))

    async def strike(self, point: str, handle: str) -> None:
        """
        Files of a shape are going to be touched.
        """
        digest = handle.partition("-")[0]
        for fault in self._faults:
            armed, struck = self._armed[fault], self._struck[fault]
            if fault.point != point or not (digest in armed or handle in struck):
                continue
            armed.discard(digest)
            if fault.deed == "hang-once" and handle in struck:
                continue
            struck.add(handle)
            if fault.deed.startswith("hang"):
                await asyncio.get_running_loop().create_future()
            _do(fault.deed)


def _do(deed: str) -> NoReturn:
    if deed == "raise":
        raise InjectedFaultError("on purpose")
    if deed == "exit":
        os._exit(EXIT_STATUS)
    assert deed == "loop", deed
    while True:
        pass


def _holds(part: RoutedPart, word: bytes) -> bool:
    return any(value is not None and word in value for change in part.changes for value in change.new or ())


class _FaultyHandler(ShapeHandler):
    """
    Looks at what it is handed.
    """

    __slots__ = ("_faults",)

    def __init__(self, projection: Projection, bounds: SnapshotBounds, faults: Faults) -> None:
        super().__init__(projection, bounds)
        self._faults: Final = faults

    def handle(self, part: RoutedPart, shared: Shared) -> Answer:
        self._faults.handed(self._projection, part)
        return super().handle(part, shared)


class _FaultyStore(FileShapeLogStore):
    """
    Asks before it touches a file.
    """

    def __init__(self, data_folder: Path, faults: Faults) -> None:
        super().__init__(data_folder)
        self._faults: Final = faults

    async def settle(self, logs: Collection[Any]) -> Mapping[int, SettleOutcome]:
        for log in logs:
            await self._faults.strike("settle", log.handle)
        return await super().settle(logs)

    async def load(self, handle: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> FileShapeLog:
        await self._faults.strike("load", handle)
        return await super().load(handle, incarnation, chunk_bytes_max, settled)
