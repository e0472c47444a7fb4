from __future__ import annotations

from penstock.api.admission import Admission, Kind


def admission() -> Admission:
    return Admission(initial_max=1, existing_max=2, known_handles_max=2)


def test_kinds_are_told_by_the_handle_alone() -> None:
    """
    A handle counts as known once it was served, and no longer when it ended or was pushed out (D4).
    """
    gate = admission()
    assert gate.classify(None) is Kind.INITIAL
    assert gate.classify("a") is Kind.INITIAL
    gate.remember("a")
    gate.remember("b")
    gate.remember("a")
    gate.remember("c")
    assert [gate.classify(handle) for handle in "abc"] == [Kind.EXISTING, Kind.INITIAL, Kind.EXISTING]
    gate.forget("a")
    gate.forget("a")
    assert gate.classify("a") is Kind.INITIAL


def test_kinds_are_limited_apart() -> None:
    """
    A rush of new shapes keeps nobody out who follows an old one (D2).
    """
    gate = admission()
    assert gate.admit(Kind.INITIAL)
    assert gate.admit(Kind.INITIAL) is None
    assert gate.admit(Kind.EXISTING)


def test_permit_is_given_back_once() -> None:
    """
    Releasing again changes nothing (D5).
    """
    gate = admission()
    permit = gate.admit(Kind.EXISTING)
    assert permit is not None
    assert gate.admit(Kind.EXISTING)
    permit.release()
    permit.release()
    assert gate.under_way(Kind.EXISTING) == 1


def test_permit_changes_its_kind_when_there_is_room() -> None:
    """
    A shape that was made counts as existing from then on; without room the permit stays what it was (D5).
    """
    gate = admission()
    first = gate.admit(Kind.INITIAL)
    assert first is not None
    first.become_existing()
    first.become_existing()
    assert (gate.under_way(Kind.INITIAL), gate.under_way(Kind.EXISTING)) == (0, 1)
    assert gate.admit(Kind.EXISTING)
    second = gate.admit(Kind.INITIAL)
    assert second is not None
    second.become_existing()
    assert gate.under_way(Kind.INITIAL) == 1
    second.release()
    first.release()
    assert (gate.under_way(Kind.INITIAL), gate.under_way(Kind.EXISTING)) == (0, 1)
