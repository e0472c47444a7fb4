"""
What is found out about a debt that has stood still for too long, and what follows from it.

Owns the order of questions; who remembers earlier answers is `watch`. Pure values and one pure function.

The questions, each asked only when the one before it did not explain the debt (the first two are asked by the caller:
whether the one who looks is late himself, and whether reports are waiting to be heard):

1. Is the shape being given up already? Then its debt ends with its tombstone, or the control store is at fault.
2. Do its files hold what it owes? Then the books are wrong and not the shape: the debt is discharged, and counted.
3. Has it declared a wait? A wait that moves extends the deadline, up to a sum. A wait for something that all share (the
   disk, the database, the stream) is never the shape's fault, however long it takes: it ends in an alarm.
4. Is it one of many? Then it is the disk or the machine: alarm, and the boundary stays where it is (`watch` asks this
   last, about all that are left).
5. Otherwise the shape is suspected. It gets one remedy, a replacement where that can help, and a deadline to make
   durable progress. After that it is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock.postgres.lsn import CommitLsn, EndLsn


class WaitKind(Enum):
    """
    What a shape may say that it waits for.
    """

    CATCH_UP = "what it missed, from the relay log"
    HALF_WAY = "the rest of a transaction that is half-way"
    NO_SPACE = "space on the disk"
    FAILED_TOGETHER = "a disk that refused many shapes at once"
    DATABASE = "an answer of the database"


SHARED_WAITS: Final = frozenset({WaitKind.HALF_WAY, WaitKind.NO_SPACE, WaitKind.FAILED_TOGETHER, WaitKind.DATABASE})
"""Waits that are no shape's own: giving a shape up would not end them."""


@dataclass(frozen=True, slots=True)
class Wait:
    """
    A wait that a shape has declared.

    Attributes:
        kind: for what.
        progress: anything that changes when the wait gets on.
    """

    kind: WaitKind
    progress: int = 0


@dataclass(frozen=True, slots=True)
class Covered:
    """
    How far the files of a shape hold everything.

    Attributes:
        commit_lsn: through this commit.
        end: which ends here.
    """

    commit_lsn: CommitLsn
    end: EndLsn


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What is known of a shape besides what it owes.

    Attributes:
        condemned: why it is being given up; None for most.
        covered: what its files hold; None when that is not known.
        wait: what it waits for; None when it has declared nothing.
        can_be_replaced: whether there is a consumer that may be dropped, and files that another one can go on with.
    """

    condemned: str | None = None
    covered: Covered | None = None
    wait: Wait | None = None
    can_be_replaced: bool = False


class Finding(Enum):
    """
    The answer to the questions.
    """

    BEING_GIVEN_UP = "being given up"
    COVERED = "covered"
    WAITING = "waiting"
    """The wait moves, and less than its sum was granted."""
    SHARED = "shared"
    """The wait does not move, or was granted enough, and it is nobody's own."""
    SUSPECT = "suspect"


def verify(evidence: Evidence, flushed: EndLsn, *, is_moving: bool, is_spent: bool) -> Finding:
    """
    Ask questions 1 to 3.

    Args:
        evidence: what is known.
        flushed: how far the books say that the shape is flushed.
        is_moving: whether its wait has got on recently.
        is_spent: whether its waits together were granted all they may be.
    """
    if evidence.condemned is not None:
        return Finding.BEING_GIVEN_UP
    if evidence.covered is not None and evidence.covered.end > flushed:
        return Finding.COVERED
    if evidence.wait is None:
        return Finding.SUSPECT
    if is_moving and not is_spent:
        return Finding.WAITING
    return Finding.SHARED if evidence.wait.kind in SHARED_WAITS else Finding.SUSPECT
