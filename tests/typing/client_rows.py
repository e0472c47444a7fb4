"""
What types the public clients promise: checked by mypy, never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_type

import penstock


@dataclass
class Item:
    """
    A row.
    """

    id: int
    name: str


def blocking(client: penstock.Client) -> None:
    """
    Rows are dicts, or of the class that is asked for; options have names and types.
    """
    stream = client.stream("items", where="status = $1", params=["open"], sse=True)
    assert_type(stream, penstock.ChangeStream[dict[str, Any]])
    for change in stream:
        assert_type(change, penstock.Change[dict[str, Any]])
        assert_type(change.value, Mapping[str, Any])
        break
    with client.shape("items", row_type=Item, stale_after_s=None) as shape:
        assert_type(shape.rows, tuple[Item, ...])
        assert_type(shape.by_key, Mapping[str, Item])
        assert_type(shape.freshness, penstock.Freshness)
        assert_type(shape.wait_for(lambda rows: len(rows) > 3), tuple[Item, ...])
        shape.wait_until(771)
    assert_type(client.subset("items", order_by="id", limit=3), penstock.Rows[dict[str, Any]])
    assert_type(client.subset("items", row_type=Item), penstock.Rows[Item])


async def with_asyncio(client: penstock.AsyncClient) -> None:
    """
    The same.
    """
    async for change in client.stream("items", row_type=Item, state=None):
        assert_type(change.row, Item | None)
        break

    async def watch(changes: list[penstock.Change[Item]]) -> None:
        assert_type(changes[0].row, Item | None)

    async with client.shape("items", row_type=Item) as shape:
        shape.on_change(watch)
        shape.on_change(lambda changes: print(changes))  # noqa: PLW0108, T201  its argument's type is what is looked at
        await shape.wait_until(771, timeout_s=5)
        assert_type(await shape.load(where="id > $1", params=[1]), penstock.Rows[Item])


def refused(client: penstock.Client) -> None:
    """
    What mypy must find; an ignore that is not needed is an error.
    """
    # No such option.
    client.stream("items", wher="x")  # type: ignore[call-overload]
    # Not one of the two.
    client.stream("items", replica="some")  # type: ignore[call-overload]
