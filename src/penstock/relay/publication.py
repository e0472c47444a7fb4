"""
The published end: how far the relay log may be read, and what may be confirmed of it.

Invariants: it is at the end of a record that ends with a commit, frontier or stub, or where records of a segment begin;
it does not move back within an epoch. A reducer that tells a `Publisher`; its attributes may be read from any thread.
"""

from __future__ import annotations

from penstock.postgres.lsn import ZERO_COMMIT, ZERO_END, CommitLsn, EndLsn
from penstock.relay.abc import PublishedEnd, Publisher, RelayPlace


class Publication:
    """
    The published end of a relay log.

    Attributes:
        latest: the published end; None before the first epoch.
        commit: the last commit that is kept at or before it.
    """

    def __init__(self, publisher: Publisher) -> None:
        """
        Publish nothing yet.
        """
        self._publisher = publisher
        self.latest: PublishedEnd | None = None
        self.commit = ZERO_COMMIT

    @property
    def end(self) -> EndLsn:
        """
        The position of the published end; zero before the first epoch.
        """
        return EndLsn(self.latest.end) if self.latest is not None else ZERO_END

    def publish(self, epoch: int, place: RelayPlace, end: EndLsn, commit: CommitLsn) -> None:
        """
        Move the published end to a place, the position it stands for, and the last commit at or before it.
        """
        published = PublishedEnd(epoch, place, end.value)
        if self.latest is not None and self.latest.epoch == published.epoch:
            assert published.place > self.latest.place, "the published end moves back"
            assert published.end >= self.latest.end, "the published end moves back"
        self.commit = commit
        self.latest = published
        self._publisher.publish(published)
