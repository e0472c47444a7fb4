"""
Changes as users of the clients see them, and the classes that rows become.

Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, is_typeddict

import msgspec

from penstock.client.stream import Message
from penstock.client.values import RowDecoder
from penstock.errors import ClientError, ProtocolError, RowTypeError

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Operation: TypeAlias = Literal["insert", "update", "delete", "reset"]
_OPERATIONS: Final[Mapping[str, Operation]] = {"insert": "insert", "update": "update", "delete": "delete"}


@dataclass(frozen=True, slots=True)
class Change(Generic[R_co]):
    """
    One change of a shape.

    Attributes:
        operation: `insert`, `update` or `delete`; or `reset`, which means: the log is over, for example because a column
            was added or the table truncated. Drop all rows, they come again as inserts.
        key: names the row, through all of its changes.
        value: columns by name. All of them for an insert; the primary key and what changed for an update; the primary
            key for a delete. With `replica="full"` always all.
        row: the whole row in the class that was asked for, where the change carries it: with every insert, and with
            `replica="full"` with every change. None otherwise.
        old_value: what changed columns held before; empty without `replica="full"`.
        txids: the transactions it is of, as `pg_current_xact_id()::xid` gives them; empty for rows of the beginning.
        lsn: the position of the commit in the write-ahead log; 0 for rows of the beginning.
        is_last: whether it is the last change of its transaction, in this shape.
    """

    operation: Operation
    key: str = ""
    value: Mapping[str, Any] = field(default_factory=dict)
    row: R_co | None = None
    old_value: Mapping[str, Any] = field(default_factory=dict)
    txids: tuple[int, ...] = ()
    lsn: int = 0
    is_last: bool = False


class RowMaker(Generic[R]):
    """
    Makes rows of a class of the user's.
    """

    def __init__(self, row_type: type[R] | None) -> None:
        """
        Take the class: None for dicts, else a dataclass, a `TypedDict`, a `msgspec.Struct`, or a model of pydantic.

        Raises:
            ClientError: rows cannot be made of it.
        """
        self._type: Final[Any] = row_type
        self._validate: Final = getattr(row_type, "model_validate", None)
        if row_type is None or self._validate is not None:
            return
        if not (is_dataclass(row_type) or is_typeddict(row_type) or issubclass(row_type, msgspec.Struct)):
            raise ClientError(
                f"rows cannot be made as {row_type.__name__}: give a dataclass, a TypedDict, a msgspec.Struct or a"
                " pydantic model"
            )

    def make(self, values: dict[str, Any]) -> R:
        """
        Make a row.

        Raises:
            RowTypeError: the class does not take it.
        """
        if self._type is None:
            return cast("R", values)
        try:
            if self._validate is not None:
                return cast("R", self._validate(values))
            return cast("R", msgspec.convert(values, self._type))
        except msgspec.ValidationError as cause:
            raise RowTypeError(f"a row does not fit {self._type.__name__}: {cause}") from cause
        except ValueError as cause:
            # The errors of pydantic quote the row, which is not ours to repeat.
            raise RowTypeError(f"a row does not fit {self._type.__name__}; the cause says where") from cause


def operation_of(message: Message) -> Operation:
    """
    Name what a message does.

    Raises:
        ProtocolError: it is nothing that this client knows.
    """
    headers = message["headers"]
    operation = _OPERATIONS.get(headers.get("operation", ""))
    if operation is None:
        what = headers.get("event") or headers.get("operation")
        raise ProtocolError(
            f"the server sent {what!r}, which this client cannot follow: conditions with subqueries are not supported"
        )
    return operation


def read_change(message: Message, decoder: RowDecoder, maker: RowMaker[R]) -> Change[R]:
    """
    Decode a message.
    """
    operation = operation_of(message)
    headers = message["headers"]
    value = decoder.decode(message.get("value", {}))
    is_whole = operation == "insert" or decoder.schema.keys() <= value.keys()
    return Change(
        operation,
        message["key"],
        value,
        # A dict of its own: rows are kept, and changes may be changed.
        maker.make(dict(value)) if is_whole else None,
        decoder.decode(message.get("old_value", {})),
        tuple(headers.get("txids", ())),
        int(headers.get("lsn", 0)),
        bool(headers.get("last", False)),
    )
