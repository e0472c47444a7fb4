"""
What types streams of record batches promise: checked by mypy and pyright, never run.
"""

# pyarrow brings no types.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any, assert_type

import penstock


def batches_come(client: penstock.Client) -> None:
    """
    A stream of batches is iterated, and has a place.
    """
    with client.stream_arrow("items", since="now", where="id > $1", params=[1]) as stream:
        assert_type(stream, penstock.ArrowStream)
        assert_type(stream.state, dict[str, Any])
        assert_type(stream.freshness, penstock.Freshness)
        for batch in stream:
            print(batch.num_rows)  # noqa: T201  it stands for the user's work


async def batches_come_with_asyncio(client: penstock.AsyncClient) -> None:
    """
    The same.
    """
    async with client.stream_arrow("items", text=["added"]) as stream:
        assert_type(stream, penstock.AsyncArrowStream)
        async for batch in stream:
            print(batch.num_rows)  # noqa: T201  it stands for the user's work
            break
