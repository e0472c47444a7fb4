"""
What the failures of a replication connection mean, and when to try again.

It turns an SQLSTATE, or libpq's text where there is none, into an error of ours with one sentence that names the fix.
libpq tells no SQLSTATE when connecting fails, so there the text decides; a text that nobody knows means a lost
connection, which is retried. Form: pure functions, and `Backoff` as a reducer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock.errors import (
    ConnectionLostError,
    MisconfiguredSourceError,
    PenstockError,
    SlotInUseError,
    SlotLostError,
    SourceError,
)

MESSAGE_CHARS_MAX: Final = 500
"""So much of the server's words is repeated in ours."""

BACKOFF_S_MIN: Final = 1.0
BACKOFF_S_MAX: Final = 10.0
SLOT_IN_USE_BACKOFF_S_MIN: Final = 0.2
SLOT_IN_USE_BACKOFF_S_MAX: Final = 1.0
HEALTHY_S: Final = 5.0
"""Streaming for so long makes the next delay the shortest one again."""


class Stage(Enum):
    """
    What was being done when it failed.
    """

    SET_UP = "setting up"
    START = "starting to stream"
    STREAM = "streaming"


@dataclass(frozen=True, slots=True)
class ServerRefusal:
    """
    An error as the server told it.

    Attributes:
        sqlstate: five characters; empty when libpq made the error.
        message: its first sentence.
        detail: what the server added, or empty.
    """

    sqlstate: str
    message: str
    detail: str = ""


_WAL_LEVEL: Final = (
    "Penstock requires wal_level >= logical. Run ALTER SYSTEM SET wal_level = 'logical' and restart Postgres."
)
_NO_REPLICATION: Final = (
    "The role in DATABASE_URL may not replicate. Run ALTER ROLE ... WITH REPLICATION as a superuser, "
    "or grant what your hosting service has instead."
)
_CREDENTIALS: Final = "Postgres does not accept the user or password in DATABASE_URL. Correct them."
_HBA: Final = (
    "Postgres does not let us in from this address, or not without TLS. Add a line for the role and database to "
    "pg_hba.conf, or set sslmode=require in DATABASE_URL."
)
_TLS_UNAVAILABLE: Final = (
    "The server does not offer TLS, but DATABASE_URL requires it. Turn it on there, or set sslmode=prefer or disable."
)
_CERTIFICATE: Final = (
    "The certificate of the server could not be verified. Check the CA file and that the host in DATABASE_URL is the "
    "name in the certificate."
)
_POOLER: Final = (
    "DATABASE_URL leads to a connection pooler, which does not pass replication on. "
    "Let it lead to Postgres itself, and DATABASE_POOLED_URL to the pooler."
)

# In order; the first that matches decides. `None` as the sentence: the words of the server are clear enough.
_CONNECT_PATTERNS: Final[tuple[tuple[re.Pattern[str], type[SourceError], str | None], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), error, sentence)
    for pattern, error, sentence in (
        (r"the database system is|too many clients|too many connections|remaining connection slots", ConnectionLostError, None),
        (r"max_wal_senders", ConnectionLostError, "All walsenders are taken. Raise max_wal_senders and restart Postgres."),
        (r"unsupported startup parameter", MisconfiguredSourceError, _POOLER),
        (r"password authentication failed|no password supplied|authentication failed for user", MisconfiguredSourceError, _CREDENTIALS),
        (r"role \".*\" does not exist|not permitted to log in|requires a password", MisconfiguredSourceError, _CREDENTIALS),
        (r"no pg_hba\.conf entry|pg_hba\.conf rejects|valid client certificate", MisconfiguredSourceError, _HBA),
        (r"database \".*\" does not exist", MisconfiguredSourceError, "The database in DATABASE_URL does not exist. Create it, or correct the name."),
        (r"replication role to start|permission denied to start WAL sender", MisconfiguredSourceError, _NO_REPLICATION),
        (r"does not support SSL, but SSL was required", MisconfiguredSourceError, _TLS_UNAVAILABLE),
        (r"certificate verify failed|server certificate|root certificate|certificate file|self.signed", MisconfiguredSourceError, _CERTIFICATE),
        (r"could not translate host name", MisconfiguredSourceError, "The host in DATABASE_URL is not known. Correct it, or mend the name service."),
    )
)  # fmt: skip

