"""
What the consumers need of the stages around them: the files of shape logs, the control store, the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Protocol

from penstock.control.records import Recovered
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import Table
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shape_log.records import SettleOutcome
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import LogRange
from penstock.where.facts import DatabaseFacts

# --- the stream ------------------------------------------------------------------------------------------------------


class ShapeAccounts(Protocol):
    """
    The collector's side of a shape: what is routed to it, and what it owes.
    """

    def add_shape(self, incarnation: int, definition: ShapeDefinition) -> CommitLsn:
        """
        Route to the shape from the next transaction on; it owes nothing yet. Answers the last commit it does not get.
        """
        ...

    def start_owing(self, incarnation: int) -> None:
        """
        From the flush boundary as it stands, let the shape owe what it was and will be delivered.
        """
        ...

    def unroute(self, incarnation: int) -> None:
        """
        Deliver nothing more to the shape; it goes on owing, and holds the flush boundary until it is removed, also if
        it owed nothing. May be called while a delivery is under way.
        """
        ...

    def remove_shape(self, incarnation: int) -> None:
        """
        Void what the shape owes: its tombstone is synced. Idempotent.
        """
        ...

    def flushed(self, incarnation: int, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Everything of this shape is durable through this commit, which ends there.
        """
        ...

    def is_early(self, bounds: SnapshotBounds, routed_after: CommitLsn) -> bool:
        """
        Tell whether the snapshot misses a commit at or before `routed_after`.
        """
        ...

    def begin_snapshot(self) -> int:
        """
        A snapshot is about to be taken; answers a number to end it by, once `is_early` has been asked about it.
        """
        ...

    def end_snapshot(self, number: int) -> None:
        """
        The snapshot will not be asked about any more.
        """
        ...

    def confirm_visible(self, bounds: SnapshotBounds) -> None:
        """
        What this snapshot shows need not be remembered when those begun before now have ended.
        """
        ...

    @property
    def boundary(self) -> EndLsn:
        """
        The flush boundary: every shape that owes is durable through here.
        """
        ...

    @property
    def seen(self) -> tuple[CommitLsn, EndLsn]:
        """
        The last whole transaction of the stream, and how far nothing more is to come. Asked between deliveries only.
        """
        ...

    @property
    def last_seen_lsn(self) -> int:
        """
        What up-to-date messages say, as a number.
        """
        ...


class Sheds(Protocol):
    """
    Who remembers the shapes that were given up because of a fault of their own.
    """

    def shed(self, incarnation: int, handle: str, definition: ShapeDefinition, reason: str) -> None:
        """
        One is being given up now; nothing of it has been dropped yet. Does not wait.
        """
        ...

    def refuse(self, key: bytes) -> None:
        """
        Say whether a shape with this definition, in its canonical form, may be made.

        Raises:
            RequestError: 503: it was given up too often, and has to rest.
        """
        ...


class NoSheds:
    """
    Remembers nothing and refuses nothing.
    """

    def shed(self, incarnation: int, handle: str, definition: ShapeDefinition, reason: str) -> None:
        """
        See `Sheds`.
        """

    def refuse(self, key: bytes) -> None:
        """
        See `Sheds`.
        """


class Phase(IntEnum):
    """
    What a shape is handed commits for.
    """

    DELIVERY = 0
    """As they come."""
    OPENING = 1
    """What has waited until its files are open or its snapshot is there."""
    CATCH_UP = 2
    """What it has missed."""


class Trail(Protocol):
    """
    Where it is written down, cheaply and outside this process, what is being handed to consumers.

    Commits are plain numbers here, because this is done for every slice.
    """

    def begin_slice(self, first: int, last: int) -> bool:
        """
        Commits in this range are going to be handled. Tells whether each delivery is to be named.
        """
        ...

    def name(self, incarnation: int, first: int, last: int, phase: Phase = Phase.DELIVERY) -> None:
        """
        Commits in this range are going to be handled for this shape, and for what.
        """
        ...

    def end(self) -> None:
        """
        No consumer is being called any more.
        """
        ...


