"""
Clients that wait, under writes that do not end: nobody is forgotten.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from harness.event_streams import SCHEMA, Follower, Manner, Numbers, follow_writes
from harness.service import Service

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

WRITING_S: Final = float(os.environ.get("PENSTOCK_WRITING_S", "4"))
SEED: Final = int(os.environ.get("PENSTOCK_SEED") or "1")
STEPS: Final = (1, 1, 2, 7, 50, 400, 5000)
"""Which numbers make a shape, from all to hardly any."""


@pytest.fixture(autouse=True)
def event_loop() -> None:
    """
    The service has a process of its own, with its own loop.
    """


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_who_waits_is_forgotten(database: Any, tmp_path: Path, workers: int) -> None:
    """
    Dozens of streams of events and long polls on shapes with many and with few changes, slow readers and such as leave
    among them: each is told each change once, in order, and soon (C5, C7, C29).
    """
    database.execute(SCHEMA)
    numbers = Numbers(database.url, 2, seed=SEED)
    async with Service(database.url, tmp_path, "--web-workers", str(workers)) as service:
        followers = [Follower(service.port, numbers, step, manner) for manner in Manner for step in STEPS * 2]
        await follow_writes(numbers, followers, WRITING_S)
        # Nobody has been told of what was never written.
        ends = [len(times) for times in numbers.committed_at]
        assert all(follower.last[writer] < end for follower in followers for writer, end in enumerate(ends))
