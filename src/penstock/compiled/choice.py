"""
Which core is used: the compiled one, or the generated Python that does the same.

Owns the choice: whoever makes decoders and encoders asks here which to make. It holds for what is made from then on,
and both give the same bytes, so that it may change.

Form: one flag of the process, and the forms of what the core offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias, cast

Row: TypeAlias = tuple[bytes | None, ...]
Elements: TypeAlias = tuple[tuple[int, bytes], ...]
Column: TypeAlias = tuple[int, bytes, bool]
"""Place in a row, label before the value, and whether values need no escaping."""


class RowDecoder(Protocol):
    """
    Decodes the rows of one relation; the twin of `replication.pgoutput.TableDecoder`.
    """

    @property
    def description(self) -> Any:
        """The relation."""

    def insert(self, data: bytes, at: int, end: int) -> tuple[Row, bool]:
        """
        Decode what follows the oid in an Insert message; tell also whether the row is incomplete.
        """

    def update(self, data: bytes, at: int, end: int) -> tuple[Row | None, Row]:
        """
        Decode what follows the oid in an Update message: the whole old row, if it came, and the new row.
        """

    def delete(self, data: bytes, at: int, end: int) -> Row | None:
        """
        Decode what follows the oid in a Delete message: the whole old row, None when only its key came.
        """


class FrameLoop(Protocol):
    """
    Feeds frames to an assembler of transactions; the twin of the loop in `replication.transactions`.
    """

    def feed(self, assembler: Any, frames: bytes, events: list[Any]) -> None:
        """
        Take whole frames; append what became known, in order.
        """


class RowWriter(Protocol):
    """
    Makes the messages of one table's changes for one projection; the twin of what `wire.rows` generates.
    """

    def insert(self, row: Row, end: bytes, op: int) -> Elements:
        """
        Make the message of a row that came.
        """

    def update(self, old: Row, new: Row, end: bytes, op: int) -> Elements:
        """
        Make the messages of a row that changed: none, one, or two when its key changed.
        """

    def delete(self, row: Row, end: bytes, op: int) -> Elements:
        """
        Make the message of a row that went.
        """

    def messages(self, changes: Sequence[Any], relation: Any, end: bytes) -> list[tuple[int, bytes]] | None:
        """
        Make the messages of many changes (`replication.messages.Change`) of one relation. None when a change has to be
        looked at by itself.
        """

    def transactions(self, fragments: list[Any]) -> list[tuple[int, Sequence[tuple[int, bytes]]]] | None:
        """
        Make the messages of whole transactions (`replication.messages.Fragment`), the last of each marked: those that
        have any, with their commit LSN. None when a change has to be looked at by itself.
        """


class Core(Protocol):
    """
    What `stream.pyx` offers; its docstrings say what the arguments are.
    """

    def RowDecoder(self, description: Any) -> RowDecoder:  # noqa: N802 - a class
        """
        Make a decoder of the rows of one relation.
        """

    def FrameLoop(  # noqa: N802, PLR0917 - a class
        self,
        change: Any,
        fragment: Any,
        commit_lsn: Any,
        end_lsn: Any,
        operations: Any,
        mixed: Any,
        fragment_bytes_max: int,
    ) -> FrameLoop:
        """
        Make a loop that makes changes and fragments of these classes.
        """

    def RowWriter(  # noqa: N802, PLR0917 - a class
        self,
        relation: bytes,
        insert_headers: bytes,
        update_headers: bytes,
        delete_headers: bytes,
        keys: Sequence[Column],
        selected: Sequence[Column],
        others: Sequence[Column],
        is_full: bool,  # noqa: FBT001 - as the core has it
    ) -> RowWriter:
        """
        Make a writer for one description and one projection.
        """


_NOT_BUILT: Final = (
    "pure Python, which is slower: the compiled core was not built ({}); to have it, install"
    " Penstock again where a C compiler is: `pip install --force-reinstall --no-deps --no-binary penstock penstock`"
)

_core: Core | None
_problem = ""
try:
    from penstock.compiled import stream  # type: ignore[attr-defined]  # there only where it was built

    _core = cast("Core", stream)
except ImportError as error:
    _core = None
    _problem = str(error)

_is_wanted = True


def core() -> Core | None:
    """
    Give the compiled module; None when it was not built or is not wanted.
    """
    return _core if _is_wanted else None


def want(is_wanted: bool) -> None:  # noqa: FBT001 - the only thing to say
    """
    Choose the compiled core if there is one, or the generated Python.
    """
    global _is_wanted  # noqa: PLW0603 - the choice belongs to the process
    _is_wanted = is_wanted


def describe() -> str:
    """
    Tell in a few words which of the two is used, and why.
    """
    if core() is not None:
        return "compiled"
    return "pure Python, as asked" if _core is not None else _NOT_BUILT.format(_problem)
