from __future__ import annotations

from pathlib import Path

import pytest

from penstock.liveness.disk_space import Scarcity, find_scarcity, limit_of, missing_bytes
from penstock.service.disk_watch import DiskWatch, is_too_full_to_read


@pytest.mark.parametrize(
    ("free_bytes", "expected"),
    [
        (400, Scarcity.NONE),
        (399, Scarcity.CREATE),
        (300, Scarcity.CREATE),
        (299, Scarcity.KEEP),
        (199, Scarcity.PIN),
        (100, Scarcity.PIN),
        (99, Scarcity.READ),
        (0, Scarcity.READ),
    ],
)
def test_each_watermark_begins_a_step(free_bytes: int, expected: Scarcity) -> None:
    """
    Of a limit of 400 bytes each quarter that is used up costs one thing more, and what is left of it nothing.
    """
    assert find_scarcity(free_bytes, 400) is expected
    assert missing_bytes(free_bytes, 400) == max(0, 300 - free_bytes)


def test_the_limit_is_a_share_of_a_small_disk_and_a_size_on_a_large_one() -> None:
    """
    What is set is taken as it is, also no limit at all.
    """
    assert limit_of(None, 1000) == 50
    assert limit_of(None, 1 << 50) == 1 << 30
    assert limit_of(7, 1000) == 7
    assert find_scarcity(0, limit_of(0, 1000)) is Scarcity.NONE


async def test_what_is_scarce_is_told_and_a_disk_that_cannot_be_asked_changes_nothing(tmp_path: Path) -> None:
    """
    A limit beyond the disk is never kept: room is asked for at each look, and the sentence names what is done without.
    """
    asked: list[int] = []

    async def make_room(bytes_count: int) -> None:
        asked.append(bytes_count)

    folder = tmp_path / "there"
    folder.mkdir()
    full = DiskWatch(folder, folder, 1 << 60, make_room=make_room)
    assert (full.may_create, full.may_pin) == (True, True)
    await full.look()
    assert (full.may_create, full.may_pin) == (False, False)
    assert is_too_full_to_read(folder, 1 << 60)
    assert full.data is not None
    assert asked == [missing_bytes(*full.data)]
    assert all("nothing more is read from Postgres" in problem for problem in full.problems)
    folder.rmdir()
    await full.look()
    assert (full.may_create, full.may_pin) == (False, False)
    assert not is_too_full_to_read(folder, 1 << 60)
    well = DiskWatch(tmp_path, folder, 0, make_room=make_room)
    await well.look()
    assert well.may_create
    assert well.problems == []
