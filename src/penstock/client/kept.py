"""
What is kept of a subscription, for whichever client asks: where it is, how current, and the rows of a shape.

Reducers over `Following` and `ShapeRows`; the shell feeds them and tells how its reading fares. Pure: the clock is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Generic

from penstock.client.changes import Change, R, RowMaker, read_change
from penstock.client.follow import Batch, Following
from penstock.client.freshness import STALE_AFTER_S, Freshness
from penstock.client.html import ROWS_MAX, html_table
from penstock.client.options import ShapeOptions, State, write_state
from penstock.client.rows import ShapeRows
from penstock.client.stream import MustRefetch, ShapeStream, UpToDate
from penstock.client.subset import SubsetRows
from penstock.client.tables import Rows, Texts
from penstock.client.values import RowDecoder, Schema
from penstock.errors import ClientError, ProtocolError, StateError


class Subscription(Generic[R]):
    """
    What a stream and a shape have in common.

    Attributes:
        stream: what is subscribed to.
        following: what is asked next, and how that goes.
        maker: makes rows.
        clock: tells seconds.
    """

    def __init__(
        self, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions, clock: Callable[[], float]
    ) -> None:
        """
        Begin.
        """
        self.stream: Final = stream
        self.maker: Final = maker
        self.clock: Final = clock
        self.following: Final = Following(
            stream,
            now=clock(),
            has_events=options.get("sse", False),
            stale_after_s=options.get("stale_after_s", STALE_AFTER_S),
        )
        self._options: Final = options
        self._row_decoder: RowDecoder | None = None

    @property
    def freshness(self) -> Freshness:
        """
        How current this is now.
        """
        return self.following.watch.at(self.clock())

    def decoder(self) -> RowDecoder:
        """
        Give what decodes values, for the schema as of now.

        Raises:
            ProtocolError: the server has not told it.
        """
        schema = self.stream.schema
        is_raw = not self._options.get("decode", True)
        if schema is None and not is_raw:
            raise ProtocolError(
                "the answer has no electric-schema: is a proxy removing it? `decode=False` does without"
            )
        if self._row_decoder is None or self._row_decoder.schema is not schema:
            self._row_decoder = RowDecoder(schema or {}, own=self._options.get("decoders"), is_raw=is_raw)
        return self._row_decoder


class KeptStream(Subscription[R]):
    """
    A stream of changes, and where to go on with it later.

    Attributes:
        state: for `ShapeOptions`; covers the batches that have been taken to their end.
    """

    def __init__(
        self, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions, clock: Callable[[], float]
    ) -> None:
        """
        Begin.
        """
        super().__init__(stream, maker, options, clock)
        self.state: State = write_state(stream, stream.resume)

    def mark_done(self) -> None:
        """
        Count all that was given as done: the next batch is asked for.
        """
        self.state = write_state(self.stream, self.stream.resume)

    def patience_s(self) -> float | None:
        """
        Tell for how many seconds to wait for an answer; None for ever.
        """
        watch = self.following.watch
        patience_s = watch.patience_s(self.clock())
        if patience_s <= 0:
            # Iterating on after it was stale tries for as long again.
            patience_s = watch.stale_after_s
        return None if patience_s == math.inf else patience_s

    def read_changes(self, batch: Batch) -> list[Change[R]]:
        """
        Decode what an answer brought.
        """
        return [
            Change("reset") if isinstance(event, MustRefetch) else read_change(event, self.decoder(), self.maker)
            for event in batch.events
            if not isinstance(event, UpToDate)
        ]


class Life(Enum):
    """
    How far a shape's following is.
    """

    NEW = "not followed yet"
    FOLLOWED = "followed"
    ENDED = "not followed any more"


class KeptShape(Subscription[R]):
    """
    The rows of a shape, and whether they may be shown as current.

    Attributes:
        rows: the rows; the shell applies to them what it reads.
        life: whether somebody follows.
        failure: what following has ended with.
    """

    def __init__(
        self, stream: ShapeStream, maker: RowMaker[R], options: ShapeOptions, clock: Callable[[], float]
    ) -> None:
        """
        Begin, with the rows of a state if the options have one.

        Raises:
            StateError: the state is not one of a shape.
        """
        super().__init__(stream, maker, options, clock)
        self.rows: Final = ShapeRows[R](maker)
        self.life = Life.NEW
        self.failure: BaseException | None = None
        self._place = stream.resume
        state = options.get("state")
        if state is not None:
            rows = state.get("rows")
            if not isinstance(rows, dict):
                raise StateError("the state has no rows: it is one of a stream, begin without it")
            stream.know_schema(state.get("schema"))
            if stream.resume is not None:
                self.rows.restore({key: dict(texts) for key, texts in rows.items()})

    def mark_shown(self) -> None:
        """
        Go on from here with a later state: the rows show all that was read.
        """
        self._place = self.stream.resume

    @property
    def state(self) -> State:
        """
        The rows and where to go on later.
        """
        return {
            **write_state(self.stream, self._place),
            "schema": self.stream.schema,
            "rows": {key: dict(texts) for key, texts in self.rows.texts.items()},
        }

    @property
    def last_by_key(self) -> Mapping[str, R]:
        """
        The rows by key, however old.
        """
        return self.rows.by_key(self.decoder())

    @property
    def by_key(self) -> Mapping[str, R]:
        """
        The rows by key; raises unless they are current.
        """
        self._require_current()
        return self.last_by_key

    def table_rows(self) -> tuple[Schema, Sequence[Texts]]:
        """
        Give the schema and the rows as text; raises unless they are current.
        """
        self._require_current()
        return self.stream.schema or {}, [*self.rows.texts.values()]

    def paint(self, *, rows_max: int = ROWS_MAX) -> str:
        """
        Give the first rows as HTML, and below how current they are; never fails because they are old.
        """
        texts = self.rows.texts
        return html_table(
            self.stream.schema or {}, texts.values(), len(texts), self._say_freshness(), rows_max=rows_max
        )

    def mark(self) -> object:
        """
        Give something that is another one when `paint()` would give something else.
        """
        return (self.rows.revision, self._say_freshness())

    def require_opened(self) -> None:
        """
        Raise `ClientError` unless the shape was ever followed.
        """
        if self.life is Life.NEW:
            raise ClientError(
                "the shape has no rows yet: enter it with `async with`, or `with` for the blocking client"
            )

    def require_following(self) -> None:
        """
        Raise what following has ended with, if it has.
        """
        if self.failure is not None:
            raise self.failure

    def _require_current(self) -> None:
        self.require_opened()
        self.require_following()
        self.following.watch.require_fresh(self.clock())

    def _say_freshness(self) -> str:
        if self.life is not Life.FOLLOWED:
            return str(self.life.value)
        freshness = self.freshness
        if freshness.is_stale:
            return f"stale: {freshness.failure or 'the server is silent'}"
        return f"trying to reach the server: {freshness.failure}" if freshness.failure else "live"


def rows_of(found: SubsetRows, decoder: RowDecoder, maker: RowMaker[R], schema: Schema | None) -> Rows[R]:
    """
    Make the rows of a subset, in its order.
    """
    texts = [*found.texts.values()]
    return Rows.of((maker.make(decoder.decode(row)) for row in texts), schema or {}, texts)
