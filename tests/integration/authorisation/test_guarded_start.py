"""
A service whose guard is not to be had, and one whose guard is there but no secret.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from harness.service import Service, started
from integration.authorisation.conftest import HARNESS
from penstock.testing.postgres import ThrowawayDatabase

pytestmark = pytest.mark.postgres


async def test_a_service_without_its_guard_does_not_serve(database: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    It ends with the status for what a person has to mend, and names the setting; nobody was let in meanwhile.
    """
    env = {"PENSTOCK_AUTHORIZE": "harness.guard:nobody"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HARNESS), os.environ.get("PYTHONPATH")]))
    async with started(Service(database.url, tmp_path, env=env)) as service:
        assert service.process is not None
        async with asyncio.timeout(120):
            status = await asyncio.to_thread(service.process.wait)
    assert status == 78
    assert 'authorize: "harness.guard:nobody" is not to be had' in service.log_path.read_text()
