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
class ShedRecord:
    """
    A definition that was given up because of a fault, so that it goes on resting after a restart.

    Attributes:
        definition: in its canonical form.
        name: of its table, for people.
        reason: why it was given up last.
        times: when, in seconds since 1970, oldest first.
    """

    definition: bytes
    name: str
    reason: str
    times: tuple[float, ...]


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
        sheds: definitions that were given up and are remembered.
        replay_version: which code last served from these shapes; see `penstock.consumers.replay`.
    """

    epoch: int | None
    boundary: EndLsn
    shapes: tuple[ShapeRow, ...]
    facts: Mapping[tuple[str, str], bytes]
    handle_us_max: int
    was_clean: bool
    sheds: tuple[ShedRecord, ...] = ()
    replay_version: int = 1
