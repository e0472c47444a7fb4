from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from penstock.control.store import SqliteControlStore


async def test_the_store_tells_since_when_its_disk_owes_an_answer(tmp_path: Path) -> None:
    """
    While a commit is under way there is a time, between two there is none: a disk that hangs raises no error.
    """
    store = SqliteControlStore(tmp_path / "control.sqlite", reserve_bytes=1 << 16)
    await store.open()
    await store.load()
    before = time.monotonic()
    is_asked, may_answer = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        is_asked.set()
        assert may_answer.wait(30)

    asking = asyncio.create_task(store._ask(hang))
    assert await asyncio.to_thread(is_asked.wait, 30)
    since = store.waiting_since or 0.0
    assert before <= since <= time.monotonic()
    may_answer.set()
    await asking
    assert store.waiting_since is None
    await store.close(is_clean=False)
