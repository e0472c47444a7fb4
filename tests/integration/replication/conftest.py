"""
A sink in memory, and receivers that use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from harness.receiver import MemorySink, RunningReceiver, StartReceiver
from penstock.testing.postgres import ThrowawayDatabase


@pytest.fixture
def sink() -> Iterator[MemorySink]:
    keeper = MemorySink()
    yield keeper
    keeper.close()


@pytest.fixture
def start(database: ThrowawayDatabase, sink: MemorySink) -> Iterator[StartReceiver]:
    """
    Start receivers of the database; all are stopped at the end.
    """
    with contextlib.ExitStack() as stack:

        def begin(*, name: str | None = None, url: str | None = None, **options: Any) -> RunningReceiver:
            receiver = RunningReceiver(url or database.url, sink, name=name or database.name, **options)
            return stack.enter_context(receiver)

        yield begin
