"""
Where the time goes: flame graphs of the receiver and of the engine while they work off a backlog.

`py-spy` looks at each of the two some hundred times a second from outside; what is drawn is the wall time of threads
that run, with C functions below the Python that calls them. The command `python -m benchmarks.flame`, or `make profile`.
"""

from __future__ import annotations

import html
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from benchmarks.backlog import LARGE, SMALL, UPDATES, Backlog, Kind
from benchmarks.progress import say
from benchmarks.report import RESULTS
from benchmarks.service import Service
from benchmarks.source import Source

ROWS_DEFAULT: Final = 300_000
ROLES: Final = ("receiver", "engine")
KINDS: Final = {kind.name: kind for kind in (SMALL, LARGE, UPDATES)}
SAMPLES_PER_S: Final = 200
_END_S_MAX: Final = 60.0
_WAITING: Final = frozenset(
    {
        "PyThread_acquire_lock_timed",
        "clock_nanosleep",
        "epoll_wait",
        "epoll_pwait",
        "poll",
        "pthread_cond_clockwait",
        "pthread_cond_timedwait",
        "pthread_cond_wait",
        "read",
        "select",
        "sem_clockwait",
        "sem_wait",
    }
)
"""C functions in which a thread waits for others. Files are read by `pread` and waited for in `fdatasync`."""
_TOLD_COUNT: Final = 15


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", type=click.IntRange(min=1000), default=ROWS_DEFAULT, show_default=True, help="How many rows.")
@click.option(
    "--kind", "names", type=click.Choice(list(KINDS)), multiple=True, default=("small", "large"), help="Of load."
)
@click.option("--native/--no-native", "is_native", default=True, help="Whether C functions are shown.")
@click.option("--folder", type=click.Path(path_type=Path), default=RESULTS, help="Where the pictures go.")
def main(rows: int, names: Sequence[str], folder: Path, *, is_native: bool) -> None:
    """
    Draw flame graphs of receiver and engine over a backlog, and print in which functions most time was spent.
    """
    tool = find_sampler()
    folder.mkdir(exist_ok=True)
    with Source() as source:
        for name in names:
            with tempfile.TemporaryDirectory(prefix="penstock-bench-") as temporary:
                _profile(tool, source, KINDS[name], rows, Path(temporary), folder, is_native=is_native)


