"""
What is well and what is not about a database that Penstock is to follow, and the statement that mends it.

Form: pure values and one pure function; `penstock doctor` asks the database and prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from penstock.postgres.quoting import quote_identifier, quote_literal

OLD_TRANSACTION_S: Final = 300.0
"""A transaction open for longer is worth a word: it keeps the server's log from where it began."""
LAG_BYTES_WARN: Final = 1 << 30
SAFE_BYTES_WARN: Final = 256 << 20
TOLD_MAX: Final = 5
"""How many transactions or tables are named of each kind."""


class Level(Enum):
    """
    How bad it is.
    """

    FINE = "fine"
    WARNING = "warning"
    FAULT = "fault"
    """Penstock cannot work, or the log piles up."""


class Finding(msgspec.Struct, frozen=True):
    """
    One thing that was looked at.

    Attributes:
        level: how bad it is.
        text: what was found, one sentence.
        remedy: the statement that mends it, empty where none does.
    """

    level: Level
    text: str
    remedy: str = ""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """
    Our replication slot.

    Attributes:
        plugin, database: what it is for.
        is_active: whether somebody reads it.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`.
        lag_bytes: how much log it keeps.
        unconfirmed_bytes: how much of that was not confirmed.
        safe_bytes: how much more may be written before it is lost; None without such a limit.
        sync_state: of the connection that reads it, empty when there is none.
    """

    plugin: str
    database: str
    is_active: bool
    wal_status: str
    lag_bytes: int
    unconfirmed_bytes: int
    safe_bytes: int | None
    sync_state: str


class OldTransaction(msgspec.Struct, frozen=True):
    """
    A transaction that has been open for long.
    """

    pid: int
    age_s: float
    user: str
    state: str