class NoTrail:
    """
    Writes nothing down.
    """

    def begin_slice(self, first: int, last: int) -> bool:
        """
        See `Trail`.
        """
        del first, last
        return False

    def name(self, incarnation: int, first: int, last: int, phase: Phase = Phase.DELIVERY) -> None:
        """
        See `Trail`.
        """

    def end(self) -> None:
        """
        See `Trail`.
        """


# --- the files of shape logs -----------------------------------------------------------------------------------------


class ShapeLog(Protocol):
    """
    The log of one incarnation: a tail in memory and a settled part in files. Owned by the event loop's thread.
    """

    incarnation: int
    handle: str

    @property
    def last(self) -> LogOffset:
        """
        The latest readable place; `0_inf` while there are no changes.
        """
        ...

    @property
    def settled(self) -> tuple[CommitLsn, EndLsn] | None:
        """
        The last transaction that is durable with everything before it; None when none was settled yet.
        """
        ...

    @property
    def settled_offset(self) -> LogOffset:
        """
        The last place the files are sure to hold; `0_inf` without changes. What a checkpoint records for `load`.
        """
        ...

    @property
    def is_compacting(self) -> bool:
        """
        Whether it may be compacted.
        """
        ...

    @property
    def file_bytes(self) -> int:
        """
        Bytes in its files.
        """
        ...

    @property
    def tail_bytes(self) -> int:
        """
        Bytes held in memory.
        """
        ...

    def append(self, tx: int, elements: Sequence[tuple[int, bytes]]) -> int:
        """
        Add elements of the transaction with this commit LSN, as (position, JSON), after all before; not yet readable.
        Tells how many bytes they have.
        """
        ...

    def commit(self, commit_lsn: CommitLsn, end: EndLsn) -> None:
        """
        Make everything appended readable. Called for each transaction delivered, also for one that added nothing.
        """
        ...

    def append_whole(
        self, transactions: Sequence[tuple[int, Sequence[tuple[int, bytes]]]], commit_lsn: CommitLsn, end: EndLsn
    ) -> None:
        """
        Add whole transactions, each as its commit LSN and its elements, and make them readable; nothing is half-way.

        Args:
            transactions: those of one delivery that add something, in order.
            commit_lsn: the last transaction delivered, whether or not it added anything.
            end: where that ends.
        """
        ...

    def abandon_part(self) -> None:
        """
        Drop the elements appended since the last commit (those of a transaction whose rest will be read again).
        """
        ...

    async def write_snapshot(self, blocks: AsyncIterator[bytes], end_element: bytes) -> None:
        """
        Write the snapshot part: blocks of whole lines, each line an element ended by a newline; then the last element.

        Chunks become readable as they close. Returns when all is written and synced.

        Raises:
            DiskFullError: no space; the shape must be given up by the caller or tried anew under another incarnation.
            SyncFailedError: likewise.
        """
        ...

    async def read(self, after: LogOffset) -> LogRange:
        """
        Find what a request at this place reads, waiting for a snapshot chunk that is being written.

        A place beyond `last` gives an empty range with `chunk_end` equal to that place.

        Raises:
            CorruptLogError: the files do not verify.
        """
        ...


class ShapeLogStore(Protocol):
    """
    All shape logs of a data folder.
    """

    async def create(
        self, handle: str, incarnation: int, chunk_bytes_max: int, *, is_compacting: bool = False
    ) -> ShapeLog:
        """
        Make the folder of a new incarnation, whose log may be compacted or not.
        """
        ...

    async def load(self, handle: str, incarnation: int, chunk_bytes_max: int, settled: LogOffset) -> ShapeLog:
        """
        Open the files of a live shape after a restart, verify them and cut off what does not belong to a whole commit.

        Raises:
            CorruptLogError: they verify less than `settled`.
        """
        ...

    async def settle(self, logs: Collection[ShapeLog]) -> Mapping[int, SettleOutcome]:
        """
        Write and sync the tails of these logs up to their last commit; answers by incarnation.

        Left out of the answer: logs whose snapshot is being written, and those whose files do not answer in time. Both
        may be passed again.
        """
        ...

    async def discard(self, handle: str, incarnation: int) -> None:
        """
        Rename the folder away and delete it lazily; open readers keep their files. Idempotent.
        """
        ...

    async def discard_unknown(self, known: Collection[int]) -> None:
        """
        At start: discard every folder whose incarnation is not known, and empty the trash.
        """
        ...


