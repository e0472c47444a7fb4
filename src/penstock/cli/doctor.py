"""
`penstock doctor`: is this database fit to be followed, and if not, which statement mends it?

Reads only; asks over one ordinary connection and judges with `penstock.liveness.checkup`.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from rich.console import Console
from rich.markup import escape

from penstock.errors import ConnectionLostError
from penstock.liveness.checkup import (
    OLD_TRANSACTION_S,
    Finding,
    Level,
    OldTransaction,
    PreparedTransaction,
    ServerFacts,
    Slot,
    examine,
)

CONNECT_S_MAX: Final = 10
_MARKS: Final = {Level.FINE: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.FAULT: "[red]✗[/]"}

_SERVER: Final = """
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS is_standby,
       current_setting('wal_level') AS wal_level,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       current_setting('max_replication_slots')::int AS slots_max,
       (SELECT count(*) FROM pg_replication_slots) AS slots_used,
       current_setting('max_wal_senders')::int AS senders_max,
       (SELECT count(*) FROM pg_stat_replication) AS senders_used,
       (SELECT CASE WHEN setting::bigint < 0 THEN NULL ELSE setting::bigint * 1024 * 1024 END
        FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS wal_keep_bytes,
       current_user AS role, current_database() AS database,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)
       OR EXISTS (SELECT FROM pg_roles WHERE rolname IN ('rds_replication', 'rds_superuser')
                  AND pg_has_role(current_user, oid, 'USAGE')) AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       EXISTS (SELECT FROM pg_publication WHERE pubname = %(publication)s) AS has_publication
"""
_SLOT: Final = """
SELECT coalesce(s.plugin, 'physical') AS plugin, coalesce(s.database, '') AS database, s.active AS is_active,
       coalesce(s.wal_status, 'lost') AS wal_status, s.safe_wal_size AS safe_bytes,
       coalesce(pg_wal_lsn_diff(p.here, s.restart_lsn), 0)::bigint AS lag_bytes,
       coalesce(pg_wal_lsn_diff(p.here, s.confirmed_flush_lsn), 0)::bigint AS unconfirmed_bytes,
       coalesce(r.sync_state, '') AS sync_state
FROM pg_replication_slots s
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS here) p
LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name = %(slot)s
"""
_WEAK: Final = """
SELECT format('%%I.%%I', n.nspname, c.relname) AS name
FROM pg_publication_tables t
JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE t.pubname = %(publication)s AND c.relreplident <> 'f' AND c.relkind = 'r'
ORDER BY 1
"""
_OLD: Final = """
SELECT pid, extract(epoch FROM now() - xact_start)::float8 AS age_s, coalesce(usename, '') AS "user",
       coalesce(state, '') AS state
FROM pg_stat_activity
WHERE xact_start < now() - make_interval(secs => %(age_s)s) AND backend_type = 'client backend'
  AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL OR state LIKE 'idle in transaction%%')
ORDER BY xact_start
"""
_PREPARED: Final = """
SELECT gid, extract(epoch FROM now() - prepared)::float8 AS age_s, database FROM pg_prepared_xacts ORDER BY prepared
"""


def run_doctor(database_url: str, *, slot_name: str, publication_name: str, console: Console | None = None) -> int:
    """
    Ask, judge and print; gives the exit status: 1 when something must be mended, else 0.

    Raises:
        ConnectionLostError: the database cannot be reached.
    """
    findings = examine(read_facts(database_url, slot_name, publication_name))
    print_findings(findings, console or Console())
    return 1 if any(finding.level is Level.FAULT for finding in findings) else 0


def read_facts(database_url: str, slot_name: str, publication_name: str) -> ServerFacts:
    """
    Ask the server for everything. Errors as for `run_doctor`.
    """
    params = {"slot": slot_name, "publication": publication_name, "age_s": OLD_TRANSACTION_S}
    try:
        with psycopg.connect(
            database_url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_S_MAX,
            application_name="penstock doctor",
        ) as connection:

            def ask(query: str) -> list[dict[str, Any]]:
                return connection.execute(query.encode(), params).fetchall()

            (server,) = ask(_SERVER)
            slots = [Slot(**row) for row in ask(_SLOT)]
            return ServerFacts(
                **server,
                slot_name=slot_name,
                slot=slots[0] if slots else None,
                publication_name=publication_name,
                weak_tables=[row["name"] for row in ask(_WEAK)],
                old=[OldTransaction(**row) for row in ask(_OLD)],
                prepared=[PreparedTransaction(**row) for row in ask(_PREPARED)],
            )
    except psycopg.Error as error:
        raise ConnectionLostError(f"the database cannot be asked: {str(error).strip()}") from error


def print_findings(findings: list[Finding], console: Console) -> None:
    """
    Print what was found, and below each fault and warning what mends it.
    """
    for finding in findings:
        console.print(f"{_MARKS[finding.level]} {escape(finding.text)}")
        if finding.remedy:
            console.print(f"    [dim]{escape(finding.remedy)}[/]")
