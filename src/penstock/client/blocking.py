"""
`Client`: the same as `AsyncClient` for programs without asyncio.

Shell. Each client has one thread with an event loop, in which its `AsyncClient` lives; a call hands over to it and waits, so
that both behave alike, a shape stays current while the program does something else, and Ctrl-C interrupts every wait. All
objects here may be used from any thread. The thread ends with the client, or with the process. Objects do not survive a
fork: make a client in each process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Self, Unpack, overload

import httpx

from penstock.client.arrow_streams import ArrowStream, batch_options
from penstock.client.async_shape import WAIT_S, AsyncShape
from penstock.client.async_stream import AsyncChangeStream
from penstock.client.asynchronous import AsyncClient
from penstock.client.changes import Change, R
from penstock.client.connection import SILENCE_S_MAX
from penstock.client.faces import ShapeFace, StreamFace
from penstock.client.html import ROWS_MAX
from penstock.client.kept import Life
from penstock.client.loop_thread import LoopThread
from penstock.client.notebook import EVERY_S, LiveTable
from penstock.client.options import DefinesShape, ShapeOptions
from penstock.client.subset import SubsetOptions
from penstock.client.tables import Misfits, Rows, TableOptions
from penstock.client.values import Decoder


class ChangeStream(StreamFace[R]):
    """
    The changes of a shape, one after the other, without end; made by `Client.stream()`.

    Iterate it for changes, or `batches()` for whole lists of them. Lost connections are made again, for as long as
    `stale_after_s` allows; iterating on after a `StaleShapeError` tries again.
    """

    def __init__(self, thread: LoopThread, stream: AsyncChangeStream[R]) -> None:
        """
        Ask nothing yet.
        """
        super().__init__(stream._kept, thread.read)  # noqa: SLF001  two faces of one stream
        self._thread: Final = thread
        self._stream: Final = stream
        self._ready: Final[deque[Change[R]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection; iterating on would make another.
        """
        self._thread.call(self._stream.aclose())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change[R]:
        while not self._ready:
            self._ready.extend(self.next_batch())
        return self._ready.popleft()

    def batches(self) -> Iterator[list[Change[R]]]:
        """
        Yield the changes of each answer together; an empty list says that nothing is new.
        """
        while True:
            yield self.next_batch()

    def next_batch(self) -> list[Change[R]]:
        """
        Give the changes of the next answer; none when it said that nothing is new.

        Raises:
            StaleShapeError: the server has not answered for longer than `stale_after_s`.
            ClientError: it answered something that ends the subscription.
        """
        return self._thread.call(self._stream.next_batch())


