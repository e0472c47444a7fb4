from __future__ import annotations

import pytest

from consumer_kit import Control
from penstock.errors import ConnectionLostError
from penstock.service import facts
from penstock.service.facts import RecordedFacts


async def test_a_catalog_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    H23: Whoever needs to know what is above a relation waits for the answer while the database is away or the control
    store refuses, and gets it, so that no change is routed by a guess.
    """
    monkeypatch.setattr(facts, "RETRY_S", 0.0)
    control = Control()
    control.fail_with = None
    asked: list[int] = []

    async def find(oid: int) -> tuple[int, ...]:
        asked.append(oid)
        if len(asked) < 3:
            raise ConnectionLostError("the database is away")
        return (30, 20)

    known = RecordedFacts(control, find)
    assert known.ancestors_of(10) is None
    assert await known.find_ancestors(10) == (30, 20)
    assert asked == [10, 10, 10]
    assert known.ancestors_of(10) == (30, 20)
    assert known.asking_count == 0
