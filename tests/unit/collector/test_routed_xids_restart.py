from __future__ import annotations

from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.snapshot import Snapshot

BEFORE = Snapshot(100, 110, frozenset({105}))


def test_what_lies_below_the_boundary_is_known_after_a_restart() -> None:
    """
    A commit that is not decoded again and that no snapshot sees yet still stands in the way of a new shape.
    """
    xids = RoutedXids()
    xids.note(105, CommitLsn(1000))
    xids.note(106, CommitLsn(2000))
    restarted = RoutedXids()
    restarted.restore(xids.save(EndLsn(1500)))
    assert len(restarted) == 1
    assert restarted.unseen_before(BEFORE, CommitLsn(1400))


def test_nothing_is_saved_when_all_will_be_decoded_again() -> None:
    """
    What lies at or beyond the boundary comes again by itself.
    """
    xids = RoutedXids()
    xids.note(105, CommitLsn(1000))
    assert xids.save(EndLsn(1000)) == b""
    restarted = RoutedXids()
    restarted.restore(b"")
    assert len(restarted) == 0


def test_what_was_folded_survives_too() -> None:
    """
    Transactions no longer known one by one are saved as the range they are.
    """
    xids = RoutedXids(xids_max=2)
    for number in range(3):
        xids.note(105 + number, CommitLsn(1000 + number))
    restarted = RoutedXids()
    restarted.restore(xids.save(EndLsn(5000)))
    assert restarted.unseen_before(BEFORE, CommitLsn(1400))
