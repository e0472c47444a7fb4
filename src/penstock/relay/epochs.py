"""
Epochs: one life of one slot, and when another begins.

An epoch is a folder with a header file and segments. Its number is greater than that of every epoch before it, also of
one that only the control store remembers, so that two epochs never look alike to the engine.

`decide_epoch` compares what the server says on connecting with what lies on disk (architecture, section 3 "Epoch",
section 12 row 14). Whatever is not provably the same life of the same slot is another one: rotating all shapes is
dear, serving a gap is forbidden.

Pure values and functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import msgspec

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import LSN_MAX, EndLsn
from penstock.relay.sealed import ReadAt, seal, unseal
from penstock.replication.abc import SlotIdentity

EPOCH_MAGIC: Final = b"PNSTKEPO"
EPOCH_VERSION: Final = 1
EPOCH_FILE: Final = "epoch"
_NAME: Final = re.compile(r"[0-9]{10}", re.ASCII)


class Acknowledge(Enum):
    """
    What is confirmed to Postgres.
    """

    RELAY = "relay"
    """The end of the last commit that is durable in the relay log."""
    SHAPES = "shapes"
    """The recorded flush boundary; the relay log is a spill buffer and not synced."""


@dataclass(frozen=True, slots=True)
class RecordedBoundary:
    """
    What the engine recorded durably in its control store.

    Attributes:
        boundary: the flush boundary.
        trim_below: segments that lie wholly at or below it are not needed any more; never beyond `boundary`.
        epoch: the epoch both belong to; 0 when the store has none yet.
        damaged_segment: the last segment in which the engine's reader met damage, 0 for none. It can go on only where a
            segment begins, so the writer leaves this one. Not durable, and need not be.
    """

    boundary: EndLsn
    trim_below: EndLsn
    epoch: int
    damaged_segment: int = 0


@dataclass(frozen=True, slots=True)
class EpochHeader:
    """
    What identifies an epoch.

    Attributes:
        epoch: its number, greater than zero.
        system_id: the cluster's system identifier.
        timeline: the timeline of the slot.
        slot_name: the slot.
        start: where its stream begins: the consistent point of a new slot, else the slot's confirmed position.
        created_s: when it began, in seconds since 1970.
        reason: why it began, in words.
    """

    epoch: int
    system_id: str
    timeline: int
    slot_name: str
    start: EndLsn
    created_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """
    The slot is the one we know: go on in the same epoch.
    """


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """
    Another life of a slot begins.

    Attributes:
        reason: why, in words for a log and a metric's neighbour; no values of rows.
    """

    reason: str


EpochDecision: TypeAlias = Keep | NewEpoch


class _Document(msgspec.Struct, frozen=True):
    epoch: int
    system_id: str
    timeline: int
    slot_name: str
    start: int
    created_s: float
    reason: str


def encode_epoch(header: EpochHeader) -> bytes:
    """
    Encode the header file of an epoch.
    """
    document = _Document(
        epoch=header.epoch,
        system_id=header.system_id,
        timeline=header.timeline,
        slot_name=header.slot_name,
        start=header.start.value,
        created_s=header.created_s,
        reason=header.reason,
    )
    return seal(EPOCH_MAGIC, EPOCH_VERSION, document)


def decode_epoch(read_at: ReadAt) -> EpochHeader:
    """
    Decode the header file of an epoch.

    Raises:
        CorruptLogError: it is not one, or damaged.
        FormatVersionError: newer code wrote it.
    """
    document, _ = unseal(EPOCH_MAGIC, EPOCH_VERSION, _Document, read_at)
    if document.epoch <= 0 or not 0 <= document.start <= LSN_MAX:
        raise CorruptLogError("the epoch's header names an impossible number or position")
    return EpochHeader(
        epoch=document.epoch,
        system_id=document.system_id,
        timeline=document.timeline,
        slot_name=document.slot_name,
        start=EndLsn(document.start),
        created_s=document.created_s,
        reason=document.reason,
    )


def epoch_name(epoch: int) -> str:
    """
    Name the folder of an epoch.
    """
    assert 0 < epoch < 10**10, epoch
    return f"{epoch:010}"


def epoch_numbers(names: Iterable[str]) -> list[int]:
    """
    Pick the epochs out of the relay folder's names, in order; other names are ignored.
    """
    return sorted(int(name) for name in names if _NAME.fullmatch(name))


def decide_epoch(
    found: SlotIdentity,
    recorded: EpochHeader | None,
    *,
    recorded_end: EndLsn,
    kept_end: EndLsn,
    acknowledge: Acknowledge,
) -> EpochDecision:
    """
    Decide whether the slot that the server shows is the one whose stream lies on disk.

    Args:
        found: what the server said on connecting.
        recorded: the newest epoch on disk; None when there is none that can be read.
        recorded_end: up to where we may have confirmed: the durable end of the relay log in `relay` mode, the recorded
            boundary (or the epoch's start before there is one) in `shapes` mode.
        kept_end: the end of the relay log.
        acknowledge: the mode.
    """
    if found.is_new:
        return NewEpoch(found.reason or "the slot is new")
    if recorded is None:
        return NewEpoch("no relay log of this slot was found")
    if found.system_id != recorded.system_id:
        return NewEpoch(f"the server is another one: its system identifier is {found.system_id}")
    if found.timeline != recorded.timeline:
        return NewEpoch(f"the server is on timeline {found.timeline}, the relay log is from {recorded.timeline}")
    if found.slot_name != recorded.slot_name:
        return NewEpoch(f"the slot is {found.slot_name}, the relay log is from {recorded.slot_name}")
    if found.confirmed > recorded_end:
        kept = "kept in the relay log" if acknowledge is Acknowledge.RELAY else "recorded as settled"
        return NewEpoch(f"the slot is confirmed up to {found.confirmed}, but only {recorded_end} is {kept}")
    if found.flushed is not None and found.flushed < kept_end:
        return NewEpoch(f"the server's WAL ends at {found.flushed}, before {kept_end}: it was set back")
    return Keep()