def find_sampler() -> str:
    """
    Find `py-spy`, beside the interpreter or on the path.

    Raises:
        ClickException: it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise click.ClickException("py-spy is missing; it is in the dependency group `bench`")
    return found


def _profile(  # noqa: PLR0917 - one for each thing to know
    tool: str, source: Source, kind: Kind, rows: int, temporary: Path, folder: Path, *, is_native: bool
) -> None:
    backlog = Backlog(source, kind, max(1, int(rows * kind.share)), temporary / "backlog", single_process=False)
    try:
        with ExitStack() as stack:
            samplers: list[subprocess.Popen[bytes]] = []

            def watch(service: Service) -> None:
                for role in ROLES:
                    command = [tool, "record", "--pid", str(service.find_role(role)), "--rate", str(SAMPLES_PER_S)]
                    command += ["--format", "raw", "--output", str(temporary / role), "--duration", "3600"]
                    command += ["--native"] if is_native else []
                    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                    stack.callback(_end, sampler)
                    samplers.append(sampler)

            def stop(service: Service) -> None:
                del service
                for sampler in samplers:
                    _end(sampler)

            say(f"profiling: {kind.words}")
            backlog.run_service(is_checking=False, watch=watch, before_stop=stop)
    finally:
        stacks = {role: read_stacks(temporary / role) for role in ROLES}
        backlog.close()
    for role, found in stacks.items():
        path = folder / f"flame-{role}-{kind.name}.svg"
        path.write_text(draw(found, f"{role}, {kind.words}, {sum(found.values())} samples"))
        say(f"written to {path}")
        for function, share in busiest(found, _TOLD_COUNT):
            click.echo(f"{share:6.1%}  {function}")


def _end(sampler: subprocess.Popen[bytes]) -> None:
    """
    Let a sampler write what it has.
    """
    if sampler.poll() is None:
        sampler.send_signal(signal.SIGINT)
        try:
            sampler.communicate(timeout=_END_S_MAX)
        except subprocess.TimeoutExpired:
            sampler.kill()
            sampler.communicate()


def read_stacks(path: Path) -> Counter[tuple[str, ...]]:
    """
    Read stacks as `py-spy` writes them raw, from the root on, each with its number of samples. Line numbers are left out,
    and threads that wait.
    """
    stacks: Counter[tuple[str, ...]] = Counter()
    if path.exists():
        for line in path.read_text().splitlines():
            words, _, count = line.rpartition(" ")
            # What has no name is left out: C code without symbols, above or below functions that have some.
            named = [frame for frame in words.split(";") if not frame.startswith("0x")]
            frames = tuple(re.sub(r":\d+\)$", ")", frame) for frame in named)
            if frames and frames[-1].partition(" ")[0] not in _WAITING:
                stacks[frames] += int(count)
    return stacks


def busiest(stacks: Mapping[tuple[str, ...], int], count: int) -> list[tuple[str, float]]:
    """
    Name the functions that ran most often themselves, with their share of all samples.
    """
    leaves: Counter[str] = Counter()
    for stack, number in stacks.items():
        leaves[stack[-1] if stack else "?"] += number
    total = max(1, sum(leaves.values()))
    return [(name, number / total) for name, number in leaves.most_common(count)]


# --- drawing ---------------------------------------------------------------------------------------------------------

_WIDTH: Final = 1200
_ROW: Final = 16
_SHARE_MIN: Final = 0.002
"""What is narrower is left out."""
_CHARACTER: Final = 6.2
_HEAD: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'font-family="monospace" font-size="10">'
)
_PYTHON: Final = ("#f4b183", "#f6c39c")
_NATIVE: Final = ("#9dc3e6", "#b4d0ec")


class _Frame:
    """
    A function below its callers, with the number of samples in it and below.
    """

    __slots__ = ("below", "count")

    def __init__(self) -> None:
        self.count = 0
        self.below: dict[str, _Frame] = {}


def draw(stacks: Mapping[tuple[str, ...], int], title: str) -> str:
    """
    Draw a flame graph as SVG: callers above, width is time, order is by name. Python is warm, C is cold.
    """
    root = _Frame()
    for stack, count in stacks.items():
        frame = root
        frame.count += count
        for name in stack:
            frame = frame.below.setdefault(name, _Frame())
            frame.count += count
    boxes: list[str] = []
    depth = _draw_below(root, 0.0, 0, max(1, root.count), boxes)
    height = (depth + 2) * _ROW + 8
    return "\n".join(
        [
            _HEAD.format(width=_WIDTH, height=height),
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            f'<text x="4" y="12">{html.escape(title)}</text>',
            *boxes,
            "</svg>",
            "",
        ]
    )


def _draw_below(frame: _Frame, left: float, depth: int, total: int, boxes: list[str]) -> int:
    """
    Draw what a function called; tells how deep that went.
    """
    deepest = depth
    for name, below in sorted(frame.below.items()):
        width = below.count / total
        if width < _SHARE_MIN:
            continue
        colours = _PYTHON if ".py)" in name or "(<string>)" in name or "<frozen" in name else _NATIVE
        x, y, wide = left * _WIDTH, (depth + 1) * _ROW + 4, width * _WIDTH
        text = html.escape(name[: max(0, int(wide / _CHARACTER) - 1)]) if wide > 3 * _CHARACTER else ""
        boxes.append(
            f'<g><title>{html.escape(name)}, {width:.1%}</title><rect x="{x:.1f}" y="{y}" width="{wide:.1f}" '
            f'height="{_ROW - 1}" fill="{colours[depth % 2]}"/><text x="{x + 2:.1f}" y="{y + 11}">{text}</text></g>'
        )
        deepest = max(deepest, _draw_below(below, left, depth + 1, total, boxes))
        left += width
    return deepest if frame.below else depth


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.flame")
