"""
What a killed service left on its disk, read without the service: does it cover all that was confirmed?
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from functools import partial
from pathlib import Path

from harness.service import Service
from penstock.postgres.lsn import EndLsn
from penstock.relay.disk import read_at
from penstock.relay.epochs import epoch_name
from penstock.relay.reader import epochs_in
from penstock.relay.recovery import RecoveredSegment, recover_segment
from penstock.relay.segments import segment_name, segment_numbers
from penstock.relay.verify import verify_folder


def assert_covered(confirmed_text: str, service: Service, mode: str = "relay") -> None:
    """
    Fail unless the files cover every commit at or below the position confirmed to Postgres.

    The relay log must reach it, verify, and begin no later than the recorded boundary, below which every shape is
    durable; in `shapes` mode the relay log is not durable, and the boundary alone counts. The service must not be
    running.
    """
    confirmed = EndLsn.parse(confirmed_text)
    relay = service.data_dir / "relay"
    faults = [finding for finding in verify_folder(relay) if finding.is_fault]
    assert faults == []
    epoch = epochs_in(relay)[-1]
    folder = relay / epoch_name(epoch)
    numbers = segment_numbers(entry.name for entry in folder.iterdir())
    segments = [_recover(folder / segment_name(number)) for number in numbers]
    recorded_epoch, boundary = _recorded(service.data_dir)
    if recorded_epoch == epoch:
        assert segments[0].header.start <= boundary, "what lies between the boundary and the first segment is nowhere"
        reached = max(segments[-1].end, boundary) if mode == "relay" else boundary
    else:
        reached = segments[-1].end
    assert confirmed <= reached, f"confirmed is {confirmed}, but the disk reaches only to {reached}"


def _recover(path: Path) -> RecoveredSegment:
    handle = os.open(path, os.O_RDONLY)
    try:
        return recover_segment(partial(read_at, handle), os.fstat(handle).st_size)
    finally:
        os.close(handle)


def _recorded(data_dir: Path) -> tuple[int | None, EndLsn]:
    """
    Read epoch and boundary from a copy of the control store, as its next start would find them.
    """
    with tempfile.TemporaryDirectory() as copy:
        for path in (data_dir / "state").glob("control.sqlite*"):
            shutil.copy(path, copy)
        connection = sqlite3.connect(Path(copy) / "control.sqlite")
        try:
            epoch, boundary = connection.execute("SELECT epoch, boundary FROM life").fetchone()
        finally:
            connection.close()
    return epoch, EndLsn.parse(boundary)
