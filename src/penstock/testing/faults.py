"""
Faults for a real service, named in the variable PENSTOCK_FAULTS; refused without `enable_fault_injection`.

The text is a list separated by semicolons, each item `NAME:TABLE:WORD`. TABLE is the name of the shape's table without
its schema. WORD is what the fault waits for: it strikes when a change with this word in a value was handed to a shape
on that table. So `consumer-hung:orders:poison` makes the settling of a shape on `orders` hang once it got a row with
"poison" in it. `FAULTS` lists the names with what each does.

A fault strikes the shape that got the word, again after a replacement of its consumer, and not the shape that takes
its place when it is given up. What needs no inside help (signals, slots, disks) is in `penstock.testing.torture`.

Shell. Implements the port of `penstock.service.faults`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from penstock.collector.abc import RoutedPart
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.handler import Answer, ShapeHandler
from penstock.consumers.projection import Projection, Shared
from penstock.errors import ConfigError
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shape_log.log import FileShapeLog
from penstock.shape_log.records import SettleOutcome
from penstock.shape_log.store import FileShapeLogStore
from penstock.shapes.offset import LogOffset

if TYPE_CHECKING:
    from penstock.consumers.entries import ShapeEntry
    from penstock.consumers.registry import ConsumerRegistry
    from penstock.postgres.lsn import CommitLsn, EndLsn
    from penstock.service.settings import Settings

VARIABLE: Final = "PENSTOCK_FAULTS"
EXIT_STATUS: Final = 9
SLOW_SHARE: Final = 0.85
"""Of the grace: so long a slow consumer takes to settle. It makes durable progress in time, and lags by twice as much."""

FAULTS: Final[Mapping[str, str]] = {
    "consumer-ended": "a consumer raises after it took a change and before that is durable, once",
    "consumer-killed": "a consumer vanishes with all it has in memory after it took a change and before that is durable",
    "consumer-hung": "settling a shape never returns",
    "consumer-hung-once": "settling a shape never returns the first time",
    "consumer-hung-opening": "opening the files of a shape never returns",
    "consumer-loops": "a consumer computes for ever, so that the engine's loop stands still",
    "consumer-exits": "a consumer takes the engine's process with it",
    "consumer-fails": "a consumer raises on one row, always",
    "consumer-waits": "a consumer says that it waits to be caught up, and is never done",
    "consumer-slow": "settling a shape takes most of the grace, each time",
}
"""The faults that can be injected into an engine, by name, and what each does."""

_ON_CALL: Final = frozenset({"consumer-ended", "consumer-killed", "consumer-loops", "consumer-exits", "consumer-fails"})
_ON_SETTLE: Final = frozenset({"consumer-hung", "consumer-hung-once", "consumer-waits", "consumer-slow"})
_ON_LOAD: Final = frozenset({"consumer-hung-opening"})


class InjectedFaultError(Exception):
    """
    Raised on purpose.
    """


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One fault; see the module's text.
    """

    name: str
    table: str
    word: bytes

    def __str__(self) -> str:
        """
        Write it as in the variable.
        """
        return f"{self.name}:{self.table}:{self.word.decode()}"


def parse_faults(text: str) -> list[Fault]:
    """
    Read a list of faults.

    Raises:
        ConfigError: it is not one.
    """
    faults = []
    for part in filter(None, map(str.strip, text.split(";"))):
        words = part.split(":")
        if words[0] not in FAULTS:
            raise ConfigError(f"{VARIABLE}: there is no fault {words[0]!r}; there are {', '.join(FAULTS)}")
        if len(words) != 3 or not all(words):
            raise ConfigError(f"{VARIABLE}: not a fault: {part!r}; write {words[0]}:TABLE:WORD")
        faults.append(Fault(words[0], words[1], words[2].encode()))
    return faults


def check_allowed(environ: Mapping[str, str], settings: Settings) -> None:
    """
    Refuse to serve with faults that nobody allowed, or that do not exist.

    Raises:
        ConfigError: says which.
    """
    text = environ.get(VARIABLE, "")
    if not text:
        return
    if not settings.enable_fault_injection:
        raise ConfigError(
            f"{VARIABLE} is set, which makes the service fail on purpose: take it away, or allow it with "
            "PENSTOCK_ENABLE_FAULT_INJECTION=true"
        )
    if settings.single_process:
        raise ConfigError(f"{VARIABLE} needs processes that can be restarted: take --single-process away")
    parse_faults(text)


def find_faults(settings: Settings) -> Faults | None:
    """
    Read the environment of this process.
    """
    faults = parse_faults(os.environ.get(VARIABLE, "")) if settings.enable_fault_injection else []
    return Faults(faults, slow_s=SLOW_SHARE * settings.flush_stall_grace_s) if faults else None


