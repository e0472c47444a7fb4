"""
What is asked of the shapes, and what they answer.

The words that pass between whoever serves clients and whoever owns the shapes, in one process or over a socket. A range
of a log is named by the files that hold it, as far as it is settled, and by its bytes, as far as it is not; whoever
serves it opens the files, and asks again when one is gone.

Pure values; all of them pass through msgpack unchanged.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from penstock.errors import Problems
from penstock.shapes.definition import LogMode, Replica
from penstock.shapes.offset import LogOffset
from penstock.shapes.subset import SubsetRequest


class FilePiece(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """
    A run of elements in a file: JSON elements joined by commas, without one at either end.

    Attributes:
        path: the file, relative to the data folder.
        start_byte: where the run begins.
        bytes_count: how long it is, never 0.
    """

    path: str
    start_byte: int
    bytes_count: int


class InlinePiece(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """
    A run of elements by value: JSON elements joined by commas, without one at either end.
    """

    data: bytes


Piece: TypeAlias = FilePiece | InlinePiece


class LogRange(msgspec.Struct, frozen=True, array_like=True):
    """
    What a request at some offset reads: the elements in (offset, chunk_end].

    Attributes:
        chunk_end: the last place the reader has been given or may skip; the response's `electric-offset`.
        last: the latest readable place of the shape.
        pieces: the elements in order; a comma goes between two pieces. Empty when there is nothing.
    """

    chunk_end: LogOffset
    last: LogOffset
    pieces: tuple[Piece, ...] = ()

    @property
    def bytes_count(self) -> int:
        """
        Length of the elements with the commas between pieces.
        """
        lengths = [p.bytes_count if isinstance(p, FilePiece) else len(p.data) for p in self.pieces]
        return sum(lengths) + max(0, len(lengths) - 1)


class ShapeRule(msgspec.Struct, frozen=True):
    """
    What the server adds to whatever a client asks for. It only ever takes away, and is part of what the shape is.

    Attributes:
        where: a clause that rows must meet besides the client's, with parameters of its own; None for no further one.
        params: values of its `$1`, `$2` and so on.
        columns: names of the only columns that the client may see or name, None for all.
    """

    where: str | None = None
    params: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None


class ShapeRequest(msgspec.Struct, frozen=True):
    """
    A request whose parameters have the right form, not yet compared with the catalog.

    Attributes:
        table: the identifier as the client wrote it, with or without schema, quoted or not.
        offset: the place the client has; None for `now`.
        handle: the handle the client has, None for the offsets that need none.
        columns: the identifiers the client listed, unquoted and folded; None when it listed none.
        queryable_columns: likewise; an allow-list for `columns`.
        where: the clause as written.
        params: values of `$1`, `$2` and so on.
        replica: how much updates and deletes carry.
        log: whether the log begins with the rows.
        is_live: whether the client waits for more.
        is_compacting: whether the log may be compacted, if this request makes the shape; not part of what the shape is.
        rules: what the server adds; all of them hold.
    """

    table: str
    offset: LogOffset | None
    handle: str | None = None
    columns: tuple[str, ...] | None = None
    queryable_columns: tuple[str, ...] | None = None
    where: str | None = None
    params: tuple[str, ...] = ()
    replica: Replica = Replica.DEFAULT
    log: LogMode = LogMode.FULL
    is_live: bool = False
    is_compacting: bool = False
    rules: tuple[ShapeRule, ...] = ()

    @property
    def clauses(self) -> tuple[str, ...]:
        """
        All clauses, the client's first.
        """
        own = () if self.where is None else (self.where,)
        if not self.rules:
            return own
        return (*own, *(rule.where for rule in self.rules if rule.where is not None))


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """
    The shape is there, and this is what the request reads.

    Attributes:
        handle: the shape's handle, equal to the one in the request if that had one.
        schema: the value of the schema header: JSON text.
        range: what to serve.
        last_seen_lsn: commit LSN (or keepalive position) of the last thing processed for all shapes, as a number.
        is_replaying: whether what was published before the engine started has not all been processed yet; an offset
            beyond `range.last` is then not the client's fault.
    """

    handle: str
    schema: str
    range: LogRange
    last_seen_lsn: int
    is_replaying: bool = False


class Rotated(msgspec.Struct, frozen=True, tag="rotated"):
    """
    The log the client has is over.

    Attributes:
        handle: the current one for the same definition, if there is one.
    """

    handle: str | None = None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """
    The request is answered with an error; fields as in `penstock.errors.RequestError`.
    """

    status: int
    message: str
    errors: Problems | None = None
    retry_after_s: int | None = None
    is_known: bool = False


FORBIDDEN: Final = Refused(403, "Forbidden")
"""For whoever may not, whatever the reason is."""

OpenReply: TypeAlias = Opened | Rotated | Refused


class SubsetQuestion(msgspec.Struct, frozen=True):
    """
    A request for some rows of a shape, as the database has them now.

    Attributes:
        shape: which shape, and the place and the handle the client has.
        subset: which rows, in which order.
    """

    shape: ShapeRequest
    subset: SubsetRequest


class SubsetLoaded(msgspec.Struct, frozen=True, tag="subset"):
    """
    The rows, and what they are a picture of.

    Attributes:
        handle: the shape's handle, equal to the one in the request if that had one.
        schema: the value of the schema header: JSON text.
        offset: the place from which a client that has these rows must follow the log: it was handed nothing behind it,
            and the rows show everything up to it.
        metadata: a JSON object: which transactions the rows show, and the position that holds for.
        pieces: the rows as elements, in order.
    """

    handle: str
    schema: str
    offset: LogOffset
    metadata: bytes
    pieces: tuple[Piece, ...] = ()


SubsetReply: TypeAlias = SubsetLoaded | Rotated | Refused


class RemoveRequest(msgspec.Struct, frozen=True):
    """
    A request to give a shape up: by what it is, by its handle, or by both, which must then agree.
    """

    shape: ShapeRequest | None = None
    handle: str | None = None


class Removed(msgspec.Struct, frozen=True, tag="removed"):
    """
    The shape was given up durably.
    """


RemoveReply: TypeAlias = Removed | Refused


class Advanced(msgspec.Struct, frozen=True, tag="advanced"):
    """
    A waited-for shape has moved past the place that was named.
    """

    range: LogRange
    last_seen_lsn: int


WaitReply: TypeAlias = Advanced | Rotated


SHAPES_LISTED_MAX: Final = 1000
"""So many shapes are listed at once."""
SHAPES_SKIPPED_MAX: Final = 100_000
"""So many can be skipped to get to a page."""
SHAPE_ORDERS: Final = ("bytes", "read", "table")
"""By what shapes are listed: the largest first, the one that was read last first, or by name of the table."""


class ShapesQuestion(msgspec.Struct, frozen=True):
    """
    Which of all shapes an operator wants to see.

    Attributes:
        order: one of `SHAPE_ORDERS`.
        limit: how many at most.
        skip: how many to leave out before them.
        table: only those on tables of this name, without its schema; empty for all.
    """

    order: str = SHAPE_ORDERS[0]
    limit: int = 100
    skip: int = 0
    table: str = ""


class ShapeListed(msgspec.Struct, frozen=True, kw_only=True):
    """
    A shape as operators see it.

    Attributes:
        handle: its name.
        table: the table, with its schema.
        where: the condition with its parameters in it, cut off where it is long; None for all rows.
        columns: the columns served; None for all.
        replica, log: as the client asked for.
        state: `creating`, `loading`, `live`, `behind`; `idle` when it is on disk only, `ending` when it is being given up.
        bytes: what its log holds, on disk and in memory; None when that is not known, as it was not looked at since a restart.
        last: the last place in it.
        read_s: seconds since somebody was last given something of it; None for never.
        clients: requests that wait for it, of the web worker that answers.
    """

    handle: str
    table: str
    where: str | None
    columns: list[str] | None
    replica: str
    log: str
    state: str
    bytes: int | None
    last: str
    read_s: float | None
    clients: int = 0


class ShapesListed(msgspec.Struct, frozen=True):
    """
    Some of all shapes.

    Attributes:
        total: how many there are of those that were asked for.
        shapes: those of this page, in order.
    """

    total: int
    shapes: list[ShapeListed]


class Health(msgspec.Struct, frozen=True):
    """
    Where the engine stands.

    Attributes:
        state: `starting`, `waiting` (for the lock) or `active`.
        reason: the first condition that is not met, in words that follow "Timeout waiting for "; empty when active.
        detail: what is known about why, empty when nothing is.
        last_seen_lsn: as in `Opened`.
        unready: why new clients should be sent elsewhere although it is active; empty when they should not.
        is_asleep: whether it has closed its connections until the next request.
    """

    state: str
    reason: str = ""
    detail: str = ""
    last_seen_lsn: int = 0
    unready: str = ""
    is_asleep: bool = False
