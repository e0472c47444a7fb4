from __future__ import annotations

from penstock.collector.routed_xids import RoutedXids
from penstock.postgres.lsn import CommitLsn, InsertLsn
from penstock.postgres.snapshot import Snapshot


def noted(*xids: int, limit: int = 100) -> RoutedXids:
    """
    Remember these, committed in this order at 10, 20, 30 and so on.
    """
    routed = RoutedXids(limit)
    for index, xid in enumerate(xids):
        routed.note(xid, CommitLsn(10 * (index + 1)))
    return routed


def unseen(routed: RoutedXids, snapshot: str, up_to: int = 1_000) -> bool:
    """
    Ask about a snapshot in its text form.
    """
    return routed.unseen_before(Snapshot.parse(snapshot), CommitLsn(up_to))


def test_a_decoded_transaction_that_still_runs_for_the_snapshot_is_unseen() -> None:
    """Listed as running, or at or above xmax; not when it is visible."""
    routed = noted(100, 101, 102)
    assert unseen(routed, "101:103:101")
    assert unseen(routed, "102:102:")
    assert not unseen(routed, "103:103:")
    assert not unseen(routed, "99:110:99,105")


def test_commits_routed_to_the_shape_do_not_matter() -> None:
    """Only those at or before the last commit that is not routed to it do."""
    routed = noted(100, 101)
    assert not unseen(routed, "101:102:101", up_to=10)
    assert unseen(routed, "101:102:101", up_to=20)


def test_what_a_snapshot_has_shown_is_forgotten() -> None:
    """What it has not shown, or could not have, is kept."""
    routed = noted(100, 101, 102, 103)
    routed.confirm_visible(Snapshot.parse("101:104:101"), InsertLsn(35))
    assert len(routed) == 2
    assert unseen(routed, "101:110:101")
    assert unseen(routed, "103:110:103")
    assert not unseen(routed, "100:110:100,102")


def test_ids_wrap() -> None:
    """The snapshot's ids are 64 bits wide, the stream's 32, and the highest is the latest and not the largest."""
    routed = noted(2**32 - 1, 3)
    assert unseen(routed, f"{2**32}:{2**32}:")
    assert unseen(routed, f"{2**32 - 1}:{2**32 + 4}:{2**32 - 1}")
    assert not unseen(routed, f"{2**32 + 4}:{2**32 + 4}:")


def test_at_the_limit_it_is_careful_rather_than_careless() -> None:
    """Folded transactions count as unseen while any id in their range runs; a snapshot beyond all forgets them."""
    routed = noted(*range(100, 112), limit=10)
    assert len(routed) == 7
    assert unseen(routed, "102:200:102")
    assert unseen(routed, "104:104:")
    assert not unseen(routed, "104:104:", up_to=5)
    assert not unseen(routed, "50:200:50,150")
    routed.confirm_visible(Snapshot.parse("102:200:102"), InsertLsn(1_000))
    assert unseen(routed, "103:200:103")
    routed.confirm_visible(Snapshot.parse("112:112:"), InsertLsn(1_000))
    assert not unseen(routed, "103:200:103")
    assert len(routed) == 0


def test_folding_out_of_order_keeps_the_whole_range() -> None:
    """Commits do not come in the order of ids."""
    routed = noted(105, 100, 110, 101, 120, 121, 122, limit=5)
    assert unseen(routed, "100:200:100")
    assert unseen(routed, "110:200:110")
    assert unseen(routed, "103:200:103")
    assert not unseen(routed, "99:200:99")


def test_a_transaction_read_again_is_remembered_once() -> None:
    """With its latest mention."""
    routed = noted(100, 100)
    assert len(routed) == 1
    assert not unseen(routed, "100:101:100", up_to=10)
