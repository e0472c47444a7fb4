"""
`AsyncShape`: the rows of a shape, kept current with asyncio.

Shell: a task follows for as long as the `async with` block lasts, feeds what is kept, and tells those who wait and watch.
It stands being cancelled at any await: what was not complete is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self, Unpack

from penstock.client.changes import Change, R
from penstock.client.connection import Connection
from penstock.client.faces import ShapeFace, ask_here
from penstock.client.follow import Batch
from penstock.client.html import ROWS_MAX
from penstock.client.kept import KeptShape, Life, rows_of
from penstock.client.notebook import EVERY_S, LiveTable
from penstock.client.reader import Reader
from penstock.client.stream import Message, MustRefetch, UpToDate
from penstock.client.subset import SubsetOptions, SubsetRows
from penstock.client.tables import Rows
from penstock.errors import ClientError

WAIT_S: Final = 30.0
"""Default of the longest wait for a transaction or a condition."""

Watcher = Callable[[list[Change[R]]], Awaitable[None] | None]


class AsyncShape(ShapeFace[R]):
    """
    The rows of a shape, kept current as long as the `async with` block lasts; made by `AsyncClient.shape()`.

    Entering waits until all rows are there. What is visible goes from one state of the database to a later one: never half
    a transaction, and never an empty table while a log that was over is read again.
    """

    def __init__(self, kept: KeptShape[R], connection: Connection) -> None:
        """
        Ask nothing yet.
        """
        super().__init__(kept, ask_here)
        self._connection: Final = connection
        self._reader: Final = Reader(connection, kept.following)
        self._reader.on_failure = self._announce
        self._watchers: Final[list[Watcher[R]]] = []
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Batch] | None = None
        self._moved = asyncio.Event()
        self._wanted: Final[deque[tuple[SubsetOptions, asyncio.Future[SubsetRows]]]] = deque()
        self._loaded: Final[list[SubsetOptions]] = []

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
        self._task = asyncio.create_task(self._follow(), name=f"shape {self._kept.stream.definition['table']}")
        self._kept.life = Life.FOLLOWED
        try:
            await self._until_first()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose()
        if kind is None:
            self._kept.require_following()

    async def aclose(self) -> None:
        """
        Stop following. The rows stay as they are, and grow old.
        """
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            # The task may have been cancelled before it began.
            self._kept.life = Life.ENDED
        await self._reader.close()

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
        self._kept.require_opened()
        return LiveTable(self, lambda: self._kept.paint(rows_max=rows_max), every_s=every_s)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """
        The event loop that follows the shape.
        """
        self._kept.require_opened()
        assert self._task is not None, "it was opened"
        return self._task.get_loop()

    @property
    def is_followed(self) -> bool:
        """
        Whether the rows are being kept current.
        """
        return self._kept.life is Life.FOLLOWED

    def mark(self) -> object:
        """
        See `Watched.mark`.
        """
        return self._kept.mark()

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
            lambda: self._kept.rows.seen.shows(txid), timeout_s, f"transaction {txid}, if it changed this shape,"
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
            found = tuple(self._kept.last_by_key.values())
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
        self._kept.require_following()
        wanted: asyncio.Future[SubsetRows] = asyncio.get_running_loop().create_future()
        self._wanted.append((options, wanted))
        # The log must not be read meanwhile (docs/protocol/http.md, "Subsets"); a request that waits is given up.
        if self._reading is not None:
            self._reading.cancel()
        subset = await wanted
        return rows_of(subset, self._kept.decoder(), self._kept.maker, self._kept.stream.schema)

    async def _follow(self) -> None:
        kept = self._kept
        try:
            while True:
                await self._load_wanted()
                batch = await self._read()
                if batch is None:
                    continue
                if kept.rows.is_loading and any(isinstance(event, UpToDate) for event in batch.events):
                    # All subsets first: rows must not vanish for as long as it takes to read them again.
                    again = [await self._connection.read_subset(kept.stream, options) for options in self._loaded]
                else:
                    again = []
                if None in again:
                    continue  # this log is over as well, which the next answer will say
                reloaded = [message for subset in again if subset is not None for message in kept.rows.merge(subset)]
                shown = kept.rows.apply(batch.events, kept.stream.snapshot)
                if shown is not None:
                    kept.mark_shown()
                    if shown or reloaded:
                        await self._tell([*shown, *reloaded])
                self._announce()
        except Exception as error:  # noqa: BLE001  raised from whatever is asked of the shape next
            kept.failure = error
        finally:
            kept.life = Life.ENDED
            for _, wanted in self._wanted:
                if not wanted.done():
                    closed = ClientError("the shape was closed")
                    wanted.set_exception(closed if kept.failure is None else kept.failure)
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
        while self._wanted and not self._kept.rows.is_loading:
            options, wanted = self._wanted[0]
            try:
                subset = await self._connection.read_subset(self._kept.stream, options)
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
            messages = self._kept.rows.merge(subset)
            if messages:
                await self._tell([*messages])
            if not wanted.done():
                wanted.set_result(subset)

    async def _tell(self, shown: list[Message | MustRefetch]) -> None:
        if not self._watchers:
            return
        changes = self._kept.rows.read_changes(shown, self._kept.decoder())
        for watcher in [*self._watchers]:
            told = watcher(changes)
            if inspect.isawaitable(told):
                await told

    def _announce(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _until_first(self) -> None:
        watch = self._kept.following.watch
        while watch.at(self._kept.clock()).age_s == math.inf or self._kept.rows.is_loading:
            moved = self._moved
            self._kept.require_following()
            now = self._kept.clock()
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
                    self._kept.require_following()
                    await moved.wait()
        except TimeoutError:
            why = self.freshness.failure
            raise TimeoutError(f"{what} has not come within {timeout_s} s{f' ({why})' if why else ''}") from None
