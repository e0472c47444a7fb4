"""
The budget of bytes that may be kept on our account, and who has to go when it is used up.

Two budgets, one rule. In `shapes` mode what the shapes owe is kept on the primary, as write-ahead log; in `relay` mode
it is kept on our own disk, in the relay log. Whichever it is, a shape that is merely slow makes durable progress and is
never stale; only bytes tell that it costs more than it is worth.

Owns the attribution (whose are the bytes that the primary keeps?) and the choice. Pure.

Attribution, from the oldest byte on::

    restart_lsn ──server──▶ confirmed ──link──▶ what we confirmed ──ours──▶ received ──queue──▶ end of the WAL

Only what is *ours* may cost a shape: an old transaction, a dead connection or a server that is ahead of us would not be
helped by it.

Choice. The boundary is the minimum over all debtors, so giving up the one that is flushed least frees bytes only up to
the next one. The candidates are therefore the prefixes of the debtors in order of their flushed positions; the best
frees most bytes for each byte that its clients have to read anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

SOFT_SHARE: Final = 0.25
HARD_SHARE: Final = 0.5
SHED_MAX: Final = 4
"""How many shapes one look gives up at most; the next look sees what that has freed."""
RESYNC_BYTES_MIN: Final = 1 << 16
"""What starting over costs at least, however small the shape."""


class Retained(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the server says of our slot, and what we have. Positions are numbers.

    Attributes:
        end: the server's end of WAL.
        restart: from where it keeps WAL for us; 0 without a slot.
        confirmed: what it knows to be confirmed.
        acknowledged: what we last confirmed.
        received: what we have received.
        safe_bytes: how much more it may write before the slot is lost; None without such a limit.
        keep_bytes: its `max_slot_wal_keep_size`; None for no limit.
        wal_status: of the slot.
        held_by: what keeps `restart` so far back, in words.
        is_synchronous: whether commits wait for our connection.
    """

    end: int
    restart: int
    confirmed: int
    acknowledged: int
    received: int
    safe_bytes: int | None = None
    keep_bytes: int | None = None
    wal_status: str = ""
    held_by: str = ""
    is_synchronous: bool = False


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """
    Whose the bytes are that the primary keeps.
    """

    total: int
    server: int
    link: int
    ours: int
    queue: int


class Debtor(msgspec.Struct, frozen=True):
    """
    A shape that holds the boundary.

    Attributes:
        incarnation: its number.
        flushed: how far it is durable, as a number.
        resync_bytes: what its clients have to read when it starts over, roughly.
    """

    incarnation: int
    flushed: int
    resync_bytes: int


class Pressure(Enum):
    """
    How much of a budget is used.
    """

    NONE = "none"
    SOFT = "soft"
    """Say who it is."""
    HARD = "hard"
    """Give somebody up."""


def attribute(retained: Retained) -> Attribution:
    """
    Divide what the primary keeps. Every byte belongs to one.
    """
    if not retained.restart:
        return Attribution(total=0, server=0, link=0, ours=0, queue=0)
    places = [retained.restart, retained.confirmed, retained.acknowledged, retained.received, retained.end]
    for index in range(1, len(places)):
        # What one part has not learned yet cannot lie before what another has; nothing lies beyond the end.
        places[index] = min(max(places[index], places[index - 1]), max(retained.end, retained.restart))
    server, link, ours, queue = (after - before for before, after in itertools.pairwise(places))
    return Attribution(total=places[-1] - places[0], server=server, link=link, ours=ours, queue=queue)


def find_budget(given: int | None, keep_bytes: int | None) -> int | None:
    """
    Give the budget for WAL in bytes: as set, else what the server itself keeps at most; None for no budget.
    """
    if given is not None and keep_bytes is not None:
        return min(given, keep_bytes)
    return given if given is not None else keep_bytes


def find_pressure(held: int, budget: int | None) -> Pressure:
    """
    Judge what is held against a budget.
    """
    if budget is None or held < SOFT_SHARE * budget:
        return Pressure.NONE
    return Pressure.SOFT if held < HARD_SHARE * budget else Pressure.HARD


def choose(debtors: Sequence[Debtor], end: int) -> list[Debtor]:
    """
    Choose whom to give up.

    Args:
        debtors: those that are flushed least, in that order. When these are not all, the last is only a bound.
        end: how far the boundary could go without any of them.

    Returns:
        The prefix that frees most bytes for each byte to be read anew; empty when nobody holds anything.
    """
    best: list[Debtor] = []
    best_ratio = 0.0
    cost = 0
    for count, debtor in enumerate(debtors[:SHED_MAX], 1):
        cost += max(RESYNC_BYTES_MIN, debtor.resync_bytes)
        upto = debtors[count].flushed if count < len(debtors) else end
        freed = upto - debtors[0].flushed
        if freed / cost > best_ratio:
            best_ratio = freed / cost
            best = list(debtors[:count])
    return best
