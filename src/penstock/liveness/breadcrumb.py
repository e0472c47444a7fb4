"""
What an engine was busy with when it died, and which shape that convicts. Pure.

Theory of operation
    Before a slice of the stream is handed to the consumers, the engine writes a *breadcrumb* to shared memory that
    outlives it: from which commit to which. When the slice is done it writes that it is idle. Naming each shape before
    each delivery would be exact, and would cost as much as the delivery; so that is done only where an engine has died
    before.

    An engine that starts finds its predecessor's breadcrumb. If that was busy, the commits it names are *suspect*, and
    when they are read again every delivery of them is named by shape. An engine that dies at the same commits a second
    time thereby names the shape, and the one that starts after it gives that shape up before it reads anything. It does
    not matter what the death was: an endless loop, a signal, the end of memory.

    Work that is not part of a slice (taking what waited while files were opened) is named by its shape at once.

    *Who is innocent.* A kill from outside looks like any other death: an operator's signal, or the end of memory that
    somebody else used up. Two of them convict a shape only if both met the engine at the same commits, the second of
    them during the moment in which this one shape was handed them, and if no engine has come past these commits in
    between. What an engine has come past, with nobody left who still waits for it, did not kill it: that suspicion is
    dropped (`not_passed`). What remains is a shape that is hit twice in a row at its own delivery, by chance; it costs
    its clients a new snapshot, and nothing else. (A poison row would otherwise cost everybody everything.)

    What engines died of is written down by the next engine, so that it outlives the shared memory; what one was busy
    with when everything died together, supervisor and all, nobody knows, and that death is none of the two.

Invariants
    * one death convicts nobody, whatever it names;
    * a shape is convicted only by a breadcrumb that names it, at commits that an earlier breadcrumb named too: for all
      shapes, or for this one while it did the same;
    * no engine has come past these commits between the two.

Limits: `SUSPICIONS_MAX` deaths are remembered, the oldest is forgotten first; those below the flush boundary are
forgotten, because nobody reads those commits again.
"""

from __future__ import annotations

from typing import Final

import msgspec

SUSPICIONS_MAX: Final = 8


class Crumb(msgspec.Struct, frozen=True, array_like=True):
    """
    What was being done.

    Attributes:
        first: from this commit, as a number.
        last: to this one.
        incarnation: for this shape; 0 for whole slices.
        phase: what the shape was handed them for, as a number.
    """

    first: int
    last: int
    incarnation: int = 0
    phase: int = 0

    def overlaps(self, other: Crumb) -> bool:
        """
        Tell whether the two share a commit.
        """
        return self.first <= other.last and other.first <= self.last

    def confirms(self, other: Crumb) -> bool:
        """
        Tell whether this death, which names a shape, says the same as an earlier one.
        """
        if not self.overlaps(other):
            return False
        return other.incarnation == 0 or (other.incarnation, other.phase) == (self.incarnation, self.phase)


class Trail(msgspec.Struct, frozen=True, array_like=True):
    """
    What is written: the work under way, and the deaths that are remembered.

    Attributes:
        epoch: of the relay log; positions of two epochs are not compared.
        current: what is being done; None when idle.
        suspicions: what was being done when engines died, oldest first.
    """

    epoch: int
    current: Crumb | None
    suspicions: tuple[Crumb, ...]


class Inherited(msgspec.Struct, frozen=True):
    """
    What a new engine concludes from the trail of its predecessor.

    Attributes:
        suspicions: to go on with.
        convicted: the shape to be given up; 0 for none.
        commit: at which commit, as a number.
    """

    suspicions: tuple[Crumb, ...] = ()
    convicted: int = 0
    commit: int = 0


def inherit(trail: Trail | None, epoch: int) -> Inherited:
    """
    Conclude.

    Args:
        trail: what the predecessor wrote last; None when there was none.
        epoch: the epoch that is recorded now.
    """
    if trail is None or trail.epoch != epoch:
        return Inherited()
    died_at = trail.current
    if died_at is None:
        return Inherited(trail.suspicions)
    if died_at.incarnation and any(died_at.confirms(crumb) for crumb in trail.suspicions):
        return Inherited(trail.suspicions, died_at.incarnation, died_at.first)
    return Inherited((*trail.suspicions, died_at)[-SUSPICIONS_MAX:])


def not_passed(suspicions: tuple[Crumb, ...], passed: int) -> tuple[Crumb, ...]:
    """
    Drop what an engine has come past, given as the last commit that nobody waits for any more, and lived.
    """
    return tuple(crumb for crumb in suspicions if crumb.last > passed)


def still_suspect(suspicions: tuple[Crumb, ...], boundary: int) -> tuple[Crumb, ...]:
    """
    Drop what lies below the flush boundary, given as a number.
    """
    return tuple(crumb for crumb in suspicions if crumb.last >= boundary)
