from __future__ import annotations

import pytest

from penstock.liveness.checkup import (
    TOLD_MAX,
    Finding,
    Level,
    OldTransaction,
    PreparedTransaction,
    ServerFacts,
    Slot,
    examine,
)


def slot(**fields: object) -> Slot:
    """
    Our slot in good health, but for what is said.
    """
    well: dict[str, object] = {
        "plugin": "pgoutput",
        "database": "shop",
        "is_active": True,
        "wal_status": "reserved",
        "lag_bytes": 4096,
        "unconfirmed_bytes": 512,
        "safe_bytes": 1 << 34,
        "sync_state": "async",
    }
    return Slot(**{**well, **fields})  # type: ignore[arg-type]  # the names are checked by Slot


def server(**fields: object) -> ServerFacts:
    """
    A server on which all is well, but for what is said.
    """
    well: dict[str, object] = {
        "version": "15.4",
        "is_standby": False,
        "wal_level": "logical",
        "synchronous_standby_names": "",
        "slots_max": 10,
        "slots_used": 1,
        "senders_max": 10,
        "senders_used": 1,
        "wal_keep_bytes": 50 << 30,
        "role": "syncer",
        "may_replicate": True,
        "may_create": True,
        "database": "shop",
        "slot_name": "penstock_slot_default",
        "slot": slot(),
        "publication_name": "penstock_publication_default",
        "has_publication": True,
        "weak_tables": [],
        "old": [],
        "prepared": [],
    }
    return ServerFacts(**{**well, **fields})  # type: ignore[arg-type]  # likewise


def bad(facts: ServerFacts) -> list[Finding]:
    """
    What is not fine.
    """
    return [finding for finding in examine(facts) if finding.level is not Level.FINE]


def test_a_healthy_server_has_only_good_news() -> None:
    """
    Each thing that was looked at is told, and nothing has a remedy.
    """
    findings = examine(server())
    assert len(findings) >= 8
    assert {finding.level for finding in findings} == {Level.FINE}
    assert not any(finding.remedy for finding in findings)


def test_a_server_before_the_first_start_is_fine() -> None:
    """
    Neither slot nor publication are needed: Penstock makes them.
    """
    assert bad(server(slot=None, has_publication=False, slots_used=9)) == []


@pytest.mark.parametrize(
    ("facts", "level", "remedy"),
    [
        (server(is_standby=True), Level.FAULT, ""),
        (server(wal_level="replica"), Level.FAULT, "ALTER SYSTEM SET wal_level = 'logical'"),
        (server(slot=None, slots_used=10), Level.FAULT, "SET max_replication_slots = 14"),
        (server(slot=slot(is_active=False), senders_used=10), Level.FAULT, "SET max_wal_senders = 14"),
        (server(wal_keep_bytes=None), Level.WARNING, "SET max_slot_wal_keep_size = '50GB'"),
        (server(role='odd "one"', may_replicate=False), Level.FAULT, 'ALTER ROLE "odd ""one""" WITH REPLICATION'),
        (server(may_create=False, has_publication=False), Level.FAULT, 'GRANT CREATE ON DATABASE "shop" TO "syncer"'),
        (server(may_create=False), Level.WARNING, "GRANT CREATE ON DATABASE"),
        (server(slot=slot(plugin="wal2json")), Level.FAULT, "pg_drop_replication_slot('penstock_slot_default')"),
        (server(slot=slot(database="other")), Level.FAULT, "pg_drop_replication_slot"),
        (server(slot=slot(wal_status="lost")), Level.FAULT, "pg_drop_replication_slot"),
        (server(slot=slot(wal_status="unreserved", safe_bytes=None)), Level.FAULT, "max_slot_wal_keep_size"),
        (server(slot=slot(safe_bytes=1000)), Level.FAULT, "max_slot_wal_keep_size"),
        (server(slot=slot(unconfirmed_bytes=3 << 30)), Level.WARNING, ""),
        (server(slot=slot(sync_state="quorum")), Level.FAULT, "synchronous_standby_names"),
        (server(weak_tables=["public.t"]), Level.WARNING, "ALTER TABLE public.t REPLICA IDENTITY FULL"),
        (server(old=[OldTransaction(17, 7200.0, "report", "idle")]), Level.WARNING, "pg_terminate_backend(17)"),
        (server(prepared=[PreparedTransaction("it's", 60.0, "shop")]), Level.WARNING, "ROLLBACK PREPARED 'it''s'"),
    ],
)
def test_each_trouble_is_named_with_what_mends_it(facts: ServerFacts, level: Level, remedy: str) -> None:
    """
    One thing that is not well gives one finding, of the right weight and with its statement.
    """
    relevant = [finding for finding in bad(facts) if finding.level is level and remedy in finding.remedy]
    assert len(relevant) == 1
    assert bool(relevant[0].remedy) == bool(remedy)


def test_an_unread_slot_is_a_warning_with_its_size() -> None:
    """
    A slot that nobody reads grows until somebody does.
    """
    (finding,) = bad(server(slot=slot(is_active=False, lag_bytes=5 << 30)))
    assert finding.level is Level.WARNING
    assert "5.0 GiB" in finding.text


def test_many_of_a_kind_are_not_all_told() -> None:
    """
    A screen holds a few transactions and tables, and says how many more there are.
    """
    many = server(
        weak_tables=[f"t{number}" for number in range(50)],
        old=[OldTransaction(number, 1000.0, "u", "active") for number in range(50)],
    )
    findings = bad(many)
    assert len(findings) == 1 + TOLD_MAX
    assert "and 45 more" in findings[0].text
