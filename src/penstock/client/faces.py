"""
What streams and shapes of both clients tell of themselves, said once.

The classes here ask what is `kept` through a function that each client provides: at once where all runs in one event loop,
in the client's thread for the blocking one. What waits for something differs and stands with the clients.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from penstock.client.changes import R
from penstock.client.freshness import Freshness
from penstock.client.kept import KeptShape, KeptStream, Subscription
from penstock.client.options import State
from penstock.client.tables import Tabular, Texts
from penstock.client.values import Schema

T = TypeVar("T")


class Ask(Protocol):
    """
    Has a question answered where the subscription is followed.
    """

    def __call__(self, question: Callable[[], T], /) -> T:
        """
        Give the answer.
        """
        ...


def ask_here(question: Callable[[], T], /) -> T:
    """
    Answer at once: the `Ask` of those who follow in the same event loop.
    """
    return question()


class Face:
    """
    What a stream and a shape have in common.
    """

    def __init__(self, kept: Subscription[Any], ask: Ask) -> None:
        """
        Show what is kept; it is asked by `ask`.
        """
        self._subscription: Final = kept
        self._ask: Final = ask

    @property
    def freshness(self) -> Freshness:
        """
        How current this is: seconds since the server last confirmed that we have everything, and what failed since.
        """
        return self._ask(lambda: self._subscription.freshness)

    @property
    def schema(self) -> Schema | None:
        """
        What the server says about the columns: `type`, `dims`, `pk_index` and so on; None before the first answer.
        """
        return self._ask(lambda: self._subscription.stream.schema)

    @property
    def rotation_count(self) -> int:
        """
        How often the server's log was over and another had to be read from its beginning.
        """
        return self._ask(lambda: self._subscription.following.rotation_count)


class StreamFace(Face, Generic[R]):
    """
    What streams of changes tell.
    """

    def __init__(self, kept: KeptStream[R], ask: Ask) -> None:
        """
        Show what is kept of a stream.
        """
        super().__init__(kept, ask)
        self._kept: Final = kept

    @property
    def state(self) -> State:
        """
        Where to go on later; can be written as JSON.

        It covers the batches that have been taken to their end: a change counts as done when the next one is asked for.
        Save it together with what you made of the changes, and each is seen at least once.
        """
        return self._ask(lambda: self._kept.state)


class ShapeFace(Face, Tabular, Generic[R]):
    """
    What shapes tell.
    """

    def __init__(self, kept: KeptShape[R], ask: Ask) -> None:
        """
        Show what is kept of a shape.
        """
        super().__init__(kept, ask)
        self._kept: Final = kept

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
        return self._ask(lambda: self._kept.by_key)

    @property
    def last_rows(self) -> tuple[R, ...]:
        """
        The rows as they were last, however old that is; `freshness` says how old.
        """
        return tuple(self._ask(lambda: self._kept.last_by_key).values())

    def table_rows(self) -> tuple[Schema, Sequence[Texts]]:
        """
        See `Tabular`.
        """
        return self._ask(self._kept.table_rows)

    @property
    def state(self) -> State:
        """
        The rows and where to go on later; can be written as JSON.

        A shape that is made with it asks only for what has changed since.
        """
        return self._ask(lambda: self._kept.state)

    def _repr_html_(self) -> str:
        return self._ask(self._kept.paint)
