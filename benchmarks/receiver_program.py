"""
The receiver as a process of its own: the very parts that the service joins, without anybody behind them.

Standard input holds the order, standard output gets what it took from starting to connect until everything up to the
wanted position was synced and published.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from pathlib import Path

import msgspec

from penstock.liveness.board import Board
from penstock.service.cells import RecordedBoundaryCell, published_cell
from penstock.service.lifecycle import collect_garbage_less
from penstock.service.receiver import NOTHING_RECORDED, Receiver
from penstock.service.settings import Settings
from penstock.telemetry import logs


class Order(msgspec.Struct, frozen=True):
    """
    What to receive.

    Attributes:
        database_url: from where.
        slot, publication: names on the server; both are there.
        folder: empty; the relay log is made in it.
        end: the WAL position to reach.
        timeout_s: how long that may take.
    """

    database_url: str
    slot: str
    publication: str
    folder: str
    end: int
    timeout_s: float


class Took(msgspec.Struct, frozen=True):
    """
    What it took.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    relay_bytes: int


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """
    Receive what the order says.
    """
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    logs.configure(level="warning", process="receiver", colors=False)
    settings = Settings(
        database_url=order.database_url,
        slot_name=order.slot,
        publication_name=order.publication,
        data_dir=Path(order.folder),
        insecure=True,
        log_level="warning",
    )
    board = Board.create_in_memory()
    # The receiver asks the engine which epochs there were before it makes its first.
    RecordedBoundaryCell(board).write(NOTHING_RECORDED)
    published = published_cell(board)
    is_reached = threading.Event()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake() -> None:
        try:
            os.write(writer, b"\0")
        except BlockingIOError:
            return

    def look() -> None:
        end = published.read()
        if end is not None and end.end >= order.end:
            is_reached.set()

    receiver = Receiver(settings, board, wake_fd=reader, wake_self=wake, wake_engine=look)
    collect_garbage_less()
    cpu_before_s, began = _cpu_s(), time.monotonic()
    receiver.start()
    try:
        if not is_reached.wait(order.timeout_s):
            raise SystemExit(f"not there after {order.timeout_s:g} s: {receiver.failure or published.read()}")
        wall_s, cpu_s = time.monotonic() - began, _cpu_s() - cpu_before_s
    finally:
        receiver.stop()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = Took(wall_s, cpu_s, peak_mib, receiver.writer.relay_bytes)
    sys.stdout.buffer.write(msgspec.json.encode(took))


if __name__ == "__main__":
    main()
