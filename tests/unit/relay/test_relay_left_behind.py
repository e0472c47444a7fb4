"""
What the simulation found about the edges of the relay log: its own folder, and segments trimmed unread.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from penstock.errors import CorruptLogError
from penstock.relay.limits import RelayLimits
from penstock.relay.reader import RelayReader
from relay_disk import FaultyDisk
from relay_kit import Source, decode, identity, make_log, read_all, recorded, rows, session


def test_the_folder_of_the_relay_log_survives_a_power_cut(tmp_path: Path) -> None:
    """
    What was confirmed is there after a power cut soon after the first start, whose folder was new as well.
    """
    for seed in range(8):
        home = tmp_path / str(seed)
        home.mkdir()
        disk = FaultyDisk(home / "scratch")
        log = make_log(home / "relay", disk)
        log.open()
        log.begin_session(session(identity(is_new=True)), recorded())
        source = Source()
        source.commit(rows(random.Random(1), 3))
        log.append(source.send())
        end = log.end
        disk.power_cut(random.Random(seed))
        after = make_log(home / "relay", disk)
        after.open()
        assert after.end == end
        disk.process_ends()


def test_a_segment_trimmed_before_it_was_read_is_passed(tmp_path: Path) -> None:
    """
    A reader that stands before a segment nobody needs goes on where the log begins now; before one that is needed it tells.
    """
    disk = FaultyDisk(tmp_path / "scratch")
    log = make_log(tmp_path / "relay", disk, limits=RelayLimits(segment_bytes_max=1))
    log.open()
    log.begin_session(session(identity(is_new=True)), recorded())
    source = Source()
    for _ in range(2):
        source.commit(rows(random.Random(1), 3))
        log.append(source.send())
    idle, late = RelayReader(tmp_path / "relay", 1), RelayReader(tmp_path / "relay", 1)
    idle.seek(log.end)
    late.seek(recorded().boundary)
    boundary = log.end
    source.commit(rows(random.Random(2), 3))
    log.append(source.send())
    log.trim(recorded(boundary, epoch=1))
    assert log.published is not None
    kept, _, _ = decode(read_all(idle, log.published))
    assert [each[2] for each in kept] == [log.end]
    with pytest.raises(CorruptLogError):
        read_all(late, log.published)
    idle.close()
    late.close()
    disk.process_ends()