class Shape(ShapeFace[R]):
    """
    The rows of a shape, kept current as long as the `with` block lasts; made by `Client.shape()`.

    Entering waits until all rows are there. What is visible goes from one state of the database to a later one: never half
    a transaction, and never an empty table while a log that was over is read again.
    """

    def __init__(self, thread: LoopThread, shape: AsyncShape[R]) -> None:
        """
        Ask nothing yet.
        """
        super().__init__(shape._kept, thread.read)  # noqa: SLF001  two faces of one shape
        self._thread: Final = thread
        self._shape: Final = shape

    def __enter__(self) -> Self:
        return self.open()

    def open(self) -> Self:
        """
        Do what entering does, where no block can be kept open, as in a notebook; `close()` ends it.

        Raises:
            StaleShapeError: the server has not answered for longer than `stale_after_s`.
            ClientError: it refuses.
        """
        self._thread.call(self._shape.open())
        return self

    def close(self) -> None:
        """
        Stop following. The rows stay as they are, and grow old.
        """
        self._thread.call(self._shape.aclose())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.call(self._shape.__aexit__(kind))

    def live(self, *, rows_max: int = ROWS_MAX, every_s: float = EVERY_S) -> LiveTable:
        """
        Give what shows the shape in a notebook and repaints itself: the last expression of a cell, or an argument of
        `display()`. Opens the shape if it is not open.

        Args:
            rows_max: how many rows to show.
            every_s: the shortest time between two paintings, in seconds.

        Raises:
            ClientError: the server refuses.
        """
        if self._thread.read(lambda: self._kept.life) is Life.NEW:
            self.open()
        return LiveTable(
            self._shape, lambda: self._thread.read(lambda: self._kept.paint(rows_max=rows_max)), every_s=every_s
        )

    def on_change(self, watcher: Callable[[list[Change[R]]], None]) -> Callable[[], None]:
        """
        Have a function called with the changes each time `rows` has changed, in the client's own thread.

        It is told before anything later is read, and must not wait for this client. After a rotation it is told `reset` and
        all rows as inserts. What it raises ends the shape and is raised from `rows`.

        Returns:
            a function that ends it.
        """
        return self._thread.read(lambda: self._shape.on_change(watcher))

    def wait_until(self, txid: int, *, timeout_s: float = WAIT_S) -> None:
        """
        Wait until the rows show a transaction, for reading what one has just written.

        Args:
            txid: `SELECT pg_current_xact_id()` of the transaction, also as `::xid`. It must have committed, and have
                changed rows of this shape: of others the shape is not told.
            timeout_s: how long at most.

        Raises:
            TimeoutError: it has not come.
            ClientError: following has ended with this error.
        """
        self._thread.call(self._shape.wait_until(txid, timeout_s=timeout_s))

    def wait_for(self, condition: Callable[[tuple[R, ...]], object], *, timeout_s: float = WAIT_S) -> tuple[R, ...]:
        """
        Wait until something holds of the rows; gives those of which it does.

        Raises:
            TimeoutError: it has not come to hold.
            ClientError: following has ended with this error.
        """
        return self._thread.call(self._shape.wait_for(condition, timeout_s=timeout_s))

    def load(self, **options: Unpack[SubsetOptions]) -> Rows[R]:
        """
        Read some rows beside the log and keep them current from now on; for shapes with `log="changes_only"`.

        They are loaded again after a rotation.

        Returns:
            the rows, in the order that was asked for.

        Raises:
            ClientError: the server refuses.
        """
        return self._thread.call(self._shape.load(**options))


