"""What the command of the benchmarks does with its suites."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[3]))
from benchmarks.report import AIMS, Figure
from benchmarks.suites import Setting, Suite

command = pytest.importorskip("benchmarks.__main__")


def made(name: str) -> Suite:
    """A suite that measures at once."""

    def measure(setting: Setting) -> list[Figure]:
        ratio = 2.0 if setting.folder.is_dir() else 1.0
        return [
            Figure(
                name=name,
                scenario=f"the scenario {name}",
                unit="s",
                penstock=1.0,
                reference=2.0,
                reference_name="nothing",
                ratios=(ratio,),
            )
        ]

    return Suite({name: name}, measure, needs_server=False)


def broken(_: Setting) -> list[Figure]:
    """A suite that does not get to its end."""
    raise RuntimeError("the server is gone")


def test_scenarios_have_names_of_their_own_and_aims_are_of_scenarios() -> None:
    """Two suites with one name would be measured together, and an aim without a scenario is held against nothing."""
    names = [name for suite in command.SUITES for name in suite.names]
    assert len(names) == len(set(names))
    assert set(names) >= AIMS.keys()


def test_a_suite_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is measured and printed; the command says what failed and ends with an error."""
    names = ("routing-hit", "shape-memory", "catch-up")
    suites = (made(names[0]), Suite({names[1]: ""}, broken, needs_server=False), made(names[2]))
    monkeypatch.setattr(command, "SUITES", suites)
    options = [word for name in names for word in ("--only", name)]
    result = CliRunner().invoke(command.main, options)
    assert result.exit_code == 1
    assert "the scenario routing-hit" in result.output
    assert "the scenario catch-up" in result.output
    assert "not measured to its end: shape-memory (the server is gone)" in result.output
