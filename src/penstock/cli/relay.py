"""
`penstock relay verify`: reads a relay log and says which of it can be read. Shell; changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from penstock.errors import ConfigError
from penstock.relay.verify import VerifyFinding, verify_folder

FAULTS_FOUND: Final = 1


def find_relay_folder(data_dir: Path, relay_dir: Path | None) -> Path:
    """
    Tell where the relay log of a data folder lies.

    Raises:
        ConfigError: there is none.
    """
    folder = relay_dir if relay_dir is not None else data_dir / "relay"
    if not folder.is_dir():
        raise ConfigError(
            f"there is no relay log in {folder}: name the service's data folder with --data-dir, or the relay log itself"
            " with --relay-dir"
        )
    return folder


def run_verify(folder: Path, *, is_quiet: bool, console: Console | None = None) -> int:
    """
    Verify and print; gives the exit status: 1 when something that counted cannot be read, else 0.

    Raises:
        ConfigError: the folder or a file in it may not be read by this user.
    """
    out = console or Console(soft_wrap=True)
    faults_count = 0
    try:
        for finding in verify_folder(folder):
            faults_count += finding.is_fault
            if finding.is_fault or not is_quiet:
                out.print(_line(finding, folder))
    except OSError as error:
        raise ConfigError(f"the relay log cannot be read: {error}") from error
    if faults_count:
        out.print(
            f"[red]{faults_count} faults.[/] A running service goes on behind them by itself and starts the shapes over that"
            " they concern; if its disk did this, look at the disk."
        )
        return FAULTS_FOUND
    if not is_quiet:
        out.print("[green]All of it can be read.[/]")
    return 0


def _line(finding: VerifyFinding, folder: Path) -> str:
    try:
        name = str(finding.path.relative_to(folder))
    except ValueError:
        name = str(finding.path)
    mark = "[red]fault[/]" if finding.is_fault else "[green]ok[/]   "
    return f"{mark} {escape(name)}: {escape(finding.text)}"
