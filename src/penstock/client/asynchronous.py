"""
`AsyncClient`: shapes followed with asyncio and httpx.

Shell around `Following`: it sends, waits and closes, and decides nothing about the data. A stream is read by whoever
iterates it; a shape by a task of its own that lives as long as its `async with` block. Both stand being cancelled at any
await: what was not complete is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Generic, Literal, Self, Unpack, overload

import httpx

from penstock.client.arrow_streams import AsyncArrowStream, batch_options
from penstock.client.changes import Change, R, RowMaker, read_change
from penstock.client.follow import Batch, Following, Pause
from penstock.client.freshness import STALE_AFTER_S, Freshness
from penstock.client.html import ROWS_MAX, html_table
from penstock.client.notebook import EVERY_S, LiveTable
from penstock.client.options import DefinesShape, ShapeOptions, State, open_stream, parameter_text, write_state
from penstock.client.retry import RETRIED_STATUSES, Backoff, read_retry_after
from penstock.client.rows import ShapeRows
from penstock.client.stream import Message, MustRefetch, ShapeStream, UpToDate, refusal
from penstock.client.subset import SubsetOptions, SubsetRows, read_subset, subset_query
from penstock.client.tables import Misfits, Rows, TableOptions, Tabular, Texts
from penstock.client.values import Decoder, RowDecoder, Schema, read_schema
from penstock.errors import ClientError, ProtocolError, StateError

CONNECT_TIMEOUT_S: Final = 10.0
SILENCE_S_MAX: Final = 45.0
"""Default of the silence after which a connection is given up: servers speak at least every 21 s."""
WAIT_S: Final = 30.0
"""Default of the longest wait for a transaction or a condition."""


class _Reader:
    """
    Sends the requests of one subscription and gives what they bring.
    """

    def __init__(self, client: AsyncClient, following: Following) -> None:
        self.following: Final = following
        self._client: Final = client
        self._open: httpx.Response | None = None
        self._parts: AsyncIterator[bytes] | None = None
        self._ready: Final[deque[Batch]] = deque()
        self._pause_s = 0.0
        # Told whenever something has failed, so that those who wait can look at the watchdog.
        self.on_failure: Callable[[], None] = lambda: None

    async def next(self) -> Batch:
        """
        Give the next thing that came, however long that takes; may be cancelled, and called again.
        """
        following = self.following
        while not self._ready:
            if self._pause_s:
                # The rest of a pause that was interrupted is not made up for: whoever interrupted wants something now.
                pause_s, self._pause_s = self._pause_s, 0.0
                await asyncio.sleep(pause_s)
            try:
                await (self._ask() if self._parts is None else self._read_on(self._parts))
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}".rstrip(": ")
                self._pause_s = following.failed(failure, chance=random.random()).seconds  # noqa: S311  not for secrets
                self.on_failure()
        batch = self._ready.popleft()
        self._pause_s = batch.pause_s
        return batch

    async def close(self) -> None:
        """
        Close the connection of a stream of events, if there is one.
        """
        answer, self._open, self._parts = self._open, None, None
        if answer is not None:
            await answer.aclose()

    async def _ask(self) -> None:
        request = self.following.next_request()
        headers = {"accept": "text/event-stream"} if request.has_events else None
        answer = await self._client.send(request.query, headers)
        try:
            if request.has_events and answer.headers.get("content-type", "").startswith("text/event-stream"):
                self.following.begin_events(answer.headers, now=time.monotonic())
                self._open, self._parts = answer, answer.aiter_bytes()
                return
            body = await answer.aread()
        finally:
            if self._open is None:
                await answer.aclose()
        outcome = self.following.handle(
            answer.status_code,
            answer.headers,
            body,
            now=time.monotonic(),
            chance=random.random(),  # noqa: S311  not for secrets
        )
        if isinstance(outcome, Pause):
            self._pause_s = outcome.seconds
            self.on_failure()
        else:
            self._ready.append(outcome)

    async def _read_on(self, parts: AsyncIterator[bytes]) -> None:
        try:
            async for part in parts:
                chance = random.random()  # noqa: S311  not for secrets
                self._ready.extend(self.following.feed(part, now=time.monotonic(), chance=chance))
                if self._ready:
                    return
            batch = self.following.end_events(now=time.monotonic(), chance=random.random())  # noqa: S311  likewise
        except BaseException:
            self.following.stream.cut_events()
            await self.close()
            raise
        self._open = self._parts = None
        if batch.events:
            self._ready.append(batch)


class _Subscription(Generic[R]):
    """
    What a stream and a shape have in common.
    """

    def __init__(self, client: AsyncClient, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions) -> None:
        self._client: Final = client
        self._maker: Final = maker
        self._stream: Final = stream
        self._options: Final = options
        self._following: Final = Following(
            stream,
            now=time.monotonic(),
            has_events=options.get("sse", False),
            stale_after_s=options.get("stale_after_s", STALE_AFTER_S),
        )
        self._reader: Final = _Reader(client, self._following)
        self._row_decoder: RowDecoder | None = None

    @property
    def freshness(self) -> Freshness:
        """
        How current this is: seconds since the server last confirmed that we have everything, and what failed since.
        """
        return self._following.watch.at(time.monotonic())

    @property
    def schema(self) -> Schema | None:
        """
        What the server says about the columns: `type`, `dims`, `pk_index` and so on; None before the first answer.
        """
        return self._stream.schema

    @property
    def rotation_count(self) -> int:
        """
        How often the server's log was over and another had to be read from its beginning.
        """
        return self._following.rotation_count

    def _decoder(self) -> RowDecoder:
        schema = self._stream.schema
        is_raw = not self._options.get("decode", True)
        if schema is None and not is_raw:
            raise ProtocolError(
                "the answer has no electric-schema: is a proxy removing it? `decode=False` does without"
            )
        if self._row_decoder is None or self._row_decoder.schema is not schema:
            self._row_decoder = RowDecoder(schema or {}, own=self._options.get("decoders"), is_raw=is_raw)
        return self._row_decoder


class AsyncChangeStream(_Subscription[R]):
    """
    The changes of a shape, one after the other, without end; made by `AsyncClient.stream()`.

    Iterate it for changes, or `batches()` for whole lists of them. Lost connections are made again, for as long as
    `stale_after_s` allows; iterating on after a `StaleShapeError` tries again.
    """

    def __init__(self, client: AsyncClient, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions) -> None:
        """
        Ask nothing yet.
        """
        super().__init__(client, stream, maker, options)
        self._ready: Final[deque[Change[R]]] = deque()
        self._state = write_state(stream, stream.resume)

    @property
    def state(self) -> State:
        """
        Where to go on later; can be written as JSON.

        It covers the batches that have been taken to their end: a change counts as done when the next one is asked for.
        Save it together with what you made of the changes, and each is seen at least once.
        """
        return self._state

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close the connection; iterating on would make another.
        """
        await self._reader.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[R]:
        while not self._ready:
            self._ready.extend(await self.next_batch())
        return self._ready.popleft()

    async def batches(self) -> AsyncIterator[list[Change[R]]]:
        """
        Yield the changes of each answer together; an empty list says that nothing is new.
        """
        while True:
            yield await self.next_batch()

    async def next_batch(self) -> list[Change[R]]:
        """
        Give the changes of the next answer; none when it said that nothing is new.

        Raises:
            StaleShapeError: the server has not answered for longer than `stale_after_s`.
            ClientError: it answered something that ends the subscription.
        """
        self._state = write_state(self._stream, self._stream.resume)
        watch = self._following.watch
        patience_s = watch.patience_s(time.monotonic())
        if patience_s <= 0:
            # Iterating on after it was stale tries for as long again.
            patience_s = watch.stale_after_s
        try:
            async with asyncio.timeout(None if patience_s == math.inf else patience_s):
                batch = await self._reader.next()
        except TimeoutError:
            watch.require_answers(time.monotonic())
            return []
        return [
            Change("reset") if isinstance(event, MustRefetch) else read_change(event, self._decoder(), self._maker)
            for event in batch.events
            if not isinstance(event, UpToDate)
        ]


