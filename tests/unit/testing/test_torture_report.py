from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.testing.faults import FAULTS
from penstock.testing.torture.catalogue import BY_NAME, CATALOGUE, DEFAULTS, NOT_HELD_S, SHORT, FaultSpec
from penstock.testing.torture.report import HEADINGS, Row, cells, judge, make_markdown
from penstock.testing.torture.runner import _beside
from penstock.testing.torture.shim import ShimMissingError, compile_shim


def _row(spec: FaultSpec, **fields: object) -> Row:
    guilty = 1 if spec.cost.name == "GUILTY" else 0
    return Row(fault=spec.name, mode="shapes", **{"released_s": 1.0, "bound_s": 3.0, "guilty": guilty, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("consumer-hung", {}, ""),
        ("consumer-hung", {"guilty": 0}, "not given up"),
        ("consumer-hung", {"innocent": 2}, "2 innocent"),
        ("consumer-hung", {"diverged": 1}, "differ from the query"),
        ("consumer-hung", {"released_s": None}, "not released"),
        ("consumer-hung", {"released_s": 7.0}, "instead of 3 s"),
        ("web-killed", {}, ""),
        ("consumer-ended", {"guilty": 1}, "had to start over"),
        ("slot-dropped", {"innocent": 4}, ""),
        ("slot-dropped", {"innocent": 0}, "no shape was told"),
    ],
)
def test_a_row_names_the_promises_that_it_breaks(name: str, fields: dict[str, object], expected: str) -> None:
    """
    Each measure that is not as promised is a sentence, and makes the verdict.
    """
    spec = BY_NAME[name]
    row = _row(spec, **fields)
    judge(row, spec)
    assert row.verdict == ("broken" if expected else "kept")
    assert len(row.broken) == bool(expected)
    assert expected in " ".join(row.broken)


def test_patience_is_for_bounds_alone() -> None:
    """
    A loaded machine excuses a late release, and nothing else.
    """
    spec = BY_NAME["consumer-hung"]
    row = _row(spec, released_s=7.0)
    judge(row, spec, patience=3.0)
    assert row.broken == []
    judge(row := _row(spec, innocent=1), spec, patience=100.0)
    assert len(row.broken) == 1


def test_the_bounds_are_those_that_are_promised() -> None:
    """
    With default deadlines: 3, 35 and 45 s in shapes mode, and never held in relay mode.
    """
    promised = {"consumer-killed": 3.0, "consumer-hung": 35.0, "sync-hung": 35.0, "consumer-loops": 45.0}
    assert {name: BY_NAME[name].bound(DEFAULTS, "shapes") for name in promised} == promised
    assert {BY_NAME[name].bound(DEFAULTS, "relay") for name in promised} == {NOT_HELD_S}


def test_every_fault_has_a_table_of_its_own_and_a_deadline_that_can_end() -> None:
    """
    Names are unique, injected ones exist, and stopping everything takes longer than every deadline.
    """
    assert len({spec.table for spec in CATALOGUE}) == len(CATALOGUE)
    assert {spec.name for spec in CATALOGUE if spec.is_injected} <= set(FAULTS)
    for deadlines in (DEFAULTS, SHORT):
        assert deadlines.longest_s > deadlines.flush_stall_grace_s + deadlines.verify_s
        assert deadlines.longest_s > deadlines.receiver_hang_s


def test_rows_are_written_for_people() -> None:
    """
    Every heading has its cell, in a skipped row too, which says why.
    """
    row = _row(BY_NAME["consumer-hung"], held_bytes=3 << 20, released_s=31.26, bound_s=35.0)
    assert cells(row) == ("consumer-hung", "shapes", "3.0 MiB", "31.3 s", "35 s", "1", "0", "none", "kept", "")
    skipped = Row(fault="sync-hung", mode="relay", skipped="no C compiler here (cc or gcc)")
    assert skipped.verdict == "skipped"
    lines = make_markdown([row, skipped]).splitlines()
    assert [line.count("|") for line in lines] == [len(HEADINGS) + 1] * 4
    assert "no C compiler" in lines[3]


async def test_without_a_compiler_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What cannot be staged here is skipped, not passed.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ShimMissingError, match="no C compiler"):
        await compile_shim(tmp_path)


async def test_what_fails_beside_ends_the_whole() -> None:
    """
    Without writers or without looking at the slot nothing would be measured, and all would look well.
    """

    async def fail() -> None:
        raise ValueError("gone")

    with pytest.raises(ValueError, match="gone"):
        async with _beside(asyncio.sleep(60), fail()):
            await asyncio.sleep(60)


async def test_an_interruption_stays_one() -> None:
    """
    Who is cancelled while others work beside him is cancelled, and they are too.
    """
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def block() -> None:
        async with _beside(work()):
            await asyncio.sleep(60)

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
