"""
From frames to transactions with places in them.

`TransactionAssembler` owns what is state of a connection: the descriptions in force and the open transaction. It gives
each change its relation and its position, and hands transactions on in fragments of a bounded size. Form: a feeder.

Theory of operation:

* Positions count from 0 in steps of two over every row change and every truncated relation of a transaction, whatever
  tables they are on, so a position never depends on who is interested, nor on how the bytes were fed.
* A transaction is one fragment, unless it is larger than `FRAGMENT_BYTES_MAX`, a description comes inside it (which
  must be told before the changes that use it), or the fed bytes end inside it.
* A description is told when it differs from the last one known for its oid. The server repeats them in each
  connection and whenever it forgot them, and so do the heads of segments.
* At a new session an open transaction is void. Fragments of it may have been handed on, so whoever feeds the assembler
  sees to it that what it feeds was committed; the relay log does, by its published end.

Invariants: positions of a transaction grow from fragment to fragment; only a fragment that ends its transaction may be
empty; nothing is told of a transaction after the fragment that ends it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from penstock.compiled.choice import FrameLoop, RowDecoder, core
from penstock.errors import DecodeError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.postgres.relation import RelationDescription, TableId
from penstock.replication.frames import FRAME_LENGTH_BYTES, MESSAGE_AT
from penstock.replication.messages import FRAGMENT_BYTES_MAX, Change, Fragment, Operation, RelationSeen, StreamEvent
from penstock.replication.pgoutput import TableDecoder, decode_relation, decode_truncate, unknown_relation

# Length, kind of payload, kind of message, oid of the relation. Each message of version 1 is at least that long.
_HEAD: Final = struct.Struct(">IB24xBI")
_BEGIN: Final = struct.Struct(">QqI")
_COMMIT: Final = struct.Struct(">BQQ")
# Lengths of the payloads of Begin and Commit, which have no variable parts.
_BEGIN_BYTES: Final = MESSAGE_AT + 21
_COMMIT_BYTES: Final = MESSAGE_AT + 26

_XLOG_DATA: Final = ord("w")
_IGNORED: Final = frozenset(b"YOM")
_OPERATION_AT: Final = FRAME_LENGTH_BYTES + MESSAGE_AT + 1
_ROW_AT: Final = _OPERATION_AT + 4
_POSITION_STEP: Final = 2

_MIXED: Final = RelationDescription(TableId(0, "", ""), "", ())

# What the compiled loop makes.
_MADE: Final = (Change, Fragment, CommitLsn, EndLsn, (Operation.INSERT, Operation.UPDATE, Operation.DELETE), _MIXED)


class TransactionAssembler:
    """
    Turns the frames of one stream into events.
    """

    __slots__ = (
        "_changes",
        "_commit_lsn",
        "_is_first",
        "_known",
        "_loop",
        "_make_decoder",
        "_only",
        "_position",
        "_tables",
        "_xid",
    )

    def __init__(self) -> None:
        """
        Begin with nothing described and no transaction open.
        """
        self._tables: dict[int, RowDecoder] = {}
        self._known: dict[int, RelationDescription] = {}
        self._commit_lsn: CommitLsn | None = None
        self._xid = 0
        self._position = 0
        self._is_first = True
        self._changes: list[Change] = []
        # What `Fragment.relation` will be; `_MIXED` when changes will have none in common.
        self._only: RelationDescription | None = None
        compiled = core()
        self._make_decoder: Callable[[RelationDescription], RowDecoder] = TableDecoder
        self._loop: FrameLoop | None = None
        if compiled is not None:
            self._make_decoder = compiled.RowDecoder
            self._loop = compiled.FrameLoop(*_MADE, FRAGMENT_BYTES_MAX)

    @property
    def is_inside_transaction(self) -> bool:
        """
        Whether a transaction has begun and not ended.
        """
        return self._commit_lsn is not None

    def begin_session(self, descriptions: Sequence[bytes]) -> list[StreamEvent]:
        """
        Start anew at a session record: an open transaction is void, and only these descriptions are in force.

        Args:
            descriptions: Relation messages, each from its `R`.

        Returns:
            Those of them that say something new.

        Raises:
            DecodeError: one of them is not a Relation message.
        """
        self._commit_lsn = None
        self._changes = []
        self._only = None
        self._tables.clear()
        events: list[StreamEvent] = []
        for message in descriptions:
            self._describe(message, events)
        return events

    def feed(self, frames: bytes) -> list[StreamEvent]:
        """
        Take whole frames, as in `FrameBatch.frames`; give what became known, in order.

        Raises:
            DecodeError: the bytes are not frames of a pgoutput stream of protocol version 1. The assembler is of no
                use then until the next session begins.
        """
        events: list[StreamEvent] = []
        if self._loop is not None:
            self._loop.feed(self, frames, events)
            return events
        try:
            self._feed(frames, events)
        except (IndexError, struct.error) as cause:
            raise DecodeError("a frame is cut off or too short for its message") from cause
        return events

    def _feed(self, frames: bytes, events: list[StreamEvent]) -> None:
        """
        Do what `feed` says; frames that are cut off raise whatever they raise.
        """
        size = len(frames)
        tables = self._tables
        changes = self._changes
        only = self._only
        position = self._position
        at = fragment_at = 0
        while at < size:
            length, payload_kind, kind, oid = _HEAD.unpack_from(frames, at)
            end = at + FRAME_LENGTH_BYTES + length
            if end > size or payload_kind != _XLOG_DATA:
                raise DecodeError("not a frame of WAL data")
            if kind == 73:  # I
                table = tables.get(oid)
                if table is None:
                    raise unknown_relation(oid)
                new, is_incomplete = table.insert(frames, at + _ROW_AT, end)
                change = Change(Operation.INSERT, table.description, position, None, new, is_incomplete)
            elif kind == 85:  # U
                table = tables.get(oid)
                if table is None:
                    raise unknown_relation(oid)
                old, new = table.update(frames, at + _ROW_AT, end)
                change = Change(Operation.UPDATE, table.description, position, old, new, old is None)
            elif kind == 68:  # D
                table = tables.get(oid)
                if table is None:
                    raise unknown_relation(oid)
                old = table.delete(frames, at + _ROW_AT, end)
                change = Change(Operation.DELETE, table.description, position, old, None, old is None)
            elif kind == 66:  # B
                if self._commit_lsn is not None or length != _BEGIN_BYTES:
                    raise DecodeError("a transaction begins inside another one, or its Begin message is malformed")
                commit_lsn, _, self._xid = _BEGIN.unpack_from(frames, at + _OPERATION_AT)
                self._commit_lsn = CommitLsn(commit_lsn)
                self._is_first = True
                self._changes = changes = []
                self._only = only = None
                position = self._position = 0
                at = fragment_at = end
                continue
            elif kind == 67:  # C
                if self._commit_lsn is None or length != _COMMIT_BYTES:
                    raise DecodeError("a transaction ends that did not begin, or its Commit message is malformed")
                _, commit_lsn, end_lsn = _COMMIT.unpack_from(frames, at + _OPERATION_AT)
                if commit_lsn != self._commit_lsn.value:
                    raise DecodeError("a transaction ends that is not the one that began")
                relation = only if only is not _MIXED else None
                events.append(Fragment(self._commit_lsn, self._xid, changes, self._is_first, EndLsn(end_lsn), relation))
                self._commit_lsn = None
                self._changes = changes = []
                self._only = only = None
                at = end
                continue
            elif kind == 82:  # R
                self._position = position
                self._only = only
                self._describe(frames[at + _OPERATION_AT - 1 : end], events)
                if self._changes is not changes:
                    changes = self._changes
                    only = None
                    fragment_at = end
                at = end
                continue
            elif kind == 84:  # T
                self._position = position
                self._truncate(frames[at + _OPERATION_AT - 1 : end])
                if self._position != position:
                    only = _MIXED
                position = self._position
                at = end
                continue
            elif kind in _IGNORED:
                at = end
                continue
            else:
                raise DecodeError(f"not a message of pgoutput: it begins with {bytes((kind,))!r}")
            if self._commit_lsn is None:
                raise DecodeError("a change came outside a transaction")
            changes.append(change)
            if table.description is not only:
                only = _MIXED if only is not None else table.description
            position += _POSITION_STEP
            at = end
            if end - fragment_at > FRAGMENT_BYTES_MAX:
                self._position = position
                self._only = only
                self._close_fragment(events)
                changes = self._changes
                only = None
                fragment_at = end
        self._position = position
        self._only = only
        self._close_fragment(events)

    def _close_fragment(self, events: list[StreamEvent]) -> None:
        """
        Tell the changes gathered so far of a transaction that goes on.
        """
        if self._commit_lsn is None or not self._changes:
            return
        relation = self._only if self._only is not _MIXED else None
        events.append(Fragment(self._commit_lsn, self._xid, self._changes, self._is_first, None, relation))
        self._is_first = False
        self._changes = []
        self._only = None

    def _describe(self, message: bytes, events: list[StreamEvent]) -> None:
        """
        Put a description in force, and tell it if it is new.
        """
        description = decode_relation(message)
        oid = description.id.oid
        known = self._known.get(oid)
        if known == description:
            # One object for as long as nothing changes, so that those downstream may compare by identity.
            description = known
        else:
            self._known[oid] = description
            self._close_fragment(events)
            events.append(RelationSeen(description))
        table = self._tables.get(oid)
        if table is None or table.description is not description:
            self._tables[oid] = self._make_decoder(description)

    def _truncate(self, message: bytes) -> None:
        """
        Gather one change for each relation that was emptied.
        """
        if self._commit_lsn is None:
            raise DecodeError("a change came outside a transaction")
        for oid in decode_truncate(message):
            table = self._tables.get(oid)
            if table is None:
                raise unknown_relation(oid)
            self._changes.append(Change(Operation.TRUNCATE, table.description, self._position, None, None))
            self._position += _POSITION_STEP