Watcher = Callable[[list[Change[R]]], Awaitable[None] | None]


class AsyncShape(_Subscription[R], Tabular):
    """
    The rows of a shape, kept current as long as the `async with` block lasts; made by `AsyncClient.shape()`.

    Entering waits until all rows are there. What is visible goes from one state of the database to a later one: never half
    a transaction, and never an empty table while a log that was over is read again.
    """

    def __init__(self, client: AsyncClient, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions) -> None:
        """
        Ask nothing yet.

        Raises:
            StateError: the state is not one of a shape.
        """
        super().__init__(client, stream, maker, options)
        self._rows: Final = ShapeRows[R](maker)
        self._watchers: Final[list[Watcher[R]]] = []
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Batch] | None = None
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self._place = stream.resume
        self._wanted: Final[deque[tuple[SubsetOptions, asyncio.Future[SubsetRows]]]] = deque()
        self._loaded: Final[list[SubsetOptions]] = []
        self._reader.on_failure = self._announce
        state = options.get("state")
        if state is not None:
            rows = state.get("rows")
            if not isinstance(rows, dict):
                raise StateError("the state has no rows: it is one of a stream, begin without it")
            stream.know_schema(state.get("schema"))
            if stream.resume is not None:
                self._rows.restore({key: dict(texts) for key, texts in rows.items()})

    async def __aenter__(self) -> Self:
        return await self.open()

    async def open(self) -> Self:
        """
        Do what entering does, where no block can be kept open, as in a notebook; `aclose()` ends it.

        Raises:
            StaleShapeError: the server has not answered for longer than `stale_after_s`.
            ClientError: it refuses.
        """
        assert self._task is None, "a shape is entered once"
        self._task = asyncio.create_task(self._follow(), name=f"shape {self._stream.definition['table']}")
        try:
            await self._until_first()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose()
        if kind is None:
            self._require_following()

    async def aclose(self) -> None:
        """
        Stop following. The rows stay as they are, and grow old.
        """
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._reader.close()

    @property
    def rows(self) -> tuple[R, ...]:
        """
        All rows, as of one moment of the database; a value that never changes, later rows are in another one.

        Raises:
            StaleShapeError: the server has not confirmed for `stale_after_s` that they are current.
            ClientError: following has ended with this error.
        """
        return tuple(self.by_key.values())

    @property
    def by_key(self) -> Mapping[str, R]:
        """
        The rows by key, as in `Change.key`; otherwise as `rows`.

        Raises:
            StaleShapeError: the server has not confirmed for `stale_after_s` that they are current.
            ClientError: following has ended with this error.
        """
        self._require_current()
        return self._read_rows()

    @property
    def last_rows(self) -> tuple[R, ...]:
        """
        The rows as they were last, however old that is; `freshness` says how old.
        """
        return tuple(self._read_rows().values())

    def table_rows(self) -> tuple[Schema, Sequence[Texts]]:
        """
        See `Tabular`.
        """
        self._require_current()
        return self._stream.schema or {}, [*self._rows.texts.values()]

    def live(self, *, rows_max: int = ROWS_MAX, every_s: float = EVERY_S) -> LiveTable:
        """
        Give what shows the shape in a notebook and repaints itself: the last expression of a cell, or an argument of
        `display()`.

        Args:
            rows_max: how many rows to show.
            every_s: the shortest time between two paintings, in seconds.

        Raises:
            ClientError: the shape is not followed yet.
        """
        self._require_opened()
        return LiveTable(self, lambda: self.paint(rows_max=rows_max), every_s=every_s)

    def paint(self, *, rows_max: int = ROWS_MAX) -> str:
        """
        Give the first rows as HTML, and below how current they are; never fails because they are old.
        """
        texts = self._rows.texts
        return html_table(
            self._stream.schema or {}, texts.values(), len(texts), self._say_freshness(), rows_max=rows_max
        )

    def _repr_html_(self) -> str:
        return self.paint()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The event loop that follows the shape.
        """
        self._require_opened()
        assert self._task is not None, "it was opened"
        return self._task.get_loop()

    @property
    def is_opened(self) -> bool:
        """
        Whether it was ever followed.
        """
        return self._task is not None

    @property
    def is_followed(self) -> bool:
        """
        Whether the rows are being kept current.
        """
        return self._task is not None and not self._task.done()

    def mark(self) -> object:
        """
        Give something that is another one when `paint()` would give something else.
        """
        return (self._rows.revision, self._say_freshness())

    @property
    def state(self) -> State:
        """
        The rows and where to go on later; can be written as JSON.

        A shape that is made with it asks only for what has changed since.
        """
        return {
            **write_state(self._stream, self._place),
            "schema": self._stream.schema,
            "rows": {key: dict(texts) for key, texts in self._rows.texts.items()},
        }

    def on_change(self, watcher: Watcher[R]) -> Callable[[], None]:
        """
        Have a function called with the changes each time `rows` has changed; it may be a coroutine function.

        It is told before anything later is read. After a rotation it is told `reset` and all rows as inserts. What it raises
        ends the shape and is raised from `rows`.

        Returns:
            a function that ends it.
        """
        self._watchers.append(watcher)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._watchers.remove(watcher)

        return unsubscribe

    async def wait_until(self, txid: int, *, timeout_s: float = WAIT_S) -> None:
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
        await self._until(
            lambda: self._rows.seen.shows(txid), timeout_s, f"transaction {txid}, if it changed this shape,"
        )

    async def wait_for(
        self, condition: Callable[[tuple[R, ...]], object], *, timeout_s: float = WAIT_S
    ) -> tuple[R, ...]:
        """
        Wait until something holds of the rows; gives those of which it does.

        Raises:
            TimeoutError: it has not come to hold.
            ClientError: following has ended with this error.
        """
        found: tuple[R, ...] = ()

        def holds() -> bool:
            nonlocal found
            found = tuple(self._read_rows().values())
            return bool(condition(found))

        await self._until(holds, timeout_s, "what was waited for")
        return found

    async def load(self, **options: Unpack[SubsetOptions]) -> Rows[R]:
        """
        Read some rows beside the log and keep them current from now on; for shapes with `log="changes_only"`.

        They are loaded again after a rotation.

        Returns:
            the rows, in the order that was asked for.

        Raises:
            ClientError: the server refuses.
        """
        self._require_following()
        wanted: asyncio.Future[SubsetRows] = asyncio.get_running_loop().create_future()
        self._wanted.append((options, wanted))
        # The log must not be read meanwhile (docs/protocol/http.md, "Subsets"); a request that waits is given up.
        if self._reading is not None:
            self._reading.cancel()
        subset = await wanted
        return _rows_of(subset, self._decoder(), self._maker, self._stream.schema)

    async def _follow(self) -> None:
        try:
            while True:
                await self._load_wanted()
                batch = await self._read()
                if batch is None:
                    continue
                if self._rows.is_loading and any(isinstance(event, UpToDate) for event in batch.events):
                    # All subsets first: rows must not vanish for as long as it takes to read them again.
                    again = [await self._client.read_subset(self._stream, options) for options in self._loaded]
                else:
                    again = []
                if None in again:
                    continue  # this log is over as well, which the next answer will say
                reloaded = [message for subset in again if subset is not None for message in self._rows.merge(subset)]
                shown = self._rows.apply(batch.events, self._stream.snapshot)
                if shown is not None:
                    self._place = self._stream.resume
                    if shown or reloaded:
                        await self._tell([*shown, *reloaded])
                self._announce()
        except Exception as error:  # noqa: BLE001  raised from whatever is asked of the shape next
            self._failure = error
        finally:
            for _, wanted in self._wanted:
                if not wanted.done():
                    closed = ClientError("the shape was closed")
                    wanted.set_exception(closed if self._failure is None else self._failure)
            self._announce()

    async def _read(self) -> Batch | None:
        """
        Read what comes next; None when that was given up for something else.
        """
        self._reading = asyncio.create_task(self._reader.next(), name="reading of a shape")
        try:
            return await self._reading
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return None
        finally:
            self._reading = None

    async def _load_wanted(self) -> None:
        while self._wanted and not self._rows.is_loading:
            options, wanted = self._wanted[0]
            try:
                subset = await self._client.read_subset(self._stream, options)
            except ClientError as error:
                self._wanted.popleft()
                if not wanted.done():
                    wanted.set_exception(error)
                continue
            if subset is None:
                return  # the log is over; the next answer will say so, and loading goes on behind it
            self._wanted.popleft()
            if options not in self._loaded:
                self._loaded.append(options)
            messages = self._rows.merge(subset)
            if messages:
                await self._tell([*messages])
            if not wanted.done():
                wanted.set_result(subset)

    async def _tell(self, shown: list[Message | MustRefetch]) -> None:
        if not self._watchers:
            return
        changes = self._rows.read_changes(shown, self._decoder())
        for watcher in [*self._watchers]:
            told = watcher(changes)
            if inspect.isawaitable(told):
                await told

    def _require_opened(self) -> None:
        if self._task is None:
            raise ClientError(
                "the shape has no rows yet: enter it with `async with`, or `with` for the blocking client"
            )

    def _require_current(self) -> None:
        self._require_opened()
        self._require_following()
        self._following.watch.require_fresh(time.monotonic())

    def _say_freshness(self) -> str:
        if not self.is_followed:
            return "not followed any more" if self._task is not None else "not followed yet"
        freshness = self.freshness
        if freshness.is_stale:
            return f"stale: {freshness.failure or 'the server is silent'}"
        return f"trying to reach the server: {freshness.failure}" if freshness.failure else "live"

    def _read_rows(self) -> Mapping[str, R]:
        return self._rows.by_key(self._decoder())

    def _require_following(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _announce(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _until_first(self) -> None:
        watch = self._following.watch
        while watch.at(time.monotonic()).age_s == math.inf or self._rows.is_loading:
            moved = self._moved
            self._require_following()
            now = time.monotonic()
            watch.require_answers(now)
            patience_s = watch.patience_s(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if patience_s == math.inf else patience_s):
                    await moved.wait()

    async def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    moved = self._moved
                    self._require_following()
                    await moved.wait()
        except TimeoutError:
            why = self.freshness.failure
            raise TimeoutError(f"{what} has not come within {timeout_s} s{f' ({why})' if why else ''}") from None


def _rows_of(found: SubsetRows, decoder: RowDecoder, maker: RowMaker[R], schema: Schema | None) -> Rows[R]:
    texts = [*found.texts.values()]
    return Rows.of((maker.make(decoder.decode(row)) for row in texts), schema or {}, texts)


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
        if not base_url.startswith(("http://", "https://")):
            raise ClientError(f"{base_url!r} is no base URL: it begins with http:// or https://")
        self._url: Final = base_url.rstrip("/").removesuffix("/v1/shape") + path
        self._secret: Final = secret
        self._headers: Final = dict(headers or {})
        # Each subscription holds a connection most of the time, so their number has no other limit.
        self._http: Final = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(CONNECT_TIMEOUT_S, read=silence_s_max, pool=None),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close all connections.
        """
        await self._http.aclose()

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
        return AsyncChangeStream(self, shape, RowMaker(row_type), options)

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
        return AsyncShape(self, stream, RowMaker(row_type), options)

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
        found = await self.read_subset(stream, options)
        if found is None:
            raise ProtocolError("a subset of no log was answered as one of a log that is over: is a cache in between?")
        decoder = RowDecoder(stream.schema or {}, own=decoders, is_raw=not decode)
        return _rows_of(found, decoder, RowMaker(row_type), stream.schema)

    async def send(self, query: Mapping[str, str], headers: Mapping[str, str] | None = None) -> httpx.Response:
        """
        Send a request for a shape; gives the head of the answer, whose body is to be read or closed.

        Raises:
            httpx.TransportError: there is no answer.
        """
        request = self._http.build_request(
            "GET", self._url, params=dict(query), headers={**self._headers, **(headers or {})}
        )
        return await self._http.send(request, stream=True)

    async def read_subset(self, stream: ShapeStream, options: SubsetOptions) -> SubsetRows | None:
        """
        Read a subset of a subscription's shape, where that stands; failures that may pass are retried.

        Returns:
            None when the log is over.

        Raises:
            ClientError: the server refuses.
        """
        params = [parameter_text(value) for value in options.get("params", ())]
        query = {**stream.next_request(is_live=False), **subset_query(options, params)}
        backoff = Backoff()
        while True:
            asked_s = 0.0
            try:
                answer = await self.send(query)
                try:
                    body = await answer.aread()
                finally:
                    await answer.aclose()
            except httpx.TransportError:
                pass  # as after an answer that may be another one next time
            else:
                if answer.status_code == 409:
                    return None
                if answer.status_code not in RETRIED_STATUSES | {200}:
                    raise refusal(answer.status_code, body)
                if answer.status_code == 200:
                    if "electric-schema" in answer.headers:
                        stream.know_schema(read_schema(answer.headers["electric-schema"]))
                    return read_subset(body)
                asked_s = read_retry_after(answer.headers)
            await asyncio.sleep(backoff.failed(random.random(), asked_s=asked_s))  # noqa: S311  not for secrets
