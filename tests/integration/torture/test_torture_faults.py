"""
Every fault of `penstock torture`, once in each mode in which it differs, by the same runner as the command's.
"""

from __future__ import annotations

from typing import Any

import pytest

from penstock.testing.torture.catalogue import BY_NAME, CATALOGUE, SHORT, Cost, Service
from penstock.testing.torture.report import Row
from penstock.testing.torture.runner import Torture

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

PATIENCE = 20.0
"""Times are the table's business; here only what never ends is too long."""

BY_MODE = {
    "shapes": [spec for spec in CATALOGUE if spec.name not in {"rolling-restart", "slot-dropped", "receiver-killed"}],
    # What differs: who holds the log, whose budget it is, and what a restart begins with.
    "relay": [
        BY_NAME[name]
        for name in (
            "consumer-killed",
            "consumer-hung",
            "engine-stopped",
            "control-store-hung",
            "receiver-killed",
            "rolling-restart",
            "slot-dropped",
            "consumer-slow",
        )
    ],
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["shapes", "relay"])
async def test_no_fault_breaks_a_promise(database: Any, mode: str) -> None:
    """
    Innocent shapes go on, guilty ones start over, clients have what the query gives, and the log is released.

    Scenario H8: the flush boundary passes a debt when it is paid or its shape given up.
    """
    rows: list[Row] = []
    torture = Torture(database.url, BY_MODE[mode], deadlines=SHORT, patience=PATIENCE, on_row=rows.append)
    assert await torture.run(mode) == rows
    assert [row.fault for row in rows] == [spec.name for spec in BY_MODE[mode]]
    assert {f"{row.fault}: {row.skipped}" for row in rows if row.skipped} == set()
    assert {row.fault: row.broken for row in rows if row.broken} == {}
    for row in rows:
        spec = BY_NAME[row.fault]
        assert row.diverged == 0
        if spec.cost is not Cost.ALL:
            assert row.innocent == 0
            assert row.guilty == (spec.cost is Cost.GUILTY)
        # In relay mode no consumer can hold the log, however short its deadlines are.
        if mode == "relay" and spec.is_injected and spec.service is Service.PLAIN:
            assert row.released_s is not None
            assert row.released_s < SHORT.flush_stall_grace_s * PATIENCE
    assert left_behind(database) == []


def left_behind(database: Any) -> list[tuple[str]]:
    """
    What the torture made and did not remove.
    """
    names: list[tuple[str]] = database.query(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'penstock%' "
        "UNION ALL SELECT pubname FROM pg_publication "
        "UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    )
    return names
