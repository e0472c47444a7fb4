"""
The owner's side of a handover, where the disk does not play along.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from consumer_kit import Engine, World, until, whole
from penstock.service import handover
from penstock.service.handover import CATALOG_NAME, STANDBY_NAME, Handover, StandbyMark, decode_catalog


def test_a_disk_that_refuses_costs_the_standby_and_not_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The file by which a standby would be seen cannot be made: the owner goes on, and looks again when it can.
    """
    monkeypatch.setattr(handover, "RETRY_S", 0.01)
    attempts: list[Path] = []

    def open_mark(folder: Path) -> StandbyMark:
        attempts.append(folder)
        return StandbyMark(folder)

    monkeypatch.setattr(handover, "StandbyMark", open_mark)
    in_the_way = tmp_path / STANDBY_NAME
    in_the_way.mkdir()

    async def run() -> None:
        engine = Engine(World())
        await engine.start()
        await engine.stage.catalog.open(whole())
        await engine.quiesce()
        owner = Handover(tmp_path, engine.stage.registry, engine.stage.settler, are_generated_published=lambda: False)
        serving = asyncio.create_task(owner.run())
        await until(lambda: serving.done() or len(attempts) > 1)
        assert not serving.done()
        in_the_way.rmdir()
        standby = StandbyMark(tmp_path)
        assert standby.hold()
        await until((tmp_path / CATALOG_NAME).exists)
        assert len(decode_catalog((tmp_path / CATALOG_NAME).read_bytes()).rows) == 1
        standby.close()
        serving.cancel()
        await asyncio.wait([serving])
        await engine.stop()

    asyncio.run(run())
