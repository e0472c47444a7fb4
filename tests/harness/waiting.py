"""
Waiting for something that only another process knows: it has to be asked again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

ASK_EVERY_S: Final = 0.05


async def until(what: str, question: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """
    Ask until the answer is yes; fails, naming what was waited for, when it never is.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not await question():  # noqa: ASYNC110  another process sets no event of ours
                await asyncio.sleep(ASK_EVERY_S)
    except TimeoutError:
        raise AssertionError(f"not after {timeout_s} s: {what}") from None


async def until_confirmed(database: Any, slot: str, position: str, timeout_s: float = 30.0) -> None:
    """
    Wait until the slot's confirmed position has reached another.
    """

    async def is_confirmed() -> bool:
        rows = await asyncio.to_thread(
            database.query,
            "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s",
            position,
            slot,
        )
        return bool(rows[0][0])

    await until(f"the slot is confirmed up to {position}", is_confirmed, timeout_s)
