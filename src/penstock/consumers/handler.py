"""
What becomes of a transaction in one shape: the elements it adds to the log, or the end of the log.

Owns the joining of snapshot and stream for one incarnation, and the place of `last`. Leaves the making of elements to
`projection`, and what is done with them to `consumer`.

Form: reducer. It is given the parts of each transaction in order; what it answers depends on nothing else.

Invariants:

* of a transaction that the snapshot holds nothing is kept, and nothing about it is a reason to end the log: visibility
  is asked before anything else;
* the newest element of a transaction that goes on is held back until the next element or the end is known, so that the
  elements of a transaction, taken together, do not depend on where it was cut into parts;
* something that makes the shape impossible to follow ends it in whichever order it is told: before the part of its
  transaction or after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from penstock.collector.abc import RoutedPart, WholeRun
from penstock.consumers.projection import Element, Projection, Rotate, Shared, Transactions
from penstock.consumers.visibility import is_kept
from penstock.postgres.lsn import CommitLsn
from penstock.postgres.snapshot import SnapshotBounds
from penstock.wire.messages import mark_last

Answer: TypeAlias = Sequence[Element] | Rotate


class ShapeHandler:
    """
    The reducer for one incarnation.
    """

    __slots__ = ("_bounds", "_held", "_horizon", "_projection", "_xids")

    def __init__(self, projection: Projection, bounds: SnapshotBounds) -> None:
        """
        Begin behind the snapshot with these bounds.
        """
        self._projection: Final = projection
        self._bounds: Final = bounds
        self._horizon: Final = bounds.horizon.value
        self._held: Element | None = None
        # Transaction ids by commit, below the horizon only.
        self._xids: dict[int, int] = {}

    def handle(self, part: RoutedPart, shared: Shared) -> Answer:
        """
        Convert one part of a transaction.

        Args:
            part: the next one.
            shared: what was converted for other shapes in the same delivery; read and added to.

        Returns:
            Elements to append now, or why the log ends here.
        """
        if part.commit_lsn.value < self._horizon:
            self._xids[part.commit_lsn.value] = part.xid
            if not is_kept(self._bounds, part.commit_lsn, part.xid):
                return ()
        if not part.changes:
            return () if part.end is None else self._end()
        key = (id(part.changes), self._projection)
        converted = shared.get(key)
        if converted is None:
            converted = shared[key] = self._projection.convert(part)
        if isinstance(converted, Rotate):
            return converted
        held = self._held
        if part.end is None:
            if not converted:
                return ()
            self._held = converted[-1]
            return converted[:-1] if held is None else [held, *converted[:-1]]
        if held is None:
            return converted
        if not converted:
            return self._end()
        self._held = None
        return [held, *converted]

    def handle_run(self, run: WholeRun) -> Transactions | None:
        """
        Convert whole transactions at once.

        Returns:
            None when they are to be handled part by part, as some of them need a closer look.
        """
        if self._held is not None or run.fragments[0].commit_lsn.value < self._horizon:
            return None
        return self._projection.convert_run(run)

    def _end(self) -> Sequence[Element]:
        if self._held is None:
            return ()
        op, element = self._held
        self._held = None
        return ((op, mark_last(element)),)

    def spoil(self, at: CommitLsn, xid: int | None, reason: str) -> Rotate | None:
        """
        Take notice that a commit cannot be told to the shape.

        Args:
            at: the commit.
            xid: its transaction id, if the teller knows it.
            reason: why not.

        Returns:
            None when the snapshot holds the commit; Rotate when it does not, or when that cannot be known.
        """
        if at.value < self._horizon:
            xid = self._xids.get(at.value) if xid is None else xid
            if xid is not None and not is_kept(self._bounds, at, xid):
                return None
        return Rotate(reason)

    def abandon(self) -> None:
        """
        Forget the transaction that is half-way; it will come again from its beginning.
        """
        self._held = None
