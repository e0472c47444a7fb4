"""
`penstock slots`: whose replication slots there are on a server, what each keeps, and what to do about it.

Shell; reads only.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import dict_row
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.cli.explain import format_bytes
from penstock.errors import ConnectionLostError
from penstock.postgres.quoting import quote_literal

CONNECT_S_MAX: Final = 10
OURS: Final = "penstock_slot_"
EXIT_ORPHANS: Final = 1

_SLOTS: Final = """
SELECT s.slot_name AS name, s.slot_type AS kind, coalesce(s.plugin, '') AS plugin, coalesce(s.database, '') AS database,
       s.active AS is_active, s.temporary AS is_temporary, coalesce(s.wal_status, 'reserved') AS wal_status,
       coalesce(pg_wal_lsn_diff(p.here, s.restart_lsn), 0)::bigint AS retained_bytes,
       coalesce(pg_wal_lsn_diff(p.here, s.confirmed_flush_lsn), 0)::bigint AS unconfirmed_bytes,
       s.safe_wal_size AS safe_bytes, s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL AS holds_rows,
       coalesce(a.application_name, '') AS reader, coalesce(a.client_addr::text, '') AS address, a.pid
FROM pg_replication_slots s
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS here) p
LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
ORDER BY retained_bytes DESC, name
"""


class SlotSeen(msgspec.Struct, frozen=True, kw_only=True):
    """
    A slot as the server tells it.

    Attributes:
        name, kind, plugin, database: what it is; `kind` is `logical` or `physical`.
        is_active, is_temporary, wal_status: its state.
        retained_bytes: how much log it keeps.
        unconfirmed_bytes: how much of that its reader has not confirmed.
        safe_bytes: how much more may be written before it is lost; None without such a limit.
        holds_rows: whether it keeps VACUUM from removing rows, those of the catalog among them.
        reader, address, pid: of the connection that reads it.
    """

    name: str
    kind: str
    plugin: str
    database: str
    is_active: bool
    is_temporary: bool
    wal_status: str
    retained_bytes: int
    unconfirmed_bytes: int
    safe_bytes: int | None
    holds_rows: bool
    reader: str
    address: str
    pid: int | None

    @property
    def is_ours(self) -> bool:
        """
        Whether it has the name and the plugin of a slot of Penstock.
        """
        return self.name.startswith(OURS) and self.plugin == "pgoutput"

    @property
    def is_orphan(self) -> bool:
        """
        Whether it is ours and nobody reads it.
        """
        return self.is_ours and not self.is_active

    @property
    def why(self) -> str:
        """
        Say what holds the log that it keeps.
        """
        if self.wal_status == "lost":
            return "the server has dropped what it needs: it keeps nothing and is of no use any more"
        if not self.is_active:
            return "nobody reads it"
        who = f"{self.reader or 'a reader without a name'} (pid {self.pid}{f' at {self.address}' if self.address else ''})"
        if self.kind == "physical":
            return f"read by {who}"
        if self.unconfirmed_bytes * 2 < self.retained_bytes:
            return f"an open transaction; {who} has confirmed what came before it"
        return f"what {who} has not confirmed yet"

    @property
    def remedy(self) -> str:
        """
        The statement that drops an orphan of ours; empty for others.
        """
        return f"SELECT pg_drop_replication_slot({quote_literal(self.name)});" if self.is_orphan else ""


def read_slots(database_url: str) -> list[SlotSeen]:
    """
    Ask the server, what keeps most first.

    Raises:
        ConnectionLostError: it cannot be asked.
    """
    try:
        with psycopg.connect(
            database_url,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_S_MAX,
            application_name="penstock slots",
        ) as connection:
            return [SlotSeen(**row) for row in connection.execute(_SLOTS.encode()).fetchall()]
    except psycopg.Error as error:
        raise ConnectionLostError(f"the database cannot be asked: {str(error).strip()}") from error


def run_slots(database_url: str, *, is_json: bool, console: Console | None = None) -> int:
    """
    Ask and print; gives the exit status: 1 when a slot of ours has no reader, else 0. Errors as for `read_slots`.
    """
    out = console or Console()
    slots = read_slots(database_url)
    if is_json:
        told: list[dict[str, Any]] = [
            {**msgspec.to_builtins(slot), "is_ours": slot.is_ours, "why": slot.why, "remedy": slot.remedy}
            for slot in slots
        ]
        out.out(msgspec.json.encode(told).decode(), highlight=False)
    else:
        _print(slots, out)
    return EXIT_ORPHANS if any(slot.is_orphan for slot in slots) else 0


def _print(slots: list[SlotSeen], out: Console) -> None:
    if not slots:
        out.print("There are no replication slots.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("slot", "whose", "database", "state", "keeps", "may grow by", "why"):
        table.add_column(name, justify="right" if name in {"keeps", "may grow by"} else "left", overflow="fold")
    for slot in slots:
        state = f"{'active' if slot.is_active else 'idle'}, {slot.wal_status}" + (
            ", temporary" if slot.is_temporary else ""
        )
        table.add_row(
            escape(slot.name),
            "Penstock" if slot.is_ours else (escape(slot.plugin) or "a standby"),
            escape(slot.database),
            f"[{'green' if slot.is_active else 'red'}]{state}[/]",
            format_bytes(max(slot.retained_bytes, 0)),
            "no limit" if slot.safe_bytes is None else format_bytes(max(slot.safe_bytes, 0)),
            escape(slot.why),
        )
    out.print(table)
    for slot in slots:
        if slot.remedy:
            out.print(
                f"[yellow]![/] nobody reads {escape(slot.name)}: start its `penstock serve`, or, if that is never to run again:"
            )
            out.print(f"    {escape(slot.remedy)}", soft_wrap=True)
