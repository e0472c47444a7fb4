"""
What the control store holds.

Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from penstock.postgres.lsn import EndLsn
from penstock.postgres.snapshot import SnapshotBounds
from penstock.shapes.definition import ShapeDefinition
from penstock.shapes.offset import LogOffset


class ShapeState(Enum):
    """
    How far the life of an incarnation has come, durably.
    """

    CREATING = "creating"
    LIVE = "live"
    CONDEMNED = "condemned"
    """Tombstoned: never served again; the row goes when its files are gone."""


@dataclass(frozen=True, slots=True)
class ShapeRow:
    """
    What the control store knows of an incarnation.
    """

    incarnation: int
    handle: str
    definition: ShapeDefinition
    state: ShapeState
    chunk_bytes_max: int
    bounds: SnapshotBounds | None
    settled: LogOffset


@dataclass(frozen=True, slots=True)
class Recovered:
    """
    The control store's content at start.

    Attributes:
        epoch: of all shapes in it; None in a new store.
        boundary: the recorded flush boundary.
        shapes: every row, in order of incarnation.
        facts: recorded facts by (kind, key).
        handle_us_max: the greatest time used in a handle so far.
        was_clean: whether the last run settled everything and said so.
    """

    epoch: int | None
    boundary: EndLsn
    shapes: tuple[ShapeRow, ...]
    facts: Mapping[tuple[str, str], bytes]
    handle_us_max: int
    was_clean: bool
