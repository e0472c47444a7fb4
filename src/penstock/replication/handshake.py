"""
The conversation before streaming: who the server is, the lock, the publication, the slot, the session's settings.

Form: a dialogue. `introduce` yields what to ask and is sent the answer, rows or a refusal; its caller knows how to ask
and how to wait. Nothing here repeats itself for long: what may block for hours (the lock, making a slot) blocks in the
server, and the caller does what is to be done meanwhile.

The order, and why:

1. The server introduces itself and must be of a version and `wal_level` that we can follow.
2. Settings of the session: the text of values depends on them, so they hold before anything else is asked.
3. The advisory lock of the slot: one owner. From here on nobody but us makes or drops the slot.
4. A slot under our name must be ours. Nothing is dropped before that is known.
5. The publication. When it is missing, a slot of ours is dropped *before* the publication is made: decoding looks at
   the catalog of its time, so an old slot would fail at the first change from before the publication; and a crash in
   between leaves no slot, which says the truth.
6. The slot, at its own confirmed position, or a new one when it is missing or lost.

Names are quoted here and nowhere else. The chapter "Streaming Replication Protocol" describes the commands.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from penstock.errors import DecodeError, MisconfiguredSourceError, SlotInUseError, SourceError
from penstock.postgres.lsn import ZERO_END, EndLsn
from penstock.postgres.quoting import quote_identifier
from penstock.replication.abc import SessionStart, SlotIdentity
from penstock.replication.failures import ServerRefusal, Stage, judge_refusal, wal_level_too_low
from penstock.replication.state import ReceiverPhase

SERVER_VERSION_MIN: Final = 140_000

SESSION_SETTINGS: Final = {
    "bytea_output": "hex",
    "DateStyle": "ISO, DMY",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "IntervalStyle": "iso_8601",
    # Operators carry no schema, and names in values (regclass and its like) are written by it.
    "search_path": "pg_catalog",
}
"""On them the text of values depends."""

# A lock and a new slot are waited for as long as it takes.
_WAITING_SETTINGS: Final = {"statement_timeout": "0", "lock_timeout": "0"}

_QUERY_CANCELED: Final = "57014"
_LOCK_NOT_AVAILABLE: Final = "55P03"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_DUPLICATE_OBJECT: Final = "42710"
_OPERATIONS: Final = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Send a command and wait for its end.

    Attributes:
        sql: one statement or replication command.
        phase: what we are doing meanwhile.
        may_wait: whether the server may take its time: it waits for others, not for itself.
    """

    sql: str
    phase: ReceiverPhase = ReceiverPhase.CONNECTING
    may_wait: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """
    The answer to a command: its rows as text.
    """

    rows: tuple[tuple[str | None, ...], ...] = ()


Answer: TypeAlias = Rows | ServerRefusal
Dialogue: TypeAlias = "Generator[Ask, Answer, Introduction]"


@dataclass(frozen=True, slots=True)
class Names:
    """
    What is ours on the server.

    Attributes:
        slot: name of the replication slot, which also names the advisory lock.
        publication: name of the publication.
        is_slot_temporary: whether a new slot lives only as long as the connection.
    """

    slot: str
    publication: str
    is_slot_temporary: bool = False

    def __post_init__(self) -> None:
        assert "\0" not in self.slot
        assert "\0" not in self.publication


@dataclass(frozen=True, slots=True)
class Introduction:
    """
    What came out of the conversation.

    Attributes:
        start: for the keeper of frames.
        server_version: as a number, 150018 for 15.18.
        wal_sender_timeout_s: after so much silence of ours the server ends the connection; 0 for never.
        backend_pid: the walsender's process.
    """

    start: SessionStart
    server_version: int
    wal_sender_timeout_s: float
    backend_pid: int


@dataclass(frozen=True, slots=True)
class _FoundSlot:
    """
    Our slot as the catalog shows it.

    Attributes:
        confirmed: its confirmed position.
        invalidation: why it is of no use any more; empty when it is.
    """

    confirmed: EndLsn
    invalidation: str


def quote_literal(text: str) -> str:
    """
    Quote a text for SQL and for replication commands, whose grammar has no `E'...'`; for servers with
    `standard_conforming_strings`.
    """
    assert "\0" not in text
    return "'" + text.replace("'", "''") + "'"