class Faults:
    """
    Implements `penstock.service.faults.EngineFaults`.
    """

    def __init__(self, faults: Collection[Fault], *, slow_s: float = 1.0) -> None:
        """
        Have these in store; `slow_s` is how long a slow consumer takes to settle.
        """
        self._faults: Final = tuple(faults)
        self.slow_s: Final = slow_s
        self._registry: ConsumerRegistry | None = None
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

    def attach(self, registry: ConsumerRegistry) -> None:
        """
        Learn where the consumers are.
        """
        self._registry = registry

    def handed(self, projection: Projection, part: RoutedPart) -> None:
        """
        A part is going to be converted.
        """
        definition = projection.definition
        for fault in self._faults:
            if fault.table != definition.table.name or not _holds(part, fault.word):
                continue
            digest = str(definition.digest())
            match fault.name:
                case "consumer-fails":
                    raise InjectedFaultError(fault.name)
                case "consumer-loops":
                    _loop()
                case "consumer-exits":
                    os._exit(EXIT_STATUS)
                case "consumer-ended":
                    if digest not in self._armed[fault]:
                        self._armed[fault].add(digest)
                        raise InjectedFaultError(fault.name)
                case "consumer-killed":
                    # When the call is over: everything was delivered by then, and nothing is settled.
                    asyncio.get_running_loop().call_soon(self._kill, digest, definition.table.oid)
                case _:
                    self._armed[fault].add(digest)

    def find(self, names: frozenset[str], handle: str) -> Fault | None:
        """
        Find the fault of these kinds that strikes a shape whose files are going to be touched.
        """
        digest = handle.partition("-")[0]
        for fault in self._faults:
            armed, struck = self._armed[fault], self._struck[fault]
            if fault.name not in names or not (digest in armed or handle in struck):
                continue
            armed.discard(digest)
            if fault.name == "consumer-hung-once" and handle in struck:
                continue
            struck.add(handle)
            return fault
        return None

    def make_wait(self, incarnation: int) -> None:
        """
        Let a consumer say that it waits to be caught up, and never be done.
        """
        assert self._registry is not None
        entry = self._registry.entry(incarnation)
        consumer = None if entry is None else entry.consumer
        if entry is not None and consumer is not None and consumer.state in {ConsumerState.LIVE, ConsumerState.BEHIND}:
            if consumer.state is ConsumerState.LIVE:
                consumer.fall_behind()
            consumer.__class__ = _WaitingConsumer
            self._registry.fell_behind(entry)

    def _kill(self, digest: str, table_oid: int) -> None:
        """
        Take a consumer away with its buffers and its log's tail, telling nobody.
        """
        assert self._registry is not None
        for entry in self._registry.on_table(table_oid):
            if str(entry.definition.digest()) == digest:
                _drop(entry)


def _drop(entry: ShapeEntry) -> None:
    entry.consumer = None


def _loop() -> NoReturn:
    while True:
        pass


def _holds(part: RoutedPart, word: bytes) -> bool:
    return any(value is not None and word in value for change in part.changes for value in change.new or ())


class _WaitingConsumer(Consumer):
    """
    Is behind for ever.
    """

    __slots__ = ()

    def handle_caught_up(self, parts: Collection[RoutedPart], shared: Shared) -> None:
        """
        Take nothing.
        """

    def pass_commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Get nowhere.
        """

    def rejoin(self) -> bool:
        """
        Never be done.
        """
        return False


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
        sick = {log: fault for log in logs if (fault := self._faults.find(_ON_SETTLE, log.handle)) is not None}
        for log, fault in sick.items():
            if fault.name == "consumer-waits":
                self._faults.make_wait(log.incarnation)
        waiting = [log for log, fault in sick.items() if fault.name == "consumer-waits"]
        if len(sick) > len(waiting) and len(sick) < len(logs):
            # A call is shared by all that are due; the sick have one of their own later, so that they hurt nobody else.
            return await super().settle([log for log in logs if log not in sick])
        for fault in sick.values():
            if fault.name.startswith("consumer-hung"):
                await asyncio.get_running_loop().create_future()
            elif fault.name == "consumer-slow":
                await asyncio.sleep(self._faults.slow_s)
        return await super().settle([log for log in logs if log not in waiting])

    async def load(self, handle: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> FileShapeLog:
        if self._faults.find(_ON_LOAD, handle) is not None:
            await asyncio.get_running_loop().create_future()
        return await super().load(handle, incarnation, chunk_bytes_max, settled)
