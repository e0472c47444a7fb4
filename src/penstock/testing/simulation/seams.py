"""
Puts the virtual world in the place of the real one, and takes it away again.

The real code names what it uses of the world at the top of its modules: threads, clocks, queues, and the shells that
talk to Postgres and SQLite. Here these names are given other meanings for the duration of a history, so that not a line
of the code under test is another than in production. Where a class takes a port already (disks, fault points), that is
used instead. One machine at a time. Shell.
"""

from __future__ import annotations

import importlib
import time as real_time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from penstock.collector.intake import Intake
from penstock.relay.reader import RelayReader, read_epoch
from penstock.relay.writer import RelayWriter
from penstock.testing.simulation import threads
from penstock.testing.simulation.control import VirtualControlStore
from penstock.testing.simulation.disk import RelayDisk
from penstock.testing.simulation.loop import Life, current_life
from penstock.testing.simulation.postgres import Link
from penstock.testing.simulation.queries import make_connections, make_parts
from penstock.testing.simulation.waiting import VirtualWaiter

if TYPE_CHECKING:
    from penstock.testing.simulation.machine import Machine

_CLOCKED: Final = (Intake, RelayWriter)
"""Classes whose clock is an argument with a default that their makers leave as it is."""


class _NoUnblocker:
    """
    Stands for `Unblocker`: there is nothing to be unblocked.
    """

    def __init__(self, *_: object) -> None:
        pass

    def tick(self, phase: object) -> None:
        """
        Nothing.
        """


class _NoBlackBox:
    """
    Stands for `BlackBox`; keeps the records where a history can look at them.
    """

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records: Final = records
        self.dropped_count = 0

    def record(self, content: dict[str, Any]) -> None:
        """
        Keep it.
        """
        self._records.append(content)

    def close(self) -> None:
        """
        Nothing is held.
        """


def _life() -> Life:
    life = current_life()
    assert life is not None, "only processes have a disk"
    return life


def _meanings(machine: Machine) -> dict[str, dict[str, Any]]:
    """
    Give what names mean, by module.
    """

    def read_pipe(number: int, count: int) -> bytes:
        del number, count
        return b"\0"

    disk = machine.disk
    return {
        "penstock.relay.writer": {"threading": threads.threading, "time": threads.time},
        "penstock.shape_log.pool": {
            "threading": threads.threading,
            "time": threads.time,
            "SimpleQueue": threads.SimpleQueue,
        },
        "penstock.replication.streaming": {"time": threads.time, "os": SimpleNamespace(read=read_pipe)},
        "penstock.replication.connection": {
            "Link": Link,
            "resolve": lambda conninfo: conninfo,
            "Waiter": VirtualWaiter,
            "Unblocker": _NoUnblocker,
        },
        "penstock.service.receiver": {
            "threading": threads.threading,
            "time": threads.time,
            "RelayWriter": lambda **options: RelayWriter(
                **{**options, "disk": RelayDisk(disk, _life())} | {"limits": machine.relay_limits(options["limits"])}
            ),
        },
        "penstock.service.engine.connections": make_connections(machine.sql),
        "penstock.service.engine.parts": {
            "time": threads.time,
            "SqliteControlStore": lambda _: VirtualControlStore(machine.control, _life(), machine.loop.chance),
            "BlackBox": lambda _: _NoBlackBox(machine.black_box),
            **make_parts(machine.sql),
        },
        "penstock.service.engine.reading": {
            "RelayReader": lambda folder, epoch: RelayReader(folder, epoch, disk=RelayDisk(disk, _life())),
            "read_epoch": lambda folder, epoch: read_epoch(folder, epoch, disk=RelayDisk(disk, _life())),
        },
        "penstock.service.sweep": {"time": threads.time},
    }


@contextmanager
def installed(machine: Machine) -> Iterator[None]:
    """
    Let the real code live on this machine.
    """
    undo: list[Callable[[], None]] = []
    try:
        for module_name, meanings in _meanings(machine).items():
            module = importlib.import_module(module_name)
            for name, meaning in meanings.items():
                undo.append(_later(setattr, module, name, getattr(module, name)))
                setattr(module, name, meaning)
        clocks = {real_time.monotonic: threads.monotonic, real_time.time: threads.unix_time}
        for each in _CLOCKED:
            defaults: dict[str, Any] = vars(each)["__init__"].__kwdefaults__
            for name, default in list(defaults.items()):
                if default in clocks:
                    undo.append(_later(defaults.__setitem__, name, default))
                    defaults[name] = clocks[default]
        Link.server = machine.postgres
        VirtualWaiter.descriptors = {}
        yield
    finally:
        for each_undo in reversed(undo):
            each_undo()


def _later(call: Callable[..., object], *args: Any) -> Callable[[], None]:
    def run() -> None:
        call(*args)

    return run