class Client:
    """
    Reads shapes from a server of the protocol; a context manager.

        with penstock.Client("http://localhost:3000") as client:
            for change in client.stream("items", where="status = $1", params=["open"]):
                print(change.operation, change.value)
    """

    def __init__(
        self,
        base_url: str,
        *,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/shape",
        silence_s_max: float = SILENCE_S_MAX,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Connect to nothing yet.

        Args:
            base_url: the server, `https://sync.example.com`, with a path before `/v1/shape` if there is one.
            secret: the server's secret.
            headers: sent with each request, for what stands in front of the server.
            path: where below the base URL shapes are; another one for a proxy of your own.
            silence_s_max: a connection on which nothing comes for so long is given up; longer than the server's long polls,
                which are 20 s if nobody has changed that.
            transport: what httpx is to send requests with, for certificates of your own and the like.

        Raises:
            ClientError: the URL is not one of HTTP.
        """
        self._client: Final = AsyncClient(
            base_url, secret=secret, headers=headers, path=path, silence_s_max=silence_s_max, transport=transport
        )
        self._thread: Final = LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close all connections, and end the client's thread.
        """
        if not self._thread.is_running:
            return
        try:
            self._thread.call(self._client.aclose())
        finally:
            self._thread.end()

    @overload
    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: None = None,
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> ChangeStream[dict[str, Any]]: ...

    @overload
    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[R],
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> ChangeStream[R]: ...

    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[Any] | None = None,
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> ChangeStream[Any]:
        """
        Read the changes of a shape, beginning with its rows as inserts.

            for change in client.stream("items", where="status = $1", params=["open"]):
                print(change.operation, change.value)

        Args:
            table: the table, with its schema and quoted where SQL needs it; or `penstock.shape(Item)`, a shape of a model.
            row_type: the class of `Change.row`: a dataclass, a `TypedDict`, a `msgspec.Struct` or a pydantic model;
                dicts without it.
            since: `now` to leave out the rows that are there, and, after a `reset`, what happened meanwhile.
            options: see `ShapeOptions`.

        Raises:
            ClientError: an option cannot be.
        """
        return ChangeStream(self._thread, self._client.stream(table, row_type=row_type, since=since, **options))

    def stream_arrow(
        self,
        table: str | DefinesShape,
        *,
        text: Collection[str] = (),
        misfits: Misfits = "raise",
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> ArrowStream:
        """
        Read the changes of a shape as record batches of Arrow, beginning with its rows as inserts.

            for batch in client.stream_arrow("items"):
                writer.write_batch(batch)

        Each batch is what one answer brought, and has the columns `_operation`, `_key` and `_lsn` before those of the shape.
        Changes carry whole rows.

        Args:
            table: the table, as for `stream()`.
            text: columns to leave as the text that Postgres writes.
            misfits: `null` to make NULL of what the type of its column cannot hold, such as `infinity` in a timestamp.
            since: `now` to leave out the rows that are there, and, after a `reset`, what happened meanwhile.
            options: see `ShapeOptions`, without `decode` and `decoders`.

        Raises:
            ClientError: an option cannot be, or `penstock[arrow]` is not installed.
        """
        changes = self.stream(table, since=since, **batch_options(options))
        return ArrowStream(changes, TableOptions(text, misfits))

    @overload
    def shape(
        self, table: str | DefinesShape, *, row_type: None = None, **options: Unpack[ShapeOptions]
    ) -> Shape[dict[str, Any]]: ...

    @overload
    def shape(self, table: str | DefinesShape, *, row_type: type[R], **options: Unpack[ShapeOptions]) -> Shape[R]: ...

    def shape(
        self, table: str | DefinesShape, *, row_type: type[Any] | None = None, **options: Unpack[ShapeOptions]
    ) -> Shape[Any]:
        """
        Keep the rows of a shape current, while the program does something else.

            with client.shape("items", row_type=Item) as shape:
                total = sum(item.price for item in shape.rows)

        Args:
            table: the table, with its schema and quoted where SQL needs it; or `penstock.shape(Item)`, a shape of a model.
            row_type: the class of rows: a dataclass, a `TypedDict`, a `msgspec.Struct` or a pydantic model; dicts
                without it.
            options: see `ShapeOptions`.

        Raises:
            ClientError: an option cannot be.
        """
        return Shape(self._thread, self._client.shape(table, row_type=row_type, **options))

    @overload
    def subset(
        self,
        table: str | DefinesShape,
        *,
        row_type: None = None,
        columns: Sequence[str] = (),
        decode: bool = True,
        decoders: Mapping[str, Decoder] | None = None,
        **options: Unpack[SubsetOptions],
    ) -> Rows[dict[str, Any]]: ...

    @overload
    def subset(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[R],
        columns: Sequence[str] = (),
        decode: bool = True,
        decoders: Mapping[str, Decoder] | None = None,
        **options: Unpack[SubsetOptions],
    ) -> Rows[R]: ...

    def subset(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[Any] | None = None,
        columns: Sequence[str] = (),
        decode: bool = True,
        decoders: Mapping[str, Decoder] | None = None,
        **options: Unpack[SubsetOptions],
    ) -> Rows[Any]:
        """
        Read some rows as the database has them now, once.

            newest = client.subset("items", order_by="id DESC", limit=10)

        Args:
            table: the table, with its schema and quoted where SQL needs it; or `penstock.shape(Item)`, a shape of a model.
            row_type: the class of rows, as for `shape()`.
            columns: the columns to read; all when left out.
            decode: False to leave all values as the text that Postgres writes.
            decoders: see `ShapeOptions`.
            options: see `SubsetOptions`.

        Returns:
            the rows, in the order that was asked for.

        Raises:
            ClientError: the server refuses.
        """
        return self._thread.call(
            self._client.subset(table, row_type=row_type, columns=columns, decode=decode, decoders=decoders, **options)
        )
