"""
Pictures of the figures: growth curves, and all ratios with their aims.

Drawn by matplotlib as SVG, without dates or random names in them, so that the same figures make the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.report import RESULTS, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOTS: Final[Mapping[str, tuple[str, str]]] = {
    "shapes": ("By the number of shapes", "shapes"),
    "clients": ("By the number of clients", "clients"),
    "rows": ("By the number of rows", "rows"),
    "transactions": ("By the size of a transaction", "rows in a transaction"),
    "entries": ("By the length of a log", "entries"),
}
"""Title and axis of each growth curve, by its name."""

_WIDTH_IN: Final = 6.4
_PANEL_IN: Final = 2.6
_BAR_IN: Final = 0.24


def draw(figures: Sequence[Figure], folder: Path = RESULTS) -> list[Path]:
    """
    Draw what can be drawn of these figures; gives the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - takes a while, and may be missing

    mpl.use("svg")
    folder.mkdir(exist_ok=True)
    made = []
    with mpl.rc_context():
        mpl.rc("svg", hashsalt="penstock", fonttype="none")
        mpl.rc("font", size=9)
        for plot in PLOTS:
            points = [figure for figure in figures if figure.point is not None and figure.point.plot == plot]
            if points:
                made.append(_draw_growth(plot, points, folder / f"growth-{plot}.svg"))
        if figures:
            made.append(_draw_ratios([figure for figure in figures if figure.point is None], folder / "ratios.svg"))
    return made


def _draw_growth(plot: str, figures: Sequence[Figure], path: Path) -> Path:
    """
    Draw a panel for each unit, and one for the memory where it was measured.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    units = list(dict.fromkeys(figure.unit for figure in figures))
    with_memory = [figure for figure in figures if figure.peak_mib is not None]
    count = len(units) + bool(with_memory)
    title, axis = PLOTS[plot]
    canvas, panels = plt.subplots(
        count, 1, sharex=True, squeeze=False, figsize=(_WIDTH_IN, 0.6 + _PANEL_IN * count), layout="constrained"
    )
    for panel, unit in zip(panels[:, 0], units, strict=False):
        _draw_lines(panel, [figure for figure in figures if figure.unit == unit])
        panel.set_ylabel(unit)
    if with_memory:
        panel = panels[-1, 0]
        for series, line in _by_series(with_memory).items():
            panel.plot([x for x, _ in line], [figure.peak_mib for _, figure in line], marker="o", label=series)
        panel.set_ylabel("peak memory, MiB")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=7)
    panels[0, 0].set_title(title)
    panels[-1, 0].set_xlabel(axis)
    canvas.savefig(path, format="svg", metadata={"Date": None})
    plt.close(canvas)
    return path


def _draw_lines(panel: Axes, figures: Sequence[Figure]) -> None:
    for series, line in _by_series(figures).items():
        places = [x for x, _ in line]
        [drawn] = panel.plot(places, [figure.penstock for _, figure in line], marker="o", label=series)
        panel.plot(
            places,
            [figure.reference for _, figure in line],
            linestyle=":",
            color=drawn.get_color(),
            label=f"{series}: {line[0][1].reference_name}",
        )
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=7)


def _by_series(figures: Sequence[Figure]) -> dict[str, list[tuple[float, Figure]]]:
    found: dict[str, list[tuple[float, Figure]]] = {}
    for figure in figures:
        assert figure.point is not None
        found.setdefault(figure.point.series, []).append((figure.point.x, figure))
    return {series: sorted(line, key=lambda each: each[0]) for series, line in found.items()}


def _draw_ratios(figures: Sequence[Figure], path: Path) -> Path:
    """
    Draw a bar for each ratio from the least to the most of its rounds, its median and its aim.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    places = range(len(figures))
    canvas, panel = plt.subplots(figsize=(_WIDTH_IN + 2, 0.9 + _BAR_IN * len(figures)), layout="constrained")
    panel.hlines(places, [min(f.ratios) for f in figures], [max(f.ratios) for f in figures], linewidth=4, alpha=0.4)
    panel.plot([figure.ratio for figure in figures], places, "o", label="median of the rounds")
    aims = [(place, figure.aim) for place, figure in enumerate(figures) if figure.aim is not None]
    panel.plot([aim for _, aim in aims], [place for place, _ in aims], "|", color="black", markersize=12, label="aim")
    panel.axvline(1, color="grey", linewidth=0.8)
    panel.set_yticks(places, [figure.scenario for figure in figures], fontsize=7)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("times as fast as the reference in the same run")
    panel.legend(fontsize=7, loc="lower right")
    canvas.savefig(path, format="svg", metadata={"Date": None})
    plt.close(canvas)
    return path
