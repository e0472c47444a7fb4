"""
Where the receiver's connection stands, for whoever shows it. Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from penstock.postgres.lsn import EndLsn


class ReceiverPhase(Enum):
    """
    What the connection thread is doing.
    """

    CONNECTING = "connecting"
    WAITING_FOR_LOCK = "waiting for lock"
    """Another instance holds the advisory lock of the slot."""
    CREATING_SLOT = "creating slot"
    """Takes until every transaction that was open when it began has ended."""
    STREAMING = "streaming"
    BACKING_OFF = "backing off"
    ASLEEP = "asleep"
    """Has no connection because it is told to have none."""
    FAILED = "failed"
    """Ended for good by an error that only a person can mend."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """
    A snapshot of the connection.

    Attributes:
        phase: what it is doing.
        since: when that phase began, on the client's clock.
        error: the sentence of the last failure; empty once it streams again.
        received: how far the stream was read on this connection.
        confirmed: the position in the last status on this connection.
        server_end: the greatest WAL position the server has named on this connection.
        is_paused: whether the socket is not read because the keeper of frames is full.
        has_streamed: whether this run has streamed before.
    """

    phase: ReceiverPhase
    since: float
    error: str
    received: EndLsn
    confirmed: EndLsn
    server_end: EndLsn
    is_paused: bool
    has_streamed: bool