class PreparedTransaction(msgspec.Struct, frozen=True):
    """
    A transaction that was prepared and neither committed nor rolled back.
    """

    gid: str
    age_s: float
    database: str


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the server says.

    Attributes:
        version: as the server prints it.
        is_standby: whether it is in recovery.
        wal_level, synchronous_standby_names: settings.
        slots_max, slots_used, senders_max, senders_used: counts.
        wal_keep_bytes: `max_slot_wal_keep_size`, None for no limit.
        role: who we are.
        may_replicate, may_create: what we may.
        database: where we are.
        slot_name: the name of our slot.
        slot: the slot; None when there is none.
        publication_name: the name of our publication.
        has_publication: whether it exists.
        weak_tables: published tables without replica identity full, as SQL names.
        old: transactions open for longer than `OLD_TRANSACTION_S`, oldest first.
        prepared: prepared transactions, oldest first.
    """

    version: str
    is_standby: bool
    wal_level: str
    synchronous_standby_names: str
    slots_max: int
    slots_used: int
    senders_max: int
    senders_used: int
    wal_keep_bytes: int | None
    role: str
    may_replicate: bool
    may_create: bool
    database: str
    slot_name: str
    slot: Slot | None
    publication_name: str
    has_publication: bool
    weak_tables: Sequence[str]
    old: Sequence[OldTransaction]
    prepared: Sequence[PreparedTransaction]


def examine(facts: ServerFacts) -> list[Finding]:
    """
    Judge everything, in the order in which it is needed.
    """
    return [
        *_server(facts),
        *_rights(facts),
        *_slot(facts),
        *_publication(facts),
        *_transactions(facts),
    ]


def _fine(text: str) -> Finding:
    return Finding(Level.FINE, text)


def _server(facts: ServerFacts) -> list[Finding]:
    found = []
    if facts.is_standby:
        found.append(Finding(Level.FAULT, "this server is a standby: give the address of the primary"))
    if facts.wal_level == "logical":
        found.append(_fine(f"Postgres {facts.version}, wal_level = logical"))
    else:
        found.append(
            Finding(
                Level.FAULT,
                f"wal_level is {facts.wal_level}, and must be logical",
                "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server",
            )
        )
    needs_slot = facts.slot is None
    is_reading = facts.slot is not None and facts.slot.is_active
    for name, used, most, is_needed in (
        ("max_replication_slots", facts.slots_used, facts.slots_max, needs_slot),
        ("max_wal_senders", facts.senders_used, facts.senders_max, not is_reading),
    ):
        if most - used >= (1 if is_needed else 0):
            found.append(_fine(f"{name} = {most}, {used} in use"))
        else:
            found.append(
                Finding(
                    Level.FAULT,
                    f"all {most} of {name} are in use",
                    f"ALTER SYSTEM SET {name} = {most + 4}; -- then restart the server",
                )
            )
    if facts.wal_keep_bytes is None:
        found.append(
            Finding(
                Level.WARNING,
                "max_slot_wal_keep_size is not set: if Penstock is switched off for good, its slot keeps log until the "
                "disk is full",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();",
            )
        )
    else:
        found.append(_fine(f"max_slot_wal_keep_size = {_size(facts.wal_keep_bytes)}"))
    return found


def _rights(facts: ServerFacts) -> list[Finding]:
    role, database = quote_identifier(facts.role), quote_identifier(facts.database)
    found = []
    if facts.may_replicate:
        found.append(_fine(f"role {facts.role} may replicate"))
    else:
        found.append(
            Finding(Level.FAULT, f"role {facts.role} may not replicate", f"ALTER ROLE {role} WITH REPLICATION;")
        )
    if facts.may_create:
        found.append(_fine(f"role {facts.role} may create publications in {facts.database}"))
    elif facts.has_publication:
        found.append(
            Finding(
                Level.WARNING,
                f"role {facts.role} may not create in {facts.database}; the publication is there already, set "
                "manual_table_publishing if you keep its tables yourself",
                f"GRANT CREATE ON DATABASE {database} TO {role};",
            )
        )
    else:
        found.append(
            Finding(
                Level.FAULT,
                f"role {facts.role} may not create the publication in {facts.database}",
                f"GRANT CREATE ON DATABASE {database} TO {role};",
            )
        )
    return found


def _slot(facts: ServerFacts) -> list[Finding]:
    slot, name = facts.slot, facts.slot_name
    if slot is None:
        return [_fine(f"slot {name} does not exist yet; Penstock makes it")]
    drop = f"SELECT pg_drop_replication_slot({quote_literal(name)});"
    if slot.plugin != "pgoutput" or slot.database != facts.database:
        text = f"slot {name} belongs to something else ({slot.plugin} on {slot.database})"
        return [Finding(Level.FAULT, text, drop)]
    if slot.wal_status == "lost":
        text = f"slot {name} is lost: the server has removed log it needed; Penstock makes a new one and all shapes start over"
        return [Finding(Level.FAULT, text, drop)]
    found = []
    reader = "is read" if slot.is_active else "is read by nobody"
    text = (
        f"slot {name} {reader}, keeps {_size(slot.lag_bytes)}, of which {_size(slot.unconfirmed_bytes)} not confirmed"
    )
    if not slot.is_active:
        remedy = f"{drop} -- only if Penstock will not run again"
        found.append(Finding(Level.WARNING, f"{text}: it grows until Penstock runs", remedy))
    elif slot.unconfirmed_bytes > LAG_BYTES_WARN:
        found.append(Finding(Level.WARNING, f"{text}; `penstock explain` says why"))
    else:
        found.append(_fine(text))
    if slot.wal_status == "unreserved" or (slot.safe_bytes is not None and slot.safe_bytes < SAFE_BYTES_WARN):
        left = "nothing" if slot.safe_bytes is None else _size(max(0, slot.safe_bytes))
        found.append(
            Finding(
                Level.FAULT,
                f"slot {name} will be lost soon: {left} is left until the server removes log it needs",
                "ALTER SYSTEM SET max_slot_wal_keep_size = '-1'; SELECT pg_reload_conf(); -- for now",
            )
        )
    if slot.sync_state in {"sync", "quorum"}:
        found.append(
            Finding(
                Level.FAULT,
                "Penstock counts as a synchronous standby: every commit waits for it",
                "ALTER SYSTEM SET synchronous_standby_names = '…'; SELECT pg_reload_conf(); -- name your standbys "
                f"instead of {facts.synchronous_standby_names!r}",
            )
        )
    return found


def _publication(facts: ServerFacts) -> list[Finding]:
    if not facts.has_publication:
        return [_fine(f"publication {facts.publication_name} does not exist yet; Penstock makes it")]
    if not facts.weak_tables:
        return [_fine(f"publication {facts.publication_name}: every table has replica identity full")]
    named = list(facts.weak_tables)[:TOLD_MAX]
    more = "" if len(facts.weak_tables) == len(named) else f" and {len(facts.weak_tables) - len(named)} more"
    return [
        Finding(
            Level.WARNING,
            f"published without replica identity full: {', '.join(named)}{more}; shapes on them start over at an update",
            " ".join(f"ALTER TABLE {table} REPLICA IDENTITY FULL;" for table in named),
        )
    ]


def _transactions(facts: ServerFacts) -> list[Finding]:
    found = [
        Finding(
            Level.WARNING,
            f"transaction of {old.user} (pid {old.pid}, {old.state}) is open for {_age(old.age_s)}: the server keeps its "
            "log since, and no new slot can be made",
            f"SELECT pg_terminate_backend({old.pid});",
        )
        for old in list(facts.old)[:TOLD_MAX]
    ]
    found += [
        Finding(
            Level.WARNING,
            f"transaction {prepared.gid!r} was prepared {_age(prepared.age_s)} ago in {prepared.database} and never ended",
            f"ROLLBACK PREPARED {quote_literal(prepared.gid)}; -- in database {prepared.database}, or COMMIT PREPARED",
        )
        for prepared in list(facts.prepared)[:TOLD_MAX]
    ]
    return found or [_fine("no transaction has been open for long")]


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
