"""
The changes of a shape as record batches of Arrow, live.

Each batch holds what one answer brought: `_operation` (`insert`, `update`, `delete`, or `reset` with all else NULL), `_key` and
`_lsn` as in `Change`, then the columns of the shape, typed as in `tables`. Changes carry whole rows (`replica="full"`), because
in a column what did not change could not be told from NULL.

Pure: whoever iterates the stream of changes below waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

from penstock.client.changes import Change
from penstock.client.freshness import Freshness
from penstock.client.options import ShapeOptions, State
from penstock.client.tables import TableOptions, arrow_columns, arrow_schema, load
from penstock.client.values import Schema
from penstock.errors import ClientError, ProtocolError, TableError

if TYPE_CHECKING:
    # It has no types of its own, and its absence is nothing to whoever does not ask for batches.
    import pyarrow as pa  # type: ignore[import-untyped]

OPERATION: Final = "_operation"
KEY: Final = "_key"
LSN: Final = "_lsn"


class _Changes(Protocol):
    @property
    def state(self) -> State: ...
    @property
    def freshness(self) -> Freshness: ...
    @property
    def schema(self) -> Schema | None: ...


class BlockingChanges(_Changes, Protocol):
    """
    The part of `ChangeStream` that is used here.
    """

    def next_batch(self) -> list[Change[dict[str, Any]]]:
        """
        Give the changes of the next answer.
        """
        ...

    def close(self) -> None:
        """
        Close the connection.
        """
        ...


class AsyncChanges(_Changes, Protocol):
    """
    The part of `AsyncChangeStream` that is used here.
    """

    async def next_batch(self) -> list[Change[dict[str, Any]]]:
        """
        Give the changes of the next answer.
        """
        ...

    async def aclose(self) -> None:
        """
        Close the connection.
        """
        ...


def batch_options(options: ShapeOptions) -> ShapeOptions:
    """
    Give the options of the stream below.

    Raises:
        ClientError: an option makes no sense for record batches.
    """
    for name in ("decode", "decoders"):
        if name in options:
            raise ClientError(f"a stream of record batches has no option {name!r}: `text` leaves columns as text")
    if options.get("replica", "full") != "full":
        raise ClientError("record batches need replica='full': what did not change would look like NULL")
    return cast("ShapeOptions", {**options, "replica": "full", "decode": False})


def change_schema(schema: Schema, options: TableOptions) -> pa.Schema:
    """
    Give the schema of batches.

    Raises:
        TableError: the shape has a column with the name of one of ours.
    """
    arrow = load("pyarrow", "arrow")
    for name in (OPERATION, KEY, LSN):
        if name in schema:
            raise TableError(f"the shape has a column {name!r}, which batches have as well: leave it out of `columns`")
    ours = [(OPERATION, arrow.string()), (KEY, arrow.string()), (LSN, arrow.uint64())]
    return arrow.schema([*(arrow.field(*each) for each in ours), *arrow_schema(schema, options)])


def change_batch(schema: Schema, changes: Sequence[Change[dict[str, Any]]], options: TableOptions) -> pa.RecordBatch:
    """
    Make a batch of changes whose values are texts.

    Raises:
        TableError: a value does not fit.
    """
    arrow = load("pyarrow", "arrow")
    fields = change_schema(schema, options)
    is_reset = [change.operation == "reset" for change in changes]
    ours = [
        arrow.array([change.operation for change in changes], arrow.string()),
        arrow.array(
            [None if reset else change.key for change, reset in zip(changes, is_reset, strict=True)], arrow.string()
        ),
        arrow.array(
            [None if reset else change.lsn for change, reset in zip(changes, is_reset, strict=True)], arrow.uint64()
        ),
    ]
    columns = arrow_columns(schema, [change.value for change in changes], options)
    return arrow.RecordBatch.from_arrays([*ours, *columns], schema=fields)


class _Batches:
    """
    What both kinds of streams have in common.
    """

    def __init__(self, changes: _Changes, options: TableOptions) -> None:
        load("pyarrow", "arrow")
        self._of: Final = changes
        self._options: Final = options
        self._held: list[Change[dict[str, Any]]] = []

    @property
    def state(self) -> State:
        """
        Where to go on later; as of streams of changes, a batch being done when the next one is asked for.
        """
        return self._of.state

    @property
    def freshness(self) -> Freshness:
        """
        How current this is.
        """
        return self._of.freshness

    @property
    def schema(self) -> pa.Schema | None:
        """
        The schema of batches as of now; None before the first answer. After a `reset` it may be another one.
        """
        return None if self._of.schema is None else change_schema(self._of.schema, self._options)

    def _make(self, changes: list[Change[dict[str, Any]]]) -> pa.RecordBatch | None:
        self._held += changes
        schema = self._of.schema
        if not self._held:
            return None
        if schema is None:
            # A log that is over is told before anything is said about columns.
            if any(change.operation != "reset" for change in self._held):
                raise ProtocolError("the answer has no electric-schema: is a proxy removing it?")
            return None
        held, self._held = self._held, []
        return change_batch(schema, held, self._options)


class ArrowStream(_Batches):
    """
    The changes of a shape as record batches, without end; made by `Client.stream_arrow()`.
    """

    def __init__(self, changes: BlockingChanges, options: TableOptions) -> None:
        """
        Ask nothing yet.

        Raises:
            ExtraMissingError: `penstock[arrow]` is not installed.
        """
        super().__init__(changes, options)
        self._changes: Final = changes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection; iterating on would make another.
        """
        self._changes.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pa.RecordBatch:
        while True:
            batch = self._make(self._changes.next_batch())
            if batch is not None:
                return batch


class AsyncArrowStream(_Batches):
    """
    The changes of a shape as record batches, without end; made by `AsyncClient.stream_arrow()`.
    """

    def __init__(self, changes: AsyncChanges, options: TableOptions) -> None:
        """
        Ask nothing yet.

        Raises:
            ExtraMissingError: `penstock[arrow]` is not installed.
        """
        super().__init__(changes, options)
        self._changes: Final = changes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """
        Close the connection; iterating on would make another.
        """
        await self._changes.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        while True:
            batch = self._make(await self._changes.next_batch())
            if batch is not None:
                return batch
