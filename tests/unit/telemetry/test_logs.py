from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading

from penstock.telemetry.logs import RECORD_BYTES_MAX, LogQueue

LOGS = """
import logging, threading
import structlog
from penstock.telemetry import logs
queue = logs.configure(level="info", process="engine")
structlog.get_logger().debug("too quiet")
structlog.get_logger().info("hello", shape="a", place=3)
logging.getLogger("some.library").warning("from %s", "outside")
logging.getLogger("httpx").info("about itself")
try:
    raise ValueError("broken")
except ValueError:
    structlog.get_logger().exception("caught")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
"""


def read_all(descriptor: int) -> bytes:
    data = b""
    while part := os.read(descriptor, 65536):
        data += part
    return data


def fill(descriptor: int) -> None:
    """
    Write into a pipe until it takes no more.
    """
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"-" * 512)
    os.set_blocking(descriptor, True)


def test_a_blocked_reader_blocks_nobody() -> None:
    """
    With nobody reading, records beyond the queue are dropped and counted; the count is told when the way is free.
    """
    reader, writer = os.pipe()
    fill(writer)
    queue = LogQueue(writer, records_max=10)
    for _ in range(500):
        queue.put(b"said\n")
    dropped = queue.dropped_count
    assert dropped >= 500 - 10 - 1
    assert not queue.flush(0.05)
    got: list[bytes] = []
    drain = threading.Thread(target=lambda: got.append(read_all(reader)))
    drain.start()
    assert queue.flush(10.0)
    queue.put(b"last\n")
    queue.close(10.0)
    os.close(writer)
    drain.join(10)
    lines = got[0].lstrip(b"-").splitlines()
    assert lines.count(b"said") == 500 - dropped
    assert b"(%d log records were dropped here)" % dropped in lines
    assert lines[-1] == b"last"
    os.close(reader)


def test_a_reader_that_went_away_is_survived() -> None:
    """
    After the other end is closed everything is dropped and counted.
    """
    reader, writer = os.pipe()
    os.close(reader)
    queue = LogQueue(writer)
    queue.put(b"one\n")
    assert queue.flush(10.0)
    queue.put(b"two\n")
    assert queue.dropped_count == 2
    queue.close()
    os.close(writer)


def test_a_non_blocking_descriptor_serves_too() -> None:
    """
    Somebody who shares the descriptor may have made it non-blocking; all lines still arrive whole.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    queue = LogQueue(writer)
    for number in range(300):
        queue.put(b"%d " % number + b"y" * 1000 + b"\n")
    got: list[bytes] = []
    drain = threading.Thread(target=lambda: got.append(read_all(reader)))
    drain.start()
    queue.close(10.0)
    os.close(writer)
    drain.join(10)
    assert [int(line.split()[0]) for line in got[0].splitlines()] == list(range(300))
    os.close(reader)


def test_an_endless_record_is_cut() -> None:
    """
    One record cannot take all the room.
    """
    reader, writer = os.pipe()
    queue = LogQueue(writer)
    got: list[bytes] = []
    drain = threading.Thread(target=lambda: got.append(read_all(reader)))
    drain.start()
    queue.put(b"z" * (2 * RECORD_BYTES_MAX) + b"\n")
    queue.close(10.0)
    os.close(writer)
    drain.join(10)
    assert len(got[0]) == RECORD_BYTES_MAX
    assert got[0].endswith(b"z...\n")
    os.close(reader)


def test_records_are_json_where_nobody_looks() -> None:
    """
    Away from a terminal each record is a JSON object with level, time and process; libraries' records come along.
    """
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=True, timeout=60)
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["event"] for record in records] == [
        "hello",
        "from outside",
        "caught",
        "a thread ended with an exception",
    ]
    assert all(record["process"] == "engine" and record["timestamp"].endswith("Z") for record in records)
    assert records[0]["level"] == "info"
    assert records[0]["place"] == 3
    assert records[1]["logger"] == "some.library"
    assert "ValueError: broken" in records[2]["exception"]
    assert "ZeroDivisionError" in records[3]["exception"]