# --- the control store -----------------------------------------------------------------------------------------------


class ControlStore(Protocol):
    """
    What must be true after a crash. Every call returns when its effect is synced.
    """

    async def load(self) -> Recovered:
        """
        Read everything; called once at start.
        """
        ...

    async def create(self, handle: str, handle_us: int, definition: ShapeDefinition, chunk_bytes_max: int) -> int:
        """
        Add a row `CREATING`; answers the incarnation, from a counter that never returns.
        """
        ...

    async def mark_live(self, incarnation: int, bounds: SnapshotBounds, settled: LogOffset) -> None:
        """
        The shape survives a crash from now on.
        """
        ...

    async def tombstone(self, incarnations: Collection[int], reason: str, at: EndLsn) -> None:
        """
        These are never served again.
        """
        ...

    async def forget(self, incarnation: int) -> None:
        """
        Remove the row of a condemned incarnation whose files are gone.
        """
        ...

    async def checkpoint(self, boundary: EndLsn, settled: Mapping[int, LogOffset]) -> None:
        """
        Record the flush boundary, and how far shapes are settled.
        """
        ...

    async def record_fact(self, kind: str, key: str, value: bytes) -> None:
        """
        Record what the database answered while a commit was processed.
        """
        ...

    async def begin_epoch(self, epoch: int, boundary: EndLsn, reason: str) -> None:
        """
        Condemn every shape of older epochs by one row, forget the facts, and take over the new epoch.
        """
        ...


# --- the database ----------------------------------------------------------------------------------------------------


class Inspector(Protocol):
    """
    The catalog of the database, with a cache.
    """

    async def find_table(self, schema: str, name: str) -> Table | None:
        """
        Look a table up by name; only ordinary and partitioned tables with columns count.

        Raises:
            ConnectionLostError: the database is away.
        """
        ...

    async def find_facts(self, table: Table, *, with_letters: bool = False) -> DatabaseFacts:
        """
        Find what conditions on this table depend on besides its columns.

        Args:
            table: the table, as found.
            with_letters: whether the mapping of letters to their cases matters, which is long to ask for.

        Raises:
            ConnectionLostError: the database is away.
        """
        ...

    def forget(self, oid: int) -> None:
        """
        Read the table, and the facts about it, anew when they are next asked for.
        """
        ...


class PublicationKeeper(Protocol):
    """
    Keeps tables in the publication with replica identity full, and the barrier behind each addition.
    """

    async def ensure(self, table: Table) -> None:
        """
        Return when every later commit on the table reaches the stream with its whole old rows.

        Raises:
            RequestError: 503 with the text for what is missing, or after 5 s; the work then goes on by itself.
        """
        ...

    async def release(self, oid: int) -> None:
        """
        No shape is on this table any more.
        """
        ...


class OpenSnapshot(Protocol):
    """
    A query under way in its own transaction.
    """

    bounds: SnapshotBounds

    def blocks(self) -> AsyncIterator[bytes]:
        """
        The rows as blocks of whole lines, each line a JSON element ended by a newline.

        Raises:
            RequestError: the database refused, with the status and text for the client.
            ConnectionLostError: the database is away.
        """
        ...


class SnapshotSource(Protocol):
    """
    Takes initial snapshots on a bounded pool of connections.
    """

    def open(self, definition: ShapeDefinition) -> AbstractAsyncContextManager[OpenSnapshot]:
        """
        Begin a repeatable-read transaction, read its bounds and start the query.

        Raises:
            RequestError: as for `blocks`, or no connection was free in time.
            ShapeError: the table or a column is gone.
        """
        ...
