from __future__ import annotations

import io
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from rich.console import Console

from penstock.cli.doctor import read_facts, run_doctor
from penstock.cli.main import cli
from penstock.errors import ConnectionLostError
from penstock.liveness.checkup import Level, examine

pytestmark = pytest.mark.postgres

SLOT = "penstock_slot_doctor"
PUBLICATION = "penstock_publication_doctor"


def told(url: str) -> tuple[int, str]:
    """
    Exit status and text.
    """
    text = io.StringIO()
    console = Console(file=text, width=200)
    return run_doctor(url, slot_name=SLOT, publication_name=PUBLICATION, console=console), text.getvalue()


def test_a_fresh_database_is_fit(database: Any) -> None:
    """
    Before the first start there is nothing to mend.
    """
    status, text = told(database.url)
    assert status == 0, text
    assert "wal_level = logical" in text
    assert "does not exist yet" in text


def test_what_is_wrong_is_seen_on_a_real_server(database: Any) -> None:
    """
    A slot of another plugin, a table without its whole old rows and a transaction left open are found.
    """
    database.execute("CREATE TABLE weak (id int PRIMARY KEY)")
    database.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE weak")
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", SLOT)
    with psycopg.connect(database.url) as other:
        other.execute("SELECT txid_current()")
        facts = read_facts(database.url, SLOT, PUBLICATION)
        assert facts.slot is not None
        assert (facts.slot.plugin, facts.slot.is_active) == ("test_decoding", False)
        assert list(facts.weak_tables) == ["public.weak"]
        assert facts.old == [], "it is young"
        other.rollback()
    status, text = told(database.url)
    assert status == 1
    assert f"pg_drop_replication_slot('{SLOT}')" in text
    assert "ALTER TABLE public.weak REPLICA IDENTITY FULL;" in text
    database.execute("SELECT pg_drop_replication_slot(%s)", SLOT)
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", SLOT)
    database.execute("ALTER TABLE weak REPLICA IDENTITY FULL")
    facts = read_facts(database.url, SLOT, PUBLICATION)
    assert [finding.level for finding in examine(facts) if SLOT in finding.text] == [Level.WARNING]
    database.execute("SELECT pg_drop_replication_slot(%s)", SLOT)


def test_a_role_without_rights_is_told_what_it_lacks(database: Any) -> None:
    """
    Neither replication nor the right to create is a fault each.
    """
    database.execute("DROP ROLE IF EXISTS powerless")
    database.execute("CREATE ROLE powerless LOGIN")
    try:
        with psycopg.connect(database.url) as connection:
            host, port, name = connection.info.host, connection.info.port, connection.info.dbname
        status, text = told(
            f"postgresql://powerless@{host}:{port}/{name}"
            if not host.startswith("/")
            else f"postgresql://powerless@/{name}?host={host}&port={port}"
        )
        assert status == 1
        assert 'ALTER ROLE "powerless" WITH REPLICATION;' in text
        assert "GRANT CREATE ON DATABASE" in text
    finally:
        database.execute("DROP ROLE powerless")


def test_nobody_at_home_is_one_sentence(database: Any) -> None:
    """
    A database that cannot be reached is an error of ours.
    """
    with pytest.raises(ConnectionLostError, match="cannot be asked"):
        told(
            f"{database.url}_that_is_not_there".partition("?")[0]
            if "?" not in database.url
            else database.url.replace("?", "_that_is_not_there?")
        )


def test_the_command_names_slot_and_publication_by_their_stream(database: Any) -> None:
    """
    `penstock doctor` looks at the names that `penstock serve` with the same stream uses.
    """
    answer = CliRunner().invoke(cli, ["doctor", database.url, "--stream", "shop"])
    assert answer.exit_code == 0, answer.output
    assert "penstock_slot_shop" in answer.output
    assert "penstock_publication_shop" in answer.output
