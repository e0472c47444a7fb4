"""
The relay log between real processes on a real disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from penstock.postgres.lsn import EndLsn
from penstock.relay.disk import SystemDisk
from penstock.relay.epochs import Acknowledge
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from penstock.relay.reader import RelayReader
from penstock.relay.writer import RelayWriter
from relay_kit import START, Published, decode, identity, recorded, session

TESTS: Final = Path(__file__).parents[2]
ROUNDS: Final = 3

# Writes for ever and prints each position that may be confirmed, until it is killed.
WRITER: Final = """
import sys
from pathlib import Path
from penstock.relay.epochs import Acknowledge
from penstock.relay.limits import RelayLimits
from penstock.relay.writer import RelayWriter
from penstock.postgres.lsn import EndLsn
from relay_kit import Published, Source, identity, recorded, session

folder, end = Path(sys.argv[1]), EndLsn(int(sys.argv[2]))
writer = RelayWriter(
    folder=folder, publisher=Published(), recorded=recorded, acknowledge=Acknowledge.RELAY,
    wake_receiver=lambda: None, limits=RelayLimits(segment_bytes_max=20_000, queue_bytes_max=100_000),
)
writer.start()
source = Source(end=end, confirmed=end)
writer.begin_session(session(identity(end)))
while True:
    if not writer.is_full:
        source.commit([(1, b"x" * 100)] * 20)
        for batch in source.send(3):
            writer.submit(batch)
    print(writer.confirmable.value, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_confirmed(tmp_path: Path) -> None:
    """Killed at any moment, several times over, the log reaches the last confirmed position, in one epoch, in order."""
    confirmed = START
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(confirmed.value)]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            seen = confirmed.value
            while seen < confirmed.value + 3000:
                seen = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            told = [int(line) for line in process.stdout.read().splitlines() if line]
        writer = RelayWriter(
            folder=tmp_path,
            publisher=Published(),
            recorded=recorded,
            acknowledge=Acknowledge.RELAY,
            wake_receiver=lambda: None,
        )
        writer.start()
        assert writer.confirmable >= EndLsn(max([seen, *told[:-1]]))
        confirmed = writer.confirmable
        writer.begin_session(session(identity(confirmed)))
        assert writer.stop(20)
        published = writer.published
        assert published is not None
        assert published.epoch == 1
        with RelayReader(tmp_path, 1) as reader:
            records = []
            while got := reader.read(published.place, 1 << 20):
                records += got
        kept, _, _ = decode(records)
        ends = [end.value for _, _, end in kept]
        assert ends == list(range(START.value + 18, confirmed.value + 1, 18))


def test_a_disk_that_is_full_for_real(tmp_path: Path) -> None:
    """A log under a limit of the operating system for file sizes fails loudly and keeps what it published."""
    script = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from penstock.errors import LogError
from penstock.relay.disk import SystemDisk
from penstock.relay.epochs import Acknowledge
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from relay_kit import Published, Source, identity, recorded, session
log = RelayLog(
    folder=Path({str(tmp_path)!r}), publisher=Published(), acknowledge=Acknowledge.RELAY, limits=RelayLimits(),
    disk=SystemDisk(), clock=lambda: 0.0, wall_clock=lambda: 0.0,
)
log.open()
log.begin_session(session(identity(is_new=True)), recorded())
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
source = Source()
try:
    while True:
        source.commit([(1, b"x" * 1000)])
        log.append(source.send())
except LogError as error:
    print(log.end.value, error.message)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    end, _, message = told.partition(" ")
    assert "writing the relay log failed" in message
    log = _opened(tmp_path)
    assert log.end == EndLsn(int(end))
    assert log.end > START


def _opened(folder: Path) -> RelayLog:
    log = RelayLog(
        folder=folder,
        publisher=Published(),
        acknowledge=Acknowledge.RELAY,
        limits=RelayLimits(),
        disk=SystemDisk(),
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
    )
    log.open()
    return log
