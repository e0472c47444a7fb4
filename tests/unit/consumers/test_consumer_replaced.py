"""
What a consumer owes when it fails, and who takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from penstock.collector.abc import RoutedPart
from penstock.consumers.abc import ShapeLog
from penstock.consumers.consumer import Consumer, ConsumerState
from penstock.consumers.handler import ShapeHandler
from penstock.consumers.limits import ConsumerLimits
from penstock.consumers.projection import Rotate
from penstock.errors import ShapeError
from penstock.postgres.lsn import ZERO_COMMIT, ZERO_END, CommitLsn, EndLsn


class Log:
    """
    A log that takes everything.
    """

    settled = None

    def commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Take a commit.
        """

    def append_whole(self, transactions: Sequence[Any], commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Take transactions.
        """

    def abandon_part(self) -> None:
        """
        Forget nothing.
        """


class Handler:
    """
    Fails at one commit; says of every spoiled commit that the log ends.
    """

    def __init__(self, fails_at: int = 0) -> None:
        self._fails_at = fails_at

    def handle(self, part: RoutedPart, shared: Any) -> list[tuple[int, bytes]]:
        """
        Fail, or have nothing to say.
        """
        del shared
        if part.commit_lsn.value == self._fails_at:
            raise ZeroDivisionError
        return []

    def spoil(self, at: CommitLsn, xid: int | None, reason: str) -> Rotate:
        """
        End the log.
        """
        del at, xid
        return Rotate(reason)


def waiting_consumer() -> Consumer:
    """
    Make a consumer whose files are being opened, with three commits in its buffer.
    """
    consumer = Consumer(1, ConsumerState.LOADING, ZERO_COMMIT, ZERO_END, ConsumerLimits())
    consumer.handle([RoutedPart(CommitLsn(at), at, (), EndLsn(at + 1)) for at in (10, 20, 30)], {})
    return consumer


@pytest.mark.parametrize("fails_at", [10, 20, 30])
def test_what_waited_behind_a_failure_is_brought_again(fails_at: int) -> None:
    """
    A consumer that fails while it takes its buffer leaves all of it to its replacement, and not only what it failed at.
    """
    consumer = waiting_consumer()
    with pytest.raises(ZeroDivisionError):
        consumer.begin(cast("ShapeLog", Log()), cast("ShapeHandler", Handler(fails_at)))
    other = consumer.replacement((), cast("ShapeHandler", Handler()))
    assert other.state is ConsumerState.BEHIND
    assert other.missed == 30
    assert other.done == consumer.done == CommitLsn(fails_at - 10)


def test_what_spoils_a_shape_is_not_forgotten_with_its_consumer() -> None:
    """
    What waited and ends the log is not brought again, so a replacement that would not know of it is not made.
    """
    consumer = waiting_consumer()
    consumer.spoil(CommitLsn(40), 40, "gone")
    with pytest.raises(ZeroDivisionError):
        consumer.begin(cast("ShapeLog", Log()), cast("ShapeHandler", Handler(20)))
    with pytest.raises(ShapeError, match="gone"):
        consumer.replacement((), cast("ShapeHandler", Handler()))
