"""
Which transactions an initial snapshot holds already.

The rule. A transaction whose commit is at or above the horizon (the insert position read after the snapshot was taken)
is never in the snapshot; of one below it the snapshot's transaction ids decide. No flag says "from here on keep
everything": it would have to be persisted at the right moment, and transaction ids wrap while positions do not.

Pure.
"""

from __future__ import annotations

from penstock.postgres.lsn import CommitLsn
from penstock.postgres.snapshot import SnapshotBounds


def is_kept(bounds: SnapshotBounds, commit_lsn: CommitLsn, xid: int) -> bool:
    """
    Tell whether a transaction, named by its commit and its 32-bit id, belongs into the log behind the snapshot.
    """
    return not (commit_lsn.is_below(bounds.horizon) and bounds.snapshot.sees(xid))
