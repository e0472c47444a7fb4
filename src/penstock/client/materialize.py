"""
From messages to rows.

Reducer: give it messages in order. It is strict: a message that does not fit the rows there are is an error, because a
correct server never sends one; that makes every user of it a test of the server. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.client.stream import Message
from penstock.errors import ClientError


class Materializer:
    """
    The rows of a shape by key, as text values.
    """

    def __init__(self) -> None:
        """
        Begin without rows.
        """
        self._rows: Final[dict[str, dict[str, str | None]]] = {}

    @property
    def rows(self) -> Mapping[str, Mapping[str, str | None]]:
        """
        The rows now; a live view.
        """
        return self._rows

    def clear(self) -> None:
        """
        Drop all rows, for a shape that starts over.
        """
        self._rows.clear()

    def apply(self, message: Message) -> None:
        """
        Take one change in.

        Raises:
            ClientError: it does not fit: a row inserted twice, or one changed or deleted that is not there.
        """
        headers: dict[str, Any] = message["headers"]
        key: str = message["key"]
        match headers.get("operation"):
            case "insert":
                if key in self._rows:
                    raise ClientError(f"an insert names a row that is there already (at {_place(headers)})")
                self._rows[key] = dict(message["value"])
            case "update":
                if key not in self._rows:
                    raise ClientError(f"an update names a row that is not there (at {_place(headers)})")
                self._rows[key].update(message["value"])
            case "delete":
                if self._rows.pop(key, None) is None:
                    raise ClientError(f"a delete names a row that is not there (at {_place(headers)})")
            case other:
                raise ClientError(f"unknown operation {other!r}")


def _place(headers: Mapping[str, Any]) -> str:
    return f"{headers.get('lsn', 0)}_{headers.get('op_position', 0)}"
