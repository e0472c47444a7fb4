from __future__ import annotations

import pytest

from penstock.liveness.explain import (
    HELD_BYTES_MIN,
    SHAPES_TOLD_MAX,
    Facts,
    OwingShape,
    ReadyLimits,
    explain,
    find_unready,
)

MIB = 1 << 20
START = 1 << 33


def facts(**fields: object) -> Facts:
    """
    A service in which all is well, but for what is said.
    """
    here: dict[str, object] = dict.fromkeys(
        ("server", "received", "durable", "confirmed", "processed", "boundary"), START
    )
    return Facts(**{"phase": "streaming", **here, **fields})  # type: ignore[arg-type]  # the names are checked by Facts


def owing(number: int = 1, *, flushed: int = START, verdict: str = "no durable progress for 25 s") -> OwingShape:
    """
    A shape that stands still.
    """
    return OwingShape(
        handle=f"h-{number}", table="public.t", owed_s=25.0, flushed=flushed, state="live", verdict=verdict, next="soon"
    )


def test_when_all_is_well_nothing_is_held() -> None:
    """
    Nobody is named, and the sentence says so.
    """
    found = explain(facts())
    assert found.holders == []
    assert found.verdict == "Nothing is held back."
    assert (found.wal_bytes, found.relay_log_bytes) == (0, 0)


def test_what_is_on_its_way_is_nobodys_fault() -> None:
    """
    Less than a mebibyte between two parts is not told.
    """
    assert explain(facts(server=START + HELD_BYTES_MIN - 1)).holders == []


def test_a_shape_without_progress_is_named_where_it_hurts() -> None:
    """
    In relay mode it holds our disk, in shapes mode the primary's log: by bytes, age, reason and what follows.
    """
    for mode, holds in (("relay", "relay log"), ("shapes", "wal")):
        found = explain(
            facts(
                acknowledge=mode,
                owing=[owing()],
                received=START + 3 * MIB,
                processed=START + 3 * MIB,
                durable=START + 3 * MIB,
                server=START + 3 * MIB,
                confirmed=START if mode == "shapes" else START + 3 * MIB,
            )
        )
        (holder,) = found.holders
        assert holder.holds == holds
        assert holder.who == "shape h-1 on public.t"
        assert (holder.bytes_count, holder.since_s) == (3 * MIB, 25.0)
        assert (holder.why, holder.next) == ("no durable progress for 25 s", "soon")
        assert "without durable progress" in found.verdict


def test_few_shapes_are_told_and_the_largest_comes_first() -> None:
    """
    One screen holds a few of many, in the order of their bytes.
    """
    many = [owing(number, flushed=START + number * MIB) for number in range(20)]
    found = explain(facts(owing=many, processed=START + 30 * MIB, durable=START + 30 * MIB))
    assert len(found.holders) == SHAPES_TOLD_MAX
    assert found.holders[0].who.startswith("shape h-0 ")


def test_an_old_transaction_of_the_server_is_not_ours() -> None:
    """
    What lies before the confirmed position is the server's own, and what holds it is said.
    """
    found = explain(facts(restart=START - 500 * MIB, server_held_by="a transaction open since an hour, pid 17"))
    (holder,) = found.holders
    assert holder.who == "the server"
    assert holder.bytes_count == 500 * MIB
    assert "pid 17" in holder.why
    assert found.wal_bytes == 500 * MIB


def test_a_lost_connection_is_named_with_its_error() -> None:
    """
    While nothing streams, the connection is what holds the log, however few the bytes we know of.
    """
    found = explain(facts(phase="backing off", error="no route to host", link_down_s=12.0))
    (holder,) = found.holders
    assert holder.who == "the replication connection"
    assert "no route to host" in holder.why
    assert found.verdict == "The replication connection is down (backing off)."


def test_the_disk_of_the_relay_log_is_named() -> None:
    """
    In relay mode nothing is confirmed that this disk has not taken.
    """
    found = explain(facts(relay_disk="no space", received=START + MIB, server=START + 9 * MIB))
    assert [holder.who for holder in found.holders] == ["the way from the server to us", "the disk of the relay log"]
    assert {holder.why for holder in found.holders} == {"no space"}


def test_the_control_store_is_named_instead_of_shapes() -> None:
    """
    When the boundary cannot be recorded, the shapes are not to blame.
    """
    found = explain(
        facts(control_failure="disk is full", control_failure_s=7.0, owing=[owing()], processed=START + 2 * MIB)
    )
    assert [holder.who for holder in found.holders] == ["the control store"]
    assert "control store" in found.verdict


def test_an_engine_that_reads_on_or_does_not_is_named() -> None:
    """
    What is durable and not processed is the engine's, with the reason if it has stopped.
    """
    found = explain(facts(durable=START + 5 * MIB))
    assert found.holders[0].why == "it is reading"
    found = explain(facts(durable=START + 5 * MIB, is_paused=True))
    assert "memory is full" in found.holders[0].why


def test_shapes_in_the_making_are_named_when_they_hold_segments() -> None:
    """
    Segments that only new shapes need are explained by them.
    """
    found = explain(facts(processed=START + 2 * MIB, creating_count=3))
    assert found.holders[0].who == "3 shapes in the making"


def test_an_alarm_is_the_verdict() -> None:
    """
    What is no shape's fault is said first.
    """
    assert explain(facts(alarms=["40 shapes hold the boundary: it is the disk"])).verdict.startswith("40 shapes")
    assert explain(facts(not_active="the lock")).verdict == "Not serving yet: waiting for the lock."


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"receiver_silent_s": 31.0}, "receiver has said nothing for 31 s"),
        ({"link_down_s": 31.0, "error": "no route"}, "not been streaming for 31 s: no route"),
        ({"link_down_s": 29.0, "phase": "connecting"}, ""),
        ({"oldest_owed_s": 61.0}, "stood still for 61 s"),
        ({"oldest_owed_s": 59.0, "owing": [owing()]}, ""),
        ({"control_failure": "full", "control_failure_s": 31.0}, "taken nothing for 31 s: full"),
        ({"control_failure": "full", "control_failure_s": 3.0}, ""),
    ],
)
def test_readiness_fails_with_a_reason_that_names_no_shape(fields: dict[str, object], words: str) -> None:
    """
    Old trouble sends clients elsewhere; young trouble does not.
    """
    found = find_unready(facts(**fields), ReadyLimits())
    assert words in found
    assert bool(found) == bool(words)
    assert "h-1" not in found
