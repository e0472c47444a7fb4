"""
From the relay log to stream events: one reader's place in the log and the decoder behind it.

Owns the pairing of a `RelaySource` with an assembler. It knows nothing of shapes, so that any number of readers can go
through the same log, each at its own place: the engine's intake and the catch-up reader are two of them.

After a corrupt record nothing is decoded until the next session record, because a description may be among what was
lost. What is skipped is lost for all shapes alike: the owner rotates them when it is told of the corruption, and once
more when decoding goes on (`is_skipping` turns false), for those made in between.

Form: shell, as far as its source reads files; it waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, assert_never

from penstock.errors import CorruptLogError
from penstock.relay.abc import FramesRecord, FrontierRecord, RelayPlace, RelaySource, SessionRecord, StubRecord
from penstock.replication.messages import Frontier, Omitted, StreamEvent


class Assembler(Protocol):
    """
    Turns frames into events, as `replication.transactions` does.
    """

    def begin_session(self, descriptions: Sequence[bytes]) -> list[StreamEvent] | None:
        """
        Start anew with these descriptions; a transaction that was open is void.
        """
        ...

    def feed(self, frames: bytes) -> list[StreamEvent]:
        """
        Decode frames, each with a 4-byte big-endian length before it.
        """
        ...
