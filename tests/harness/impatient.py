"""
The command `penstock` with the least idle time lowered: sleeping after a second is of use to tests only.

To be executed as a script, in place of `-m penstock`. The settings go on to the processes it starts as they are.
"""

from __future__ import annotations

import penstock.service.settings_sources as sources
from penstock.cli.main import cli


def main() -> None:
    """
    Run the command.
    """
    sources.IDLE_TIMEOUT_S_MIN = 0.1  # type: ignore[misc] # that is what this script is for
    cli()


if __name__ == "__main__":
    main()
