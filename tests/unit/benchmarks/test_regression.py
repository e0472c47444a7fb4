"""What is told of two runs of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3]))
from benchmarks.flame import busiest, draw, read_stacks
from benchmarks.measure import StolenTime
from benchmarks.regression import find_moves, tell
from benchmarks.report import Figure, Point, Report, make_report, merge, render


def figure(*ratios: float, name: str = "service-small") -> Figure:
    return Figure(
        name=name,
        scenario=f"the scenario {name}",
        unit="rows/s",
        penstock=1000.0,
        reference=2000.0,
        reference_name="pg_recvlogical",
        ratios=ratios,
    )


def report(*figures: Figure) -> Report:
    return make_report(figures, postgres="18", row_count=1000, stolen=None)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((1.0, 1.0, 1.0), (1.05, 1.05, 1.05), []),
        ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), ["slower"]),
        ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5), ["faster"]),
        # Rounds that lie this far apart say nothing of such a difference.
        ((0.6, 1.0, 1.4), (0.8, 0.8, 0.8), []),
        ((1.0, 1.0, 1.0), (0.8,), []),
    ],
)
def test_a_ratio_moved_when_it_left_what_the_rounds_allow(
    before: Sequence[float], after: Sequence[float], expected: Sequence[str]
) -> None:
    """A tenth and the spread of both runs may be chance, and of a single round somewhat more."""
    moves = find_moves([figure(*after)], report(figure(*before)))
    assert [str(move).partition(":")[0] for move in moves] == expected
    assert [move.is_worse for move in moves] == [word == "slower" for word in expected]


def test_new_lines_are_compared_with_nothing() -> None:
    """A scenario that the last results do not have has not moved."""
    fresh = report(figure(1.0, name="service-large"))
    assert find_moves(fresh.figures, report(figure(1.0))) == []
    assert "0 of 0" in tell(fresh, report(figure(1.0)), [])[0]
    assert tell(fresh, None, [])[0].startswith("There are no earlier results")


def test_what_was_not_measured_stays() -> None:
    """Lines of an earlier run are kept with their date, unless their scenario was measured again or is gone."""
    before = report(figure(1.0), figure(2.0, name="service-large"), figure(3.0, name="gone"))
    merged = merge(report(figure(4.0)), before, ["service-large", "service-small"])
    assert [(each.name, each.ratio) for each in merged.figures] == [("service-large", 2.0), ("service-small", 4.0)]


def test_the_table_says_what_misses_its_aim() -> None:
    """Beside each ratio that has an aim."""
    lines = render(report(figure(0.5), figure(0.95, name="service-large"))).splitlines()
    assert [line.split("|")[5].strip() for line in lines if "the scenario" in line] == ["≥ 0.9, missed", "≥ 0.9"]


def test_growth_is_drawn_without_a_date(tmp_path: Path) -> None:
    """A picture for each curve and one of all ratios; nothing in them says when, so that a commit shows what changed."""
    plots = pytest.importorskip("benchmarks.plots")
    pytest.importorskip("matplotlib")
    figures = [
        Figure(
            name="growth-rows",
            scenario=f"{count} rows",
            unit="rows/s",
            penstock=1.0 * count,
            reference=2.0 * count,
            reference_name="pg_recvlogical",
            ratios=(0.5,),
            peak_mib=100.0,
            point=Point("rows", "small", count),
        )
        for count in (10, 100)
    ]
    made = plots.draw([figure(0.5), *figures], tmp_path)
    assert [path.name for path in made] == ["growth-rows.svg", "ratios.svg"]
    assert all("dc:date" not in path.read_text() for path in made)


def test_what_the_host_took_stands_in_the_head(tmp_path: Path) -> None:
    """Its part of all the time that passed, guests not counted twice; nothing where the system does not say."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 100 0 0 0 10 50 0\ncpu0 1 2 3\n")
    stolen = StolenTime(stat)
    stat.write_text("cpu  130 0 130 120 0 0 0 30 70 0\ncpu0 1 2 3\n")
    assert stolen.share() == 0.2
    assert "20 % taken by the host" in make_report([], postgres="18", row_count=1, stolen=stolen.share()).machine
    stat.unlink()
    assert stolen.share() is None
    assert "host" not in make_report([], postgres="18", row_count=1, stolen=None).machine


def test_samples_become_a_picture_without_those_who_wait(tmp_path: Path) -> None:
    """Threads that wait are left out, lines of one function are one, and names are escaped."""
    raw = tmp_path / "raw"
    raw.write_text(
        "main (a.py:1);work <x> (a.py:2) 30\nmain (a.py:1);work <x> (a.py:3) 10\nmain (a.py:1);poll (libc.so) 99\n"
    )
    stacks = read_stacks(raw)
    assert stacks == {("main (a.py)", "work <x> (a.py)"): 40}
    assert busiest(stacks, 3) == [("work <x> (a.py)", 1.0)]
    assert "work &lt;x&gt; (a.py), 100.0%" in draw(stacks, "title")
