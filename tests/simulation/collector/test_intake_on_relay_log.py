"""
The intake on a real relay log, while the connection is lost again and again.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from penstock.collector.abc import RoutedPart
from penstock.collector.collector import ShapeLogCollector
from penstock.collector.flush_tracker import FlushTracker
from penstock.collector.intake import Intake
from penstock.errors import PenstockError
from penstock.postgres.lsn import EndLsn
from penstock.relay.abc import PublishedEnd
from penstock.relay.reader import RelayReader
from relay_disk import FaultyDisk
from relay_kit import START, Published, Source, make_log, recorded, session
from stream_builder import RecordedFacts, RecordingDelivery, definition

TABLES = (10, 20)


def expected(source: Source, table: int, behind: EndLsn) -> list[tuple[int, list[bytes]]]:
    """
    What a shape of a table must be given: its rows by commit.
    """
    return [
        (each.commit_lsn.value, rows)
        for each in source.transactions
        if each.end > behind and (rows := [value for oid, value in each.rows if oid == table])
    ]


def given(parts: list[tuple[int, RoutedPart]], incarnation: int) -> list[tuple[int, list[bytes]]]:
    """
    What a shape was given: rows by commit, each commit ended once and nothing after its end.
    """
    got: list[tuple[int, list[bytes]]] = []
    is_open = False
    for part in (part for owner, part in parts if owner == incarnation):
        if not is_open:
            got.append((part.commit_lsn.value, []))
        assert got[-1][0] == part.commit_lsn.value
        got[-1][1].extend(change.new[0] or b"" for change in part.changes if change.new is not None)
        is_open = part.end is None
    assert not is_open
    return got


def random_rows(chance: random.Random) -> list[tuple[int, bytes]]:
    """
    Rows of one transaction.
    """
    return [(chance.choice(TABLES), b"%d" % chance.randrange(10**6)) for _ in range(chance.randrange(1, 12))]


@pytest.mark.parametrize("seed", range(8))
def test_every_commit_reaches_its_shapes_once_and_in_order(seed: int, tmp_path: Path) -> None:
    """Whatever the connection does, and wherever the records of a transaction are cut."""
    chance = random.Random(seed)
    source = Source()
    published = Published()
    log = make_log(tmp_path, FaultyDisk(tmp_path), publisher=published)
    log.open()
    delivery = RecordingDelivery()
    tracker = FlushTracker(START)
    facts = RecordedFacts()
    collector = ShapeLogCollector(boundary=START, facts=facts, delivery=delivery, tracker=tracker)
    for incarnation, table in enumerate(TABLES, 1):
        collector.add_shape(incarnation, definition(table), 0.0)
        assert tracker.start_owing(incarnation, START, 0.0)

    async def open_epoch(end: PublishedEnd) -> RelayReader:
        reader = RelayReader(tmp_path, end.epoch)
        reader.seek(START)
        return reader

    async def on_broken(error: PenstockError) -> None:
        raise error

    intake = Intake(
        collector,
        published=lambda: published[-1] if published else None,
        open_epoch=open_epoch,
        find_ancestors=facts.find_ancestors,
        on_broken=on_broken,
        on_slice=lambda _: None,
        clock=lambda: 0.0,
    )

    async def go() -> None:
        task = asyncio.create_task(intake.run())
        async with asyncio.timeout(30):
            for _ in range(10):
                source.connect(log.begin_session(session(), recorded()))
                for _ in range(chance.randrange(4)):
                    source.commit(random_rows(chance))
                while not source.is_drained():
                    batches = source.send(parts=chance.randrange(1, 5))
                    kept = chance.randrange(len(batches) + 1) if chance.random() < 0.2 else len(batches)
                    for batch in batches[:kept]:
                        log.append([batch])
                        intake.wake()
                        await asyncio.sleep(0)
                    if kept < len(batches):
                        break
            source.connect(log.begin_session(session(), recorded()))
            while not source.is_drained():
                for batch in source.send():
                    log.append([batch])
            while collector.last_seen_end < source.end:
                assert not task.done(), task
                intake.wake()
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())
    log.close()
    for incarnation, table in enumerate(TABLES, 1):
        assert given(delivery.parts, incarnation) == expected(source, table, START)
    for _, part in delivery.parts:
        assert part.end is None or part.end <= tracker.last_seen_offset
    assert tracker.last_global_flushed_offset < tracker.last_seen_offset