def start_command(names: Names) -> str:
    """
    Give the command that starts streaming, at the slot's own position.
    """
    # The option's value is a list of identifiers inside a literal.
    publications = quote_literal(quote_identifier(names.publication))
    return (
        f"START_REPLICATION SLOT {quote_identifier(names.slot)} LOGICAL 0/0 "
        f"(proto_version '1', publication_names {publications})"
    )


def introduce(names: Names, remake_reason: str = "") -> Dialogue:
    """
    Hold the conversation on a fresh connection; after it, `start_command` may be sent.

    Args:
        names: what is ours on the server.
        remake_reason: why the slot must be made anew whatever its state, in words; empty when it need not.

    Raises:
        MisconfiguredSourceError: only a person can mend what is wrong.
        SlotInUseError: another connection still holds the slot.
        SourceError: the server refused something else.
    """
    system_id, timeline, flushed, database = _one(_rows((yield Ask("IDENTIFY_SYSTEM"))), 4)
    version, wal_level, timeout_ms, pid = _one(
        _rows(
            (
                yield Ask(
                    "SELECT current_setting('server_version_num'), current_setting('wal_level'), "
                    "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'), "
                    "pg_catalog.pg_backend_pid()"
                )
            )
        ),
        4,
    )
    if _number(version) < SERVER_VERSION_MIN:
        raise MisconfiguredSourceError("Penstock requires Postgres 14 or newer.")
    if wal_level != "logical":
        raise wal_level_too_low(wal_level)
    settings = {**SESSION_SETTINGS, **_WAITING_SETTINGS}
    calls = ", ".join(
        f"pg_catalog.set_config({quote_literal(name)}, {quote_literal(value)}, false)"
        for name, value in settings.items()
    )
    _rows((yield Ask(f"SELECT {calls}")))
    yield from _lock(names.slot)
    slot = yield from _find_slot(names.slot, database)
    made_reason = yield from _publication(names, slot, _number(version))
    if made_reason:
        slot = None
    identity = yield from _slot(names, slot, made_reason or remake_reason, system_id, _number(timeline))
    identity = replace(identity, flushed=_position(flushed))
    options = {"proto_version": "1", "publication_names": names.publication, **SESSION_SETTINGS}
    return Introduction(SessionStart(identity, options), _number(version), _number(timeout_ms) / 1000, _number(pid))


def _lock(slot: str) -> Generator[Ask, Answer, None]:
    """
    Take the advisory lock of the slot, however long it takes.
    """
    command = Ask(
        f"SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtext({quote_literal(slot)}))",
        ReceiverPhase.WAITING_FOR_LOCK,
        may_wait=True,
    )
    while True:
        answer = yield command
        if isinstance(answer, ServerRefusal) and answer.sqlstate in {_QUERY_CANCELED, _LOCK_NOT_AVAILABLE}:
            continue
        _rows(answer)
        return


def _publication(names: Names, slot: _FoundSlot | None, version: int) -> Generator[Ask, Answer, str]:
    """
    See that the publication is there; if it was not, drop the slot and give the reason.
    """
    name = quote_identifier(names.publication)
    look = Ask(
        # All text in it is quoted.
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_catalog.pg_publication "  # noqa: S608
        f"WHERE pubname = {quote_literal(names.publication)}"
    )
    found = _rows((yield look))
    if found:
        _check_operations(names, found)
        return ""
    if slot is not None:
        yield from _drop_slot(names.slot)
    options = " WITH (publish_generated_columns = stored)" if version >= 180_000 else ""
    answer = yield Ask(f"CREATE PUBLICATION {name}{options}")
    if isinstance(answer, ServerRefusal):
        if answer.sqlstate == _INSUFFICIENT_PRIVILEGE:
            raise MisconfiguredSourceError(
                f"The publication {names.publication} does not exist and may not be created by us. "
                f"Run CREATE PUBLICATION {name} as a role that may, or GRANT CREATE ON DATABASE to ours.",
                sqlstate=answer.sqlstate,
            )
        if answer.sqlstate != _DUPLICATE_OBJECT:
            raise judge_refusal(answer, Stage.SET_UP)
        _check_operations(names, _rows((yield look)))
    return f"the publication {names.publication} was missing"


def _check_operations(names: Names, found: tuple[tuple[str | None, ...], ...]) -> None:
    """
    Insist that an existing publication tells everything that happens.
    """
    missing = [operation for operation, told in zip(_OPERATIONS, found[0], strict=True) if told != "t"] if found else []
    if missing:
        name = quote_identifier(names.publication)
        raise MisconfiguredSourceError(
            f"The publication {names.publication} leaves out {', '.join(missing)}. "
            f"Run ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')."
        )


