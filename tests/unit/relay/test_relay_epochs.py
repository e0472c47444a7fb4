from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.postgres.lsn import EndLsn
from penstock.relay.epochs import Acknowledge, EpochHeader, Keep, NewEpoch, decide_epoch
from penstock.replication.abc import SlotIdentity

KNOWN = EpochHeader(1, "7", 1, "penstock", EndLsn(100), 0.0, "")
FOUND = SlotIdentity("7", 1, "penstock", is_new=False, consistent_point=None, confirmed=EndLsn(150))
END = EndLsn(200)


def decide(found: SlotIdentity, known: EpochHeader | None = KNOWN) -> Keep | NewEpoch:
    return decide_epoch(found, known, recorded_end=END, kept_end=END, acknowledge=Acknowledge.RELAY)


@pytest.mark.parametrize(
    "found",
    [
        FOUND,
        replace(FOUND, confirmed=END),
        replace(FOUND, confirmed=EndLsn(1)),
        replace(FOUND, flushed=END),
    ],
)
def test_the_same_slot_goes_on(found: SlotIdentity) -> None:
    """A slot of the same identity that is nowhere beyond what is recorded keeps its epoch, also when it stepped back."""
    assert decide(found) == Keep()


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (replace(FOUND, is_new=True, reason="the publication was missing"), "publication"),
        (replace(FOUND, is_new=True), "new"),
        (replace(FOUND, system_id="8"), "system identifier"),
        (replace(FOUND, timeline=2), "timeline"),
        (replace(FOUND, slot_name="other"), "other"),
        (replace(FOUND, confirmed=EndLsn(201)), "relay log"),
        (replace(FOUND, flushed=EndLsn(199)), "set back"),
    ],
)
def test_another_life_begins_a_new_epoch(found: SlotIdentity, word: str) -> None:
    """
    Whatever is not provably the same life of the same slot is another one, and the reason says what differs.

    Scenario H17.
    """
    decision = decide(found)
    assert isinstance(decision, NewEpoch)
    assert word in decision.reason


def test_nothing_on_disk_is_a_new_epoch() -> None:
    """A slot without a relay log begins one."""
    assert isinstance(decide(FOUND, None), NewEpoch)


def test_in_shapes_mode_the_boundary_is_the_measure() -> None:
    """A slot beyond the recorded boundary was confirmed by somebody else, however much the relay log holds."""
    kept = decide_epoch(FOUND, KNOWN, recorded_end=EndLsn(150), kept_end=END, acknowledge=Acknowledge.SHAPES)
    lost = decide_epoch(FOUND, KNOWN, recorded_end=EndLsn(149), kept_end=END, acknowledge=Acknowledge.SHAPES)
    assert kept == Keep()
    assert isinstance(lost, NewEpoch)
    assert "settled" in lost.reason
