"""
What serving needs of the shapes.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import (
    Health,
    OpenReply,
    RemoveReply,
    RemoveRequest,
    ShapeRequest,
    ShapesListed,
    ShapesQuestion,
    SubsetQuestion,
    SubsetReply,
    WaitReply,
)


class ShapeSource(Protocol):
    """
    The owner of the shapes, in this process or behind a socket.
    """

    async def open(self, request: ShapeRequest) -> OpenReply:
        """
        Find or create the shape and tell what the request reads.

        For offsets in the snapshot part it waits until the chunk asked for is complete. Never waits for live changes.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    def wait(self, handle: str, after: LogOffset) -> Awaitable[WaitReply]:
        """
        Wait, without a deadline, until the shape has something after the place named, or is gone.

        A place that the shape has not reached yet is waited for like any other. Cancelling ends the wait. There
        are as many waits as shapes that clients follow: what is given should be a future where no task is needed for it.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    async def health(self) -> Health:
        """
        Tell where the owner stands.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    async def status(self) -> dict[str, object]:
        """
        Tell everything an operator may want to know, as a JSON object without row values.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    async def list_shapes(self, question: ShapesQuestion) -> ShapesListed:
        """
        Tell which shapes there are; those that wait for them are not counted.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    async def load_subset(self, question: SubsetQuestion) -> SubsetReply:
        """
        Find or create the shape and ask the database for some of its rows.

        Files that the answer names can be opened for a few seconds.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...

    async def remove(self, request: RemoveRequest) -> RemoveReply:
        """
        Give a shape up durably.

        Raises:
            ConnectionLostError: the owner is away.
        """
        ...