def _find_slot(name: str, database: str) -> Generator[Ask, Answer, _FoundSlot | None]:
    """
    Look for the slot, and insist that it is ours.
    """
    # All text in it is quoted. Columns of newer servers are read through JSON.
    look = (
        "SELECT slot_type, plugin, database, confirmed_flush_lsn, wal_status, temporary, "  # noqa: S608
        "coalesce(pg_catalog.to_jsonb(s) ->> 'invalidation_reason', "
        "CASE WHEN pg_catalog.to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict with recovery' END) "
        f"FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = {quote_literal(name)}"
    )
    found = _rows((yield Ask(look)))
    if not found:
        return None
    kind, plugin, home, confirmed, wal_status, temporary, invalidation = _columns(found, 7)
    if kind != "logical" or plugin != "pgoutput" or home != database:
        raise MisconfiguredSourceError(
            f"The replication slot {name} belongs to somebody else (type {kind}, plugin {plugin}, "
            f"database {home}). Choose another name for ours, or drop it with "
            f"SELECT pg_drop_replication_slot({quote_literal(name)})."
        )
    if temporary == "t":
        raise SlotInUseError(f"Another connection holds {name} as a temporary slot.")
    if invalidation or wal_status == "lost":
        return _FoundSlot(ZERO_END, f"the slot was invalidated ({invalidation or 'its WAL was removed'})")
    if confirmed is None:
        raise SlotInUseError(f"Another connection is still creating the slot {name}.")
    return _FoundSlot(_position(confirmed), "")


def _slot(
    names: Names, slot: _FoundSlot | None, reason: str, system_id: str, timeline: int
) -> Generator[Ask, Answer, SlotIdentity]:
    """
    Take the slot that is there, or, if there is a reason or none is there, make one.
    """
    if slot is not None:
        reason = reason or slot.invalidation
        if not reason:
            return SlotIdentity(
                system_id, timeline, names.slot, is_new=False, consistent_point=None, confirmed=slot.confirmed
            )
        yield from _drop_slot(names.slot)
    temporary_word = "TEMPORARY " if names.is_slot_temporary else ""
    created = _rows(
        (
            yield Ask(
                f"CREATE_REPLICATION_SLOT {quote_identifier(names.slot)} {temporary_word}LOGICAL pgoutput "
                "NOEXPORT_SNAPSHOT",
                ReceiverPhase.CREATING_SLOT,
                may_wait=True,
            )
        )
    )
    point = _position(_columns(created, 4)[1])
    return SlotIdentity(
        system_id,
        timeline,
        names.slot,
        is_new=True,
        consistent_point=point,
        confirmed=point,
        reason=reason or "there was no slot of this name",
    )


def _drop_slot(slot: str) -> Generator[Ask, Answer, None]:
    """
    Drop the slot; that it is gone already is fine.
    """
    answer = yield Ask(f"DROP_REPLICATION_SLOT {quote_identifier(slot)}", ReceiverPhase.CREATING_SLOT)
    if isinstance(answer, ServerRefusal) and answer.sqlstate != "42704":
        raise judge_refusal(answer, Stage.SET_UP)


def _rows(answer: Answer) -> tuple[tuple[str | None, ...], ...]:
    """
    Insist on rows.
    """
    if isinstance(answer, ServerRefusal):
        raise judge_refusal(answer, Stage.SET_UP)
    return answer.rows


def _columns(rows: tuple[tuple[str | None, ...], ...], count: int) -> tuple[str | None, ...]:
    """
    Insist on one row of so many columns.
    """
    if len(rows) != 1 or len(rows[0]) != count:
        raise _nonsense()
    return rows[0]


def _one(rows: tuple[tuple[str | None, ...], ...], count: int) -> tuple[str, ...]:
    """
    Insist on one row of so many columns without NULL.
    """
    values = tuple(value for value in _columns(rows, count) if value is not None)
    if len(values) != count:
        raise _nonsense()
    return values


def _number(text: str) -> int:
    """
    Insist on a number.
    """
    if not text.isdecimal():
        raise _nonsense()
    return int(text)


def _position(text: str | None) -> EndLsn:
    """
    Insist on a position.
    """
    try:
        return EndLsn.parse(text or "")
    except DecodeError as cause:
        raise _nonsense() from cause


def _nonsense() -> SourceError:
    return MisconfiguredSourceError(
        "The server answers a replication command in a way that Postgres does not. Let DATABASE_URL lead to Postgres."
    )
