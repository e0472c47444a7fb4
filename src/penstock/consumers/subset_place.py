"""
From where a client that has a subset must follow the log.

Theory of operation. A subset is a picture of some rows, taken beside the log. The client puts it among what it has, goes
on reading the log at the place that the response names, and leaves out, for the rows of the subset, the changes that the
picture already shows. Two things can go wrong. Changes between the place where the client was and the place that it is
told to go on from are never handed to it: it would miss them for every row that is not in the subset. And a change
before the place that it is told to go on from may not be in the picture: it would miss that one for a row of the subset.
So:

* the place is the one where the client is, or before it, never behind it;
* a client that has no place (`now`) is given the end of the log as it was before the picture was taken;
* the picture must show every commit up to that place. A commit can be in the log before new snapshots show it
  (synchronous replication); then the picture is taken again.

A client can be ahead of the log it asks for: of a new log, after a rotation, it is told to read on from the end of that;
of a log that is still being replayed it cannot be told anything. Pure.
"""

from __future__ import annotations

from penstock.postgres.lsn import CommitLsn
from penstock.shapes.definition import LogMode
from penstock.shapes.offset import BEFORE_ALL, LogOffset, snapshot_chunk_end


def follow_from(asked: LogOffset | None, last: LogOffset, log: LogMode) -> LogOffset:
    """
    Choose the place.

    Args:
        asked: where the client is; None for `now`.
        last: the end of the log before the picture is taken.
        log: whether the log begins with rows. Of one that does not, the beginning need not be read.
    """
    if asked is None:
        return last
    if asked == BEFORE_ALL:
        return snapshot_chunk_end(0) if log is LogMode.CHANGES_ONLY else BEFORE_ALL
    return min(asked, last)


def must_show(place: LogOffset) -> CommitLsn:
    """
    Give the last commit that the picture must show: that of a place in the middle of a commit, too.
    """
    return CommitLsn(max(place.tx, 0))
