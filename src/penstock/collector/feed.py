"""
From the relay log to stream events: one reader's place in the log and the decoder behind it.

Owns the pairing of a `RelaySource` with a `TransactionAssembler`. It knows nothing of shapes, so that any number of
readers can go through the same log, each at its own place: the engine's intake and the catch-up reader are two of them.

After a record that is corrupt or cannot be decoded, nothing is decoded until the next session record, because a
description may be among what was lost. What is skipped is lost for all shapes alike, so their owner gives them all up
when it is told, and once more when decoding goes on, for those made in between.

Form: shell, in so far as its source reads files; it waits for nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final, assert_never

from penstock.errors import CorruptLogError, DecodeError
from penstock.relay.abc import (
    FramesRecord,
    FrontierRecord,
    RelayPlace,
    RelayRecord,
    RelaySource,
    SessionRecord,
    StubRecord,
)
from penstock.replication.messages import Frontier, Omitted, StreamEvent
from penstock.replication.transactions import TransactionAssembler


class RelayFeed:
    """
    Reads a relay log and decodes it.
    """

    def __init__(self, source: RelaySource) -> None:
        """
        Read from where `source` stands, which is the beginning of a segment.
        """
        self._source: Final = source
        self._assembler: Final = TransactionAssembler()
        self._records: deque[RelayRecord] = deque()
        self.broken_by: CorruptLogError | DecodeError | None = None
        """Why nothing is decoded at present; None when all is well."""

    def has_more(self, up_to_exclusive: RelayPlace) -> bool:
        """
        Tell whether something below that place has not been read and decoded.
        """
        return bool(self._records) or self._source.place < up_to_exclusive

    def read(self, up_to_exclusive: RelayPlace, bytes_max: int) -> list[StreamEvent]:
        """
        Read about `bytes_max` bytes and decode them.

        Raises:
            CorruptLogError: the log does not verify; set in `broken_by` and skipped by the next call.
            DecodeError: what it holds cannot be decoded; likewise.
        """
        if not self._records:
            try:
                self._records.extend(self._source.read(up_to_exclusive, bytes_max))
            except CorruptLogError as error:
                self.broken_by = error
                raise
        events: list[StreamEvent] = []
        while self._records:
            try:
                self._decode(self._records[0], events)
            except DecodeError as error:
                if events and self.broken_by is None:
                    # What came before is whole; the record is met again by the next call.
                    return events
                self._records.popleft()
                self.broken_by = error
                raise
            self._records.popleft()
        return events

    def _decode(self, record: RelayRecord, events: list[StreamEvent]) -> None:
        if isinstance(record, SessionRecord):
            events += self._assembler.begin_session(record.descriptions)
            self.broken_by = None
        elif self.broken_by is None:
            match record:
                case FramesRecord():
                    events += self._assembler.feed(record.frames)
                case FrontierRecord():
                    events.append(Frontier(record.end))
                case StubRecord():
                    events.append(Omitted(record.commit_lsn, record.xid, record.relation_oids, record.end))
                case _:
                    assert_never(record)
