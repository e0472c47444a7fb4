"""
`AsyncClient`: shapes followed with asyncio and httpx.

Shell: it joins its connection with what is kept of each subscription, and decides nothing about the data.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, Self, Unpack, overload

import httpx

from penstock.client.arrow_streams import AsyncArrowStream, batch_options
from penstock.client.async_shape import AsyncShape
from penstock.client.async_stream import AsyncChangeStream
from penstock.client.changes import R, RowMaker
from penstock.client.connection import SILENCE_S_MAX, Connection
from penstock.client.kept import KeptShape, KeptStream, rows_of
from penstock.client.options import DefinesShape, ShapeOptions, open_stream
from penstock.client.subset import SubsetOptions
from penstock.client.tables import Misfits, Rows, TableOptions
from penstock.client.values import Decoder, RowDecoder
from penstock.errors import ProtocolError


class AsyncClient:
    """
    Reads shapes from a server of the protocol, with asyncio; an asynchronous context manager.

        async with penstock.AsyncClient("http://localhost:3000") as client:
            async with client.shape("items", where="status = $1", params=["open"]) as shape:
                print(shape.rows)
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
        self._connection: Final = Connection(
            base_url, headers=headers, path=path, silence_s_max=silence_s_max, transport=transport
        )
        self._secret: Final = secret

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        await self._connection.aclose()

    @overload
    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: None = None,
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> AsyncChangeStream[dict[str, Any]]: ...

    @overload
    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[R],
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> AsyncChangeStream[R]: ...

    def stream(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[Any] | None = None,
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> AsyncChangeStream[Any]:
        """
        Read the changes of a shape, beginning with its rows as inserts.

            async for change in client.stream("items", where="status = $1", params=["open"]):
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
        shape = open_stream(table, self._secret, options, is_from_now=since == "now")
        return AsyncChangeStream(KeptStream(shape, RowMaker(row_type), options, time.monotonic), self._connection)

    def stream_arrow(
        self,
        table: str | DefinesShape,
        *,
        text: Collection[str] = (),
        misfits: Misfits = "raise",
        since: Literal["beginning", "now"] = "beginning",
        **options: Unpack[ShapeOptions],
    ) -> AsyncArrowStream:
        """
        Read the changes of a shape as record batches of Arrow, beginning with its rows as inserts.

            async for batch in client.stream_arrow("items"):
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
        return AsyncArrowStream(changes, TableOptions(text, misfits))

    @overload
    def shape(
        self, table: str | DefinesShape, *, row_type: None = None, **options: Unpack[ShapeOptions]
    ) -> AsyncShape[dict[str, Any]]: ...

    @overload
    def shape(
        self, table: str | DefinesShape, *, row_type: type[R], **options: Unpack[ShapeOptions]
    ) -> AsyncShape[R]: ...

    def shape(
        self, table: str | DefinesShape, *, row_type: type[Any] | None = None, **options: Unpack[ShapeOptions]
    ) -> AsyncShape[Any]:
        """
        Keep the rows of a shape current.

            async with client.shape("items", row_type=Item) as shape:
                total = sum(item.price for item in shape.rows)

        Args:
            table: the table, with its schema and quoted where SQL needs it; or `penstock.shape(Item)`, a shape of a model.
            row_type: the class of rows: a dataclass, a `TypedDict`, a `msgspec.Struct` or a pydantic model; dicts
                without it.
            options: see `ShapeOptions`.

        Raises:
            ClientError: an option cannot be.
        """
        # Without the rows in the log there is nothing to read before its end.
        stream = open_stream(table, self._secret, options, is_from_now=options.get("log") == "changes_only")
        return AsyncShape(KeptShape(stream, RowMaker(row_type), options, time.monotonic), self._connection)

    @overload
    async def subset(
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
    async def subset(
        self,
        table: str | DefinesShape,
        *,
        row_type: type[R],
        columns: Sequence[str] = (),
        decode: bool = True,
        decoders: Mapping[str, Decoder] | None = None,
        **options: Unpack[SubsetOptions],
    ) -> Rows[R]: ...

    async def subset(
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

            newest = await client.subset("items", order_by="id DESC", limit=10)

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
        of: ShapeOptions = {"columns": columns, "log": "changes_only"}
        stream = open_stream(table, self._secret, of, is_from_now=True)
        found = await self._connection.read_subset(stream, options)
        if found is None:
            raise ProtocolError("a subset of no log was answered as one of a log that is over: is a cache in between?")
        decoder = RowDecoder(stream.schema or {}, own=decoders, is_raw=not decode)
        return rows_of(found, decoder, RowMaker(row_type), stream.schema)