_SENTENCES: Final = {
    "28P01": (MisconfiguredSourceError, _CREDENTIALS),
    "28000": (MisconfiguredSourceError, _HBA),
    "3D000": (
        MisconfiguredSourceError,
        "The database in DATABASE_URL does not exist. Create it, or correct the name.",
    ),
    "53300": (ConnectionLostError, "Postgres has no connection left for us. Raise max_connections or max_wal_senders."),
    "53400": (
        ConnectionLostError,
        "All replication slots are taken. Raise max_replication_slots and restart Postgres, or drop one.",
    ),
    "57P01": (ConnectionLostError, "The server ended the connection."),
    "57P02": (ConnectionLostError, "The server ended the connection after a crash."),
    "57P03": (ConnectionLostError, "The server is starting up or shutting down."),
    "25006": (ConnectionLostError, "The server is a standby and takes no writes. Let DATABASE_URL lead to the primary."),
}  # fmt: skip


def judge_connect(text: str) -> SourceError:
    """
    Judge a connection that was not made, by libpq's text.
    """
    for pattern, error, sentence in _CONNECT_PATTERNS:
        if pattern.search(text):
            told = _shorten(text)
            return error(f"{sentence} (Postgres: {told})" if sentence else f"Postgres does not take us now: {told}")
    return ConnectionLostError(f"The connection to Postgres could not be made: {_shorten(text)}")


def judge_refusal(refusal: ServerRefusal, stage: Stage) -> SourceError:
    """
    Judge an error that the server told on a connection that was made.
    """
    sqlstate, told = refusal.sqlstate, _shorten(refusal.message)
    if sqlstate == "55006":
        return SlotInUseError(f"Another connection uses the replication slot: {told}", sqlstate=sqlstate)
    if "wal_level" in refusal.message:
        return MisconfiguredSourceError(_WAL_LEVEL, sqlstate=sqlstate)
    if sqlstate == "42501" and stage is not Stage.STREAM:
        return MisconfiguredSourceError(f"{_NO_REPLICATION} (Postgres: {told})", sqlstate=sqlstate)
    if sqlstate == "42704" and stage is Stage.START:
        return SlotLostError(f"The replication slot is gone: {told}", sqlstate=sqlstate)
    if sqlstate == "42704" and stage is Stage.STREAM:
        return SlotLostError(f"The publication was missing when a change was made: {told}", sqlstate=sqlstate)
    if sqlstate == "55000" and stage in {Stage.START, Stage.STREAM}:
        return SlotLostError(f"The server invalidated the replication slot: {told}", sqlstate=sqlstate)
    if sqlstate in _SENTENCES:
        error, sentence = _SENTENCES[sqlstate]
        return error(f"{sentence} (Postgres: {told})", sqlstate=sqlstate)
    if not sqlstate:
        return ConnectionLostError(f"The connection to Postgres was lost while {stage.value}: {told}")
    return ConnectionLostError(f"Postgres refused while {stage.value}: {told} ({sqlstate})", sqlstate=sqlstate)


def wal_level_too_low(wal_level: str) -> MisconfiguredSourceError:
    """
    Say that the server does not write what logical decoding needs.
    """
    return MisconfiguredSourceError(f"{_WAL_LEVEL} It is {wal_level!r} now.")


class Backoff:
    """
    How long to wait before connecting again: twice as long each time, within bounds.
    """

    __slots__ = ("_max_s", "_min_s", "_next_s", "_slot_next_s")

    def __init__(self, min_s: float = BACKOFF_S_MIN, max_s: float = BACKOFF_S_MAX) -> None:
        """
        Begin with the shortest delays.
        """
        assert 0 < min_s <= max_s
        self._min_s = min_s
        self._max_s = max_s
        self._next_s = min_s
        self._slot_next_s = min(SLOT_IN_USE_BACKOFF_S_MIN, max_s)

    def delay_s(self, error: PenstockError, streamed_s: float) -> float:
        """
        Give the delay after a connection that ended with an error.

        Args:
            error: why it ended. A slot in use is usually held by our own predecessor for a moment, hence short delays.
            streamed_s: how long it had streamed.
        """
        if streamed_s >= HEALTHY_S:
            self._next_s = self._min_s
        if isinstance(error, SlotInUseError):
            delay_s = self._slot_next_s
            self._slot_next_s = min(2 * delay_s, SLOT_IN_USE_BACKOFF_S_MAX, self._max_s)
            return delay_s
        self._slot_next_s = min(SLOT_IN_USE_BACKOFF_S_MIN, self._max_s)
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._max_s)
        return delay_s


def _shorten(text: str) -> str:
    """
    Put the server's words on one line of bounded length.
    """
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARS_MAX else line[:MESSAGE_CHARS_MAX] + "..."
