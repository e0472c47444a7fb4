"""
A source of shapes without a database: logs in memory, moved on by the test.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from starlette.types import ASGIApp

from penstock.errors import ConnectionLostError, DecodeError
from penstock.shapes.offset import BEFORE_ALL, SNAPSHOT_END, LogOffset, snapshot_chunk_end
from penstock.shapes.reading import (
    Advanced,
    FilePiece,
    Health,
    InlinePiece,
    LogRange,
    Opened,
    OpenReply,
    Piece,
    Refused,
    Removed,
    RemoveReply,
    RemoveRequest,
    Rotated,
    ShapeListed,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetLoaded,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)
from penstock.wire.identifiers import parse_relation

SCHEMA = '{"id":{"type":"int8","pk_index":0,"not_null":true}}'


@dataclass
class ScriptedShape:
    """
    The log of one shape: snapshot chunks, then changes by place.
    """

    handle: str
    snapshot: list[Piece]
    changes: list[tuple[LogOffset, Piece]] = field(default_factory=list)
    chunk_changes_max: int = 1_000_000
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> LogOffset:
        return self.changes[-1][0] if self.changes else SNAPSHOT_END

    def read(self, after: LogOffset) -> LogRange:
        if after == BEFORE_ALL:
            return LogRange(snapshot_chunk_end(0), self.last, (self.snapshot[0],))
        if after.tx == 0 and after.op + 1 < len(self.snapshot):
            return LogRange(snapshot_chunk_end(after.op + 1), self.last, (self.snapshot[after.op + 1],))
        found = [(place, piece) for place, piece in self.changes if place > after][: self.chunk_changes_max]
        end = found[-1][0] if found else max(self.last, after)
        return LogRange(end, self.last, tuple(piece for _, piece in found))


class ScriptedSource:
    """
    Shapes by table, with switches for everything that can go wrong.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, ScriptedShape] = {}
        self.refusals: dict[str, Refused] = {}
        self.last_seen_lsn = 0
        self.is_replaying = False
        self.is_away = False
        self.state = Health("active")
        self.opens = 0
        self.waits = 0
        self.waits_under_way = 0
        self.opens_under_way = 0
        self.hold_opens: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.questions: list[SubsetQuestion] = []
        self.subset_pieces: tuple[Piece, ...] = ()
        self._handles = 0

    # --- what a test does --------------------------------------------------------------------------------------------

    def add(self, table: str, *snapshot: bytes | Piece) -> ScriptedShape:
        """
        Begin the log of a table, or a new one for it.
        """
        self._handles += 1
        pieces = [InlinePiece(piece) if isinstance(piece, bytes) else piece for piece in snapshot]
        shape = ScriptedShape(f"{1000 + self._handles}-{1_700_000_000_000_000 + self._handles}", pieces)
        old = self.shapes.get(table)
        self.shapes[table] = shape
        if old is not None:
            old.moved.set()
        return shape

    def drop(self, table: str) -> None:
        """
        End the log of a table.
        """
        self.shapes.pop(table).moved.set()

    def append(self, table: str, tx: int, *elements: bytes | Piece) -> None:
        """
        Commit a transaction.
        """
        shape = self.shapes[table]
        for number, element in enumerate(elements):
            piece = InlinePiece(element) if isinstance(element, bytes) else element
            shape.changes.append((LogOffset(tx, 2 * number), piece))
        self.last_seen_lsn = max(self.last_seen_lsn, tx)
        moved, shape.moved = shape.moved, asyncio.Event()
        moved.set()

    # --- what the API does -------------------------------------------------------------------------------------------

    async def open(self, request: ShapeRequest) -> OpenReply:
        self.opens += 1
        self.opens_under_way += 1
        try:
            if self.hold_opens is not None:
                await self.hold_opens.wait()
            self._check()
            return self._find(request)
        finally:
            self.opens_under_way -= 1

    async def wait(self, handle: str, after: LogOffset) -> WaitReply:
        self.waits += 1
        self.waits_under_way += 1
        try:
            while True:
                self._check()
                shape = next((shape for shape in self.shapes.values() if shape.handle == handle), None)
                if shape is None:
                    return Rotated()
                if shape.last > after:
                    return Advanced(shape.read(after), self.last_seen_lsn)
                await shape.moved.wait()
        finally:
            self.waits_under_way -= 1

    async def health(self) -> Health:
        self._check()
        return self.state

    async def status(self) -> dict[str, object]:
        self._check()
        return {"shapes": len(self.shapes), "holding": []}

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        self._check()
        listed = [
            ShapeListed(
                handle=shape.handle,
                table=table,
                where=None,
                columns=None,
                replica="default",
                log="full",
                state="live",
                bytes=0,
                last=str(shape.last),
                read_s=None,
            )
            for table, shape in self.shapes.items()
        ]
        return ShapesListed(len(listed), listed[question.skip : question.skip + question.limit])

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        self._check()
        self.questions.append(question)
        reply = self._find(question.shape)
        if not isinstance(reply, Opened):
            return reply
        if question.subset.problems:
            return Refused(400, "Invalid request", {"subset": dict(question.subset.problems)})
        offset = reply.range.last if question.shape.offset is None else question.shape.offset
        return SubsetLoaded(reply.handle, reply.schema, offset, b'{"snapshot_mark":7}', self.subset_pieces)

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        self._check()
        found = None if request.shape is None else self._find(request.shape)
        if isinstance(found, Refused):
            return found
        for table, shape in list(self.shapes.items()):
            if shape.handle in {request.handle, None if found is None else found.handle}:
                self.drop(table)
                return Removed()
        return Refused(404, "No existing shape found")

    def _check(self) -> None:
        if self.is_away:
            raise ConnectionLostError("scripted to be away")
        if self.failure is not None:
            raise self.failure

    def _find(self, request: ShapeRequest) -> OpenReply:
        try:
            schema, table = parse_relation(request.table)
        except DecodeError as error:
            return Refused(400, "Invalid request", {"table": [error.message]})
        if table in self.refusals:
            return self.refusals[table]
        shape = self.shapes.get(table)
        if shape is None:
            advice = "If the table name contains capitals or special characters you must quote it."
            message = f'Table "{schema}"."{table}" does not exist. {advice}'
            return Refused(400, "Invalid request", {"table": [message]})
        if request.handle is not None and request.handle != shape.handle:
            return Rotated(shape.handle)
        found = LogRange(shape.last, shape.last) if request.offset is None else shape.read(request.offset)
        return Opened(shape.handle, SCHEMA, found, self.last_seen_lsn, self.is_replaying)


def row(number: int, operation: str = "insert") -> bytes:
    """
    Give an element of a log.
    """
    text = (
        b'{"key":"\\"public\\".\\"items\\"/\\"%d\\"","value":{"id":"%d"},'
        b'"headers":{"operation":"%s","relation":["public","items"]}}'
    )
    return text % (number, number, operation.encode())


def in_file(folder: Path, name: str, data: bytes, before: bytes = b"") -> FilePiece:
    """
    Put an element into a file, behind some bytes that are not part of it.
    """
    (folder / name).write_bytes(before + data)
    return FilePiece(name, len(before), len(data))


def browse(app: ASGIApp) -> httpx.AsyncClient:
    """
    Give a client that calls the application directly.
    """
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://penstock.test", timeout=30)
