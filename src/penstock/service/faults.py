"""
What may be made to fail on purpose, so that tests can hurt a real service where nobody reaches it from outside.

Only the port; the faults themselves are in `penstock.testing.faults`, and the command hands them in. Values and a
default that does nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from penstock.consumers.handler import ShapeHandler
from penstock.consumers.projection import Projection
from penstock.consumers.registry import ConsumerRegistry
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shape_log.store import FileShapeLogStore


class EngineFaults(Protocol):
    """
    Makes the parts of an engine that can be made to fail.
    """

    def make_store(self, data_folder: Path) -> FileShapeLogStore:
        """
        Make the store of shape logs.
        """
        ...

    def make_handler(self, projection: Projection, bounds: SnapshotBounds) -> ShapeHandler:
        """
        Make what converts the stream for one shape.
        """
        ...

    def attach(self, registry: ConsumerRegistry) -> None:
        """
        Learn where the consumers are.
        """
        ...


class NoFaults:
    """
    The real parts.
    """

    def make_store(self, data_folder: Path) -> FileShapeLogStore:
        """
        See `EngineFaults`.
        """
        return FileShapeLogStore(data_folder)

    def make_handler(self, projection: Projection, bounds: SnapshotBounds) -> ShapeHandler:
        """
        See `EngineFaults`.
        """
        return ShapeHandler(projection, bounds)

    def attach(self, registry: ConsumerRegistry) -> None:
        """
        See `EngineFaults`.
        """
