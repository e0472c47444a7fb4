"""
Which code made the bytes of a shape, and what follows when other code would go on with them.

After a crash, replay makes again what clients were served from memory: the same offsets with the same bytes. Other code
may make other bytes, and a client that has the first half of them from here and the second half from there would be
wrong without anybody noticing. So code that serves anything else than the code before it, for the same stream, has
another *replay version*; and a shape that would be added to by replaying what another version was handed begins anew.

A clean stop leaves nothing to be replayed, and so nothing to be told apart. From an unclean start of other code until
nothing is left that the code before was handed, the bytes are of both, and foreign to whichever of them starts next.

Pure values.
"""

from __future__ import annotations

from typing import Final

REPLAY_VERSION: Final = 1
"""Goes up with every change of what is served for a stream: encodings, order, offsets, what concerns a shape."""

MIXED_VERSION: Final = 0
"""Recorded while what would be replayed was served by code of more than one version."""

REASON_OTHER_VERSION: Final = "another version of the service served what would be replayed"


def is_foreign(*, recorded_version: int, was_clean: bool) -> bool:
    """
    Tell whether what is replayed was served by code that may have made other bytes of it.
    """
    return not was_clean and recorded_version != REPLAY_VERSION


def version_at_start(*, recorded_version: int, was_clean: bool) -> int:
    """
    Tell what is to be recorded before anything of this run is served.
    """
    return MIXED_VERSION if is_foreign(recorded_version=recorded_version, was_clean=was_clean) else REPLAY_VERSION
