"""
One process of a bare chain: it passes bytes on from standard input to standard output, each by itself. With the name of a
file it first adds something to that and syncs it.
"""

from __future__ import annotations

import os
import sys

_RECORD = b"x" * 300
"""As long as what the relay log keeps of a small transaction."""


def main() -> None:
    """
    Pass on what comes until the input ends.
    """
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if len(sys.argv) > 1 else None
    while byte := os.read(0, 1):
        if file is not None:
            os.write(file, _RECORD)
            os.fdatasync(file)
        os.write(1, byte)


if __name__ == "__main__":
    main()
