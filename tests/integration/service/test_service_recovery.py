from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.waiting import until
from harness.workload import ShapeUnderTest

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GOOD = ShapeUnderTest("good")


async def live_twice(database: Any, service: Service, audience: Audience) -> None:
    """
    A shape with changes; the service is restarted in between, and its first relay segment has been trimmed since.
    """
    database.execute("CREATE TABLE good (id int PRIMARY KEY)")
    audience.join(GOOD)
    await audience.agree()
    database.execute("INSERT INTO good VALUES (0)")
    await audience.agree()
    await service.stop()
    first = min((service.data_dir / "relay").rglob("*.relay"))
    service.start()
    await service.wait_active()
    database.execute("INSERT INTO good VALUES (1)")
    await audience.agree()

    async def is_trimmed() -> bool:
        return not first.exists()

    await until("the first segment is trimmed", is_trimmed)
    await service.stop()


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_an_unreadable_control_store_costs_the_shapes_and_nothing_else(
    database: Any, tmp_path: Path, mode: str
) -> None:
    """
    A control store that cannot be read is set aside: every shape starts over, is right, and the folders of old go.
    """
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode) as service,
        Audience(service.url, database.url) as audience,
    ):
        await live_twice(database, service, audience)
        old = {path.name for path in (service.data_dir / "shapes").glob("*/*")}
        control = service.data_dir / "state" / "control.sqlite"
        control.write_bytes(b"not a database" * 1000)
        for companion in control.parent.glob("control.sqlite-*"):
            companion.unlink()
        service.start()
        await service.wait_active()
        database.execute("INSERT INTO good VALUES (2)")
        await audience.agree()
        assert audience.rotations == [1]
        assert len(list(control.parent.glob("control.sqlite.unreadable-*"))) == 1
        assert not old & {path.name for path in (service.data_dir / "shapes").glob("*/*")}


@pytest.mark.parametrize("mode", ["relay", "shapes"])
async def test_a_relay_log_that_is_gone_costs_the_shapes_and_nothing_else(
    database: Any, tmp_path: Path, mode: str
) -> None:
    """
    Without its relay log the service cannot know what was missed: another epoch begins, every shape starts over.
    """
    async with (
        Service(database.url, tmp_path, "--acknowledge", mode) as service,
        Audience(service.url, database.url) as audience,
    ):
        await live_twice(database, service, audience)
        shutil.rmtree(service.data_dir / "relay")
        service.start()
        await service.wait_active()
        database.execute("INSERT INTO good VALUES (2)")
        await audience.agree()
        assert audience.rotations == [1]
