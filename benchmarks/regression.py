"""
What moved since the last committed results.

Only ratios are compared, because they alone mean the same on two days and two machines, roughly. How much one may move
by chance is taken from the spread of the rounds of both runs: a line moved when its median left what the spreads of both
together, and a tenth, allow.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report import RESULTS, Figure, Report

ALLOWED_MIN: Final = 0.1
"""A ratio may always move by this share."""
ALLOWED_ONE_ROUND: Final = 0.15
"""What a run of one round adds to it, as nobody knows its spread."""
_GIT_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Move:
    """
    A line whose ratio is another one.

    Attributes:
        figure: as measured now.
        before: the ratio it had.
        allowed: the share by which it might have moved by chance.
    """

    figure: Figure
    before: float
    allowed: float

    @property
    def is_worse(self) -> bool:
        """
        Whether Penstock has become slower in comparison.
        """
        return self.figure.ratio < self.before

    def __str__(self) -> str:
        change = self.figure.ratio / self.before - 1
        return (
            f"{'slower' if self.is_worse else 'faster'}: {self.figure.scenario}: ratio {self.before:.2f} → "
            f"{self.figure.ratio:.2f} ({change:+.0%}; {self.allowed:.0%} may be chance)"
        )


def read_committed(folder: Path = RESULTS) -> Report | None:
    """
    Read the results of the last commit; those on disk where there is no repository, None where there are none.
    """
    try:
        done = subprocess.run(
            ["git", "show", "HEAD:./latest.json"],
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=_GIT_S_MAX,
        )
        data = done.stdout
    except (OSError, subprocess.SubprocessError):
        return read_latest(folder)
    return _decode(data)


def read_latest(folder: Path = RESULTS) -> Report | None:
    """
    Read the results on disk; None where there are none.
    """
    try:
        data = (folder / "latest.json").read_bytes()
    except OSError:
        return None
    return _decode(data)


def _decode(data: bytes) -> Report | None:
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError:
        return None


def find_moves(figures: Sequence[Figure], before: Report) -> list[Move]:
    """
    Compare lines with those of the same name in an earlier report; the worst first.
    """
    known = {figure.key: figure for figure in before.figures}
    moves: list[Move] = []
    for figure in figures:
        old = known.get(figure.key)
        if old is None or old.ratio <= 0 or figure.ratio <= 0:
            continue
        allowed = ALLOWED_MIN + _chance(old) + _chance(figure)
        if abs(math.log(figure.ratio / old.ratio)) > math.log1p(allowed):
            moves.append(Move(figure, old.ratio, allowed))
    return sorted(moves, key=lambda move: move.figure.ratio / move.before)


def _chance(figure: Figure) -> float:
    """
    Tell what share the rounds of one run lie apart from their median.
    """
    if len(figure.ratios) == 1:
        return ALLOWED_ONE_ROUND
    return (max(figure.ratios) - min(figure.ratios)) / 2 / figure.ratio


def tell(report: Report, before: Report | None, moves: Sequence[Move]) -> list[str]:
    """
    Write down what moved, as lines of Markdown.
    """
    if before is None:
        return ["There are no earlier results to compare with.", ""]
    known = {figure.key for figure in before.figures}
    compared = sum(figure.key in known for figure in report.figures)
    head = (
        f"Compared with the results of {before.measured_at} ({before.row_count:,} rows; {before.machine}): "
        f"{len(moves)} of {compared} ratios moved by more than their spread."
    )
    return [head, "", *(f"* {move}" for move in moves), *([""] if moves else [])]
