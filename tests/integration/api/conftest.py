"""
The shells of the API on both event loops: the standard library's, and the one the service runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"], autouse=True)
def event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let `asyncio.run` of a test use one loop, then the other.
    """
    make: Callable[[], asyncio.AbstractEventLoop] = request.param

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)
